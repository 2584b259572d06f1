"""Softmax and the losses over classes on the device: rows of any length, in registers and beyond, packed and not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.gpu.beside import DTYPES, as_tuple, beside, bits, close, dtype_of, fast, on_device, on_host, reference

IGNORE = -100
SHAPES = [(1, 1), (3, 7), (9, 8), (2, 33), (17, 64), (2, 1000), (3, 1024), (2, 1600), (1, 9000), (1, 33000), (1, 16387)]
"""Rows that a warp holds, that a block holds, and that nobody holds, of each dtype; whose elements fill packs and do not."""


def draw(shape: tuple[int, ...], dtype: str, seed: int = 0) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal(shape) * 3).astype(dtype_of(dtype))


def labels_of(rows: int, classes: int, seed: int = 1) -> np.ndarray:
    random = np.random.default_rng(seed)
    labels = random.integers(0, classes, rows)
    labels[:: random.integers(2, 5)] = IGNORE
    return labels


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
def test_softmax(device: str, name: str, shape: tuple[int, int], dtype: str) -> None:
    x, g = draw(shape, dtype), draw(shape, dtype, 5)
    y = beside(f"{name}_forward", x, -1)
    assert y.dtype == x.dtype
    beside(f"{name}_backward", g, y, 1, ulps=32)


def test_softmax_of_odd_inputs(device: str) -> None:
    """Empty, of another axis, of one dimension, not contiguous, of float64."""
    for x in (
        np.empty((0, 5), np.float32),
        np.empty((5, 0), np.float32),
        draw((7,), "float32"),
        draw((4, 6), "float32").T,
    ):
        beside("softmax_forward", x, -1)
        beside("log_softmax_forward", x, -1)
    beside("softmax_forward", draw((3, 4, 5), "float32"), 1)
    beside("softmax_backward", draw((3, 4, 5), "float32"), draw((3, 4, 5), "float32"), 0)
    beside("softmax_forward", np.random.default_rng(0).standard_normal((3, 4)), -1)


@pytest.mark.parametrize("columns", [5, 32, 4096, 40000])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_makes_a_row_nan_and_no_other(device: str, columns: int, bad: float) -> None:
    x = draw((3, columns), "float32")
    x[1, columns // 2] = bad
    labels = np.array([0, 1, 2])
    for name in ("softmax_forward", "log_softmax_forward"):
        y = beside(name, x, -1)
        assert np.isnan(y[1]).all() == (bad != -np.inf) and not np.isnan(y[[0, 2]]).any()
    x[1] = -np.inf
    assert np.isnan(beside("softmax_forward", x, -1)[1]).all()
    losses, *_ = beside("cross_entropy_forward", x, labels, None, IGNORE, 0.0)
    assert np.isnan(losses[1])


@pytest.mark.parametrize("columns", [40, 20000])
def test_a_row_that_begins_with_minus_infinity(device: str, columns: int) -> None:
    """As masked scores do: a thread may see nothing else."""
    x = draw((2, columns), "bfloat16")
    x[:, : columns // 2] = -np.inf
    assert not np.isnan(beside("softmax_forward", x, -1).astype(np.float32)).any()


def losses_and_gradient(
    x: np.ndarray, labels: np.ndarray, weight: Any, smoothing: float, each: bool
) -> tuple[Any, ...]:
    """Both ways on the device beside the reference."""
    forward = beside("cross_entropy_forward", x, labels, weight, IGNORE, smoothing, ulps=16)
    row_gradient = np.linspace(0.5, 2, len(x)).astype(np.float32) if each else np.array(0.25, np.float32)
    arguments = (row_gradient, x, *forward[2:], labels, weight, IGNORE, smoothing)
    found = on_host(fast("cross_entropy_backward")(*on_device(arguments)))
    assert found.dtype == x.dtype
    wide = tuple(a.astype(np.float64) if isinstance(a, np.ndarray) and a is not labels else a for a in arguments)
    close(found, reference("cross_entropy_backward")(*wide), ulps=16)
    return (*forward, found)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_cross_entropy(device: str, shape: tuple[int, int], dtype: str) -> None:
    x, labels = draw(shape, dtype), labels_of(*shape)
    found = losses_and_gradient(x, labels, None, 0.0, each=shape[0] % 2 == 0)
    assert bits(found) == bits(losses_and_gradient(x, labels, None, 0.0, each=shape[0] % 2 == 0))
    beside("row_sums", *found[:2])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(7, 10), (4, 1000), (2, 9001)])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weighted", [False, True])
def test_cross_entropy_with_weights_and_smoothing(
    device: str, shape: tuple[int, int], dtype: str, smoothing: float, weighted: bool
) -> None:
    weight = np.random.default_rng(3).uniform(0, 2, shape[1]).astype(dtype_of(dtype)) if weighted else None
    if weight is not None:
        weight[::3] = 0
    losses_and_gradient(draw(shape, dtype), labels_of(*shape), weight, smoothing, each=True)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    rows=st.integers(1, 12), classes=st.integers(1, 300), smoothing=st.sampled_from([0.0, 0.3]), weighted=st.booleans(),
    seed=st.integers(0, 1000), narrow=st.booleans(),
)  # fmt: skip
def test_cross_entropy_of_any_shape(
    rows: int, classes: int, smoothing: float, weighted: bool, seed: int, narrow: bool
) -> None:
    weight = np.random.default_rng(seed).uniform(0.1, 2, classes).astype(np.float32) if weighted else None
    labels = labels_of(rows, classes, seed).astype(np.int32 if narrow else np.int64)
    losses_and_gradient(draw((rows, classes), "float32", seed), labels, weight, smoothing, each=seed % 2 == 0)


def test_labels_out_of_range_make_their_rows_nan_and_read_nothing(device: str) -> None:
    x, labels = draw((4, 6), "float32"), np.array([0, 6, -1, 2**40])
    losses, weights, *moments = on_host(fast("cross_entropy_forward")(*on_device((x, labels, None, IGNORE, 0.0))))
    assert np.isnan(losses).tolist() == np.isnan(weights).tolist() == [False, True, True, True]
    arguments = (np.array(1, np.float32), x, *moments, labels, None, IGNORE, 0.0)
    assert np.isnan(on_host(fast("cross_entropy_backward")(*on_device(arguments)))).any(1).tolist() == [
        False,
        True,
        True,
        True,
    ]
    found = on_host(fast("nll_forward")(*on_device((x, labels, None, IGNORE))))
    assert np.isnan(found[0]).tolist() == [False, True, True, True]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("weighted", [False, True])
def test_nll(device: str, dtype: str, weighted: bool) -> None:
    x, labels = draw((300, 7), dtype), labels_of(300, 7)
    weight = np.random.default_rng(2).uniform(0, 1, 7).astype(np.float32) if weighted else None
    beside("nll_forward", x, labels, weight, IGNORE)
    beside("nll_backward", np.linspace(0, 1, 300).astype(np.float32), (300, 7), labels, weight, IGNORE)
    beside("nll_backward", np.array(0.5, np.float32), (300, 7), labels, weight, IGNORE)


def test_empty_rows(device: str) -> None:
    labels = np.empty(0, np.int64)
    for shape in ((0, 5), (0, 0)):
        x = np.empty(shape, np.float32)
        beside("cross_entropy_forward", x, labels, None, IGNORE, 0.0)
        beside("nll_forward", x, labels, None, IGNORE)
    beside("row_sums", np.empty(0, np.float32), np.empty(0, np.float32))


def test_long_sums_have_one_order(device: str) -> None:
    x = np.random.default_rng(0).standard_normal((2, 100_003)).astype(np.float32)
    found = beside("row_sums", x[0], x[1], ulps=64, absolute=300)
    assert bits(found) == bits(beside("row_sums", x[0], x[1], ulps=64, absolute=300))
    assert all(np.shape(a) == () for a in as_tuple(found))
