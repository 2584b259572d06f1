"""Convolutions of each channel by itself."""

from __future__ import annotations

from typing import Any

from ...core.functions import permute
from ...core.nn import functional as F
from ...core.tensor import Tensor
from .conv import Convolution
from .shaping import channels_first, channels_last


class _Depthwise(Convolution):
    def __init__(
        self,
        kernel_size: Any,
        strides: Any = 1,
        padding: str = "valid",
        depth_multiplier: int = 1,
        data_format: str | None = None,
        dilation_rate: Any = 1,
        activation: Any = None,
        use_bias: bool = True,
        depthwise_initializer: Any = "glorot_uniform",
        bias_initializer: Any = "zeros",
        depthwise_regularizer: Any = None,
        bias_regularizer: Any = None,
        activity_regularizer: Any = None,
        depthwise_constraint: Any = None,
        bias_constraint: Any = None,
        **options: Any,
    ) -> None:
        super().__init__(
            kernel_size, strides, padding, data_format, dilation_rate, 1, activation, use_bias, bias_initializer,
            bias_regularizer, bias_constraint, activity_regularizer=activity_regularizer, **options,
        )  # fmt: skip
        self.depth_multiplier = depth_multiplier
        self.depthwise_options: dict[str, Any] = {
            "initializer": depthwise_initializer, "regularizer": depthwise_regularizer, "constraint": depthwise_constraint
        }  # fmt: skip

    def build(self, input_shape: Any) -> None:
        """Kernel and bias."""
        channels = self._expect_dimensions(input_shape)
        self.kernel = self.add_weight(
            (*self.kernel_size, channels, self.depth_multiplier), name="kernel", **self.depthwise_options
        )
        self._add_bias(channels * self.depth_multiplier)

    def _each_channel(self, x: Tensor, kernel: Tensor, bias: Any) -> Tensor:
        """``x`` channels first; each channel by its own kernels."""
        count, channels = self.dimensions, x.shape[1]
        weight = permute(kernel, (count, count + 1, *range(count))).reshape(-1, 1, *self.kernel_size)
        return self._convolved(x, weight, bias, channels)

    def call(self, inputs: Tensor) -> Tensor:
        """(N, ..., C) -> (N, ..., C * depth_multiplier)."""
        return self.activation(channels_last(self._each_channel(channels_first(inputs), self.kernel, self.bias)))


class DepthwiseConv1D(_Depthwise):
    """Each channel of (N, L, C) by ``depth_multiplier`` kernels of its own; kernel (size, C, multiplier).

    >>> from phalanx import keras
    >>> keras.layers.DepthwiseConv1D(3, depth_multiplier=2)(phalanx.ones(1, 5, 4)).shape
    (1, 3, 8)
    """

    dimensions = 1


class DepthwiseConv2D(_Depthwise):
    """Each channel of (N, H, W, C) by ``depth_multiplier`` kernels of its own; kernel (height, width, C, multiplier).

    >>> from phalanx import keras
    >>> keras.layers.DepthwiseConv2D(3, padding="same")(phalanx.ones(1, 5, 5, 4)).shape
    (1, 5, 5, 4)
    """

    dimensions = 2


class _Separable(_Depthwise):
    def __init__(
        self,
        filters: int,
        kernel_size: Any,
        strides: Any = 1,
        padding: str = "valid",
        data_format: str | None = None,
        dilation_rate: Any = 1,
        depth_multiplier: int = 1,
        activation: Any = None,
        use_bias: bool = True,
        depthwise_initializer: Any = "glorot_uniform",
        pointwise_initializer: Any = "glorot_uniform",
        pointwise_regularizer: Any = None,
        pointwise_constraint: Any = None,
        **options: Any,
    ) -> None:
        super().__init__(
            kernel_size, strides, padding, depth_multiplier, data_format, dilation_rate, activation, use_bias,
            depthwise_initializer, **options,
        )  # fmt: skip
        self.filters = filters
        self.pointwise_options: dict[str, Any] = {
            "initializer": pointwise_initializer, "regularizer": pointwise_regularizer, "constraint": pointwise_constraint
        }  # fmt: skip

    def build(self, input_shape: Any) -> None:
        """Both kernels and the bias."""
        channels = self._expect_dimensions(input_shape)
        self.depthwise_kernel = self.add_weight(
            (*self.kernel_size, channels, self.depth_multiplier), name="depthwise_kernel", **self.depthwise_options
        )
        shape = (*[1] * self.dimensions, channels * self.depth_multiplier, self.filters)
        self.pointwise_kernel = self.add_weight(shape, name="pointwise_kernel", **self.pointwise_options)
        self._add_bias(self.filters)

    def call(self, inputs: Tensor) -> Tensor:
        """(N, ..., C) -> (N, ..., filters)."""
        y = channels_last(self._each_channel(channels_first(inputs), self.depthwise_kernel, None))
        kernel = self.pointwise_kernel.reshape(-1, self.filters)
        return self.activation(F.linear(y, kernel.T, self.bias))


class SeparableConv1D(_Separable):
    """A convolution of each channel, then one of size 1 over all. Chollet, 2016.

    >>> from phalanx import keras
    >>> keras.layers.SeparableConv1D(8, 3)(phalanx.ones(1, 5, 4)).shape
    (1, 3, 8)
    """

    dimensions = 1


class SeparableConv2D(_Separable):
    """A convolution of each channel, then one of size 1 over all. Chollet, 2016.

    >>> from phalanx import keras
    >>> keras.layers.SeparableConv2D(8, 3, padding="same")(phalanx.ones(1, 5, 5, 4)).shape
    (1, 5, 5, 8)
    """

    dimensions = 2
