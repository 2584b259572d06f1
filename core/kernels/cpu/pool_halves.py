"""The maximum of 2x2 blocks by compiled loops, alone or of what relu lets through: float32, channels last.

All other windows go to oneDNN, or to the reference where that is not there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ...op import Array
from .. import reference_fused, reference_pool
from ..reference_fused import HALVES
from ..window import Size, Window
from . import channels_last, loops_pool, onednn_pool
from .batch_norm import FEWEST_CHANNELS, FLOAT32, have_onednn

_next: Any = onednn_pool if have_onednn() else reference_pool


def _takes(x: Array, shape: Size) -> bool:
    return bool(
        x.dtype == FLOAT32
        and len(shape) == 4
        and shape[1] >= FEWEST_CHANNELS
        and min(shape[2:]) >= 2
        and shape[0]
        and (_next is onednn_pool or channels_last.is_last(x))
    )


def _forward(x: Array, run: Callable[..., Any]) -> tuple[Array, Array]:
    shape = x.shape[:2] + (x.shape[2] // 2, x.shape[3] // 2)
    y, index = channels_last.empty(shape), channels_last.empty(shape, np.uint8)
    run(x.size, channels_last.arranged(x), y, index)
    return channels_last.to_first(y), channels_last.to_first(index)


def _backward(gradient: Array, index: Array, shape: Size) -> Array:
    dx = channels_last.empty(tuple(shape))
    loops_pool.pool_backward(dx.size, channels_last.arranged(gradient), channels_last.arranged(index), dx)
    return channels_last.to_first(dx)


def max_pool_forward(x: Array, window: Window) -> tuple[Array, Array]:
    """As ``reference_pool.max_pool_forward``."""
    if window != HALVES or not _takes(x, x.shape):
        return _next.max_pool_forward(x, window)
    return _forward(x, loops_pool.pool)


def max_pool_backward(gradient: Array, index: Array, shape: Size, window: Window) -> Array:
    """As ``reference_pool.max_pool_backward``."""
    if window != HALVES or not _takes(gradient, shape):
        return _next.max_pool_backward(gradient, index, shape, window)
    return _backward(gradient, index, shape)


def relu_pool(x: Array) -> tuple[Array, Array]:
    """As ``reference_fused.relu_pool``."""
    return _forward(x, loops_pool.relu_pool) if _takes(x, x.shape) else reference_fused.relu_pool(x)


def relu_pool_backward(gradient: Array, index: Array, shape: Size) -> Array:
    """As ``reference_fused.relu_pool_backward``."""
    if not _takes(gradient, shape):
        return reference_fused.relu_pool_backward(gradient, index, shape)
    return _backward(gradient, index, shape)


KERNELS: dict[str, Callable[..., Any]] = {
    "max_pool_forward": max_pool_forward,
    "max_pool_backward": max_pool_backward,
    "relu_pool": relu_pool,
    "relu_pool_backward": relu_pool_backward,
}
