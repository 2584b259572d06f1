"""Compiled loops of batch norm where channels lie last: statistics, normalisation and gradients, each alone or through relu.

An array (N, S, C) is one line of N * S * C elements, cut into blocks as its shape alone says. Within a block sums are in float32: first of
positions that lie one row apart, then over the row. A row holds the channels several times over, or the inner loops would be short.
What is one for each channel comes as such a row. All is exact arithmetic in the order that is written here, so that what is fused gives
the bits of its parts.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from .compiled import inline, loop, prange
from .mathematics import ONE, ZERO

ROW = 512
"""Elements that an inner loop should have."""
BLOCK = 16_384
"""Elements of a block, about: what is read twice is then in the second-level cache."""


@lru_cache(1024)
def cut(positions: int, channels: int) -> tuple[int, int, int]:
    """How often a row holds the channels, elements of a block, and how many blocks there are."""
    repeated = max(1, min(ROW // channels, positions))
    size = max(1, BLOCK // (repeated * channels)) * repeated * channels
    return repeated, size, -(-positions * channels // size)


@inline
def affine(x, mean, scale, shift):  # type: ignore[no-untyped-def]
    return (x - mean) * scale + shift


@inline
def clear(row):  # type: ignore[no-untyped-def]
    for j in range(row.size):
        row[j] = ZERO


@inline
def fold(row, each):  # type: ignore[no-untyped-def]
    """Sums over the repetitions in a row."""
    for c in range(each.size):
        total = ZERO
        for j in range(c, row.size, each.size):
            total += row[j]
        each[c] = total


@loop("f4[:], i8, f4[:,:] out, f4[:,:] out, f4[:,:] out, f4[:,:] out", exact=True)
def statistics(x, size, sums, squares, mean, deviations):  # type: ignore[no-untyped-def]
    """Of each block the means and the sums of squared deviations from them. ``sums``, ``squares``: a row for each block, to work in."""
    row, channels = sums.shape[1], mean.shape[1]
    for block in prange(mean.shape[0]):
        total, square, middle = sums[block], squares[block], mean[block]
        part = x[block * size : min((block + 1) * size, x.size)]
        clear(total)
        clear(square)
        for start in range(0, part.size, row):
            piece = part[start : min(start + row, part.size)]
            for j in range(piece.size):
                total[j] += piece[j]
        fold(total, middle)
        count = np.float32(part.size // channels)
        for c in range(channels):
            middle[c] /= count
        for start in range(0, row, channels):
            for c in range(channels):
                total[start + c] = middle[c]
        for start in range(0, part.size, row):
            piece = part[start : min(start + row, part.size)]
            for j in range(piece.size):
                distance = piece[j] - total[j]
                square[j] += distance * distance
        fold(square, deviations[block])


# ---- forward ---------------------------------------------------------------------------------------------------------


@loop("f4[:], f4[:], f4[:], f4[:], i8, f4[:] out", exact=True)
def normalise(x, mean, scale, shift, size, y):  # type: ignore[no-untyped-def]
    """``(x - mean) * scale + shift``."""
    row = mean.size
    for block in prange((x.size + size - 1) // size):
        end = min((block + 1) * size, x.size)
        for start in range(block * size, end, row):
            source, target = x[start : min(start + row, end)], y[start : min(start + row, end)]
            for j in range(source.size):
                target[j] = affine(source[j], mean[j], scale[j], shift[j])


@loop("f4[:], f4[:], f4[:], f4[:], i8, f4[:] out", exact=True)
def normalise_relu(x, mean, scale, shift, size, y):  # type: ignore[no-untyped-def]
    """The positive part of that; NaN stays."""
    row = mean.size
    for block in prange((x.size + size - 1) // size):
        end = min((block + 1) * size, x.size)
        for start in range(block * size, end, row):
            source, target = x[start : min(start + row, end)], y[start : min(start + row, end)]
            for j in range(source.size):
                v = affine(source[j], mean[j], scale[j], shift[j])
                target[j] = ZERO if v <= ZERO else v


# ---- backward --------------------------------------------------------------------------------------------------------


@inline
def add_up(g, x, mean, total, product):  # type: ignore[no-untyped-def]
    """To a row the sums of g, and of g times the distance from the mean."""
    for j in range(g.size):
        total[j] += g[j]
        product[j] += g[j] * (x[j] - mean[j])


@loop("f4[:], f4[:], f4[:], i8, f4[:,:] out, f4[:,:] out, f4[:,:] out, f4[:,:] out", exact=True)
def sums(g, x, mean, size, totals, products, bias, weight):  # type: ignore[no-untyped-def]
    """Of each block the sums of g and of ``g * (x - mean)``. ``totals``, ``products``: a row for each block, to work in."""
    row = mean.size
    for block in prange(bias.shape[0]):
        total, product = totals[block], products[block]
        clear(total)
        clear(product)
        end = min((block + 1) * size, x.size)
        for start in range(block * size, end, row):
            stop = min(start + row, end)
            add_up(g[start:stop], x[start:stop], mean, total, product)
        fold(total, bias[block])
        fold(product, weight[block])


@loop("f4[:], f4[:], f4[:], f4[:], f4[:], i8, f4[:,:] out, f4[:,:] out, f4[:,:] out, f4[:,:] out", exact=True)
def sums_relu(g, x, mean, scale, shift, size, totals, products, bias, weight):  # type: ignore[no-untyped-def]
    """The same of the gradient that relu lets through, whose output is computed again for that."""
    row = mean.size
    for block in prange(bias.shape[0]):
        total, product = totals[block], products[block]
        clear(total)
        clear(product)
        end = min((block + 1) * size, x.size)
        for start in range(block * size, end, row):
            given, source = g[start : min(start + row, end)], x[start : min(start + row, end)]
            for j in range(source.size):
                passed = given[j] * (ONE if affine(source[j], mean[j], scale[j], shift[j]) > ZERO else ZERO)
                total[j] += passed
                product[j] += passed * (source[j] - mean[j])
        fold(total, bias[block])
        fold(product, weight[block])


@loop("f4[:], f4[:], f4[:], f4[:], f4[:], f4[:], i8, f4[:] out", exact=True)
def input_gradient(g, x, mean, scale, slope, constant, size, dx):  # type: ignore[no-untyped-def]
    """``g * scale + (x - mean) * slope + constant``, the last two together."""
    row = mean.size
    for block in prange((x.size + size - 1) // size):
        end = min((block + 1) * size, x.size)
        for start in range(block * size, end, row):
            stop = min(start + row, end)
            given, source, target = g[start:stop], x[start:stop], dx[start:stop]
            for j in range(source.size):
                target[j] = given[j] * scale[j] + affine(source[j], mean[j], slope[j], constant[j])


@loop("f4[:], f4[:], f4[:], f4[:], f4[:], f4[:], f4[:], i8, f4[:] out", exact=True)
def input_gradient_relu(g, x, mean, scale, shift, slope, constant, size, dx):  # type: ignore[no-untyped-def]
    """The same with the gradient that relu lets through."""
    row = mean.size
    for block in prange((x.size + size - 1) // size):
        end = min((block + 1) * size, x.size)
        for start in range(block * size, end, row):
            stop = min(start + row, end)
            given, source, target = g[start:stop], x[start:stop], dx[start:stop]
            for j in range(source.size):
                passed = given[j] * (ONE if affine(source[j], mean[j], scale[j], shift[j]) > ZERO else ZERO)
                target[j] = passed * scale[j] + affine(source[j], mean[j], slope[j], constant[j])
