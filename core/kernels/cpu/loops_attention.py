"""Scaled dot-product attention head by head and 64 rows at a time: scores never leave the cache, nor are they kept.

The backward pass makes the weights again from the largest score and the sum of each row (Dao et al., FlashAttention, 2022,
arXiv 2205.14135). Of a causal mask only the blocks that it lets pass are computed: what is masked is not multiplied, so that a NaN
in a value does not reach places that may not see it, other than those of its block.

Dimensions as in ``reference_attention.py``; H heads and N what stands in front of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ...op import Array
from .. import reference_attention
from . import threads
from .compiled import loop, prange
from .mathematics import INFINITY, ONE, ZERO, exp, f4, largest
from .onednn import Unavailable, load
from .products import AS_IT_IS, TURNED, multiply, places, use_threads

FLOAT32 = np.dtype(np.float32)
LANES = 64
"""Rows of scores are filled up to a multiple of this, which compiled loops pass through without a rest."""
RAMP = np.arange(LANES, dtype=FLOAT32)
"""What the numbers of lanes are compared with: as float32 the comparison is vectorised with what it selects."""
WIDE = 256
"""Places above which a block has 128 rows instead of 64."""


# sizes: N, H, L, S, E, V, rows of a block; steps: from one N, H, L (S) to the next of query, key, value and of the output


@loop("i8, i8, i8, i8, i8, i8, i8[:], i8[:], f4, b1, f4[:], f4[:] out, f4[:,:] out")
def _forward(sgemm, limit, query, key, value, out, sizes, steps, scale, causal, ramp, statistics, work):  # type: ignore[no-untyped-def]
    heads, length, asked, width, rows = sizes[1], sizes[2], sizes[3], sizes[4], sizes[6]
    step = work.shape[1] // rows
    shares = work.shape[0]
    for share in prange(shares):
        use_threads(limit, 1)
        scores = work[share]
        place = scores.ctypes.data
        for head in range(share, sizes[0] * heads, shares):
            n, h = head // heads, head % heads
            q = query + 4 * (n * steps[0] + h * steps[1])
            k = key + 4 * (n * steps[3] + h * steps[4])
            v = value + 4 * (n * steps[6] + h * steps[7])
            y = out + 4 * (n * steps[9] + h * steps[10])
            for first in range(0, length, rows):
                count = min(rows, length - first)
                seen = min(first + count, asked) if causal else asked
                full = (seen + LANES - 1) // LANES * LANES
                multiply(
                    sgemm, AS_IT_IS, TURNED, count, seen, width,
                    scale, q + 4 * first * steps[2], steps[2], k, steps[5], ZERO, place, step,
                )  # fmt: skip
                for i in range(count):
                    row = scores[i * step : i * step + full]
                    end = min(first + i + 1, seen) if causal else seen
                    last, valid = scores[i * step + full - LANES : i * step + full], f4(end - full + LANES)
                    for j in range(LANES):
                        last[j] = last[j] if ramp[j] < valid else -INFINITY
                    top = -INFINITY
                    for j in range(full):
                        top = largest(top, row[j])
                    for j in range(full):
                        row[j] = exp(row[j] - top)
                    total = ZERO
                    for j in range(full):
                        total += row[j]
                    inverse = ONE / total
                    for j in range(full):
                        row[j] *= inverse
                    at = 2 * (head * length + first + i)
                    statistics[at], statistics[at + 1] = top, inverse
                multiply(
                    sgemm, AS_IT_IS, AS_IT_IS, count, sizes[5], seen,
                    ONE, place, step, v, steps[8], ZERO, y + 4 * first * steps[11], steps[11],
                )  # fmt: skip


@loop("i8, i8, i8, i8, i8, i8, i8, i8, i8, i8[:], i8[:], f4, b1, f4[:], f4[:], f4[:,:] out")
def _backward(  # type: ignore[no-untyped-def]
    sgemm, limit, query, key, value, gradient, dquery, dkey, dvalue, sizes, steps, scale, causal, ramp, statistics, work
):
    heads, length, asked, width, depth, rows = sizes[1], sizes[2], sizes[3], sizes[4], sizes[5], sizes[6]
    step = work.shape[1] // (2 * rows)
    shares = work.shape[0]
    for share in prange(shares):
        use_threads(limit, 1)
        weights = work[share, : rows * step]
        slopes = work[share, rows * step :]
        to_weights, to_slopes = weights.ctypes.data, slopes.ctypes.data
        for head in range(share, sizes[0] * heads, shares):
            n, h = head // heads, head % heads
            q = query + 4 * (n * steps[0] + h * steps[1])
            k = key + 4 * (n * steps[3] + h * steps[4])
            v = value + 4 * (n * steps[6] + h * steps[7])
            g = gradient + 4 * (n * steps[9] + h * steps[10])
            dq = dquery + 4 * (n * steps[12] + h * steps[13])
            dk = dkey + 4 * (n * steps[15] + h * steps[16])
            dv = dvalue + 4 * (n * steps[18] + h * steps[19])
            begun = ZERO  # the last block reaches all places that any reaches: it writes, the others add
            for block in range((length - 1) // rows, -1, -1):
                first = block * rows
                count = min(rows, length - first)
                seen = min(first + count, asked) if causal else asked
                full = (seen + LANES - 1) // LANES * LANES
                rows_of_q, rows_of_g = q + 4 * first * steps[2], g + 4 * first * steps[11]
                multiply(
                    sgemm, AS_IT_IS, TURNED, count, seen, width,
                    scale, rows_of_q, steps[2], k, steps[5], ZERO, to_weights, step,
                )  # fmt: skip
                multiply(
                    sgemm, AS_IT_IS, TURNED, count, seen, depth,
                    ONE, rows_of_g, steps[11], v, steps[8], ZERO, to_slopes, step,
                )  # fmt: skip
                for i in range(count):
                    weight = weights[i * step : i * step + full]
                    slope = slopes[i * step : i * step + full]
                    end = min(first + i + 1, seen) if causal else seen
                    last, valid = weights[i * step + full - LANES : i * step + full], f4(end - full + LANES)
                    for j in range(LANES):
                        last[j] = last[j] if ramp[j] < valid else -INFINITY
                    last = slopes[i * step + full - LANES : i * step + full]
                    for j in range(LANES):
                        last[j] = last[j] if ramp[j] < valid else ZERO
                    at = 2 * (head * length + first + i)
                    top, inverse = statistics[at], statistics[at + 1]
                    for j in range(full):
                        weight[j] = exp(weight[j] - top) * inverse
                    total = ZERO
                    for j in range(full):
                        total += weight[j] * slope[j]
                    for j in range(full):
                        slope[j] = weight[j] * (slope[j] - total)
                if dvalue:
                    multiply(
                        sgemm, TURNED, AS_IT_IS, seen, depth, count,
                        ONE, to_weights, step, rows_of_g, steps[11], begun, dv, steps[20],
                    )  # fmt: skip
                if dquery:
                    multiply(
                        sgemm, AS_IT_IS, AS_IT_IS, count, width, seen,
                        scale, to_slopes, step, k, steps[5], ZERO, dq + 4 * first * steps[14], steps[14],
                    )  # fmt: skip
                if dkey:
                    multiply(
                        sgemm, TURNED, AS_IT_IS, seen, width, count,
                        scale, to_slopes, step, rows_of_q, steps[2], begun, dk, steps[17],
                    )  # fmt: skip
                begun = ONE


# ---- how arrays lie --------------------------------------------------------------------------------------------------


def _serves(query: Array, key: Array, value: Array) -> bool:
    """Whether these are float32 matrices, with at most two dimensions in front of them, and not empty."""
    return (
        query.dtype == FLOAT32 == key.dtype
        and value.dtype == FLOAT32
        and 4 >= query.ndim == key.ndim == value.ndim >= 2
        and query.shape[:-2] == key.shape[:-2] == value.shape[:-2]
        and query.shape[-1] == key.shape[-1]
        and key.shape[-2] == value.shape[-2]
        and 0 not in query.shape
        and 0 not in key.shape
        and 0 not in value.shape
    )


def _in_rows(x: Array) -> Array:
    """``x`` (..., M, E) itself if sgemm can take its matrices as they lie, else a copy."""
    down, along = x.strides[-2:]
    return x if along == 4 and down >= 4 * x.shape[-1] and x.flags.aligned else np.array(x, FLOAT32, order="C")


def _like(x: Array, shape: tuple[int, ...]) -> Array:
    """A new array of ``shape`` with ``x``'s order of dimensions in memory, if its matrices then lie in rows."""
    made = np.empty_like(x, shape=shape)
    return made if made.strides[-1] == 4 and made.strides[-2] >= 4 * shape[-1] else np.empty(shape, FLOAT32)


def _beside(query: Array, key: Array, value: Array) -> list[Array]:
    """New arrays like these three; parts of one array if these are (cut out of one product), and then in the same places."""
    if query.base is not None and query.base is key.base is value.base:
        starts = [x.__array_interface__["data"][0] for x in (query, key, value)]
        step = starts[1] - starts[0]
        if step == starts[2] - starts[1] > 0 and query.strides == key.strides == value.strides and query.shape == value.shape:  # fmt: skip
            shape, strides = (3, *query.shape), (step, *query.strides)
            order = sorted(range(len(shape)), key=lambda i: -strides[i])
            whole = np.empty([shape[i] for i in order], FLOAT32).transpose([order.index(i) for i in range(len(order))])
            if whole.strides[-1] == 4 and whole.strides[-2] >= 4 * shape[-1]:
                return list(whole)
    return [_like(x, x.shape) for x in (query, key, value)]


def _steps(*arrays: Array) -> Array:
    """For each array how many elements lie between neighbours in N, H and L."""
    found: list[int] = []
    for x in arrays:
        front = x.strides[:-2]
        found += [0] * (2 - len(front))
        found += [step // 4 for step in front]
        found.append(x.strides[-2] // 4)
    return np.array(found, np.int64)


def _sizes(query: Array, key: Array, value: Array) -> tuple[Array, int, int]:
    """N, H, L, S, E, V and the rows of a block; elements of a block; how many rows there are to ask."""
    front = query.shape[:-2]
    heads = front[-1] if front else 1
    outer = front[0] if len(front) == 2 else 1
    (length, width), asked = query.shape[-2:], key.shape[-2]
    rows = 64 if asked <= WIDE else 128
    sizes = np.array((outer, heads, length, asked, width, value.shape[-1], rows), np.int64)
    return sizes, rows * (-(-asked // LANES) * LANES), outer * heads * length


def _address(x: Array | None) -> int:
    return 0 if x is None else x.__array_interface__["data"][0]


# ---- kernels ---------------------------------------------------------------------------------------------------------


def attention_forward(query: Array, key: Array, value: Array, scale: float, causal: bool) -> tuple[Array, Any]:
    """As ``reference.attention_forward``; keeps (statistics,): of each row the largest score and one over the sum."""
    if not _serves(query, key, value):
        return reference_attention.attention_forward(query, key, value, scale, causal)
    query, key, value = _in_rows(query), _in_rows(key), _in_rows(value)
    sizes, block, asking = _sizes(query, key, value)
    y = _like(query, query.shape[:-1] + value.shape[-1:])
    statistics = np.empty(2 * asking, FLOAT32)
    _forward(
        asking * key.shape[-2], *places(), *map(_address, (query, key, value, y)), sizes, _steps(query, key, value, y), scale,
        causal, RAMP, statistics, np.empty((threads.threads(), block), FLOAT32),
    )  # fmt: skip
    return y, (statistics,)


def attention_backward(
    gradient: Array,
    query: Array,
    key: Array,
    value: Array,
    saved: Any,
    scale: float,
    causal: bool,
    needs: Sequence[bool] = (True, True, True),
) -> tuple[Array | None, Array | None, Array | None]:
    """As ``reference.attention_backward``."""
    if not isinstance(saved, tuple) or gradient.dtype != FLOAT32:
        return reference_attention.attention_backward(gradient, query, key, value, saved, scale, causal, needs)
    made = [x if needed else None for x, needed in zip(_beside(query, key, value), needs, strict=True)]
    _gradients_into(made, gradient, query, key, value, saved[0], scale, causal)
    return made[0], made[1], made[2]


def _gradients_into(
    made: list[Array | None],
    gradient: Array,
    query: Array,
    key: Array,
    value: Array,
    statistics: Array,
    scale: float,
    causal: bool,
) -> None:
    """The gradients of query, key and value into those of ``made`` that are there."""
    arrays = [_in_rows(x) for x in (query, key, value, gradient)]
    if causal and query.shape[-2] < key.shape[-2]:
        for unseen in made[1:]:
            if unseen is not None:
                unseen[..., query.shape[-2] :, :] = 0
    sizes, block, asking = _sizes(*arrays[:3])
    steps = _steps(*arrays, *(arrays[0] if x is None else x for x in made))
    _backward(
        asking * key.shape[-2], *places(), *map(_address, (*arrays, *made)), sizes, steps, scale, causal, RAMP, statistics,
        np.empty((threads.threads(), 2 * block), FLOAT32),
    )  # fmt: skip


def packed_attention_forward(packed: Array, scale: float, causal: bool) -> tuple[Array, Any]:
    """As ``reference_attention.packed_attention_forward``."""
    return reference_attention.packed_attention_forward(packed, scale, causal, attention_forward)


def packed_attention_backward(gradient: Array, packed: Array, saved: Any, scale: float, causal: bool) -> Array:
    """As ``reference_attention.packed_attention_backward``; each gradient goes straight to its place."""
    if not isinstance(saved, tuple) or gradient.dtype != FLOAT32:
        return reference_attention.packed_attention_backward(gradient, packed, saved, scale, causal)
    whole = np.empty(packed.shape, FLOAT32)
    made: list[Array | None] = list(reference_attention.parts(whole))
    _gradients_into(made, gradient.swapaxes(1, 2), *reference_attention.parts(packed), saved[0], scale, causal)
    return whole


def _provided() -> dict[str, Callable[..., Any]]:
    try:
        load()
    except Unavailable:
        return {}
    return {
        "attention_forward": attention_forward,
        "attention_backward": attention_backward,
        "packed_attention_forward": packed_attention_forward,
        "packed_attention_backward": packed_attention_backward,
    }


def __getattr__(name: str) -> Any:
    """``KERNELS``, what compiled attention provides to the kernel table: nothing where oneDNN is not to be had at that moment."""
    if name == "KERNELS":
        return _provided()
    raise AttributeError(name)
