"""Random words and dropout on the device: the masks of the host, drawn where they are applied."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ...backend import Array, array_module, cupy
from .. import reference, reference_random
from .dense import contiguous, served
from .launch import launch, suffix
from .scalars import on_device

THREADS = 256
WORDS = 6
"""Two of key, three of counter, the threshold."""


def _draw(key: tuple[int, int], words: tuple[int, int, int], threshold: int = 0) -> Array:
    return on_device(np.array([*key, *words, threshold]).astype(np.uint32))


def _blocks(count: int, each: int) -> int:
    return min(-(-count // (each * THREADS)), 1 << 20)


def philox_bits(count: int, key: tuple[int, int], words: tuple[int, int, int], first: int = 0) -> Array:
    """As ``reference_random.philox_bits``, on the device."""
    bits = cupy().empty(count, np.uint32)
    launch("random", "random_bits", _blocks(count, 4), THREADS, _draw(key, words), first // 4, bits, count)
    return bits


def philox_mask(count: int, key: tuple[int, int], words: tuple[int, int, int], threshold: int) -> Array:
    """As ``reference_random.philox_mask``, on the device."""
    keep = cupy().empty(count, bool)
    launch("random", "random_mask", _blocks(count, 16), THREADS, _draw(key, words, threshold), keep, count)
    return keep


def keep_draw(draw: np.ndarray) -> Array:
    """As ``reference_random.keep_draw``: on the device, to stay."""
    kept = cupy().empty(WORDS, np.uint32)
    launch("random", "keep_draw", 1, 32, on_device(draw), kept, WORDS)
    return kept


def dropout_draw(x: Array, draw: Array, scale: float) -> Array:
    """As ``reference_random.dropout_draw``; the mask is never in memory."""
    if not served(x):
        return reference_random.dropout_draw(x, draw, scale)
    x = contiguous(x)
    y = array_module(x).empty_like(x)
    launch(
        "random",
        f"dropout_{suffix(x.dtype)}",
        _blocks(x.size, 16 // x.itemsize),
        THREADS,
        x,
        draw,
        float(scale),
        y,
        x.size,
    )
    return y


def dropout_apply(x: Array, keep: Array, scale: float) -> Array:
    """As ``reference.dropout_apply``."""
    if not served(x) or keep.shape != x.shape or keep.dtype != bool:
        return reference.dropout_apply(x, keep, scale)
    x, keep = contiguous(x), contiguous(keep)
    y = array_module(x).empty_like(x)
    launch(
        "random", f"dropout_apply_{suffix(x.dtype)}", _blocks(x.size, 16 // x.itemsize), THREADS, x, keep, float(scale), y,
        x.size,
    )  # fmt: skip
    return y


KERNELS: dict[str, Callable[..., Any]] = {
    "philox_bits": philox_bits,
    "philox_mask": philox_mask,
    "keep_draw": keep_draw,
    "dropout_draw": dropout_draw,
    "dropout_apply": dropout_apply,
}
