"""Reference kernels: matrix products, softmax and the losses on it, embedding, dropout.

Plain array code for NumPy and CuPy arrays alike, and the oracle of every faster provider. A result is a function of the
inputs' values, shapes and strides only. Half precision is widened to float32 inside and narrowed at the end.

Dimensions: N rows (samples or tokens), C classes, I and O features in and out, V vocabulary, D embedding width.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from ..backend import array_module
from ..bfloat16 import is_half
from ..op import Array
from . import reference_erf

ONE_HOT_VOCABULARY = 64
"""Up to this many rows the embedding's gradient is one matrix product with a one-hot matrix."""


def wide(x: Array) -> Array:
    """``x`` in the precision that sums are done in: float16 and bfloat16 become float32, all else stays as it is."""
    return x.astype(np.float32) if is_half(x.dtype) else x


def deliver(value: Array, dtype: np.dtype, out: Array | None) -> Array:
    """``value`` as ``dtype``, in ``out`` if there is one."""
    if out is None:
        return value.astype(dtype, copy=False)
    if value is not out:
        out[...] = value
    return out


def as_rows(x: Array) -> Array:
    """(..., I) -> (N, I), widened."""
    return wide(x).reshape(math.prod(x.shape[:-1]), x.shape[-1])


# ---- products --------------------------------------------------------------------------------------------------------


def matmul(a: Array, b: Array, out: Array | None = None) -> Array:
    """``a @ b``; halves are multiplied and summed in float32 and rounded once. Raises ValueError if shapes do not fit."""
    if is_half(a.dtype):
        return deliver(np.matmul(a.astype(np.float32), b.astype(np.float32)), a.dtype, out)
    return np.matmul(a, b) if out is None else np.matmul(a, b, out=out)


def linear_forward(x: Array, weight: Array, bias: Array | None = None) -> Array:
    """``x @ weight.T + bias``: x (..., I), weight (O, I), bias (O,) -> (..., O)."""
    xp = array_module(x)
    rows = as_rows(x)
    y = xp.matmul(rows, wide(weight).T)
    if bias is not None:
        y += bias
    return y.astype(x.dtype, copy=False).reshape(x.shape[:-1] + (weight.shape[0],))


def linear_input_gradient(gradient: Array, weight: Array, out: Array | None = None) -> Array:
    """``gradient @ weight``: gradient (..., O), weight (O, I) -> (..., I)."""
    xp = array_module(gradient)
    shape = gradient.shape[:-1] + (weight.shape[1],)
    rows = as_rows(gradient)
    if out is not None and out.dtype == rows.dtype:
        xp.matmul(rows, wide(weight), out=out.reshape(len(rows), weight.shape[1]))
        return out
    return deliver(xp.matmul(rows, wide(weight)).reshape(shape), gradient.dtype, out)


def linear_weight_gradient(gradient: Array, x: Array, out: Array | None = None) -> Array:
    """``gradient.T @ x`` over all rows: gradient (..., O), x (..., I) -> (O, I)."""
    xp = array_module(gradient)
    columns = as_rows(gradient).T
    rows = as_rows(x)
    if out is not None and out.dtype == rows.dtype:
        return xp.matmul(columns, rows, out=out)
    return deliver(xp.matmul(columns, rows), x.dtype, out)


def bias_gradient(gradient: Array, out: Array | None = None) -> Array:
    """Sum over all but the last axis: gradient (..., O) -> (O,)."""
    xp = array_module(gradient)
    rows = as_rows(gradient)
    if out is not None and out.dtype == rows.dtype:
        return xp.sum(rows, axis=0, out=out)
    return deliver(xp.sum(rows, axis=0), gradient.dtype, out)


# ---- softmax ---------------------------------------------------------------------------------------------------------


def softmax_forward(x: Array, axis: int = -1) -> Array:
    """``exp(x) / sum(exp(x))`` along ``axis``, shifted by the maximum; same shape and dtype."""
    xp = array_module(x)
    if x.size == 0:
        return xp.zeros_like(x)
    work = wide(x)
    y = work - xp.max(work, axis=axis, keepdims=True)
    xp.exp(y, out=y)
    y /= xp.sum(y, axis=axis, keepdims=True)
    return y.astype(x.dtype, copy=False)


def softmax_backward(gradient: Array, y: Array, axis: int = -1) -> Array:
    """``y * (gradient - sum(gradient * y))`` along ``axis``; ``y`` is the softmax."""
    xp = array_module(y)
    work, dx = wide(y), wide(gradient) * wide(y)
    total = xp.sum(dx, axis=axis, keepdims=True)
    dx -= work * total
    return dx.astype(y.dtype, copy=False)


def log_softmax_forward(x: Array, axis: int = -1) -> Array:
    """``x - log(sum(exp(x)))`` along ``axis``, shifted by the maximum; same shape and dtype."""
    xp = array_module(x)
    if x.size == 0:
        return xp.zeros_like(x)
    work = wide(x)
    y = work - xp.max(work, axis=axis, keepdims=True)
    y -= xp.log(xp.sum(xp.exp(y), axis=axis, keepdims=True))
    return y.astype(x.dtype, copy=False)


def log_softmax_backward(gradient: Array, y: Array, axis: int = -1) -> Array:
    """``gradient - exp(y) * sum(gradient)`` along ``axis``; ``y`` is the log-softmax."""
    xp = array_module(y)
    work = wide(gradient)
    dx = xp.exp(wide(y))
    dx *= -xp.sum(work, axis=axis, keepdims=True)
    dx += work
    return dx.astype(y.dtype, copy=False)


# ---- losses over classes ---------------------------------------------------------------------------------------------


def label_weights(labels: Array, class_weight: Array | None, ignore_index: int, dtype: np.dtype) -> tuple[Array, Array]:
    """(labels with the ignored ones at class 0, weight of each row): the weight of an ignored row is 0."""
    xp = array_module(labels)
    kept = labels != ignore_index
    safe = xp.where(kept, labels, 0)
    if class_weight is None:
        return safe, kept.astype(dtype)
    return safe, xp.where(kept, class_weight.astype(dtype, copy=False)[safe], dtype.type(0))


def cross_entropy_forward(
    logits: Array, labels: Array, class_weight: Array | None, ignore_index: int, smoothing: float
) -> tuple[Array, Array, Array, Array]:
    """Losses of rows of logits against integer labels: logits (N, C), labels (N,), class_weight (C,) or None.

    ``loss = (1 - s) * w[label] * -logp[label] + s / C * sum_c w[c] * -logp[c]``, 0 for an ignored row.
    Returns losses (N,), the rows' weights (N,), and what the backward wants: the rows' maxima and the logarithms of the
    sums of their shifted exponentials, (N, 1) both.
    """
    xp = array_module(logits)
    work = wide(logits)
    top = xp.max(work, axis=1, keepdims=True) if work.size else xp.zeros((len(work), 1), work.dtype)
    log_p = work - top
    log_sum = xp.log(xp.sum(xp.exp(log_p), axis=1, keepdims=True)) if work.size else top
    log_p -= log_sum
    safe, weights = label_weights(labels, class_weight, ignore_index, log_p.dtype)
    losses = xp.where(weights != 0, -log_p[xp.arange(len(labels)), safe] * weights, log_p.dtype.type(0))
    if smoothing:
        spread = log_p if class_weight is None else log_p * class_weight
        smooth = -xp.sum(spread, axis=1)
        smooth[labels == ignore_index] = 0.0
        losses = (1.0 - smoothing) * losses + (smoothing / logits.shape[1]) * smooth
    return losses, weights, top, log_sum


def cross_entropy_backward(
    row_gradient: Array,
    logits: Array,
    top: Array,
    log_sum: Array,
    labels: Array,
    class_weight: Array | None,
    ignore_index: int,
    smoothing: float,
) -> Array:
    """Gradient (N, C) of the logits from that of the losses: ``row_gradient`` is (N,) or a scalar array.

    With q the target's weights per class, a row's gradient is ``softmax * sum(q) - q``. Half precision comes out as float32.
    """
    xp = array_module(logits)
    classes = logits.shape[1]
    dx = wide(logits) - top
    dx -= log_sum
    xp.exp(dx, out=dx)
    safe, weights = label_weights(labels, class_weight, ignore_index, dx.dtype)
    scale = weights * row_gradient if not smoothing else weights * row_gradient * (1.0 - smoothing)
    if not smoothing:
        dx *= scale[:, None]
        dx[xp.arange(len(labels)), safe] -= scale
        return dx
    every = (labels != ignore_index) * row_gradient * (smoothing / classes)
    spread = xp.ones(classes, dx.dtype) if class_weight is None else class_weight.astype(dx.dtype, copy=False)
    dx *= (scale + every * xp.sum(spread))[:, None]
    dx -= every[:, None] * spread
    dx[xp.arange(len(labels)), safe] -= scale
    return dx


def nll_forward(log_p: Array, labels: Array, class_weight: Array | None, ignore_index: int) -> tuple[Array, Array]:
    """Losses ``-w[label] * log_p[label]`` (N,) and the rows' weights (N,): log_p (N, C), labels (N,)."""
    xp = array_module(log_p)
    work = wide(log_p)
    safe, weights = label_weights(labels, class_weight, ignore_index, work.dtype)
    losses = xp.where(weights != 0, -work[xp.arange(len(labels)), safe] * weights, work.dtype.type(0))
    return losses, weights


def nll_backward(
    row_gradient: Array, shape: tuple[int, int], labels: Array, class_weight: Array | None, ignore_index: int
) -> Array:
    """Gradient (N, C) of the log-probabilities from that of the losses, (N,) or a scalar array."""
    xp = array_module(labels)
    safe, weights = label_weights(labels, class_weight, ignore_index, row_gradient.dtype)
    dx = xp.zeros(shape, row_gradient.dtype)
    dx[xp.arange(len(labels)), safe] = -weights * row_gradient
    return dx


def row_sums(losses: Array, weights: Array) -> tuple[Array, Array]:
    """Sum of the rows' losses and of their weights."""
    xp = array_module(losses)
    return xp.sum(losses), xp.sum(weights)


# ---- embedding -------------------------------------------------------------------------------------------------------


def embedding_forward(indices: Array, weight: Array) -> Array:
    """``weight[indices]``: indices (...), weight (V, D) -> (..., D)."""
    return array_module(weight).take(weight, indices, axis=0)


def _fold_segments(rows: Array, starts: Array, lengths: Array) -> Array:
    """Sums of runs of consecutive rows, each by a balanced binary tree; ``rows`` (N, D) is overwritten.

    In round k the row at place p of its run takes in the row at p + 2^k, for every p that 2^(k+1) divides: all
    runs at once, N row additions in all whatever the lengths are.
    """
    xp = array_module(rows)
    place = xp.arange(len(rows)) - xp.repeat(starts, lengths)
    length = xp.repeat(lengths, lengths)
    live = xp.arange(len(rows))
    distance, longest = 1, int(lengths.max())
    while distance < longest:
        live = live[place[live] % (2 * distance) == 0]
        taking = live[place[live] + distance < length[live]]
        rows[taking] += rows[taking + distance]
        distance *= 2
    return rows[starts]


def embedding_backward(
    gradient: Array, indices: Array, vocabulary: int, padding_idx: int | None = None, out: Array | None = None
) -> Array:
    """Sum of the gradient's rows by index: gradient (..., D), indices (...) -> (V, D).

    Deterministic: rows of one index are added by a tree over their order of appearance. Row ``padding_idx`` is 0.
    """
    xp = array_module(gradient)
    width = gradient.shape[-1]
    rows, flat = as_rows(gradient), indices.reshape(-1)
    if out is None or out.dtype != rows.dtype:
        target = xp.zeros((vocabulary, width), rows.dtype)
    else:
        target = out
        target[...] = 0
    if flat.size:
        if vocabulary <= ONE_HOT_VOCABULARY:
            one_hot = (xp.arange(vocabulary)[:, None] == flat[None, :]).astype(rows.dtype)
            xp.matmul(one_hot, rows, out=target)
        else:
            order = xp.argsort(flat, kind="stable")
            ordered = flat[order]
            starts = xp.flatnonzero(xp.concatenate([xp.ones(1, bool), ordered[1:] != ordered[:-1]]))
            lengths = xp.diff(xp.concatenate([starts, xp.asarray([len(ordered)])]))
            target[ordered[starts]] = _fold_segments(rows[order], starts, lengths)
        if padding_idx is not None:
            target[padding_idx] = 0
    return deliver(target, gradient.dtype, out)


# ---- dropout ---------------------------------------------------------------------------------------------------------


def dropout_apply(x: Array, keep: Array, scale: float) -> Array:
    """``x * keep * scale``; forward and backward alike. ``keep`` is boolean, of the same shape."""
    y = array_module(x).multiply(x, keep)
    y *= x.dtype.type(scale)
    return y


KERNELS: dict[str, Callable[..., Array]] = {
    **reference_erf.KERNELS,
    "matmul": matmul,
    "linear_forward": linear_forward,
    "linear_input_gradient": linear_input_gradient,
    "linear_weight_gradient": linear_weight_gradient,
    "bias_gradient": bias_gradient,
    "softmax_forward": softmax_forward,
    "softmax_backward": softmax_backward,
    "log_softmax_forward": log_softmax_forward,
    "log_softmax_backward": log_softmax_backward,
    "cross_entropy_forward": cross_entropy_forward,
    "cross_entropy_backward": cross_entropy_backward,
    "nll_forward": nll_forward,
    "nll_backward": nll_backward,
    "row_sums": row_sums,
    "embedding_forward": embedding_forward,
    "embedding_backward": embedding_backward,
    "dropout_apply": dropout_apply,
}
