"""What the tests of oneDNN's kernels run on: each kernel, its reference, and random arguments."""

from __future__ import annotations

import platform
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import strategies as st

from phalanx.core.kernels import reference, reference_conv, reference_norm, reference_pool
from phalanx.core.kernels.cpu import channels_last, onednn_conv, onednn_matmul, onednn_norm, onednn_pool
from phalanx.core.kernels.window import Window

needs_onednn = pytest.mark.skipif(
    (sys.platform, platform.machine()) != ("linux", "x86_64"), reason="oneDNN's package is for Linux on x86-64 alone"
)
"""There the tests' environment has it: where it cannot be loaded they fail."""

# ---- arguments -------------------------------------------------------------------------------------------------------


class Arguments(NamedTuple):
    """Arrays by which an error is judged, and what else a kernel takes."""

    arrays: tuple[np.ndarray, ...]
    rest: tuple[Any, ...] = ()


def arranged(array: np.ndarray, how: int) -> np.ndarray:
    """The same values, lying as number ``how`` says."""
    how %= 6
    if how == 1 and array.ndim > 2:
        return channels_last.to_first(np.ascontiguousarray(channels_last.to_last(array)))
    if how == 2:  # gaps, dimensions in reversed order
        space = np.full([2 * size for size in array.shape[::-1]], 7, array.dtype)
        view = space[tuple(slice(None, None, 2) for _ in array.shape)].T
        view[...] = array
        return view
    if how == 3:
        return np.flip(np.ascontiguousarray(np.flip(array)))
    if how == 4:  # the address is a multiple of nothing
        raw = np.zeros(array.nbytes + 1, np.uint8)[1:].view()
        view = np.ndarray(array.shape, array.dtype, raw.data)
        view[...] = array
        return view
    if how == 5 and array.ndim > 1:
        return np.ascontiguousarray(array.swapaxes(-1, -2)).swapaxes(-1, -2)
    return np.ascontiguousarray(array)


def normal(random: np.random.Generator, *shape: int) -> np.ndarray:
    return random.standard_normal(shape).astype(np.float32)


sizes = st.integers(1, 40)


@st.composite
def matrices(draw: Any, kind: str) -> Arguments:
    random = np.random.default_rng(draw(st.integers(0, 9999)))
    m, k, n = draw(sizes), draw(sizes), draw(sizes)
    batch = draw(st.sampled_from([(), (3,), (2, 3)]))
    if kind == "matmul":
        return Arguments((normal(random, *batch, m, k), normal(random, *draw(st.sampled_from([batch, ()])), k, n)))
    x, weight, bias = normal(random, *batch, m, k), normal(random, n, k), normal(random, n)
    y = normal(random, *batch, m, n)
    return Arguments({"forward": (x, weight, bias), "input": (y, weight), "weight": (y, x)}[kind])


@st.composite
def windows(draw: Any, dimensions: int, pooling: bool = False) -> Window:
    def each(low: int, high: int) -> tuple[int, ...]:
        return tuple(draw(st.integers(low, high)) for _ in range(dimensions))

    kernel = each(1, 4 if dimensions < 3 else 2)
    if not pooling:
        return Window(kernel, each(1, 3), each(0, 2), each(1, 2))
    padding = tuple(draw(st.integers(0, k // 2)) for k in kernel)
    return Window(
        kernel, each(1, 3), padding, draw(st.sampled_from([(1,) * dimensions, each(1, 2)])), draw(st.booleans())
    )


@st.composite
def images(draw: Any, dimensions: int, window: Window) -> tuple[int, ...]:
    most = {1: 20, 2: 12, 3: 6}[dimensions]
    return tuple(window.reach(a) + draw(st.integers(0, most - 5)) for a in range(dimensions))


@st.composite
def convolutions(draw: Any, kind: str) -> Arguments:
    random = np.random.default_rng(draw(st.integers(0, 9999)))
    dimensions = draw(st.integers(1, 3))
    window = draw(windows(dimensions))
    groups = draw(st.sampled_from([1, 1, 1, 2, 3, 8]))
    inner, outer = draw(st.sampled_from([1, 2, 3, 5, 8, 16, 17])), draw(st.sampled_from([1, 2, 3, 8, 16]))
    if groups == 8:
        inner = outer = 1  # depthwise
    x = normal(random, draw(st.integers(1, 3)), groups * inner, *draw(images(dimensions, window)))
    weight = normal(random, groups * outer, inner, *window.kernel)
    y = normal(random, x.shape[0], groups * outer, *window.output(x.shape[2:]))
    if kind == "forward":
        bias = normal(random, groups * outer)
        return Arguments((x, weight, bias), (window, groups))
    return (
        Arguments((y, weight), (x.shape, window, groups))
        if kind == "input"
        else Arguments((y, x), (weight.shape, window, groups))
    )


@st.composite
def poolings(draw: Any, kind: str) -> Arguments:
    random = np.random.default_rng(draw(st.integers(0, 9999)))
    dimensions = draw(st.integers(1, 3))
    window = draw(windows(dimensions, pooling=True))
    x = normal(
        random, draw(st.integers(1, 3)), draw(st.sampled_from([1, 3, 16, 19])), *draw(images(dimensions, window))
    )
    x = np.round(x * 2) / 2  # ties
    y = normal(random, *x.shape[:2], *window.output(x.shape[2:]))
    if kind == "max":
        return Arguments((x,), (window,))
    if kind == "max back":
        return Arguments((y, reference_pool.max_pool_forward(x, window)[1]), (x.shape, window))
    plain = window._replace(dilation=(1,) * dimensions)
    options = (draw(st.booleans()), draw(st.sampled_from([None, 3, int(np.prod(window.kernel))])))
    y = normal(random, *x.shape[:2], *plain.output(x.shape[2:]))
    return Arguments((x,), (plain, *options)) if kind == "mean" else Arguments((y,), (x.shape, plain, *options))


@st.composite
def bins(draw: Any, kind: str) -> Arguments:
    random = np.random.default_rng(draw(st.integers(0, 9999)))
    output = tuple(draw(st.lists(st.integers(1, 3), min_size=1, max_size=3)))
    shape = (2, draw(st.sampled_from([1, 16, 5]))) + tuple(
        draw(st.sampled_from([n, 2 * n, 4 * n, 2 * n + 1])) for n in output
    )
    if kind == "forward":
        return Arguments((normal(random, *shape),), (output,))
    return Arguments((normal(random, *shape[:2], *output),), (shape,))


@st.composite
def norms(draw: Any, kind: str) -> Arguments:
    random = np.random.default_rng(draw(st.integers(0, 9999)))
    spread = draw(st.sampled_from([(), (7,), (4, 5), (2, 3, 4)]))
    channels = draw(st.sampled_from([1, 3, 8, 16, 33]))
    x = normal(random, draw(st.integers(2, 6)), channels, *spread) + np.float32(draw(st.sampled_from([0.0, 3.0])))
    weight, bias = normal(random, channels), normal(random, channels)
    if kind == "batch":
        return Arguments((x, weight, bias), (1e-5,))
    if kind == "batch relu":
        return Arguments((x, weight, bias), (1e-5, True))
    mean = x.mean(axis=(0, *range(2, x.ndim)))
    inverse_std = 1 / np.sqrt(x.var(axis=(0, *range(2, x.ndim))) + np.float32(0.1))
    arguments = Arguments((normal(random, *x.shape), x, mean, inverse_std, weight), (draw(st.booleans()),))
    return arguments._replace(rest=(*arguments.rest, np.maximum(x, 0))) if kind == "back relu" else arguments


@st.composite
def rows(draw: Any, kind: str) -> Arguments:
    random = np.random.default_rng(draw(st.integers(0, 9999)))
    features = draw(sizes)
    x = normal(random, *draw(st.sampled_from([(), (5,), (2, 7)])), features)
    weight, bias = normal(random, features), normal(random, features)
    if kind == "forward":
        return Arguments((x, weight, bias), (features, 1e-2))
    _, mean, inverse_std = reference_norm.layer_norm_forward(x, None, None, features, 1e-2)
    return Arguments((normal(random, *x.shape), x, mean, inverse_std, weight), ((features,), [True] * 3, [None] * 3))


class Check(NamedTuple):
    fast: Callable[..., Any]
    reference: Callable[..., Any]
    arguments: st.SearchStrategy[Arguments]
    out: bool = False


M, C, P, N = onednn_matmul, onednn_conv, onednn_pool, onednn_norm
CHECKS = {
    "matmul": Check(M.matmul, reference.matmul, matrices("matmul"), out=True),
    "linear": Check(M.linear_forward, reference.linear_forward, matrices("forward")),
    "linear dx": Check(M.linear_input_gradient, reference.linear_input_gradient, matrices("input"), out=True),
    "linear dw": Check(M.linear_weight_gradient, reference.linear_weight_gradient, matrices("weight"), out=True),
    "conv": Check(C.conv_forward, reference_conv.conv_forward, convolutions("forward")),
    "conv dx": Check(C.conv_input_gradient, reference_conv.conv_input_gradient, convolutions("input")),
    "conv dw": Check(C.conv_weight_gradient, reference_conv.conv_weight_gradient, convolutions("weight"), out=True),
    "conv db": Check(
        C.channel_sum, reference_conv.channel_sum, norms("batch").map(lambda a: Arguments(a.arrays[:1])), out=True
    ),
    "max_pool": Check(P.max_pool_forward, reference_pool.max_pool_forward, poolings("max")),
    "max_pool dx": Check(P.max_pool_backward, reference_pool.max_pool_backward, poolings("max back")),
    "avg_pool": Check(P.avg_pool_forward, reference_pool.avg_pool_forward, poolings("mean")),
    "avg_pool dx": Check(P.avg_pool_backward, reference_pool.avg_pool_backward, poolings("mean back")),
    "adaptive": Check(P.adaptive_avg_pool_forward, reference_pool.adaptive_avg_pool_forward, bins("forward")),
    "adaptive dx": Check(P.adaptive_avg_pool_backward, reference_pool.adaptive_avg_pool_backward, bins("backward")),
    "batch_norm": Check(N.batch_norm_train, reference_norm.batch_norm_train, norms("batch")),
    "batch_norm dx": Check(N.batch_norm_backward, reference_norm.batch_norm_backward, norms("back")),
    "batch_norm relu": Check(N.batch_norm_train, reference_norm.batch_norm_train, norms("batch relu")),
    "batch_norm relu dx": Check(N.batch_norm_backward, reference_norm.batch_norm_backward, norms("back relu")),
    "layer_norm": Check(N.layer_norm_forward, reference_norm.layer_norm_forward, rows("forward")),
    "layer_norm dx": Check(N.layer_norm_backward, reference_norm.layer_norm_backward, rows("back")),
}  # fmt: skip

ONE_OF_EACH = {
    "matmul": Arguments((np.ones((2, 9, 33)), np.ones((2, 33, 17)))),
    "linear": Arguments((np.ones((9, 33)), np.ones((17, 33)), np.ones(17))),
    "linear dx": Arguments((np.ones((9, 17)), np.ones((17, 33)))),
    "linear dw": Arguments((np.ones((9, 17)), np.ones((9, 33)))),
    "conv": Arguments(
        (np.ones((5, 6, 13, 11)), np.ones((16, 6, 3, 3)), np.ones(16)), (Window((3, 3), (1, 1), (0, 0)),)
    ),
    "conv dx": Arguments(
        (np.ones((5, 16, 13, 11)), np.ones((16, 6, 3, 3))), ((5, 6, 13, 11), Window((3, 3), (1, 1), (1, 1)))
    ),
    "conv dw": Arguments(
        (np.ones((5, 16, 13, 11)), np.ones((5, 6, 15, 13))), ((16, 6, 3, 3), Window((3, 3), (1, 1), (0, 0)))
    ),
    "conv db": Arguments((np.ones((5, 16, 13, 11)),)),
    "max_pool": Arguments((np.ones((5, 6, 13, 11)),), (Window((2, 2), (2, 2), (0, 0)),)),
    "avg_pool": Arguments((np.ones((5, 6, 13, 11)),), (Window((3, 3), (2, 2), (1, 1)),)),
    "batch_norm": Arguments((np.ones((5, 6, 13, 11)), np.ones(6), np.ones(6)), (1e-5,)),
    "batch_norm dx": Arguments(
        (np.ones((5, 6, 13, 11)), np.ones((5, 6, 13, 11)), np.ones(6), np.ones(6), np.ones(6)), (True,)
    ),
    "batch_norm relu": Arguments((np.ones((5, 6, 13, 11)), np.ones(6), np.ones(6)), (1e-5, True)),
    "layer_norm": Arguments((np.ones((21, 37)), np.ones(37), np.ones(37)), (37, 1e-5)),
    "layer_norm dx": Arguments(
        (np.ones((21, 37)), np.ones((21, 37)), np.ones((21, 1)), np.ones((21, 1)), np.ones(37)),
        ((37,), [True] * 3, [None] * 3),
    ),
}
"""Shapes alone. Without padding, which the reference multiplies (0 x inf = NaN) and oneDNN does not."""
