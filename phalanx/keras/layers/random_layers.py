"""Layers that draw at random in training; draws are keyed, so that they do not depend on ranks."""

from __future__ import annotations

import math
from typing import Any

from ...core.backend import array_module
from ...core.creation_random import rand, randn
from ...core.errors import RangeError
from ...core.functions import where
from ...core.nn import functional as F
from ...core.tensor import Tensor
from ..base_layer import Layer
from .shaping import channels_first, channels_last


class Dropout(Layer):
    """Sets a share ``rate`` of the numbers to 0 in training and scales the others up. Srivastava et al., 2014.

    >>> from phalanx import keras
    >>> keras.layers.Dropout(0.5)(phalanx.ones(3)).tolist()
    [1.0, 1.0, 1.0]
    """

    supports_masking = True

    def __init__(self, rate: float, noise_shape: Any = None, seed: Any = None, **options: Any) -> None:
        super().__init__(**options)
        if not 0.0 <= rate <= 1.0:
            raise RangeError(f"{type(self).__name__} expects a rate in [0, 1], got {rate!r}")
        self.rate, self.noise_shape, self.seed = rate, None if noise_shape is None else tuple(noise_shape), seed

    def call(self, inputs: Tensor) -> Tensor:
        """To the same shape."""
        if not self.training or not self.rate:
            return inputs
        if self.noise_shape is None:
            return F.dropout(inputs, self.rate)
        shape = [n if size is None else size for n, size in zip(inputs.shape, self.noise_shape, strict=True)]
        return inputs * F.dropout(Tensor(array_module(inputs.array).ones(shape, inputs.dtype)), self.rate)


class _Spatial(Dropout):
    dimensions = 0

    def __init__(self, rate: float, data_format: str | None = None, seed: Any = None, **options: Any) -> None:
        super().__init__(rate, (None, *[1] * self.dimensions, None), seed, **options)


class SpatialDropout1D(_Spatial):
    """Dropout of whole channels of (N, L, C).

    >>> from phalanx import keras
    >>> keras.layers.SpatialDropout1D(0.5)(phalanx.ones(1, 2, 3)).shape
    (1, 2, 3)
    """

    dimensions = 1


class SpatialDropout2D(_Spatial):
    """Dropout of whole channels of (N, H, W, C).

    >>> from phalanx import keras
    >>> keras.layers.SpatialDropout2D(0.5)(phalanx.ones(1, 2, 2, 3)).shape
    (1, 2, 2, 3)
    """

    dimensions = 2


class SpatialDropout3D(_Spatial):
    """Dropout of whole channels of (N, D, H, W, C).

    >>> from phalanx import keras
    >>> keras.layers.SpatialDropout3D(0.5)(phalanx.ones(1, 2, 2, 2, 3)).shape
    (1, 2, 2, 2, 3)
    """

    dimensions = 3


class GaussianNoise(Layer):
    """Adds normal noise of ``stddev`` in training.

    >>> from phalanx import keras
    >>> keras.layers.GaussianNoise(0.1)(phalanx.ones(2)).tolist()
    [1.0, 1.0]
    """

    supports_masking = True

    def __init__(self, stddev: float, seed: Any = None, **options: Any) -> None:
        super().__init__(**options)
        self.stddev, self.seed = stddev, seed

    def call(self, inputs: Tensor) -> Tensor:
        """To the same shape."""
        return inputs + self.stddev * randn(*inputs.shape, device=inputs.device) if self.training else inputs


class GaussianDropout(Layer):
    """Multiplies by normal noise around 1 with variance ``rate / (1 - rate)`` in training.

    >>> from phalanx import keras
    >>> keras.layers.GaussianDropout(0.1)(phalanx.ones(2)).tolist()
    [1.0, 1.0]
    """

    supports_masking = True

    def __init__(self, rate: float, seed: Any = None, **options: Any) -> None:
        super().__init__(**options)
        if not 0.0 <= rate < 1.0:
            raise RangeError(f"GaussianDropout expects a rate in [0, 1), got {rate!r}")
        self.rate, self.seed = rate, seed

    def call(self, inputs: Tensor) -> Tensor:
        """To the same shape."""
        if not self.training:
            return inputs
        return inputs * (1.0 + math.sqrt(self.rate / (1.0 - self.rate)) * randn(*inputs.shape, device=inputs.device))


class AlphaDropout(Layer):
    """Dropout that keeps mean and variance behind selu. Klambauer et al., 2017.

    >>> from phalanx import keras
    >>> keras.layers.AlphaDropout(0.1)(phalanx.ones(2)).tolist()
    [1.0, 1.0]
    """

    supports_masking = True

    def __init__(self, rate: float, noise_shape: Any = None, seed: Any = None, **options: Any) -> None:
        super().__init__(**options)
        self.rate, self.seed = rate, seed

    def call(self, inputs: Tensor) -> Tensor:
        """To the same shape."""
        return F.alpha_dropout(inputs, self.rate, self.training)


class RandomFlip(Layer):
    """Mirrors half of the images (N, H, W, C) in training: ``mode`` horizontal, vertical, or both.

    >>> from phalanx import keras
    >>> keras.layers.RandomFlip("horizontal")(phalanx.ones(1, 2, 2, 1)).shape
    (1, 2, 2, 1)
    """

    def __init__(self, mode: str = "horizontal_and_vertical", seed: Any = None, **options: Any) -> None:
        super().__init__(**options)
        if mode not in ("horizontal", "vertical", "horizontal_and_vertical"):
            raise RangeError(f"RandomFlip: mode is horizontal, vertical or horizontal_and_vertical, got {mode!r}")
        self.mode, self.seed = mode, seed

    def call(self, inputs: Tensor) -> Tensor:
        """To the same shape."""
        if not self.training:
            return inputs
        for word, dim in (("vertical", 1), ("horizontal", 2)):
            if word in self.mode:
                chosen = rand(inputs.shape[0], 1, 1, 1, device=inputs.device) < 0.5
                inputs = where(chosen, inputs.flip(dim), inputs)
        return inputs


def _factor(who: str, value: Any) -> tuple[float, float]:
    lo, hi = (-abs(value), abs(value)) if isinstance(value, int | float) else (float(value[0]), float(value[1]))
    if lo > hi:
        raise RangeError(f"{who} expects a number or (lower, upper), got {value!r}")
    return lo, hi


class _Affine(Layer):
    """Images (N, H, W, C) moved, turned or scaled: what lies outside repeats the edge or is 0."""

    def __init__(
        self,
        fill_mode: str = "reflect",
        interpolation: str = "bilinear",
        seed: Any = None,
        fill_value: float = 0.0,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        modes = {"reflect": "reflection", "nearest": "border", "constant": "zeros"}
        if fill_mode not in modes or interpolation not in ("bilinear", "nearest") or fill_value:
            raise RangeError(
                f"{type(self).__name__} knows fill_mode {', '.join(modes)}, filled with 0, and interpolation bilinear, nearest"
            )
        self.padding_mode, self.interpolation, self.seed = modes[fill_mode], interpolation, seed

    def _between(self, bounds: tuple[float, float], inputs: Tensor) -> Tensor:
        return bounds[0] + (bounds[1] - bounds[0]) * rand(inputs.shape[0], device=inputs.device)

    def _matrix(self, inputs: Tensor) -> list[Any]:
        """a, b, c, d, e, f of each sample: where in the input a place of the output lies, from -1 to 1."""
        raise NotImplementedError

    def call(self, inputs: Tensor) -> Tensor:
        """To the same shape."""
        if not self.training:
            return inputs
        x = channels_first(inputs)
        zero = rand(x.shape[0], device=x.device) * 0.0
        theta = (stacked := [part + zero for part in self._matrix(inputs)])[0].unsqueeze(1)
        for part in stacked[1:]:
            theta = concatenated(theta, part.unsqueeze(1))
        grid = F.affine_grid(theta.reshape(-1, 2, 3), x.shape, align_corners=False)
        moved = F.grid_sample(x, grid, mode=self.interpolation, padding_mode=self.padding_mode, align_corners=False)
        return channels_last(moved)


def concatenated(a: Tensor, b: Tensor) -> Tensor:
    """One column more."""
    return F.pad(a, [0, 1]) + F.pad(b, [a.shape[1], 0])


class RandomRotation(_Affine):
    """Turns images by up to ``factor`` of a full turn, in training.

    >>> from phalanx import keras
    >>> keras.layers.RandomRotation(0.1)(phalanx.ones(1, 4, 4, 3), training=True).shape
    (1, 4, 4, 3)
    """

    def __init__(
        self, factor: Any, fill_mode: str = "reflect", interpolation: str = "bilinear", seed: Any = None, **options: Any
    ) -> None:
        super().__init__(fill_mode, interpolation, seed, **options)
        self.factor = _factor("RandomRotation", factor)

    def _matrix(self, inputs: Tensor) -> list[Any]:
        angle = self._between(self.factor, inputs) * (2.0 * math.pi)
        ratio = inputs.shape[1] / inputs.shape[2]
        return [angle.cos(), -angle.sin() * ratio, 0.0, angle.sin() / ratio, angle.cos(), 0.0]


class RandomTranslation(_Affine):
    """Moves images by up to a share of height and width, in training.

    >>> from phalanx import keras
    >>> keras.layers.RandomTranslation(0.1, 0.1)(phalanx.ones(1, 4, 4, 3), training=True).shape
    (1, 4, 4, 3)
    """

    def __init__(
        self, height_factor: Any, width_factor: Any, fill_mode: str = "reflect", interpolation: str = "bilinear", seed: Any = None,
        **options: Any,
    ) -> None:  # fmt: skip
        super().__init__(fill_mode, interpolation, seed, **options)
        self.factors = _factor("RandomTranslation", height_factor), _factor("RandomTranslation", width_factor)

    def _matrix(self, inputs: Tensor) -> list[Any]:
        down, right = (self._between(bounds, inputs) for bounds in self.factors)
        return [1.0, 0.0, -2.0 * right, 0.0, 1.0, -2.0 * down]


class RandomZoom(_Affine):
    """Scales images by up to a share, in training: above 0 away, below 0 closer.

    >>> from phalanx import keras
    >>> keras.layers.RandomZoom(0.2)(phalanx.ones(1, 4, 4, 3), training=True).shape
    (1, 4, 4, 3)
    """

    def __init__(
        self, height_factor: Any, width_factor: Any = None, fill_mode: str = "reflect", interpolation: str = "bilinear",
        seed: Any = None, **options: Any,
    ) -> None:  # fmt: skip
        super().__init__(fill_mode, interpolation, seed, **options)
        self.height = _factor("RandomZoom", height_factor)
        self.width = None if width_factor is None else _factor("RandomZoom", width_factor)

    def _matrix(self, inputs: Tensor) -> list[Any]:
        tall = 1.0 + self._between(self.height, inputs)
        wide = tall if self.width is None else 1.0 + self._between(self.width, inputs)
        return [wide, 0.0, 0.0, 0.0, tall, 0.0]


class RandomContrast(Layer):
    """``(x - mean) * factor + mean`` of each image and channel, the factor within ``1 +- factor``, in training.

    >>> from phalanx import keras
    >>> keras.layers.RandomContrast(0.2)(phalanx.ones(1, 4, 4, 3), training=True).shape
    (1, 4, 4, 3)
    """

    def __init__(self, factor: Any, seed: Any = None, **options: Any) -> None:
        super().__init__(**options)
        self.factor, self.seed = _factor("RandomContrast", factor), seed

    def call(self, inputs: Tensor) -> Tensor:
        """To the same shape."""
        if not self.training:
            return inputs
        lo, hi = self.factor
        factor = 1.0 + lo + (hi - lo) * rand(inputs.shape[0], 1, 1, 1, device=inputs.device)
        mean = inputs.mean(dim=(1, 2), keepdim=True)
        return (inputs - mean) * factor + mean
