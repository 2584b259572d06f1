"""Rows of a table by index on the device, and their gradient: the rows of one index are added in the order in which they occur."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ...backend import Array, array_module
from .. import reference
from .dense import FLOAT32, INT64, THREADS, blocks_for, contiguous, filled, plain
from .launch import launch, suffix

DIGIT_BITS, TILE, CHUNK = 8, 1024, 32
"""As in ``embedding.cu``."""


def embedding_forward(indices: Array, weight: Array) -> Array:
    """As ``reference.embedding_forward``; an index out of range gives NaN."""
    if not filled(weight) or weight.ndim != 2 or not indices.size:
        return reference.embedding_forward(indices, weight)
    rows, width = weight.shape
    y = array_module(weight).empty((*indices.shape, width), weight.dtype)
    across = min(THREADS, 32 * -(-width * weight.itemsize // (32 * 16)))
    high = THREADS // across
    launch(
        "embedding", f"embedding_forward_{suffix(weight.dtype)}", -(-indices.size // high), (across, high),
        contiguous(weight), plain(indices, INT64), y, indices.size, rows, width,
    )  # fmt: skip
    return y


def sorted_places(indices: Array, rows: int, padding_idx: int | None) -> tuple[Array, Array]:
    """Indices in order, and the place of each, as uint32; equal ones in order of their places. ``rows`` stands for ``padding_idx`` and
    what is out of range.
    """
    xp, count = array_module(indices), indices.size
    keys, places, *others = xp.empty((4, count), np.uint32)
    launch(
        "embedding", "sort_begin", blocks_for(count), THREADS, plain(indices, INT64), count, rows,
        -1 if padding_idx is None else padding_idx % rows, keys, places,
    )  # fmt: skip
    tiles = -(-count // TILE)
    counts = xp.empty((1 << DIGIT_BITS, tiles), np.int32)
    for shift in range(0, rows.bit_length(), DIGIT_BITS):
        launch("embedding", "sort_count", tiles, THREADS, keys, count, np.int32(shift), counts)
        launch("embedding", "sort_scan", 1, 1024, counts, counts.size)
        launch("embedding", "sort_move", tiles, THREADS, keys, places, count, np.int32(shift), counts, *others)
        (keys, places), others = others, [keys, places]
    return keys, places


def embedding_backward(
    gradient: Array, indices: Array, vocabulary: int, padding_idx: int | None = None, out: Array | None = None
) -> Array:
    """As ``reference.embedding_backward``, but summed in order of occurrence within runs of 32, and these in order."""
    if not filled(gradient) or not vocabulary or vocabulary >= 2**31 or indices.size >= 2**31:
        return reference.embedding_backward(gradient, indices, vocabulary, padding_idx, out)
    xp, width, count = array_module(gradient), gradient.shape[-1], indices.size
    if out is not None and out.dtype.name in ("float32", gradient.dtype.name):
        table = out
        table.fill(0)
    else:
        table = xp.zeros((vocabulary, width), gradient.dtype)
    keys, places = sorted_places(indices, vocabulary, padding_idx)
    gradient = contiguous(gradient)
    chunks, end, wide = -(-count // CHUNK), suffix(gradient.dtype), bool(table.dtype != gradient.dtype)
    edges = xp.empty((chunks, 2, width), FLOAT32)
    pack = 16 // gradient.itemsize
    packed = width % pack == 0 and gradient.data.ptr % 16 == 0
    across = min(THREADS, 32 * -(-width // (32 * (pack if packed else 1))))
    name = "embedding_runs_packed" if packed else "embedding_runs"
    launch(
        "embedding",
        f"{name}_{end}",
        chunks,
        across,
        gradient,
        keys,
        places,
        count,
        vocabulary,
        table,
        width,
        wide,
        edges,
    )
    across = min(THREADS, 32 * -(-width // 32))
    launch("embedding", f"embedding_edges_{end}", chunks, across, keys, count, vocabulary, table, width, wide, edges)
    return table


KERNELS: dict[str, Callable[..., Any]] = {
    "embedding_forward": embedding_forward,
    "embedding_backward": embedding_backward,
}
