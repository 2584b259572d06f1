"""Policies that draw which changes to make: RandAugment and TrivialAugment; the single changes that they draw from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...errors import RangeError
from ..sampling import sample_random
from .base import Transform, chance, probability
from .colour import brighten, changed, contrast, saturate, sharpen
from .geometry import WARPS, inverse_affine
from .pixels import fill_of, in_float, on_planes
from .resample import affine_grid, mode_of, warp

Change = Callable[[np.ndarray, float, "_Warping"], np.ndarray]


@dataclass(frozen=True)
class _Warping:
    mode: str
    fill: Any

    def __call__(self, planes: np.ndarray, **affine: Any) -> np.ndarray:
        inverse = inverse_affine(planes.shape[-2:], affine.pop("angle", 0.0), **affine)
        grid = affine_grid(inverse, *planes.shape[-2:])
        return warp(planes, *grid, self.mode, fill_of("augmentation", self.fill, planes))


def invert(planes: np.ndarray) -> np.ndarray:
    return in_float(planes, lambda values, bound: values.dtype.type(bound) - values)


def posterize(planes: np.ndarray, bits: int) -> np.ndarray:
    """Keep the upper ``bits`` of 8."""
    levels = 2 ** (8 - bits)
    if planes.dtype == np.uint8:
        return planes & np.uint8(256 - levels)
    return in_float(planes, lambda values, bound: np.floor(values / bound * 255 / levels) * levels / 255 * bound)


def solarize(planes: np.ndarray, threshold: float) -> np.ndarray:
    """Invert what reaches ``threshold``, a share of the largest value."""
    return in_float(planes, lambda values, bound: np.where(values >= threshold * bound, bound - values, values))


def autocontrast(planes: np.ndarray) -> np.ndarray:
    """Stretch each channel over the whole range."""

    def stretch(values: np.ndarray, bound: float) -> np.ndarray:
        low, high = values.min((-2, -1), keepdims=True), values.max((-2, -1), keepdims=True)
        spread = np.where(high > low, high - low, 1)
        return np.where(high > low, (values - low) / spread * bound, values).astype(values.dtype)

    return in_float(planes, stretch)


def equalize(planes: np.ndarray) -> np.ndarray:
    """Flatten each channel's histogram of 256 values."""
    levels = planes if planes.dtype == np.uint8 else in_levels(planes)
    done = np.stack([_equalized(channel) for channel in levels]) if levels.ndim == 3 else _equalized(levels)
    return done if planes.dtype == np.uint8 else (done / 255).astype(planes.dtype)


def in_levels(planes: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(planes.astype(np.float64) * 255), 0, 255).astype(np.uint8)


def _equalized(channel: np.ndarray) -> np.ndarray:
    counts = np.bincount(channel.reshape(-1), minlength=256)
    step = (counts.sum() - counts[np.flatnonzero(counts)[-1]]) // 255
    if step == 0:
        return channel
    table = np.clip((np.cumsum(counts) + step // 2) // step, 0, 255)
    return np.concatenate([[0], table[:-1]]).astype(np.uint8)[channel]


class _Certain(Transform):
    """One change, made with probability ``p``."""

    def __init__(self, p: float = 0.5) -> None:
        self.p = probability(self, p)

    def __call__(self, image: Any) -> Any:
        return on_planes(image, type(self).__name__, self._change) if chance(self.p) else image

    def _change(self, planes: np.ndarray) -> np.ndarray:
        raise NotImplementedError


class RandomInvert(_Certain):
    """``largest - image`` with probability ``p``.

    >>> from phalanx.data import transforms
    >>> transforms.RandomInvert(p=1.0)(np.array([[0, 255]], np.uint8)).tolist()
    [[255, 0]]
    """

    def _change(self, planes: np.ndarray) -> np.ndarray:
        return invert(planes)


class RandomAutocontrast(_Certain):
    """Stretch each channel over the whole range with probability ``p``.

    >>> from phalanx.data import transforms
    >>> transforms.RandomAutocontrast(p=1.0)(np.array([[10, 20]], np.uint8)).tolist()
    [[0, 255]]
    """

    def _change(self, planes: np.ndarray) -> np.ndarray:
        return autocontrast(planes)


class RandomEqualize(_Certain):
    """Flatten each channel's histogram with probability ``p``.

    >>> from phalanx.data import transforms
    >>> transforms.RandomEqualize(p=1.0)(np.zeros((2, 2), np.uint8)).tolist()
    [[0, 0], [0, 0]]
    """

    def _change(self, planes: np.ndarray) -> np.ndarray:
        return equalize(planes)


class RandomPosterize(_Certain):
    """Keep the upper ``bits`` of 8 with probability ``p``.

    >>> from phalanx.data import transforms
    >>> transforms.RandomPosterize(2, p=1.0)(np.array([[200]], np.uint8)).tolist()
    [[192]]
    """

    def __init__(self, bits: int, p: float = 0.5) -> None:
        super().__init__(p)
        if not 0 <= bits <= 8:
            raise RangeError(f"RandomPosterize: bits lie between 0 and 8, got {bits}")
        self.bits = bits

    def _change(self, planes: np.ndarray) -> np.ndarray:
        return posterize(planes, self.bits)


class RandomSolarize(_Certain):
    """Invert the pixels of at least ``threshold`` (in the image's own numbers) with probability ``p``.

    >>> from phalanx.data import transforms
    >>> transforms.RandomSolarize(128, p=1.0)(np.array([[100, 200]], np.uint8)).tolist()
    [[100, 55]]
    """

    def __init__(self, threshold: float, p: float = 0.5) -> None:
        super().__init__(p)
        self.threshold = threshold

    def _change(self, planes: np.ndarray) -> np.ndarray:
        return solarize(planes, self.threshold / (1 if planes.dtype.kind == "f" else np.iinfo(planes.dtype).max))


class RandomAdjustSharpness(_Certain):
    """Sharpen (``sharpness_factor`` above 1) or smooth (below) with probability ``p``.

    >>> from phalanx.data import transforms
    >>> transforms.RandomAdjustSharpness(2.0, p=1.0)(np.full((3, 3), 5, np.uint8)).tolist()[1]
    [5, 5, 5]
    """

    def __init__(self, sharpness_factor: float, p: float = 0.5) -> None:
        super().__init__(p)
        if sharpness_factor < 0:
            raise RangeError(f"RandomAdjustSharpness: sharpness_factor must not be negative, got {sharpness_factor}")
        self.sharpness_factor = sharpness_factor

    def _change(self, planes: np.ndarray) -> np.ndarray:
        return changed(planes, sharpen, self.sharpness_factor)


@dataclass(frozen=True)
class _Entry:
    """One change of a policy: magnitudes from ``low`` to ``high``, whose sign may be drawn."""

    low: float
    high: float
    signed: bool
    change: Change


def _factor(change: Callable[[np.ndarray, float, float], np.ndarray]) -> Change:
    return lambda planes, magnitude, warping: changed(planes, change, 1.0 + magnitude)


def _table(shift: Callable[[int], float], turn: float, shear: float, colour: float, bits: int) -> dict[str, _Entry]:
    """The 14 changes of RandAugment; ``shift`` gives the largest shift of a side in pixels."""
    degrees = float(np.degrees(np.arctan(shear)))
    return {
        "Identity": _Entry(0, 0, False, lambda planes, m, w: planes),
        "ShearX": _Entry(0, degrees, True, lambda planes, m, w: w(planes, shear=(m, 0.0))),
        "ShearY": _Entry(0, degrees, True, lambda planes, m, w: w(planes, shear=(0.0, m))),
        "TranslateX": _Entry(0, 1, True, lambda planes, m, w: w(planes, shift=(m * shift(planes.shape[-1]), 0))),
        "TranslateY": _Entry(0, 1, True, lambda planes, m, w: w(planes, shift=(0, m * shift(planes.shape[-2])))),
        "Rotate": _Entry(0, turn, True, lambda planes, m, w: w(planes, angle=m)),
        "Brightness": _Entry(0, colour, True, _factor(brighten)),
        "Color": _Entry(0, colour, True, _factor(saturate)),
        "Contrast": _Entry(0, colour, True, _factor(contrast)),
        "Sharpness": _Entry(0, colour, True, _factor(sharpen)),
        "Posterize": _Entry(8, bits, False, lambda planes, m, w: posterize(planes, round(m))),
        "Solarize": _Entry(1, 0, False, lambda planes, m, w: solarize(planes, m)),
        "AutoContrast": _Entry(0, 0, False, lambda planes, m, w: autocontrast(planes)),
        "Equalize": _Entry(0, 0, False, lambda planes, m, w: equalize(planes)),
    }


class _Policy(Transform):
    _entries: dict[str, _Entry]

    def __init__(self, bins: int, interpolation: Any, fill: float | Sequence[float] | None) -> None:
        if bins < 2:
            raise RangeError(f"{type(self).__name__}: num_magnitude_bins is at least 2, got {bins}")
        self.num_magnitude_bins, self.fill = bins, fill
        self.interpolation = mode_of(type(self).__name__, interpolation, WARPS)

    def _apply(self, image: Any, magnitude: int) -> Any:
        draw = sample_random()
        entry = self._entries[draw.choice(list(self._entries))]
        size = entry.low + (entry.high - entry.low) * magnitude / (self.num_magnitude_bins - 1)
        if entry.signed and draw.random() < 0.5:
            size = -size
        warping = _Warping(self.interpolation, 0 if self.fill is None else self.fill)
        return on_planes(image, type(self).__name__, lambda planes: entry.change(planes, size, warping))


class RandAugment(_Policy):
    """``num_ops`` changes drawn from 14, each of strength ``magnitude`` of ``num_magnitude_bins`` (Cubuk et al. 2019).

    Paper: arXiv 1909.13719. Colour images of H×W×3 or C×H×W.

    >>> from phalanx.data import transforms
    >>> transforms.RandAugment()(np.zeros((8, 8, 3), np.uint8)).shape
    (8, 8, 3)
    """

    _entries = _table(lambda side: 150.0 / 331.0 * side, 30.0, 0.3, 0.9, 4)

    def __init__(
        self,
        num_ops: int = 2,
        magnitude: int = 9,
        num_magnitude_bins: int = 31,
        interpolation: Any = "nearest",
        fill: float | Sequence[float] | None = None,
    ) -> None:
        super().__init__(num_magnitude_bins, interpolation, fill)
        if num_ops < 0 or not 0 <= magnitude < num_magnitude_bins:
            raise RangeError(
                f"RandAugment: num_ops is at least 0, magnitude below num_magnitude_bins={num_magnitude_bins}; "
                f"got {num_ops} and {magnitude}"
            )
        self.num_ops, self.magnitude = num_ops, magnitude

    def __call__(self, image: Any) -> Any:
        for _ in range(self.num_ops):
            image = self._apply(image, self.magnitude)
        return image


class TrivialAugmentWide(_Policy):
    """One change drawn from 14, of a drawn strength (Müller and Hutter 2021, arXiv 2103.10158).

    >>> from phalanx.data import transforms
    >>> transforms.TrivialAugmentWide()(np.zeros((8, 8, 3), np.uint8)).shape
    (8, 8, 3)
    """

    _entries = _table(lambda side: 32.0, 135.0, 0.99, 0.99, 2)

    def __init__(
        self, num_magnitude_bins: int = 31, interpolation: Any = "nearest", fill: float | Sequence[float] | None = None
    ) -> None:
        super().__init__(num_magnitude_bins, interpolation, fill)

    def __call__(self, image: Any) -> Any:
        return self._apply(image, sample_random().randrange(self.num_magnitude_bins))
