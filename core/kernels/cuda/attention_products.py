"""Attention as products and softmax by the table's kernels: float32 and float64, and whatever cuDNN does not serve. It keeps the weights.

Unlike the reference it can be captured into a graph, since it calls no product of CuPy's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ...backend import array_module
from ...bfloat16 import is_half
from ...op import Array
from .. import reference_attention, table


def _wide(x: Array) -> Array:
    return x.astype(np.float32) if is_half(x.dtype) else x


def attention_forward(query: Array, key: Array, value: Array, scale: float, causal: bool) -> tuple[Array, Array]:
    """As the reference, by the table's kernels; half precision is widened inside. Keeps the weights (..., L, S)."""
    kernels = table.table("cuda")
    q, k, v = _wide(query), _wide(key), _wide(value)
    scores = kernels["matmul"](q * q.dtype.type(scale), k.swapaxes(-1, -2))
    if causal:
        xp = array_module(scores)
        scores = xp.where(xp.tri(*scores.shape[-2:], dtype=bool), scores, scores.dtype.type(-math.inf))
    weights = kernels["softmax_forward"](scores, -1)
    return kernels["matmul"](weights, v).astype(query.dtype, copy=False), weights


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
    """As the reference, by the table's kernels."""
    kernels = table.table("cuda")
    known = saved is not None and not isinstance(saved, tuple)
    weights = _wide(saved) if known else attention_forward(query, key, value, scale, causal)[1]
    q, k, v, g = (_wide(x) for x in (query, key, value, gradient))

    def narrow(x: Array) -> Array:
        return x.astype(query.dtype, copy=False)

    dvalue = narrow(kernels["matmul"](weights.swapaxes(-1, -2), g)) if needs[2] else None
    if not (needs[0] or needs[1]):
        return None, None, dvalue
    slopes = kernels["softmax_backward"](kernels["matmul"](g, v.swapaxes(-1, -2)), weights, -1)
    slopes *= slopes.dtype.type(scale)
    dquery = narrow(kernels["matmul"](slopes, k)) if needs[0] else None
    dkey = narrow(kernels["matmul"](slopes.swapaxes(-1, -2), q)) if needs[1] else None
    return dquery, dkey, dvalue


def packed_attention_forward(packed: Array, scale: float, causal: bool) -> tuple[Array, Any]:
    """As the reference, by these."""
    return reference_attention.packed_attention_forward(packed, scale, causal, attention_forward)


def packed_attention_backward(gradient: Array, packed: Array, saved: Any, scale: float, causal: bool) -> Array:
    """As the reference, by these."""
    return reference_attention.packed_attention_backward(gradient, packed, saved, scale, causal, attention_backward)


KERNELS: dict[str, Callable[..., Any]] = {
    "attention_forward": attention_forward,
    "attention_backward": attention_backward,
    "packed_attention_forward": packed_attention_forward,
    "packed_attention_backward": packed_attention_backward,
}
