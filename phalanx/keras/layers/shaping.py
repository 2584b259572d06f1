"""Layers that change shapes: Flatten, Reshape, Permute, padding, cropping, enlarging."""

from __future__ import annotations

import math
from typing import Any

from ...core.errors import RangeError, ShapeError
from ...core.functions import permute
from ...core.nn import functional as F
from ...core.tensor import Tensor
from ..base_layer import Layer


def channels_first(x: Tensor) -> Tensor:
    """(N, ..., C) -> (N, C, ...)."""
    return permute(x, (0, x.ndim - 1, *range(1, x.ndim - 1)))


def channels_last(x: Tensor) -> Tensor:
    """(N, C, ...) -> (N, ..., C)."""
    return permute(x, (0, *range(2, x.ndim), 1))


def several(who: str, option: str, value: Any, count: int, least: int = 1) -> tuple[int, ...]:
    """One integer or ``count`` of them."""
    found = (value,) * count if isinstance(value, int) else tuple(value)
    if len(found) != count or any(not isinstance(v, int) or v < least for v in found):
        raise RangeError(
            f"{who} expects {option} to be an integer of at least {least} or {count} of them, got {value!r}"
        )
    return found


def check_format(who: str, data_format: Any) -> None:
    """Only channels_last is known."""
    if data_format not in (None, "channels_last"):
        raise RangeError(f"{who}: data comes channels_last, (samples, ..., channels); got data_format={data_format!r}")


class Flatten(Layer):
    """(N, ...) -> (N, features).

    >>> from phalanx import keras
    >>> keras.layers.Flatten()(phalanx.ones(2, 3, 4)).shape
    (2, 12)
    """

    integer_inputs = True

    def __init__(self, data_format: str | None = None, **options: Any) -> None:
        super().__init__(**options)
        check_format("Flatten", data_format)

    def call(self, inputs: Tensor) -> Tensor:
        """(N, ...) -> (N, features)."""
        return inputs.reshape(inputs.shape[0], math.prod(inputs.shape[1:]))


class Reshape(Layer):
    """(N, ...) -> (N, *target_shape); one size may be -1.

    >>> from phalanx import keras
    >>> keras.layers.Reshape((2, -1))(phalanx.ones(3, 8)).shape
    (3, 2, 4)
    """

    integer_inputs = True

    def __init__(self, target_shape: Any, **options: Any) -> None:
        super().__init__(**options)
        self.target_shape = tuple(target_shape)

    def call(self, inputs: Tensor) -> Tensor:
        """(N, ...) -> (N, *target_shape)."""
        return inputs.reshape(inputs.shape[0], *self.target_shape)


class Permute(Layer):
    """Dimensions in another order; they count from 1, the samples stay first.

    >>> from phalanx import keras
    >>> keras.layers.Permute((2, 1))(phalanx.ones(3, 8, 2)).shape
    (3, 2, 8)
    """

    integer_inputs = True

    def __init__(self, dims: Any, **options: Any) -> None:
        super().__init__(**options)
        self.dims = tuple(dims)
        if sorted(self.dims) != list(range(1, len(self.dims) + 1)):
            raise RangeError(f"Permute expects dims to be an order of 1, 2, ..., got {dims!r}")

    def call(self, inputs: Tensor) -> Tensor:
        """The same numbers in another order."""
        return permute(inputs, (0, *self.dims))


class RepeatVector(Layer):
    """(N, features) -> (N, n, features).

    >>> from phalanx import keras
    >>> keras.layers.RepeatVector(5)(phalanx.ones(2, 3)).shape
    (2, 5, 3)
    """

    def __init__(self, n: int, **options: Any) -> None:
        super().__init__(**options)
        self.n = n

    def call(self, inputs: Tensor) -> Tensor:
        """(N, features) -> (N, n, features)."""
        return inputs.unsqueeze(1).expand(inputs.shape[0], self.n, inputs.shape[1])


def _pairs(who: str, option: str, value: Any, count: int) -> tuple[tuple[int, int], ...]:
    """An integer, one for each dimension, or (before, after) for each."""
    if isinstance(value, int):
        return ((value, value),) * count
    value = tuple(value)
    if count == 1 and len(value) == 2 and all(isinstance(v, int) for v in value):
        return (value,)
    if len(value) != count:
        raise RangeError(
            f"{who} expects {option} to be an integer or one entry for each of {count} dimensions, got {value!r}"
        )
    return tuple((v, v) if isinstance(v, int) else (int(v[0]), int(v[1])) for v in value)


class _Padding(Layer):
    dimensions = 0

    def __init__(self, padding: Any = 1, data_format: str | None = None, **options: Any) -> None:
        super().__init__(**options)
        check_format(type(self).__name__, data_format)
        self.padding = _pairs(type(self).__name__, "padding", padding, self.dimensions)

    def call(self, inputs: Tensor) -> Tensor:
        """Zeros around the inner dimensions."""
        return F.pad(inputs, [0, 0, *(n for pair in reversed(self.padding) for n in pair)])


class ZeroPadding1D(_Padding):
    """Zeros before and after the steps of (N, L, C).

    >>> from phalanx import keras
    >>> keras.layers.ZeroPadding1D(2)(phalanx.ones(1, 3, 4)).shape
    (1, 7, 4)
    """

    dimensions = 1


class ZeroPadding2D(_Padding):
    """Zeros around (N, H, W, C).

    >>> from phalanx import keras
    >>> keras.layers.ZeroPadding2D(((1, 0), (2, 2)))(phalanx.ones(1, 3, 3, 4)).shape
    (1, 4, 7, 4)
    """

    dimensions = 2


class ZeroPadding3D(_Padding):
    """Zeros around (N, D, H, W, C).

    >>> from phalanx import keras
    >>> keras.layers.ZeroPadding3D(1)(phalanx.ones(1, 2, 2, 2, 4)).shape
    (1, 4, 4, 4, 4)
    """

    dimensions = 3


class _Cropping(Layer):
    dimensions = 0

    def __init__(self, cropping: Any = 1, data_format: str | None = None, **options: Any) -> None:
        super().__init__(**options)
        check_format(type(self).__name__, data_format)
        self.cropping = _pairs(type(self).__name__, "cropping", cropping, self.dimensions)

    def call(self, inputs: Tensor) -> Tensor:
        """Without the edges of the inner dimensions."""
        cut = [slice(lo, size - hi) for (lo, hi), size in zip(self.cropping, inputs.shape[1:-1], strict=True)]
        if any(part.stop <= part.start for part in cut):
            raise ShapeError(
                f"{type(self).__name__}: cropping {self.cropping} leaves nothing of shape {tuple(inputs.shape)}"
            )
        return inputs[(slice(None), *cut)]


class Cropping1D(_Cropping):
    """Cuts steps off the ends of (N, L, C).

    >>> from phalanx import keras
    >>> keras.layers.Cropping1D((1, 0))(phalanx.ones(1, 3, 4)).shape
    (1, 2, 4)
    """

    dimensions = 1


class Cropping2D(_Cropping):
    """Cuts the edges of (N, H, W, C).

    >>> from phalanx import keras
    >>> keras.layers.Cropping2D(1)(phalanx.ones(1, 5, 4, 2)).shape
    (1, 3, 2, 2)
    """

    dimensions = 2


class Cropping3D(_Cropping):
    """Cuts the edges of (N, D, H, W, C).

    >>> from phalanx import keras
    >>> keras.layers.Cropping3D(1)(phalanx.ones(1, 3, 3, 3, 2)).shape
    (1, 1, 1, 1, 2)
    """

    dimensions = 3


class _UpSampling(Layer):
    dimensions = 0

    def __init__(
        self, size: Any = 2, data_format: str | None = None, interpolation: str = "nearest", **options: Any
    ) -> None:
        super().__init__(**options)
        check_format(type(self).__name__, data_format)
        self.size = several(type(self).__name__, "size", size, self.dimensions)
        if interpolation not in ("nearest", "bilinear") or (interpolation == "bilinear" and self.dimensions != 2):
            raise RangeError(f"{type(self).__name__} does not know interpolation {interpolation!r}")
        self.interpolation = interpolation

    def call(self, inputs: Tensor) -> Tensor:
        """Each inner size times ``size``."""
        if self.interpolation == "nearest":
            for dim, times in enumerate(self.size, 1):
                inputs = inputs.repeat_interleave(times, dim=dim) if times > 1 else inputs
            return inputs
        return channels_last(F.interpolate(channels_first(inputs), scale_factor=self.size, mode="bilinear"))


class UpSampling1D(_UpSampling):
    """Repeats each step of (N, L, C).

    >>> from phalanx import keras
    >>> keras.layers.UpSampling1D(3)(phalanx.ones(1, 2, 4)).shape
    (1, 6, 4)
    """

    dimensions = 1


class UpSampling2D(_UpSampling):
    """Enlarges (N, H, W, C), by repeating or ``interpolation="bilinear"``.

    >>> from phalanx import keras
    >>> keras.layers.UpSampling2D((2, 3))(phalanx.ones(1, 2, 2, 4)).shape
    (1, 4, 6, 4)
    """

    dimensions = 2


class UpSampling3D(_UpSampling):
    """Repeats along the inner dimensions of (N, D, H, W, C).

    >>> from phalanx import keras
    >>> keras.layers.UpSampling3D()(phalanx.ones(1, 1, 2, 2, 4)).shape
    (1, 2, 4, 4, 4)
    """

    dimensions = 3
