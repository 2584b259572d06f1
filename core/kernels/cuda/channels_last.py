"""Images whose channels lie next to each other: logical (N, C, S) as everywhere, in memory (N, S, C).

What comes out of convolution, pooling and batch norm lies so, and goes into the next as it is; an image with its channels first is
transposed where it enters.
"""

from __future__ import annotations

import math
from typing import Any

from ...backend import array_module
from .launch import launch

Array = Any
TILE = 32
MOST_BLOCKS = 1 << 20


def to_last(x: Array) -> Array:
    """The view (N, S, C) of (N, C, S)."""
    return x.transpose((0, *range(2, x.ndim), 1))


def to_first(x: Array) -> Array:
    """The view (N, C, S) of (N, S, C)."""
    return x.transpose((0, x.ndim - 1, *range(1, x.ndim - 1)))


def is_last(x: Array) -> bool:
    """Whether ``x`` (N, C, S) lies as (N, S, C) already."""
    return bool(to_last(x).flags.c_contiguous)


def empty(shape: tuple[int, ...], like: Array, dtype: Any = None) -> Array:
    """A new array of logical ``shape`` (N, C, S) in memory (N, S, C), as the (N, S, C) that it is."""
    return array_module(like).empty(shape[:1] + shape[2:] + shape[1:2], dtype or like.dtype)


def transposed(x: Array, batch: int, rows: int, columns: int) -> Array:
    """C-contiguous ``x``, taken as (batch, rows, columns), with the last two exchanged; 1-D."""
    target = array_module(x).empty(x.size, x.dtype)
    tiles = batch * -(-rows // TILE) * -(-columns // TILE)
    launch("layout", f"transpose_{x.dtype.itemsize}", min(tiles, MOST_BLOCKS), 256, x, target, batch, rows, columns)
    return target


def arranged(x: Array) -> Array:
    """``x`` (N, C, S) as a C-contiguous (N, S, C): itself if it lies so already, else a copy."""
    last = to_last(x)
    if last.flags.c_contiguous:
        return last
    if x.flags.c_contiguous:
        return transposed(x, x.shape[0], x.shape[1], math.prod(x.shape[2:])).reshape(last.shape)
    return array_module(x).ascontiguousarray(last)


def first(x: Array) -> Array:
    """C-contiguous (N, S, C) as a C-contiguous (N, C, S)."""
    spread = math.prod(x.shape[1:-1])
    return transposed(x, x.shape[0], spread, x.shape[-1]).reshape(x.shape[:1] + x.shape[-1:] + x.shape[1:-1])
