"""Reference kernels: scaled dot-product attention.

Dimensions: L places that ask, S places that are asked, E width of queries and keys, V width of values; what stands in front of
them is a batch. Vaswani et al., Attention is all you need, 2017 (arXiv 1706.03762).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..backend import array_module
from ..op import Array
from .reference import matmul, softmax_backward, softmax_forward


def _wide(x: Array) -> Array:
    """bfloat16, in which array libraries do not multiply batches, as float32."""
    return x.astype(np.float32) if x.dtype.kind == "V" else x


def attention_forward(query: Array, key: Array, value: Array, scale: float, causal: bool) -> tuple[Array, Any]:
    """``softmax(query key^T * scale) value``: query (..., L, E), key (..., S, E), value (..., S, V) -> (..., L, V).

    ``causal``: place i sees places up to i. The second result is what :func:`attention_backward` may use: the weights (..., L, S);
    a faster kernel gives None, or something of its own in a tuple.
    """
    dtype = value.dtype
    query, key, value = _wide(query), _wide(key), _wide(value)
    scores = matmul(query * scale, key.swapaxes(-1, -2))
    if causal:
        scores = array_module(scores).where(_allowed(scores), scores, -math.inf)
    weights = softmax_forward(scores, -1)
    return matmul(weights, value).astype(dtype, copy=False), weights


def _allowed(scores: Array) -> Array:
    """(L, S), True where place i may see place j."""
    return array_module(scores).tri(*scores.shape[-2:], dtype=bool)


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
    """Gradients of query, key and value, for those that ``needs`` names; ``saved``: what a forward of any kind gave."""
    dtypes = query.dtype, key.dtype, value.dtype
    gradient, query, key, value = _wide(gradient), _wide(query), _wide(key), _wide(value)
    known = saved is not None and not isinstance(saved, tuple)
    weights = saved if known else attention_forward(query, key, value, scale, causal)[1]
    dvalue = matmul(weights.swapaxes(-1, -2), gradient) if needs[2] else None
    if not (needs[0] or needs[1]):
        return None, None, None if dvalue is None else dvalue.astype(dtypes[2], copy=False)
    scores = softmax_backward(matmul(gradient, value.swapaxes(-1, -2)), weights, -1)
    if causal:
        scores = array_module(scores).where(_allowed(scores), scores, scores.dtype.type(0))
    dquery = matmul(scores, key) * scale if needs[0] else None
    dkey = matmul((query * scale).swapaxes(-1, -2), scores).swapaxes(-1, -2) if needs[1] else None
    found = zip((dquery, dkey, dvalue), dtypes, strict=True)
    dquery, dkey, dvalue = [None if g is None else g.astype(dtype, copy=False) for g, dtype in found]
    return dquery, dkey, dvalue


# ---- query, key and value of one product -----------------------------------------------------------------------------


def parts(packed: Array) -> tuple[Array, Array, Array]:
    """Views (B, H, T, D) of query, key and value, which lie side by side in ``packed`` (B, T, 3, H, D)."""
    query, key, value = (packed[:, :, i].swapaxes(1, 2) for i in range(3))
    return query, key, value


def packed_attention_forward(
    packed: Array, scale: float, causal: bool, forward: Callable[..., tuple[Array, Any]] = attention_forward
) -> tuple[Array, Any]:
    """Attention of each of H heads to itself: packed (B, T, 3, H, D) -> (B, T, H, D), C-contiguous, and what backward may use.

    ``forward``: the attention that is made of it.
    """
    y, saved = forward(*parts(packed), scale, causal)
    return array_module(packed).ascontiguousarray(y.swapaxes(1, 2)), saved


def packed_attention_backward(
    gradient: Array,
    packed: Array,
    saved: Any,
    scale: float,
    causal: bool,
    backward: Callable[..., tuple[Array | None, ...]] = attention_backward,
) -> Array:
    """Gradient (B, T, 3, H, D) from ``gradient`` (B, T, H, D); ``saved``: what a forward of any kind gave."""
    whole = array_module(packed).empty(packed.shape, packed.dtype)
    found = backward(gradient.swapaxes(1, 2), *parts(packed), saved, scale, causal)
    for place, part in zip(parts(whole), found, strict=True):
        place[...] = part
    return whole


KERNELS: dict[str, Callable[..., Any]] = {
    "attention_forward": attention_forward,
    "attention_backward": attention_backward,
    "packed_attention_forward": packed_attention_forward,
    "packed_attention_backward": packed_attention_backward,
}
"""What this file provides to the kernel table."""
