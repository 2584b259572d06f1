"""The last layer with its loss on the device: losses and gradients where the logits lie, a part of the rows at a time."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import pytest

import phalanx
from phalanx import nn
from tests.gpu.beside import DTYPES, beside, bits, close, dtype_of, fast, on_device, on_host, reference, wide

F = nn.functional
IGNORE = -100


@pytest.fixture(params=[True, False])
def whole(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, device: str) -> bool:
    """Whether rows of logits lie side by side, as where products are CuPy's, or begin at multiples of 64."""
    module = importlib.import_module("phalanx.core.kernels.cuda.linear_loss")
    if not request.param:
        monkeypatch.setattr(module, "matmul", None)
    return bool(request.param)


@pytest.fixture(params=[1 << 30, 1])
def parts(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, device: str) -> int:
    """All rows at once, and 128 at a time."""
    module = importlib.import_module("phalanx.core.kernels.cuda.linear_loss")
    monkeypatch.setattr(module, "CHUNK_BYTES", request.param)
    return int(request.param)


def inputs(rows: int, classes: int, width: int, dtype: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    random = np.random.default_rng(rows + classes)
    labels = random.integers(0, classes, rows)
    labels[::5] = IGNORE
    draw = random.standard_normal
    return draw((rows, width)).astype(dtype_of(dtype)), draw((classes, width)).astype(dtype_of(dtype)), labels


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("rows", "classes"), [(1, 1), (140, 10), (129, 501), (3, 9001)])
@pytest.mark.parametrize(("mean", "weighted"), [(True, False), (False, True), (True, True)])
def test_beside_the_reference(
    parts: int, whole: bool, rows: int, classes: int, mean: bool, weighted: bool, dtype: str
) -> None:
    x, weight, labels = inputs(rows, classes, 16, dtype)
    class_weight = np.random.default_rng(1).uniform(0.5, 2, classes).astype(np.float32) if weighted else None
    smoothing = 0.1 if weighted else 0.0
    arguments = (x, weight, labels, class_weight, IGNORE, smoothing, mean, (True, True))
    found = on_host(fast("linear_cross_entropy")(*on_device(arguments)))
    assert [each.dtype for each in found] == [np.float32, np.float32, x.dtype, x.dtype]
    expected = reference("linear_cross_entropy")(*wide(arguments))
    # logits and their gradient are rounded to the dtype on the way
    close(found[:2], expected[:2], ulps=512 if dtype == "float32" else 65536)
    close(found[2:], expected[2:], ulps=64 if dtype == "float32" else 16, absolute=2)
    again = on_host(fast("linear_cross_entropy")(*on_device(arguments)))
    assert bits(found) == bits(again)


def test_only_what_is_wanted(parts: int) -> None:
    x, weight, labels = on_device(inputs(200, 12, 8, "float32"))
    run = fast("linear_cross_entropy")
    whole = on_host(run(x, weight, labels, None, IGNORE, 0.0, True, (True, True)))
    for wanted in ((True, False), (False, True), (False, False)):
        found = on_host(run(x, weight, labels, None, IGNORE, 0.0, True, wanted))
        assert bits(found[:2]) == bits(whole[:2])
        assert [each is not None for each in found[2:]] == list(wanted)
        for a, b in zip(found[2:], whole[2:], strict=True):
            assert a is None or bits(a) == bits(b)


def test_nothing_and_only_ignored_labels(parts: int) -> None:
    x, weight, _ = inputs(6, 5, 4, "float32")
    for rows in (0, 6):
        ignored = np.full(rows, IGNORE)
        loss, total, dx, dw = beside(
            "linear_cross_entropy", x[:rows], weight, ignored, None, IGNORE, 0.0, True, (True, True)
        )
        assert float(loss) == float(total) == 0 and not dx.any() and not dw.any()


@pytest.mark.parametrize("dtype", DTYPES)
def test_scaled(device: str, dtype: str) -> None:
    x = np.random.default_rng(0).standard_normal((7, 11)).astype(dtype_of(dtype))
    for factor in (np.array(0.7, np.float32), np.array([1.5], np.float64)):
        close(on_host(fast("scaled")(*on_device((x, factor)))), x.astype(np.float64) * factor.reshape(()), ulps=1)
    slot = on_device(np.zeros_like(x))
    assert fast("scaled")(*on_device((x, np.array(2, np.float32))), out=slot) is slot
    assert bits(on_host(slot)) == bits(x * x.dtype.type(2))
    close(
        on_host(fast("scaled")(on_device(x).T, on_device(np.array(2, np.float32)))), x.T.astype(np.float64) * 2, ulps=1
    )


def trained(device: str, fused: bool, autocast: bool) -> tuple[Any, ...]:
    phalanx.manual_seed(0)
    hidden, head = nn.Linear(8, 16).to(device), nn.Linear(16, 50, bias=False).to(device)
    x, y = phalanx.randn(30, 8).to(device), phalanx.randint(0, 50, (30,)).to(device)
    with phalanx.autocast("cuda", dtype=phalanx.bfloat16, enabled=autocast):
        h = hidden(x)
        loss = F.linear_cross_entropy(h, head.weight, y) if fused else F.cross_entropy(head(h), y)
    (loss * 3).backward()
    return loss.item(), head.weight.grad.cpu().numpy(), hidden.weight.grad.cpu().numpy(), loss.dtype


@pytest.mark.parametrize("autocast", [False, True])
def test_it_is_a_linear_layer_and_a_cross_entropy(device: str, kernels: str, autocast: bool) -> None:
    found, expected = trained(device, True, autocast), trained(device, False, autocast)
    assert found[3] == expected[3] == np.float32
    tolerance = 2e-2 if autocast else 1e-5
    for a, b in zip(found[:3], expected[:3], strict=True):
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance * float(np.max(np.abs(b))))
