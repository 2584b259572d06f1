"""Sums of rows by compiled loops: over all of them (the gradient of a bias), and by index (the gradient of an embedding); float32.

The order of the sums follows from the shape and the indices alone: threads share columns, not rows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ...op import Array
from .. import reference
from . import threads
from .compiled import inline, loop, prange
from .loops_rows import FLOAT32, INT64, as_matrix, f4, lies_well

COLUMNS = 64
"""Columns that one thread sums at a time: 256 bytes."""


# ---- sums over all rows ----------------------------------------------------------------------------------------------


@inline
def add_up_columns(x, sums, first, last):  # type: ignore[no-untyped-def]
    """Sums over the rows of columns first to last, into ``sums``."""
    rows, m = x.shape[0], 0
    sums[:] = f4(0)
    while m + 8 <= rows:
        a, b, c, d = x[m, first:last], x[m + 1, first:last], x[m + 2, first:last], x[m + 3, first:last]
        e, f, g, h = x[m + 4, first:last], x[m + 5, first:last], x[m + 6, first:last], x[m + 7, first:last]
        for i in range(sums.size):
            sums[i] += ((a[i] + b[i]) + (c[i] + d[i])) + ((e[i] + f[i]) + (g[i] + h[i]))
        m += 8
    while m < rows:
        a = x[m, first:last]
        for i in range(sums.size):
            sums[i] += a[i]
        m += 1


@loop("f4[:,:], f4[:] out, i8", exact=True)
def _column_sums(x, total, width):  # type: ignore[no-untyped-def]
    columns = x.shape[1]
    for block in prange((columns + width - 1) // width):
        first, last = block * width, min((block + 1) * width, columns)
        add_up_columns(x, total[first:last], first, last)


def column_sums(x: Array, total: Array) -> Array:
    """Sums over the rows of a matrix, into ``total``."""
    width = x.shape[1] if threads.threads() == 1 else COLUMNS
    _column_sums(x.size, x, total, width)
    return total


def bias_gradient(gradient: Array, out: Array | None = None) -> Array:
    """As ``reference.bias_gradient``."""
    if not lies_well(gradient) or not (out is None or lies_well(out)) or not gradient.ndim:
        return reference.bias_gradient(gradient, out)
    return column_sums(as_matrix(gradient), np.empty(gradient.shape[-1], FLOAT32) if out is None else out)


# ---- rows by index ---------------------------------------------------------------------------------------------------


@loop("i8[:], f4[:,:], f4[:,:] out", exact=True)
def _take(indices, table, rows):  # type: ignore[no-untyped-def]
    for n in prange(indices.size):
        a, b = table[indices[n]], rows[n]
        for i in range(a.size):
            b[i] = a[i]


def embedding_forward(indices: Array, weight: Array) -> Array:
    """As ``reference.embedding_forward``, which is as fast for one thread."""
    if threads.threads() == 1 or not lies_well(weight) or not lies_well(indices, INT64):
        return reference.embedding_forward(indices, weight)
    width = weight.shape[1]
    rows = np.empty((*indices.shape, width), FLOAT32)
    _take(rows.size, indices.reshape(-1), weight, rows.reshape(-1, width))
    return rows


@loop("i8[:], i8[:] out, i8[:] out", exact=True)
def _by_index(indices, ends, order):  # type: ignore[no-untyped-def]
    """Places of ``indices`` by value, in order of appearance; those of value v begin at ends[v - 1] and end before ends[v]."""
    ends[:] = 0
    for n in range(indices.size):
        ends[indices[n]] += 1
    begin = 0
    for v in range(ends.size):
        count = ends[v]
        ends[v] = begin
        begin += count
    for n in range(indices.size):
        v = indices[n]
        order[ends[v]] = n
        ends[v] += 1


@loop("f4[:,:], i8[:], i8[:], i8, f4[:,:] out, i8", exact=True)
def _sum_by_index(gradient, ends, order, padding, table, width):  # type: ignore[no-untyped-def]
    rows, columns = table.shape
    for block in prange((columns + width - 1) // width):
        first, last = block * width, min((block + 1) * width, columns)
        begin = 0
        for v in range(rows):
            end, total = ends[v], table[v, first:last]
            if begin == end or v == padding:
                total[:] = f4(0)
            else:
                a = gradient[order[begin], first:last]
                for i in range(total.size):
                    total[i] = a[i]
                for n in range(begin + 1, end):
                    b = gradient[order[n], first:last]
                    for i in range(total.size):
                        total[i] += b[i]
            begin = end


def embedding_backward(
    gradient: Array, indices: Array, vocabulary: int, padding_idx: int | None = None, out: Array | None = None
) -> Array:
    """As ``reference.embedding_backward``; rows of one index are added in order of appearance."""
    if not lies_well(gradient) or not lies_well(indices, INT64) or not (out is None or lies_well(out)):
        return reference.embedding_backward(gradient, indices, vocabulary, padding_idx, out)
    table = np.empty((vocabulary, gradient.shape[-1]), FLOAT32) if out is None else out
    ends, order = np.empty(vocabulary, INT64), np.empty(indices.size, INT64)
    _by_index(1, indices.reshape(-1), ends, order)
    padding = -1 if padding_idx is None else padding_idx % vocabulary
    width = table.shape[1] if threads.threads() == 1 else COLUMNS
    _sum_by_index(table.size, as_matrix(gradient), ends, order, padding, table, width)
    return table


KERNELS: dict[str, Callable[..., Any]] = {
    "bias_gradient": bias_gradient,
    "embedding_forward": embedding_forward,
    "embedding_backward": embedding_backward,
}
