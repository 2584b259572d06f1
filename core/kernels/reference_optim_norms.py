"""Norms over the fixed chunk grid, and whether all numbers are finite, in plain array code."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..backend import array_module, device_kind
from ..bfloat16 import is_half
from ..flat import chunk_grid, tree_sum
from .table import kernel

Array = Any


def chunk_norms(flat: Array, norm_type: float) -> np.ndarray:
    """One float64 number for each chunk of a 1-D array: the sum of ``|x|^norm_type``, or the largest ``|x|`` where it is infinite."""
    return np.array([_of_chunk(flat[lo:hi], norm_type) for lo, hi in chunk_grid(flat.size)], np.float64)


def _of_chunk(chunk: Array, norm_type: float) -> float:
    if norm_type == math.inf:
        return float(np.abs(chunk).max())
    if is_half(chunk.dtype):
        chunk = chunk.astype(np.float32)
    return float(np.dot(chunk, chunk)) if norm_type == 2.0 else float((np.abs(chunk) ** norm_type).sum())


def chunk_norms_of(arrays: Sequence[Array], norm_type: float) -> np.ndarray:
    """``chunk_norms`` of several 1-D arrays, one after the other: on a GPU by one transfer."""
    each = [kernel("chunk_norms", device_kind(array))(array, norm_type) for array in arrays]
    return np.concatenate([np.empty(0), *each])


def joined(values: np.ndarray, norm_type: float) -> float:
    """The norm from one number for each chunk."""
    if norm_type == math.inf:
        return float(values.max()) if values.size else 0.0
    return float(tree_sum(values.tolist()) ** (1.0 / norm_type))


def clip_by_norm(arrays: Sequence[Array], max_norm: float, norm_type: float) -> Array:
    """Multiply 1-D arrays by ``max_norm / (norm + 1e-6)`` where that is below 1 or no number; returns their joint norm, float64 of no dimension."""
    norm = joined(chunk_norms_of(arrays, norm_type), norm_type)
    scale = max_norm / (norm + 1e-6)
    if not scale >= 1.0:
        for array in arrays:
            array *= array.dtype.type(scale)
    return array_module(*arrays).asarray(norm, np.float64)


def two_norm(flat: Array) -> float:
    """The Euclidean norm of one parameter, over the chunk grid."""
    return math.sqrt(tree_sum(chunk_norms(flat, 2.0).tolist()))


def all_finite(array: Array) -> bool:
    """Whether no number is NaN or infinite."""
    return bool(array_module(array).isfinite(array).all())


KERNELS = {
    "chunk_norms": chunk_norms,
    "chunk_norms_of": chunk_norms_of,
    "clip_by_norm": clip_by_norm,
    "all_finite": all_finite,
}
