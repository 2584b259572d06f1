"""Convolution (cross-correlation, as everywhere in deep learning) and its transpose over one, two or three dimensions."""

from __future__ import annotations

import math
from typing import Any

from ..backend import device_kind
from ..errors import RangeError, ShapeError
from ..kernels.table import kernel
from ..kernels.window import Size, Window
from ..op import Array, Op, define
from . import expect

LAYOUT = {
    1: "(batch, channels, length)",
    2: "(batch, channels, height, width)",
    3: "(batch, channels, depth, height, width)",
}
"""How an input with that many dimensions behind the channels is called in messages."""
_KERNEL = {1: "length", 2: "rows, columns", 3: "depth, rows, columns"}


def _check(op: str, count: int, x: Array, weight: Array, bias: Array | None, groups: int) -> None:
    """Dtypes and dimensions; ``weight`` begins with the channels of the side that is convolved into."""
    expect.one_float_dtype(op, input=x, weight=weight, bias=bias)
    expect.dimensions(op, "input", x, 2 + count, LAYOUT[count])
    first, second = ("in", "out") if "transpose" in op else ("out", "in")
    expect.dimensions(
        op, "weight", weight, 2 + count, f"({first}_channels, {second}_channels / groups, {_KERNEL[count]})"
    )
    if groups < 1 or weight.shape[0] % groups:
        raise RangeError(f"{op}: groups must divide {first}_channels={weight.shape[0]}, got groups={groups}")


def _check_channels(op: str, x: Array, weight: Array, groups: int, expected: int) -> None:
    if x.shape[1] != expected:
        raise ShapeError(
            f"{op}: a weight of shape {weight.shape} with groups={groups} expects {expected} input channels (dimension 1), "
            f"got an input of shape {x.shape} with {x.shape[1]}"
        )


def _check_bias(op: str, bias: Array | None, channels: int) -> None:
    if bias is not None and bias.shape != (channels,):
        raise ShapeError(f"{op}: bias must have shape {(channels,)}, got {bias.shape}")


def window_fits(op: str, shape: tuple[int, ...], window: Window) -> None:
    """The window fits into the padded input of ``shape`` at least once."""
    count = len(window.kernel)
    padded = tuple(shape[2 + a] + 2 * window.padding[a] for a in range(count))
    reach = tuple(window.reach(a) for a in range(count))
    if min(window.kernel) < 1 or any(have < need for have, need in zip(padded, reach, strict=True)):
        raise ShapeError(
            f"{op}: the kernel {window.kernel} (dilation {window.dilation}: {reach}) is larger than the padded input "
            f"{padded} (input of shape {shape}, padding {window.padding}); use more padding or a smaller kernel"
        )


# ---- convolution -----------------------------------------------------------------------------------------------------


def _convolution(count: int) -> Op:
    """The op conv1d, conv2d or conv3d."""
    op, ones, zeros = f"conv{count}d", (1,) * count, (0,) * count

    def forward(
        x: Array,
        weight: Array,
        bias: Array | None = None,
        *,
        stride: Size = ones,
        padding: Size = zeros,
        dilation: Size = ones,
        groups: int = 1,
    ) -> tuple[Array, Any]:
        window = Window(tuple(weight.shape[2:]), stride, padding, dilation)
        _check(op, count, x, weight, bias, groups)
        _check_channels(op, x, weight, groups, weight.shape[1] * groups)
        _check_bias(op, bias, weight.shape[0])
        window_fits(op, x.shape, window)
        x = kernel("arrange_images", device_kind(x))(x)
        y = kernel("conv_forward", device_kind(x))(x, weight, bias, window, groups)
        return y, (x, weight, window, groups)

    return define(op, forward, _convolution_vjp)


def _convolution_vjp(saved: Any, gradient: Array, needs: Any, slots: Any) -> tuple[Array | None, ...]:
    x, weight, window, groups = saved
    device = device_kind(gradient)
    gradient = kernel("arrange_images", device)(gradient)
    dx, dw = None, None
    if needs[0]:
        dx = kernel("conv_input_gradient", device)(gradient, weight, x.shape, window, groups)
        if slots[0] is not None:
            dx = kernel("put_images", device)(dx, slots[0])
    if needs[1]:
        dw = kernel("conv_weight_gradient", device)(gradient, x, weight.shape, window, groups, out=slots[1])
    if len(needs) == 2:
        return dx, dw
    return dx, dw, kernel("channel_sum", device)(gradient, out=slots[2]) if needs[2] else None


CONVOLUTIONS = {count: _convolution(count) for count in (1, 2, 3)}
"""By number of dimensions. Inputs x (N, C, S), weight (O, C/groups, K), perhaps bias (O,); attributes are tuples of that many
numbers, but ``groups``."""


# ---- transposed convolution ------------------------------------------------------------------------------------------


def _transposed_size(op: str, x: Array, window: Window, output_padding: Size) -> Size:
    """(L - 1) * stride - 2 padding + reach + output_padding along each dimension."""
    for axis, extra in enumerate(output_padding):
        if extra and extra >= max(window.stride[axis], window.dilation[axis]):
            raise RangeError(
                f"{op}: output_padding must be smaller than stride or dilation, got output_padding={output_padding}, "
                f"stride={window.stride}, dilation={window.dilation}"
            )
    size = tuple(
        (x.shape[2 + a] - 1) * window.stride[a] - 2 * window.padding[a] + window.reach(a) + output_padding[a]
        for a in range(len(window.kernel))
    )
    if min(size) < 1 or min(x.shape[2:]) < 1:
        raise ShapeError(
            f"{op}: an input of shape {x.shape} with kernel {window.kernel} and padding {window.padding} would give an "
            f"output of size {size}; use less padding"
        )
    return size


def _transposed_convolution(count: int) -> Op:
    """The op conv_transpose1d, conv_transpose2d or conv_transpose3d: the input gradient of a convolution as a forward."""
    op, ones, zeros = f"conv_transpose{count}d", (1,) * count, (0,) * count

    def forward(
        x: Array,
        weight: Array,
        bias: Array | None = None,
        *,
        stride: Size = ones,
        padding: Size = zeros,
        output_padding: Size = zeros,
        dilation: Size = ones,
        groups: int = 1,
    ) -> tuple[Array, Any]:
        window = Window(tuple(weight.shape[2:]), stride, padding, dilation)
        _check(op, count, x, weight, bias, groups)
        _check_channels(op, x, weight, groups, weight.shape[0])
        channels = weight.shape[1] * groups
        _check_bias(op, bias, channels)
        shape = (x.shape[0], channels) + _transposed_size(op, x, window, output_padding)
        x = kernel("arrange_images", device_kind(x))(x)
        y = kernel("conv_input_gradient", device_kind(x))(x, weight, shape, window, groups)
        if bias is not None:
            y += bias.reshape((-1,) + (1,) * count)
        return y, (x, weight, window, groups)

    return define(op, forward, _transposed_vjp)


def _transposed_vjp(saved: Any, gradient: Array, needs: Any, slots: Any) -> tuple[Array | None, ...]:
    x, weight, window, groups = saved
    device = device_kind(gradient)
    gradient = kernel("arrange_images", device)(gradient)
    dx, dw = None, None
    if needs[0]:
        dx = kernel("conv_forward", device)(gradient, weight, None, window, groups)
        dx = dx[(..., *(slice(n) for n in x.shape[2:]))]  # output_padding may leave room for one more place
    if needs[1]:
        dw = kernel("conv_weight_gradient", device)(x, gradient, weight.shape, window, groups, out=slots[1])
    if len(needs) == 2:
        return dx, dw
    return dx, dw, kernel("channel_sum", device)(gradient, out=slots[2]) if needs[2] else None


TRANSPOSED_CONVOLUTIONS = {count: _transposed_convolution(count) for count in (1, 2, 3)}
"""By number of dimensions. Inputs x (N, C, S), weight (C, O/groups, K), perhaps bias (O,); attributes as for CONVOLUTIONS."""


# ---- windows as columns ----------------------------------------------------------------------------------------------


def _columns(op: str, shape: tuple[int, ...], attributes: dict[str, Size]) -> Window:
    window = Window(attributes["kernel_size"], attributes["stride"], attributes["padding"], attributes["dilation"])
    window_fits(op, shape, window)
    return window


def _im2col(x: Array, **attributes: Size) -> tuple[Array, Any]:
    expect.one_float_dtype("unfold", input=x)
    window = _columns("unfold", x.shape, attributes)
    return kernel("unfold_windows", device_kind(x))(x, window), (x.shape[2:], window)


def _im2col_vjp(saved: Any, gradient: Array, needs: Any, slots: Any) -> tuple[Array | None, ...]:
    return (kernel("fold_windows", device_kind(gradient))(gradient, *saved),)


IM2COL = define("im2col", _im2col, _im2col_vjp)
"""Every window of x (N, C, S) as a column: (N, C*K, places). Attributes kernel_size, stride, padding, dilation."""


def _col2im(columns: Array, *, output_size: Size, **attributes: Size) -> tuple[Array, Any]:
    expect.one_float_dtype("fold", input=columns)
    expect.dimensions("fold", "input", columns, 3, "(batch, channels * kernel elements, places)")
    window = _columns("fold", (0, 0) + output_size, attributes)
    elements, places = math.prod(window.kernel), math.prod(window.output(output_size))
    if columns.shape[1] % elements or columns.shape[2] != places:
        raise ShapeError(
            f"fold: output_size={output_size} with kernel {window.kernel} expects (batch, a multiple of {elements}, {places}), "
            f"got shape {columns.shape}"
        )
    return kernel("fold_windows", device_kind(columns))(columns, output_size, window), window


def _col2im_vjp(window: Any, gradient: Array, needs: Any, slots: Any) -> tuple[Array | None, ...]:
    return (kernel("unfold_windows", device_kind(gradient))(gradient, window),)


COL2IM = define("col2im", _col2im, _col2im_vjp)
"""The transpose of im2col: columns (N, C*K, places) summed into (N, C, *output_size)."""
