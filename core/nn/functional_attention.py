"""Scaled dot-product attention as a function."""

from __future__ import annotations

import math

from ..backend import array_module
from ..bfloat16 import is_floating
from ..errors import DTypeError, RangeError, ShapeError
from ..graph import apply
from ..ops.arithmetic import EQ, WHERE
from ..ops.attention import ATTENTION, PACKED_ATTENTION
from ..ops.reduce import ALL, ANY
from ..tensor import Tensor
from .functional_activation import softmax
from .functional_dropout import dropout


def scaled_dot_product_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """``softmax(query key^T * scale + mask) value``: query (..., L, E), key (..., S, E), value (..., S, V) -> (..., L, V).

    ``attn_mask`` is boolean (True takes part) or added to the scores; ``is_causal`` lets place i see places up to i; ``scale``
    is 1/sqrt(E) if not given. With ``enable_gqa`` key and value may have fewer heads (dimension -3), each of which serves equally
    many neighbouring heads of the query. A row that may attend to nothing gives zeros. The dropout mask is keyed by
    (seed, step, shard, call). Vaswani et al., "Attention Is All You Need", 2017.

    >>> x = phalanx.ones(1, 3, 4)
    >>> F.scaled_dot_product_attention(x, x, x, is_causal=True).shape
    (1, 3, 4)
    """
    op = "scaled_dot_product_attention"
    if query.shape[-1:] != key.shape[-1:] or key.shape[-2:-1] != value.shape[-2:-1]:
        raise ShapeError(
            f"{op}: expected query (..., L, E), key (..., S, E) and value (..., S, V), got {query.shape}, {key.shape} and "
            f"{value.shape}"
        )
    if is_causal and attn_mask is not None:
        raise RangeError(f"{op}: give attn_mask or is_causal=True, not both")
    if enable_gqa:
        key, value = (_shared_heads(op, query, given) for given in (key, value))
    factor = 1.0 / math.sqrt(query.shape[-1]) if scale is None else scale
    if attn_mask is None and dropout_p == 0.0 and _one_kind(query, key, value) and factor.__class__ is float:
        return apply(ATTENTION, query, key, value, scale=factor, causal=is_causal)
    scores = (query * factor) @ key.transpose(-2, -1)
    if is_causal:
        length, places = scores.shape[-2:]
        allowed = array_module(scores.array).tri(length, places, dtype=bool)
        weights = softmax(apply(WHERE, allowed, scores, float("-inf")), dim=-1)
    else:
        weights = softmax(scores, dim=-1) if attn_mask is None else _masked_softmax(op, scores, attn_mask)
    return dropout(weights, dropout_p) @ value


def packed_attention(packed: Tensor, is_causal: bool = False, scale: float | None = None) -> Tensor:
    """Self-attention of H heads whose queries, keys and values lie side by side: packed (B, T, 3, H, D) -> (B, T, H, D).

    What :func:`scaled_dot_product_attention` computes, without cutting one product in three and joining the gradients again: give it
    ``qkv(x).reshape(B, T, 3, H, D)`` and its output ``reshape(B, T, H * D)`` to the next layer. ``scale`` is 1/sqrt(D) if not given. Raises
    ShapeError for another shape.

    >>> F.packed_attention(phalanx.ones(2, 5, 3, 4, 8), is_causal=True).shape
    (2, 5, 4, 8)
    """
    factor = 1.0 / math.sqrt(packed.shape[-1]) if scale is None else float(scale)
    return apply(PACKED_ATTENTION, packed, scale=factor, causal=is_causal)


def _one_kind(query: Tensor, key: Tensor, value: Tensor) -> bool:
    """Whether all are matrices, or equal batches of them, of one floating dtype."""
    q, k, v = query.array, key.array, value.array
    return (
        is_floating(q.dtype)
        and q.dtype == k.dtype == v.dtype
        and q.ndim == k.ndim == v.ndim >= 2
        and q.shape[:-2] == k.shape[:-2] == v.shape[:-2]
    )


def _shared_heads(op: str, query: Tensor, given: Tensor) -> Tensor:
    """Key or value with each head repeated for all heads of the query that it serves."""
    heads, have = query.shape[-3] if query.ndim > 2 else 0, given.shape[-3] if given.ndim > 2 else 0
    if not have or heads % have:
        raise ShapeError(
            f"{op}: enable_gqa expects (..., heads, length, width) with the query's heads a multiple of the key's and the value's, "
            f"got {query.shape} and {given.shape}"
        )
    return given if heads == have else given.repeat_interleave(heads // have, dim=-3)


def _masked_softmax(op: str, scores: Tensor, mask: Tensor) -> Tensor:
    """Softmax of masked scores; rows that may attend to nothing give zeros, as in PyTorch, and not NaN."""
    if mask.dtype == bool:
        scores, dead = apply(WHERE, mask, scores, float("-inf")), ~apply(ANY, mask, axis=-1, keepdims=True)
    elif is_floating(mask.dtype):
        scores, dead = scores + mask, apply(ALL, apply(EQ, mask, float("-inf")), axis=-1, keepdims=True)
    else:
        raise DTypeError(f"{op}: attn_mask must be boolean or floating point, got {mask.dtype}")
    if not dead.array.any():
        return softmax(scores, dim=-1)
    return apply(WHERE, dead, 0.0, softmax(apply(WHERE, dead, 0.0, scores), dim=-1))
