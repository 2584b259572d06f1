"""Pooling over sequences (batch, channels, length), images (batch, channels, height, width) and volumes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..tensor import Tensor
from . import functional as F
from .conv import Size, spread
from .module import Module

Bins = int | Sequence[int | None] | None


class _Pool(Module):
    """A pool over ``dimensions``, whose function is called ``name`` and that number."""

    dimensions: int
    name: str

    def _call(self, *args: Any, **options: Any) -> Any:
        return getattr(F, f"{self.name}{self.dimensions}d")(*args, **options)


# ---- maximum ---------------------------------------------------------------------------------------------------------


class _MaxPool(_Pool):
    name = "max_pool"

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
        self.kernel_size = kernel_size
        self.stride = kernel_size if stride is None else stride
        self.padding, self.dilation, self.ceil_mode = padding, dilation, ceil_mode
        self.return_indices = return_indices

    def forward(self, input: Tensor) -> Any:
        """(N, C, *size) -> (N, C, *size'), with ``return_indices`` a pair: values and places."""
        windows = (self.kernel_size, self.stride, self.padding)
        return self._call(
            input, *windows, dilation=self.dilation, ceil_mode=self.ceil_mode, return_indices=self.return_indices
        )

    def extra_repr(self) -> str:
        """Options."""
        return (
            f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}, "
            f"dilation={self.dilation}, ceil_mode={self.ceil_mode}"
        )


class MaxPool1d(_MaxPool):
    """The largest value of each window of a sequence; see MaxPool2d.

    >>> nn.MaxPool1d(2)(phalanx.ones(1, 3, 9)).shape
    (1, 3, 4)
    """

    dimensions = 1


class MaxPool2d(_MaxPool):
    """The largest value of each window; ``stride`` defaults to the window.

    Shapes: (N, C, H, W) or (C, H, W) to the same with H' = (H + 2 padding - dilation (kernel - 1) - 1) // stride + 1, rounded up
    with ``ceil_mode``. With ``return_indices`` also the places of the maxima, for MaxUnpool2d.

    >>> nn.MaxPool2d(2)(phalanx.ones(1, 3, 8, 6)).shape
    (1, 3, 4, 3)
    """

    dimensions = 2


class MaxPool3d(_MaxPool):
    """The largest value of each window of a volume; see MaxPool2d.

    >>> nn.MaxPool3d(2)(phalanx.ones(1, 3, 4, 8, 6)).shape
    (1, 3, 2, 4, 3)
    """

    dimensions = 3


class _MaxUnpool(_Pool):
    name = "max_unpool"

    def __init__(self, kernel_size: Size, stride: Size | None = None, padding: Size = 0) -> None:
        super().__init__()
        option = f"{type(self).__name__}: "
        self.kernel_size = spread(kernel_size, self.dimensions, option + "kernel_size")
        self.stride = spread(kernel_size if stride is None else stride, self.dimensions, option + "stride")
        self.padding = spread(padding, self.dimensions, option + "padding")

    def forward(self, input: Tensor, indices: Tensor, output_size: Sequence[int] | None = None) -> Tensor:
        """Values and places (N, C, *size) -> (N, C, *size')."""
        return self._call(input, indices, self.kernel_size, self.stride, self.padding, output_size)

    def extra_repr(self) -> str:
        """Options."""
        return f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}"


class MaxUnpool1d(_MaxUnpool):
    """MaxUnpool2d along one dimension.

    >>> y, places = nn.MaxPool1d(2, return_indices=True)(phalanx.tensor([[[1.0, 4.0, 3.0, 2.0]]]))
    >>> nn.MaxUnpool1d(2)(y, places).tolist()
    [[[0.0, 4.0, 3.0, 0.0]]]
    """

    dimensions = 1


class MaxUnpool2d(_MaxUnpool):
    """Puts values where ``MaxPool2d(return_indices=True)`` found them, zeros elsewhere.

    >>> y, places = nn.MaxPool2d(2, return_indices=True)(phalanx.arange(4.0).reshape(1, 1, 2, 2))
    >>> nn.MaxUnpool2d(2)(y, places).tolist()
    [[[[0.0, 0.0], [0.0, 3.0]]]]
    """

    dimensions = 2


class MaxUnpool3d(_MaxUnpool):
    """MaxUnpool2d over volumes.

    >>> y, places = nn.MaxPool3d(2, return_indices=True)(phalanx.ones(1, 1, 4, 4, 4))
    >>> nn.MaxUnpool3d(2)(y, places).shape
    (1, 1, 4, 4, 4)
    """

    dimensions = 3


# ---- average and power -----------------------------------------------------------------------------------------------


class _AvgPool(_Pool):
    name = "avg_pool"

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
        """(N, C, *size) -> (N, C, *size')."""
        windows = (self.kernel_size, self.stride, self.padding, self.ceil_mode, self.count_include_pad)
        return self._call(input, *windows, self.divisor_override)

    def extra_repr(self) -> str:
        """Options."""
        return f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}"


class AvgPool1d(_AvgPool):
    """The mean of each window of a sequence; see AvgPool2d.

    >>> nn.AvgPool1d(2)(phalanx.ones(1, 3, 9)).shape
    (1, 3, 4)
    """

    dimensions = 1

    def __init__(
        self,
        kernel_size: Size,
        stride: Size | None = None,
        padding: Size = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
    ) -> None:
        name = type(self).__name__
        window = spread(kernel_size, 1, f"{name}: kernel_size")
        step = window if stride is None else spread(stride, 1, f"{name}: stride")
        super().__init__(window, step, spread(padding, 1, f"{name}: padding"), ceil_mode, count_include_pad)

    def forward(self, input: Tensor) -> Tensor:
        """(N, C, L) -> (N, C, L')."""
        return F.avg_pool1d(input, self.kernel_size, self.stride, self.padding, self.ceil_mode, self.count_include_pad)


class AvgPool2d(_AvgPool):
    """The mean of each window; ``stride`` defaults to the window; padding counts as zeros by default.

    >>> nn.AvgPool2d(2)(phalanx.ones(1, 3, 8, 6)).shape
    (1, 3, 4, 3)
    """

    dimensions = 2


class AvgPool3d(_AvgPool):
    """The mean of each window of a volume; see AvgPool2d.

    >>> nn.AvgPool3d(2)(phalanx.ones(1, 3, 4, 8, 6)).shape
    (1, 3, 2, 4, 3)
    """

    dimensions = 3


class _LPPool(_Pool):
    name = "lp_pool"

    def __init__(
        self, norm_type: float, kernel_size: Size, stride: Size | None = None, ceil_mode: bool = False
    ) -> None:
        super().__init__()
        self.norm_type, self.kernel_size, self.stride, self.ceil_mode = norm_type, kernel_size, stride, ceil_mode

    def forward(self, input: Tensor) -> Tensor:
        """(N, C, *size) -> (N, C, *size')."""
        return self._call(input, float(self.norm_type), self.kernel_size, self.stride, self.ceil_mode)

    def extra_repr(self) -> str:
        """Options."""
        return (
            f"norm_type={self.norm_type}, kernel_size={self.kernel_size}, stride={self.stride}, "
            f"ceil_mode={self.ceil_mode}"
        )


class LPPool1d(_LPPool):
    """LPPool2d along one dimension.

    >>> nn.LPPool1d(2, 2)(phalanx.tensor([[[3.0, 4.0]]])).tolist()
    [[[5.0]]]
    """

    dimensions = 1


class LPPool2d(_LPPool):
    """(sum of x^p over each window)^(1/p), p being ``norm_type``.

    >>> nn.LPPool2d(2, 2)(phalanx.ones(1, 1, 2, 2)).tolist()
    [[[[2.0]]]]
    """

    dimensions = 2


class LPPool3d(_LPPool):
    """LPPool2d over volumes.

    >>> nn.LPPool3d(1, 2)(phalanx.ones(1, 1, 2, 2, 2)).tolist()
    [[[[[8.0]]]]]
    """

    dimensions = 3


# ---- over a given number of bins -------------------------------------------------------------------------------------


class _AdaptiveAvgPool(_Pool):
    name = "adaptive_avg_pool"

    def __init__(self, output_size: Bins) -> None:
        super().__init__()
        self.output_size = output_size

    def forward(self, input: Tensor) -> Tensor:
        """(N, C, *size) -> (N, C, *output_size)."""
        return self._call(input, self.output_size)

    def extra_repr(self) -> str:
        """Size."""
        return f"output_size={self.output_size}"


class AdaptiveAvgPool1d(_AdaptiveAvgPool):
    """AdaptiveAvgPool2d along one dimension.

    >>> nn.AdaptiveAvgPool1d(4)(phalanx.ones(2, 3, 7)).shape
    (2, 3, 4)
    """

    dimensions = 1


class AdaptiveAvgPool2d(_AdaptiveAvgPool):
    """Means over windows chosen so that the output has ``output_size``; None keeps that side.

    >>> nn.AdaptiveAvgPool2d(1)(phalanx.ones(2, 3, 7, 5)).shape
    (2, 3, 1, 1)
    """

    dimensions = 2


class AdaptiveAvgPool3d(_AdaptiveAvgPool):
    """AdaptiveAvgPool2d over volumes.

    >>> nn.AdaptiveAvgPool3d((None, 2, 2))(phalanx.ones(2, 3, 4, 7, 5)).shape
    (2, 3, 4, 2, 2)
    """

    dimensions = 3


class _AdaptiveMaxPool(_Pool):
    name = "adaptive_max_pool"

    def __init__(self, output_size: Bins, return_indices: bool = False) -> None:
        super().__init__()
        self.output_size, self.return_indices = output_size, return_indices

    def forward(self, input: Tensor) -> Any:
        """(N, C, *size) -> (N, C, *output_size), with ``return_indices`` a pair: values and places."""
        return self._call(input, self.output_size, self.return_indices)

    def extra_repr(self) -> str:
        """Size."""
        return f"output_size={self.output_size}"


class AdaptiveMaxPool1d(_AdaptiveMaxPool):
    """AdaptiveMaxPool2d along one dimension.

    >>> nn.AdaptiveMaxPool1d(4)(phalanx.ones(2, 3, 7)).shape
    (2, 3, 4)
    """

    dimensions = 1


class AdaptiveMaxPool2d(_AdaptiveMaxPool):
    """Maxima over windows chosen so that the output has ``output_size``; None keeps that side.

    >>> nn.AdaptiveMaxPool2d(1)(phalanx.ones(2, 3, 7, 5)).shape
    (2, 3, 1, 1)
    """

    dimensions = 2


class AdaptiveMaxPool3d(_AdaptiveMaxPool):
    """AdaptiveMaxPool2d over volumes.

    >>> nn.AdaptiveMaxPool3d(2)(phalanx.ones(2, 3, 4, 7, 5)).shape
    (2, 3, 2, 2, 2)
    """

    dimensions = 3
