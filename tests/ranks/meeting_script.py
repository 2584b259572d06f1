"""Trains with SyncBatchNorm over eight shards, evaluates and predicts; what came of it goes into a ledger and a file of results.

meeting_script.py FOLDER
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

import phalanx
from phalanx import metrics, nn, optim
from phalanx.data import DataLoader
from tests.ranks.test_data_parallel import CLASSES, FEATURES, data


def main(folder: Path) -> None:
    phalanx.init(shards=8, seed=5)
    model = phalanx.DataParallel(
        nn.Sequential(
            nn.Linear(FEATURES, 40), nn.SyncBatchNorm(40), nn.ReLU(), nn.Dropout(0.2),
            nn.Linear(40, 40), nn.SyncBatchNorm(40), nn.Linear(40, CLASSES),
        )
    )  # fmt: skip
    optimizer = optim.AdamW(model.parameters(), lr=0.01)
    loader = DataLoader(data(), batch_size=20, shuffle=True)
    ledger = phalanx.Ledger(folder / "ledger", model, optimizer)
    criterion = nn.CrossEntropyLoss()
    results: list[Any] = []

    def learn(x: Any, y: Any) -> None:
        criterion(model(x), y).backward()

    for _ in range(2):
        for step in loader.steps():
            optimizer.zero_grad()
            phalanx.run_shards(learn, step)
            optimizer.step()
            ledger.record(loader.step)
        measured = ["accuracy", metrics.F1("macro"), metrics.AUC(), metrics.Perplexity(), metrics.ConfusionMatrix()]
        found = phalanx.evaluate(model, data(), measured, loss=criterion, batch_size=7)
        rows = phalanx.predict(model, data(), batch_size=7)
        results.append(
            [{name: np.asarray(value).tobytes().hex() for name, value in found.items()}, rows.tobytes().hex()]
        )
    if phalanx.rank() == phalanx.size() - 1:
        (folder / "results").write_text(json.dumps(results))


main(Path(sys.argv[1]))
