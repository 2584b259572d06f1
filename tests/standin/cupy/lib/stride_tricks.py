"""``cupy.lib.stride_tricks``."""

from __future__ import annotations

from typing import Any

import numpy as np

from .._array import ndarray as _ndarray
from .._array import view as _view


def as_strided(x: _ndarray, shape: Any = None, strides: Any = None) -> _ndarray:
    array = np.lib.stride_tricks.as_strided(
        x._array, x.shape if shape is None else shape, x.strides if strides is None else strides
    )
    return _view(x, array)


def sliding_window_view(
    x: _ndarray, window_shape: Any, axis: Any = None, *, subok: bool = False, writeable: bool = False
) -> _ndarray:
    return _view(x, np.lib.stride_tricks.sliding_window_view(x._array, window_shape, axis, writeable=writeable))
