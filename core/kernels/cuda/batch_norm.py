"""Batch norm on the device: channels last, float32, bfloat16 or float16 in memory, statistics in float32.

Alone, through relu, and through relu and the maximum of 2x2 blocks. Sums are made in two stages whose order follows from the shape.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from ...backend import array_module
from .. import reference_fused, reference_norm
from . import channels_last
from .launch import launch, suffix

Array = Any
THREADS = 256
LANES = 32
ROW_BLOCKS = 528
"""Most blocks of the first stage of a sum: four for each multiprocessor of an H100."""
FINISH = 32
"""Channels of a block of the second stage."""
ALL, POSITIVE, AGAIN = np.int32(0), np.int32(1), np.int32(2)
"""Through relu: no relu; where its output, which is given, is positive; the output is computed again."""


class Cut(NamedTuple):
    """How rows of channels are shared among threads."""

    rows: int
    channels: np.int32
    lanes: np.int32
    packed: bool
    sums: tuple[int, int]
    """Blocks along channels and rows where sums are made."""
    passes: tuple[int, int]
    """The same where each element is for itself."""

    @property
    def blocks(self) -> np.int32:
        """Rows of sums that the first stage leaves."""
        return np.int32(self.sums[1])

    @property
    def geometry(self) -> tuple[np.int32, np.int32, bool]:
        return self.channels, self.lanes, self.packed


def cut(rows: int, channels: int, *arrays: Array) -> Cut:
    """The cut for ``arrays`` of the same elements, or of the same number of bytes for a pack of them."""
    each = 16 // arrays[0].dtype.itemsize
    packed = channels % each == 0 and all(array.data.ptr % 16 == 0 for array in arrays)
    packs = channels // each if packed else channels
    lanes = min(LANES, 1 << (packs - 1).bit_length())
    height, across = THREADS // lanes, -(-packs // lanes)
    down = max(1, min(-(-rows // (8 * height)), ROW_BLOCKS // across))
    return Cut(
        rows, np.int32(channels), np.int32(lanes), packed, (across, down), (across, min(-(-rows // (4 * height)), 65_535))
    )  # fmt: skip


def _takes(x: Array) -> bool:
    return bool(x.dtype.name in ("float32", "bfloat16", "float16") and x.ndim >= 2 and x.size)


def _single(values: Array | None) -> Array | None:
    """Numbers per channel as the kernels read them."""
    return None if values is None else array_module(values).ascontiguousarray(values, dtype=np.float32)


def _empty(channels: int, count: int, like: Array) -> list[Array]:
    """``count`` arrays of a float32 for each channel."""
    xp = array_module(like)
    return [xp.empty(channels, np.float32) for _ in range(count)]


def _statistics(x: Array, channels: int, eps: float) -> tuple[Array, Array, Array]:
    """Mean, M2 and inverse standard deviation (C,) of x (N, S, C)."""
    xp, plan = array_module(x), cut(x.size // channels, channels, x)
    blocks = plan.sums[1]
    means, deviations = xp.empty((blocks, channels), np.float32), xp.empty((blocks, channels), np.float32)
    counts = xp.empty(blocks, np.float32)
    launch(
        "batch_norm", f"statistics_{suffix(x.dtype)}", plan.sums, THREADS, x, plan.rows, *plan.geometry, means, deviations, counts
    )  # fmt: skip
    mean, m2, inverse_std = _empty(channels, 3, x)
    launch(
        "batch_norm", "statistics_of_blocks", -(-channels // FINISH), THREADS, means, deviations, counts, plan.blocks,
        plan.channels, np.float64(plan.rows), eps, mean, m2, inverse_std,
    )  # fmt: skip
    return mean, m2, inverse_std


def _apply(
    x: Array, mean: Array, inverse_std: Array, weight: Array | None, bias: Array | None, relu: bool, other: Array | None = None
) -> Array:  # fmt: skip
    """y (N, S, C) of x (N, S, C), and ``other`` added to it."""
    channels, y = x.shape[-1], array_module(x).empty_like(x)
    plan = cut(x.size // channels, channels, x, y, *(() if other is None else (other,)))
    launch(
        "batch_norm", f"apply_{suffix(x.dtype)}", plan.passes, THREADS, x, plan.rows, *plan.geometry, _single(mean),
        _single(inverse_std), _single(weight), _single(bias), other, relu, y,
    )  # fmt: skip
    return y


def batch_norm_statistics(x: Array) -> tuple[Array, Array]:
    """As ``reference_norm.batch_norm_statistics``."""
    if not _takes(x):
        return reference_norm.batch_norm_statistics(x)
    return _statistics(channels_last.arranged(x), x.shape[1], 1.0)[:2]


def batch_norm_apply(x: Array, mean: Array, inverse_std: Array, weight: Array | None, bias: Array | None) -> Array:
    """As ``reference_norm.batch_norm_apply``; y has its channels last."""
    if not _takes(x):
        return reference_norm.batch_norm_apply(x, mean, inverse_std, weight, bias)
    return channels_last.to_first(_apply(channels_last.arranged(x), mean, inverse_std, weight, bias, False))


def batch_norm_train(
    x: Array, weight: Array | None, bias: Array | None, eps: float, relu: bool = False
) -> tuple[Array, Array, Array, Array]:
    """As ``reference_norm.batch_norm_train``; y has its channels last."""
    if not _takes(x):
        return reference_norm.batch_norm_train(x, weight, bias, eps, relu)
    last = channels_last.arranged(x)
    mean, m2, inverse_std = _statistics(last, x.shape[1], eps)
    return channels_last.to_first(_apply(last, mean, inverse_std, weight, bias, relu)), mean, m2, inverse_std


class _Gradients(NamedTuple):
    """Gradients of weight and bias, and by what the input's is made."""

    weight: Array
    bias: Array
    scale: Array
    slope: Array
    constant: Array


def _finish(sums: Array, plan: Cut, count: int, inverse_std: Array, weight: Array | None, training: bool) -> _Gradients:
    channels = int(plan.channels)
    found = _Gradients(*_empty(channels, 5, sums))
    launch(
        "batch_norm", "sums_of_blocks", -(-channels // FINISH), THREADS, sums, plan.blocks, plan.channels,
        np.float64(count), inverse_std, weight, training, *found,
    )  # fmt: skip
    return found


def _backward(
    gradient: Array, x: Array, mean: Array, inverse_std: Array, weight: Array | None, bias: Array | None, training: bool,
    mode: np.int32, positive: Array | None = None, through: Array | None = None,
) -> tuple[Array, Array, Array]:  # fmt: skip
    """dx (N, C, S) and the gradients of weight and bias, from arrays (N, S, C); ``through`` gets the gradient behind relu."""
    xp, channels, kind = array_module(x), x.shape[-1], suffix(x.dtype)
    dx = xp.empty_like(x)
    plan = cut(x.size // channels, channels, x, gradient, dx, *(y for y in (positive, through) if y is not None))
    mean, inverse_std, weight, bias = _single(mean), _single(inverse_std), _single(weight), _single(bias)
    sums = xp.empty((plan.sums[1], 2, channels), np.float32)
    given = (gradient, x, plan.rows, *plan.geometry, mean, inverse_std, weight, bias, mode, positive)
    launch("batch_norm", f"sums_{kind}", plan.sums, THREADS, *given, sums)
    found = _finish(sums, plan, plan.rows, inverse_std, weight, training)
    launch("batch_norm", f"input_gradient_{kind}", plan.passes, THREADS, *given, *found[2:], dx, through)
    return channels_last.to_first(dx), found.weight, found.bias


def batch_norm_backward(
    gradient: Array, x: Array, mean: Array, inverse_std: Array, weight: Array | None, training: bool,
    positive: Array | None = None,
) -> tuple[Array, Array, Array]:  # fmt: skip
    """As ``reference_norm.batch_norm_backward``; dx has its channels last."""
    if not _takes(x):
        return reference_norm.batch_norm_backward(gradient, x, mean, inverse_std, weight, training, positive)
    arranged = channels_last.arranged
    given = (arranged(gradient.astype(x.dtype, copy=False)), arranged(x), mean, inverse_std, weight, None, training)
    if positive is None:
        return _backward(*given, ALL)
    return _backward(*given, POSITIVE, arranged(positive.astype(x.dtype, copy=False)))


def batch_norm_relu(
    x: Array, weight: Array | None, bias: Array | None, eps: float
) -> tuple[Array, Array, Array, Array]:
    """As ``reference_fused.batch_norm_relu``; y has its channels last."""
    return batch_norm_train(x, weight, bias, eps, relu=True)


def batch_norm_relu_backward(
    gradient: Array, x: Array, mean: Array, inverse_std: Array, weight: Array | None, bias: Array | None, y: Array
) -> tuple[Array, Array, Array]:
    """As ``reference_fused.batch_norm_relu_backward``; which of y are positive is computed again rather than read."""
    if not _takes(x):
        return reference_fused.batch_norm_relu_backward(gradient, x, mean, inverse_std, weight, bias, y)
    arranged = channels_last.arranged
    given = arranged(gradient.astype(x.dtype, copy=False))
    return _backward(given, arranged(x), mean, inverse_std, weight, bias, True, AGAIN)


def batch_norm_add_relu(
    x: Array, other: Array, weight: Array | None, bias: Array | None, eps: float
) -> tuple[Array, Array, Array, Array]:
    """As ``reference_fused.batch_norm_add_relu``; y has its channels last."""
    if not _takes(x) or other.dtype != x.dtype:
        return reference_fused.batch_norm_add_relu(x, other, weight, bias, eps)
    last = channels_last.arranged(x)
    mean, m2, inverse_std = _statistics(last, x.shape[1], eps)
    y = _apply(last, mean, inverse_std, weight, bias, True, channels_last.arranged(other))
    return channels_last.to_first(y), mean, m2, inverse_std


def batch_norm_add_relu_backward(
    gradient: Array, x: Array, mean: Array, inverse_std: Array, weight: Array | None, y: Array
) -> tuple[Array, Array, Array, Array]:
    """As ``reference_fused.batch_norm_add_relu_backward``; dx and the gradient of what was added have their channels last."""
    if not _takes(x):
        return reference_fused.batch_norm_add_relu_backward(gradient, x, mean, inverse_std, weight, y)
    arranged = channels_last.arranged
    given, last = arranged(gradient.astype(x.dtype, copy=False)), arranged(x)
    through = array_module(x).empty_like(last)
    dx, dw, db = _backward(given, last, mean, inverse_std, weight, None, True, POSITIVE, arranged(y), through)
    return dx, channels_last.to_first(through), dw, db


def move_running(
    mean: Array, variance: Array, batches: Array, seen: Array, m2: Array, share: float, degrees: float
) -> None:
    """As ``reference_norm.move_running``; one launch, which counts the batch, too."""
    arrays = (mean, variance, seen, m2)
    if any(each.dtype != np.float32 or not each.flags.c_contiguous for each in arrays):
        return reference_norm.move_running(mean, variance, batches, seen, m2, share, degrees)
    return launch(
        "batch_norm", "move_running", -(-mean.size // THREADS), THREADS, mean, variance, batches, seen, m2, share, degrees,
        np.int32(mean.size),
    )  # fmt: skip


def _takes_pooled(x: Array) -> bool:
    return _takes(x) and x.ndim == 4 and min(x.shape[2:]) >= 2


def batch_norm_relu_pool(
    x: Array, weight: Array | None, bias: Array | None, eps: float
) -> tuple[Array, Array, Array, Array, Array]:
    """As ``reference_fused.batch_norm_relu_pool``; y and the winners' numbers have their channels last."""
    if not _takes_pooled(x):
        return reference_fused.batch_norm_relu_pool(x, weight, bias, eps)
    last = channels_last.arranged(x)
    mean, m2, inverse_std = _statistics(last, x.shape[1], eps)
    samples, channels, height, width = x.shape
    shape = (samples, channels, height // 2, width // 2)
    y, index = channels_last.empty(shape, x), channels_last.empty(shape, x, np.uint8)
    plan = cut(y.size // channels, channels, last, y)
    launch(
        "batch_norm", f"apply_relu_pool_{suffix(x.dtype)}", plan.passes, THREADS, last, plan.rows, np.int32(height),
        np.int32(width), *plan.geometry, mean, inverse_std, _single(weight), _single(bias), y, index,
    )  # fmt: skip
    return channels_last.to_first(y), mean, m2, inverse_std, channels_last.to_first(index)


def batch_norm_relu_pool_backward(
    gradient: Array, x: Array, mean: Array, inverse_std: Array, weight: Array | None, index: Array
) -> tuple[Array, Array, Array]:
    """As ``reference_fused.batch_norm_relu_pool_backward``; dx has its channels last."""
    if not _takes_pooled(x):
        return reference_fused.batch_norm_relu_pool_backward(gradient, x, mean, inverse_std, weight, index)
    arranged, kind = channels_last.arranged, suffix(x.dtype)
    last, given, place = arranged(x), arranged(gradient.astype(x.dtype, copy=False)), arranged(index)
    xp, channels, image = array_module(x), x.shape[1], (np.int32(x.shape[2]), np.int32(x.shape[3]))
    mean, inverse_std, weight = _single(mean), _single(inverse_std), _single(weight)
    dx = xp.empty_like(last)
    plan = cut(last.size // channels, channels, last, given, place, dx)
    sums = xp.empty((plan.sums[1], 2, channels), np.float32)
    arguments = (given, place, last, plan.rows, *image, *plan.geometry, mean)
    launch("batch_norm", f"pooled_sums_{kind}", plan.sums, THREADS, *arguments, sums)
    found = _finish(sums, plan, plan.rows, inverse_std, weight, True)
    launch("batch_norm", f"pooled_input_gradient_{kind}", plan.passes, THREADS, *arguments, *found[2:], dx)
    return channels_last.to_first(dx), found.weight, found.bias


KERNELS: dict[str, Callable[..., Any]] = {
    "batch_norm_statistics": batch_norm_statistics,
    "batch_norm_train": batch_norm_train,
    "batch_norm_apply": batch_norm_apply,
    "batch_norm_backward": batch_norm_backward,
    "batch_norm_relu": batch_norm_relu,
    "batch_norm_relu_backward": batch_norm_relu_backward,
    "batch_norm_add_relu": batch_norm_add_relu,
    "batch_norm_add_relu_backward": batch_norm_add_relu_backward,
    "move_running": move_running,
    "batch_norm_relu_pool": batch_norm_relu_pool,
    "batch_norm_relu_pool_backward": batch_norm_relu_pool_backward,
}
