"""Losses: cross-entropy, negative log-likelihood, squared error, binary cross-entropy with logits.

The class losses give a second output without gradient: the sum of the rows' weights, which is what a mean divides by.
A mean over nothing (an empty batch, or all labels ignored) is 0 with a gradient of 0, where PyTorch gives NaN: a shard may
well be empty, and its loss then counts with weight 0.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from ..backend import array_module, as_array, device_kind
from ..bfloat16 import is_half
from ..errors import DTypeError, RangeError, ShapeError
from ..kernels.bound import FLOAT32, INT64, bound, is_plain
from ..kernels.reference_bce import softplus_of_minus
from ..kernels.table import kernel
from ..op import Array, Op, define
from . import expect

REDUCTIONS = ("mean", "sum", "none")


def check_reduction(op: str, reduction: str) -> None:
    """``reduction`` is one that exists."""
    if reduction not in REDUCTIONS:
        raise RangeError(f"{op}: reduction must be one of {', '.join(REDUCTIONS)}, got {reduction!r}")


# ---- losses over classes


def _class_rows(scores: Array) -> Array:
    """(N, C, ...) -> (rows, C): one row for each label, in the order of the labels."""
    if scores.ndim == 2:
        return scores
    last = array_module(scores).moveaxis(scores, 1, -1)
    return last.reshape(scores.size // max(1, scores.shape[1]), scores.shape[1])


def _class_unrows(rows: Array, shape: tuple[int, ...]) -> Array:
    """The way back: (rows, C) -> (N, C, ...)."""
    if len(shape) == 2:
        return rows
    xp = array_module(rows)
    return xp.ascontiguousarray(xp.moveaxis(rows.reshape((shape[0],) + shape[2:] + shape[1:2]), -1, 1))


def _check_classes(op: str, scores: Array, labels: Array, class_weight: Array | None, ignore_index: int) -> None:
    _check_shapes(op, scores, labels, class_weight)
    expect.within(op, "label", labels, scores.shape[1], _hint(scores.shape, ignore_index), skip=ignore_index)


def _check_shapes(op: str, scores: Array, labels: Array, class_weight: Array | None) -> None:
    if scores.dtype.kind not in "fV":
        expect.one_float_dtype(op, input=scores)
    if scores.ndim < 2:
        raise ShapeError(f"{op}: input must be (batch, classes, ...) or (classes,), got shape {scores.shape}")
    if labels.dtype.kind not in "iu":
        raise DTypeError(
            f"{op}: labels must be integers (class numbers), got {labels.dtype}; convert them with .long()"
            + (", or give probabilities of the input's shape" if op == "cross_entropy" else "")
        )
    expected = scores.shape[:1] + scores.shape[2:]
    if labels.shape != expected:
        raise ShapeError(
            f"{op}: an input of shape {scores.shape} (batch, classes, ...) expects labels of shape {expected}, got "
            f"{labels.shape}"
        )
    if class_weight is not None and class_weight.shape != scores.shape[1:2]:
        classes = scores.shape[1]
        raise ShapeError(f"{op}: weight must have one element for each of {classes} classes, got {class_weight.shape}")


@lru_cache(64)
def _hint(shape: tuple[int, ...], ignore_index: int) -> str:
    return f": the input of shape {shape} has {shape[1]} classes (ignore_index is {ignore_index})"


def _reduce(
    losses: Array, weights: Array, labels: Array, reduction: str, dtype: Any
) -> tuple[Array, Array, Array | None]:
    """(loss, total weight, what the mean divides by) of rows."""
    xp = array_module(losses)
    loss, total = kernel("row_sums", device_kind(losses))(losses, weights)
    if reduction == "none":
        return losses.reshape(labels.shape).astype(dtype, copy=False), total, None
    if reduction == "sum":
        return xp.asarray(loss, dtype), total, None
    one = total.dtype.type(1)
    count = (
        (total if total != 0 else one) if xp is np else xp.where(total != 0, total, one)
    )  # nobody waits for a device
    return xp.asarray(loss / count, dtype), total, count


def _row_gradient(gradient: Array, count: Array | None, reduction: str, dtype: Any) -> Array:
    """Gradient of each row's loss: a scalar array, or (rows,) without a reduction."""
    g = gradient.astype(dtype, copy=False)
    if reduction == "none":
        return g.reshape(-1)
    return as_array(g if count is None else g / count)


def _cross_entropy(
    logits: Array,
    labels: Array,
    class_weight: Array | None = None,
    *,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
) -> tuple[tuple[Array, Array], Any]:
    op, shape = "cross_entropy", logits.shape
    if reduction == "mean" and len(shape) == 2 and class_weight is None and not label_smoothing:
        _check_shapes(op, logits, labels, None)
        work = kernel("mean_cross_entropy", device_kind(logits))
        loss, total, count, *moments = work(op, logits, labels, ignore_index, _hint(shape, ignore_index))
        arguments = (logits, *moments, labels, None, ignore_index, label_smoothing)
        return (loss, total), (arguments, (count, reduction, count.dtype), shape, logits.dtype)
    _check_classes(op, logits, labels, class_weight, ignore_index)
    flat, rows = labels.reshape(-1), _class_rows(logits)
    options = (flat, class_weight, ignore_index, label_smoothing)
    losses, weights, *moments = kernel("cross_entropy_forward", device_kind(logits))(rows, *options)
    loss, total, count = _reduce(losses, weights, labels, reduction, logits.dtype)
    return (loss, total), ((rows, *moments, *options), (count, reduction, weights.dtype), shape, logits.dtype)


def _cross_entropy_vjp(saved: Any, gradient: Any, needs: Any, slots: Any) -> tuple[Array | None, ...]:
    arguments, reduced, shape, dtype = saved
    rows = _row_gradient(gradient[0], *reduced)
    dx = kernel("cross_entropy_backward", device_kind(rows))(rows, *arguments)
    return (_class_unrows(dx, shape).astype(dtype, copy=False), None, None)[: len(needs)]


def _bind_cross_entropy(
    shapes: Any, *, ignore_index: int = -100, label_smoothing: float = 0.0, reduction: str = "mean"
) -> Op | None:
    of_logits, of_labels, *others = shapes
    if reduction != "mean" or len(of_logits) != 2 or others not in ([], [None]) or label_smoothing:
        return None
    run, gradient_of = bound("mean_cross_entropy", of_logits), bound("cross_entropy_backward", (), of_logits)
    hint, options = _hint(of_logits, ignore_index), (None, ignore_index, label_smoothing)

    def forward(logits: Array, labels: Array, class_weight: None = None) -> tuple[tuple[Array, Array], Any]:
        if is_plain(logits, of_logits) and is_plain(labels, of_labels, INT64):
            loss, total, count, *moments = run("cross_entropy", logits, labels, ignore_index, hint)
            arguments = [logits, *moments, labels, *options]  # a list: of arrays that lie as said
            return (loss, total), (arguments, (count, "mean", FLOAT32), of_logits, FLOAT32)
        return _cross_entropy(
            logits, labels, ignore_index=ignore_index, label_smoothing=label_smoothing, reduction=reduction
        )

    def vjp(saved: Any, gradient: Any, needs: Any, slots: Any) -> tuple[Array | None, ...]:
        arguments, (count, *_), _, _ = saved
        if not (arguments.__class__ is list and is_plain(gradient[0], ())):
            return _cross_entropy_vjp(saved, gradient, needs, slots)
        rows = np.empty((), FLOAT32)
        np.divide(gradient[0], count, rows)
        return (gradient_of(rows, *arguments), None, None)[: len(needs)]

    return Op("cross_entropy", forward, vjp, (0,))


CROSS_ENTROPY = define(
    "cross_entropy", _cross_entropy, _cross_entropy_vjp, differentiable=(0,), bind=_bind_cross_entropy
)
"""Inputs logits (N, C, ...), integer labels (N, ...), perhaps class weights (C,). Outputs loss and sum of weights."""


def _nll_loss(
    log_p: Array,
    labels: Array,
    class_weight: Array | None = None,
    *,
    ignore_index: int = -100,
    reduction: str = "mean",
) -> tuple[tuple[Array, Array], Any]:
    _check_classes("nll_loss", log_p, labels, class_weight, ignore_index)
    flat, rows = labels.reshape(-1), _class_rows(log_p)
    losses, weights = kernel("nll_forward", device_kind(log_p))(rows, flat, class_weight, ignore_index)
    loss, total, count = _reduce(losses, weights, labels, reduction, log_p.dtype)
    reduced = (count, reduction, weights.dtype)
    return (loss, total), (rows.shape, flat, (class_weight, ignore_index), reduced, log_p.shape, log_p.dtype)


def _nll_loss_vjp(saved: Any, gradient: Any, needs: Any, slots: Any) -> tuple[Array | None, ...]:
    row_shape, labels, options, reduced, shape, dtype = saved
    rows = _row_gradient(gradient[0], *reduced)
    dx = kernel("nll_backward", device_kind(rows))(rows, row_shape, labels, *options)
    return (_class_unrows(dx, shape).astype(dtype, copy=False), None, None)[: len(needs)]


NLL_LOSS = define("nll_loss", _nll_loss, _nll_loss_vjp, differentiable=(0,))
"""Inputs log-probabilities (N, C, ...), integer labels (N, ...), perhaps class weights (C,). As cross_entropy."""


# ---- squared error


def _reduce_plain(values: Array, reduction: str) -> Array:
    """Sum or mean in float32 or better; a mean over nothing is 0."""
    if reduction == "none":
        return values
    xp = array_module(values)
    total = xp.sum(values, dtype=np.float32 if is_half(values.dtype) else None)
    return xp.asarray(total / max(1, values.size) if reduction == "mean" else total, values.dtype)


def _factor(gradient: Array, size: int, reduction: str) -> Array:
    """Gradient of each element of what ``_reduce_plain`` reduced."""
    return gradient / gradient.dtype.type(max(1, size)) if reduction == "mean" else gradient


def _mse_loss(x: Array, target: Array, *, reduction: str = "mean") -> tuple[Array, Any]:
    expect.one_float_dtype("mse_loss", input=x, target=target)
    difference = x - target
    return _reduce_plain(difference * difference, reduction), (difference, reduction)


def _mse_loss_vjp(saved: Any, gradient: Array, needs: Any, slots: Any) -> tuple[Array | None, ...]:
    difference, reduction = saved
    dx = difference * (_factor(gradient, difference.size, reduction) * difference.dtype.type(2))
    return dx if needs[0] else None, -dx if needs[1] else None


MSE_LOSS = define("mse_loss", _mse_loss, _mse_loss_vjp)
"""``(x - target)^2``, reduced; both inputs may want gradients and may broadcast."""


# ---- binary cross-entropy of logits


def _bce_with_logits(x: Array, target: Array, pos_weight: Array | None = None) -> tuple[Array, Any]:
    expect.one_float_dtype("binary_cross_entropy_with_logits", input=x, target=target)
    if x.shape != target.shape:
        raise ShapeError(
            f"binary_cross_entropy_with_logits: target must have the input's shape {x.shape}, got {target.shape}"
        )
    return kernel("bce_logits_forward", device_kind(x))(x, target, pos_weight), (x, target, pos_weight)


def _bce_with_logits_vjp(saved: Any, gradient: Array, needs: Any, slots: Any) -> tuple[Array | None, ...]:
    x, target, pos_weight = saved
    dx, dt = None, None
    if needs[0]:
        dx = kernel("bce_logits_backward", device_kind(x))(gradient, x, target, pos_weight)
    if needs[1]:
        dt = gradient * (-x if pos_weight is None else (pos_weight - 1) * softplus_of_minus(x) - x)
    return (dx, dt, None)[: len(needs)]


BCE_WITH_LOGITS = define("bce_with_logits", _bce_with_logits, _bce_with_logits_vjp)
"""``(1 - t) x + (1 + (p - 1) t) log(1 + exp(-x))`` for each element: inputs x, target t, perhaps pos_weight p."""


# ---- binary cross-entropy of probabilities

LOG_FLOOR = -100.0
"""Logarithms are cut off here, as PyTorch does, so that a sure and wrong probability costs 100 and not infinity."""
_PRODUCT_FLOOR = 1e-12


def _binary_cross_entropy(p: Array, target: Array) -> tuple[Array, Any]:
    op = "binary_cross_entropy"
    expect.one_float_dtype(op, input=p, target=target)
    if p.shape != target.shape:
        raise ShapeError(f"{op}: target must have the input's shape {p.shape}, got {target.shape}")
    if p.size and not (p.min() >= 0 and p.max() <= 1):
        raise RangeError(
            f"{op}: the input must be probabilities in [0, 1], got values from {p.min()} to {p.max()}; for logits use "
            f"{op}_with_logits"
        )
    xp = array_module(p)
    with np.errstate(divide="ignore"):
        yes, no = xp.maximum(xp.log(p), LOG_FLOOR), xp.maximum(xp.log1p(-p), LOG_FLOOR)
    return (target - 1) * no - target * yes, (p, target, yes, no)


def _binary_cross_entropy_vjp(saved: Any, gradient: Array, needs: Any, slots: Any) -> tuple[Array | None, ...]:
    p, target, yes, no = saved
    xp = array_module(p)
    dp = gradient * ((p - target) / xp.maximum((1 - p) * p, _PRODUCT_FLOOR)) if needs[0] else None
    return dp, gradient * (no - yes) if needs[1] else None


BINARY_CROSS_ENTROPY = define("binary_cross_entropy", _binary_cross_entropy, _binary_cross_entropy_vjp)
"""``-(t log p + (1 - t) log(1 - p))`` for each element, logarithms not below -100."""
