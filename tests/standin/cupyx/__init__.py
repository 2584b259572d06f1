"""A stand-in for ``cupyx``, CuPy's functions that NumPy does not have."""

from __future__ import annotations

from typing import Any

import cupy as _cupy
import numpy as np
from cupy._array import ndarray as _ndarray


def empty_pinned(shape: Any, dtype: Any = float, order: str = "C") -> np.ndarray:
    shape = (shape,) if isinstance(shape, int | np.integer) else tuple(shape)
    dtype = np.dtype(dtype)
    nbytes = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    return np.ndarray(shape, dtype, _cupy.cuda.alloc_pinned_memory(max(nbytes, 1)), 0, None, order)


def zeros_pinned(shape: Any, dtype: Any = float, order: str = "C") -> np.ndarray:
    made = empty_pinned(shape, dtype, order)
    made.fill(0)
    return made


def empty_like_pinned(a: Any, dtype: Any = None, order: str = "K", subok: Any = None, shape: Any = None) -> np.ndarray:
    return empty_pinned(a.shape if shape is None else shape, a.dtype if dtype is None else dtype)


def zeros_like_pinned(a: Any, dtype: Any = None, order: str = "K", subok: Any = None, shape: Any = None) -> np.ndarray:
    return zeros_pinned(a.shape if shape is None else shape, a.dtype if dtype is None else dtype)


def scatter_add(a: _ndarray, slices: Any, value: Any) -> None:
    a.scatter_add(slices, value)


def rsqrt(x: _ndarray) -> _ndarray:
    return 1 / _cupy.sqrt(x)
