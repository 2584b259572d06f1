"""From one kind of image to another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ...errors import DTypeError, RangeError, ShapeError
from ...tensor import Tensor
from ..image_files import to_pillow
from .base import Transform, chance, probability
from .pixels import in_float, like, on_planes, planes_of

LUMA = (0.2989, 0.587, 0.114)
"""ITU-R 601's weights of red, green and blue, as torchvision has them."""


class ToTensor(Transform):
    """H×W or H×W×C (array or Pillow image) to a float32 Tensor of C×H×W; uint8 is divided by 255, other numbers keep theirs.

    >>> from phalanx.data import transforms
    >>> transforms.ToTensor()(np.full((2, 3), 255, np.uint8)).shape
    (1, 2, 3)
    """

    def __call__(self, image: Any) -> Tensor:
        array = np.asarray(image)
        if array.ndim not in (2, 3):
            raise ShapeError(f"ToTensor expects an image of H×W or H×W×C, got shape {array.shape}")
        array = array[None] if array.ndim == 2 else array.transpose(2, 0, 1)
        if array.dtype == np.uint8:
            return Tensor(array.astype(np.float32) / np.float32(255))
        return Tensor(np.array(array, np.float32 if array.dtype.kind != "f" else array.dtype))


class PILToTensor(Transform):
    """H×W or H×W×C (array or Pillow image) to a Tensor of C×H×W of the same numbers.

    >>> from phalanx.data import transforms
    >>> transforms.PILToTensor()(np.full((2, 3), 255, np.uint8)).numpy().max().item()
    255
    """

    def __call__(self, image: Any) -> Tensor:
        planes = planes_of(np.asarray(image), "PILToTensor")
        return Tensor(np.ascontiguousarray(planes if planes.ndim == 3 else planes[None]))


class ToPILImage(Transform):
    """A Tensor of C×H×W (floating point in [0, 1], or uint8) or an array of H×W or H×W×C as a Pillow image.

    >>> from phalanx.data import transforms
    >>> transforms.ToPILImage()(phalanx.zeros(3, 4, 6)).size
    (6, 4)
    """

    def __call__(self, image: Any) -> Any:
        planes = planes_of(image, "ToPILImage")
        if planes.dtype.kind == "f":
            planes = np.clip(np.rint(planes.astype(np.float64) * 255), 0, 255).astype(np.uint8)
        if planes.dtype != np.uint8:
            raise DTypeError(f"ToPILImage expects floating point in [0, 1] or uint8, got {planes.dtype}")
        return to_pillow(planes if planes.ndim == 2 else planes.transpose(1, 2, 0))


class ConvertImageDtype(Transform):
    """To ``dtype``, with its scale: between 0 and the largest integer, or in [0, 1].

    >>> from phalanx.data import transforms
    >>> transforms.ConvertImageDtype(np.float32)(np.array([[0, 51]], np.uint8)).tolist()
    [[0.0, 0.20000000298023224]]
    """

    def __init__(self, dtype: Any) -> None:
        self.dtype = np.dtype(dtype)
        if self.dtype.kind not in "fu":
            raise DTypeError(f"ConvertImageDtype: floating point or unsigned integers, got {self.dtype}")

    def __call__(self, image: Any) -> Any:
        return on_planes(image, "ConvertImageDtype", self._convert)

    def _convert(self, planes: np.ndarray) -> np.ndarray:
        old = 1.0 if planes.dtype.kind == "f" else float(np.iinfo(planes.dtype).max)
        if self.dtype.kind == "f":
            return (planes / old).astype(self.dtype) if old != 1 else planes.astype(self.dtype)
        new = float(np.iinfo(self.dtype).max)
        return np.clip(np.rint(planes.astype(np.float64) * (new / old)), 0, new).astype(self.dtype)


class ToImage(PILToTensor):
    """:class:`PILToTensor` under the name that torchvision's ``v2`` gives it.

    >>> from phalanx.data import transforms
    >>> transforms.Compose([transforms.ToImage(), transforms.ToDtype(np.float32, scale=True)])(
    ...     np.full((1, 1), 51, np.uint8)
    ... ).item()
    0.20000000298023224
    """


class ToDtype(Transform):
    """To ``dtype``: numbers as they are, or with ``scale`` as :class:`ConvertImageDtype` does it.

    >>> from phalanx.data import transforms
    >>> transforms.ToDtype(np.float32)(np.array([[51]], np.uint8)).item()
    51.0
    """

    def __init__(self, dtype: Any, scale: bool = False) -> None:
        self.dtype, self.scale = np.dtype(dtype), bool(scale)
        self._convert = ConvertImageDtype(dtype) if scale else None

    def __call__(self, image: Any) -> Any:
        if self._convert is not None:
            return self._convert(image)
        return on_planes(image, "ToDtype", lambda planes: planes.astype(self.dtype))


class Normalize(Transform):
    """``(image - mean) / std`` for each channel of a C×H×W Tensor.

    >>> from phalanx.data import transforms
    >>> transforms.Normalize((1.0,), (2.0,))(phalanx.full((1, 1, 1), 5.0)).item()
    2.0
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float], inplace: bool = False) -> None:
        self.mean, self.std = (tuple(np.asarray(values, np.float64).reshape(-1).tolist()) for values in (mean, std))
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
        if array.dtype.kind != "f":
            raise DTypeError(f"Normalize expects floating-point numbers, got {array.dtype}: put ToTensor() before it")
        mean, std = (np.asarray(values, array.dtype).reshape(-1, 1, 1) for values in (self.mean, self.std))
        return Tensor((array - mean) / std)


class Grayscale(Transform):
    """``0.2989 R + 0.587 G + 0.114 B``, in 1 or 3 equal channels.

    >>> from phalanx.data import transforms
    >>> transforms.Grayscale()(np.full((2, 2, 3), 100, np.uint8)).shape
    (2, 2, 1)
    """

    def __init__(self, num_output_channels: int = 1) -> None:
        if num_output_channels not in (1, 3):
            raise RangeError(f"Grayscale: num_output_channels is 1 or 3, got {num_output_channels}")
        self.num_output_channels = num_output_channels

    def __call__(self, image: Any) -> Any:
        planes = planes_of(image, "Grayscale")
        grey = in_float(planes, lambda values, bound: grey_of(values))
        return like(image, np.repeat(grey, self.num_output_channels, 0))


class RandomGrayscale(Transform):
    """Grey with probability ``p``; the number of channels stays.

    >>> from phalanx.data import transforms
    >>> transforms.RandomGrayscale(p=1.0)(np.zeros((2, 2, 3), np.uint8)).shape
    (2, 2, 3)
    """

    def __init__(self, p: float = 0.1) -> None:
        self.p = probability(self, p)

    def __call__(self, image: Any) -> Any:
        if not chance(self.p):
            return image
        planes = planes_of(image, "RandomGrayscale")
        channels = planes.shape[0] if planes.ndim == 3 else 1
        if planes.ndim == 2 or channels == 1:
            return image
        return like(image, np.repeat(in_float(planes, lambda values, bound: grey_of(values)), channels, 0))


def grey_of(planes: np.ndarray) -> np.ndarray:
    """One plane of 1×H×W from one plane or from red, green and blue."""
    if planes.ndim == 2:
        return planes[None]
    if planes.shape[0] == 1:
        return planes
    if planes.shape[0] != 3:
        raise ShapeError(f"grey needs an image of 1 or 3 channels, got {planes.shape[0]}")
    red, green, blue = planes
    weights = [planes.dtype.type(weight) for weight in LUMA]
    return (red * weights[0] + green * weights[1] + blue * weights[2])[None]
