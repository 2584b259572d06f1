"""Maximum and average over windows, or over a given number of bins, of sequences, images and volumes (N, C, S)."""

from __future__ import annotations

import math
from typing import Any

from ..backend import device_kind
from ..errors import RangeError, ShapeError
from ..kernels.table import kernel
from ..kernels.window import Size, Window
from ..op import Array, Op, define
from . import expect
from .conv import LAYOUT, window_fits


def _check(op: str, x: Array, window: Window) -> None:
    count = len(window.kernel)
    expect.one_float_dtype(op, input=x)
    expect.dimensions(op, "input", x, 2 + count, LAYOUT[count])
    window_fits(op, x.shape, window)
    if any(window.padding[a] * 2 > window.reach(a) for a in range(count)):
        reach = tuple(window.reach(a) for a in range(count))
        raise RangeError(
            f"{op}: padding must be at most half of the kernel {reach}, or a window would hold nothing but padding; got "
            f"{window.padding}"
        )


# ---- maximum ---------------------------------------------------------------------------------------------------------


def _max_pool(count: int) -> tuple[Op, Op]:
    """The ops max_pool1d, max_pool2d or max_pool3d, alone and with the places of the maxima."""
    op, ones, zeros = f"max_pool{count}d", (1,) * count, (0,) * count

    def forward(
        x: Array,
        *,
        kernel_size: Size,
        stride: Size,
        padding: Size = zeros,
        dilation: Size = ones,
        ceil_mode: bool = False,
    ) -> tuple[Array, Any]:
        window = Window(kernel_size, stride, padding, dilation, ceil_mode)
        _check(op, x, window)
        y, index = kernel("max_pool_forward", device_kind(x))(x, window)
        return y, (index, x.shape, window)

    def forward_with_indices(x: Array, **attributes: Any) -> tuple[tuple[Array, Array], Any]:
        y, saved = forward(x, **attributes)
        index, shape, window = saved
        return (y, kernel("max_pool_places", device_kind(x))(index, shape[2:], window)), saved

    alone = define(op, forward, _max_pool_vjp)
    return alone, define(f"{op}_with_indices", forward_with_indices, _max_pool_with_indices_vjp, differentiable=(0,))


def _max_pool_vjp(saved: Any, gradient: Array, needs: Any, slots: Any) -> tuple[Array | None, ...]:
    index, shape, window = saved
    return (kernel("max_pool_backward", device_kind(gradient))(gradient, index, shape, window),)


def _max_pool_with_indices_vjp(saved: Any, gradient: Any, needs: Any, slots: Any) -> tuple[Array | None, ...]:
    return _max_pool_vjp(saved, gradient[0], needs, slots)


_MAX_POOLS = {count: _max_pool(count) for count in (1, 2, 3)}
MAX_POOLS = {count: alone for count, (alone, _) in _MAX_POOLS.items()}
"""By number of dimensions; attributes are tuples of that many numbers."""
MAX_POOLS_WITH_INDICES = {count: both for count, (_, both) in _MAX_POOLS.items()}
"""Outputs the maxima and where they lie in the row-major order of S, int64."""


def _max_unpool(x: Array, index: Array, *, output_size: Size) -> tuple[Array, Any]:
    op = "max_unpool"
    expect.one_float_dtype(op, input=x)
    expect.integers(op, "indices", index)
    if index.shape != x.shape:
        raise ShapeError(f"{op}: indices must have the input's shape {x.shape}, got {index.shape}")
    expect.within(op, "index", index, math.prod(output_size), f": the output has size {output_size}")
    y = kernel("put_places", device_kind(x))(x, index, x.shape[:2] + output_size)
    return y, index


def _max_unpool_vjp(index: Any, gradient: Array, needs: Any, slots: Any) -> tuple[Array | None, ...]:
    return kernel("take_places", device_kind(gradient))(gradient, index), None


MAX_UNPOOL = define("max_unpool", _max_unpool, _max_unpool_vjp)
"""Inputs x (N, C, P) and the places of its elements in an output (N, C, *output_size) of zeros."""


# ---- average ---------------------------------------------------------------------------------------------------------


def _avg_pool(count: int) -> Op:
    """The op avg_pool1d, avg_pool2d or avg_pool3d."""
    op, ones, zeros = f"avg_pool{count}d", (1,) * count, (0,) * count

    def forward(
        x: Array,
        *,
        kernel_size: Size,
        stride: Size,
        padding: Size = zeros,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
    ) -> tuple[Array, Any]:
        window = Window(kernel_size, stride, padding, ones, ceil_mode)
        _check(op, x, window)
        y = kernel("avg_pool_forward", device_kind(x))(x, window, count_include_pad, divisor_override)
        return y, (x.shape, window, count_include_pad, divisor_override)

    return define(op, forward, _avg_pool_vjp)


def _avg_pool_vjp(saved: Any, gradient: Array, needs: Any, slots: Any) -> tuple[Array | None, ...]:
    return (kernel("avg_pool_backward", device_kind(gradient))(gradient, *saved),)


AVG_POOLS = {count: _avg_pool(count) for count in (1, 2, 3)}
"""By number of dimensions; attributes are tuples of that many numbers."""


# ---- over a given number of bins -------------------------------------------------------------------------------------


def _check_bins(op: str, count: int, x: Array) -> None:
    expect.one_float_dtype(op, input=x)
    expect.dimensions(op, "input", x, 2 + count, LAYOUT[count])
    if not all(x.shape[1:]):
        raise ShapeError(f"{op}: all dimensions but the batch must have elements, got shape {x.shape}")


def _adaptive_avg_pool(count: int) -> Op:
    """The op adaptive_avg_pool1d, adaptive_avg_pool2d or adaptive_avg_pool3d."""
    op = f"adaptive_avg_pool{count}d"

    def forward(x: Array, *, output_size: Size) -> tuple[Array, Any]:
        _check_bins(op, count, x)
        return kernel("adaptive_avg_pool_forward", device_kind(x))(x, output_size), x.shape

    return define(op, forward, _adaptive_avg_pool_vjp)


def _adaptive_avg_pool_vjp(saved: Any, gradient: Array, needs: Any, slots: Any) -> tuple[Array | None, ...]:
    return (kernel("adaptive_avg_pool_backward", device_kind(gradient))(gradient, saved),)


def _adaptive_max_pool(count: int) -> Op:
    """The op adaptive_max_pool1d, adaptive_max_pool2d or adaptive_max_pool3d; its second output is where the maxima lie."""
    op = f"adaptive_max_pool{count}d"

    def forward(x: Array, *, output_size: Size) -> tuple[tuple[Array, Array], Any]:
        _check_bins(op, count, x)
        y, index = kernel("adaptive_max_pool_forward", device_kind(x))(x, output_size)
        return (y, index), (index, x.shape)

    return define(op, forward, _adaptive_max_pool_vjp, differentiable=(0,))


def _adaptive_max_pool_vjp(saved: Any, gradient: Any, needs: Any, slots: Any) -> tuple[Array | None, ...]:
    return (kernel("add_places", device_kind(gradient[0]))(gradient[0], *saved),)


ADAPTIVE_AVG_POOLS = {count: _adaptive_avg_pool(count) for count in (1, 2, 3)}
ADAPTIVE_MAX_POOLS = {count: _adaptive_max_pool(count) for count in (1, 2, 3)}
"""By number of dimensions; ``output_size`` is a tuple of that many numbers."""
