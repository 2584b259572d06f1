"""Convolution over sequences (batch, channels, length), images (batch, channels, height, width) and volumes."""

from __future__ import annotations

import math
from typing import Any

from ..errors import RangeError
from ..tensor import Tensor
from . import functional as F
from . import init
from .module import Module
from .parameter import Parameter

Size = int | tuple[int, ...]
PADDING_MODES = {"zeros": "constant", "reflect": "reflect", "replicate": "replicate", "circular": "circular"}
"""``padding_mode`` of a layer -> ``mode`` of F.pad."""


def spread(value: Size, count: int, option: str) -> tuple[int, ...]:
    """One number for each of ``count`` dimensions."""
    if isinstance(value, int):
        return (value,) * count
    if len(value) == 1:
        return tuple(value) * count
    if len(value) != count:
        raise RangeError(f"{option} expects an integer or {count} of them, got {value!r}")
    return tuple(value)


class ConvBase(Module):
    """What convolutions and transposed ones share: options, weight and bias (out_channels,)."""

    weight: Parameter
    bias: Parameter | None
    dimensions: int
    transposed = False

    def __init__(  # PyTorch's signature
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        stride: Size,
        padding: Size | str,
        dilation: Size,
        groups: int,
        bias: bool,
        padding_mode: str,
        device: Any,
        dtype: Any,
    ) -> None:
        super().__init__()
        name, count = type(self).__name__, self.dimensions
        if groups <= 0 or in_channels % groups or out_channels % groups:
            raise RangeError(
                f"{name}: in_channels={in_channels} and out_channels={out_channels} must be multiples of groups={groups}"
            )
        if padding_mode not in PADDING_MODES:
            raise RangeError(f"{name}: padding_mode must be one of {', '.join(PADDING_MODES)}, got {padding_mode!r}")
        self.in_channels, self.out_channels, self.groups = in_channels, out_channels, groups
        self.kernel_size = spread(kernel_size, count, f"{name}: kernel_size")
        self.stride = spread(stride, count, f"{name}: stride")
        self.padding = padding if isinstance(padding, str) else spread(padding, count, f"{name}: padding")
        self.dilation = spread(dilation, count, f"{name}: dilation")
        self.padding_mode = padding_mode
        for option, sizes in (("kernel_size", self.kernel_size), ("stride", self.stride), ("dilation", self.dilation)):
            if not all(isinstance(size, int) and size >= 1 for size in sizes):
                raise RangeError(f"{name}: {option} must be integers of at least 1, got {sizes}")
        rows, columns = (in_channels, out_channels) if self.transposed else (out_channels, in_channels)
        self.weight = Parameter.empty((rows, columns // groups, *self.kernel_size), dtype, device)
        self.register_parameter("bias", Parameter.empty((out_channels,), dtype, device) if bias else None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the initial values anew: uniform in +-1/sqrt(fan_in)."""
        init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        if self.bias is not None:
            fan_in = init.fans(self.weight)[0]
            bound = 1 / math.sqrt(fan_in) if fan_in else 0.0
            init.uniform_(self.bias, -bound, bound)

    def extra_repr(self) -> str:
        """Channels, and every option that is not the default."""
        count = self.dimensions
        words = f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}"
        words += f", padding={self.padding}" if self.padding != (0,) * count else ""
        words += f", dilation={self.dilation}" if self.dilation != (1,) * count else ""
        extra = getattr(self, "output_padding", (0,) * count)
        words += f", output_padding={extra}" if extra != (0,) * count else ""
        words += f", groups={self.groups}" if self.groups != 1 else ""
        words += "" if self.bias is not None else ", bias=False"
        return words + (f", padding_mode={self.padding_mode}" if self.padding_mode != "zeros" else "")


class _Conv(ConvBase):
    """What Conv1d, Conv2d and Conv3d share; weight (out_channels, in_channels / groups, *kernel)."""

    def __init__(  # PyTorch's signature
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        stride: Size = 1,
        padding: Size | str = 0,
        dilation: Size = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        name = type(self).__name__
        if isinstance(padding, str) and padding not in ("same", "valid"):
            raise RangeError(f"{name}: padding is numbers, 'same' or 'valid', got {padding!r}")
        if padding == "same" and any(step != 1 for step in spread(stride, self.dimensions, f"{name}: stride")):
            raise RangeError(f"{name}: padding='same' needs stride 1, got {stride}")
        super().__init__(
            in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode, device, dtype
        )

    def _edges(self) -> list[int]:
        """What ``padding`` means for F.pad: (before, after) for each dimension, the last one first."""
        if self.padding == "valid":
            return [0] * (2 * self.dimensions)
        if self.padding == "same":
            total = [d * (k - 1) for d, k in zip(self.dilation, self.kernel_size, strict=True)]
            return [n for t in reversed(total) for n in (t // 2, t - t // 2)]
        widths: Any = self.padding
        return [n for p in reversed(widths) for n in (p, p)]

    def forward(self, input: Tensor) -> Tensor:
        """(N, in_channels, *size) -> (N, out_channels, *size')."""
        padding: Any = self.padding
        if self.padding_mode != "zeros":
            input, padding = F.pad(input, self._edges(), PADDING_MODES[self.padding_mode]), 0
        convolve = (F.conv1d, F.conv2d, F.conv3d)[self.dimensions - 1]
        return convolve(input, self.weight, self.bias, self.stride, padding, self.dilation, self.groups)


class Conv1d(_Conv):
    """Cross-correlation along the length; see Conv2d.

    Shapes: input (N, in_channels, L) or (in_channels, L); output (N, out_channels, L').

    >>> nn.Conv1d(2, 3, 5, padding=2)(phalanx.ones(4, 2, 10)).shape
    (4, 3, 10)
    """

    dimensions = 1


class Conv2d(_Conv):
    """y[n, o, i, j] = b[o] + sum over c, u, v of w[o, c, u, v] x[n, c, i*stride + u*dilation - padding, ...].

    Shapes: input (N, in_channels, H, W) or (in_channels, H, W); output (N, out_channels, H', W') with
    H' = (H + 2 padding - dilation (kernel - 1) - 1) // stride + 1. Weight and bias start uniform in +-1/sqrt(fan_in).
    ``padding_mode``: "zeros", "reflect", "replicate" or "circular".
    Raises ShapeError for another number of channels or an image smaller than the kernel.

    >>> nn.Conv2d(1, 8, 3, padding=1)(phalanx.ones(2, 1, 28, 28)).shape
    (2, 8, 28, 28)
    """

    dimensions = 2


class Conv3d(_Conv):
    """Cross-correlation over volumes; see Conv2d.

    Shapes: input (N, in_channels, D, H, W) or (in_channels, D, H, W); output (N, out_channels, D', H', W').

    >>> nn.Conv3d(1, 4, 3, stride=2)(phalanx.ones(2, 1, 7, 9, 9)).shape
    (2, 4, 3, 4, 4)
    """

    dimensions = 3
