"""Compiled loops of batch norm, relu and pooling against the reference kernels and float64; what is fused gives the bits of its parts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("numba")
from phalanx.core.kernels import reference_conv, reference_fused, reference_norm, reference_pool
from phalanx.core.kernels.cpu import (
    batch_norm,
    compiled,
    loops_elementwise,
    loops_running,
    onednn_conv,
    pool_halves,
    side_by_side,
    threads,
)
from phalanx.core.kernels.window import Window

HALVES = reference_fused.HALVES
many = settings(max_examples=20, derandomize=True, deadline=None)
images = st.tuples(st.integers(1, 5), st.sampled_from([1, 3, 16, 17, 32, 70]), st.integers(1, 9), st.integers(1, 9))
seeds = st.integers(0, 2**32 - 1)
relu, relu_back = loops_elementwise.KERNELS["relu_forward"], loops_elementwise.KERNELS["relu_backward"]


class Work:
    """Arguments of batch norm for one shape: ``x`` with its channels last, others as they come."""

    def __init__(self, shape: tuple[int, ...], seed: int = 0, dtype: Any = np.float32) -> None:
        random = np.random.default_rng(seed)
        last = random.normal(3.0, 2.0, shape[:1] + shape[2:] + shape[1:2]).astype(dtype)
        self.x = np.moveaxis(last, -1, 1)
        self.weight, self.bias = (random.normal(size=shape[1]).astype(dtype) for _ in range(2))
        self.g = random.normal(size=shape).astype(dtype)
        self.pooled = random.normal(size=shape[:2] + tuple(n // 2 for n in shape[2:])).astype(dtype)

    def wide(self) -> Work:
        """The same numbers in float64."""
        twin = object.__new__(Work)
        twin.__dict__.update({name: array.astype(np.float64) for name, array in vars(self).items()})
        return twin


def everything(work: Work, norm: Any = batch_norm) -> list[np.ndarray]:
    """Outputs of forward and backward, of all of them."""
    y, mean, deviations, inverse = norm.batch_norm_train(work.x, work.weight, work.bias, 1e-3)
    dx, dw, db = norm.batch_norm_backward(work.g, work.x, mean, inverse, work.weight, True)
    applied = norm.batch_norm_apply(work.x, mean, inverse, work.weight, None)
    return [y, mean, deviations, inverse, dx, dw, db, applied]


def fused(work: Work) -> list[np.ndarray]:
    """The same of the fused ones."""
    x, weight, bias = work.x, work.weight, work.bias
    y, mean, deviations, inverse = batch_norm.batch_norm_relu(x, weight, bias, 1e-3)
    gradients = batch_norm.batch_norm_relu_backward(work.g, x, mean, inverse, weight, bias, y)
    if x.ndim != 4 or min(x.shape[2:]) < 2:
        return [y, mean, deviations, inverse, *gradients]
    pooled, mean, deviations, inverse, index = batch_norm.batch_norm_relu_pool(x, weight, bias, 1e-3)
    more = batch_norm.batch_norm_relu_pool_backward(work.pooled, x, mean, inverse, weight, index)
    return [y, mean, deviations, inverse, *gradients, pooled, *more]


def parts(work: Work) -> list[np.ndarray]:
    """What ``fused`` gives, one after the other."""
    x, weight, bias = work.x, work.weight, work.bias
    y, mean, deviations, inverse = batch_norm.batch_norm_train(x, weight, bias, 1e-3)
    through = relu(y)
    gradients = batch_norm.batch_norm_backward(relu_back(work.g, through), x, mean, inverse, weight, True)
    found = [through, mean, deviations, inverse, *gradients]
    if x.ndim == 4 and min(x.shape[2:]) >= 2:
        pooled, index = pool_halves.max_pool_forward(through, HALVES)
        g = relu_back(pool_halves.max_pool_backward(work.pooled, index, x.shape, HALVES), through)
        found += [pooled, *batch_norm.batch_norm_backward(g, x, mean, inverse, weight, True)]
    return found


def same(found: list[np.ndarray], expected: list[np.ndarray]) -> bool:
    """Equal numbers, whatever the sign of a zero."""
    return len(found) == len(expected) and all(
        a.shape == b.shape and np.array_equal(a, b, equal_nan=True) for a, b in zip(found, expected, strict=True)
    )


@pytest.fixture
def two_threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(compiled, "SMALLEST_SHARE", 1)
    before = threads.threads()
    threads.set_threads(2)
    yield
    threads.set_threads(before)


@many
@given(images, seeds)
def test_batch_norm(shape: tuple[int, ...], seed: int) -> None:
    work = Work(shape, seed)
    found, wide = everything(work), everything(work.wide(), reference_norm)
    plain = everything(work, reference_norm)
    for ours, exact, theirs in zip(found, wide, plain, strict=True):
        assert ours.dtype == np.float32 and ours.shape == exact.shape
        scale = np.abs(exact).max() + 1e-3
        assert np.abs(ours - exact).max() <= 1e-5 * scale + 3 * np.abs(theirs - exact).max()


@pytest.mark.parametrize("shape", [(50, 24), (1, 1), (300, 5, 7), (2, 40, 3, 3, 3), (4, 600, 3, 3), (2, 20_000)])
def test_other_shapes(shape: tuple[int, ...]) -> None:
    work = Work(shape)
    for ours, exact in zip(everything(work), everything(work.wide(), reference_norm), strict=True):
        np.testing.assert_allclose(ours, exact, rtol=1e-3, atol=2e-5 * np.abs(exact).max() + 1e-3)
    assert same(fused(work), parts(work))


def test_long_sums_are_good_to_single_precision() -> None:
    work = Work((64, 3, 50, 50))
    work.x[:] += 100
    exact = work.wide()
    found, wide = everything(work), everything(exact, reference_norm)
    for ours, true in zip(found, wide, strict=True):
        assert np.abs(ours - true).max() <= 2e-5 * np.abs(true).max()


@many
@given(images, seeds)
def test_fused_gives_the_bits_of_its_parts(shape: tuple[int, ...], seed: int) -> None:
    work = Work(shape, seed)
    assert same(fused(work), parts(work))


@many
@given(images, seeds)
def test_maxima_are_those_of_the_reference(shape: tuple[int, ...], seed: int) -> None:
    shape = (*shape[:2], shape[2] + 1, shape[3] + 1)
    work = Work(shape, seed)
    x = np.round(work.x - 3)  # with ties
    g = work.pooled
    ours, theirs = pool_halves.max_pool_forward(x, HALVES), reference_pool.max_pool_forward(x, HALVES)
    assert same([*ours], [*theirs])
    back = pool_halves.max_pool_backward(g, ours[1], shape, HALVES)
    assert same([back], [reference_pool.max_pool_backward(g, theirs[1], shape, HALVES)])
    ours, theirs = pool_halves.relu_pool(x), reference_fused.relu_pool(x)
    assert same([*ours], [*theirs])
    back = pool_halves.relu_pool_backward(g, ours[1], shape)
    assert same([back], [reference_fused.relu_pool_backward(g, theirs[1], shape)])


def test_not_a_number_and_infinity_come_through() -> None:
    x = np.moveaxis(np.random.default_rng(0).normal(size=(2, 5, 4, 32)).astype(np.float32), -1, 1)
    x[0, 0, 0, 0], x[0, 1, 1, 1], x[1, 2, 0, 1], x[0, 3] = np.nan, np.inf, -np.inf, -np.inf
    x[1, 4, 2:4, 2:4] = np.nan
    y, _ = pool_halves.max_pool_forward(x, HALVES)
    assert same([y], [reference_pool.max_pool_forward(x, HALVES)[0]])
    assert same([pool_halves.relu_pool(x)[0]], [np.maximum(y, 0)])
    weight, bias = np.ones((2, 32), np.float32)
    for find in (batch_norm.batch_norm_relu, batch_norm.batch_norm_relu_pool):
        y, mean, *_ = find(x, weight, bias, 1e-5)
        assert np.isnan(y[:, :3]).all() and np.isnan(y[:, 4]).all() and np.isfinite(y[:, 5:]).all()
        assert np.isnan(mean[[0, 4]]).all() and mean[1] == np.inf and mean[2] == -np.inf
    _, mean, _, inverse, index = batch_norm.batch_norm_relu_pool(x[:, 5:], weight[5:], bias[5:], 1e-5)
    gradient = np.zeros(index.shape, np.float32)
    gradient[0, 2, 0, 0] = np.nan
    for each in batch_norm.batch_norm_relu_pool_backward(gradient, x[:, 5:], mean, inverse, weight[5:], index):
        channels = np.moveaxis(each, 1, 0).reshape(27, -1) if each.ndim > 1 else each[:, None]
        assert np.isnan(channels[2]).all() and not np.isnan(np.delete(channels, 2, 0)).any()


@pytest.mark.parametrize("dtype", [np.float64, np.float16])
def test_other_dtypes_are_the_references(dtype: Any) -> None:
    work = Work((3, 16, 5, 6), 0, dtype)
    assert same(everything(work), everything(work, reference_norm))
    assert same([*pool_halves.relu_pool(work.x)], [*reference_fused.relu_pool(work.x)])
    assert same([*pool_halves.max_pool_forward(work.x, HALVES)], [*reference_pool.max_pool_forward(work.x, HALVES)])


@pytest.mark.parametrize("kind", [np.float32, np.float64, np.float16])
@pytest.mark.parametrize("running", [np.float32, np.float64, np.float16])
@pytest.mark.parametrize("share", [0.1, 1.0, 1 / 3])
def test_running_statistics_move_as_in_the_reference(running: Any, kind: Any, share: float) -> None:
    random = np.random.default_rng(0)
    for channels in (1, 19, 64):
        before = [random.normal(size=channels).astype(running), random.random(channels).astype(running), np.array(3)]
        seen, deviations = random.normal(size=channels).astype(kind), (random.random(channels) * 1e3).astype(kind)
        seen[-1], deviations[0] = np.inf, np.nan
        moved, expected = ([each.copy() for each in before] for _ in range(2))
        loops_running.move_running(*moved, seen, deviations, share, 6271.0)
        reference_norm.move_running(*expected, seen, deviations, share, 6271.0)
        assert same(moved, expected) and moved[2] == 4


def test_nothing_to_do() -> None:
    x = np.zeros((0, 16, 4, 4), np.float32)
    y, index = pool_halves.relu_pool(x)
    assert y.shape == index.shape == (0, 16, 2, 2)
    assert pool_halves.relu_pool_backward(y, index, x.shape).shape == x.shape
    assert batch_norm.batch_norm_train(x, None, None, 1e-5)[0].shape == x.shape


def test_layouts_and_absent_parameters() -> None:
    work = Work((4, 16, 6, 8))
    expected = fused(work)
    work.x = np.ascontiguousarray(work.x)
    wide = np.zeros((4, 16, 6, 16), np.float32)
    wide[..., ::2] = work.g
    work.g = wide[..., ::2]
    assert same(fused(work), expected)
    work.weight = work.bias = None  # type: ignore[assignment]
    assert same(fused(work), parts(work))
    wide = reference_norm.batch_norm_train(work.x.astype(np.float64), None, None, 1e-3)[0]
    np.testing.assert_allclose(fused(work)[0], np.maximum(wide, 0), atol=1e-5)


def test_two_threads_give_the_bits_of_one(two_threads: None) -> None:
    """The fused ones stand for all, since a parallel form takes seconds to compile."""
    works = [Work((9, 32, 17, 23)), Work((5, 16, 8, 8)), Work((700, 40))]
    both, again = ([fused(work) for work in works] for _ in range(2))
    threads.set_threads(1)
    assert all(same(a, b) for a, b in zip(both, again, strict=True))
    assert all(same(a, fused(work)) for a, work in zip(both, works, strict=True))


@pytest.mark.parametrize("absent", [False, True])
@pytest.mark.parametrize(
    ("shape", "weight", "stride", "padding"),
    [
        ((6, 16, 4, 4), (16, 16, 3, 3), 1, (1, 1)),
        ((6, 16, 8, 8), (8, 16, 3, 3), 2, (1, 1)),
        ((4, 16, 5, 3), (8, 16, 3, 3), 1, (0, 0)),
        ((4, 16, 6, 7), (16, 16, 3, 3), 3, (2, 2)),
        ((4, 16, 4, 4), (16, 16, 2, 4), 1, (1, 2)),
        ((16, 8, 1, 1), (8, 8, 3, 3), 1, (1, 1)),
        ((4, 8, 9, 9), (8, 8, 5, 5), 2, (0, 0)),
    ],
)
def test_small_images_side_by_side(
    monkeypatch: pytest.MonkeyPatch, shape: Any, weight: Any, stride: int, padding: Any, absent: bool
) -> None:
    monkeypatch.setattr(side_by_side, "FEWEST_WEIGHTS", 1)
    side_by_side.plan.cache_clear()
    window = Window(weight[2:], (stride, stride), padding, (1, 1))
    output = window.output(shape[2:])
    assert side_by_side.plan(shape, weight, output, window, 1) is not None
    random = np.random.default_rng(0)
    x, w, g = (random.normal(size=s) for s in (shape, weight, (shape[0], weight[0], *output)))
    bias = None if absent else random.normal(size=weight[0])
    results = []
    for kernels, dtype in ((onednn_conv, np.float32), (reference_conv, np.float64)):
        a, b, c = (each.astype(dtype) for each in (x, w, g))
        y = kernels.conv_forward(a, b, None if bias is None else bias.astype(dtype), window)
        dx = kernels.conv_input_gradient(c, b, shape, window)
        results.append([y, dx, kernels.conv_weight_gradient(c, a, weight, window)])
    side_by_side.plan.cache_clear()
    for ours, exact in zip(*results, strict=True):
        assert ours.shape == exact.shape and ours.dtype == np.float32
        np.testing.assert_allclose(ours, exact, atol=2e-6 * np.abs(exact).max())


def test_inputs_are_left_alone() -> None:
    work = Work((3, 16, 6, 6))
    before = {name: array.copy() for name, array in vars(work).items()}
    everything(work)
    fused(work)
    assert all(np.array_equal(before[name], array) for name, array in vars(work).items())
