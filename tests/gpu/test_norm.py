"""Layer norm and root mean square norm on the device, with and without a residual sum, of rows of any length."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.gpu.beside import DTYPES, beside, bits, close, dtype_of, fast, on_device, on_host, reference, wide

SHAPES = [
    (1, 1),
    (5, 3),
    (3, 8),
    (9, 64),
    (70, 96),
    (3, 768),
    (2, 1024),
    (2, 1600),
    (3, 4096),
    (1, 8192),
    (1, 16400),
    (2, 16389),
    (600, 16),
]
EPS = 1e-5


class Work:
    """Inputs of the norms of rows (M, D)."""

    def __init__(self, shape: tuple[int, int], dtype: str, seed: int = 0, parameters: str | None = None) -> None:
        random = np.random.default_rng(seed)

        def draw(*size: int, of: str = dtype) -> np.ndarray:
            return random.standard_normal(size).astype(dtype_of(of))

        kind = parameters or dtype
        self.x, self.g, self.more, self.residual = draw(*shape), draw(*shape), draw(*shape), draw(*shape)
        self.weight, self.bias = draw(shape[1], of=kind), draw(shape[1], of=kind)
        self.x += dtype_of(dtype).type(1)
        self.shape = shape[1:]

    def moments(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """As the forward saves them, in float32: means, inverse deviations, inverse roots."""
        _, mean, inverse = reference("layer_norm_forward")(x.astype(np.float64), None, None, x.shape[1], EPS)
        _, root = reference("rms_norm_forward")(x.astype(np.float64), None, x.shape[1], EPS)
        return mean.astype(np.float32), inverse.astype(np.float32), root.astype(np.float32)

    def forward(self, weighted: bool = True) -> tuple[Any, ...]:
        features, weight, bias = self.shape[0], self.weight, self.bias
        w, b = (weight, bias) if weighted else (None, None)
        tight = {"ulps": 16.0 if self.x.dtype == np.float32 else 8.0, "absolute": 2.0}
        return (
            beside("layer_norm_forward", self.x, w, b, features, EPS, **tight),
            beside("rms_norm_forward", self.x, w, features, EPS, **tight),
            self.summed("add_layer_norm_forward", (w, b), tight),
            self.summed("add_rms_norm_forward", (w,), tight),
        )

    def summed(self, name: str, parameters: tuple[Any, ...], tight: dict[str, float]) -> Any:
        """The norm is that of the sum as it is stored."""
        rest = (*parameters, self.shape[0], EPS)
        found = on_host(fast(name)(*on_device((self.x, self.residual, *rest))))
        h = (self.x.astype(np.float32) + self.residual.astype(np.float32)).astype(self.x.dtype)
        assert bits(found[0]) == bits(h)
        close(found[1:], reference(name.removeprefix("add_"))(*wide((h, *rest))), **tight)
        return found

    def backward(self, needs: tuple[bool, bool, bool] = (True, True, True), weighted: bool = True) -> tuple[Any, ...]:
        mean, inverse, root = self.moments(self.x)
        weight, none = self.weight if weighted else None, (None,) * 3
        # sums over a row of D, and over M rows, of products: of the size of their largest part
        loose = {"ulps": 32.0 if self.x.dtype == np.float32 else 8.0, "absolute": 4.0}
        layer, rms = (weight, self.shape, needs, none), (weight, self.shape, needs[:2], none[:2])
        return (
            beside("layer_norm_backward", self.g, self.x, mean, inverse, *layer, **loose),
            beside("rms_norm_backward", self.g, self.x, root, *rms, **loose),
            beside("add_layer_norm_backward", self.more, self.g, self.x, mean, inverse, *layer, **loose),
            beside("add_rms_norm_backward", None, self.g, self.x, root, *rms, **loose),
            beside("add_rms_norm_backward", self.more, self.g, self.x, root, *rms, **loose),
        )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_norms(device: str, shape: tuple[int, int], dtype: str) -> None:
    work = Work(shape, dtype)
    found = work.forward()
    assert all(each[0].dtype == work.x.dtype for each in found)
    if shape[1] > 1:  # else all is 0, but for rounding
        work.backward()


@pytest.mark.parametrize("shape", [(5, 96), (2, 16389)])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_weights_may_be_floats_beside_smaller_rows(device: str, shape: tuple[int, int], dtype: str) -> None:
    work = Work(shape, dtype, parameters="float32")
    work.forward()
    assert all(each[1].dtype == np.float32 for each in work.backward())


@pytest.mark.parametrize("shape", [(5, 96), (5, 99), (70, 16384 + 8)])
def test_without_weights_and_by_what_is_needed(device: str, shape: tuple[int, int]) -> None:
    work = Work(shape, "float32")
    work.forward(weighted=False)
    work.backward((True, False, False), weighted=False)
    work.backward((False, True, False))
    work.backward((False, False, True))
    work.backward((True, False, True))


def test_slots_are_written(device: str) -> None:
    work = Work((40, 24), "float32")
    mean, inverse, root = on_device(work.moments(work.x))
    slots = on_device((np.full(24, 7, np.float32), np.full(24, 7, np.float32)))
    arguments = on_device((work.g, work.x)), (on_device(work.weight), (24,), (True,) * 3, (None, *slots))
    dx, dw, db = fast("layer_norm_backward")(*arguments[0], mean, inverse, *arguments[1])
    assert dw is slots[0] and db is slots[1]
    close(on_host((dx, dw, db)), work.backward()[0], ulps=1)
    halves = on_device((np.zeros(24, np.float16), None))
    _, dw = fast("rms_norm_backward")(
        *arguments[0], root, on_device(work.weight), (24,), (True, True), (None, halves[0])
    )
    assert dw is not halves[0] and dw.dtype == np.float32


def test_two_runs_give_the_same_bits_and_rows_do_not_depend_on_others(device: str) -> None:
    work = Work((333, 64), "bfloat16")
    first, again = work.backward(), work.backward()
    assert [bits(each) for each in first] == [bits(each) for each in again]
    whole = on_host(fast("layer_norm_forward")(*on_device((work.x, work.weight, work.bias, 64, EPS))))
    part = on_host(fast("layer_norm_forward")(*on_device((work.x[5:9].copy(), work.weight, work.bias, 64, EPS))))
    assert bits([each[5:9] for each in whole]) == bits(part)


@pytest.mark.parametrize("columns", [48, 20000])
def test_what_is_not_finite_stays_in_its_row(device: str, columns: int) -> None:
    work = Work((3, columns), "float32")
    work.x[1, 2] = np.nan
    y = work.forward()
    assert np.isnan(y[0][0][1]).all() and not np.isnan(y[0][0][[0, 2]]).any()
    work.x[1, 2] = np.inf
    work.forward()


def test_odd_inputs(device: str) -> None:
    """Rows that start anywhere, that do not lie in order, of several dimensions, of no length, of float64."""
    base = Work((6, 33), "float32")
    x = on_device(base.x)
    for view, host in (
        (x[:, 1:], base.x[:, 1:]),
        (x.T, base.x.T),
        (x.reshape(-1)[2:194].reshape(6, 32), base.x.reshape(-1)[2:194].reshape(6, 32)),
    ):
        found = on_host(fast("layer_norm_forward")(view, None, None, host.shape[1], EPS))
        close(found, reference("layer_norm_forward")(host.astype(np.float64), None, None, host.shape[1], EPS), ulps=16)
    cube = np.random.default_rng(0).standard_normal((2, 3, 4)).astype(np.float32)
    weight = np.linspace(1, 2, 12).astype(np.float32).reshape(3, 4)
    _, mean, inverse = beside("layer_norm_forward", cube, weight, weight, 12, EPS)
    beside("layer_norm_backward", cube + 1, cube, mean, inverse, weight, (3, 4), (True,) * 3, (None,) * 3, ulps=64)
    empty = np.empty((0, 4), np.float32)
    beside("layer_norm_forward", empty, None, None, 4, EPS)
    beside("rms_norm_forward", cube.astype(np.float64), None, 4, EPS)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(rows=st.integers(1, 40), columns=st.integers(2, 300), seed=st.integers(0, 99), dtype=st.sampled_from(DTYPES))
def test_any_shape(rows: int, columns: int, seed: int, dtype: str) -> None:
    work = Work((rows, columns), dtype, seed)
    work.forward()
    if columns > 8:
        work.backward()
