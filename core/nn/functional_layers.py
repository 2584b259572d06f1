"""Linear map, norms, embedding, dropout and attention as functions."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ..backend import array_module
from ..errors import DTypeError, RangeError, ShapeError
from ..graph import apply
from ..op import Array
from ..ops.arithmetic import WHERE
from ..ops.dropout import DROPOUT
from ..ops.embedding import EMBEDDING
from ..ops.linear import LINEAR
from ..ops.norm import BATCH_NORM_EVAL, BATCH_NORM_TRAIN, LAYER_NORM
from ..rng import keep_mask, next_key
from ..tensor import Tensor
from .functional_activation import softmax


def linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``x @ weight.T + bias``: input (..., I), weight (O, I), bias (O,) -> (..., O).

    Raises ShapeError if the last dimension is not I.
    """
    return apply(LINEAR, input, weight, bias)


def batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """``(x - mean) / sqrt(var + eps) * weight + bias`` per channel (dimension 1): (N, C, ...) to the same.

    With ``training`` mean and variance are the batch's, and the running ones move by ``momentum`` (the running variance is
    unbiased); without, they are the running ones. Ioffe and Szegedy, "Batch Normalization", 2015.
    """
    if not training:
        if running_mean is None or running_var is None:
            raise RangeError("batch_norm: running_mean and running_var are needed when training is False")
        return apply(BATCH_NORM_EVAL, input, running_mean, running_var, weight, bias, eps=eps)
    y, mean, deviations = batch_norm_with_statistics(input, weight, bias, eps)
    count = input.array.size // max(1, mean.size)
    if count:
        for running, seen in ((running_mean, mean), (running_var, deviations / max(1, count - 1))):
            if running is not None:
                running.array *= 1.0 - momentum
                running.array += (momentum * seen).astype(running.array.dtype, copy=False)
    return y


def batch_norm_with_statistics(
    input: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    *,
    allow_single: bool = False,
) -> tuple[Tensor, Array, Array]:
    """batch_norm by the batch's statistics: (output, mean (C,), sum of squared deviations M2 (C,)), the last two arrays.

    Raises ShapeError for one single value per channel, whose variance says nothing, unless ``allow_single``: a shard
    of the last batch may hold one sample, and its output is then ``bias``. An empty batch is allowed.
    """
    array = input.array
    if not allow_single and array.ndim > 1 and array.shape[1] and array.size // array.shape[1] == 1:
        raise ShapeError(f"batch_norm: expected more than 1 value per channel when training, got shape {array.shape}")
    y, mean, deviations = apply(BATCH_NORM_TRAIN, input, weight, bias, eps=eps)
    return y, mean.array, deviations.array


def layer_norm(
    input: Tensor,
    normalized_shape: int | Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """``(x - mean) / sqrt(var + eps) * weight + bias`` over the last dimensions, which are ``normalized_shape``.

    Ba, Kiros and Hinton, "Layer Normalization", 2016.
    """
    shape = (normalized_shape,) if isinstance(normalized_shape, int) else tuple(normalized_shape)
    return apply(LAYER_NORM, input, weight, bias, shape=shape, eps=eps)


def embedding(input: Tensor, weight: Tensor, padding_idx: int | None = None) -> Tensor:
    """``weight[input]``: integer input (...), weight (V, D) -> (..., D). Row ``padding_idx`` gets no gradient.

    Raises RangeError for an index outside [0, V), DTypeError for an input that is not of integers.
    """
    if padding_idx is not None:
        rows = weight.shape[0]
        if not -rows <= padding_idx < rows:
            raise RangeError(f"embedding: padding_idx must be within the {rows} rows, got {padding_idx}")
        padding_idx %= rows
    return apply(EMBEDDING, weight, input, padding_idx=padding_idx)


def dropout(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """Zero each element with probability ``p`` and scale the others by ``1 / (1 - p)``; without ``training`` the input.

    The mask is keyed by (seed, step, shard, call). Srivastava et al., "Dropout", 2014.
    """
    if not 0.0 <= p <= 1.0:
        raise RangeError(f"dropout: p must be a probability in [0, 1], got {p}")
    if not training or p == 0.0:
        return input
    array = input.array
    if p == 1.0:
        keep, scale = np.zeros(array.shape, bool), 0.0
    else:
        keep, scale = keep_mask(array.shape, p, next_key("dropout")), 1.0 / (1.0 - p)
    return apply(DROPOUT, input, array_module(array).asarray(keep), scale=scale)


def scaled_dot_product_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
) -> Tensor:
    """``softmax(query key^T * scale + mask) value``: query (..., L, E), key (..., S, E), value (..., S, V) -> (..., L, V).

    ``attn_mask`` is boolean (True takes part) or added to the scores; ``is_causal`` lets place i see places up to i; ``scale``
    is 1/sqrt(E) if not given. Vaswani et al., "Attention Is All You Need", 2017.
    """
    op = "scaled_dot_product_attention"
    if query.shape[-1:] != key.shape[-1:] or key.shape[-2:-1] != value.shape[-2:-1]:
        raise ShapeError(
            f"{op}: expected query (..., L, E), key (..., S, E) and value (..., S, V), got {query.shape}, {key.shape} and "
            f"{value.shape}"
        )
    if is_causal and attn_mask is not None:
        raise RangeError(f"{op}: give attn_mask or is_causal=True, not both")
    factor = 1.0 / math.sqrt(query.shape[-1]) if scale is None else scale
    scores = (query * factor) @ key.transpose(-2, -1)
    if is_causal:
        length, places = scores.shape[-2:]
        allowed = array_module(scores.array).tri(length, places, dtype=bool)
        weights = softmax(apply(WHERE, allowed, scores, float("-inf")), dim=-1)
    else:
        weights = softmax(scores, dim=-1) if attn_mask is None else _masked_softmax(op, scores, attn_mask)
    return dropout(weights, dropout_p) @ value


def _masked_softmax(op: str, scores: Tensor, mask: Tensor) -> Tensor:
    """Softmax of masked scores; rows that may attend to nothing give zeros, as in PyTorch, and not NaN."""
    if mask.dtype == bool:
        scores, dead = apply(WHERE, mask, scores, float("-inf")), ~mask.array.any(axis=-1, keepdims=True)
    elif mask.dtype.kind == "f":
        scores, dead = scores + mask, (mask.array == float("-inf")).all(axis=-1, keepdims=True)
    else:
        raise DTypeError(f"{op}: attn_mask must be boolean or floating point, got {mask.dtype}")
    if not dead.any():
        return softmax(scores, dim=-1)
    return apply(WHERE, dead, 0.0, softmax(apply(WHERE, dead, 0.0, scores), dim=-1))
