"""Convolutions and transposed convolutions as functions, and windows as columns."""

from __future__ import annotations

from typing import Any

from ..errors import RangeError, ShapeError
from ..graph import apply
from ..ops.conv import COL2IM, CONVOLUTIONS, IM2COL, LAYOUT, TRANSPOSED_CONVOLUTIONS
from ..ops.expect import sizes
from ..tensor import Tensor
from .functional_shape import pad

Size = int | tuple[int, ...]


def batched(op: str, input: Tensor, count: int) -> tuple[Tensor, bool]:
    """``input`` (N, C, S) of ``count`` dimensions behind the channels, and whether it came without the N."""
    if input.ndim == count + 2:
        return input, False
    if input.ndim == count + 1:
        return input.unsqueeze(0), True
    raise ShapeError(
        f"{op}: input must be {LAYOUT[count]}, with or without the batch dimension, got shape {input.shape}"
    )


def _same_padding(input: Tensor, kernel: tuple[int, ...], dilation: tuple[int, ...]) -> tuple[Tensor, tuple[int, ...]]:
    """The padding that keeps the size; where that is odd, the input gets one element more at that end."""
    total = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
    if any(t % 2 for t in total):
        input = pad(input, [n for t in reversed(total) for n in (0, t % 2)])
    return input, tuple(t // 2 for t in total)


def _convolution(
    count: int,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Size,
    padding: Size | str,
    dilation: Size,
    groups: int,
) -> Tensor:
    op = f"conv{count}d"
    input, lone = batched(op, input, count)
    strides, dilations = sizes(op, "stride", stride, count, 1), sizes(op, "dilation", dilation, count, 1)
    if isinstance(padding, str):
        if padding not in ("same", "valid"):
            raise RangeError(f"{op}: padding must be numbers, 'same' or 'valid', got {padding!r}")
        if padding == "same" and max(strides) != 1:
            raise RangeError(f"{op}: padding='same' needs stride 1, got {stride!r}")
        pads: tuple[int, ...] = (0,) * count
        if padding == "same" and weight.ndim == count + 2:
            input, pads = _same_padding(input, weight.shape[2:], dilations)
    else:
        pads = sizes(op, "padding", padding, count, 0)
    y = apply(
        CONVOLUTIONS[count], input, weight, bias, stride=strides, padding=pads, dilation=dilations, groups=int(groups)
    )
    return y.squeeze(0) if lone else y


def conv1d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Size = 1,
    padding: Size | str = 0,
    dilation: Size = 1,
    groups: int = 1,
) -> Tensor:
    """conv2d along one dimension: input (N, C, L) or (C, L), weight (O, C/groups, K), output (N, O, P).

    >>> F.conv1d(phalanx.ones(1, 1, 4), phalanx.ones(1, 1, 3)).tolist()
    [[[3.0, 3.0]]]
    """
    return _convolution(1, input, weight, bias, stride, padding, dilation, groups)


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

    >>> F.conv2d(phalanx.ones(1, 1, 3, 3), phalanx.ones(1, 1, 2, 2)).tolist()
    [[[[4.0, 4.0], [4.0, 4.0]]]]
    """
    return _convolution(2, input, weight, bias, stride, padding, dilation, groups)


def conv3d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Size = 1,
    padding: Size | str = 0,
    dilation: Size = 1,
    groups: int = 1,
) -> Tensor:
    """conv2d over volumes: input (N, C, D, H, W) or (C, D, H, W), weight (O, C/groups, K, I, J), output of 5 dimensions.

    >>> F.conv3d(phalanx.ones(1, 1, 2, 2, 2), phalanx.ones(1, 1, 2, 2, 2)).tolist()
    [[[[[8.0]]]]]
    """
    return _convolution(3, input, weight, bias, stride, padding, dilation, groups)


# ---- transposed ------------------------------------------------------------------------------------------------------


def _transposed(count: int, input: Tensor, weight: Tensor, bias: Tensor | None, **options: Any) -> Tensor:
    op = f"conv_transpose{count}d"
    input, lone = batched(op, input, count)
    groups = int(options.pop("groups"))
    minimum = {"stride": 1, "dilation": 1, "padding": 0, "output_padding": 0}
    numbers = {option: sizes(op, option, value, count, minimum[option]) for option, value in options.items()}
    y = apply(TRANSPOSED_CONVOLUTIONS[count], input, weight, bias, groups=groups, **numbers)
    return y.squeeze(0) if lone else y


def conv_transpose1d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Size = 1,
    padding: Size = 0,
    output_padding: Size = 0,
    groups: int = 1,
    dilation: Size = 1,
) -> Tensor:
    """conv_transpose2d along one dimension: input (N, C, L) or (C, L), weight (C, O/groups, K).

    >>> F.conv_transpose1d(phalanx.tensor([[[1.0, 2.0]]]), phalanx.ones(1, 1, 2), stride=2).tolist()
    [[[1.0, 1.0, 2.0, 2.0]]]
    """
    options = {"stride": stride, "padding": padding, "output_padding": output_padding, "dilation": dilation}
    return _transposed(1, input, weight, bias, groups=groups, **options)


def conv_transpose2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Size = 1,
    padding: Size = 0,
    output_padding: Size = 0,
    groups: int = 1,
    dilation: Size = 1,
) -> Tensor:
    """The transpose of conv2d as a linear map: each element adds its multiple of the kernel to the output.

    Shapes: input (N, C, H, W) or (C, H, W), weight (C, O/groups, I, J), bias (O,); output (N, O, P, Q) with
    P = (H - 1) stride - 2 padding + dilation (I - 1) + output_padding + 1. Raises RangeError for an ``output_padding`` that is
    not below stride or dilation. Zeiler et al., "Deconvolutional Networks", 2010.

    >>> F.conv_transpose2d(phalanx.ones(1, 1, 2, 2), phalanx.ones(1, 1, 2, 2), stride=2).shape
    (1, 1, 4, 4)
    """
    options = {"stride": stride, "padding": padding, "output_padding": output_padding, "dilation": dilation}
    return _transposed(2, input, weight, bias, groups=groups, **options)


def conv_transpose3d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Size = 1,
    padding: Size = 0,
    output_padding: Size = 0,
    groups: int = 1,
    dilation: Size = 1,
) -> Tensor:
    """conv_transpose2d over volumes: input (N, C, D, H, W) or (C, D, H, W), weight (C, O/groups, K, I, J).

    >>> F.conv_transpose3d(phalanx.ones(1, 1, 2, 2, 2), phalanx.ones(1, 1, 2, 2, 2), stride=2).shape
    (1, 1, 4, 4, 4)
    """
    options = {"stride": stride, "padding": padding, "output_padding": output_padding, "dilation": dilation}
    return _transposed(3, input, weight, bias, groups=groups, **options)


# ---- windows as columns ----------------------------------------------------------------------------------------------


def unfold(input: Tensor, kernel_size: Size, dilation: Size = 1, padding: Size = 0, stride: Size = 1) -> Tensor:
    """Every window as a column: (N, C, H, W) -> (N, C * I * J, places), places in row-major order.

    >>> F.unfold(phalanx.arange(4.0).reshape(1, 1, 2, 2), (1, 2)).tolist()
    [[[0.0, 2.0], [1.0, 3.0]]]
    """
    input, lone = batched("unfold", input, 2)
    y = apply(IM2COL, input, **_window_options("unfold", kernel_size, dilation, padding, stride))
    return y.squeeze(0) if lone else y


def fold(
    input: Tensor, output_size: Size, kernel_size: Size, dilation: Size = 1, padding: Size = 0, stride: Size = 1
) -> Tensor:
    """The sum of columns at their windows' places, the transpose of unfold: (N, C * I * J, places) -> (N, C, *output_size).

    >>> F.fold(phalanx.ones(1, 2, 2), (1, 3), (1, 2)).tolist()
    [[[[1.0, 2.0, 1.0]]]]
    """
    lone = input.ndim == 2
    options = _window_options("fold", kernel_size, dilation, padding, stride)
    size = sizes("fold", "output_size", output_size, 2, 1)
    y = apply(COL2IM, input.unsqueeze(0) if lone else input, output_size=size, **options)
    return y.squeeze(0) if lone else y


def _window_options(op: str, kernel_size: Size, dilation: Size, padding: Size, stride: Size) -> dict[str, Any]:
    return {
        "kernel_size": sizes(op, "kernel_size", kernel_size, 2, 1),
        "dilation": sizes(op, "dilation", dilation, 2, 1),
        "padding": sizes(op, "padding", padding, 2, 0),
        "stride": sizes(op, "stride", stride, 2, 1),
    }
