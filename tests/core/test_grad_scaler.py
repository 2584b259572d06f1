"""GradScaler: PyTorch's decisions step by step, exact gradients, clipping, several optimizers, replays, saved state."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

import phalanx
from phalanx import nn, optim
from phalanx.amp import GradScaler
from phalanx.core.errors import RangeError, StateError
from phalanx.core.tensor import Tensor

OPTIONS = {"init_scale": 2.0**10, "growth_interval": 3}
STEPS = [0, 0, 0, math.inf, 0, 0, math.nan, -math.inf, 0, 0, 0, 0]
"""What is added to a gradient in each step."""


def weight() -> nn.Parameter:
    return nn.Parameter(phalanx.tensor([1.0, -2.0, 3.0]))


def run(lib: Any, scaler: Any, parameter: Any, optimizer: Any) -> list[tuple[float, list[float]]]:
    """(scale, weights) after each step; ``lib`` is phalanx or torch."""
    found = []
    for extra in STEPS:
        optimizer.zero_grad()
        scaler.scale(
            (parameter * parameter).sum() * 0.5 + (parameter[:1] * extra if extra else parameter[:1] * 0.0).sum()
        ).backward()
        scaler.step(optimizer)
        scaler.update()
        found.append((scaler.get_scale(), parameter.detach().tolist()))
    return found


@pytest.mark.torch
def test_the_same_steps_as_torch() -> None:
    torch = pytest.importorskip("torch")
    mine = weight()
    theirs = torch.nn.Parameter(torch.tensor([1.0, -2.0, 3.0]))
    ours = run(phalanx, GradScaler("cpu", **OPTIONS), mine, optim.SGD([mine], lr=0.125))
    peers = run(torch, torch.amp.GradScaler("cpu", **OPTIONS), theirs, torch.optim.SGD([theirs], lr=0.125))
    assert ours == peers
    assert [scale for scale, _ in ours] == [1024, 1024, 2048, 1024, 1024, 1024, 512, 256, 256, 256, 512, 512]


def test_scaling_changes_no_bit() -> None:
    found = []
    for enabled in (False, True):
        phalanx.manual_seed(0)
        model = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 4))
        optimizer, scaler = optim.AdamW(model.parameters(), lr=0.01), GradScaler("cpu", enabled=enabled)
        x = phalanx.randn(32, 8)
        for _ in range(5):
            loss = nn.functional.cross_entropy(model(x), phalanx.arange(32) % 4)
            optimizer.zero_grad()
            scaled = scaler.scale(loss)
            assert scaled.weight == loss.weight == 32
            scaled.backward()
            scaler.unscale_(optimizer)
            norm = nn.utils.clip_grad_norm_(model.parameters(), 0.5)
            scaler.step(optimizer)
            scaler.update()
        found.append([norm.item(), *(p.array.tobytes() for p in model.parameters())])
    assert found[0] == found[1]


def test_small_gradients_survive_float16() -> None:
    """What is below float16's smallest number without a scale."""
    x = phalanx.tensor([[1e-4]])
    found = []
    for scaler in (GradScaler("cpu", enabled=False), GradScaler("cpu")):
        layer = nn.Linear(1, 1, bias=False)
        layer.weight.data.fill_(1.0)
        optimizer = optim.SGD(layer.parameters(), lr=1.0)
        with phalanx.autocast("cpu", dtype=phalanx.float16):
            y = layer(x)
        scaler.scale(y.float().sum() * 1e-8).backward()
        scaler.unscale_(optimizer)
        found.append(layer.weight.grad.item())
    assert found[0] == 0.0 and found[1] == pytest.approx(1e-12, rel=1e-3)


def test_two_optimizers_decide_alone_and_share_the_scale() -> None:
    a, b = weight(), weight()
    first, second = optim.SGD([a], lr=0.5), optim.SGD([b], lr=0.5)
    scaler = GradScaler("cpu", **OPTIONS)
    scaler.scale([a.sum(), (b * math.inf).sum()])[0].backward()
    scaler.scale((b * math.inf).sum()).backward()
    for optimizer in (first, second):
        scaler.step(optimizer)
    assert scaler.found_inf(second) and not scaler.found_inf(first)
    scaler.update()
    assert a.tolist() == [0.5, -2.5, 2.5] and b.tolist() == [1.0, -2.0, 3.0] and scaler.get_scale() == 512.0


def test_parts_of_a_store_and_gradients_outside() -> None:
    """Frozen neighbours, parameters without gradient, gradients that somebody assigned."""
    p = [nn.Parameter(phalanx.full((n,), float(n))) for n in (3, 70, 5, 2)]
    optimizer = optim.SGD(p, lr=1.0)
    scaler = GradScaler("cpu", init_scale=4.0)
    scaler.scale(p[0].sum() + p[2].sum() + p[3].sum()).backward()
    p[3].grad = Tensor(np.full(2, 8.0, np.float32))
    scaler.step(optimizer)
    assert p[0].tolist() == [2.0] * 3 and p[1].tolist() == [70.0] * 70 and p[2].tolist() == [4.0] * 5
    assert p[3].tolist() == [0.0, 0.0]


def test_a_replayed_step_follows_the_scale() -> None:
    found = []
    for capture in (lambda step: step, phalanx.capture):
        p = weight()
        optimizer, scaler = optim.SGD([p], lr=0.125), GradScaler("cpu", **OPTIONS)

        def one(extra: Any, p: Any = p, optimizer: Any = optimizer, scaler: Any = scaler) -> Any:
            optimizer.zero_grad()
            scaler.scale((p * p).sum() * 0.5 + (p[:1] * extra).sum()).backward()
            scaler.step(optimizer)
            scaler.update()
            return p.sum().detach()

        step = capture(one)
        rows = []
        for extra in STEPS:
            step(phalanx.tensor([float(extra)]))
            rows.append((scaler.get_scale(), p.tolist()))
        found.append(rows)
    assert found[0] == found[1]
    assert step.replays == len(STEPS) - 2, step.why


def test_state() -> None:
    p = weight()
    scaler = GradScaler("cpu", **OPTIONS)
    run(phalanx, scaler, p, optim.SGD([p], lr=0.1))
    state = scaler.state_dict()
    assert state == {
        "scale": 512.0,
        "growth_factor": 2.0,
        "backoff_factor": 0.5,
        "growth_interval": 3,
        "_growth_tracker": 1,
    }
    other = GradScaler("cpu")
    other.load_state_dict(state)
    assert other.state_dict() == state
    assert GradScaler("cpu", enabled=False).state_dict() == {} and GradScaler("cpu", enabled=False).get_scale() == 1.0
    with pytest.raises(StateError, match="scale, growth_factor"):
        other.load_state_dict({})
    other.update(new_scale=64.0)
    assert other.scale(phalanx.ones(2)).tolist() == [64.0, 64.0]


def test_order_of_calls() -> None:
    p = weight()
    optimizer, scaler = optim.SGD([p], lr=0.1), GradScaler("cpu")
    with pytest.raises(StateError, match="update\\(\\) without gradients"):
        scaler.update()
    scaler.scale(p.sum()).backward()
    scaler.unscale_(optimizer)
    with pytest.raises(StateError, match="unscaled already"):
        scaler.unscale_(optimizer)
    scaler.step(optimizer)
    with pytest.raises(StateError, match="call update\\(\\) after each step"):
        scaler.step(optimizer)
    with pytest.raises(TypeError, match="expects Tensors, or lists or tuples of them, got float"):
        scaler.scale(1.0)


@pytest.mark.parametrize("options", [{"growth_factor": 1.0}, {"backoff_factor": 1.0}, {"init_scale": 0.0}])
def test_ranges(options: dict[str, float]) -> None:
    with pytest.raises(RangeError, match=next(iter(options))):
        GradScaler("cpu", **options)
