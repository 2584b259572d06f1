"""Activations, binary cross-entropy and dropout on the device."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import phalanx
from phalanx.core import rng
from tests.gpu.beside import DTYPES, beside, bits, close, dtype_of, fast, on_device, on_host, reference

F = phalanx.nn.functional
OPTIONS: dict[str, tuple[Any, ...]] = {
    "relu": (), "sigmoid": (), "tanh": (), "silu": (), "softplus": (2.0, 5.0), "leaky_relu": (0.1,), "elu": (0.7,),
    "hardtanh": (-1.5, 0.5), "hardswish": (), "log_sigmoid": (), "mish": (), "gelu": ("none",),
}  # fmt: skip
CASES = [*OPTIONS.items(), ("gelu", ("tanh",))]
SPECIAL = [np.nan, np.inf, -np.inf, 0.0, -0.0, 3.0, -3.0, 1e-30, 80.0, -80.0, -1.5, 0.5]


def inputs(count: int, dtype: str, seed: int = 0) -> np.ndarray:
    x = np.random.default_rng(seed).standard_normal(count) * 4
    x[: len(SPECIAL)] = SPECIAL[:count]
    return x.astype(dtype_of(dtype))


def saved_of(name: str, options: tuple[Any, ...], x: np.ndarray) -> np.ndarray:
    """What the op gives to its backward."""
    if name not in ("relu", "sigmoid", "tanh"):
        return x
    with np.errstate(all="ignore"):
        return np.asarray(reference(f"{name}_forward")(x.astype(np.float64), *options).astype(x.dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("name", "options"), CASES)
@pytest.mark.parametrize("count", [0, 1, 7, 8, 1000, 4099])
def test_activations(device: str, name: str, options: tuple[Any, ...], count: int, dtype: str) -> None:
    x = inputs(count, dtype)
    y = beside(f"{name}_forward", x, *options, ulps=16)
    assert y.dtype == x.dtype
    g = np.random.default_rng(1).standard_normal(count).astype(x.dtype)
    beside(f"{name}_backward", g, saved_of(name, options, x), *options, ulps=24)


@pytest.mark.parametrize(("name", "options"), CASES)
def test_far_out_nothing_overflows(device: str, name: str, options: tuple[Any, ...]) -> None:
    x = np.array([-1e4, 1e4, -200, 200, -90, 90], np.float32)
    beside(f"{name}_forward", x, *options, ulps=16)
    beside(f"{name}_backward", np.ones_like(x), saved_of(name, options, x), *options, ulps=16)


def test_what_lies_otherwise(device: str) -> None:
    """Images with channels last keep their layout; views with gaps, that start anywhere, and gradients that lie otherwise are served."""
    images = np.random.default_rng(0).standard_normal((2, 5, 4, 3)).astype(np.float32)
    x = on_device(images.transpose(0, 3, 1, 2))
    y = fast("relu_forward")(x)
    assert y.strides == x.strides and not y.flags.c_contiguous
    close(on_host(y), np.maximum(images.transpose(0, 3, 1, 2), 0))
    gradient = np.random.default_rng(1).standard_normal(x.shape).astype(np.float32)
    dx = fast("relu_backward")(on_device(gradient), y)
    assert dx.strides == x.strides
    close(on_host(dx), gradient * (on_host(y) > 0))
    many = inputs(999, "float32")
    whole = on_device(many)
    for view, expected in ((whole[1:], many[1:]), (whole[::2], many[::2]), (whole[3:4], many[3:4])):
        close(on_host(fast("tanh_forward")(view)), np.tanh(expected.astype(np.float64)))
    close(
        on_host(fast("relu_backward")(on_device(np.ones(1, np.float32))[0], on_device(np.ones(1, np.float32))[0])), 1.0
    )


def test_other_types_go_to_the_reference(device: str) -> None:
    beside("relu_forward", np.array([-1, 2]))
    beside("gelu_forward", np.linspace(-3, 3, 7), "none")
    beside("sigmoid_backward", np.ones(3, np.float32), np.full(3, 0.5))
    beside("erf", np.linspace(-3, 3, 7).astype(np.float64))


@pytest.mark.parametrize("dtype", DTYPES)
def test_erf(device: str, dtype: str) -> None:
    beside("erf", inputs(100, dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("weight", [None, "one", "each", "last"])
@pytest.mark.parametrize("alone", [False, True])
def test_binary_cross_entropy_of_logits(device: str, dtype: str, weight: str | None, alone: bool) -> None:
    random = np.random.default_rng(0)
    x = (random.standard_normal((5, 7)) * 5).astype(dtype_of(dtype))
    target = random.uniform(0, 1, (5, 7)).astype(x.dtype)
    shapes = {"one": (), "each": (5, 7), "last": (7,)}
    p = None if weight is None else np.asarray(random.uniform(0.5, 3, shapes[weight]).astype(x.dtype))
    beside("bce_logits_forward", x, target, p, ulps=16)
    g = np.asarray(random.standard_normal(() if alone else (5, 7)).astype(x.dtype))
    beside("bce_logits_backward", g, x, target, p, ulps=16)


# ---- random words and dropout ----------------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None, derandomize=True)
@given(count=st.integers(0, 300), first=st.integers(0, 9), seed=st.integers(0, 2**63), step=st.integers(0, 2**31))
def test_words_are_those_of_the_host(count: int, first: int, seed: int, step: int) -> None:
    key = rng.Key(seed, 1, step, 3, 2)
    found = fast("philox_bits")(count, *key._counter(), first * 4)
    assert bits(on_host(found)) == bits(key.bits(count, first=first * 4))
    for threshold in (0, 2**31, 2**32 - 1):
        found = fast("philox_mask")(count, *key._counter(), threshold)
        assert bits(on_host(found)) == bits(key.mask(count, threshold))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(0,), (1,), (3, 5), (7, 11, 13), (4096,)])
def test_dropout_applies_the_mask_of_the_host(device: str, shape: tuple[int, ...], dtype: str) -> None:
    x = np.random.default_rng(0).standard_normal(shape).astype(dtype_of(dtype))
    draw = np.array([1, 2, 3, 4, 5, round(0.3 * 2**32)], np.uint32)
    keep = rng.Key(0, 1, 2, 3, 4)  # any: the mask is asked of the words below
    assert keep.step == 2
    mask = reference("philox_mask")(x.size, (1, 2), (3, 4, 5), int(draw[5])).reshape(shape)
    expected = np.where(mask, x.astype(np.float64) / 0.7, 0)
    kept = fast("keep_draw")(draw)
    found = on_host(fast("dropout_draw")(on_device(x), kept, 1 / 0.7))
    close(found, expected, ulps=1)
    close(on_host(reference("dropout_draw")(on_device(x), kept, 1 / 0.7)), expected, ulps=2)
    close(on_host(fast("dropout_apply")(on_device(x), on_device(mask), 1 / 0.7)), expected, ulps=1)


def test_dropout_of_views(device: str) -> None:
    x = np.arange(40, dtype=np.float32)
    draw = fast("keep_draw")(np.array([1, 2, 3, 4, 5, 2**31], np.uint32))
    mask = reference("philox_mask")(39, (1, 2), (3, 4, 5), 2**31)
    close(on_host(fast("dropout_draw")(on_device(x)[1:], draw, 2.0)), x[1:] * mask * 2)
    turned = on_device(x.reshape(5, 8)).T
    mask = reference("philox_mask")(40, (1, 2), (3, 4, 5), 2**31).reshape(8, 5)
    close(on_host(fast("dropout_draw")(turned, draw, 2.0)), x.reshape(5, 8).T * mask * 2)
    close(on_host(fast("dropout_apply")(turned, on_device(mask), 2.0)), x.reshape(5, 8).T * mask * 2)
    channels = np.array([True, False, True, True, False]).reshape(5, 1)
    close(
        on_host(fast("dropout_apply")(on_device(x.reshape(5, 8)), on_device(channels), 2.0)),
        x.reshape(5, 8) * channels * 2,
    )


# ---- layers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float16", "float64"])
@pytest.mark.parametrize("p", [0.3, 1.0])
@pytest.mark.parametrize("name", ["dropout", "dropout1d", "alpha_dropout", "feature_alpha_dropout"])
def test_layers_drop_what_they_drop_on_the_cpu(device: str, kernels: str, name: str, p: float, dtype: str) -> None:
    def dropped(place: str) -> tuple[np.ndarray, np.ndarray]:
        phalanx.manual_seed(3)
        x = (phalanx.arange(60).reshape(3, 4, 5) + 1.0).to(place, dtype_of(dtype)).requires_grad_()
        y = [getattr(F, name)(x, p, training=True) for _ in range(2)]
        (y[0] * 2 + y[1]).sum().backward()
        return np.stack([each.detach().cpu().numpy() for each in y]), x.grad.cpu().numpy()

    (y, dx), (expected, slope) = dropped(device), dropped("cpu")
    assert y.dtype == expected.dtype and (p == 1.0 or (y[0] != y[1]).any())
    np.testing.assert_allclose(y, expected, rtol=2e-3 if dtype == "float16" else 1e-6)
    np.testing.assert_allclose(dx, slope, rtol=2e-3 if dtype == "float16" else 1e-6)


def test_no_mask_is_in_memory(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    draws = importlib.import_module("phalanx.core.kernels.cuda.draws")
    table = importlib.import_module("phalanx.core.kernels.table").table("cuda")
    assert table["philox_mask"] is draws.philox_mask
    for name in ("philox_mask", "dropout_apply"):
        monkeypatch.setitem(table, name, None)
    x = phalanx.ones(4, 5, device=device, requires_grad=True)
    y = F.dropout(x, 0.5)
    y.sum().backward()
    assert bits(x.grad.cpu().numpy()) == bits(y.detach().cpu().numpy())
