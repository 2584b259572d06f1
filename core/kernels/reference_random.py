"""Philox4x32-10 in plain array code: the counter-based generator behind every random number.

A counter block of four 32-bit words and a key of two give four random words, whatever was drawn before, so that a
GPU kernel, another launch geometry or another number of ranks draws the same. Reference: Salmon, Moraes, Dror, Shaw,
"Parallel random numbers: as easy as 1, 2, 3", SC 2011.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..backend import array_module, to_host
from ..op import Array
from .reference import dropout_apply

_M0, _M1 = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_W0, _W1 = 0x9E3779B9, 0xBB67AE85
_LOW, _SHIFT = np.uint64(0xFFFFFFFF), np.uint64(32)
_BLOCK = 8192
"""Counters a pass: eight work arrays of 64 KiB stay in the second-level cache."""


def philox_bits(count: int, key: tuple[int, int], words: tuple[int, int, int], first: int = 0) -> np.ndarray:
    """``count`` random uint32 from word ``first`` (a multiple of 4) on: word i is lane i % 4 of the counter (i // 4, *words).

    >>> [hex(x) for x in philox_bits(4, (0, 0), (0, 0, 0))]
    ['0x6627e8d5', '0xe169c58d', '0xbc57ac4c', '0x9b00dbd8']
    """
    begin, blocks = first // 4, -(-count // 4)
    out = np.empty((blocks, 4), np.uint32)
    for start in range(0, blocks, _BLOCK):
        stop = min(start + _BLOCK, blocks)
        _rounds(np.arange(begin + start, begin + stop, dtype=np.uint64), key, words, out[start:stop])
    return out.reshape(-1)[:count]


def _rounds(c0: np.ndarray, key: tuple[int, int], words: tuple[int, int, int], out: np.ndarray) -> None:
    c1, c2, c3 = (np.full_like(c0, word & 0xFFFFFFFF) for word in words)
    product0, product1 = np.empty_like(c0), np.empty_like(c0)
    k0, k1 = key
    for _ in range(10):
        np.multiply(c0, _M0, out=product0)
        np.multiply(c2, _M1, out=product1)
        np.right_shift(product1, _SHIFT, out=c0)
        c0 ^= c1
        c0 ^= np.uint64(k0)
        np.bitwise_and(product1, _LOW, out=c1)
        np.right_shift(product0, _SHIFT, out=c2)
        c2 ^= c3
        c2 ^= np.uint64(k1)
        np.bitwise_and(product0, _LOW, out=c3)
        k0, k1 = (k0 + _W0) & 0xFFFFFFFF, (k1 + _W1) & 0xFFFFFFFF
    for lane, word in enumerate((c0, c1, c2, c3)):
        out[:, lane] = word


def philox_mask(count: int, key: tuple[int, int], words: tuple[int, int, int], threshold: int) -> np.ndarray:
    """Which of the first ``count`` random uint32 are at least ``threshold``: a boolean for each.

    >>> philox_mask(4, (0, 0), (0, 0, 0), 0xB0000000).tolist()
    [False, True, True, False]
    """
    return philox_bits(count, key, words) >= np.uint32(threshold)


def keep_draw(draw: np.ndarray) -> np.ndarray:
    """The six words of a draw (two of key, three of counter, the threshold; uint32) where they are to stay: on the device."""
    return draw


def dropout_draw(x: Array, draw: Array, scale: float) -> Array:
    """``x * keep * scale`` with the mask that ``draw`` names, as :func:`philox_mask` has it; forward and backward alike.

    >>> dropout_draw(np.ones(4, np.float32), np.array([0, 0, 0, 0, 0, 0xB0000000], np.uint32), 2.0).tolist()
    [0.0, 2.0, 2.0, 0.0]
    """
    k0, k1, *words, threshold = (int(word) for word in to_host(draw))
    keep = philox_mask(x.size, (k0, k1), (words[0], words[1], words[2]), threshold).reshape(x.shape)
    return dropout_apply(x, array_module(x).asarray(keep), scale)


KERNELS: dict[str, Callable[..., Any]] = {
    "philox_bits": philox_bits,
    "philox_mask": philox_mask,
    "keep_draw": keep_draw,
    "dropout_draw": dropout_draw,
}
