"""How an image lies in memory. Before ToTensor it is an array of H×W or H×W×C, after it a Tensor of C×H×W.

Transforms work on *planes*: an array of C×H×W (or H×W), whichever of the two the image was; float images are taken to
lie in [0, 1], those of integers between 0 and the largest of their type.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ...errors import RangeError, ShapeError
from ...tensor import Tensor


def planes_of(image: Any, who: str) -> np.ndarray:
    """``image`` as C×H×W or H×W, a view where possible."""
    array = image.array if isinstance(image, Tensor) else np.asarray(image)
    if array.ndim not in (2, 3):
        raise ShapeError(f"{who} expects an image of H×W or H×W×C, or a Tensor of C×H×W; got shape {array.shape}")
    return array if isinstance(image, Tensor) or array.ndim == 2 else array.transpose(2, 0, 1)


def like(image: Any, planes: np.ndarray) -> Any:
    """``planes`` in the form of ``image``."""
    if isinstance(image, Tensor):
        return Tensor(np.ascontiguousarray(planes))
    return np.ascontiguousarray(planes if planes.ndim == 2 else planes.transpose(1, 2, 0))


def on_planes(image: Any, who: str, change: Callable[[np.ndarray], np.ndarray]) -> Any:
    """``change`` applied to the planes, in the image's own form."""
    return like(image, change(planes_of(image, who)))


def in_float(planes: np.ndarray, change: Callable[[np.ndarray, float], np.ndarray]) -> np.ndarray:
    """``change(planes, bound)`` in floating point, clipped to [0, bound] and brought back to the images's type."""
    if planes.dtype.kind == "f":
        return np.clip(change(planes, 1.0), 0, 1).astype(planes.dtype, copy=False)
    bound = float(np.iinfo(planes.dtype).max) if planes.dtype.kind in "ui" else 1.0
    return np.clip(change(planes.astype(np.float32), bound), 0, bound).astype(planes.dtype)


def size_pair(owner: str, size: int | Sequence[int]) -> tuple[int, int]:
    """(height, width) of one number or two."""
    pair = (size, size) if isinstance(size, int) else tuple(int(each) for each in size)
    if len(pair) == 1:
        pair = pair * 2
    if len(pair) != 2 or min(pair) < 1:
        raise RangeError(f"{owner}: size is one number or (height, width), each at least 1; got size={size!r}")
    return pair


def range_pair(owner: str, name: str, value: float | Sequence[float], centre: float = 0.0) -> tuple[float, float]:
    """(low, high) of one number (``centre`` ± it) or of two."""
    if isinstance(value, int | float):
        if value < 0:
            raise RangeError(f"{owner}: one number for {name} must not be negative, got {value}")
        return centre - value, centre + value
    pair = tuple(float(each) for each in value)
    if len(pair) != 2 or pair[0] > pair[1]:
        raise RangeError(f"{owner}: {name} is one number or (low, high), got {value!r}")
    return pair


def fill_of(owner: str, fill: float | Sequence[float], planes: np.ndarray) -> np.ndarray:
    """``fill`` for each channel, in a shape that broadcasts against ``planes``."""
    values = np.asarray(fill, np.float64).reshape(-1)
    channels = planes.shape[0] if planes.ndim == 3 else 1
    if len(values) not in (1, channels):
        raise ShapeError(f"{owner}: fill has {len(values)} values, the image {channels} channels")
    return values.reshape(-1, 1, 1) if planes.ndim == 3 else values.reshape(1, 1)
