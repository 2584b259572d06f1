"""Activation checkpointing in a DataParallel: the bits of the plain model, on any number of ranks, also with overlap."""

from __future__ import annotations

import pytest

import phalanx
from phalanx import nn, optim
from phalanx.data import DataLoader
from phalanx.utils.checkpoint import checkpoint
from tests.ranks.test_data_parallel import data, digest, net, on_ranks


class Recomputing(nn.Module):
    """The net, in two parts of which the first is computed again in backward."""

    def __init__(self, recompute: bool) -> None:
        super().__init__()
        self.layers = net()
        self.recompute = recompute

    def forward(self, x):
        hidden = checkpoint(self.layers[:4], x) if self.recompute else self.layers[:4](x)
        return self.layers[4:](hidden)


def train(recompute: bool, **options):
    model = phalanx.DataParallel(Recomputing(recompute), bucket_bytes=256, **options)
    optimizer = optim.Adam(model.parameters(), lr=0.01)
    criterion = nn.CrossEntropyLoss()
    for _ in range(2):
        for step in DataLoader(data(), batch_size=12, shuffle=True).steps():
            optimizer.zero_grad()
            for x, y in step:
                criterion(model(x), y).backward()
            optimizer.step()
    return digest(model)


WAYS = [
    (1, {}),
    (2, {"overlap": True}),
    (3, {"overlap": False}),
    (2, {"shard": "optimizer"}),
    (2, {"shard": "gradients"}),
]


@pytest.mark.parametrize("shards", [3, 8])
def test_equal_bits_with_and_without(shards):
    (expected,) = on_ranks(1, shards, lambda: train(recompute=False))
    for size, options in WAYS:
        for got in on_ranks(size, shards, lambda options=options: train(recompute=True, **options)):
            assert got == expected, f"{size} ranks, {options}"
