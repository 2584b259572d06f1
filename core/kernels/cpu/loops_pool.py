"""Compiled loops: the maximum of 2x2 blocks, alone or of what relu lets through.

Images (N, H, W, C), channels last; outputs (N, H / 2, W / 2, C), where odd sizes leave a rest. Of each block there is kept which of its
four elements won, the first of equals or of NaN; through relu 4 more where it lets nothing through.
"""

from __future__ import annotations

import numpy as np

from .compiled import inline, loop, prange
from .loops_batch_norm import clear
from .loops_batch_norm_pool import passed
from .mathematics import ZERO


@inline
def compare(best, number, v, mine):  # type: ignore[no-untyped-def]
    """The better of two and its number. NaN is better than all numbers and not bettered."""
    better = (v > best) | ((v != v) & (best == best))
    return (v if better else best), (np.int32(mine) if better else number)


@loop("f4[:,:,:,:], f4[:,:,:,:] out, u1[:,:,:,:] out", exact=True)
def pool(x, y, index):  # type: ignore[no-untyped-def]
    rows, columns, channels = y.shape[1], y.shape[2], y.shape[3]
    for line in prange(y.shape[0] * rows):
        n, i = line // rows, line % rows
        for j in range(columns):
            a, b = x[n, 2 * i, 2 * j], x[n, 2 * i, 2 * j + 1]
            c, d = x[n, 2 * i + 1, 2 * j], x[n, 2 * i + 1, 2 * j + 1]
            out, place = y[n, i, j], index[n, i, j]
            for k in range(channels):
                best, number = compare(a[k], np.int32(0), b[k], 1)
                best, number = compare(best, number, c[k], 2)
                best, number = compare(best, number, d[k], 3)
                out[k] = best
                place[k] = number


@loop("f4[:,:,:,:], f4[:,:,:,:] out, u1[:,:,:,:] out", exact=True)
def relu_pool(x, y, index):  # type: ignore[no-untyped-def]
    rows, columns, channels = y.shape[1], y.shape[2], y.shape[3]
    for line in prange(y.shape[0] * rows):
        n, i = line // rows, line % rows
        for j in range(columns):
            a, b = x[n, 2 * i, 2 * j], x[n, 2 * i, 2 * j + 1]
            c, d = x[n, 2 * i + 1, 2 * j], x[n, 2 * i + 1, 2 * j + 1]
            out, place = y[n, i, j], index[n, i, j]
            for k in range(channels):
                best, number = compare(a[k], np.int32(0), b[k], 1)
                best, number = compare(best, number, c[k], 2)
                best, number = compare(best, number, d[k], 3)
                out[k] = ZERO if best <= ZERO else best
                place[k] = number if best > ZERO else number + np.int32(4)


@loop("f4[:,:,:,:], u1[:,:,:,:], f4[:,:,:,:] out", exact=True)
def pool_backward(g, index, dx):  # type: ignore[no-untyped-def]
    """Each gradient to its winner; for both."""
    rows, columns, channels = g.shape[1], g.shape[2], g.shape[3]
    height, width = dx.shape[1], dx.shape[2]
    for line in prange(dx.shape[0] * height):
        n, r = line // height, line % height
        met = 2 * columns if r < 2 * rows else 0
        for j in range(met):
            target, given, place = dx[n, r, j], g[n, r >> 1, j >> 1], index[n, r >> 1, j >> 1]
            mine = np.int32(2 * (r & 1) + (j & 1))
            for k in range(channels):
                target[k] = passed(given[k], place[k], mine)
        for j in range(met, width):
            clear(dx[n, r, j])
