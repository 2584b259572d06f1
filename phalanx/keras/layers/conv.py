"""Convolutions of data that comes channels last; kernels in Keras's layout, (..., inputs, filters)."""

from __future__ import annotations

import math
from typing import Any

from ...core.errors import RangeError, ShapeError
from ...core.functions import permute
from ...core.nn import functional as F
from ...core.tensor import Tensor
from .. import activations
from ..base_layer import Layer
from .shaping import channels_first, channels_last, check_format, several

CONVOLUTIONS = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
TRANSPOSED = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


def same_pads(
    sizes: tuple[int, ...], kernel: tuple[int, ...], strides: tuple[int, ...], dilation: tuple[int, ...]
) -> list[tuple[int, int]]:
    """What ``padding="same"`` puts before and after each dimension: the output has ``ceil(size / stride)`` places.

    >>> same_pads((5, 4), (3, 2), (2, 1), (1, 1))
    [(1, 1), (0, 1)]
    """
    pads = []
    for size, k, s, d in zip(sizes, kernel, strides, dilation, strict=True):
        total = max((math.ceil(size / s) - 1) * s + (k - 1) * d + 1 - size, 0)
        pads.append((total // 2, total - total // 2))
    return pads


def padded(x: Tensor, pads: list[tuple[int, int]], value: float = 0.0) -> tuple[Tensor, tuple[int, ...]]:
    """``x`` (N, C, ...) and what the convolution is left to pad by itself."""
    if all(lo == hi for lo, hi in pads) and value == 0.0:
        return x, tuple(lo for lo, _ in pads)
    return F.pad(x, [n for pair in reversed(pads) for n in pair], value=value), (0,) * len(pads)


class Convolution(Layer):
    """What all convolutions share."""

    dimensions = 0
    paddings: tuple[str, ...] = ("valid", "same")

    def __init__(
        self,
        kernel_size: Any,
        strides: Any = 1,
        padding: str = "valid",
        data_format: str | None = None,
        dilation_rate: Any = 1,
        groups: int = 1,
        activation: Any = None,
        use_bias: bool = True,
        bias_initializer: Any = "zeros",
        bias_regularizer: Any = None,
        bias_constraint: Any = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        who = type(self).__name__
        check_format(who, data_format)
        self.kernel_size = several(who, "kernel_size", kernel_size, self.dimensions)
        self.strides = several(who, "strides", strides, self.dimensions)
        self.dilation_rate = several(who, "dilation_rate", dilation_rate, self.dimensions)
        self.padding = str(padding).lower()
        if self.padding not in self.paddings:
            raise RangeError(f"{who} expects padding {' or '.join(map(repr, self.paddings))}, got {padding!r}")
        self.groups, self.use_bias, self.activation = groups, use_bias, activations.get(activation)
        self.bias_options: dict[str, Any] = {
            "initializer": bias_initializer, "regularizer": bias_regularizer, "constraint": bias_constraint
        }  # fmt: skip

    def _expect_dimensions(self, input_shape: Any) -> int:
        if len(input_shape) != self.dimensions + 2:
            raise ShapeError(
                f"{type(self).__name__} expects {self.dimensions + 2} dimensions (samples, ..., channels), got shape "
                f"{tuple(input_shape)}"
            )
        return input_shape[-1]

    def _add_bias(self, count: int) -> None:
        self.bias = self.add_weight((count,), name="bias", **self.bias_options) if self.use_bias else None

    def _pads(self, sizes: tuple[int, ...]) -> list[tuple[int, int]]:
        if self.padding == "same":
            return same_pads(sizes, self.kernel_size, self.strides, self.dilation_rate)
        if self.padding == "causal":
            return [(self.dilation_rate[0] * (self.kernel_size[0] - 1), 0)]
        return [(0, 0)] * self.dimensions

    def _convolved(self, inputs: Tensor, weight: Tensor, bias: Any, groups: int) -> Tensor:
        """``inputs`` channels first."""
        x, padding = padded(inputs, self._pads(tuple(inputs.shape[2:])))
        return CONVOLUTIONS[self.dimensions](
            x, weight, bias, stride=self.strides, padding=padding, dilation=self.dilation_rate, groups=groups
        )

    def extra_repr(self) -> str:
        """Options."""
        return f"name={self.name}, kernel_size={self.kernel_size}, strides={self.strides}, padding={self.padding}"


class _Filters(Convolution):
    def __init__(
        self,
        filters: int,
        kernel_size: Any,
        strides: Any = 1,
        padding: str = "valid",
        data_format: str | None = None,
        dilation_rate: Any = 1,
        groups: int = 1,
        activation: Any = None,
        use_bias: bool = True,
        kernel_initializer: Any = "glorot_uniform",
        bias_initializer: Any = "zeros",
        kernel_regularizer: Any = None,
        bias_regularizer: Any = None,
        activity_regularizer: Any = None,
        kernel_constraint: Any = None,
        bias_constraint: Any = None,
        **options: Any,
    ) -> None:
        super().__init__(
            kernel_size, strides, padding, data_format, dilation_rate, groups, activation, use_bias, bias_initializer,
            bias_regularizer, bias_constraint, activity_regularizer=activity_regularizer, **options,
        )  # fmt: skip
        if not isinstance(filters, int) or filters < 1 or filters % groups:
            raise RangeError(
                f"{type(self).__name__} expects filters to be a positive multiple of groups={groups}, got {filters!r}"
            )
        self.filters = filters
        self.kernel_options: dict[str, Any] = {
            "initializer": kernel_initializer, "regularizer": kernel_regularizer, "constraint": kernel_constraint
        }  # fmt: skip

    def build(self, input_shape: Any) -> None:
        """Kernel and bias."""
        channels = self._expect_dimensions(input_shape)
        if channels % self.groups:
            raise ShapeError(f"{type(self).__name__}: {channels} channels do not divide into groups={self.groups}")
        self.kernel = self.add_weight(
            (*self.kernel_size, channels // self.groups, self.filters), name="kernel", **self.kernel_options
        )
        self._add_bias(self.filters)

    def call(self, inputs: Tensor) -> Tensor:
        """(N, ..., channels) -> (N, ..., filters)."""
        count = self.dimensions
        weight = permute(self.kernel, (count + 1, count, *range(count)))
        y = self._convolved(channels_first(inputs), weight, self.bias, self.groups)
        return self.activation(channels_last(y))


class Conv1D(_Filters):
    """A convolution along the steps of (N, L, C); kernel (size, C / groups, filters). ``padding`` may be ``"causal"``.

    >>> from phalanx import keras
    >>> keras.layers.Conv1D(8, 3, padding="causal", activation="relu")(phalanx.ones(2, 10, 4)).shape
    (2, 10, 8)
    """

    dimensions = 1
    paddings = ("valid", "same", "causal")


class Conv2D(_Filters):
    """A convolution of (N, H, W, C); kernel (height, width, C / groups, filters).

    >>> from phalanx import keras
    >>> keras.layers.Conv2D(8, (3, 3), strides=2, padding="same")(phalanx.ones(2, 9, 9, 3)).shape
    (2, 5, 5, 8)
    """

    dimensions = 2


class Conv3D(_Filters):
    """A convolution of (N, D, H, W, C); kernel (depth, height, width, C / groups, filters).

    >>> from phalanx import keras
    >>> keras.layers.Conv3D(4, 2)(phalanx.ones(1, 4, 4, 4, 2)).shape
    (1, 3, 3, 3, 4)
    """

    dimensions = 3


class _Transposed(_Filters):
    def __init__(
        self,
        filters: int,
        kernel_size: Any,
        strides: Any = 1,
        padding: str = "valid",
        output_padding: Any = None,
        data_format: str | None = None,
        dilation_rate: Any = 1,
        activation: Any = None,
        use_bias: bool = True,
        **options: Any,
    ) -> None:
        if output_padding is not None:
            raise RangeError(f"{type(self).__name__}: output_padding is not known here")
        super().__init__(
            filters, kernel_size, strides, padding, data_format, dilation_rate, 1, activation, use_bias, **options
        )

    def build(self, input_shape: Any) -> None:
        """Kernel and bias."""
        channels = self._expect_dimensions(input_shape)
        self.kernel = self.add_weight((*self.kernel_size, self.filters, channels), name="kernel", **self.kernel_options)
        self._add_bias(self.filters)

    def call(self, inputs: Tensor) -> Tensor:
        """(N, ..., channels) -> (N, ..., filters), the inner sizes times the strides."""
        count = self.dimensions
        weight = permute(self.kernel, (count + 1, count, *range(count)))
        y = TRANSPOSED[count](channels_first(inputs), weight, None, stride=self.strides, dilation=self.dilation_rate)
        pads: list[int] = []
        cut: list[slice] = []
        for size, k, s, d in zip(inputs.shape[1:-1], self.kernel_size, self.strides, self.dilation_rate, strict=True):
            reach = (k - 1) * d + 1
            wanted = size * s if self.padding == "same" else size * s + max(reach - s, 0)
            have = (size - 1) * s + reach
            first = (have - wanted) // 2 if have > wanted else 0
            cut.append(slice(first, first + min(wanted, have)))
            pads = [0, max(wanted - have, 0), *pads]
        y = y[(slice(None), slice(None), *cut)]
        y = channels_last(F.pad(y, pads) if any(pads) else y)
        return self.activation(y if self.bias is None else y + self.bias)


class Conv1DTranspose(_Transposed):
    """The transpose of Conv1D: enlarges (N, L, C) by the strides; kernel (size, filters, C).

    >>> from phalanx import keras
    >>> keras.layers.Conv1DTranspose(8, 3, strides=2, padding="same")(phalanx.ones(2, 5, 4)).shape
    (2, 10, 8)
    """

    dimensions = 1


class Conv2DTranspose(_Transposed):
    """The transpose of Conv2D: enlarges (N, H, W, C) by the strides; kernel (height, width, filters, C).

    >>> from phalanx import keras
    >>> keras.layers.Conv2DTranspose(8, 3, strides=2, padding="same")(phalanx.ones(2, 5, 5, 4)).shape
    (2, 10, 10, 8)
    """

    dimensions = 2


class Conv3DTranspose(_Transposed):
    """The transpose of Conv3D; kernel (depth, height, width, filters, C).

    >>> from phalanx import keras
    >>> keras.layers.Conv3DTranspose(2, 2, strides=2)(phalanx.ones(1, 2, 2, 2, 3)).shape
    (1, 4, 4, 4, 2)
    """

    dimensions = 3
