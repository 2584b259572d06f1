"""Maximum and average pooling by oneDNN: float32, channels last.

oneDNN passes over NaN and takes the smallest finite number where the reference takes -inf; where an input could show the difference
(one maximum over it tells), the reference does the work. So it does for dilated windows, other dtypes and empty inputs.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from ...op import Array
from .. import reference_pool
from ..window import Size, Window
from . import channels_last, onednn_c
from .onednn import Pool, Primitive, Unsupported, layout, numbers, plan, same, wanted
from .onednn_conv import padding_after

FLOAT32 = np.dtype(np.float32)
SMALLEST = np.finfo(np.float32).min
UINT8_PLACES = 255
"""Up to so many elements a window, oneDNN numbers them in bytes."""


class _Pooling:
    """One primitive of one shape. ``kind`` is oneDNN's number of the algorithm."""

    __slots__ = ("primitive",)

    def __init__(self, kind: int, backward: bool, shape: Size, window: Window) -> None:
        output = window.output(shape[2:])
        if max(window.dilation) > 1:
            raise Unsupported("pooling: dilated windows are done by plain loops")
        y_shape = shape[:2] + output
        x, y = layout(shape, channels_last.strides(shape)), layout(y_shape, channels_last.strides(y_shape))
        after = padding_after(shape[2:], window, output)
        none = (0,) * len(output)
        steps = [numbers(n) for n in (window.stride, window.kernel, none, window.padding, after)]
        made = ahead = plan("pooling_forward", onednn_c.FORWARD, kind, x, y, *steps)
        arguments = {onednn_c.SRC: x, onednn_c.DST: y}
        if backward:
            made = plan("pooling_backward", kind, x, y, *steps, ahead)
            arguments = {onednn_c.DIFF_DST: y, onednn_c.DIFF_SRC: x}
        if kind == onednn_c.POOLING_MAX:
            numbers_of_winners = wanted(ahead, onednn_c.WORKSPACE)
            if not same(numbers_of_winners, layout(y_shape, channels_last.strides(y_shape), onednn_c.UINT8)):
                raise Unsupported("pooling: the places of the maxima are kept in another form than the reference's")
            arguments[onednn_c.WORKSPACE] = numbers_of_winners
        self.primitive = Primitive(made, arguments)


_poolings = Pool(_Pooling)


def _takes(x: Array, shape: Size, window: Window) -> bool:
    """Whether it is worth a try; whether oneDNN has fast code is found when the primitive is made."""
    return bool(x.dtype == FLOAT32 and math.prod(shape) and x.size)


# ---- maximum ---------------------------------------------------------------------------------------------------------


def max_pool_forward(x: Array, window: Window) -> tuple[Array, Array]:
    """As ``reference_pool.max_pool_forward``."""
    key, unit = (onednn_c.POOLING_MAX, False, x.shape, window), None
    if _takes(x, x.shape, window) and math.prod(window.kernel) <= UINT8_PLACES and not np.isnan(x.max()):
        unit = _poolings.take(key)
    if unit is None:
        return reference_pool.max_pool_forward(x, window)
    shape = x.shape[:2] + window.output(x.shape[2:])
    y, index = channels_last.empty(shape), channels_last.empty(shape, np.uint8)
    unit.primitive(channels_last.arranged(x), y, index)
    _poolings.give(key, unit)
    if y.min() <= SMALLEST:  # a window of nothing but -inf
        return reference_pool.max_pool_forward(x, window)
    return channels_last.to_first(y), channels_last.to_first(index)


def max_pool_backward(gradient: Array, index: Array, shape: Size, window: Window) -> Array:
    """As ``reference_pool.max_pool_backward``."""
    key, unit = (onednn_c.POOLING_MAX, True, tuple(shape), window), None
    if _takes(gradient, shape, window) and index.dtype == np.uint8:
        unit = _poolings.take(key)
    if unit is None:
        return reference_pool.max_pool_backward(gradient, index, shape, window)
    dx = channels_last.empty(tuple(shape))
    unit.primitive(channels_last.arranged(gradient), dx, channels_last.arranged(index))
    _poolings.give(key, unit)
    return channels_last.to_first(dx)


# ---- average ---------------------------------------------------------------------------------------------------------


def _mean_kind(shape: Size, window: Window, count_include_pad: bool, divisor: int | None) -> int | None:
    """oneDNN's algorithm that divides as these options say, if there is one."""
    if divisor is not None and divisor != math.prod(window.kernel):
        return None
    if divisor is None and not count_include_pad:
        return onednn_c.POOLING_MEAN_INSIDE
    output = window.output(shape[2:])
    beyond = any(n > p for n, p in zip(padding_after(shape[2:], window, output), window.padding, strict=True))
    return None if beyond and divisor is None else onednn_c.POOLING_MEAN  # what ceil_mode adds never counts


def avg_pool_forward(
    x: Array, window: Window, count_include_pad: bool = True, divisor_override: int | None = None
) -> Array:
    """As ``reference_pool.avg_pool_forward``."""
    kind, unit = _mean_kind(x.shape, window, count_include_pad, divisor_override), None
    key = (kind, False, x.shape, window)
    if kind is not None and _takes(x, x.shape, window):
        unit = _poolings.take(key)
    if unit is None:
        return reference_pool.avg_pool_forward(x, window, count_include_pad, divisor_override)
    y = channels_last.empty(x.shape[:2] + window.output(x.shape[2:]))
    unit.primitive(channels_last.arranged(x), y)
    _poolings.give(key, unit)
    return channels_last.to_first(y)


def avg_pool_backward(
    gradient: Array, shape: Size, window: Window, count_include_pad: bool = True, divisor_override: int | None = None
) -> Array:
    """As ``reference_pool.avg_pool_backward``."""
    kind, unit = _mean_kind(shape, window, count_include_pad, divisor_override), None
    key = (kind, True, tuple(shape), window)
    if kind is not None and _takes(gradient, shape, window):
        unit = _poolings.take(key)
    if unit is None:
        return reference_pool.avg_pool_backward(gradient, shape, window, count_include_pad, divisor_override)
    dx = channels_last.empty(tuple(shape))
    unit.primitive(channels_last.arranged(gradient), dx)
    _poolings.give(key, unit)
    return channels_last.to_first(dx)


def _bins(shape: Size, output: Size) -> Window | None:
    """The window that moves by its own size, where all bins are equally large."""
    if not math.prod(output) or any(n % count for n, count in zip(shape[2:], output, strict=True)):
        return None
    each = tuple(n // count for n, count in zip(shape[2:], output, strict=True))
    return Window(each, each, (0,) * len(each), (1,) * len(each)) if min(each) else None


def adaptive_avg_pool_forward(x: Array, output: Size) -> Array:
    """As ``reference_pool.adaptive_avg_pool_forward``."""
    window = _bins(x.shape, output) if x.dtype == FLOAT32 else None
    return reference_pool.adaptive_avg_pool_forward(x, output) if window is None else avg_pool_forward(x, window)


def adaptive_avg_pool_backward(gradient: Array, shape: Size) -> Array:
    """As ``reference_pool.adaptive_avg_pool_backward``."""
    window = _bins(shape, gradient.shape[2:]) if gradient.dtype == FLOAT32 else None
    if window is None:
        return reference_pool.adaptive_avg_pool_backward(gradient, shape)
    return avg_pool_backward(gradient, shape, window)


KERNELS: dict[str, Callable[..., Any]] = {
    "max_pool_forward": max_pool_forward,
    "max_pool_backward": max_pool_backward,
    "avg_pool_forward": avg_pool_forward,
    "avg_pool_backward": avg_pool_backward,
    "adaptive_avg_pool_forward": adaptive_avg_pool_forward,
    "adaptive_avg_pool_backward": adaptive_avg_pool_backward,
}
