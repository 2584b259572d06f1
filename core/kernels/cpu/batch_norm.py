"""Batch norm by compiled loops: float32, channels last; alone, through relu, and through relu and the maximum of 2x2 blocks.

Other dtypes, empty inputs and statistics from elsewhere go to oneDNN, or to the reference where that is not there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ...op import Array
from .. import reference_fused, reference_norm
from . import channels_last, loops_batch_norm, loops_batch_norm_pool, onednn, onednn_norm

FLOAT32 = np.dtype(np.float32)
FEWEST_CHANNELS = 16
"""Fewer are not worth an inner loop over channels alone, which the maximum has."""


def have_onednn() -> bool:
    """Whether the library is there: it arranges images that do not have their channels last."""
    try:
        onednn.load()
    except onednn.Unavailable:
        return False
    return True


_next: Any = onednn_norm if have_onednn() else reference_norm


def _takes(x: Array) -> bool:
    return bool(x.dtype == FLOAT32 and x.ndim >= 2 and x.size and (_next is onednn_norm or channels_last.is_last(x)))


def _rows(repeated: int, *each: Array | None) -> Array:
    """A row for each of several numbers per channel; None counts as zeros."""
    channels = next(one.size for one in each if one is not None)
    rows = np.empty((len(each), repeated, channels), FLOAT32)
    for row, one in zip(rows, each, strict=True):
        row[...] = 0.0 if one is None else one
    return rows.reshape(len(each), repeated * channels)


def _workspace(blocks: int, row: int, channels: int) -> tuple[Array, Array, Array, Array]:
    return (
        np.empty((blocks, row), FLOAT32),
        np.empty((blocks, row), FLOAT32),
        np.empty((blocks, channels), FLOAT32),
        np.empty((blocks, channels), FLOAT32),
    )


def _statistics(x: Array, channels: int, eps: float) -> tuple[Array, Array, Array]:
    """Mean, sum of squared deviations and inverse standard deviation (C,) of x (N, S, C)."""
    count = x.size // channels
    repeated, size, blocks = loops_batch_norm.cut(count, channels)
    work = _workspace(blocks, repeated * channels, channels)
    loops_batch_norm.statistics(x.size, x.reshape(-1), size, *work)
    mean, deviations = work[2][0], work[3][0]
    if blocks > 1:
        counts = np.full((blocks, 1), size // channels, np.float64)
        counts[-1] = count - (blocks - 1) * (size // channels)
        middle = np.add.reduce(work[2] * counts, axis=0) / count
        spread = np.add.reduce(work[3], axis=0, dtype=np.float64)
        spread += np.add.reduce(np.square(work[2] - middle) * counts, axis=0)
        mean, deviations = middle.astype(FLOAT32), spread.astype(FLOAT32)
    return mean, deviations, 1.0 / np.sqrt(deviations / FLOAT32.type(count) + FLOAT32.type(eps))


def _scale(inverse_std: Array, weight: Array | None) -> Array:
    return inverse_std if weight is None else inverse_std * weight


def _normalised(x: Array, mean: Array, scale: Array, shift: Array | None, relu: bool) -> Array:
    """``(x - mean) * scale + shift`` of x (N, S, C)."""
    repeated, size, _ = loops_batch_norm.cut(x.size // mean.size, mean.size)
    y = np.empty(x.shape, FLOAT32)
    run = loops_batch_norm.normalise_relu if relu else loops_batch_norm.normalise
    run(x.size, x.reshape(-1), *_rows(repeated, mean, scale, shift), size, y.reshape(-1))
    return y


# ---- kernels ---------------------------------------------------------------------------------------------------------


def batch_norm_train(
    x: Array, weight: Array | None, bias: Array | None, eps: float, relu: bool = False
) -> tuple[Array, Array, Array, Array]:
    """As ``reference_norm.batch_norm_train``; y has its channels last."""
    if not _takes(x):
        return _next.batch_norm_train(x, weight, bias, eps, relu)
    last = channels_last.arranged(x)
    mean, deviations, inverse_std = _statistics(last, x.shape[1], eps)
    y = _normalised(last, mean, _scale(inverse_std, weight), bias, relu)
    return channels_last.to_first(y), mean, deviations, inverse_std


def batch_norm_apply(x: Array, mean: Array, inverse_std: Array, weight: Array | None, bias: Array | None) -> Array:
    """As ``reference_norm.batch_norm_apply``; y has its channels last."""
    if not _takes(x) or mean.dtype != FLOAT32:
        return _next.batch_norm_apply(x, mean, inverse_std, weight, bias)
    return channels_last.to_first(
        _normalised(channels_last.arranged(x), mean, _scale(inverse_std, weight), bias, False)
    )


def _totals(
    blocks: tuple[Array, Array], inverse_std: Array, scale: Array, count: int
) -> tuple[Array, Array, Array, Array]:
    """Gradients of weight and bias from their sums over blocks, and by what the input's depends on its distance from the mean."""
    bias, weight = (
        each[0] if len(each) == 1 else np.add.reduce(each, axis=0, dtype=np.float64).astype(FLOAT32) for each in blocks
    )
    weight = weight * inverse_std
    slope = scale * inverse_std * weight
    return weight, bias, slope / FLOAT32.type(-count), scale * bias / FLOAT32.type(-count)


def batch_norm_backward(
    gradient: Array,
    x: Array,
    mean: Array,
    inverse_std: Array,
    weight: Array | None,
    training: bool,
    positive: Array | None = None,
) -> tuple[Array, Array, Array]:
    """As ``reference_norm.batch_norm_backward``; dx has its channels last."""
    if not training or positive is not None or not _takes(x) or gradient.dtype != FLOAT32:
        return _next.batch_norm_backward(gradient, x, mean, inverse_std, weight, training, positive)
    return _backward(gradient, x, mean, inverse_std, weight, None, False)


def batch_norm_relu(
    x: Array, weight: Array | None, bias: Array | None, eps: float
) -> tuple[Array, Array, Array, Array]:
    """As ``reference_fused.batch_norm_relu``; y has its channels last."""
    return batch_norm_train(x, weight, bias, eps, relu=True)


def batch_norm_relu_backward(
    gradient: Array, x: Array, mean: Array, inverse_std: Array, weight: Array | None, bias: Array | None, y: Array
) -> tuple[Array, Array, Array]:
    """As ``reference_fused.batch_norm_relu_backward``; which of y are positive is computed again rather than read."""
    if not _takes(x) or gradient.dtype != FLOAT32:
        return _next.batch_norm_backward(gradient, x, mean, inverse_std, weight, True, y)
    return _backward(gradient, x, mean, inverse_std, weight, bias, True)


def _backward(
    gradient: Array, x: Array, mean: Array, inverse_std: Array, weight: Array | None, bias: Array | None, relu: bool
) -> tuple[Array, Array, Array]:
    channels, count = x.shape[1], x.size // x.shape[1]
    source, given = channels_last.arranged(x).reshape(-1), channels_last.arranged(gradient).reshape(-1)
    repeated, size, blocks = loops_batch_norm.cut(count, channels)
    work = _workspace(blocks, repeated * channels, channels)
    scale, dx = _scale(inverse_std, weight), channels_last.empty(x.shape)
    if not relu:
        middle, scales = _rows(repeated, mean, scale)
        loops_batch_norm.sums(x.size, given, source, middle, size, *work)
        dw, db, slope, constant = _totals(work[2:], inverse_std, scale, count)
        rest = _rows(repeated, slope, constant)
        loops_batch_norm.input_gradient(x.size, given, source, middle, scales, *rest, size, dx.reshape(-1))
    else:
        rows = _rows(repeated, mean, scale, bias)
        loops_batch_norm.sums_relu(x.size, given, source, *rows, size, *work)
        dw, db, slope, constant = _totals(work[2:], inverse_std, scale, count)
        rest = _rows(repeated, slope, constant)
        loops_batch_norm.input_gradient_relu(x.size, given, source, *rows, *rest, size, dx.reshape(-1))
    return channels_last.to_first(dx), dw, db


def _takes_pooled(x: Array) -> bool:
    return x.ndim == 4 and x.shape[1] >= FEWEST_CHANNELS and min(x.shape[2:]) >= 2 and _takes(x)


def batch_norm_relu_pool(
    x: Array, weight: Array | None, bias: Array | None, eps: float
) -> tuple[Array, Array, Array, Array, Array]:
    """As ``reference_fused.batch_norm_relu_pool``; y and index have their channels last."""
    if not _takes_pooled(x):
        y, *found = batch_norm_train(x, weight, bias, eps)
        pooled, index = reference_fused.relu_pool(y)
        return pooled, found[0], found[1], found[2], index
    last = channels_last.arranged(x)
    mean, deviations, inverse_std = _statistics(last, x.shape[1], eps)
    shape = x.shape[:2] + (x.shape[2] // 2, x.shape[3] // 2)
    y, index = channels_last.empty(shape), channels_last.empty(shape, np.uint8)
    rows = _rows(1, mean, _scale(inverse_std, weight), bias)
    loops_batch_norm_pool.normalise_relu_pool(x.size, last, *rows, y, index)
    return channels_last.to_first(y), mean, deviations, inverse_std, channels_last.to_first(index)


def batch_norm_relu_pool_backward(
    gradient: Array, x: Array, mean: Array, inverse_std: Array, weight: Array | None, index: Array
) -> tuple[Array, Array, Array]:
    """As ``reference_fused.batch_norm_relu_pool_backward``; dx has its channels last."""
    if not _takes_pooled(x) or gradient.dtype != FLOAT32:
        gradient = reference_fused.relu_pool_backward(gradient, index, x.shape)
        return batch_norm_backward(gradient, x, mean, inverse_std, weight, True)
    channels, count = x.shape[1], x.size // x.shape[1]
    last, given = channels_last.arranged(x), channels_last.arranged(gradient)
    place, dx = channels_last.arranged(index), channels_last.empty(x.shape)
    repeated, size, blocks = loops_batch_norm.cut(count, channels)
    work = _workspace(blocks, repeated * channels, channels)
    scale = _scale(inverse_std, weight)
    loops_batch_norm_pool.pooled_sums(x.size, given, place, last, _rows(repeated, mean)[0], size, *work)
    dw, db, slope, constant = _totals(work[2:], inverse_std, scale, count)
    rows = _rows(1, mean, scale, slope, constant)
    loops_batch_norm_pool.pooled_input_gradient(x.size, given, place, last, *rows, dx)
    return channels_last.to_first(dx), dw, db


KERNELS: dict[str, Callable[..., Any]] = {
    "batch_norm_train": batch_norm_train,
    "batch_norm_apply": batch_norm_apply,
    "batch_norm_backward": batch_norm_backward,
    "batch_norm_relu": batch_norm_relu,
    "batch_norm_relu_backward": batch_norm_relu_backward,
    "batch_norm_relu_pool": batch_norm_relu_pool,
    "batch_norm_relu_pool_backward": batch_norm_relu_pool_backward,
}
