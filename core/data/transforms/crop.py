"""Windows, borders, mirrors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ...errors import RangeError, ShapeError
from ..sampling import sample_random
from .base import Transform, chance, probability
from .pixels import fill_of, like, on_planes, planes_of, size_pair
from .resample import in_dtype, mode_of, resize

PADDING_MODES = ("constant", "edge", "reflect", "symmetric")


class Pad(Transform):
    """A border. ``padding``: one number; (left and right, top and bottom); or (left, top, right, bottom), in pixels.

    ``padding_mode``: "constant" (with ``fill``), "edge", "reflect" (without the edge) or "symmetric" (with it).

    >>> from phalanx.data import transforms
    >>> transforms.Pad((1, 2))(np.zeros((4, 4), np.uint8)).shape
    (8, 6)
    """

    def __init__(
        self, padding: int | Sequence[int], fill: float | Sequence[float] = 0, padding_mode: str = "constant"
    ) -> None:
        sides = (padding,) if isinstance(padding, int) else tuple(padding)
        if len(sides) not in (1, 2, 4) or min(sides) < 0:
            raise RangeError(f"Pad: padding is 1, 2 or 4 numbers of at least 0, got {padding!r}")
        if padding_mode not in PADDING_MODES:
            raise RangeError(f"Pad: padding_mode is one of {', '.join(PADDING_MODES)}, got {padding_mode!r}")
        self.padding, self.fill, self.padding_mode = sides * (4 // len(sides)), fill, padding_mode

    def __call__(self, image: Any) -> Any:
        return on_planes(image, "Pad", self.pad)

    def pad(self, planes: np.ndarray) -> np.ndarray:
        """``planes`` of (..., H, W) with the border."""
        left, top, right, bottom = self.padding
        height, width = planes.shape[-2:]
        if self.padding_mode != "constant":
            around = [(0, 0)] * (planes.ndim - 2) + [(top, bottom), (left, right)]
            if self.padding_mode == "reflect" and (max(top, bottom) >= height or max(left, right) >= width):
                raise ShapeError(f"Pad: reflect needs a border below the image's {height}×{width}, got {self.padding}")
            return np.pad(planes, around, self.padding_mode)  # type: ignore[call-overload]
        padded = np.empty((*planes.shape[:-2], top + height + bottom, left + width + right), planes.dtype)
        padded[...] = in_dtype(fill_of("Pad", self.fill, planes), planes.dtype)  # five times as fast as np.pad
        padded[..., top : top + height, left : left + width] = planes
        return padded


class CenterCrop(Transform):
    """The window of ``size`` (one number or (height, width)) in the middle; zeros around an image that is too small.

    >>> from phalanx.data import transforms
    >>> transforms.CenterCrop(2)(np.arange(16).reshape(4, 4)).tolist()
    [[5, 6], [9, 10]]
    """

    def __init__(self, size: int | Sequence[int]) -> None:
        self.size = size_pair("CenterCrop", size)

    def __call__(self, image: Any) -> Any:
        return on_planes(image, "CenterCrop", self._cut)

    def _cut(self, planes: np.ndarray) -> np.ndarray:
        height, width = planes.shape[-2:]
        short, narrow = max(0, self.size[0] - height), max(0, self.size[1] - width)
        if short or narrow:
            planes = Pad((narrow // 2, short // 2, (narrow + 1) // 2, (short + 1) // 2)).pad(planes)
            height, width = planes.shape[-2:]
        return window(planes, round((height - self.size[0]) / 2), round((width - self.size[1]) / 2), *self.size)


class FiveCrop(Transform):
    """The windows of ``size`` in the four corners and in the middle, as a tuple.

    >>> from phalanx.data import transforms
    >>> [crop.item() for crop in transforms.FiveCrop(1)(np.arange(9).reshape(3, 3))]
    [0, 2, 6, 8, 4]
    """

    def __init__(self, size: int | Sequence[int]) -> None:
        self.size = size_pair("FiveCrop", size)

    def __call__(self, image: Any) -> tuple[Any, ...]:
        planes = planes_of(image, "FiveCrop")
        down, right = (planes.shape[-2] - self.size[0], planes.shape[-1] - self.size[1])
        if min(down, right) < 0:
            raise ShapeError(
                f"FiveCrop of {self.size} from an image of {planes.shape[-2]}×{planes.shape[-1]}: too small"
            )
        places = ((0, 0), (0, right), (down, 0), (down, right), (round(down / 2), round(right / 2)))
        return tuple(like(image, window(planes, top, left, *self.size)) for top, left in places)


class RandomCrop(Transform):
    """A window of ``size`` (one number or (height, width)) at a random place, after ``padding`` as in :class:`Pad`.

    ``pad_if_needed`` widens an image that is smaller than the window, on both sides.

    >>> from phalanx.data import transforms
    >>> transforms.RandomCrop(4, padding=1)(np.zeros((4, 4), np.uint8)).shape
    (4, 4)
    """

    def __init__(
        self,
        size: int | Sequence[int],
        padding: int | Sequence[int] | None = None,
        pad_if_needed: bool = False,
        fill: float | Sequence[float] = 0,
        padding_mode: str = "constant",
    ) -> None:
        try:
            self.size = size_pair("RandomCrop", size)
            self._pad = Pad(0 if padding is None else padding, fill, padding_mode)
        except RangeError as error:
            raise RangeError(
                f"RandomCrop: size={size!r}, padding={padding!r} is not a size and 1, 2 or 4 paddings ({error})"
            ) from None
        self.padding, self.pad_if_needed = self._pad.padding, bool(pad_if_needed)
        self.fill, self.padding_mode = fill, padding_mode

    def __call__(self, image: Any) -> Any:
        return on_planes(image, "RandomCrop", self._cut)

    def _cut(self, planes: np.ndarray) -> np.ndarray:
        padded = self._pad.pad(planes) if any(self.padding) else planes
        if self.pad_if_needed:
            short, narrow = (max(0, self.size[axis] - padded.shape[axis - 2]) for axis in (0, 1))
            if short or narrow:
                padded = Pad((narrow, short), self.fill, self.padding_mode).pad(padded)
        places = []
        for wanted, there in zip(self.size, padded.shape[-2:], strict=True):
            if there < wanted:
                shape = "×".join(str(each) for each in planes.shape[-2:])
                raise ShapeError(f"RandomCrop of {self.size} from an image of {shape}: too small even padded")
            places.append(int(sample_random().random() * (there - wanted + 1)))
        return window(padded, places[0], places[1], *self.size)


class RandomHorizontalFlip(Transform):
    """Mirror left and right with probability ``p``.

    >>> from phalanx.data import transforms
    >>> transforms.RandomHorizontalFlip(p=1.0)(np.array([[1, 2]])).tolist()
    [[2, 1]]
    """

    def __init__(self, p: float = 0.5) -> None:
        self.p = probability(self, p)

    def __call__(self, image: Any) -> Any:
        return on_planes(image, type(self).__name__, lambda planes: planes[..., ::-1]) if chance(self.p) else image


class RandomVerticalFlip(Transform):
    """Turn upside down with probability ``p``.

    >>> from phalanx.data import transforms
    >>> transforms.RandomVerticalFlip(p=1.0)(np.array([[1], [2]])).tolist()
    [[2], [1]]
    """

    def __init__(self, p: float = 0.5) -> None:
        self.p = probability(self, p)

    def __call__(self, image: Any) -> Any:
        return on_planes(image, type(self).__name__, lambda planes: planes[..., ::-1, :]) if chance(self.p) else image


class Resize(Transform):
    """To ``size``: (height, width), or one number for the shorter side, which keeps the proportions.

    ``max_size`` limits the longer side then. ``interpolation``: "nearest", "bilinear" or "bicubic", with ``antialias``
    as Pillow does it when shrinking.

    >>> from phalanx.data import transforms
    >>> transforms.Resize(2)(np.zeros((4, 8), np.uint8)).shape
    (2, 4)
    """

    def __init__(
        self,
        size: int | Sequence[int],
        interpolation: Any = "bilinear",
        max_size: int | None = None,
        antialias: bool | None = True,
    ) -> None:
        one = isinstance(size, int) or len(size) == 1
        pair = size_pair("Resize", size)
        self.size: int | tuple[int, int] = pair[0] if one else pair
        self.interpolation = mode_of("Resize", interpolation)
        self.max_size, self.antialias = max_size, bool(antialias)
        if max_size is not None and (not one or max_size <= pair[0]):
            raise RangeError(f"Resize: max_size goes with one number for size and is larger, got {size!r}, {max_size}")

    def __call__(self, image: Any) -> Any:
        return on_planes(image, "Resize", self._resize)

    def _resize(self, planes: np.ndarray) -> np.ndarray:
        return resize(planes, *self._wanted(*planes.shape[-2:]), self.interpolation, self.antialias)

    def _wanted(self, height: int, width: int) -> tuple[int, int]:
        if not isinstance(self.size, int):
            return self.size
        short, long = self.size, int(self.size * max(height, width) / min(height, width))
        if self.max_size is not None and long > self.max_size:
            short, long = int(self.max_size * short / long), self.max_size
        return (short, long) if height <= width else (long, short)


def window(planes: np.ndarray, top: int, left: int, height: int, width: int) -> np.ndarray:
    """The pixels [top, top + height) × [left, left + width)."""
    return planes[..., top : top + height, left : left + width]
