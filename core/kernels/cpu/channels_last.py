"""Images whose channels lie next to each other: logical (N, C, S) as everywhere, in memory (N, S, C).

Convolution, pooling and batch norm are faster in this layout, and what comes out of one goes into the next as it is.
Elementwise NumPy code keeps the layout of its inputs.
"""

from __future__ import annotations

import importlib
import math
from functools import lru_cache
from typing import Any

import numpy as np

from ...op import Array
from .onednn import Pool, Primitive, dense, layout, reorder

FLOAT32 = np.dtype(np.float32)
BLOCK = 16
"""Channels and places that the compiled loop turns over at once."""


def strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Strides in elements of a logical ``shape`` (N, C, S) that lies as (N, S, C)."""
    inner = dense(shape[:1] + shape[2:] + shape[1:2])
    return inner[:1] + inner[-1:] + inner[1:-1]


def to_last(x: Array) -> Array:
    """The view (N, S, C) of (N, C, S)."""
    return np.moveaxis(x, 1, -1) if x.ndim != 4 else x.transpose(0, 2, 3, 1)


def to_first(x: Array) -> Array:
    """The view (N, C, S) of (N, S, C)."""
    return np.moveaxis(x, -1, 1) if x.ndim != 4 else x.transpose(0, 3, 1, 2)


def empty(shape: tuple[int, ...], dtype: Any = FLOAT32) -> Array:
    """A new array of logical ``shape`` (N, C, S) in memory (N, S, C); as the (N, S, C) that it is."""
    return np.empty(shape[:1] + shape[2:] + shape[1:2], dtype)


class _Copy:
    """A reorder from a dense (N, C, S) to channels last, or back."""

    __slots__ = ("primitive",)

    def __init__(self, shape: tuple[int, ...], back: bool) -> None:
        forms = layout(shape, dense(shape)), layout(shape, strides(shape))
        made = reorder(*(reversed(forms) if back else forms))
        assert isinstance(made, Primitive)
        self.primitive = made


_copies = Pool(_Copy)


@lru_cache(1)
def _turn() -> Any:
    """The compiled loop; None without numba."""
    try:
        return importlib.import_module(".loops_layout", __package__).turn
    except ImportError:
        return None


def _in_blocks(size: int) -> bool:
    """Whether few of ``size`` channels or places are left over by blocks: for those the loop is slower than oneDNN."""
    return size >= BLOCK and size % BLOCK * 8 <= size


def _copied(source: Array, target: Array, shape: tuple[int, ...], back: bool) -> bool:
    """Copies a C-contiguous ``source`` into ``target``, one of which has channels last; False if nothing was done."""
    rows, columns = shape[1], math.prod(shape[2:])
    if _in_blocks(rows) and _in_blocks(columns) and (turn := _turn()) is not None:
        if back:
            rows, columns = columns, rows
        turn(source.size, source.reshape(shape[0], rows, columns), target.reshape(shape[0], columns, rows))
        return True
    unit = _copies.take((shape, back))
    if unit is None:
        return False
    unit.primitive(source, target)
    _copies.give((shape, back), unit)
    return True


def arranged(x: Array) -> Array:
    """float32 ``x`` (N, C, S) as a C-contiguous (N, S, C): itself if it lies so already, else a copy."""
    last = to_last(x)
    if last.flags.c_contiguous and last.flags.aligned:
        return last
    if not x.flags.c_contiguous or not x.flags.aligned or x.dtype != FLOAT32:
        return np.ascontiguousarray(last) if last.flags.aligned else last.copy()
    target = empty(x.shape)
    return target if _copied(x, target, x.shape, back=False) else np.ascontiguousarray(last)


def put(x: Array, out: Array) -> bool:
    """Copies float32 ``x``, whose channels lie last, into the C-contiguous ``out``; False if something else is to be done."""
    last = to_last(x)
    plain = x.dtype == FLOAT32 == out.dtype and x.shape == out.shape and x.size > 0
    if not (plain and last.flags.c_contiguous and not x.flags.c_contiguous and out.flags.c_contiguous):
        return False
    return last.flags.aligned and out.flags.aligned and _copied(last, out, x.shape, back=True)


def is_last(x: Array) -> bool:
    """Whether ``x`` (N, C, S) lies as (N, S, C) already."""
    return bool(to_last(x).flags.c_contiguous)
