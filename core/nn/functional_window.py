"""Convolution and pooling as functions."""

from __future__ import annotations

from ..errors import RangeError, ShapeError
from ..graph import apply
from ..ops.conv import CONV2D
from ..ops.expect import pair
from ..ops.pool import ADAPTIVE_AVG_POOL2D, AVG_POOL2D, MAX_POOL2D
from ..tensor import Tensor
from .functional_shape import pad

Size = int | tuple[int, ...]


def _batched(op: str, input: Tensor, dimensions: int, layout: str) -> tuple[Tensor, bool]:
    """``input`` with a batch dimension, and whether it had none."""
    if input.ndim == dimensions:
        return input, False
    if input.ndim == dimensions - 1:
        return input.unsqueeze(0), True
    raise ShapeError(f"{op}: input must be {layout}, with or without the batch dimension, got shape {input.shape}")


def _same_padding(input: Tensor, kernel: tuple[int, ...], dilation: tuple[int, int]) -> tuple[Tensor, tuple[int, int]]:
    """The padding that keeps the size; where that is odd, the input gets one row or column more at its end."""
    total = [dilation[a] * (kernel[a] - 1) for a in (0, 1)]
    if any(t % 2 for t in total):
        input = pad(input, (0, total[1] % 2, 0, total[0] % 2))
    return input, (total[0] // 2, total[1] // 2)


def conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Size = 1,
    padding: Size | str = 0,
    dilation: Size = 1,
    groups: int = 1,
) -> Tensor:
    """``y[n,o,p,q] = bias[o] + sum over c,i,j of weight[o,c,i,j] * x[n, c, p*stride + i*dilation - padding, ...]``.

    Shapes: input (N, C, H, W) or (C, H, W), weight (O, C/groups, I, J), bias (O,); output (N, O, P, Q) with
    P = floor((H + 2 padding - dilation (I - 1) - 1) / stride) + 1. ``padding`` may be "same" (stride 1) or "valid".
    Raises ShapeError for another number of channels or an image smaller than the kernel.

    >>> import phalanx
    >>> conv2d(phalanx.ones(1, 1, 3, 3), phalanx.ones(1, 1, 2, 2)).tolist()
    [[[[4.0, 4.0], [4.0, 4.0]]]]
    """
    input, lone = _batched("conv2d", input, 4, "(batch, channels, height, width)")
    strides, dilations = pair("conv2d", "stride", stride, 1), pair("conv2d", "dilation", dilation, 1)
    if isinstance(padding, str):
        if padding not in ("same", "valid"):
            raise RangeError(f"conv2d: padding must be numbers, 'same' or 'valid', got {padding!r}")
        if padding == "same" and strides != (1, 1):
            raise RangeError(f"conv2d: padding='same' needs stride 1, got {stride!r}")
        pads = (0, 0)
        if padding == "same" and weight.ndim == 4:
            input, pads = _same_padding(input, weight.shape[2:], dilations)
    else:
        pads = pair("conv2d", "padding", padding, 0)
    y = apply(CONV2D, input, weight, bias, stride=strides, padding=pads, dilation=dilations, groups=int(groups))
    return y.squeeze(0) if lone else y


def _single(op: str, option: str, value: Size) -> int:
    if isinstance(value, int):
        return value
    if len(value) != 1:
        raise RangeError(f"{op}: {option} must be one integer, got {value!r}")
    return value[0]


def conv1d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Size = 1,
    padding: Size | str = 0,
    dilation: Size = 1,
    groups: int = 1,
) -> Tensor:
    """conv2d along one dimension: input (N, C, L) or (C, L), weight (O, C/groups, J), output (N, O, Q)."""
    input, lone = _batched("conv1d", input, 3, "(batch, channels, length)")
    if weight.ndim != 3:
        raise ShapeError(
            f"conv1d: weight must have 3 dimensions (out_channels, in_channels / groups, length), got {weight.shape}"
        )
    if input.shape[1] != weight.shape[1] * groups:
        raise ShapeError(
            f"conv1d: a weight of shape {weight.shape} with groups={groups} expects {weight.shape[1] * groups} input "
            f"channels (dimension 1), got an input of shape {input.shape} with {input.shape[1]}"
        )
    y = conv2d(
        input.unsqueeze(2),
        weight.unsqueeze(2),
        bias,
        (1, _single("conv1d", "stride", stride)),
        padding if isinstance(padding, str) else (0, _single("conv1d", "padding", padding)),
        (1, _single("conv1d", "dilation", dilation)),
        groups,
    ).squeeze(2)
    return y.squeeze(0) if lone else y


def max_pool2d(
    input: Tensor,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
    dilation: Size = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Tensor:
    """The largest value of each window, padding counting as -inf: (N, C, H, W) -> (N, C, P, Q).

    ``stride`` is the window's size if not given. The gradient goes to the first of equals, as in PyTorch.
    """
    op = "max_pool2d"
    if return_indices:
        raise RangeError(f"{op}: return_indices=True is not supported")
    input, lone = _batched(op, input, 4, "(batch, channels, height, width)")
    kernel = pair(op, "kernel_size", kernel_size, 1)
    y = apply(
        MAX_POOL2D,
        input,
        kernel_size=kernel,
        stride=kernel if stride is None else pair(op, "stride", stride, 1),
        padding=pair(op, "padding", padding, 0),
        dilation=pair(op, "dilation", dilation, 1),
        ceil_mode=bool(ceil_mode),
    )
    return y.squeeze(0) if lone else y


def avg_pool2d(
    input: Tensor,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Tensor:
    """The mean of each window, padding counting as zeros or not at all: (N, C, H, W) -> (N, C, P, Q)."""
    op = "avg_pool2d"
    if divisor_override is not None and divisor_override == 0:
        raise RangeError(f"{op}: divisor_override must not be 0")
    input, lone = _batched(op, input, 4, "(batch, channels, height, width)")
    kernel = pair(op, "kernel_size", kernel_size, 1)
    y = apply(
        AVG_POOL2D,
        input,
        kernel_size=kernel,
        stride=kernel if stride is None else pair(op, "stride", stride, 1),
        padding=pair(op, "padding", padding, 0),
        ceil_mode=bool(ceil_mode),
        count_include_pad=bool(count_include_pad),
        divisor_override=divisor_override,
    )
    return y.squeeze(0) if lone else y


def adaptive_avg_pool2d(input: Tensor, output_size: int | tuple[int | None, int | None] | None) -> Tensor:
    """Means over ``output_size`` bins of rows and columns (None keeps that side): (N, C, H, W) -> (N, C, P, Q)."""
    op = "adaptive_avg_pool2d"
    input, lone = _batched(op, input, 4, "(batch, channels, height, width)")
    wanted = output_size if isinstance(output_size, tuple | list) else (output_size, output_size)
    size = tuple(have if want is None else want for want, have in zip(wanted, input.shape[2:], strict=True))
    y = apply(ADAPTIVE_AVG_POOL2D, input, output_size=pair(op, "output_size", size, 0))
    return y.squeeze(0) if lone else y
