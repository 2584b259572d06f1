"""Flat arrays on the device: norms on the chunk grid and clipping by them, whether all is finite, hashes, averages."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from ...backend import array_module, cupy
from ...flat import CHUNK, chunk_grid
from .. import reference_optim, reference_optim_norms
from .launch import launch, suffix
from .optim import BLOCK, blocks_for, numbers, serves

Array = Any
MOST_CHUNKS = 1 << 20
"""What one block adds up: 17 thousand million elements."""
HASH_BLOCKS = 1024


# ---- norms -----------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=64)
def _chunks(device: int, places: tuple[tuple[int, int], ...], itemsize: int) -> Array:
    """Address and length of each chunk of arrays at ``places`` (address, size), on the device: gradients stay where they are."""
    rows = [(address + lo * itemsize, hi - lo) for address, size in places for lo, hi in chunk_grid(size)]
    table = cupy().asarray(np.array(rows, np.int64).reshape(-1, 2))
    cupy().cuda.get_current_stream().synchronize()  # whichever stream asks next finds it
    return table


def _listed(arrays: Sequence[Array]) -> Array:
    places = tuple((array.data.ptr, array.size) for array in arrays)
    return _chunks(arrays[0].device.id, places, arrays[0].dtype.itemsize)


def _kind(norm_type: float) -> np.int32:
    return np.int32(0 if norm_type == math.inf else norm_type if norm_type in (1.0, 2.0) else 3)


def _served(arrays: Sequence[Array]) -> bool:
    return bool(arrays) and serves(*arrays) and len({array.device.id for array in arrays}) == 1


def _norms(arrays: Sequence[Array], norm_type: float) -> tuple[Array, Array]:
    """The table of chunks and one float64 number for each."""
    table = _listed(arrays)
    found = cupy().empty(len(table), np.float64)
    power = 1.0 if norm_type == math.inf else norm_type
    launch("flat", f"norms_{suffix(arrays[0].dtype)}", len(table), BLOCK, table, _kind(norm_type), power, found)
    return table, found


def chunk_norms_of(arrays: Sequence[Array], norm_type: float) -> np.ndarray:
    """As ``reference_optim_norms.chunk_norms_of``: one launch and one transfer for all arrays."""
    if not _served(arrays):
        return reference_optim_norms.chunk_norms_of(arrays, norm_type)
    found: np.ndarray = _norms(arrays, norm_type)[1].get()
    return found


def chunk_norms(flat: Array, norm_type: float) -> np.ndarray:
    """As ``reference_optim_norms.chunk_norms``."""
    return chunk_norms_of([flat], norm_type)


def _joint(arrays: Sequence[Array], max_norm: float, norm_type: float) -> tuple[Array, Array, Array]:
    """The table of chunks, the joint norm (float64), and what makes it at most ``max_norm`` (float32), on the device."""
    table, found = _norms(arrays, norm_type)
    norm, scale = cupy().empty((), np.float64), cupy().empty((), np.float32)
    power = np.float64(1.0 if norm_type == math.inf else norm_type)
    launch(
        "flat", "norm_of_chunks", 1, 1024, found, len(table), _kind(norm_type), power, np.float64(max_norm), norm, scale
    )
    return table, norm, scale


def clip_by_norm(arrays: Sequence[Array], max_norm: float, norm_type: float) -> Array:
    """As ``reference_optim_norms.clip_by_norm``, without a word from the device back to the host."""
    if not _served(arrays) or sum(-(-array.size // CHUNK) for array in arrays) > MOST_CHUNKS:
        return reference_optim_norms.clip_by_norm(arrays, max_norm, norm_type)
    table, norm, scale = _joint(arrays, max_norm, norm_type)
    launch("flat", f"scale_{suffix(arrays[0].dtype)}", len(table), BLOCK, table, scale)
    return norm


def two_norm(flat: Array) -> Array:
    """The Euclidean norm of one parameter over the chunk grid, float64 of no dimension, on the device."""
    return _joint([flat], math.inf, 2.0)[1]


# ---- whether all is finite, and hashes -------------------------------------------------------------------------------


def in_memory_order(array: Array) -> Array:
    """``array`` as a C-contiguous one of other axes, a view where its elements lie side by side in any order of axes."""
    if array.flags.c_contiguous:
        return array
    turned = array.transpose(sorted(range(array.ndim), key=lambda axis: -array.strides[axis]))
    return turned if turned.flags.c_contiguous else array_module(array).ascontiguousarray(array)


def mark_not_finite(array: Array, found: Array) -> None:
    """Set ``found`` (int32, one element) where ``array`` has a number that is NaN or infinite; else leave it alone."""
    launch(
        "flat", f"not_finite_{suffix(array.dtype)}", blocks_for(array.size), BLOCK, in_memory_order(array), array.size, found
    )  # fmt: skip


def all_finite(array: Array) -> bool:
    """As ``reference_optim_norms.all_finite``."""
    if array.dtype.name not in ("float32", "bfloat16", "float16"):
        return reference_optim_norms.all_finite(array)
    found = cupy().zeros(1, np.int32)
    mark_not_finite(array, found)
    return not int(found.get()[0])


def hash_words(words: Array, start: int) -> int:
    """As ``reference_optim.hash_words``, and equal to it."""
    if words.size == 0:
        return 0
    blocks = min(-(-words.size // BLOCK), HASH_BLOCKS)
    sums = cupy().empty(blocks, np.uint64)
    launch("flat", "hash_words", blocks, BLOCK, words, words.size, np.uint64(start), sums)
    return int(sums.get().sum(dtype=np.uint64))


# ---- element by element ----------------------------------------------------------------------------------------------


def average_update(average: Array, data: Array, share: float) -> None:
    """As ``reference_optim.average_update``."""
    if not serves(average, data):
        return reference_optim.average_update(average, data, share)
    blocks = min(-(-data.size // BLOCK), 1 << 20)
    return launch("flat", f"average_{suffix(data.dtype)}", blocks, BLOCK, average, data, data.size, numbers(share))


def exchange(first: Array, second: Array) -> None:
    """As ``reference_optim.exchange``."""
    if first.dtype != second.dtype or not (first.flags.c_contiguous and second.flags.c_contiguous):
        return reference_optim.exchange(first, second)
    return launch("flat", "exchange", blocks_for(first.nbytes // 4 + 1), BLOCK, first, second, first.nbytes)


KERNELS = {
    "chunk_norms": chunk_norms,
    "chunk_norms_of": chunk_norms_of,
    "clip_by_norm": clip_by_norm,
    "all_finite": all_finite,
    "hash_words": hash_words,
    "average_update": average_update,
    "exchange": exchange,
}
