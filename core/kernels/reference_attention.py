"""Reference kernels: scaled dot-product attention.

Dimensions: L places that ask, S places that are asked, E width of queries and keys, V width of values; what stands in front of
them is a batch. Vaswani et al., Attention is all you need, 2017 (arXiv 1706.03762).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from ..backend import array_module
from ..op import Array
from .reference import matmul, softmax_backward, softmax_forward


def attention_forward(query: Array, key: Array, value: Array, scale: float, causal: bool) -> tuple[Array, Any]:
    """``softmax(query key^T * scale) value``: query (..., L, E), key (..., S, E), value (..., S, V) -> (..., L, V).

    ``causal``: place i sees places up to i. The second result is what :func:`attention_backward` may use: the weights (..., L, S);
    a faster kernel gives None, or something of its own in a tuple.
    """
    scores = matmul(query * scale, key.swapaxes(-1, -2))
    if causal:
        scores = array_module(scores).where(_allowed(scores), scores, -math.inf)
    weights = softmax_forward(scores, -1)
    return matmul(weights, value), weights


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
    known = saved is not None and not isinstance(saved, tuple)
    weights = saved if known else attention_forward(query, key, value, scale, causal)[1]
    dvalue = matmul(weights.swapaxes(-1, -2), gradient) if needs[2] else None
    if not (needs[0] or needs[1]):
        return None, None, dvalue
    scores = softmax_backward(matmul(gradient, value.swapaxes(-1, -2)), weights, -1)
    if causal:
        scores = array_module(scores).where(_allowed(scores), scores, scores.dtype.type(0))
    dquery = matmul(scores, key) * scale if needs[0] else None
    dkey = matmul((query * scale).swapaxes(-1, -2), scores).swapaxes(-1, -2) if needs[1] else None
    return dquery, dkey, dvalue


KERNELS: dict[str, Callable[..., Any]] = {
    "attention_forward": attention_forward,
    "attention_backward": attention_backward,
}
"""What this file provides to the kernel table."""
