"""The transforms' work as functions with given strengths, as ``torchvision.transforms.functional``.

Images are arrays of H×W or H×W×C, or Tensors of C×H×W, and come back in the same form.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ...errors import RangeError, ShapeError
from ...tensor import Tensor
from .automatic import autocontrast as _autocontrast
from .automatic import equalize as _equalize
from .automatic import invert as _invert
from .automatic import posterize as _posterize
from .automatic import solarize as _solarize
from .colour import GaussianBlur, brighten, changed, contrast, saturate, sharpen, turn_hue
from .convert import Grayscale, Normalize, ToTensor
from .crop import CenterCrop, FiveCrop, Pad, Resize, window
from .geometry import WARPS, RandomRotation, inverse_affine
from .pixels import fill_of, on_planes, planes_of
from .resample import affine_grid, mode_of, warp

__all__ = [
    "adjust_brightness",
    "adjust_contrast",
    "adjust_hue",
    "adjust_saturation",
    "adjust_sharpness",
    "affine",
    "autocontrast",
    "center_crop",
    "crop",
    "equalize",
    "five_crop",
    "gaussian_blur",
    "get_image_size",
    "hflip",
    "invert",
    "normalize",
    "pad",
    "posterize",
    "resize",
    "resized_crop",
    "rgb_to_grayscale",
    "rotate",
    "solarize",
    "to_tensor",
    "vflip",
]


def to_tensor(image: Any) -> Tensor:
    """:class:`ToTensor` of one image.

    >>> from phalanx.data.transforms import functional as TF
    >>> TF.to_tensor(np.full((2, 3), 255, np.uint8)).shape
    (1, 2, 3)
    """
    return ToTensor()(image)


def normalize(tensor: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """``(tensor - mean) / std`` for each channel.

    >>> from phalanx.data.transforms import functional as TF
    >>> TF.normalize(phalanx.full((1, 1, 1), 5.0), (1.0,), (2.0,)).item()
    2.0
    """
    return Normalize(mean, std)(tensor)


def get_image_size(image: Any) -> list[int]:
    """[width, height].

    >>> from phalanx.data.transforms import functional as TF
    >>> TF.get_image_size(np.zeros((4, 6, 3)))
    [6, 4]
    """
    height, width = planes_of(image, "get_image_size").shape[-2:]
    return [width, height]


def hflip(image: Any) -> Any:
    """Left and right mirrored.

    >>> from phalanx.data.transforms import functional as TF
    >>> TF.hflip(np.array([[1, 2]])).tolist()
    [[2, 1]]
    """
    return on_planes(image, "hflip", lambda planes: planes[..., ::-1])


def vflip(image: Any) -> Any:
    """Upside down.

    >>> from phalanx.data.transforms import functional as TF
    >>> TF.vflip(np.array([[1], [2]])).tolist()
    [[2], [1]]
    """
    return on_planes(image, "vflip", lambda planes: planes[..., ::-1, :])


def crop(image: Any, top: int, left: int, height: int, width: int) -> Any:
    """The window of height×width whose corner is (top, left); it must lie inside of the image.

    >>> from phalanx.data.transforms import functional as TF
    >>> TF.crop(np.arange(9).reshape(3, 3), 1, 1, 2, 1).tolist()
    [[4], [7]]
    """

    def cut(planes: np.ndarray) -> np.ndarray:
        down, right = planes.shape[-2:]
        if min(top, left) < 0 or top + height > down or left + width > right:
            raise ShapeError(f"crop: {height}×{width} at ({top}, {left}) is not inside of an image of {down}×{right}")
        return window(planes, top, left, height, width)

    return on_planes(image, "crop", cut)


def center_crop(image: Any, output_size: int | Sequence[int]) -> Any:
    """:class:`CenterCrop` of one image.

    >>> from phalanx.data.transforms import functional as TF
    >>> TF.center_crop(np.arange(9).reshape(3, 3), 1).tolist()
    [[4]]
    """
    return CenterCrop(output_size)(image)


def five_crop(image: Any, size: int | Sequence[int]) -> tuple[Any, ...]:
    """:class:`FiveCrop` of one image.

    >>> from phalanx.data.transforms import functional as TF
    >>> len(TF.five_crop(np.zeros((3, 3)), 2))
    5
    """
    return FiveCrop(size)(image)


def pad(image: Any, padding: int | Sequence[int], fill: float = 0, padding_mode: str = "constant") -> Any:
    """:class:`Pad` of one image.

    >>> from phalanx.data.transforms import functional as TF
    >>> TF.pad(np.ones((1, 1), int), 1).tolist()
    [[0, 0, 0], [0, 1, 0], [0, 0, 0]]
    """
    return Pad(padding, fill, padding_mode)(image)


def resize(
    image: Any,
    size: int | Sequence[int],
    interpolation: Any = "bilinear",
    max_size: int | None = None,
    antialias: bool | None = True,
) -> Any:
    """:class:`Resize` of one image.

    >>> from phalanx.data.transforms import functional as TF
    >>> TF.resize(np.zeros((4, 8)), 2).shape
    (2, 4)
    """
    return Resize(size, interpolation, max_size, antialias)(image)


def resized_crop(
    image: Any,
    top: int,
    left: int,
    height: int,
    width: int,
    size: int | Sequence[int],
    interpolation: Any = "bilinear",
    antialias: bool | None = True,
) -> Any:
    """:func:`crop`, then :func:`resize`.

    >>> from phalanx.data.transforms import functional as TF
    >>> TF.resized_crop(np.zeros((6, 6)), 0, 0, 4, 4, (2, 3)).shape
    (2, 3)
    """
    return resize(crop(image, top, left, height, width), size, interpolation, None, antialias)


def rotate(
    image: Any,
    angle: float,
    interpolation: Any = "nearest",
    expand: bool = False,
    center: Sequence[float] | None = None,
    fill: float | Sequence[float] = 0,
) -> Any:
    """Turned by ``angle`` degrees counter-clockwise.

    >>> from phalanx.data.transforms import functional as TF
    >>> TF.rotate(np.array([[1, 2], [3, 4]]), 90).tolist()
    [[2, 4], [1, 3]]
    """
    turning = RandomRotation((angle, angle), interpolation, expand, center, fill)
    return on_planes(image, "rotate", lambda planes: turning.turn(planes, angle))


def affine(
    image: Any,
    angle: float,
    translate: Sequence[float],
    scale: float,
    shear: float | Sequence[float],
    interpolation: Any = "nearest",
    fill: float | Sequence[float] = 0,
    center: Sequence[float] | None = None,
) -> Any:
    """Turned clockwise by ``angle`` degrees, moved by ``translate`` (x, y) pixels, zoomed, sheared by degrees in x and y.

    >>> from phalanx.data.transforms import functional as TF
    >>> TF.affine(np.array([[1, 2], [3, 4]]), 0, (1, 0), 1.0, 0).tolist()
    [[0, 1], [0, 3]]
    """
    mode = mode_of("affine", interpolation, WARPS)
    if scale <= 0:
        raise RangeError(f"affine: scale is above 0, got {scale}")
    slants = (shear, 0.0) if isinstance(shear, int | float) else (*shear, 0.0)[:2]

    def move(planes: np.ndarray) -> np.ndarray:
        inverse = inverse_affine(planes.shape[-2:], angle, translate, scale, slants, center)
        grid = affine_grid(inverse, planes.shape[-2], planes.shape[-1])
        return warp(planes, *grid, mode, fill_of("affine", fill, planes))

    return on_planes(image, "affine", move)


def _adjust(image: Any, name: str, change: Any, factor: float) -> Any:
    if factor < 0 and change is not turn_hue:
        raise RangeError(f"adjust_{name}: the factor must not be negative, got {factor}")
    return on_planes(image, f"adjust_{name}", lambda planes: changed(planes, change, factor))


def adjust_brightness(image: Any, brightness_factor: float) -> Any:
    """``image * factor``, clipped.

    >>> from phalanx.data.transforms import functional as TF
    >>> TF.adjust_brightness(np.array([[100, 200]], np.uint8), 1.5).tolist()
    [[150, 255]]
    """
    return _adjust(image, "brightness", brighten, brightness_factor)


def adjust_contrast(image: Any, contrast_factor: float) -> Any:
    """Away from the mean grey (factor above 1) or towards it.

    >>> from phalanx.data.transforms import functional as TF
    >>> TF.adjust_contrast(np.array([[100, 200]], np.uint8), 0.0).tolist()
    [[150, 150]]
    """
    return _adjust(image, "contrast", contrast, contrast_factor)


def adjust_saturation(image: Any, saturation_factor: float) -> Any:
    """Away from grey (factor above 1) or towards it.

    >>> from phalanx.data.transforms import functional as TF
    >>> TF.adjust_saturation(np.array([[[1.0, 0.0, 0.0]]]), 0.0).round(4).tolist()
    [[[0.2989, 0.2989, 0.2989]]]
    """
    return _adjust(image, "saturation", saturate, saturation_factor)


def adjust_hue(image: Any, hue_factor: float) -> Any:
    """Colours turned by ``hue_factor`` of the wheel, between -0.5 and 0.5.

    >>> from phalanx.data.transforms import functional as TF
    >>> TF.adjust_hue(np.array([[[1.0, 0.0, 0.0]]]), 0.5).tolist()
    [[[0.0, 1.0, 1.0]]]
    """
    if not -0.5 <= hue_factor <= 0.5:
        raise RangeError(f"adjust_hue: the factor lies in [-0.5, 0.5], got {hue_factor}")
    return _adjust(image, "hue", turn_hue, hue_factor)


def adjust_sharpness(image: Any, sharpness_factor: float) -> Any:
    """Sharpened (factor above 1) or smoothed.

    >>> from phalanx.data.transforms import functional as TF
    >>> TF.adjust_sharpness(np.full((3, 3), 5, np.uint8), 2.0).tolist()[1]
    [5, 5, 5]
    """
    return _adjust(image, "sharpness", sharpen, sharpness_factor)


def gaussian_blur(image: Any, kernel_size: int | Sequence[int], sigma: float | None = None) -> Any:
    """Smoothed by a Gaussian of ``sigma`` pixels (by default 0.15 of the kernel's size and 0.35).

    >>> from phalanx.data.transforms import functional as TF
    >>> TF.gaussian_blur(np.full((4, 4), 7, np.uint8), 3).tolist()[0]
    [7, 7, 7, 7]
    """
    first = kernel_size if isinstance(kernel_size, int) else kernel_size[0]
    width = 0.15 * first + 0.35 if sigma is None else float(sigma)
    return GaussianBlur(kernel_size, (width, width))(image)


def rgb_to_grayscale(image: Any, num_output_channels: int = 1) -> Any:
    """:class:`Grayscale` of one image.

    >>> from phalanx.data.transforms import functional as TF
    >>> TF.rgb_to_grayscale(np.zeros((2, 2, 3), np.uint8)).shape
    (2, 2, 1)
    """
    return Grayscale(num_output_channels)(image)


def invert(image: Any) -> Any:
    """``largest - image``.

    >>> from phalanx.data.transforms import functional as TF
    >>> TF.invert(np.array([[5]], np.uint8)).tolist()
    [[250]]
    """
    return on_planes(image, "invert", _invert)


def posterize(image: Any, bits: int) -> Any:
    """The upper ``bits`` of 8.

    >>> from phalanx.data.transforms import functional as TF
    >>> TF.posterize(np.array([[200]], np.uint8), 2).tolist()
    [[192]]
    """
    return on_planes(image, "posterize", lambda planes: _posterize(planes, bits))


def solarize(image: Any, threshold: float) -> Any:
    """Inverted where at least ``threshold`` (in the image's own numbers).

    >>> from phalanx.data.transforms import functional as TF
    >>> TF.solarize(np.array([[100, 200]], np.uint8), 128).tolist()
    [[100, 55]]
    """

    def change(planes: np.ndarray) -> np.ndarray:
        return _solarize(planes, threshold / (1 if planes.dtype.kind == "f" else np.iinfo(planes.dtype).max))

    return on_planes(image, "solarize", change)


def autocontrast(image: Any) -> Any:
    """Each channel stretched over the whole range.

    >>> from phalanx.data.transforms import functional as TF
    >>> TF.autocontrast(np.array([[10, 20]], np.uint8)).tolist()
    [[0, 255]]
    """
    return on_planes(image, "autocontrast", _autocontrast)


def equalize(image: Any) -> Any:
    """Each channel's histogram flattened.

    >>> from phalanx.data.transforms import functional as TF
    >>> TF.equalize(np.zeros((2, 2), np.uint8)).tolist()
    [[0, 0], [0, 0]]
    """
    return on_planes(image, "equalize", _equalize)
