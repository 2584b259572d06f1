"""A Trainer whose model is on a GPU: data from the host are sent there, and what comes out is the CPU's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import phalanx
from phalanx import nn, optim
from phalanx.data import DataLoader, TensorDataset

X = np.random.default_rng(0).standard_normal((40, 8)).astype(np.float32)
Y = np.arange(40) % 3


def fitted(device: str, data: Any, **options: Any) -> tuple[dict[str, list[float]], dict[str, float], Any]:
    phalanx.init(shards=2, seed=1)
    model = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 3)).to(device)
    trainer = phalanx.Trainer(model, optim.SGD(model.parameters(), lr=0.1), nn.CrossEntropyLoss(), metrics=["accuracy"])
    history = trainer.fit(data, (X, Y), epochs=2, verbose=0, **options)
    found = history.history, trainer.evaluate((X, Y)), trainer.predict(X)
    phalanx.shutdown()
    return found


@pytest.mark.parametrize("kind", ["arrays", "loader", "loader that sends", "class weights", "micro-batches"])
def test_as_on_the_cpu(device: str, kind: str) -> None:
    def run(where: str) -> Any:
        if "loader" in kind:
            to = where if kind == "loader that sends" else None
            return fitted(where, DataLoader(TensorDataset(X, Y), 8, shuffle=True, device=to))
        options: dict[str, Any] = {"batch_size": 8}
        if kind == "class weights":
            options["class_weight"] = {0: 1.0, 1: 2.0, 2: 0.5}
        if kind == "micro-batches":
            options["accumulate"] = 2
        return fitted(where, (X, Y), **options)

    (there, end, rows), (here, expected, there_rows) = run(device), run("cpu")
    assert there.keys() == here.keys()
    for name, values in there.items():
        assert values == pytest.approx(here[name], rel=1e-4, abs=1e-6), name
    assert end == pytest.approx(expected, rel=1e-4)
    assert np.allclose(rows, there_rows, atol=1e-5)
