"""Convolution over one to three dimensions by oneDNN: float32, forward and both gradients; so is its transpose.

Inputs of any layout, outputs logical (N, C, S) with channels last in memory. Weights stay (O, C/G, K) and are rearranged at each call, which
costs little beside the convolution. What oneDNN has no fast code for and all other dtypes go to the reference.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ...op import Array
from .. import reference, reference_conv
from ..window import Size, Window
from . import channels_last, onednn_c, side_by_side
from .onednn import Pool, Primitive, dense, layout, nbytes, numbers, plan, reorder, scratch, wanted

FLOAT32 = np.dtype(np.float32)

NARROW = 6
"""Below so many channels a group the input gradient is left to the reference: oneDNN computes whole blocks of 16."""


def padding_after(size: Size, window: Window, output: Size) -> Size:
    """Padding behind the input so that there are ``output`` places; none where the last elements are not met."""
    ends = ((output[a] - 1) * window.stride[a] + window.reach(a) - window.padding[a] for a in range(len(size)))
    return tuple(max(0, end - n) for end, n in zip(ends, size, strict=True))


class _Convolution:
    """One primitive of one shape, and what rearranges the weights for it, or their gradient after it."""

    __slots__ = ("primitive", "rearrange", "weight_bytes")

    def __init__(
        self, kind: str, shape: Size, weight: Size, output: Size, window: Window, groups: int, bias: bool = False,
        relu: bool = False,
    ) -> None:  # fmt: skip
        y_shape = (shape[0], weight[0]) + output
        grouped = weight if groups == 1 else (groups, weight[0] // groups) + weight[1:]  # the same memory
        x, y = layout(shape, channels_last.strides(shape)), layout(y_shape, channels_last.strides(y_shape))
        user, free = layout(grouped, dense(grouped)), layout(grouped, None)
        added = layout(weight[:1], (1,)) if bias else None
        after = padding_after(shape[2:], window, output)
        steps = [numbers(n) for n in (window.stride, (d - 1 for d in window.dilation), window.padding, after)]
        activation = onednn_c.RELU if relu else None
        made = plan(
            "convolution_forward",
            onednn_c.FORWARD,
            onednn_c.CONVOLUTION,
            x,
            free,
            added,
            y,
            *steps,
            activation=activation,
        )
        if kind == "forward":
            form = wanted(made, onednn_c.WEIGHTS)
            arguments = (
                {onednn_c.SRC: x, onednn_c.WEIGHTS: form} | ({onednn_c.BIAS: added} if bias else {}) | {onednn_c.DST: y}
            )
        elif kind == "input gradient":
            made = plan("convolution_backward_data", onednn_c.CONVOLUTION, x, free, y, *steps, made)
            form = wanted(made, onednn_c.WEIGHTS)
            arguments = {onednn_c.DIFF_DST: y, onednn_c.WEIGHTS: form, onednn_c.DIFF_SRC: x}
        else:
            made = plan("convolution_backward_weights", onednn_c.CONVOLUTION, x, free, None, y, *steps, made)
            form = wanted(made, onednn_c.DIFF_WEIGHTS)
            arguments = {onednn_c.SRC: x, onednn_c.DIFF_DST: y, onednn_c.DIFF_WEIGHTS: form}
        self.primitive = Primitive(made, arguments)
        self.rearrange = reorder(form, user) if kind == "weight gradient" else reorder(user, form)
        self.weight_bytes = nbytes(form)


_convolutions = Pool(_Convolution)


def _serves(x: Array, y: Array | None, weight: Size, dtype: np.dtype) -> bool:
    return x.dtype == FLOAT32 == dtype and min(x.shape) > 0 and min(weight) > 0 and (y is None or min(y.shape) > 0)


def _with_weight(unit: _Convolution, weight: Array, run: Callable[[Array], None]) -> None:
    """``run`` with the weights as the primitive wants them."""
    weight = np.ascontiguousarray(weight)
    if unit.rearrange is None:
        run(weight)
        return
    buffer = scratch.take(unit.weight_bytes)
    unit.rearrange(weight, buffer)
    run(buffer)
    scratch.give(buffer)


# ---- kernels ---------------------------------------------------------------------------------------------------------


def conv_forward(
    x: Array, weight: Array, bias: Array | None, window: Window, groups: int = 1, relu: bool = False
) -> Array:
    """As ``reference_conv.conv_forward``; with ``relu`` its positive part, in the same pass."""
    unit = None
    output = window.output(x.shape[2:])
    if _serves(x, None, weight.shape, weight.dtype) and min(output) > 0:
        side = side_by_side.plan(x.shape, weight.shape, output, window, groups)
        if side is not None:
            rows = side_by_side.together(x, side, side.step, side.width)
            y = conv_forward(rows, weight, bias, window, groups, relu)
            return side_by_side.apart(y, side, side.out_step, output[1])
        key = ("forward", x.shape, weight.shape, output, window, groups, bias is not None, relu)
        unit = _convolutions.take(key)
    if unit is None:
        y = reference_conv.conv_forward(x, weight, bias, window, groups)
        return np.maximum(y, 0, out=y) if relu else y
    last, added = channels_last.arranged(x), () if bias is None else (np.ascontiguousarray(bias, FLOAT32),)
    y = channels_last.empty((x.shape[0], weight.shape[0]) + output)
    _with_weight(unit, weight, lambda w: unit.primitive(last, w, *added, y))
    _convolutions.give(key, unit)
    return channels_last.to_first(y)


def _exact(size: Size, window: Window, output: Size) -> bool:
    """Whether the window has ``output`` places on an input of ``size`` (a transposed convolution may leave one more)."""
    return window.output(size) == output


def conv_input_gradient(gradient: Array, weight: Array, shape: Size, window: Window, groups: int = 1) -> Array:
    """As ``reference_conv.conv_input_gradient``."""
    unit, output = None, gradient.shape[2:]
    wide = weight.shape[1] >= NARROW or weight.shape[1] == groups > 1
    if (
        wide
        and _serves(gradient, None, weight.shape, weight.dtype)
        and min(shape) > 0
        and _exact(shape[2:], window, output)
    ):
        side = side_by_side.plan(tuple(shape), weight.shape, output, window, groups)
        if side is not None:
            rows = side_by_side.together(gradient, side, side.out_step, side.out_width)
            wide_shape = (len(rows), *shape[1:3], side.width)
            dx = conv_input_gradient(rows, weight, wide_shape, window, groups)
            return side_by_side.apart(dx, side, side.step, shape[3])
        key = ("input gradient", tuple(shape), weight.shape, output, window, groups)
        unit = _convolutions.take(key)
    if unit is None:
        gradient = np.ascontiguousarray(gradient)  # the reference adds up long rows
        return reference_conv.conv_input_gradient(gradient, weight, shape, window, groups)
    last, dx = channels_last.arranged(gradient), channels_last.empty(tuple(shape))
    _with_weight(unit, weight, lambda w: unit.primitive(last, w, dx))
    _convolutions.give(key, unit)
    return channels_last.to_first(dx)


def conv_weight_gradient(
    gradient: Array, x: Array, shape: Size, window: Window, groups: int = 1, out: Array | None = None
) -> Array:
    """As ``reference_conv.conv_weight_gradient``."""
    unit, output = None, gradient.shape[2:]
    if _serves(x, gradient, shape, gradient.dtype) and _exact(x.shape[2:], window, output):
        side = side_by_side.plan(x.shape, tuple(shape), output, window, groups)
        if side is not None:
            rows = side_by_side.together(x, side, side.step, side.width)
            gradient = side_by_side.together(gradient, side, side.out_step, side.out_width)
            return conv_weight_gradient(gradient, rows, shape, window, groups, out)
        key = ("weight gradient", x.shape, tuple(shape), output, window, groups)
        unit = _convolutions.take(key)
    if unit is None:
        return reference_conv.conv_weight_gradient(gradient, x, shape, window, groups, out)
    slot = out is not None and out.dtype == FLOAT32 and out.flags.c_contiguous
    dw = out if slot and out is not None else np.empty(shape, FLOAT32)
    last, g = channels_last.arranged(x), channels_last.arranged(gradient)
    if unit.rearrange is None:
        unit.primitive(last, g, dw)
    else:
        buffer = scratch.take(unit.weight_bytes)
        unit.primitive(last, g, buffer)
        unit.rearrange(buffer, dw)
        scratch.give(buffer)
    _convolutions.give(key, unit)
    return reference.deliver(dw, x.dtype, out)


def channel_sum(gradient: Array, out: Array | None = None) -> Array:
    """As ``reference_conv.channel_sum``: along memory where channels lie last."""
    if gradient.ndim < 3 or gradient.dtype != FLOAT32 or not channels_last.is_last(gradient):
        return reference_conv.channel_sum(gradient, out)
    rows = channels_last.to_last(gradient).reshape(-1, gradient.shape[1])
    total = np.matmul(np.ones((1, len(rows)), FLOAT32), rows)  # several times as fast as a sum along the first axis
    return reference.deliver(total[0], gradient.dtype, out)


def arrange_images(x: Array) -> Array:
    """As ``reference_conv.arrange_images``: channels last in memory."""
    return channels_last.to_first(channels_last.arranged(x)) if x.dtype == FLOAT32 and x.ndim > 2 and x.size else x


def put_images(images: Array, out: Array) -> Array:
    """As ``reference_conv.put_images``."""
    return out if channels_last.put(images, out) else reference_conv.put_images(images, out)


KERNELS: dict[str, Callable[..., Any]] = {
    "conv_forward": conv_forward,
    "conv_input_gradient": conv_input_gradient,
    "conv_weight_gradient": conv_weight_gradient,
    "channel_sum": channel_sum,
    "arrange_images": arrange_images,
    "put_images": put_images,
}
