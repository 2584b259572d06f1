"""Brightness, contrast, saturation, hue; sharpness and blur; erasing."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ...errors import RangeError, ShapeError
from ...tensor import Tensor
from ..sampling import sample_random
from .base import Transform, chance, probability
from .convert import grey_of
from .pixels import in_float, on_planes, range_pair, size_pair


def brighten(planes: np.ndarray, factor: float, bound: float) -> np.ndarray:
    return planes * planes.dtype.type(factor)


def contrast(planes: np.ndarray, factor: float, bound: float) -> np.ndarray:
    mean = planes.dtype.type(np.mean(grey_of(planes), dtype=np.float64))
    return mean + (planes - mean) * planes.dtype.type(factor)


def saturate(planes: np.ndarray, factor: float, bound: float) -> np.ndarray:
    if planes.ndim == 2 or planes.shape[0] == 1:
        return planes
    grey = grey_of(planes)
    return grey + (planes - grey) * planes.dtype.type(factor)


def turn_hue(planes: np.ndarray, turn: float, bound: float) -> np.ndarray:
    """Colours go round the wheel by ``turn`` of it, in HSV."""
    if planes.ndim == 2 or planes.shape[0] == 1:
        return planes
    colours = planes / planes.dtype.type(bound)
    red, green, blue = colours
    value, least = colours.max(0), colours.min(0)
    spread = value - least
    divisor = np.where(spread == 0, 1, spread)
    hue = np.where(
        value == red,
        (green - blue) / divisor,
        np.where(value == green, 2 + (blue - red) / divisor, 4 + (red - green) / divisor),
    )
    sixth = (hue / 6 + turn) % 1.0 * 6
    parts = []
    for offset in (5, 3, 1):
        k = (offset + sixth) % 6
        parts.append(value - spread * np.clip(np.minimum(k, 4 - k), 0, 1))
    return (np.stack(parts) * bound).astype(planes.dtype)


class ColorJitter(Transform):
    """Change brightness, contrast, saturation and hue by drawn factors, in a drawn order.

    Factors come from [max(0, 1 - x), 1 + x] or from (low, high); ``hue`` from ±x of the colour wheel, x at most 0.5.

    >>> from phalanx.data import transforms
    >>> transforms.ColorJitter(brightness=(0.5, 0.5))(np.full((1, 1, 3), 100, np.uint8)).tolist()
    [[[50, 50, 50]]]
    """

    def __init__(
        self,
        brightness: float | Sequence[float] = 0,
        contrast: float | Sequence[float] = 0,
        saturation: float | Sequence[float] = 0,
        hue: float | Sequence[float] = 0,
    ) -> None:
        self.brightness = self._factors("brightness", brightness)
        self.contrast = self._factors("contrast", contrast)
        self.saturation = self._factors("saturation", saturation)
        self.hue = range_pair("ColorJitter", "hue", hue)
        if self.hue[0] < -0.5 or self.hue[1] > 0.5:
            raise RangeError(f"ColorJitter: hue lies within ±0.5, got {hue!r}")

    @staticmethod
    def _factors(name: str, value: float | Sequence[float]) -> tuple[float, float]:
        low, high = range_pair("ColorJitter", name, value, 1.0)
        if low < 0 and not isinstance(value, int | float):
            raise RangeError(f"ColorJitter: {name} must not be negative, got {value!r}")
        return max(0.0, low), high

    def __call__(self, image: Any) -> Any:
        draw = sample_random()
        order = [0, 1, 2, 3]
        draw.shuffle(order)
        ranges = (self.brightness, self.contrast, self.saturation, self.hue)
        factors = [draw.uniform(*each) for each in ranges]
        changes = (brighten, contrast, saturate, turn_hue)

        def change(planes: np.ndarray) -> np.ndarray:
            for number in order:
                if ranges[number] != ((0.0, 0.0) if number == 3 else (1.0, 1.0)):
                    planes = changed(planes, changes[number], factors[number])
            return planes

        return on_planes(image, "ColorJitter", change)


def changed(planes: np.ndarray, change: Callable[[np.ndarray, float, float], np.ndarray], factor: float) -> np.ndarray:
    """``change`` with ``factor``, clipped and in the type of ``planes``."""
    return in_float(planes, lambda values, bound: change(values, factor, bound))


class GaussianBlur(Transform):
    """A Gaussian filter of ``kernel_size`` (odd) with a sigma drawn from ``sigma``; edges reflect.

    >>> from phalanx.data import transforms
    >>> transforms.GaussianBlur(3, sigma=1.0)(np.full((4, 4), 7, np.uint8)).tolist()[0]
    [7, 7, 7, 7]
    """

    def __init__(self, kernel_size: int | Sequence[int], sigma: float | Sequence[float] = (0.1, 2.0)) -> None:
        self.kernel_size = size_pair("GaussianBlur", kernel_size)
        if any(side % 2 == 0 for side in self.kernel_size):
            raise RangeError(f"GaussianBlur: kernel_size is odd, got {kernel_size!r}")
        pair = (float(sigma),) * 2 if isinstance(sigma, int | float) else tuple(sigma)
        self.sigma = range_pair("GaussianBlur", "sigma", pair)
        if self.sigma[0] <= 0:
            raise RangeError(f"GaussianBlur: sigma is above 0, got {sigma!r}")

    def __call__(self, image: Any) -> Any:
        sigma = sample_random().uniform(*self.sigma)
        return on_planes(image, "GaussianBlur", lambda planes: self._blur(planes, sigma))

    def _blur(self, planes: np.ndarray, sigma: float) -> np.ndarray:
        if any(side // 2 >= there for side, there in zip(self.kernel_size, planes.shape[-2:], strict=True)):
            raise ShapeError(f"GaussianBlur of {self.kernel_size} on an image of shape {planes.shape}: too small")
        values = planes.astype(planes.dtype if planes.dtype.kind == "f" else np.float32)
        for axis, side in ((-2, self.kernel_size[0]), (-1, self.kernel_size[1])):
            weights = [math.exp(-0.5 * ((place - side // 2) / sigma) ** 2) for place in range(side)]
            values = filtered(values, axis, [weight / math.fsum(weights) for weight in weights])
        if planes.dtype.kind == "f":
            return values
        return np.clip(np.rint(values), 0, np.iinfo(planes.dtype).max).astype(planes.dtype)


def filtered(planes: np.ndarray, axis: int, weights: Sequence[float]) -> np.ndarray:
    """The sum of ``weights`` times the neighbours along ``axis``, edges reflected, in fixed order."""
    half, length = len(weights) // 2, planes.shape[axis]
    around = [(0, 0)] * planes.ndim
    around[axis] = (half, half)
    padded = np.pad(planes, around, "reflect")
    total = np.zeros_like(planes)
    for place, weight in enumerate(weights):
        cut: list[slice] = [slice(None)] * planes.ndim
        cut[axis] = slice(place, place + length)
        total += padded[tuple(cut)] * planes.dtype.type(weight)
    return total


class RandomErasing(Transform):
    """With probability ``p`` a window of a drawn area and shape gets ``value`` (a number, one a channel, or "random").

    For Tensors, after ToTensor (Zhong et al. 2017, arXiv 1708.04896).

    >>> from phalanx.data import transforms
    >>> erased = transforms.RandomErasing(p=1.0, value=9.0)(phalanx.zeros(1, 16, 16))
    >>> bool((erased == 9).any()), bool((erased == 0).any())
    (True, True)
    """

    def __init__(
        self,
        p: float = 0.5,
        scale: Sequence[float] = (0.02, 0.33),
        ratio: Sequence[float] = (0.3, 3.3),
        value: float | Sequence[float] | str = 0,
        inplace: bool = False,
    ) -> None:
        self.p = probability(self, p)
        self.scale = range_pair("RandomErasing", "scale", tuple(scale))
        self.ratio = range_pair("RandomErasing", "ratio", tuple(ratio))
        if not (self.scale[0] >= 0 and self.scale[1] <= 1 and self.ratio[0] > 0):
            raise RangeError(f"RandomErasing: scale lies in [0, 1], ratio above 0; got {scale!r}, {ratio!r}")
        if isinstance(value, str) and value != "random":
            raise RangeError(f'RandomErasing: value is a number, one for each channel, or "random"; got {value!r}')
        self.value = value

    def __call__(self, image: Any) -> Any:
        if not isinstance(image, Tensor):
            raise ShapeError("RandomErasing expects a Tensor of C×H×W: put ToTensor() before it")
        return on_planes(image, "RandomErasing", self._erase) if chance(self.p) else image

    def _erase(self, planes: np.ndarray) -> np.ndarray:
        draw = sample_random()
        height, width = planes.shape[-2:]
        low, high = math.log(self.ratio[0]), math.log(self.ratio[1])
        for _ in range(10):
            area = height * width * draw.uniform(*self.scale)
            ratio = math.exp(draw.uniform(low, high))
            h, w = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if 0 < h < height and 0 < w < width:
                top, left = int(draw.random() * (height - h + 1)), int(draw.random() * (width - w + 1))
                erased = planes.copy()
                erased[..., top : top + h, left : left + w] = self._filling((*planes.shape[:-2], h, w))
                return erased
        return planes

    def _filling(self, shape: tuple[int, ...]) -> Any:
        if isinstance(self.value, str):
            draw = sample_random()
            return np.array([draw.gauss(0.0, 1.0) for _ in range(math.prod(shape))]).reshape(shape)
        values = np.asarray(self.value, np.float64).reshape(-1)
        if len(values) not in (1, shape[0]):
            raise ShapeError(f"RandomErasing: value has {len(values)} numbers, the image {shape[0]} channels")
        return values.reshape(-1, 1, 1)


def sharpen(planes: np.ndarray, factor: float, bound: float) -> np.ndarray:
    """Away from (factor above 1) or towards (below) a smoothed image; the outermost pixels stay."""
    if min(planes.shape[-2:]) <= 2:
        return planes
    smooth = planes.copy()
    height, width = planes.shape[-2:]
    total = planes[..., 1:-1, 1:-1] * planes.dtype.type(4)
    for down in range(3):
        for right in range(3):
            total = total + planes[..., down : down + height - 2, right : right + width - 2]
    smooth[..., 1:-1, 1:-1] = total / planes.dtype.type(13)
    return smooth + (planes - smooth) * planes.dtype.type(factor)
