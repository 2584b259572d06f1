"""Maximum and average over windows of images (N, C, H, W)."""

from __future__ import annotations

from typing import Any

from ..backend import device_kind
from ..errors import RangeError
from ..kernels.table import kernel
from ..kernels.window import Pair, Window
from ..op import Array, define
from . import expect
from .conv import window_fits

_IMAGE = "(batch, channels, height, width)"


def _check(op: str, x: Array, window: Window) -> None:
    expect.one_float_dtype(op, input=x)
    expect.dimensions(op, "input", x, 4, _IMAGE)
    window_fits(op, x, window)
    if any(window.padding[a] * 2 > window.reach(a) for a in (0, 1)):
        raise RangeError(
            f"{op}: padding must be at most half of the kernel {(window.reach(0), window.reach(1))}, or a window would hold nothing but "
            f"padding; got {window.padding}"
        )


# ---- maximum


def _max_pool2d(
    x: Array,
    *,
    kernel_size: Pair,
    stride: Pair,
    padding: Pair = (0, 0),
    dilation: Pair = (1, 1),
    ceil_mode: bool = False,
) -> tuple[Array, Any]:
    window = Window(kernel_size, stride, padding, dilation, ceil_mode)
    _check("max_pool2d", x, window)
    y, index = kernel("max_pool2d_forward", device_kind(x))(x, window)
    return y, (index, x.shape, window)


def _max_pool2d_vjp(saved: Any, gradient: Array, needs: Any, slots: Any) -> tuple[Array | None, ...]:
    index, shape, window = saved
    return (kernel("max_pool2d_backward", device_kind(gradient))(gradient, index, shape, window),)


MAX_POOL2D = define("max_pool2d", _max_pool2d, _max_pool2d_vjp)


# ---- average


def _avg_pool2d(
    x: Array,
    *,
    kernel_size: Pair,
    stride: Pair,
    padding: Pair = (0, 0),
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> tuple[Array, Any]:
    window = Window(kernel_size, stride, padding, (1, 1), ceil_mode)
    _check("avg_pool2d", x, window)
    y = kernel("avg_pool2d_forward", device_kind(x))(x, window, count_include_pad, divisor_override)
    return y, (x.shape, window, count_include_pad, divisor_override)


def _avg_pool2d_vjp(saved: Any, gradient: Array, needs: Any, slots: Any) -> tuple[Array | None, ...]:
    return (kernel("avg_pool2d_backward", device_kind(gradient))(gradient, *saved),)


AVG_POOL2D = define("avg_pool2d", _avg_pool2d, _avg_pool2d_vjp)


# ---- average over a given number of bins


def _adaptive_avg_pool2d(x: Array, *, output_size: Pair) -> tuple[Array, Any]:
    expect.one_float_dtype("adaptive_avg_pool2d", input=x)
    expect.dimensions("adaptive_avg_pool2d", "input", x, 4, _IMAGE)
    return kernel("adaptive_avg_pool2d_forward", device_kind(x))(x, output_size), x.shape


def _adaptive_avg_pool2d_vjp(saved: Any, gradient: Array, needs: Any, slots: Any) -> tuple[Array | None, ...]:
    return (kernel("adaptive_avg_pool2d_backward", device_kind(gradient))(gradient, saved),)


ADAPTIVE_AVG_POOL2D = define("adaptive_avg_pool2d", _adaptive_avg_pool2d, _adaptive_avg_pool2d_vjp)
