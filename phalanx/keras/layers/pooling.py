"""Pools of data that comes channels last."""

from __future__ import annotations

import math
from typing import Any

from ...core.errors import RangeError
from ...core.nn import functional as F
from ...core.tensor import Tensor
from ..base_layer import Layer
from .conv import same_pads
from .shaping import channels_first, channels_last, check_format, several

_MAX = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
_AVERAGE = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}


class _Pool(Layer):
    dimensions = 0

    def __init__(
        self,
        pool_size: Any = 2,
        strides: Any = None,
        padding: str = "valid",
        data_format: str | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        who = type(self).__name__
        check_format(who, data_format)
        self.pool_size = several(who, "pool_size", pool_size, self.dimensions)
        self.strides = self.pool_size if strides is None else several(who, "strides", strides, self.dimensions)
        self.padding = str(padding).lower()
        if self.padding not in ("valid", "same"):
            raise RangeError(f"{who} expects padding 'valid' or 'same', got {padding!r}")

    def _pads(self, x: Tensor) -> list[int]:
        """As ``F.pad`` takes them; ``x`` channels first."""
        if self.padding == "valid":
            return []
        pads = same_pads(tuple(x.shape[2:]), self.pool_size, self.strides, (1,) * self.dimensions)
        return [n for pair in reversed(pads) for n in pair] if any(n for pair in pads for n in pair) else []


class _MaxPooling(_Pool):
    def call(self, inputs: Tensor) -> Tensor:
        """(N, ..., C) -> the highest of each window."""
        x = channels_first(inputs)
        pads = self._pads(x)
        x = F.pad(x, pads, value=-math.inf) if pads else x
        return channels_last(_MAX[self.dimensions](x, self.pool_size, self.strides))


class _AveragePooling(_Pool):
    def call(self, inputs: Tensor) -> Tensor:
        """(N, ..., C) -> the mean of each window, of what is not padding."""
        x = channels_first(inputs)
        pads, pool = self._pads(x), _AVERAGE[self.dimensions]
        if not pads:
            return channels_last(pool(x, self.pool_size, self.strides))
        there = Tensor((x.array[:1, :1] * 0 + 1).astype(x.dtype, copy=False))
        share = pool(F.pad(there, pads), self.pool_size, self.strides)
        return channels_last(pool(F.pad(x, pads), self.pool_size, self.strides) / share)


class MaxPooling1D(_MaxPooling):
    """The highest of each window of (N, L, C).

    >>> from phalanx import keras
    >>> keras.layers.MaxPooling1D(2)(phalanx.ones(1, 6, 3)).shape
    (1, 3, 3)
    """

    dimensions = 1


class MaxPooling2D(_MaxPooling):
    """The highest of each window of (N, H, W, C).

    >>> from phalanx import keras
    >>> keras.layers.MaxPooling2D((2, 2), padding="same")(phalanx.ones(1, 5, 5, 3)).shape
    (1, 3, 3, 3)
    """

    dimensions = 2


class MaxPooling3D(_MaxPooling):
    """The highest of each window of (N, D, H, W, C).

    >>> from phalanx import keras
    >>> keras.layers.MaxPooling3D()(phalanx.ones(1, 4, 4, 4, 3)).shape
    (1, 2, 2, 2, 3)
    """

    dimensions = 3


class AveragePooling1D(_AveragePooling):
    """The mean of each window of (N, L, C).

    >>> from phalanx import keras
    >>> keras.layers.AveragePooling1D(3)(phalanx.ones(1, 6, 3)).shape
    (1, 2, 3)
    """

    dimensions = 1


class AveragePooling2D(_AveragePooling):
    """The mean of each window of (N, H, W, C).

    >>> from phalanx import keras
    >>> keras.layers.AveragePooling2D()(phalanx.ones(1, 4, 6, 3)).shape
    (1, 2, 3, 3)
    """

    dimensions = 2


class AveragePooling3D(_AveragePooling):
    """The mean of each window of (N, D, H, W, C).

    >>> from phalanx import keras
    >>> keras.layers.AveragePooling3D()(phalanx.ones(1, 2, 2, 2, 3)).shape
    (1, 1, 1, 1, 3)
    """

    dimensions = 3


class _Global(Layer):
    dimensions = 0

    def __init__(self, data_format: str | None = None, keepdims: bool = False, **options: Any) -> None:
        super().__init__(**options)
        check_format(type(self).__name__, data_format)
        self.keepdims = keepdims

    @property
    def _inner(self) -> tuple[int, ...]:
        return tuple(range(1, self.dimensions + 1))


class _GlobalMax(_Global):
    def call(self, inputs: Tensor) -> Tensor:
        """(N, ..., C) -> (N, C)."""
        return inputs.amax(dim=self._inner, keepdim=self.keepdims)


class _GlobalAverage(_Global):
    def call(self, inputs: Tensor) -> Tensor:
        """(N, ..., C) -> (N, C)."""
        return inputs.mean(dim=self._inner, keepdim=self.keepdims)


class GlobalMaxPooling1D(_GlobalMax):
    """The highest over all steps of (N, L, C).

    >>> from phalanx import keras
    >>> keras.layers.GlobalMaxPooling1D()(phalanx.ones(2, 6, 3)).shape
    (2, 3)
    """

    dimensions = 1


class GlobalMaxPooling2D(_GlobalMax):
    """The highest of each channel of (N, H, W, C).

    >>> from phalanx import keras
    >>> keras.layers.GlobalMaxPooling2D()(phalanx.ones(2, 6, 6, 3)).shape
    (2, 3)
    """

    dimensions = 2


class GlobalMaxPooling3D(_GlobalMax):
    """The highest of each channel of (N, D, H, W, C).

    >>> from phalanx import keras
    >>> keras.layers.GlobalMaxPooling3D(keepdims=True)(phalanx.ones(2, 2, 2, 2, 3)).shape
    (2, 1, 1, 1, 3)
    """

    dimensions = 3


class GlobalAveragePooling1D(_GlobalAverage):
    """The mean over all steps of (N, L, C), of those that a mask leaves.

    >>> from phalanx import keras
    >>> keras.layers.GlobalAveragePooling1D()(phalanx.ones(2, 6, 3)).shape
    (2, 3)
    """

    dimensions = 1

    def call(self, inputs: Tensor, mask: Any = None) -> Tensor:
        """(N, L, C) -> (N, C)."""
        if mask is None:
            return super().call(inputs)
        there = mask.to(inputs.dtype).unsqueeze(-1)
        return (inputs * there).sum(dim=1, keepdim=self.keepdims) / there.sum(dim=1, keepdim=self.keepdims).clamp(
            min=1.0
        )


class GlobalAveragePooling2D(_GlobalAverage):
    """The mean of each channel of (N, H, W, C).

    >>> from phalanx import keras
    >>> keras.layers.GlobalAveragePooling2D()(phalanx.ones(2, 6, 6, 3)).shape
    (2, 3)
    """

    dimensions = 2


class GlobalAveragePooling3D(_GlobalAverage):
    """The mean of each channel of (N, D, H, W, C).

    >>> from phalanx import keras
    >>> keras.layers.GlobalAveragePooling3D()(phalanx.ones(2, 2, 2, 2, 3)).shape
    (2, 3)
    """

    dimensions = 3


MaxPool1D, MaxPool2D, MaxPool3D = MaxPooling1D, MaxPooling2D, MaxPooling3D
AvgPool1D, AvgPool2D, AvgPool3D = AveragePooling1D, AveragePooling2D, AveragePooling3D
GlobalMaxPool1D, GlobalMaxPool2D, GlobalMaxPool3D = GlobalMaxPooling1D, GlobalMaxPooling2D, GlobalMaxPooling3D
GlobalAvgPool1D, GlobalAvgPool2D, GlobalAvgPool3D = (
    GlobalAveragePooling1D,
    GlobalAveragePooling2D,
    GlobalAveragePooling3D,
)
