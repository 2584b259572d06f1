"""Random bits, dropout's masks and dropout as compiled loops: the very bits of the references."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ...op import Array
from .. import reference, reference_random
from .compiled import inline, loop, prange
from .dense import FLOAT32, PLAIN, alike, dense
from .mathematics import ONE, ZERO, f4

_M0, _M1 = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_W0, _W1 = np.uint64(0x9E3779B9), np.uint64(0xBB67AE85)
_LOW, _SHIFT = np.uint64(0xFFFFFFFF), np.uint64(32)
_BLOCK = 512
"""Counters a round: their 8 KiB of words stay in the first-level cache until they are put in order."""
_COUNTERS = 2**32
_WORDS = 4


@inline
def _draw(begin, k0, k1, w0, w1, w2, lanes):  # type: ignore[no-untyped-def]
    """Philox4x32-10 of the counters from ``begin`` on; word j of counter i goes to ``lanes[j * _BLOCK + i]``.

    All numbers are 32 bits in 64, so that products are whole; four separate streams of stores are what LLVM vectorises.
    """
    for i in range(_BLOCK):
        c0, c1, c2, c3 = np.uint64(begin + i) & _LOW, w0, w1, w2
        p, q = k0, k1
        for _ in range(10):
            product0, product1 = c0 * _M0, c2 * _M1
            c0, c1 = (product1 >> _SHIFT) ^ c1 ^ p, product1 & _LOW
            c2, c3 = (product0 >> _SHIFT) ^ c3 ^ q, product0 & _LOW
            p, q = (p + _W0) & _LOW, (q + _W1) & _LOW
        lanes[i] = np.uint32(c0)
        lanes[_BLOCK + i] = np.uint32(c1)
        lanes[2 * _BLOCK + i] = np.uint32(c2)
        lanes[3 * _BLOCK + i] = np.uint32(c3)


@loop("i8, i8, i8, i8, i8, i8, u4[:] out")
def draw_bits(begin, k0, k1, w0, w1, w2, out):  # type: ignore[no-untyped-def]
    blocks = (out.size + _WORDS * _BLOCK - 1) // (_WORDS * _BLOCK)
    for block in prange(blocks):
        lanes = np.empty(_WORDS * _BLOCK, np.uint32)
        key0, key1 = np.uint64(k0) & _LOW, np.uint64(k1) & _LOW
        word0, word1, word2 = np.uint64(w0) & _LOW, np.uint64(w1) & _LOW, np.uint64(w2) & _LOW
        _draw(begin + block * _BLOCK, key0, key1, word0, word1, word2, lanes)
        first = block * _WORDS * _BLOCK
        whole = min(_BLOCK, (out.size - first) // _WORDS)
        for i in range(whole):
            out[first + _WORDS * i] = lanes[i]
            out[first + _WORDS * i + 1] = lanes[_BLOCK + i]
            out[first + _WORDS * i + 2] = lanes[2 * _BLOCK + i]
            out[first + _WORDS * i + 3] = lanes[3 * _BLOCK + i]
        if whole < _BLOCK:
            for j in range(out.size - first - _WORDS * whole):
                out[first + _WORDS * whole + j] = lanes[j * _BLOCK + whole]


@loop("i8, i8, i8, i8, i8, i8, i8, b1[:] out")
def draw_mask(begin, k0, k1, w0, w1, w2, threshold, out):  # type: ignore[no-untyped-def]
    blocks = (out.size + _WORDS * _BLOCK - 1) // (_WORDS * _BLOCK)
    for block in prange(blocks):
        lanes = np.empty(_WORDS * _BLOCK, np.uint32)
        key0, key1 = np.uint64(k0) & _LOW, np.uint64(k1) & _LOW
        word0, word1, word2 = np.uint64(w0) & _LOW, np.uint64(w1) & _LOW, np.uint64(w2) & _LOW
        _draw(begin + block * _BLOCK, key0, key1, word0, word1, word2, lanes)
        least = np.uint32(threshold)
        first = block * _WORDS * _BLOCK
        whole = min(_BLOCK, (out.size - first) // _WORDS)
        for i in range(whole):
            out[first + _WORDS * i] = lanes[i] >= least
            out[first + _WORDS * i + 1] = lanes[_BLOCK + i] >= least
            out[first + _WORDS * i + 2] = lanes[2 * _BLOCK + i] >= least
            out[first + _WORDS * i + 3] = lanes[3 * _BLOCK + i] >= least
        if whole < _BLOCK:
            for j in range(out.size - first - _WORDS * whole):
                out[first + _WORDS * whole + j] = lanes[j * _BLOCK + whole] >= least


@loop("f4[:], b1[:], f4[:] out, f8", exact=True)
def apply_mask(x, keep, y, scale):  # type: ignore[no-untyped-def]
    factor = f4(scale)
    for i in prange(x.size):
        y[i] = x[i] * (ONE if keep[i] else ZERO) * factor


def philox_bits(count: int, key: tuple[int, int], words: tuple[int, int, int], first: int = 0) -> Array:
    """``philox_bits`` of the table."""
    begin = first // _WORDS
    if begin + count // _WORDS >= _COUNTERS:
        return reference_random.philox_bits(count, key, words, first)
    out = np.empty(count, np.uint32)
    draw_bits(count, begin, *key, *(word & 0xFFFFFFFF for word in words), out)
    return out


def philox_mask(count: int, key: tuple[int, int], words: tuple[int, int, int], threshold: int) -> Array:
    """``philox_mask`` of the table."""
    if count // _WORDS >= _COUNTERS:
        return reference_random.philox_mask(count, key, words, threshold)
    out = np.empty(count, np.bool_)
    draw_mask(count, 0, *key, *(word & 0xFFFFFFFF for word in words), threshold, out)
    return out


def dropout_apply(x: Array, keep: Array, scale: float) -> Array:
    """``dropout_apply`` of the table; masks of whole channels go to the reference."""
    if x.dtype is not FLOAT32 or keep.dtype != np.bool_ or x.shape != keep.shape:
        return reference.dropout_apply(x, keep, scale)
    if x.flags.num & keep.flags.num & PLAIN != PLAIN:
        x = dense(x)
        keep = _placed(keep, x)
    y = np.empty_like(x)
    apply_mask(x.size, x.ravel("K"), keep.ravel("K"), y.ravel("K"), float(scale))
    return y


def _placed(keep: Array, x: Array) -> Array:
    """The mask in the order of the dimensions in which ``x`` lies."""
    if x.flags.c_contiguous:
        return np.ascontiguousarray(keep)
    return alike(keep, np.empty_like(x, np.bool_))


KERNELS: dict[str, Callable[..., Any]] = {
    "philox_bits": philox_bits,
    "philox_mask": philox_mask,
    "dropout_apply": dropout_apply,
}
