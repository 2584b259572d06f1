"""Softmax and the losses over classes on the device: one pass over rows that are held in registers.

What else comes (float64, another axis than the last) goes to the reference. Labels of any values are safe; which of them are out of range
is said by ``reports.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ...backend import Array, array_module
from .. import reference
from .dense import FLOAT32, INT64, THREADS, blocks_for, contiguous, filled, plain
from .launch import launch, suffix

HELD_BYTES = 64
"""What a thread holds of a row: four packs of 16 bytes."""
ROW_THREADS = 512
ROWS_OF_A_BLOCK = 8
"""Where a warp has a row to itself."""

Geometry = tuple[int, tuple[int, int]]


def geometry(rows: int, columns: int, itemsize: int, most: int = ROW_THREADS) -> Geometry:
    """Blocks, and threads of a block: those of a row side by side, and rows. A row has a warp if that can hold it, else a block.

    >>> geometry(20, 768, 2), geometry(20, 4096, 2), geometry(20, 50304, 2)
    ((3, (32, 8)), (20, (128, 1)), (20, (512, 1)))
    """
    warps = -(-columns * itemsize // (32 * HELD_BYTES))
    if warps == 1:
        return -(-rows // ROWS_OF_A_BLOCK), (32, ROWS_OF_A_BLOCK)
    return rows, (min(32 * warps, most), 1)


def _of_last_axis(x: Array, axis: int) -> bool:
    return x.ndim > 0 and axis in (-1, x.ndim - 1) and filled(x)


def _over_rows(name: str, *arrays: Array) -> None:
    first = arrays[0]
    columns = first.shape[-1]
    rows = first.size // columns
    launch("rows", f"{name}_{suffix(first.dtype)}", *geometry(rows, columns, first.itemsize), *arrays, rows, columns)


def _forward(name: str) -> Callable[..., Array]:
    other = reference.KERNELS[name]

    def forward(x: Array, axis: int = -1) -> Array:
        if not _of_last_axis(x, axis):
            return other(x, axis)
        x = contiguous(x)
        y = array_module(x).empty_like(x)
        _over_rows(name, x, y)
        return y

    return forward


def _backward(name: str) -> Callable[..., Array]:
    other = reference.KERNELS[name]

    def backward(gradient: Array, y: Array, axis: int = -1) -> Array:
        if not _of_last_axis(y, axis) or gradient.dtype != y.dtype or gradient.shape != y.shape:
            return other(gradient, y, axis)
        gradient, y = contiguous(gradient), contiguous(y)
        dx = array_module(y).empty_like(y)
        _over_rows(name, gradient, y, dx)
        return dx

    return backward


# ---- losses over classes ---------------------------------------------------------------------------------------------


def target(labels: Array, class_weight: Array | None, ignore_index: int, classes: int) -> tuple[Any, ...]:
    """What the kernels of losses take of it."""
    return (
        plain(labels, INT64),
        None if class_weight is None else plain(class_weight, FLOAT32),
        int(ignore_index),
        int(classes),
    )


def weight_sum(class_weight: Array | None) -> Array | None:
    """The sum of the classes' weights, for smoothing; without them the kernels know it."""
    return None if class_weight is None else array_module(class_weight).sum(class_weight, dtype=FLOAT32)


def cross_entropy_forward(
    logits: Array, labels: Array, class_weight: Array | None, ignore_index: int, smoothing: float
) -> tuple[Array, Array, Array, Array]:
    """As ``reference.cross_entropy_forward``."""
    if not filled(logits):
        return reference.cross_entropy_forward(logits, labels, class_weight, ignore_index, smoothing)
    xp, (rows, classes) = array_module(logits), logits.shape
    found = xp.empty((4, rows), FLOAT32)
    losses, weights, tops, log_sums = found
    launch(
        "rows", f"cross_entropy_forward_{suffix(logits.dtype)}", *geometry(rows, classes, logits.itemsize),
        contiguous(logits), *target(labels, class_weight, ignore_index, classes), float(smoothing),
        losses, weights, tops, log_sums, rows,
    )  # fmt: skip
    return losses, weights, tops.reshape(rows, 1), log_sums.reshape(rows, 1)


def _steps(row_gradient: Array) -> tuple[Array, np.int32]:
    """The rows' gradients and the step from one to the next: 0 where there is one for all."""
    return plain(row_gradient, FLOAT32), np.int32(row_gradient.ndim)


def cross_entropy_backward(
    row_gradient: Array,
    logits: Array,
    top: Array,
    log_sum: Array,
    labels: Array,
    class_weight: Array | None,
    ignore_index: int,
    smoothing: float,
) -> Array:
    """As ``reference.cross_entropy_backward``, in the logits' own dtype."""
    if not filled(logits):
        return reference.cross_entropy_backward(
            row_gradient, logits, top, log_sum, labels, class_weight, ignore_index, smoothing
        )
    rows, classes = logits.shape
    logits = contiguous(logits)
    dx = array_module(logits).empty_like(logits)
    launch(
        "rows", f"cross_entropy_backward_{suffix(logits.dtype)}", *geometry(rows, classes, logits.itemsize),
        *_steps(row_gradient), logits, contiguous(top), contiguous(log_sum),
        *target(labels, class_weight, ignore_index, classes), float(smoothing), weight_sum(class_weight), dx, rows,
    )  # fmt: skip
    return dx


def nll_forward(log_p: Array, labels: Array, class_weight: Array | None, ignore_index: int) -> tuple[Array, Array]:
    """As ``reference.nll_forward``."""
    if not filled(log_p):
        return reference.nll_forward(log_p, labels, class_weight, ignore_index)
    rows, classes = log_p.shape
    losses, weights = array_module(log_p).empty((2, rows), FLOAT32)
    launch(
        "rows", f"nll_forward_{suffix(log_p.dtype)}", blocks_for(rows), THREADS, contiguous(log_p),
        *target(labels, class_weight, ignore_index, classes), losses, weights, rows,
    )  # fmt: skip
    return losses, weights


def nll_backward(
    row_gradient: Array, shape: tuple[int, int], labels: Array, class_weight: Array | None, ignore_index: int
) -> Array:
    """As ``reference.nll_backward``."""
    if row_gradient.dtype != FLOAT32 or not shape[0] or not shape[1]:
        return reference.nll_backward(row_gradient, shape, labels, class_weight, ignore_index)
    dx = array_module(row_gradient).zeros(shape, FLOAT32)
    launch(
        "rows", "nll_backward_f32", blocks_for(shape[0]), THREADS, *_steps(row_gradient),
        *target(labels, class_weight, ignore_index, shape[1]), dx, shape[0],
    )  # fmt: skip
    return dx


KERNELS: dict[str, Callable[..., Any]] = {
    **{name: _forward(name) for name in ("softmax_forward", "log_softmax_forward")},
    **{name: _backward(name) for name in ("softmax_backward", "log_softmax_backward")},
    "cross_entropy_forward": cross_entropy_forward,
    "cross_entropy_backward": cross_entropy_backward,
    "nll_forward": nll_forward,
    "nll_backward": nll_backward,
}
