"""Reference kernels: maximum and average pooling over (N, C, H, W) arrays.

Dimensions: N samples, C channels, H and W rows and columns, I and J kernel rows and columns, P and Q output rows
and columns.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..backend import array_module
from ..op import Array
from .reference import wide
from .window import Pair, Size, Window, framed, without_frame


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


def max_pool2d_forward(x: Array, window: Window) -> tuple[Array, Array]:
    """Maximum in each window, padding counting as -inf: x (N, C, H, W) -> y (N, C, P, Q) and the winner's number.

    The number i*J + j (the first of equals; NaN wins) is what the backward wants.
    """
    if _is_halving(window):
        return _halving_max(x)
    xp = array_module(x)
    output = window.output(x.shape[2:])
    padded = framed(x, window, output, -np.inf)
    count = window.kernel[0] * window.kernel[1]
    y = xp.full(x.shape[:2] + output, -np.inf, x.dtype)
    index = xp.zeros(y.shape, np.uint8 if count <= 256 else np.int32)
    for i, j, rows, columns in window.places(output):
        candidate = padded[:, :, rows, columns]
        better = ~(candidate <= y) & (y == y)  # true for a NaN candidate, false once y is NaN
        xp.copyto(y, candidate, where=better)
        xp.copyto(index, index.dtype.type(i * window.kernel[1] + j), where=better)
    return y, index


def max_pool2d_backward(gradient: Array, index: Array, shape: tuple[int, ...], window: Window) -> Array:
    """Each gradient goes to its window's winner: gradient (N, C, P, Q) -> (N, C, H, W) = ``shape``."""
    xp = array_module(gradient)
    dx = xp.zeros(shape[:2] + window.padded(shape[2:], gradient.shape[2:]), gradient.dtype)
    disjoint = all(window.stride[a] >= window.reach(a) for a in (0, 1))
    gradient = xp.ascontiguousarray(gradient)
    mine = None if disjoint else xp.empty_like(gradient)
    for i, j, rows, columns in window.places(gradient.shape[2:]):
        mask = index == index.dtype.type(i * window.kernel[1] + j)
        if mine is None:
            _keep(gradient, mask, dx[:, :, rows, columns])
        else:
            _keep(gradient, mask, mine)
            dx[:, :, rows, columns] += mine
    return without_frame(dx, window, shape[2:])


def _divisor(size: Size, window: Window, output: Size, count_include_pad: bool) -> np.ndarray:
    """How many elements each window averages, (P, Q): padding counts or not, what ceil_mode adds never does."""
    counts = []
    for axis in (0, 1):
        pad = window.padding[axis] if count_include_pad else 0
        start = np.arange(output[axis]) * window.stride[axis] - window.padding[axis]
        stop = np.minimum(start + window.kernel[axis], size[axis] + pad)
        counts.append(stop - np.maximum(start, -pad))
    return counts[0][:, None] * counts[1]


def avg_pool2d_forward(
    x: Array, window: Window, count_include_pad: bool = True, divisor_override: int | None = None
) -> Array:
    """Mean of each window: x (N, C, H, W) -> (N, C, P, Q); padding counts as zeros, or not at all."""
    xp = array_module(x)
    output = window.output(x.shape[2:])
    padded = framed(wide(x), window, output, 0.0)
    y = xp.zeros(x.shape[:2] + output, padded.dtype)
    for _, _, rows, columns in window.places(output):
        y += padded[:, :, rows, columns]
    divisor = divisor_override or _divisor(x.shape[2:], window, output, count_include_pad)
    y /= xp.asarray(divisor, y.dtype)
    return y.astype(x.dtype, copy=False)


def avg_pool2d_backward(
    gradient: Array,
    shape: tuple[int, ...],
    window: Window,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Array:
    """Each gradient is shared by its window's elements: gradient (N, C, P, Q) -> (N, C, H, W) = ``shape``."""
    xp = array_module(gradient)
    output = gradient.shape[2:]
    work = wide(gradient)
    divisor = divisor_override or _divisor(shape[2:], window, output, count_include_pad)
    share = work / xp.asarray(divisor, work.dtype)
    dx = xp.zeros(shape[:2] + window.padded(shape[2:], output), work.dtype)
    for _, _, rows, columns in window.places(output):
        dx[:, :, rows, columns] += share
    return without_frame(dx, window, shape[2:]).astype(gradient.dtype, copy=False)


def _adaptive_bins(size: int, bins: int) -> list[tuple[int, int]]:
    """Bin b of ``bins`` averages elements floor(b * size / bins) up to ceil((b + 1) * size / bins)."""
    return [(b * size // bins, -((-(b + 1) * size) // bins)) for b in range(bins)]


def adaptive_avg_pool2d_forward(x: Array, output: Pair) -> Array:
    """Mean over each of ``output`` bins of rows and columns: x (N, C, H, W) -> (N, C, P, Q)."""
    xp = array_module(x)
    work = wide(x)
    y = xp.empty(x.shape[:2] + output, work.dtype)
    for p, (top, bottom) in enumerate(_adaptive_bins(x.shape[2], output[0])):
        for q, (left, right) in enumerate(_adaptive_bins(x.shape[3], output[1])):
            y[:, :, p, q] = work[:, :, top:bottom, left:right].mean(axis=(2, 3))
    return y.astype(x.dtype, copy=False)


def adaptive_avg_pool2d_backward(gradient: Array, shape: tuple[int, ...]) -> Array:
    """Each gradient is shared by its bin's elements: gradient (N, C, P, Q) -> (N, C, H, W) = ``shape``."""
    xp = array_module(gradient)
    work = wide(gradient)
    dx = xp.zeros(shape, work.dtype)
    for p, (top, bottom) in enumerate(_adaptive_bins(shape[2], gradient.shape[2])):
        for q, (left, right) in enumerate(_adaptive_bins(shape[3], gradient.shape[3])):
            area = (bottom - top) * (right - left)
            dx[:, :, top:bottom, left:right] += (work[:, :, p, q] / work.dtype.type(area))[:, :, None, None]
    return dx.astype(gradient.dtype, copy=False)


KERNELS: dict[str, Callable[..., Array]] = {
    "max_pool2d_forward": max_pool2d_forward,
    "max_pool2d_backward": max_pool2d_backward,
    "avg_pool2d_forward": avg_pool2d_forward,
    "avg_pool2d_backward": avg_pool2d_backward,
    "adaptive_avg_pool2d_forward": adaptive_avg_pool2d_forward,
    "adaptive_avg_pool2d_backward": adaptive_avg_pool2d_backward,
}
