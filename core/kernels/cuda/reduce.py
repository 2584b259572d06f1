"""Sums over rows, channels and rows' losses on the device, in two stages whose order is a function of the shape alone."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from ...backend import Array, array_module
from .. import reference, reference_conv
from .dense import FLOAT32, contiguous, filled
from .launch import launch, suffix

LANES, LINES = 32, 8
BLOCKS = 512
"""Blocks that a first stage aims at."""
PART_ROWS = 64
"""Rows that a part has at least."""
SUM_PART = 1 << 14
SUM_PARTS = 1024
"""Numbers that one part of a long sum has at least, and the most parts."""


def column_sums(rows: Array, out: Array | None, shape: tuple[int, ...]) -> Array:
    """Sums over the rows of (N, C), whose columns lie side by side, in ``out`` or a new array of the rows' dtype and ``shape``."""
    xp, (count, columns) = array_module(rows), rows.shape
    pack = 16 // rows.itemsize
    packed = columns % pack == 0 and rows.data.ptr % 16 == 0
    tiles = -(-columns // (LANES * (pack if packed else 1)))
    parts = max(1, min(BLOCKS // tiles, -(-count // PART_ROWS)))
    sums = xp.empty((parts, columns), FLOAT32)
    name = "column_part_packed" if packed else "column_part"
    end = suffix(rows.dtype)
    launch("reduce", f"{name}_{end}", (tiles, parts), (LANES, LINES), rows, columns, sums, count, columns)
    return _folded(sums, rows, out, shape)


def _folded(parts: Array, like: Array, out: Array | None, shape: tuple[int, ...]) -> Array:
    """The sums of (P, C) parts, in ``out`` or in a new array of the dtype of ``like`` and of ``shape``."""
    count, columns = parts.shape
    total = out if out is not None and out.dtype.name in ("float32", like.dtype.name) else None
    if total is None:
        total = array_module(like).empty(shape, like.dtype)
    launch(
        "reduce",
        f"column_fold_{suffix(total.dtype)}",
        -(-columns // LANES),
        (LANES, LINES),
        parts,
        count,
        columns,
        total,
    )
    return total


def bias_gradient(gradient: Array, out: Array | None = None) -> Array:
    """As ``reference.bias_gradient``."""
    if not filled(gradient) or not gradient.ndim:
        return reference.bias_gradient(gradient, out)
    columns = gradient.shape[-1]
    return column_sums(contiguous(gradient).reshape(-1, columns), out, (columns,))


def channel_sum(gradient: Array, out: Array | None = None) -> Array:
    """As ``reference_conv.channel_sum``; images may lie with channels last."""
    if not filled(gradient) or gradient.ndim < 2:
        return reference_conv.channel_sum(gradient, out)
    xp = array_module(gradient)
    channels = gradient.shape[1]
    last = xp.moveaxis(gradient, 1, -1)
    if last.flags.c_contiguous:
        return column_sums(last.reshape(-1, channels), out, (channels,))
    gradient = contiguous(gradient)
    samples, places = gradient.shape[0], math.prod(gradient.shape[2:])
    parts = max(1, min(samples, BLOCKS // channels))
    sums = xp.empty((parts, channels), FLOAT32)
    launch(
        "reduce",
        f"channel_part_{suffix(gradient.dtype)}",
        (channels, parts),
        256,
        gradient,
        sums,
        samples,
        channels,
        places,
    )
    return _folded(sums, gradient, out, (channels,))


def row_sums(losses: Array, weights: Array) -> tuple[Array, Array]:
    """As ``reference.row_sums``."""
    if losses.dtype != FLOAT32 or weights.dtype != FLOAT32 or losses.size != weights.size or not losses.size:
        return reference.row_sums(losses, weights)
    xp = array_module(losses)
    parts = min(SUM_PARTS, -(-losses.size // SUM_PART))
    sums, found = xp.empty((2, parts), FLOAT32), xp.empty(2, FLOAT32)
    launch("reduce", "sum_part", (parts, 2), 512, contiguous(losses), contiguous(weights), sums, losses.size)
    launch("reduce", "sum_fold", 2, 512, sums, parts, found)
    return found[0], found[1]


KERNELS: dict[str, Callable[..., Any]] = {
    "bias_gradient": bias_gradient,
    "channel_sum": channel_sum,
    "row_sums": row_sums,
}
