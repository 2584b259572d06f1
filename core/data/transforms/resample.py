"""New pixels between old ones: resizing and warping. Sums go tap by tap, so that no library's threads change a bit."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np

from ...errors import RangeError

MODES = ("nearest", "bilinear", "bicubic")


def mode_of(owner: str, interpolation: Any, allowed: tuple[str, ...] = MODES) -> str:
    """A mode's name; torchvision's InterpolationMode has it as its value."""
    name = str(getattr(interpolation, "value", interpolation)).lower()
    if name not in allowed:
        raise RangeError(f"{owner}: interpolation is one of {', '.join(allowed)}, got {interpolation!r}")
    return name


def resize(planes: np.ndarray, height: int, width: int, mode: str = "bilinear", antialias: bool = True) -> np.ndarray:
    """``planes`` of (..., H, W) at another size, as ``torch.nn.functional.interpolate(align_corners=False)`` does it."""
    if mode == "nearest":
        rows, columns = (_nearest(old, new) for old, new in zip(planes.shape[-2:], (height, width), strict=True))
        return planes[..., rows, :][..., columns]
    exact = planes.astype(planes.dtype if planes.dtype.kind == "f" else np.float32, copy=False)
    for axis, new in ((-1, width), (-2, height)):
        if exact.shape[axis] != new:
            exact = _along(exact, axis, *_taps(exact.shape[axis], new, mode, antialias))
    return in_dtype(exact, planes.dtype)


def in_dtype(values: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Rounded and clipped for integers."""
    if dtype.kind == "f":
        return values.astype(dtype, copy=False)
    if dtype == np.bool_:
        return values >= 0.5
    limits = np.iinfo(dtype)
    return np.clip(np.rint(values), limits.min, limits.max).astype(dtype)


def _nearest(old: int, new: int) -> np.ndarray:
    return np.minimum((np.arange(new) * np.float32(old / new)).astype(np.int64), old - 1)


def _along(values: np.ndarray, axis: int, places: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Sum over taps of weight times the element at each place, along ``axis`` (-1 or -2)."""
    total: Any = None
    for place, weight in zip(places, weights.astype(values.dtype), strict=True):
        part = np.take(values, place, axis) * (weight if axis == -1 else weight[:, None])
        total = part if total is None else total + part
    return total


@lru_cache(maxsize=256)
def _taps(old: int, new: int, mode: str, antialias: bool) -> tuple[np.ndarray, np.ndarray]:
    """(taps, new) places in the old line and their weights; a wider filter when shrinking with ``antialias``."""
    scale = old / new
    stretch = max(scale, 1.0) if antialias else 1.0
    reach = (1.0 if mode == "bilinear" else 2.0) * stretch
    centre = (np.arange(new) + 0.5) * scale
    first = (
        np.floor(centre - reach + 0.5).astype(np.int64)
        if antialias
        else np.floor(centre - 0.5 - (reach - 1)).astype(np.int64)
    )
    count = math.ceil(2 * reach) + 1 if antialias else round(2 * reach)
    places = first + np.arange(count)[:, None]
    distance = np.abs((places + 0.5 - centre) / stretch)
    if mode == "bilinear":
        weights = np.maximum(0.0, 1.0 - distance)
    else:
        weights = _cubic(distance, -0.5 if antialias else -0.75)
    if antialias:
        weights = np.where((places >= 0) & (places < old), weights, 0.0)
        weights = weights / weights.sum(0)
    return np.clip(places, 0, old - 1), weights


def _cubic(x: np.ndarray, a: float) -> np.ndarray:
    """Keys 1981; a = -0.5 is Pillow's, -0.75 PyTorch's without antialias."""
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))


def warp(planes: np.ndarray, rows: np.ndarray, columns: np.ndarray, mode: str, fill: np.ndarray) -> np.ndarray:
    """``planes`` of (..., H, W) read at the pixel positions ``rows`` and ``columns``; ``fill`` outside of the image."""
    height, width = planes.shape[-2:]
    if mode == "nearest":
        r, c = np.rint(rows).astype(np.int64), np.rint(columns).astype(np.int64)
        inside = (r >= 0) & (r < height) & (c >= 0) & (c < width)
        read = planes[..., np.clip(r, 0, height - 1), np.clip(c, 0, width - 1)]
        return np.where(inside, read, in_dtype(fill, planes.dtype))
    low_r, low_c = np.floor(rows).astype(np.int64), np.floor(columns).astype(np.int64)
    part_r, part_c = rows - low_r, columns - low_c
    exact = planes.astype(np.float64 if planes.dtype == np.float64 else np.float32, copy=False)
    total, covered = np.zeros((*planes.shape[:-2], *rows.shape), exact.dtype), np.zeros(rows.shape)
    for down, right in ((0, 0), (0, 1), (1, 0), (1, 1)):
        r, c = low_r + down, low_c + right
        weight = (part_r if down else 1 - part_r) * (part_c if right else 1 - part_c)
        weight = np.where((r >= 0) & (r < height) & (c >= 0) & (c < width), weight, 0.0)
        total += exact[..., np.clip(r, 0, height - 1), np.clip(c, 0, width - 1)] * weight.astype(exact.dtype)
        covered += weight
    return in_dtype(total + (fill * (1 - covered)).astype(exact.dtype), planes.dtype)


def affine_grid(
    inverse: np.ndarray, height: int, width: int, old: tuple[int, int] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns that ``inverse`` (2×3, on (x, y) from the centre) gives for each new pixel of height×width."""
    old_height, old_width = old or (height, width)
    y, x = np.meshgrid(np.arange(height) - (height - 1) / 2, np.arange(width) - (width - 1) / 2, indexing="ij")
    columns = inverse[0, 0] * x + inverse[0, 1] * y + inverse[0, 2] + (old_width - 1) / 2
    rows = inverse[1, 0] * x + inverse[1, 1] * y + inverse[1, 2] + (old_height - 1) / 2
    return rows, columns
