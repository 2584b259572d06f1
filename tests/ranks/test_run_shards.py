"""run_shards at random: whatever the numbers of shards, ranks and samples, the bits are those of a single process."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest

import phalanx
from phalanx import nn, optim
from phalanx.core import rng
from phalanx.data import DataLoader, TensorDataset
from tests.ranks.test_data_parallel import digest, on_ranks


class Net(nn.Module):
    """Layers that meet, some of them twice in a forward, among layers that do not."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(6, 6) for _ in range(depth))
        self.norms = nn.ModuleList(nn.SyncBatchNorm(6) for _ in range(depth))
        self.last = nn.BatchNorm1d(6)

    def forward(self, x: Any) -> Any:
        for layer, norm in zip(self.layers, self.norms, strict=True):
            x = nn.functional.dropout(norm(layer(norm(x))).tanh(), 0.2)
        return self.last(x)


def train(seed: int) -> Any:
    choose = random.Random(seed)
    samples, batch, depth = choose.randint(5, 40), choose.randint(3, 17), choose.randint(1, 3)
    passes, gather = choose.randint(1, 2), choose.random() < 0.5
    numbers = np.random.default_rng(seed)
    loader = DataLoader(
        TensorDataset(numbers.normal(size=(samples, 6)).astype(np.float32), numbers.integers(0, 6, samples)),
        batch_size=batch, shuffle=True,
    )  # fmt: skip
    model = phalanx.DataParallel(Net(depth), bucket_bytes=choose.choice([64, 4096]), overlap=choose.random() < 0.7)
    optimizer = optim.AdamW(model.parameters(), lr=0.01)
    drawn = []

    def learn(x: Any, y: Any) -> int:
        for _ in range(passes):
            out = model(x)
            if gather:
                out = out + phalanx.gather_over_shards(out).mean(dim=0)
            (nn.functional.cross_entropy(out, y) / passes).backward()
        drawn.append((rng.scope(), phalanx.rand(1).item()))
        return rng.scope()[1]

    while loader.step < 4:
        for step in loader.steps():
            optimizer.zero_grad()
            found = phalanx.run_shards(learn, step)
            assert found == [s for s in range(*model.group.ranges[model.group.rank]) if step.sizes[s]]
            optimizer.step()
    return digest(model), drawn


@pytest.mark.parametrize("seed", range(6))
def test_bits_of_a_single_process(seed: int) -> None:
    shards = random.Random(seed).randint(2, 9)
    expected, drawn = on_ranks(1, shards, lambda: train(seed))[0]
    for size in {2 + seed % 3, 5 - seed % 2}:
        found = on_ranks(size, shards, lambda: train(seed))
        for bits, _ in found:
            assert bits == expected
        assert sorted(pair for _, own in found for pair in own) == sorted(drawn)  # the same numbers in the same shards


def test_the_position_moves_on_as_in_the_loop() -> None:
    """What a checkpoint in the middle of an epoch holds; a step's shards may be run more than once."""

    def positions(together: bool) -> list[Any]:
        x = np.arange(20, dtype=np.float32).reshape(10, 2)
        loader, seen = DataLoader(TensorDataset(x), batch_size=4, shuffle=True, seed=3), list[Any]()
        for step in loader.steps():
            for _ in range(2):
                rows = []
                if together:
                    phalanx.run_shards(lambda x, rows=rows: rows.append(x.tolist()), step)
                else:
                    for (x,) in step:
                        rows.append(x.tolist())
                seen.append((rows, loader.state_dict()))
        return seen

    for size in (1, 2):
        assert on_ranks(size, 4, lambda: positions(True)) == on_ranks(size, 4, lambda: positions(False))
