"""Norms over the fixed chunk grid, and whether all numbers are finite, in plain array code."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..backend import array_module
from ..flat import chunk_grid, tree_sum

Array = Any


def chunk_norms(flat: Array, norm_type: float) -> np.ndarray:
    """One float64 number for each chunk of a 1-D array: the sum of ``|x|^norm_type``, or the largest ``|x|`` where it is infinite."""
    return np.array([_of_chunk(flat[lo:hi], norm_type) for lo, hi in chunk_grid(flat.size)], np.float64)


def _of_chunk(chunk: Array, norm_type: float) -> float:
    if norm_type == math.inf:
        return float(np.abs(chunk).max())
    if chunk.dtype == np.float16:
        chunk = chunk.astype(np.float32)
    return float(np.dot(chunk, chunk)) if norm_type == 2.0 else float((np.abs(chunk) ** norm_type).sum())


def two_norm(flat: Array) -> float:
    """The Euclidean norm of one parameter, over the chunk grid."""
    return math.sqrt(tree_sum(chunk_norms(flat, 2.0).tolist()))


def all_finite(array: Array) -> bool:
    """Whether no number is NaN or infinite."""
    return bool(array_module(array).isfinite(array).all())


KERNELS = {"chunk_norms": chunk_norms, "all_finite": all_finite}
