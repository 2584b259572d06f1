"""Reference kernels: maximum and average pooling over sequences (N, C, L), images (N, C, H, W) and volumes (N, C, D, H, W).

Dimensions: N samples, C channels, S and P sizes of input and output (one, two or three numbers each).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator

import numpy as np

from ..backend import array_module
from ..op import Array
from .reference import wide
from .window import Size, Window, framed, without_frame


def _is_halving(window: Window) -> bool:
    return window == Window((2, 2), (2, 2), (0, 0), (1, 1))


def _halving_max(x: Array) -> tuple[Array, Array]:
    """Maximum over 2x2 blocks and which of the four it is (the first of equals)."""
    xp = array_module(x)
    rows, columns = x.shape[2] // 2 * 2, x.shape[3] // 2 * 2
    left, right = x[:, :, :rows, 0:columns:2], x[:, :, :rows, 1:columns:2]
    pair = xp.maximum(left, right)
    second = (right > left).view(np.uint8)
    top, bottom = pair[:, :, 0::2], pair[:, :, 1::2]
    lower = xp.negative((bottom > top).view(np.uint8))  # all bits set where the lower pair wins
    index = second[:, :, 1::2] | np.uint8(2)
    index ^= second[:, :, 0::2]
    index &= lower
    index ^= second[:, :, 0::2]
    return xp.maximum(top, bottom), index


def _keep(values: Array, mask: Array, out: Array) -> None:
    """``out = values`` where ``mask``, else +0; by bits, which is several times faster than ``where``."""
    xp = array_module(values)
    bits = np.dtype(f"i{values.dtype.itemsize}")
    xp.bitwise_and(values.view(bits), xp.negative(mask.view(np.int8)).astype(bits), out=out.view(bits))


def max_pool_forward(x: Array, window: Window) -> tuple[Array, Array]:
    """Maximum in each window, padding counting as -inf: x (N, C, S) -> y (N, C, P) and the winner's number.

    The number of the kernel element in row-major order (the first of equals; NaN wins) is what the backward wants.
    """
    if _is_halving(window):
        return _halving_max(x)
    xp = array_module(x)
    output = window.output(x.shape[2:])
    padded = framed(x, window, output, -np.inf)
    y = xp.full(x.shape[:2] + output, -np.inf, x.dtype)
    index = xp.zeros(y.shape, np.uint8 if math.prod(window.kernel) <= 256 else np.int32)
    plain = xp is np and index.dtype == np.uint8 and not bool(np.isnan(x.max(initial=-np.inf)))
    for number, (_, place) in enumerate(window.places(output)):
        candidate = padded[(..., *place)]
        if plain:
            mask = xp.negative((candidate > y).view(np.uint8))  # all bits set where it is better
            mask &= index ^ np.uint8(number)
            index ^= mask
            xp.maximum(y, candidate, out=y)
            continue
        better = ~(candidate <= y) & (y == y)  # true for a NaN candidate, false once y is NaN
        xp.copyto(y, candidate, where=better)
        xp.copyto(index, index.dtype.type(number), where=better)
    return y, index


def max_pool_backward(gradient: Array, index: Array, shape: tuple[int, ...], window: Window) -> Array:
    """Each gradient goes to its window's winner: gradient (N, C, P) -> (N, C, S) = ``shape``."""
    xp = array_module(gradient)
    output = gradient.shape[2:]
    dx = xp.zeros(shape[:2] + window.padded(shape[2:], output), gradient.dtype)
    disjoint = all(stride >= window.reach(a) for a, stride in enumerate(window.stride))
    gradient = xp.ascontiguousarray(gradient)
    mine = None if disjoint else xp.empty_like(gradient)
    for number, (_, place) in enumerate(window.places(output)):
        mask = index == index.dtype.type(number)
        if mine is None:
            _keep(gradient, mask, dx[(..., *place)])
        else:
            _keep(gradient, mask, mine)
            dx[(..., *place)] += mine
    return without_frame(dx, window, shape[2:])


def max_pool_places(index: Array, size: Size, window: Window) -> Array:
    """Where the winners lie: their numbers in the row-major order of an input of ``size``, int64, of ``index``'s shape."""
    xp = array_module(index)
    flat = xp.zeros(index.shape, np.int64)
    rest = index.astype(np.int64)
    for axis in reversed(range(len(size))):
        element, rest = rest % window.kernel[axis], rest // window.kernel[axis]
        start = xp.arange(index.shape[2 + axis]) * window.stride[axis] - window.padding[axis]
        along = start.reshape((-1,) + (1,) * (len(size) - 1 - axis)) + element * window.dilation[axis]
        along = xp.where(along < 0, along % window.dilation[axis], along)  # no winner (all -inf): the first inside
        flat += along * math.prod(size[axis + 1 :])
    return flat


def _divisor(size: Size, window: Window, output: Size, count_include_pad: bool) -> np.ndarray:
    """How many elements each window averages, (P): padding counts or not, what ceil_mode adds never does."""
    counts = np.ones((), np.int64)
    for axis, places in enumerate(output):
        pad = window.padding[axis] if count_include_pad else 0
        start = np.arange(places) * window.stride[axis] - window.padding[axis]
        stop = np.minimum(start + window.kernel[axis], size[axis] + pad)
        counts = counts[..., None] * (stop - np.maximum(start, -pad))
    return counts


def avg_pool_forward(
    x: Array, window: Window, count_include_pad: bool = True, divisor_override: int | None = None
) -> Array:
    """Mean of each window: x (N, C, S) -> (N, C, P); padding counts as zeros, or not at all."""
    xp = array_module(x)
    output = window.output(x.shape[2:])
    padded = framed(wide(x), window, output, 0.0)
    y = xp.zeros(x.shape[:2] + output, padded.dtype)
    for _, place in window.places(output):
        y += padded[(..., *place)]
    divisor = divisor_override or _divisor(x.shape[2:], window, output, count_include_pad)
    y /= xp.asarray(divisor, y.dtype)
    return y.astype(x.dtype, copy=False)


def avg_pool_backward(
    gradient: Array,
    shape: tuple[int, ...],
    window: Window,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Array:
    """Each gradient is shared by its window's elements: gradient (N, C, P) -> (N, C, S) = ``shape``."""
    xp = array_module(gradient)
    output = gradient.shape[2:]
    work = wide(gradient)
    divisor = divisor_override or _divisor(shape[2:], window, output, count_include_pad)
    share = work / xp.asarray(divisor, work.dtype)
    dx = xp.zeros(shape[:2] + window.padded(shape[2:], output), work.dtype)
    for _, place in window.places(output):
        dx[(..., *place)] += share
    return without_frame(dx, window, shape[2:]).astype(gradient.dtype, copy=False)


# ---- a given number of bins ------------------------------------------------------------------------------------------


def _adaptive_bins(size: Size, bins: Size) -> Iterator[tuple[Size, tuple[slice, ...]]]:
    """(bin, its elements): bin b of B takes elements floor(b * size / B) up to ceil((b + 1) * size / B) of each axis."""
    lines = [
        [(b, slice(b * length // count, -((-(b + 1) * length) // count))) for b in range(count)]
        for length, count in zip(size, bins, strict=True)
    ]
    for line in itertools.product(*lines):
        yield tuple(b for b, _ in line), tuple(along for _, along in line)


def _even_window(size: Size, output: Size) -> Window | None:
    """The window that moves by its own size, where all of several bins are equally large."""
    if math.prod(output) <= 1 or any(length % count for length, count in zip(size, output, strict=True)):
        return None
    each = tuple(length // count for length, count in zip(size, output, strict=True))
    return Window(each, each, (0,) * len(each), (1,) * len(each))


def adaptive_avg_pool_forward(x: Array, output: Size) -> Array:
    """Mean over each of ``output`` bins: x (N, C, S) -> (N, C, P)."""
    xp = array_module(x)
    even = _even_window(x.shape[2:], output)
    if even is not None:
        return avg_pool_forward(x, even)
    work = wide(x)
    y = xp.empty(x.shape[:2] + output, work.dtype)
    axes = tuple(range(2, x.ndim))
    for place, elements in _adaptive_bins(x.shape[2:], output):
        y[(..., *place)] = work[(..., *elements)].mean(axis=axes)
    return y.astype(x.dtype, copy=False)


def adaptive_avg_pool_backward(gradient: Array, shape: tuple[int, ...]) -> Array:
    """Each gradient is shared by its bin's elements: gradient (N, C, P) -> (N, C, S) = ``shape``."""
    xp = array_module(gradient)
    even = _even_window(shape[2:], gradient.shape[2:])
    if even is not None:
        return avg_pool_backward(gradient, shape, even)
    work = wide(gradient)
    dx = xp.zeros(shape, work.dtype)
    spread = (..., *(None for _ in shape[2:]))
    for place, elements in _adaptive_bins(shape[2:], gradient.shape[2:]):
        area = math.prod(along.stop - along.start for along in elements)
        dx[(..., *elements)] += (work[(..., *place)] / work.dtype.type(area))[spread]
    return dx.astype(gradient.dtype, copy=False)


def adaptive_max_pool_forward(x: Array, output: Size) -> tuple[Array, Array]:
    """Maximum of each of ``output`` bins: x (N, C, S) -> y (N, C, P) and where it lies in the row-major order of S (int64)."""
    xp = array_module(x)
    y, index = xp.empty(x.shape[:2] + output, x.dtype), xp.empty(x.shape[:2] + output, np.int64)
    places = xp.arange(math.prod(x.shape[2:])).reshape(x.shape[2:])
    for place, elements in _adaptive_bins(x.shape[2:], output):
        part, numbers = x[(..., *elements)], places[elements].reshape(-1)
        part = part.reshape(x.shape[:2] + (numbers.size,))
        best = part.argmax(axis=2)
        y[(..., *place)] = xp.take_along_axis(part, best[..., None], axis=2)[..., 0]
        index[(..., *place)] = numbers[best]
    return y, index


# ---- by place --------------------------------------------------------------------------------------------------------


def _flat(x: Array) -> Array:
    """(N, C, S) -> (N, C, number of elements of S)."""
    return x.reshape(x.shape[:2] + (math.prod(x.shape[2:]),))


def take_places(x: Array, index: Array) -> Array:
    """Elements of x (N, C, S) at places ``index`` (N, C, P) in the row-major order of S."""
    xp = array_module(x)
    return xp.take_along_axis(_flat(x), _flat(index), axis=2).reshape(index.shape)


def put_places(values: Array, index: Array, shape: tuple[int, ...]) -> Array:
    """Zeros (N, C, S) = ``shape`` with ``values`` (N, C, P) put at their places; of several at one place the last stays."""
    xp = array_module(values)
    flat = xp.zeros(shape[:2] + (math.prod(shape[2:]),), values.dtype)
    samples, channels = xp.arange(shape[0])[:, None, None], xp.arange(shape[1])[None, :, None]
    flat[samples, channels, _flat(index)] = _flat(values)
    return flat.reshape(shape)


def add_places(values: Array, index: Array, shape: tuple[int, ...]) -> Array:
    """Zeros (N, C, S) = ``shape`` with ``values`` (N, C, P) added at their places, in the order of P."""
    xp = array_module(values)
    work, numbers = _flat(wide(values)), _flat(index)
    flat = xp.zeros(shape[:2] + (math.prod(shape[2:]),), work.dtype)
    samples, channels = xp.arange(shape[0])[:, None], xp.arange(shape[1])[None, :]
    for place in range(work.shape[2]):
        flat[samples, channels, numbers[:, :, place]] += work[:, :, place]
    return flat.reshape(shape).astype(values.dtype, copy=False)


KERNELS: dict[str, Callable[..., Array]] = {
    "max_pool_forward": max_pool_forward,
    "max_pool_backward": max_pool_backward,
    "max_pool_places": max_pool_places,
    "avg_pool_forward": avg_pool_forward,
    "avg_pool_backward": avg_pool_backward,
    "adaptive_avg_pool_forward": adaptive_avg_pool_forward,
    "adaptive_avg_pool_backward": adaptive_avg_pool_backward,
    "adaptive_max_pool_forward": adaptive_max_pool_forward,
    "take_places": take_places,
    "put_places": put_places,
    "add_places": add_places,
}
