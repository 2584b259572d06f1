"""Transposed convolution over sequences, images and volumes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..errors import RangeError, ShapeError
from ..tensor import Tensor
from . import functional as F
from .conv import ConvBase, Size, spread


class _ConvTranspose(ConvBase):
    """What ConvTranspose1d, 2d and 3d share; weight (in_channels, out_channels / groups, *kernel)."""

    transposed = True

    def __init__(  # PyTorch's signature
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        stride: Size = 1,
        padding: Size = 0,
        output_padding: Size = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: Size = 1,
        padding_mode: str = "zeros",
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        name = type(self).__name__
        if padding_mode != "zeros":
            raise RangeError(f"{name}: padding_mode must be 'zeros', got {padding_mode!r}")
        if isinstance(padding, str):
            raise RangeError(f"{name}: padding is numbers, got {padding!r}")
        super().__init__(
            in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode, device, dtype
        )
        self.output_padding = spread(output_padding, self.dimensions, f"{name}: output_padding")

    def _extra(self, input: Tensor, output_size: Sequence[int] | None) -> tuple[int, ...]:
        """The output padding that gives ``output_size``."""
        if output_size is None:
            return self.output_padding
        count = self.dimensions
        wanted = tuple(output_size)[-count:]
        stride, pads, given = self.stride, [int(p) for p in self.padding], input.shape[-count:]
        least = [
            (n - 1) * stride[a] - 2 * pads[a] + self.dilation[a] * (self.kernel_size[a] - 1) + 1
            for a, n in enumerate(given)
        ]
        extra = tuple(w - n for w, n in zip(wanted, least, strict=False))
        if len(extra) != count or any(not 0 <= e < stride[a] for a, e in enumerate(extra)):
            most = [n + stride[a] - 1 for a, n in enumerate(least)]
            raise ShapeError(
                f"{type(self).__name__}: output_size must be from {tuple(least)} to {tuple(most)} for an input of shape "
                f"{tuple(input.shape)}, got {tuple(output_size)}"
            )
        return extra

    def forward(self, input: Tensor, output_size: Sequence[int] | None = None) -> Tensor:
        """(N, in_channels, *size) -> (N, out_channels, *size'); ``output_size`` chooses among the sizes that stride allows."""
        transpose = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[self.dimensions - 1]
        options: list[Any] = [self.stride, self.padding, self._extra(input, output_size), self.groups, self.dilation]
        return transpose(input, self.weight, self.bias, *options)


class ConvTranspose1d(_ConvTranspose):
    """The transpose of Conv1d as a linear map; see ConvTranspose2d.

    >>> nn.ConvTranspose1d(2, 3, 4, stride=2, padding=1)(phalanx.ones(5, 2, 10)).shape
    (5, 3, 20)
    """

    dimensions = 1


class ConvTranspose2d(_ConvTranspose):
    """The transpose of Conv2d as a linear map: what makes images larger in decoders and generators.

    Shapes: input (N, in_channels, H, W) or (in_channels, H, W); output (N, out_channels, H', W') with
    H' = (H - 1) stride - 2 padding + dilation (kernel - 1) + output_padding + 1. Zeiler et al., 2010.

    >>> nn.ConvTranspose2d(16, 8, 4, stride=2, padding=1)(phalanx.ones(2, 16, 7, 7)).shape
    (2, 8, 14, 14)
    """

    dimensions = 2


class ConvTranspose3d(_ConvTranspose):
    """The transpose of Conv3d as a linear map; see ConvTranspose2d.

    >>> nn.ConvTranspose3d(2, 3, 2, stride=2)(phalanx.ones(1, 2, 3, 4, 4)).shape
    (1, 3, 6, 8, 8)
    """

    dimensions = 3
