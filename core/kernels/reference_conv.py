"""Reference kernels: two-dimensional convolution and pooling over (N, C, H, W) arrays.

A convolution is a matrix product of the weights with the unfolded input (im2col), done for a few samples at a time so
that the unfolded samples stay in the second-level cache and memory stays small; how many is a function of shapes alone.

Dimensions: N samples, C and O channels in and out, H and W rows and columns, I and J kernel rows and columns,
P and Q output rows and columns, G groups.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from ..backend import array_module
from ..op import Array
from .reference import deliver, wide

Pair = tuple[int, int]

UNFOLDED_ELEMENTS = 1 << 18
"""Unfolded elements held at once (1 MiB of float32), but never less than one sample."""


class Window(NamedTuple):
    """How a kernel moves over the input."""

    kernel: Pair
    stride: Pair
    padding: Pair
    dilation: Pair = (1, 1)
    ceil_mode: bool = False

    def output(self, size: Pair) -> Pair:
        """Output rows and columns for an input of ``size``: floor((size + 2 padding - reach) / stride) + 1.

        With ``ceil_mode`` it is the ceiling, less a last window that would start beyond input and left padding.
        """
        counts = []
        for axis in (0, 1):
            stride, padding = self.stride[axis], self.padding[axis]
            room = size[axis] + 2 * padding - self.reach(axis)
            count = (-(-room // stride) if self.ceil_mode else room // stride) + 1
            if self.ceil_mode and (count - 1) * stride >= size[axis] + padding:
                count -= 1
            counts.append(count)
        return counts[0], counts[1]

    def reach(self, axis: int) -> int:
        """Rows (axis 0) or columns (axis 1) from a window's first element to its last, both included."""
        return self.dilation[axis] * (self.kernel[axis] - 1) + 1

    def padded(self, size: Pair, output: Pair) -> Pair:
        """Rows and columns of the padded input: the padding, or more where ceil_mode reaches beyond."""
        rows, columns = (
            max(size[a] + 2 * self.padding[a], (output[a] - 1) * self.stride[a] + self.reach(a)) for a in (0, 1)
        )
        return rows, columns

    def inside(self, size: Pair) -> tuple[slice, slice]:
        """Where the input lies in the padded input."""
        (top, left), (height, width) = self.padding, size
        return slice(top, top + height), slice(left, left + width)

    def is_pointwise(self) -> bool:
        """A 1x1 kernel with stride 1 and no padding: the input is its own unfolding."""
        return self.kernel == (1, 1) and self.stride == (1, 1) and self.padding == (0, 0)

    def places(self, output: Pair) -> Iterator[tuple[int, int, slice, slice]]:
        """(i, j, rows, columns) of the padded input that kernel element (i, j) meets, in row-major order."""
        for i in range(self.kernel[0]):
            top = i * self.dilation[0]
            rows = slice(top, top + (output[0] - 1) * self.stride[0] + 1, self.stride[0])
            for j in range(self.kernel[1]):
                left = j * self.dilation[1]
                yield i, j, rows, slice(left, left + (output[1] - 1) * self.stride[1] + 1, self.stride[1])


# ---- unfolding -------------------------------------------------------------------------------------------------------


def _windows(x: Array, window: Window, output: Pair) -> Array:
    """A view (n, C, I, J, P, Q) of a padded input (n, C, H, W)."""
    n, c, row, column = x.strides
    (di, dj), (si, sj) = window.dilation, window.stride
    return array_module(x).lib.stride_tricks.as_strided(
        x, x.shape[:2] + window.kernel + output, (n, c, row * di, column * dj, row * si, column * sj)
    )


def _chunk(samples: int, elements_each: int) -> int:
    return max(1, min(samples, UNFOLDED_ELEMENTS // max(1, elements_each)))


def _unfolded_chunks(x: Array, window: Window, output: Pair) -> Iterator[tuple[slice, Array]]:
    """(samples, unfolded (n, C*I*J, P*Q)) chunk by chunk. The unfolded array is overwritten by the next chunk."""
    xp = array_module(x)
    samples, channels = x.shape[:2]
    if window.is_pointwise():
        yield slice(0, samples), wide(x).reshape(samples, channels, output[0] * output[1])
        return
    rows, area = channels * window.kernel[0] * window.kernel[1], output[0] * output[1]
    chunk = _chunk(samples, rows * area)
    dtype = np.dtype(np.float32) if x.dtype == np.float16 else x.dtype
    unfolded = xp.empty((chunk, channels) + window.kernel + output, dtype)
    padded = None
    inside = window.inside(x.shape[2:])
    if window.padding != (0, 0):
        padded = xp.zeros((chunk, channels) + window.padded(x.shape[2:], output), x.dtype)
    for start in range(0, samples, chunk):
        part = x[start : start + chunk]
        if padded is not None:
            framed = padded[: len(part)]
            framed[:, :, inside[0], inside[1]] = part
            part = framed
        target = unfolded[: len(part)]
        target[...] = _windows(part, window, output)
        yield slice(start, start + len(part)), target.reshape(len(part), rows, area)


def _fold(unfolded: Array, target: Array, window: Window, output: Pair) -> None:
    """Add each unfolded element (n, C, I, J, P, Q) to its place in the padded ``target`` (n, C, H, W)."""
    target[...] = 0
    for i, j, rows, columns in window.places(output):
        target[:, :, rows, columns] += unfolded[:, :, i, j]


def _grouped(x: Array, groups: int) -> Array:
    """(n, C, ...) -> (n, G, C/G, ...)."""
    return x.reshape((x.shape[0], groups, x.shape[1] // groups) + x.shape[2:])


def _matrix(weight: Array, groups: int) -> Array:
    """Weights (O, C/G, I, J) as G matrices (G, O/G, C/G*I*J)."""
    return wide(weight).reshape(groups, weight.shape[0] // groups, math.prod(weight.shape[1:]))


# ---- convolution -----------------------------------------------------------------------------------------------------


def conv2d_forward(x: Array, weight: Array, bias: Array | None, window: Window, groups: int = 1) -> Array:
    """``y[n,o,p,q] = bias[o] + sum over c,i,j of weight[o,c,i,j] * x[n, c, p*stride + i*dilation - padding, ...]``.

    x (N, C, H, W), weight (O, C/G, I, J), bias (O,) or None -> (N, O, P, Q).
    """
    xp = array_module(x)
    output = window.output(x.shape[2:])
    matrix = _matrix(weight, groups)
    y = xp.empty((x.shape[0], groups, matrix.shape[1], output[0] * output[1]), matrix.dtype)
    for samples, unfolded in _unfolded_chunks(x, window, output):
        part = y[samples]
        xp.matmul(matrix, _grouped(unfolded, groups), out=part)
        if bias is not None:
            part += bias.reshape(groups, -1, 1)
    return y.reshape((x.shape[0], weight.shape[0]) + output).astype(x.dtype, copy=False)


def conv2d_input_gradient(
    gradient: Array, weight: Array, shape: tuple[int, ...], window: Window, groups: int = 1
) -> Array:
    """Gradient of the input, whose ``shape`` is (N, C, H, W): gradient (N, O, P, Q), weight (O, C/G, I, J)."""
    xp = array_module(gradient)
    samples, channels = shape[:2]
    output = gradient.shape[2:]
    transposed = _matrix(weight, groups).swapaxes(1, 2)  # (G, C/G*I*J, O/G)
    rows = wide(gradient).reshape(samples, groups, gradient.shape[1] // groups, math.prod(output))  # (N, G, O/G, P*Q)
    if window.is_pointwise():
        return xp.matmul(transposed, rows).reshape(shape).astype(gradient.dtype, copy=False)
    chunk = _chunk(samples, channels * math.prod(window.kernel) * rows.shape[-1])
    inside = window.inside(shape[2:])
    dx = xp.empty(shape, gradient.dtype)
    unfolded = xp.empty((chunk, groups, transposed.shape[1], rows.shape[-1]), rows.dtype)
    padded = xp.empty((chunk, channels) + window.padded(shape[2:], output), rows.dtype)
    for start in range(0, samples, chunk):
        part = rows[start : start + chunk]
        product, target = unfolded[: len(part)], padded[: len(part)]
        xp.matmul(transposed, part, out=product)
        _fold(product.reshape((len(part), channels) + window.kernel + output), target, window, output)
        dx[start : start + chunk] = target[:, :, inside[0], inside[1]]
    return dx


def conv2d_weight_gradient(
    gradient: Array, x: Array, shape: tuple[int, ...], window: Window, groups: int = 1, out: Array | None = None
) -> Array:
    """Gradient of the weights, whose ``shape`` is (O, C/G, I, J): gradient (N, O, P, Q), x (N, C, H, W).

    Samples are added in order, chunk after chunk.
    """
    xp = array_module(gradient)
    samples, area = gradient.shape[0], math.prod(gradient.shape[2:])
    rows = wide(gradient).reshape(samples, groups, shape[0] // groups, area)  # (N, G, O/G, P*Q)
    total = xp.zeros((groups, shape[0] // groups, shape[1] * shape[2] * shape[3]), rows.dtype)
    for part, unfolded in _unfolded_chunks(x, window, gradient.shape[2:]):
        columns = _grouped(unfolded, groups).swapaxes(2, 3)  # (n, G, P*Q, C/G*I*J)
        total += xp.matmul(rows[part], columns).sum(axis=0)
    return deliver(total.reshape(shape), x.dtype, out)


def channel_sum(gradient: Array, out: Array | None = None) -> Array:
    """Sum over all axes but the second, the gradient of a per-channel bias: (N, O, ...) -> (O,)."""
    xp = array_module(gradient)
    work = wide(gradient).reshape(gradient.shape[:2] + (math.prod(gradient.shape[2:]),))
    return deliver(xp.sum(xp.sum(work, axis=2), axis=0), gradient.dtype, out)


# ---- pooling ---------------------------------------------------------------------------------------------------------


def _padded(x: Array, window: Window, output: Pair, value: float) -> Array:
    """``x`` inside a frame of ``value``, or ``x`` itself where there is no frame."""
    size = window.padded(x.shape[2:], output)
    if size == x.shape[2:]:
        return x
    framed = array_module(x).full(x.shape[:2] + size, value, x.dtype)
    rows, columns = window.inside(x.shape[2:])
    framed[:, :, rows, columns] = x
    return framed


def _without_frame(x: Array, window: Window, size: Pair) -> Array:
    if x.shape[2:] == size:
        return x
    rows, columns = window.inside(size)
    return array_module(x).ascontiguousarray(x[:, :, rows, columns])


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
    y = xp.maximum(top, bottom)
    lower = bottom > top
    index = xp.where(lower, second[:, :, 1::2] + np.uint8(2), second[:, :, 0::2])
    return y, index


def max_pool2d_forward(x: Array, window: Window) -> tuple[Array, Array]:
    """Maximum in each window, padding counting as -inf: x (N, C, H, W) -> y (N, C, P, Q) and the winner's number.

    The number i*J + j (the first of equals; NaN wins) is what the backward wants.
    """
    if _is_halving(window):
        return _halving_max(x)
    xp = array_module(x)
    output = window.output(x.shape[2:])
    padded = _padded(x, window, output, -np.inf)
    y, index = None, None
    for i, j, rows, columns in window.places(output):
        candidate = padded[:, :, rows, columns]
        if y is None:
            y = candidate.copy()
            count = window.kernel[0] * window.kernel[1]
            index = xp.zeros(y.shape, np.uint8 if count <= 256 else np.int32)
            continue
        better = ~(candidate <= y) & (y == y)  # true for a NaN candidate, false once y is NaN
        xp.copyto(y, candidate, where=better)
        xp.copyto(index, index.dtype.type(i * window.kernel[1] + j), where=better)
    return y, index


def max_pool2d_backward(gradient: Array, index: Array, shape: tuple[int, ...], window: Window) -> Array:
    """Each gradient goes to its window's winner: gradient (N, C, P, Q) -> (N, C, H, W) = ``shape``."""
    xp = array_module(gradient)
    dx = xp.zeros(shape[:2] + window.padded(shape[2:], gradient.shape[2:]), gradient.dtype)
    disjoint = all(window.stride[a] >= window.reach(a) for a in (0, 1))
    zero = gradient.dtype.type(0)
    for i, j, rows, columns in window.places(gradient.shape[2:]):
        mine = xp.where(index == index.dtype.type(i * window.kernel[1] + j), gradient, zero)
        if disjoint:
            dx[:, :, rows, columns] = mine
        else:
            dx[:, :, rows, columns] += mine
    return _without_frame(dx, window, shape[2:])


def _divisor(size: Pair, window: Window, output: Pair, count_include_pad: bool) -> np.ndarray:
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
    padded = _padded(wide(x), window, output, 0.0)
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
    return _without_frame(dx, window, shape[2:]).astype(gradient.dtype, copy=False)


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
    "conv2d_forward": conv2d_forward,
    "conv2d_input_gradient": conv2d_input_gradient,
    "conv2d_weight_gradient": conv2d_weight_gradient,
    "channel_sum": channel_sum,
    "max_pool2d_forward": max_pool2d_forward,
    "max_pool2d_backward": max_pool2d_backward,
    "avg_pool2d_forward": avg_pool2d_forward,
    "avg_pool2d_backward": avg_pool2d_backward,
    "adaptive_avg_pool2d_forward": adaptive_avg_pool2d_forward,
    "adaptive_avg_pool2d_backward": adaptive_avg_pool2d_backward,
}
