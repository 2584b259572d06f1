"""Compiled loops of batch norm, relu and the maximum of 2x2 blocks in one: what lies between is never written to memory.

Images (N, H, W, C), channels last; outputs (N, H / 2, W / 2, C), where odd sizes leave a rest. Of each block there is kept which of its
four elements won (the first of equals), plus ``SHUT`` where relu let nothing through.
"""

from __future__ import annotations

import numpy as np

from .compiled import inline, loop, prange
from .loops_batch_norm import add_up, affine, clear, fold
from .mathematics import ONE, ZERO

SHUT = 4


@loop("f4[:,:,:,:], f4[:], f4[:], f4[:], f4[:,:,:,:] out, u1[:,:,:,:] out", exact=True)
def normalise_relu_pool(x, mean, scale, shift, y, index):  # type: ignore[no-untyped-def]
    """Forward; mean, scale and shift (C,)."""
    rows, columns, channels = y.shape[1], y.shape[2], y.shape[3]
    for line in prange(y.shape[0] * rows):
        n, i = line // rows, line % rows
        for j in range(columns):
            a, b = x[n, 2 * i, 2 * j], x[n, 2 * i, 2 * j + 1]
            c, d = x[n, 2 * i + 1, 2 * j], x[n, 2 * i + 1, 2 * j + 1]
            out, place = y[n, i, j], index[n, i, j]
            for k in range(channels):
                best, number = affine(a[k], mean[k], scale[k], shift[k]), np.int32(0)
                v = affine(b[k], mean[k], scale[k], shift[k])
                better = (v > best) | (v != v)
                best, number = (v if better else best), (np.int32(1) if better else number)
                v = affine(c[k], mean[k], scale[k], shift[k])
                better = (v > best) | (v != v)
                best, number = (v if better else best), (np.int32(2) if better else number)
                v = affine(d[k], mean[k], scale[k], shift[k])
                better = (v > best) | (v != v)
                best, number = (v if better else best), (np.int32(3) if better else number)
                out[k] = ZERO if best <= ZERO else best
                place[k] = number if best > ZERO else number + np.int32(SHUT)


@inline
def passed(g, place, mine):  # type: ignore[no-untyped-def]
    """What of a block's gradient comes to its element ``mine``."""
    number = np.int32(place)
    return g * (ONE if number < 4 else ZERO) if number & np.int32(3) == mine else ZERO


@loop(
    "f4[:,:,:,:], u1[:,:,:,:], f4[:,:,:,:], f4[:], i8, f4[:,:] out, f4[:,:] out, f4[:,:] out, f4[:,:] out", exact=True
)
def pooled_sums(g, index, x, mean, size, totals, products, bias, weight):  # type: ignore[no-untyped-def]
    """As ``loops_batch_norm.sums``, bit for bit: a block's gradients before the maximum are laid out for it."""
    rows, columns, channels, row = g.shape[1], g.shape[2], g.shape[3], mean.size
    height, width, flat = x.shape[1], x.shape[2], x.reshape(-1)
    for block in prange(bias.shape[0]):
        total, product, inner = totals[block], products[block], np.empty(size, np.float32)
        clear(total)
        clear(product)
        begin, end, filled = block * size, min((block + 1) * size, flat.size), 0
        position, behind = begin // channels, end // channels
        while position < behind:  # as far as one line of pixels goes
            line, first = position // width, position % width
            n, r = line // height, line % height
            last = min(width, first + behind - position)
            position += last - first
            met = max(first, min(last, 2 * columns)) if r < 2 * rows else first
            given, places = g[n, min(r >> 1, rows - 1)], index[n, min(r >> 1, rows - 1)]
            for j in range(first, met):
                grad, place, target = given[j >> 1], places[j >> 1], inner[filled : filled + channels]
                mine = np.int32(2 * (r & 1) + (j & 1))
                for k in range(channels):
                    target[k] = passed(grad[k], place[k], mine)
                filled += channels
            clear(inner[filled : filled + (last - met) * channels])
            filled += (last - met) * channels
        for start in range(begin, end, row):
            stop = min(start + row, end)
            add_up(inner[start - begin : stop - begin], flat[start:stop], mean, total, product)
        fold(total, bias[block])
        fold(product, weight[block])


@loop("f4[:,:,:,:], u1[:,:,:,:], f4[:,:,:,:], f4[:], f4[:], f4[:], f4[:], f4[:,:,:,:] out", exact=True)
def pooled_input_gradient(g, index, x, mean, scale, slope, constant, dx):  # type: ignore[no-untyped-def]
    """As ``loops_batch_norm.input_gradient``, bit for bit; mean and those behind it (C,)."""
    rows, columns, channels = g.shape[1], g.shape[2], g.shape[3]
    height, width = x.shape[1], x.shape[2]
    for line in prange(x.shape[0] * height):
        n, r = line // height, line % height
        met = 2 * columns if r < 2 * rows else 0
        for j in range(met):
            source, target = x[n, r, j], dx[n, r, j]
            given, place = g[n, r >> 1, j >> 1], index[n, r >> 1, j >> 1]
            mine = np.int32(2 * (r & 1) + (j & 1))
            for k in range(channels):
                rest = affine(source[k], mean[k], slope[k], constant[k])
                target[k] = passed(given[k], place[k], mine) * scale[k] + rest
        for j in range(met, width):
            source, target = x[n, r, j], dx[n, r, j]
            for k in range(channels):
                target[k] = affine(source[k], mean[k], slope[k], constant[k])
