"""Two-dimensional convolution (cross-correlation, as everywhere in deep learning)."""

from __future__ import annotations

from typing import Any

from ..backend import device_kind
from ..errors import RangeError, ShapeError
from ..kernels.table import kernel
from ..kernels.window import Pair, Window
from ..op import Array, define
from . import expect


def _check(x: Array, weight: Array, bias: Array | None, window: Window, groups: int) -> None:
    expect.one_float_dtype("conv2d", input=x, weight=weight, bias=bias)
    expect.dimensions("conv2d", "input", x, 4, "(batch, channels, height, width)")
    expect.dimensions("conv2d", "weight", weight, 4, "(out_channels, in_channels / groups, rows, columns)")
    if groups < 1 or weight.shape[0] % groups:
        raise RangeError(f"conv2d: groups must divide out_channels={weight.shape[0]}, got groups={groups}")
    if x.shape[1] != weight.shape[1] * groups:
        raise ShapeError(
            f"conv2d: a weight of shape {weight.shape} with groups={groups} expects {weight.shape[1] * groups} input "
            f"channels (dimension 1), got an input of shape {x.shape} with {x.shape[1]}"
        )
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ShapeError(f"conv2d: bias must have shape {weight.shape[:1]}, got {bias.shape}")
    window_fits("conv2d", x, window)


def window_fits(op: str, x: Array, window: Window) -> None:
    """The window fits into the padded input at least once."""
    padded = tuple(x.shape[2 + a] + 2 * window.padding[a] for a in (0, 1))
    reach = (window.reach(0), window.reach(1))
    if min(window.kernel) < 1 or padded[0] < reach[0] or padded[1] < reach[1]:
        raise ShapeError(
            f"{op}: the kernel {window.kernel} (dilation {window.dilation}: {reach}) is larger than the padded input "
            f"{padded} (input of shape {x.shape}, padding {window.padding}); use more padding or a smaller kernel"
        )


def _conv2d(
    x: Array,
    weight: Array,
    bias: Array | None = None,
    *,
    stride: Pair = (1, 1),
    padding: Pair = (0, 0),
    dilation: Pair = (1, 1),
    groups: int = 1,
) -> tuple[Array, Any]:
    window = Window(tuple(weight.shape[2:]), stride, padding, dilation)
    _check(x, weight, bias, window, groups)
    y = kernel("conv2d_forward", device_kind(x))(x, weight, bias, window, groups)
    return y, (x, weight, window, groups)


def _conv2d_vjp(saved: Any, gradient: Array, needs: Any, slots: Any) -> tuple[Array | None, ...]:
    x, weight, window, groups = saved
    device = device_kind(gradient)
    dx, dw = None, None
    if needs[0]:
        dx = kernel("conv2d_input_gradient", device)(gradient, weight, x.shape, window, groups)
    if needs[1]:
        dw = kernel("conv2d_weight_gradient", device)(gradient, x, weight.shape, window, groups, out=slots[1])
    if len(needs) == 2:
        return dx, dw
    return dx, dw, kernel("channel_sum", device)(gradient, out=slots[2]) if needs[2] else None


CONV2D = define("conv2d", _conv2d, _conv2d_vjp)
"""Inputs x (N, C, H, W), weight (O, C/groups, I, J), perhaps bias (O,); all attributes are pairs but ``groups``."""
