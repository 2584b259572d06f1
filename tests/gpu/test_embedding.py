"""Rows of a table by index on the device, their gradient in order of occurrence, sums over rows and channels."""

from __future__ import annotations

import importlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.gpu.beside import DTYPES, beside, bits, close, dtype_of, fast, on_device, on_host


def draw(shape: tuple[int, ...], dtype: str, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype_of(dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", [1, 3, 8, 96, 300])
def test_forward(device: str, width: int, dtype: str) -> None:
    weight = draw((11, width), dtype)
    indices = np.random.default_rng(1).integers(0, 11, (3, 4))
    assert bits(beside("embedding_forward", indices, weight)) == bits(weight[indices])
    assert bits(beside("embedding_forward", indices.astype(np.int32)[:, ::2], weight)) == bits(weight[indices[:, ::2]])
    found = on_host(fast("embedding_forward")(*on_device((np.array([2, 11, -1]), weight))))
    assert np.isnan(found.astype(np.float32)).any(1).tolist() == [False, True, True]
    beside("embedding_forward", np.empty((0, 2), np.int64), weight)


def occurrences(count: int, rows: int, seed: int, kind: str) -> np.ndarray:
    random = np.random.default_rng(seed)
    if kind == "one":
        return np.full(count, rows - 1)
    if kind == "few":
        return np.minimum(random.zipf(1.3, count) - 1, rows - 1)
    return random.integers(0, rows, count)


@pytest.mark.parametrize("kind", ["one", "few", "even"])
@pytest.mark.parametrize(
    ("count", "rows"), [(1, 1), (31, 5), (32, 300), (33, 65), (257, 255), (1025, 256), (5000, 70_000)]
)
def test_sorting_is_numpys(device: str, count: int, rows: int, kind: str) -> None:
    indices = occurrences(count, rows, 3, kind)
    sorted_places = importlib.import_module("phalanx.core.kernels.cuda.embedding").sorted_places
    keys, places = on_host(sorted_places(on_device(indices), rows, None))
    expected = np.argsort(indices, kind="stable")
    assert np.array_equal(places, expected) and np.array_equal(keys, indices[expected])
    indices[::7] = rows
    indices[3::7] = -1
    keys, places = on_host(sorted_places(on_device(indices), rows, 0))
    safe = np.where((indices <= 0) | (indices >= rows), rows, indices)
    assert np.array_equal(places, np.argsort(safe, kind="stable")) and np.array_equal(keys, np.sort(safe))


def in_order(gradient: np.ndarray, indices: np.ndarray, rows: int) -> np.ndarray:
    """The sums in float32: runs within 32 sorted places one after another, then the runs of one index."""
    table, order = np.zeros((rows, gradient.shape[-1]), np.float32), np.argsort(indices, kind="stable")
    for start in range(0, len(order), 32):
        part = order[start : start + 32]
        for index in np.unique(indices[part]):
            total = np.zeros(gradient.shape[-1], np.float32)
            for place in part[indices[part] == index]:
                total += gradient[place].astype(np.float32)
            table[index] += total
    return table


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", ["one", "few", "even"])
@pytest.mark.parametrize(("count", "rows", "width"), [(1, 1, 1), (31, 5, 3), (97, 3, 8), (300, 65, 40), (1025, 4, 300)])
def test_backward_adds_in_order_of_occurrence(
    device: str, count: int, rows: int, width: int, kind: str, dtype: str
) -> None:
    gradient, indices = draw((count, width), dtype), occurrences(count, rows, 2, kind)
    found = on_host(fast("embedding_backward")(*on_device((gradient, indices)), rows))
    assert bits(found) == bits(in_order(gradient, indices, rows).astype(gradient.dtype))
    slot = on_device(np.full((rows, width), 7, np.float32))
    assert fast("embedding_backward")(*on_device((gradient, indices)), rows, None, slot) is slot
    assert bits(on_host(slot)) == bits(in_order(gradient, indices, rows))


def test_backward_beside_the_reference(device: str) -> None:
    gradient, indices = draw((4, 50, 16), "float32"), occurrences(200, 90, 5, "few").reshape(4, 50)
    beside("embedding_backward", gradient, indices, 90, ulps=64)
    beside("embedding_backward", gradient, indices, 90, 3, ulps=64)
    beside("embedding_backward", gradient, indices, 90, -89, ulps=64)
    beside("embedding_backward", gradient[:0], indices[:0], 90)
    beside("embedding_backward", gradient.astype(np.float64), indices, 90)
    wrong = np.where(indices == 2, 90, indices)
    found = on_host(fast("embedding_backward")(*on_device((gradient, wrong)), 90))
    assert bits(found) == bits(in_order(gradient.reshape(200, 16), wrong.reshape(-1), 91)[:90])


@settings(max_examples=30, deadline=None, derandomize=True)
@given(count=st.integers(1, 200), rows=st.integers(1, 90), width=st.integers(1, 20), seed=st.integers(0, 99))
def test_backward_of_any_shape(count: int, rows: int, width: int, seed: int) -> None:
    gradient, indices = draw((count, width), "float32", seed), occurrences(count, rows, seed, "few")
    found = on_host(fast("embedding_backward")(*on_device((gradient, indices)), rows))
    assert bits(found) == bits(in_order(gradient, indices, rows))


# ---- sums over rows and channels -------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1, 1), (3, 7), (200, 24), (1000, 300), (70, 2000), (4, 5, 9)])
def test_bias_gradient(device: str, shape: tuple[int, ...], dtype: str) -> None:
    g = draw(shape, dtype)
    found = beside("bias_gradient", g, ulps=64 if dtype == "float32" else 2)
    assert bits(found) == bits(on_host(fast("bias_gradient")(on_device(g))))
    slot = on_device(np.full(shape[-1], 7, np.float32))
    assert fast("bias_gradient")(on_device(g), slot) is slot
    close(on_host(slot), g.astype(np.float64).reshape(-1, shape[-1]).sum(0), ulps=64)


def test_bias_gradient_of_odd_inputs(device: str) -> None:
    g = draw((60, 33), "float32")
    close(on_host(fast("bias_gradient")(on_device(g)[:, 1:])), g[:, 1:].sum(0, dtype=np.float64), ulps=64)
    close(on_host(fast("bias_gradient")(on_device(g).T)), g.T.sum(0, dtype=np.float64), ulps=64)
    beside("bias_gradient", np.empty((0, 5), np.float32))
    beside("bias_gradient", g.astype(np.float64))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("shape", [(1, 1), (3, 5, 4), (7, 24, 6, 5), (40, 3, 2, 2), (2, 9, 40, 40)])
def test_channel_sum(device: str, shape: tuple[int, ...], last: bool, dtype: str) -> None:
    g = draw(shape, dtype)
    if last:
        g = np.moveaxis(np.ascontiguousarray(np.moveaxis(g, 1, -1)), -1, 1)
    found = beside("channel_sum", g, ulps=128 if dtype == "float32" else 2)
    slot = on_device(np.zeros_like(found))
    assert fast("channel_sum")(on_device(g), slot) is slot and bits(on_host(slot)) == bits(found)


# ---- places of images ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("shape", "count"),
    [((1, 1, 1), (1,)), ((2, 3, 4, 5), (2, 2)), ((2, 2, 40, 30), (9, 8)), ((3, 2, 2, 2, 2), (1, 50))],
)
def test_places(device: str, shape: tuple[int, ...], count: tuple[int, ...], dtype: str) -> None:
    """Most places come several times."""
    size = int(np.prod(shape[2:]))
    index = np.minimum(np.random.default_rng(0).zipf(1.3, shape[:2] + count) - 1, size - 1)
    x, values = draw(shape, dtype), draw(shape[:2] + count, dtype, 1)
    assert bits(beside("take_places", x, index)) == bits(
        on_host(fast("take_places")(*on_device((x, index.astype(np.int32)))))
    )
    beside("put_places", values, index, shape)
    beside("add_places", values, index, shape, ulps=64 if dtype == "float32" else 4)


def test_places_of_nothing(device: str) -> None:
    index = np.empty((2, 3, 0), np.int64)
    for name in ("put_places", "add_places"):
        beside(name, index.astype(np.float32), index, (2, 3, 4))
    beside("take_places", draw((2, 3, 4), "float32"), index)
    beside("add_places", draw((2, 3, 4), "float32").astype(np.float64), np.zeros((2, 3, 4), np.int64), (2, 3, 5))
