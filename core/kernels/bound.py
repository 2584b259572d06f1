"""Kernels for replays on the CPU: what shapes decide is decided once, when a replay is written, instead of at each call."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from ..op import Array
from .table import kernel

FLOAT32, INT64 = np.dtype(np.float32), np.dtype(np.int64)
PLAIN = 0x0101
"""NumPy's flags for "C-contiguous and aligned"."""

BOUND: dict[Callable[..., Any], Callable[..., Callable[..., Any] | None]] = {}
"""Kernel -> what makes its form for known shapes and options, or None where that would not be faster."""


def bound(name: str, *known: Any) -> Callable[..., Any]:
    """The kernel behind ``name`` for plain arrays whose shapes, and options, are ``known``; whoever calls it has looked at them."""
    work = kernel(name)
    make = BOUND.get(work)
    return work if make is None else make(*known) or work


def is_plain(x: Array, shape: tuple[int, ...], dtype: Any = FLOAT32) -> bool:
    """Whether ``x`` is what a kernel was bound for: in host memory, of this shape and dtype, its elements in the order of its dimensions."""
    return type(x) is np.ndarray and x.shape == shape and x.dtype is dtype and x.flags.num & PLAIN == PLAIN


def shapes_of(arrays: Iterable[Any]) -> tuple[Any, ...] | None:
    """The shapes of what an op is given, None where it is given no array; or None if kernels cannot be bound for that."""
    found = []
    for x in arrays:
        if x is not None and not (isinstance(x, np.ndarray) and (is_plain(x, x.shape) or is_plain(x, x.shape, INT64))):
            return None
        found.append(None if x is None else x.shape)
    return tuple(found)
