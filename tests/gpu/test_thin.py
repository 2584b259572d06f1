"""A small network trains on the device as on the CPU."""

from __future__ import annotations

import numpy as np

import phalanx
from phalanx import nn, optim


def _losses(device: str, steps: int = 5) -> list[float]:
    phalanx.manual_seed(3)
    model = nn.Sequential(nn.Linear(20, 32), nn.ReLU(), nn.Linear(32, 5)).to(device)
    optimizer = optim.AdamW(model.parameters(), lr=1e-2)
    draw = np.random.default_rng(0)
    x = phalanx.Tensor(draw.standard_normal((16, 20), np.float32)).to(device)
    y = phalanx.Tensor(draw.integers(0, 5, 16)).to(device)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def test_a_network_trains_as_on_the_cpu(device: str, kernels: str) -> None:
    assert np.allclose(_losses(device), _losses("cpu"), rtol=1e-5, atol=1e-5)
