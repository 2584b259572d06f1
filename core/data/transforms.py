"""Image transforms under torchvision's names. Random ones are keyed by (seed, epoch, sample).

Before :class:`ToTensor` an image is an array of H×W or H×W×C; after it, a Tensor of C×H×W. Random transforms take
either, and batches of neither: the layout follows from the class.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..errors import RangeError, ShapeError
from ..tensor import Tensor
from .sampling import sample_random

Transform = Callable[[Any], Any]


class Compose:
    """One transform after another.

    >>> Compose([ToTensor(), Normalize((0.5,), (0.5,))])(np.zeros((2, 2), np.uint8)).numpy().tolist()
    [[[-1.0, -1.0], [-1.0, -1.0]]]
    """

    def __init__(self, transforms: Sequence[Transform]) -> None:
        self.transforms = list(transforms)

    @property
    def keyed(self) -> bool:
        return all(getattr(transform, "keyed", False) for transform in self.transforms)

    def __call__(self, image: Any) -> Any:
        for transform in self.transforms:
            image = transform(image)
        return image

    def __repr__(self) -> str:
        return f"Compose({self.transforms!r})"


class ToTensor:
    """H×W or H×W×C to a float32 Tensor of C×H×W; uint8 is divided by 255, other numbers keep their values.

    >>> ToTensor()(np.full((2, 3), 255, np.uint8)).shape
    (1, 2, 3)
    """

    keyed = True

    def __call__(self, image: Any) -> Tensor:
        array = np.asarray(image)
        if array.ndim not in (2, 3):
            raise ShapeError(f"ToTensor expects an image of H×W or H×W×C, got shape {array.shape}")
        array = array[None] if array.ndim == 2 else array.transpose(2, 0, 1)
        if array.dtype == np.uint8:
            return Tensor(array.astype(np.float32) / np.float32(255))
        return Tensor(np.array(array, np.float32 if array.dtype.kind != "f" else array.dtype))

    def __repr__(self) -> str:
        return "ToTensor()"


class Normalize:
    """``(image - mean) / std`` for each channel of a C×H×W Tensor.

    >>> Normalize((1.0,), (2.0,))(Tensor(np.full((1, 1, 1), 5.0, np.float32))).item()
    2.0
    """

    keyed = True

    def __init__(self, mean: Sequence[float], std: Sequence[float], inplace: bool = False) -> None:
        self.mean, self.std = tuple(mean), tuple(std)
        if not all(self.std):
            raise RangeError(f"Normalize: std must not be zero, got {self.std}")

    def __call__(self, image: Any) -> Tensor:
        if not isinstance(image, Tensor):
            raise ShapeError(
                f"Normalize expects a Tensor of C×H×W, got {type(image).__name__}: put ToTensor() before it"
            )
        array = image.array
        channels = array.shape[0] if array.ndim == 3 else None
        if channels is None or any(len(values) not in (1, channels) for values in (self.mean, self.std)):
            raise ShapeError(
                f"Normalize with {len(self.mean)} means and {len(self.std)} stds got an image of shape {array.shape}"
            )
        mean, std = (np.asarray(values, array.dtype).reshape(-1, 1, 1) for values in (self.mean, self.std))
        return Tensor((array - mean) / std)

    def __repr__(self) -> str:
        return f"Normalize(mean={self.mean}, std={self.std})"


class RandomHorizontalFlip:
    """Mirror left and right with probability ``p``."""

    keyed = True

    def __init__(self, p: float = 0.5) -> None:
        if not 0 <= p <= 1:
            raise RangeError(f"RandomHorizontalFlip: p must lie in [0, 1], got {p}")
        self.p = p

    def __call__(self, image: Any) -> Any:
        if sample_random().random() >= self.p:
            return image
        if isinstance(image, Tensor):
            return Tensor(np.ascontiguousarray(image.array[..., ::-1]))
        return np.ascontiguousarray(np.asarray(image)[:, ::-1])

    def __repr__(self) -> str:
        return f"RandomHorizontalFlip(p={self.p})"


class RandomCrop:
    """A window of ``size`` (one number or height and width) at a random place, after ``padding`` pixels of ``fill``.

    ``padding``: one number; (left and right, top and bottom); or (left, top, right, bottom).

    >>> RandomCrop(4, padding=1)(np.zeros((4, 4), np.uint8)).shape
    (4, 4)
    """

    keyed = True

    def __init__(self, size: int | Sequence[int], padding: int | Sequence[int] = 0, *, fill: float = 0) -> None:
        self.size = (size, size) if isinstance(size, int) else tuple(size)
        sides = (padding,) if isinstance(padding, int) else tuple(padding)
        if len(sides) not in (1, 2, 4) or min(sides) < 0 or len(self.size) != 2 or min(self.size) < 1:
            raise RangeError(f"RandomCrop: size={size!r}, padding={padding!r} is not a size and 1, 2 or 4 paddings")
        self.padding = sides * (4 // len(sides))
        self.fill = fill

    def __call__(self, image: Any) -> Any:
        tensor = isinstance(image, Tensor)
        array = image.array if tensor else np.asarray(image)
        axis = array.ndim - 2 if tensor else 0
        padded = self._pad(array, axis) if any(self.padding) else array
        window: list[slice] = [slice(None)] * array.ndim
        for offset, wanted in enumerate(self.size):
            room = padded.shape[axis + offset] - wanted
            if room < 0:
                raise ShapeError(
                    f"RandomCrop of {self.size} from an image of shape {array.shape}: too small even padded"
                )
            start = int(sample_random().random() * (room + 1))
            window[axis + offset] = slice(start, start + wanted)
        cut = np.ascontiguousarray(padded[tuple(window)])
        return Tensor(cut) if tensor else cut

    def _pad(self, array: np.ndarray, axis: int) -> np.ndarray:
        """Height at ``axis``, width behind it. Five times as fast as ``np.pad``."""
        left, top, right, bottom = self.padding
        shape = list(array.shape)
        height, width = shape[axis : axis + 2]
        shape[axis : axis + 2] = top + height + bottom, left + width + right
        padded = np.full(shape, self.fill, array.dtype)
        padded[(*[slice(None)] * axis, slice(top, top + height), slice(left, left + width))] = array
        return padded

    def __repr__(self) -> str:
        return f"RandomCrop(size={self.size}, padding={self.padding})"
