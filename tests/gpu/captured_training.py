"""Small models that train on the device with captured steps, and what is compared."""

from __future__ import annotations

import numpy as np
import pytest

import phalanx
from phalanx import nn, optim
from phalanx.core.backend import to_host
from tests.core.test_capture import MODELS

F = nn.functional


mlp = MODELS["mlp"][0]


def batches(shape, count, size=8, seed=3):
    rng = np.random.default_rng(seed)
    for _ in range(count):
        x = rng.integers(0, 11, (size, 5)) if shape is None else rng.standard_normal((size, *shape)).astype(np.float32)
        yield phalanx.tensor(x).cuda(), phalanx.tensor(rng.integers(0, 4, size)).cuda()


def plain_step(model, optimizer):
    def step(x, y):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        return loss

    return step


def host(value):
    """The bytes of a tensor, an array or a number."""
    return np.asarray(to_host(getattr(value, "array", value))).tobytes()


def train(make, capture, count, make_step=plain_step, optimizer_of=None):
    """All that training leaves, as bytes, and the step."""
    build, shape = make
    phalanx.manual_seed(1)
    model = build().cuda()
    optimizer = optimizer_of(model) if optimizer_of else optim.Adam(model.parameters(), lr=0.01)
    step = make_step(model, optimizer)
    step = phalanx.capture(step) if capture else step
    losses = [step(x, y) for x, y in batches(shape, count)]
    left = {name: host(tensor) for name, tensor in model.state_dict().items()}
    state = optimizer.state_dict()["state"]
    left |= {f"{k} {n}": host(v) for k in state for n, v in state[k].items()}
    grads = [None if p.grad is None else host(p.grad) for p in model.parameters()]
    return ([(loss.item(), loss.weight) for loss in losses], left, grads, phalanx.rand(2).tolist()), step


def compare(make, count=12, make_step=plain_step, graphs=None, **options):
    """Captured and eager training leave the same; returns the captured step."""
    expected, _ = train(make, False, count, make_step, **options)
    got, step = train(make, True, count, make_step, **options)
    for a, b in zip(got, expected, strict=True):
        assert a == b
    assert step.graphs == (count - 2 if graphs is None else graphs) and step.why is None, step.why
    return step


def fails(reason, count=6):
    """A check of a step that is replayed without graphs, and says why."""

    def check(make, make_step, **options):
        expected, _ = train(make, False, count, make_step, **options)
        with pytest.warns(UserWarning, match="without CUDA graphs"):
            got, step = train(make, True, count, make_step, **options)
        assert got == expected
        assert step.graphs == 0 and step.replays == count - 2 and reason in step.why

    return check


def small():
    return (lambda: nn.Sequential(nn.Linear(12, 8), nn.Tanh(), nn.Linear(8, 4))), (12,)
