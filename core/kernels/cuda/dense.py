"""How arrays lie, and grids over them: what the kernels of this package share.

A kernel of single elements runs over an array as it lies in memory, in whatever order of its dimensions, and what it gives lies the
same way; so images with channels last keep their layout. A kernel of rows wants C order.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ...backend import Array, array_module
from .launch import launch, strided, suffix

NAMES = ("float32", "bfloat16", "float16")
"""Types of elements that our kernels serve."""

THREADS = 256
MOST_BLOCKS = 1 << 20

FLOAT32, INT64 = np.dtype(np.float32), np.dtype(np.int64)


def served(first: Array, *others: Array | None) -> bool:
    """Whether all arrays are of one of our types."""
    dtype = first.dtype
    return dtype.name in NAMES and all(other is None or other.dtype == dtype for other in others)


def filled(first: Array, *others: Array | None) -> bool:
    """Whether all arrays are of one of our types, and the first has elements."""
    return first.size > 0 and served(first, *others)


def blocks_for(threads: int) -> int:
    """Blocks of 256 for so many threads; in a longer grid each thread goes on."""
    return min(-(-threads // THREADS), MOST_BLOCKS)


def contiguous(x: Array) -> Array:
    """``x`` or a copy of it in C order."""
    return x if x.flags.c_contiguous else array_module(x).ascontiguousarray(x)


def plain(x: Array, dtype: np.dtype) -> Array:
    """``x`` in C order and as ``dtype``: itself where it is so."""
    return contiguous(x if x.dtype == dtype else x.astype(dtype))


def _is_dense(x: Array) -> bool:
    expected = x.itemsize
    for stride, size in sorted((stride, size) for stride, size in zip(x.strides, x.shape, strict=True) if size != 1):
        if stride != expected:
            return False
        expected *= size
    return True


def dense(x: Array) -> Array:
    """``x`` if its elements lie without gaps, in any order of the dimensions, else a copy in C order."""
    return x if x.flags.c_contiguous or _is_dense(x) else array_module(x).ascontiguousarray(x)


def alike(x: Array, y: Array) -> Array:
    """``x`` in the order of dimensions in which the dense ``y`` lies: itself or a copy."""
    if x.strides == y.strides or (x.flags.c_contiguous and y.flags.c_contiguous):
        return x
    placed = array_module(y).empty_like(y, dtype=x.dtype)
    placed[...] = x
    return placed


def over_elements(source: str, name: str, *arrays: Array, numbers: tuple[Any, ...] = ()) -> None:
    """Launch ``name`` over dense ``arrays`` that lie alike, each thread taking 16 bytes: arrays, their size, ``numbers``."""
    first = arrays[0]
    threads = -(-first.nbytes // 16)
    launch(
        source,
        f"{name}_{suffix(first.dtype)}",
        blocks_for(threads),
        THREADS,
        *map(strided, arrays),
        first.size,
        *numbers,
    )
