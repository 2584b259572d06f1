"""Reference kernels: two-dimensional convolution over (N, C, H, W) arrays.

A convolution is a matrix product of the weights with the unfolded input (im2col), done for a few samples at a time so
that the unfolded samples stay in the second-level cache and memory stays small; how many is a function of shapes alone.

Dimensions: N samples, C and O channels in and out, H and W rows and columns, I and J kernel rows and columns,
P and Q output rows and columns, G groups.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np

from ..backend import array_module
from ..op import Array
from . import reference_pool
from .reference import deliver, wide
from .window import Pair, Window

UNFOLDED_ELEMENTS = 1 << 18
"""Unfolded elements held at once (1 MiB of float32), but never less than one sample."""


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
    """Add each unfolded element (n, G, I, J, C/G, P, Q) to its place in the padded ``target`` (n, G, C/G, H, W)."""
    target[...] = 0
    for i, j, rows, columns in window.places(output):
        target[..., rows, columns] += unfolded[:, :, i, j]


def _fold_whole(unfolded: Array, target: Array, window: Window) -> None:
    """As ``_fold`` for stride 1 and an ``unfolded`` (n, G, I, J, C/G, H, W) that is zero outside of P and Q.

    One shifted addition of long rows for each kernel element; what is shifted into the next row or channel is zero.
    """
    width = target.shape[-1]
    length = target.shape[2] * target.shape[3] * width
    flat = target.reshape(target.shape[:2] + (length,))
    flat[...] = 0
    for i in range(window.kernel[0]):
        for j in range(window.kernel[1]):
            offset = i * window.dilation[0] * width + j * window.dilation[1]
            moved = unfolded[:, :, i, j].reshape(flat.shape)
            flat[:, :, offset:] += moved[:, :, : length - offset]


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


WHOLE_IMAGE_LIMIT = 1.25
"""Up to this ratio of the padded image to the output, the input gradient is formed over whole image rows: more products,
but additions of long rows."""


def _transposed(weight: Array, groups: int) -> Array:
    """Weights (O, C/G, I, J) as G matrices (G, I*J*C/G, O/G)."""
    out_each = weight.shape[0] // groups
    moved = wide(weight).reshape((groups, out_each) + weight.shape[1:]).transpose(0, 3, 4, 2, 1)
    return array_module(weight).ascontiguousarray(moved).reshape(groups, math.prod(weight.shape[1:]), out_each)


def conv2d_input_gradient(
    gradient: Array, weight: Array, shape: tuple[int, ...], window: Window, groups: int = 1
) -> Array:
    """Gradient of the input, whose ``shape`` is (N, C, H, W): gradient (N, O, P, Q), weight (O, C/G, I, J)."""
    xp = array_module(gradient)
    samples, channels = shape[:2]
    output, image = gradient.shape[2:], window.padded(shape[2:], gradient.shape[2:])
    matrix = _transposed(weight, groups)
    grouped = _grouped(wide(gradient), groups)  # (N, G, O/G, P, Q)
    if window.is_pointwise():
        product = xp.matmul(matrix, grouped.reshape(grouped.shape[:3] + (math.prod(output),)))
        return product.reshape(shape).astype(gradient.dtype, copy=False)
    whole = window.stride == (1, 1) and math.prod(image) <= WHOLE_IMAGE_LIMIT * math.prod(output)
    area = image if whole else output
    chunk = _chunk(samples, channels * math.prod(window.kernel) * math.prod(area))
    dx = xp.empty(shape, gradient.dtype)
    unfolded = xp.empty((chunk, groups, matrix.shape[1], math.prod(area)), grouped.dtype)
    padded = xp.empty((chunk, groups, channels // groups) + image, grouped.dtype)
    framed = xp.zeros((chunk,) + grouped.shape[1:3] + area, grouped.dtype) if whole else None
    rows, columns = window.inside(shape[2:])
    for start in range(0, samples, chunk):
        part = grouped[start : start + chunk]
        size = len(part)
        if framed is not None:
            framed[:size, :, :, : output[0], : output[1]] = part
            part = framed[:size]
        outer = xp.multiply if matrix.shape[2] == 1 else xp.matmul  # one channel out: BLAS would gain nothing
        product = outer(matrix, part.reshape(part.shape[:3] + (math.prod(area),)), out=unfolded[:size])
        places = product.reshape((size, groups) + window.kernel + (channels // groups,) + area)
        target = padded[:size]
        if whole:
            _fold_whole(places, target, window)
        else:
            _fold(places, target, window, output)
        dx[start : start + size] = target[..., rows, columns].reshape((size,) + shape[1:])
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


KERNELS: dict[str, Callable[..., Array]] = {
    **reference_pool.KERNELS,
    "conv2d_forward": conv2d_forward,
    "conv2d_input_gradient": conv2d_input_gradient,
    "conv2d_weight_gradient": conv2d_weight_gradient,
    "channel_sum": channel_sum,
}
