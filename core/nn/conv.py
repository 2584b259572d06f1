"""Convolution and pooling over images (batch, channels, height, width) and sequences (batch, channels, length)."""

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


def _spread(value: Size, count: int, option: str) -> tuple[int, ...]:
    """One number for each of ``count`` dimensions."""
    if isinstance(value, int):
        return (value,) * count
    if len(value) != count:
        raise RangeError(f"{option} expects an integer or {count} of them, got {value!r}")
    return tuple(value)


class _Conv(Module):
    """What Conv1d and Conv2d share: weight (out_channels, in_channels / groups, *kernel) and bias (out_channels,)."""

    weight: Parameter
    bias: Parameter | None
    dimensions: int

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
        super().__init__()
        name, count = type(self).__name__, self.dimensions
        if groups <= 0 or in_channels % groups or out_channels % groups:
            raise RangeError(
                f"{name}: in_channels={in_channels} and out_channels={out_channels} must be multiples of groups={groups}"
            )
        if isinstance(padding, str) and padding not in ("same", "valid"):
            raise RangeError(f"{name}: padding is numbers, 'same' or 'valid', got {padding!r}")
        if padding_mode != "zeros":
            raise RangeError(f"{name}: padding_mode {padding_mode!r} is not known; 'zeros' is")
        self.in_channels, self.out_channels, self.groups = in_channels, out_channels, groups
        self.kernel_size = _spread(kernel_size, count, f"{name}: kernel_size")
        self.stride = _spread(stride, count, f"{name}: stride")
        self.padding = padding if isinstance(padding, str) else _spread(padding, count, f"{name}: padding")
        self.dilation = _spread(dilation, count, f"{name}: dilation")
        self.padding_mode = padding_mode
        for option, sizes in (("kernel_size", self.kernel_size), ("stride", self.stride), ("dilation", self.dilation)):
            if not all(isinstance(size, int) and size >= 1 for size in sizes):
                raise RangeError(f"{name}: {option} must be integers of at least 1, got {sizes}")
        if padding == "same" and any(step != 1 for step in self.stride):
            raise RangeError(f"{name}: padding='same' needs stride 1, got {self.stride}")
        self.weight = Parameter.empty((out_channels, in_channels // groups, *self.kernel_size), dtype, device)
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
        words += f", groups={self.groups}" if self.groups != 1 else ""
        return words + ("" if self.bias is not None else ", bias=False")


class Conv1d(_Conv):
    """Cross-correlation along the length; see Conv2d.

    Shapes: input (N, in_channels, L) or (in_channels, L); output (N, out_channels, L').

    >>> import phalanx
    >>> Conv1d(2, 3, 5, padding=2)(phalanx.ones(4, 2, 10)).shape
    (4, 3, 10)
    """

    dimensions = 1

    def forward(self, input: Tensor) -> Tensor:
        """(N, in_channels, L) -> (N, out_channels, L')."""
        return F.conv1d(input, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


class Conv2d(_Conv):
    """y[n, o, i, j] = b[o] + sum over c, u, v of w[o, c, u, v] x[n, c, i*stride + u*dilation - padding, ...].

    Shapes: input (N, in_channels, H, W) or (in_channels, H, W); output (N, out_channels, H', W') with
    H' = (H + 2 padding - dilation (kernel - 1) - 1) // stride + 1. Weight and bias start uniform in +-1/sqrt(fan_in).
    Raises ShapeError for another number of channels or an image smaller than the kernel.

    >>> import phalanx
    >>> Conv2d(1, 8, 3, padding=1)(phalanx.ones(2, 1, 28, 28)).shape
    (2, 8, 28, 28)
    """

    dimensions = 2

    def forward(self, input: Tensor) -> Tensor:
        """(N, in_channels, H, W) -> (N, out_channels, H', W')."""
        return F.conv2d(input, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


class MaxPool2d(Module):
    """The largest value of each window; ``stride`` defaults to the window.

    >>> import phalanx
    >>> MaxPool2d(2)(phalanx.ones(1, 3, 8, 6)).shape
    (1, 3, 4, 3)
    """

    def __init__(
        self,
        kernel_size: Size,
        stride: Size | None = None,
        padding: Size = 0,
        dilation: Size = 1,
        return_indices: bool = False,
        ceil_mode: bool = False,
    ) -> None:
        super().__init__()
        if return_indices:
            raise RangeError("MaxPool2d: return_indices=True is not known")
        self.kernel_size = kernel_size
        self.stride = kernel_size if stride is None else stride
        self.padding, self.dilation, self.ceil_mode = padding, dilation, ceil_mode

    def forward(self, input: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H', W')."""
        return F.max_pool2d(
            input, self.kernel_size, self.stride, self.padding, dilation=self.dilation, ceil_mode=self.ceil_mode
        )

    def extra_repr(self) -> str:
        """Options."""
        return (
            f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}, "
            f"dilation={self.dilation}, ceil_mode={self.ceil_mode}"
        )


class AvgPool2d(Module):
    """The mean of each window; ``stride`` defaults to the window; padding counts as zeros by default.

    >>> import phalanx
    >>> AvgPool2d(2)(phalanx.ones(1, 3, 8, 6)).shape
    (1, 3, 4, 3)
    """

    def __init__(
        self,
        kernel_size: Size,
        stride: Size | None = None,
        padding: Size = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
    ) -> None:
        super().__init__()
        self.kernel_size = kernel_size
        self.stride = kernel_size if stride is None else stride
        self.padding, self.ceil_mode = padding, ceil_mode
        self.count_include_pad, self.divisor_override = count_include_pad, divisor_override

    def forward(self, input: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H', W')."""
        return F.avg_pool2d(
            input,
            self.kernel_size,
            self.stride,
            self.padding,
            self.ceil_mode,
            self.count_include_pad,
            self.divisor_override,
        )

    def extra_repr(self) -> str:
        """Options."""
        return f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}"


class AdaptiveAvgPool2d(Module):
    """Means over windows chosen so that the output has ``output_size``; None keeps that side.

    >>> import phalanx
    >>> AdaptiveAvgPool2d(1)(phalanx.ones(2, 3, 7, 5)).shape
    (2, 3, 1, 1)
    """

    def __init__(self, output_size: int | tuple[int | None, int | None] | None) -> None:
        super().__init__()
        self.output_size = output_size

    def forward(self, input: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, *output_size)."""
        return F.adaptive_avg_pool2d(input, self.output_size)

    def extra_repr(self) -> str:
        """Size."""
        return f"output_size={self.output_size}"
