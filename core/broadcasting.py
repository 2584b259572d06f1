"""The one function that undoes broadcasting."""

from __future__ import annotations

import numpy as np

from .backend import as_array
from .bfloat16 import is_half
from .op import Array


def unbroadcast(gradient: Array, shape: tuple[int, ...], out: Array | None = None) -> Array:
    """Sum ``gradient`` over the dimensions along which an input of ``shape`` was broadcast; into ``out`` if given."""
    extra = gradient.ndim - len(shape)
    axes = tuple(range(extra)) + tuple(
        i + extra for i, size in enumerate(shape) if size == 1 and gradient.shape[i + extra] != 1
    )
    if is_half(gradient.dtype):
        total = np.add.reduce(gradient, axis=axes, dtype=np.float32)
        return as_array(total).astype(gradient.dtype).reshape(shape)
    if out is not None and len(axes) == extra:
        return np.add.reduce(gradient, axis=axes, out=out)
    return as_array(np.add.reduce(gradient, axis=axes)).reshape(shape)
