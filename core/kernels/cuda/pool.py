"""Maximum and average pooling on the device: sequences, images and volumes; float32, bfloat16 or float16.

What lies with its channels last stays so. What lies with its channels first is taken as so many samples of one channel each.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ...backend import array_module
from .. import reference_fused, reference_pool
from ..reference_fused import HALVES
from ..window import Size, Window
from . import channels_last
from .launch import launch, suffix

Array = Any
BLOCK = 256
MOST_BLOCKS = 1 << 20
DIMENSIONS = 3
_HALF = ("float32", "bfloat16", "float16")


def takes(*arrays: Array) -> bool:
    """Whether the kernels serve these: 16 or 32 bits, up to three dimensions of places, not empty."""
    first = arrays[0]
    return bool(first.dtype.name in _HALF and 3 <= first.ndim <= 2 + DIMENSIONS and all(array.size for array in arrays))


def sides(*each: Sequence[int], fill: Sequence[int]) -> list[np.int32]:
    """Sizes, places, kernel, stride, padding, dilation as the kernels take them: what is missing in front of three dimensions is ``fill``."""
    return [
        np.int32(number)
        for numbers, missing in zip(each, fill, strict=True)
        for number in (*(missing,) * (DIMENSIONS - len(numbers)), *numbers)
    ]


def of_window(size: Size, output: Size, window: Window) -> list[np.int32]:
    """The numbers of a window that moves over ``size``."""
    rank = len(size)
    each = (size, output, window.kernel[:rank], window.stride[:rank], window.padding[:rank], window.dilation[:rank])
    return sides(*each, fill=(1, 1, 1, 1, 0, 1))


def of_bins(size: Size, output: Size) -> list[np.int32]:
    """The numbers of bins: those of the window are not looked at."""
    return sides(size, output, (), (), (), (), fill=(1, 1, 1, 1, 0, 1))


class Lying:
    """How arrays (N, C, S) lie that a kernel goes through together: all with their channels first, or all last."""

    def __init__(self, *arrays: Array) -> None:
        self.first = all(array.flags.c_contiguous for array in arrays) and not all(map(channels_last.is_last, arrays))
        self.arrays = list(arrays) if self.first else [channels_last.arranged(array) for array in arrays]

    def empty(self, shape: Size, dtype: Any = None) -> Array:
        """Another one of logical ``shape``, as it lies."""
        like = self.arrays[0]
        return (
            array_module(like).empty(shape, dtype or like.dtype)
            if self.first
            else channels_last.empty(shape, like, dtype)
        )

    def samples(self, shape: Size) -> tuple[int, np.int32]:
        """Samples and channels as the kernels count them."""
        return (shape[0] * shape[1], np.int32(1)) if self.first else (shape[0], np.int32(shape[1]))

    def logical(self, array: Array) -> Array:
        """The view (N, C, S)."""
        return array if self.first else channels_last.to_first(array)


def packed(channels: np.int32, dtype: Any, *arrays: Array) -> bool:
    """Whether channels come in packs of 16 bytes of ``dtype``."""
    return int(channels) % (16 // dtype.itemsize) == 0 and all(array.data.ptr % 16 == 0 for array in arrays)


def run(
    name: str, source: Array, target: Array, shape: Size, lying: Lying, geometry: list[np.int32], *rest: Any, others: Any = ()
) -> None:  # fmt: skip
    """One thread for each pack of ``target``'s channels; ``rest``: what the kernel takes behind ``packed``."""
    samples, channels = lying.samples(shape)
    in_packs = packed(channels, source.dtype, source, target, *others)
    threads = target.size // (16 // source.dtype.itemsize) if in_packs else target.size
    launch(
        "pool", f"{name}_{suffix(source.dtype)}", min(-(-threads // BLOCK), MOST_BLOCKS), BLOCK, source, samples, *geometry,
        channels, in_packs, *rest,
    )  # fmt: skip


# ---- windows ---------------------------------------------------------------------------------------------------------


def _max_forward(x: Array, window: Window, relu: bool) -> tuple[Array, Array]:
    size, output = x.shape[2:], window.output(x.shape[2:])
    lying, shape = Lying(x), x.shape[:2] + output
    y, index = lying.empty(shape), lying.empty(shape, np.uint8)
    geometry = of_window(size, output, window)
    run("max_forward", lying.arrays[0], y, shape, lying, geometry, relu, y, index, others=(index,))
    return lying.logical(y), lying.logical(index)


def _max_backward(gradient: Array, index: Array, shape: Size, window: Window) -> Array:
    lying = Lying(gradient, index)
    dx, (given, place) = lying.empty(tuple(shape)), lying.arrays
    geometry = of_window(shape[2:], gradient.shape[2:], window)
    run("max_backward", given, dx, shape, lying, geometry, place, dx, others=(place,))
    return lying.logical(dx)


def max_pool_forward(x: Array, window: Window) -> tuple[Array, Array]:
    """As ``reference_pool.max_pool_forward``."""
    if not takes(x) or math.prod(window.kernel) > 256:
        return reference_pool.max_pool_forward(x, window)
    return _max_forward(x, window, False)


def max_pool_backward(gradient: Array, index: Array, shape: Size, window: Window) -> Array:
    """As ``reference_pool.max_pool_backward``."""
    if not takes(gradient) or index.dtype != np.uint8 or not math.prod(shape):
        return reference_pool.max_pool_backward(gradient, index, shape, window)
    return _max_backward(gradient, index, shape, window)


def relu_pool(x: Array) -> tuple[Array, Array]:
    """As ``reference_fused.relu_pool``."""
    return _max_forward(x, HALVES, True) if takes(x) else reference_fused.relu_pool(x)


def relu_pool_backward(gradient: Array, index: Array, shape: Size) -> Array:
    """As ``reference_fused.relu_pool_backward``: no element has the number of a winner that relu shut out."""
    if not takes(gradient):
        return reference_fused.relu_pool_backward(gradient, index, shape)
    return _max_backward(gradient, index, shape, HALVES)


def avg_pool_forward(
    x: Array, window: Window, count_include_pad: bool = True, divisor_override: int | None = None
) -> Array:
    """As ``reference_pool.avg_pool_forward``."""
    if not takes(x):
        return reference_pool.avg_pool_forward(x, window, count_include_pad, divisor_override)
    size, output = x.shape[2:], window.output(x.shape[2:])
    lying, shape = Lying(x), x.shape[:2] + output
    y, geometry = lying.empty(shape), of_window(size, output, window)
    run(
        "average_forward", lying.arrays[0], y, shape, lying, geometry, count_include_pad, np.int32(divisor_override or 0), y
    )  # fmt: skip
    return lying.logical(y)


def avg_pool_backward(
    gradient: Array, shape: Size, window: Window, count_include_pad: bool = True, divisor_override: int | None = None
) -> Array:
    """As ``reference_pool.avg_pool_backward``."""
    if not takes(gradient) or not math.prod(shape):
        return reference_pool.avg_pool_backward(gradient, shape, window, count_include_pad, divisor_override)
    lying = Lying(gradient)
    dx, geometry = lying.empty(tuple(shape)), of_window(shape[2:], gradient.shape[2:], window)
    divisor = np.int32(divisor_override or 0)
    run("average_backward", lying.arrays[0], dx, shape, lying, geometry, count_include_pad, divisor, dx)
    return lying.logical(dx)


# ---- a given number of bins ------------------------------------------------------------------------------------------


def adaptive_avg_pool_forward(x: Array, output: Size) -> Array:
    """As ``reference_pool.adaptive_avg_pool_forward``."""
    shape = x.shape[:2] + tuple(output)
    if not takes(x) or not math.prod(shape):
        return reference_pool.adaptive_avg_pool_forward(x, output)
    lying = Lying(x)
    y = lying.empty(shape)
    run("bins_average_forward", lying.arrays[0], y, shape, lying, of_bins(x.shape[2:], output), y)
    return lying.logical(y)


def adaptive_avg_pool_backward(gradient: Array, shape: Size) -> Array:
    """As ``reference_pool.adaptive_avg_pool_backward``."""
    if not takes(gradient) or not math.prod(shape):
        return reference_pool.adaptive_avg_pool_backward(gradient, shape)
    lying = Lying(gradient)
    dx = lying.empty(tuple(shape))
    run("bins_average_backward", lying.arrays[0], dx, shape, lying, of_bins(shape[2:], gradient.shape[2:]), dx)
    return lying.logical(dx)


def adaptive_max_pool_forward(x: Array, output: Size) -> tuple[Array, Array]:
    """As ``reference_pool.adaptive_max_pool_forward``."""
    shape = x.shape[:2] + tuple(output)
    if not takes(x) or not math.prod(shape):
        return reference_pool.adaptive_max_pool_forward(x, output)
    lying = Lying(x)
    y, index = lying.empty(shape), lying.empty(shape, np.int64)
    run("bins_max_forward", lying.arrays[0], y, shape, lying, of_bins(x.shape[2:], output), y, index)
    return lying.logical(y), lying.logical(index)


KERNELS: dict[str, Callable[..., Any]] = {
    "max_pool_forward": max_pool_forward,
    "max_pool_backward": max_pool_backward,
    "relu_pool": relu_pool,
    "relu_pool_backward": relu_pool_backward,
    "avg_pool_forward": avg_pool_forward,
    "avg_pool_backward": avg_pool_backward,
    "adaptive_avg_pool_forward": adaptive_avg_pool_forward,
    "adaptive_avg_pool_backward": adaptive_avg_pool_backward,
    "adaptive_max_pool_forward": adaptive_max_pool_forward,
}
