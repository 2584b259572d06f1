"""Reference kernels: convolution over sequences (N, C, L), images (N, C, H, W) and volumes (N, C, D, H, W).

A convolution is a matrix product of the weights with the unfolded input (im2col), done for a few samples at a time so
that the unfolded samples stay in the second-level cache and memory stays small; how many is a function of shapes alone.

The gradient of the input is what a transposed convolution computes: its kernels are these three with their parts exchanged.

Dimensions: N samples, C and O channels in and out, S and K and P sizes of input, kernel and output (one, two or three
numbers each), G groups.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np

from ..backend import array_module
from ..bfloat16 import is_half
from ..op import Array
from . import reference_pool
from .reference import deliver, wide
from .window import Size, Window, framed, without_frame

UNFOLDED_ELEMENTS = 1 << 18
"""Unfolded elements held at once (1 MiB of float32), but never less than one sample."""


# ---- unfolding -------------------------------------------------------------------------------------------------------


def _windows(x: Array, window: Window, output: Size) -> Array:
    """A view (n, C, K, P) of a padded input (n, C, S)."""
    steps = x.strides[2:]
    inner = tuple(step * d for step, d in zip(steps, window.dilation, strict=True))
    outer = tuple(step * s for step, s in zip(steps, window.stride, strict=True))
    shape = x.shape[:2] + window.kernel + output
    return array_module(x).lib.stride_tricks.as_strided(x, shape, x.strides[:2] + inner + outer)


def _chunk(samples: int, elements_each: int) -> int:
    return max(1, min(samples, UNFOLDED_ELEMENTS // max(1, elements_each)))


def _unfolded_chunks(x: Array, window: Window, output: Size) -> Iterator[tuple[slice, Array]]:
    """(samples, unfolded (n, C*K, P)) chunk by chunk. The unfolded array is overwritten by the next chunk."""
    xp = array_module(x)
    samples, channels = x.shape[:2]
    if window.is_pointwise():
        yield slice(0, samples), wide(x).reshape(samples, channels, math.prod(output))
        return
    rows, area = channels * math.prod(window.kernel), math.prod(output)
    chunk = _chunk(samples, rows * area)
    dtype = np.dtype(np.float32) if is_half(x.dtype) else x.dtype
    unfolded = xp.empty((chunk, channels) + window.kernel + output, dtype)
    padded = None
    inside = window.inside(x.shape[2:])
    if max(window.padding):
        padded = xp.zeros((chunk, channels) + window.padded(x.shape[2:], output), x.dtype)
    for start in range(0, samples, chunk):
        part = x[start : start + chunk]
        if padded is not None:
            inner = padded[: len(part)]
            inner[(..., *inside)] = part
            part = inner
        target = unfolded[: len(part)]
        target[...] = _windows(part, window, output)
        yield slice(start, start + len(part)), target.reshape(len(part), rows, area)


def _fold(unfolded: Array, target: Array, window: Window, output: Size) -> None:
    """Add each unfolded element (n, G, K, C/G, P) to its place in the padded ``target`` (n, G, C/G, S)."""
    target[...] = 0
    for element, place in window.places(output):
        target[(..., *place)] += unfolded[(slice(None), slice(None), *element)]


def _fold_whole(unfolded: Array, target: Array, window: Window) -> None:
    """As ``_fold`` for stride 1 and an ``unfolded`` (n, G, K, C/G, S) that is zero outside of P.

    One shifted addition of long rows for each kernel element; what is shifted into the next row or channel is zero.
    """
    image = target.shape[3:]
    length = math.prod(target.shape[2:])
    steps = [math.prod(image[a + 1 :]) * d for a, d in enumerate(window.dilation)]
    flat = target.reshape(target.shape[:2] + (length,))
    flat[...] = 0
    for element in np.ndindex(*window.kernel):
        offset = sum(i * step for i, step in zip(element, steps, strict=True))
        moved = unfolded[(slice(None), slice(None), *element)].reshape(flat.shape)
        flat[:, :, offset:] += moved[:, :, : length - offset]


def _grouped(x: Array, groups: int) -> Array:
    """(n, C, ...) -> (n, G, C/G, ...)."""
    return x.reshape((x.shape[0], groups, x.shape[1] // groups) + x.shape[2:])


def _matrix(weight: Array, groups: int) -> Array:
    """Weights (O, C/G, K) as G matrices (G, O/G, C/G*K)."""
    return wide(weight).reshape(groups, weight.shape[0] // groups, math.prod(weight.shape[1:]))


# ---- convolution -----------------------------------------------------------------------------------------------------


def conv_forward(x: Array, weight: Array, bias: Array | None, window: Window, groups: int = 1) -> Array:
    """``y[n,o,p] = bias[o] + sum over c,k of weight[o,c,k] * x[n, c, p*stride + k*dilation - padding]``.

    x (N, C, S), weight (O, C/G, K), bias (O,) or None -> (N, O, P).
    """
    xp = array_module(x)
    output = window.output(x.shape[2:])
    matrix = _matrix(weight, groups)
    y = xp.empty((x.shape[0], groups, matrix.shape[1], math.prod(output)), matrix.dtype)
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
    """Weights (O, C/G, K) as G matrices (G, K*C/G, O/G)."""
    out_each = weight.shape[0] // groups
    axes = (0, *range(3, weight.ndim + 1), 2, 1)
    moved = wide(weight).reshape((groups, out_each) + weight.shape[1:]).transpose(axes)
    return array_module(weight).ascontiguousarray(moved).reshape(groups, math.prod(weight.shape[1:]), out_each)


def conv_input_gradient(
    gradient: Array, weight: Array, shape: tuple[int, ...], window: Window, groups: int = 1
) -> Array:
    """Gradient of the input, whose ``shape`` is (N, C, S): gradient (N, O, P), weight (O, C/G, K)."""
    xp = array_module(gradient)
    samples, channels = shape[:2]
    output, image = gradient.shape[2:], window.padded(shape[2:], gradient.shape[2:])
    matrix = _transposed(weight, groups)
    grouped = _grouped(wide(gradient), groups)  # (N, G, O/G, P)
    if window.is_pointwise():
        product = xp.matmul(matrix, grouped.reshape(grouped.shape[:3] + (math.prod(output),)))
        return product.reshape(shape).astype(gradient.dtype, copy=False)
    whole = max(window.stride) == 1 and math.prod(image) <= WHOLE_IMAGE_LIMIT * math.prod(output)
    area = image if whole else output
    chunk = _chunk(samples, channels * math.prod(window.kernel) * math.prod(area))
    dx = xp.empty(shape, gradient.dtype)
    unfolded = xp.empty((chunk, groups, matrix.shape[1], math.prod(area)), grouped.dtype)
    padded = xp.empty((chunk, groups, channels // groups) + image, grouped.dtype)
    spread = xp.zeros((chunk,) + grouped.shape[1:3] + area, grouped.dtype) if whole else None
    inside, filled = window.inside(shape[2:]), tuple(slice(n) for n in output)
    for start in range(0, samples, chunk):
        part = grouped[start : start + chunk]
        size = len(part)
        if spread is not None:
            spread[(slice(size), ..., *filled)] = part
            part = spread[:size]
        outer = xp.multiply if matrix.shape[2] == 1 else xp.matmul  # one channel out: BLAS would gain nothing
        product = outer(matrix, part.reshape(part.shape[:3] + (math.prod(area),)), out=unfolded[:size])
        places = product.reshape((size, groups) + window.kernel + (channels // groups,) + area)
        target = padded[:size]
        if whole:
            _fold_whole(places, target, window)
        else:
            _fold(places, target, window, output)
        dx[start : start + size] = target[(..., *inside)].reshape((size,) + shape[1:])
    return dx


def conv_weight_gradient(
    gradient: Array, x: Array, shape: tuple[int, ...], window: Window, groups: int = 1, out: Array | None = None
) -> Array:
    """Gradient of the weights, whose ``shape`` is (O, C/G, K): gradient (N, O, P), x (N, C, S).

    Samples are added in order, chunk after chunk.
    """
    xp = array_module(gradient)
    samples, area = gradient.shape[0], math.prod(gradient.shape[2:])
    rows = wide(gradient).reshape(samples, groups, shape[0] // groups, area)  # (N, G, O/G, P)
    total = xp.zeros((groups, shape[0] // groups, math.prod(shape[1:])), rows.dtype)
    for part, unfolded in _unfolded_chunks(x, window, gradient.shape[2:]):
        columns = _grouped(unfolded, groups).swapaxes(2, 3)  # (n, G, P, C/G*K)
        total += xp.matmul(rows[part], columns).sum(axis=0)
    return deliver(total.reshape(shape), x.dtype, out)


def channel_sum(gradient: Array, out: Array | None = None) -> Array:
    """Sum over all axes but the second, the gradient of a per-channel bias: (N, O, ...) -> (O,)."""
    xp = array_module(gradient)
    work = wide(gradient).reshape(gradient.shape[:2] + (math.prod(gradient.shape[2:]),))
    return deliver(xp.sum(xp.sum(work, axis=2), axis=0), gradient.dtype, out)


# ---- how images lie --------------------------------------------------------------------------------------------------


def arrange_images(x: Array) -> Array:
    """``x`` (N, C, S) as the other kernels here take it fastest, perhaps ``x`` itself: what two of them read is arranged once."""
    return x


def put_images(images: Array, out: Array) -> Array:
    """Copies ``images`` (N, C, S) into ``out``, however both lie; returns ``out``."""
    out[...] = images
    return out


# ---- unfolding alone -------------------------------------------------------------------------------------------------


def unfold_windows(x: Array, window: Window) -> Array:
    """The elements of every window as columns: x (N, C, S) -> (N, C*K, number of places); padding counts as zeros."""
    output = window.output(x.shape[2:])
    padded = framed(x, window, output, 0.0)
    columns = array_module(x).ascontiguousarray(_windows(padded, window, output))
    return columns.reshape(x.shape[0], x.shape[1] * math.prod(window.kernel), math.prod(output))


def fold_windows(columns: Array, size: Size, window: Window) -> Array:
    """The sum of all windows' elements at their places: columns (N, C*K, number of places) -> (N, C, S = ``size``)."""
    output = window.output(size)
    work = wide(columns)
    channels = work.shape[1] // math.prod(window.kernel)
    places = work.reshape((work.shape[0], channels) + window.kernel + output)
    target = array_module(columns).zeros((work.shape[0], channels) + window.padded(size, output), work.dtype)
    for element, place in window.places(output):
        target[(..., *place)] += places[(slice(None), slice(None), *element)]
    return without_frame(target, window, size).astype(columns.dtype, copy=False)


KERNELS: dict[str, Callable[..., Array]] = {
    **reference_pool.KERNELS,
    "conv_forward": conv_forward,
    "conv_input_gradient": conv_input_gradient,
    "conv_weight_gradient": conv_weight_gradient,
    "channel_sum": channel_sum,
    "arrange_images": arrange_images,
    "put_images": put_images,
    "unfold_windows": unfold_windows,
    "fold_windows": fold_windows,
}
