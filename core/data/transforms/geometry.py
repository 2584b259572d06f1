"""Turning, shifting, zooming, shearing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ...errors import RangeError
from ..sampling import sample_random
from .base import Transform, chance, probability
from .crop import window
from .pixels import fill_of, on_planes, range_pair, size_pair
from .resample import affine_grid, mode_of, resize, warp

WARPS = ("nearest", "bilinear")


class RandomResizedCrop(Transform):
    """A window of a random share ``scale`` of the area and a random ``ratio`` of width to height, resized to ``size``.

    Ten tries, then the middle (Szegedy et al. 2015, arXiv 1409.4842, section 6).

    >>> from phalanx.data import transforms
    >>> transforms.RandomResizedCrop(8)(np.zeros((20, 30, 3), np.uint8)).shape
    (8, 8, 3)
    """

    def __init__(
        self,
        size: int | Sequence[int],
        scale: Sequence[float] = (0.08, 1.0),
        ratio: Sequence[float] = (3 / 4, 4 / 3),
        interpolation: Any = "bilinear",
        antialias: bool | None = True,
    ) -> None:
        self.size = size_pair("RandomResizedCrop", size)
        self.scale = range_pair("RandomResizedCrop", "scale", tuple(scale))
        self.ratio = range_pair("RandomResizedCrop", "ratio", tuple(ratio))
        if self.scale[0] <= 0 or self.ratio[0] <= 0:
            raise RangeError(f"RandomResizedCrop: scale and ratio are above 0, got scale={scale!r}, ratio={ratio!r}")
        self.interpolation, self.antialias = mode_of("RandomResizedCrop", interpolation), bool(antialias)

    def __call__(self, image: Any) -> Any:
        return on_planes(image, "RandomResizedCrop", self._cut)

    def _cut(self, planes: np.ndarray) -> np.ndarray:
        cut = window(planes, *self._place(*planes.shape[-2:]))
        return resize(cut, *self.size, self.interpolation, self.antialias)

    def _place(self, height: int, width: int) -> tuple[int, int, int, int]:
        draw = sample_random()
        low, high = math.log(self.ratio[0]), math.log(self.ratio[1])
        for _ in range(10):
            area = height * width * draw.uniform(*self.scale)
            ratio = math.exp(draw.uniform(low, high))
            w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if 0 < w <= width and 0 < h <= height:
                return int(draw.random() * (height - h + 1)), int(draw.random() * (width - w + 1)), h, w
        ratio = min(max(width / height, self.ratio[0]), self.ratio[1])
        w, h = min(width, round(height * ratio)), min(height, round(width / ratio))
        return (height - h) // 2, (width - w) // 2, h, w


class RandomRotation(Transform):
    """Turn by an angle drawn from ``degrees`` (one number: ± it), counter-clockwise.

    ``expand`` makes the image large enough for all of it; ``center``: (x, y) in pixels, the middle by default.

    >>> from phalanx.data import transforms
    >>> transforms.RandomRotation((90, 90))(np.array([[1, 2], [3, 4]])).tolist()
    [[2, 4], [1, 3]]
    """

    def __init__(
        self,
        degrees: float | Sequence[float],
        interpolation: Any = "nearest",
        expand: bool = False,
        center: Sequence[float] | None = None,
        fill: float | Sequence[float] = 0,
    ) -> None:
        self.degrees = range_pair("RandomRotation", "degrees", degrees)
        self.interpolation = mode_of("RandomRotation", interpolation, WARPS)
        self.expand, self.center, self.fill = bool(expand), center, fill

    def __call__(self, image: Any) -> Any:
        angle = sample_random().uniform(*self.degrees)
        return on_planes(image, "RandomRotation", lambda planes: self.turn(planes, angle))

    def turn(self, planes: np.ndarray, angle: float) -> np.ndarray:
        """``planes`` of (..., H, W) turned by ``angle`` degrees."""
        inverse = inverse_affine(planes.shape[-2:], -angle, center=None if self.expand else self.center)
        height, width = planes.shape[-2:]
        size = _span(inverse, height, width) if self.expand else (height, width)
        grid = affine_grid(inverse, size[0], size[1], (height, width))
        return warp(planes, *grid, self.interpolation, fill_of("RandomRotation", self.fill, planes))


class RandomAffine(Transform):
    """Turn by ``degrees``, shift by up to ``translate`` (shares of width and height), zoom by ``scale``, shear by ``shear``.

    ``shear`` in degrees: one number (x: ± it), (low, high) for x, or (x low, x high, y low, y high).

    >>> from phalanx.data import transforms
    >>> transforms.RandomAffine(0, scale=(1, 1))(np.array([[1, 2], [3, 4]])).tolist()
    [[1, 2], [3, 4]]
    """

    def __init__(
        self,
        degrees: float | Sequence[float],
        translate: Sequence[float] | None = None,
        scale: Sequence[float] | None = None,
        shear: float | Sequence[float] | None = None,
        interpolation: Any = "nearest",
        fill: float | Sequence[float] = 0,
        center: Sequence[float] | None = None,
    ) -> None:
        self.degrees = range_pair("RandomAffine", "degrees", degrees)
        if translate is not None and (len(translate) != 2 or not all(0 <= share <= 1 for share in translate)):
            raise RangeError(f"RandomAffine: translate is two shares in [0, 1], got {translate!r}")
        if scale is not None and (len(scale) != 2 or not 0 < scale[0] <= scale[1]):
            raise RangeError(f"RandomAffine: scale is (low, high) above 0, got {scale!r}")
        self.translate, self.scale = translate, scale
        self.shear = self._shears(shear)
        self.interpolation = mode_of("RandomAffine", interpolation, WARPS)
        self.fill, self.center = fill, center

    @staticmethod
    def _shears(shear: float | Sequence[float] | None) -> tuple[float, float, float, float] | None:
        if shear is None:
            return None
        if isinstance(shear, int | float) or len(shear) == 2:
            return (*range_pair("RandomAffine", "shear", shear), 0.0, 0.0)
        if len(shear) != 4:
            raise RangeError(f"RandomAffine: shear is 1, 2 or 4 numbers, got {shear!r}")
        return (*range_pair("RandomAffine", "shear", shear[:2]), *range_pair("RandomAffine", "shear", shear[2:]))

    def __call__(self, image: Any) -> Any:
        draw = sample_random()
        angle = draw.uniform(*self.degrees)
        shift = [draw.uniform(-share, share) for share in self.translate or (0.0, 0.0)]
        zoom = draw.uniform(*self.scale) if self.scale else 1.0
        shear = (draw.uniform(*self.shear[:2]), draw.uniform(*self.shear[2:])) if self.shear else (0.0, 0.0)

        def move(planes: np.ndarray) -> np.ndarray:
            height, width = planes.shape[-2:]
            pixels = (round(shift[0] * width), round(shift[1] * height))
            inverse = inverse_affine((height, width), angle, pixels, zoom, shear, self.center)
            grid = affine_grid(inverse, height, width)
            return warp(planes, *grid, self.interpolation, fill_of("RandomAffine", self.fill, planes))

        return on_planes(image, "RandomAffine", move)


class RandomPerspective(Transform):
    """With probability ``p`` the four corners move inwards by up to half of ``distortion_scale`` times the sides.

    >>> from phalanx.data import transforms
    >>> transforms.RandomPerspective(distortion_scale=0.0, p=1.0)(np.array([[1, 2], [3, 4]])).tolist()
    [[1, 2], [3, 4]]
    """

    def __init__(
        self,
        distortion_scale: float = 0.5,
        p: float = 0.5,
        interpolation: Any = "bilinear",
        fill: float | Sequence[float] = 0,
    ) -> None:
        self.p = probability(self, p)
        if not 0 <= distortion_scale <= 1:
            raise RangeError(f"RandomPerspective: distortion_scale must lie in [0, 1], got {distortion_scale}")
        self.distortion_scale, self.fill = distortion_scale, fill
        self.interpolation = mode_of("RandomPerspective", interpolation, WARPS)

    def __call__(self, image: Any) -> Any:
        return on_planes(image, "RandomPerspective", self._bend) if chance(self.p) else image

    def _bend(self, planes: np.ndarray) -> np.ndarray:
        draw = sample_random()
        height, width = planes.shape[-2:]
        right, down = (int(self.distortion_scale * (side // 2)) for side in (width, height))
        corners = np.array([(0, 0), (width - 1, 0), (width - 1, height - 1), (0, height - 1)], np.float64)
        inwards = np.array([(1, 1), (-1, 1), (-1, -1), (1, -1)])
        moved = corners + inwards * [(draw.randint(0, right), draw.randint(0, down)) for _ in range(4)]
        eight = _homography(moved, corners)
        y, x = np.meshgrid(np.arange(height), np.arange(width), indexing="ij")
        depth = eight[6] * x + eight[7] * y + 1
        columns = (eight[0] * x + eight[1] * y + eight[2]) / depth
        rows = (eight[3] * x + eight[4] * y + eight[5]) / depth
        return warp(planes, rows, columns, self.interpolation, fill_of("RandomPerspective", self.fill, planes))


def inverse_affine(
    size: Sequence[int],
    angle: float,
    shift: Sequence[float] = (0, 0),
    zoom: float = 1.0,
    shear: Sequence[float] = (0.0, 0.0),
    center: Sequence[float] | None = None,
) -> np.ndarray:
    """2×3, from new (x, y) to old, both from the middle of the image: shift, turn by ``angle`` clockwise, shear, zoom undone."""
    turn, shear_x, shear_y = math.radians(angle), math.radians(shear[0]), math.radians(shear[1])
    a = math.cos(turn - shear_y) / math.cos(shear_y)
    b = -math.cos(turn - shear_y) * math.tan(shear_x) / math.cos(shear_y) - math.sin(turn)
    c = math.sin(turn - shear_y) / math.cos(shear_y)
    d = -math.sin(turn - shear_y) * math.tan(shear_x) / math.cos(shear_y) + math.cos(turn)
    inverse = np.array([[d, -b], [-c, a]]) / zoom
    height, width = size
    middle = np.zeros(2) if center is None else np.array([center[0] - width / 2, center[1] - height / 2])
    old = inverse[:, 0] * (-shift[0] - middle[0]) + inverse[:, 1] * (-shift[1] - middle[1]) + middle
    return np.concatenate([inverse, old[:, None]], 1)


def _span(inverse: np.ndarray, height: int, width: int) -> tuple[int, int]:
    """Height and width that hold the whole turned image (the turn's inverse is its transpose)."""
    wide = abs(inverse[0, 0]) * width + abs(inverse[1, 0]) * height
    high = abs(inverse[0, 1]) * width + abs(inverse[1, 1]) * height
    low_high = (((old - new) / 2, (old + new) / 2) for old, new in ((height, high), (width, wide)))
    rows, columns = (math.ceil(round(b, 4)) - math.floor(round(a, 4)) for a, b in low_high)  # torchvision's pixels
    return rows, columns


def _homography(new: np.ndarray, old: np.ndarray) -> np.ndarray:
    """The eight numbers of the projective map that takes each of four points ``new`` to ``old``."""
    rows, values = [], []
    for (x, y), (u, v) in zip(new, old, strict=True):
        rows += [[x, y, 1, 0, 0, 0, -u * x, -u * y], [0, 0, 0, x, y, 1, -v * x, -v * y]]
        values += [u, v]
    return np.linalg.solve(np.array(rows), np.array(values))
