"""Losses as functions.

With ``reduction="mean"`` the returned Tensor knows its **weight**, how many items were averaged (``loss.weight``): unignored
labels (with class weights the sum of the labels' weights) for the class losses, samples (the first dimension) for
the others. The sum over shards uses it. A mean over nothing is 0 with weight 0 and a gradient of zeros, where PyTorch gives NaN:
shards may be empty.
"""

from __future__ import annotations

import warnings

from ..errors import DTypeError, RangeError, ShapeError
from ..graph import apply
from ..ops.arithmetic import WHERE
from ..ops.loss import (
    BCE_WITH_LOGITS,
    BINARY_CROSS_ENTROPY,
    CROSS_ENTROPY,
    MSE_LOSS,
    NLL_LOSS,
    check_reduction,
)
from ..tensor import Tensor
from .functional_activation import log_softmax


def _check(op: str, input: Tensor, target: Tensor, reduction: str) -> None:
    check_reduction(op, reduction)
    for name, given in (("input", input), ("target", target)):
        if not hasattr(given, "dtype"):
            raise DTypeError(
                f"{op}: {name} must be a Tensor, got {type(given).__name__}; make one with phalanx.tensor()"
            )


# ---- classes ---------------------------------------------------------------------------------------------------------


def _lone(input: Tensor, target: Tensor) -> bool:
    """One sample without a batch dimension: scores (C,) and a label () or probabilities (C,)."""
    return input.ndim == 1 and target.ndim in (0, 1)


def cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: None = None,
    ignore_index: int = -100,
    reduce: None = None,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Tensor:
    """``-log softmax(input)[target]``, averaged over the labels that are not ``ignore_index``.

    Shapes: input (N, C), (N, C, ...) or (C,); target integer labels (N,), (N, ...) or (), or probabilities of the input's
    shape; ``weight`` (C,). A weighted mean divides by the sum of the labels' weights. Raises RangeError for a label outside
    of [0, C), DTypeError for labels that are not integers.

    >>> import phalanx
    >>> loss = cross_entropy(phalanx.zeros(2, 4), phalanx.tensor([0, 3]))
    >>> round(loss.item(), 4), loss.weight
    (1.3863, 2.0)
    """
    _refuse_old("cross_entropy", size_average, reduce)
    _check("cross_entropy", input, target, reduction)
    if not 0.0 <= label_smoothing <= 1.0:
        raise RangeError(f"cross_entropy: label_smoothing must be in [0, 1], got {label_smoothing}")
    if target.dtype.kind == "f" and target.shape == input.shape and input.ndim:
        return _cross_entropy_probabilities(input, target, weight, reduction, label_smoothing)
    lone = _lone(input, target)
    if lone:
        input, target = input.unsqueeze(0), target.reshape(1)
    loss, total = apply(
        CROSS_ENTROPY,
        input,
        target,
        weight,
        ignore_index=ignore_index,
        label_smoothing=float(label_smoothing),
        reduction=reduction,
    )
    return _finish_classes(loss, total, reduction, lone)


def _finish_classes(loss: Tensor, total: Tensor, reduction: str, lone: bool) -> Tensor:
    if reduction == "mean":
        loss._weight = float(total.array)
    return loss.reshape(()) if lone and reduction == "none" else loss


def _cross_entropy_probabilities(
    input: Tensor, target: Tensor, weight: Tensor | None, reduction: str, label_smoothing: float
) -> Tensor:
    """Composed, so that the probabilities may want a gradient too."""
    axis = 0 if input.ndim == 1 else 1
    classes = input.shape[axis]
    if label_smoothing:
        target = target * (1.0 - label_smoothing) + label_smoothing / classes
    if weight is not None:
        if weight.shape != (classes,):
            raise ShapeError(f"cross_entropy: weight must have one element per class ({classes}), got {weight.shape}")
        target = target * weight.reshape((classes,) + (1,) * (input.ndim - axis - 1))
    losses = -(log_softmax(input, dim=axis) * target).sum(dim=axis)
    if reduction == "none":
        return losses
    loss = losses.sum()
    if reduction == "mean":
        count = input.array.size // max(1, classes)
        loss = loss / max(1, count)
        loss._weight = float(count)
    return loss


def nll_loss(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: None = None,
    ignore_index: int = -100,
    reduce: None = None,
    reduction: str = "mean",
) -> Tensor:
    """``-input[target]`` for log-probabilities (N, C, ...), averaged as in cross_entropy."""
    _refuse_old("nll_loss", size_average, reduce)
    _check("nll_loss", input, target, reduction)
    lone = _lone(input, target)
    if lone:
        input, target = input.unsqueeze(0), target.reshape(1)
    loss, total = apply(NLL_LOSS, input, target, weight, ignore_index=ignore_index, reduction=reduction)
    return _finish_classes(loss, total, reduction, lone)


# ---- elementwise -----------------------------------------------------------------------------------------------------


def _refuse_old(op: str, size_average: None, reduce: None) -> None:
    if size_average is not None or reduce is not None:
        raise RangeError(f"{op}: size_average and reduce are gone; use reduction='mean', 'sum' or 'none'")


def _same_shape(op: str, input: Tensor, target: Tensor) -> None:
    """Warn, as PyTorch does, where the two broadcast: nearly always a mistake."""
    if input.shape != target.shape:
        warnings.warn(
            f"{op}: the target's shape {target.shape} is not the input's {input.shape}; they are broadcast, which is "
            "likely not what is meant",
            stacklevel=3,
        )


def _samples(*shapes: tuple[int, ...]) -> float:
    """Samples of a loss of elements: the first dimension of the larger shape, 1 for a lone number."""
    shape = max(shapes, key=len)
    sizes = [s[0] for s in shapes if len(s) == len(shape) and s]
    return 1.0 if not sizes else float(0 if 0 in sizes else max(sizes))


def _reduced(losses: Tensor, reduction: str) -> Tensor:
    if reduction == "none":
        return losses
    if reduction == "sum":
        return losses.sum()
    loss = losses.mean() if losses.array.size else losses.sum()
    loss._weight = _samples(losses.shape)
    return loss


def mse_loss(
    input: Tensor, target: Tensor, size_average: None = None, reduce: None = None, reduction: str = "mean"
) -> Tensor:
    """``(input - target)^2``, averaged over all elements; its weight is the number of samples."""
    _refuse_old("mse_loss", size_average, reduce)
    _check("mse_loss", input, target, reduction)
    _same_shape("mse_loss", input, target)
    loss = apply(MSE_LOSS, input, target, reduction=reduction)
    if reduction == "mean":
        loss._weight = _samples(input.shape, target.shape)
    return loss


def l1_loss(
    input: Tensor, target: Tensor, size_average: None = None, reduce: None = None, reduction: str = "mean"
) -> Tensor:
    """``|input - target|``, averaged over all elements; its weight is the number of samples."""
    _refuse_old("l1_loss", size_average, reduce)
    _check("l1_loss", input, target, reduction)
    _same_shape("l1_loss", input, target)
    return _reduced((input - target).abs(), reduction)


def smooth_l1_loss(
    input: Tensor,
    target: Tensor,
    size_average: None = None,
    reduce: None = None,
    reduction: str = "mean",
    beta: float = 1.0,
) -> Tensor:
    """``d^2 / (2 beta)`` where ``d = |input - target| < beta``, else ``d - beta / 2``. Girshick, "Fast R-CNN", 2015."""
    _refuse_old("smooth_l1_loss", size_average, reduce)
    _check("smooth_l1_loss", input, target, reduction)
    if beta < 0:
        raise RangeError(f"smooth_l1_loss: beta must not be negative, got {beta}")
    _same_shape("smooth_l1_loss", input, target)
    distance = (input - target).abs()
    if beta == 0:
        return _reduced(distance, reduction)
    near = distance * distance * (0.5 / beta)
    return _reduced(apply(WHERE, distance.array < beta, near, distance - 0.5 * beta), reduction)


def binary_cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: None = None,
    reduce: None = None,
    reduction: str = "mean",
) -> Tensor:
    """``-(t log p + (1 - t) log(1 - p))`` for probabilities p, logarithms not below -100; two equal shapes.

    Raises RangeError for an input outside of [0, 1].
    """
    _refuse_old("binary_cross_entropy", size_average, reduce)
    _check("binary_cross_entropy", input, target, reduction)
    losses = apply(BINARY_CROSS_ENTROPY, input, target)
    return _reduced(losses if weight is None else losses * weight, reduction)


def binary_cross_entropy_with_logits(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: None = None,
    reduce: None = None,
    reduction: str = "mean",
    pos_weight: Tensor | None = None,
) -> Tensor:
    """binary_cross_entropy of ``sigmoid(input)`` without overflow; ``pos_weight`` multiplies the term of positive targets."""
    op = "binary_cross_entropy_with_logits"
    _refuse_old(op, size_average, reduce)
    _check(op, input, target, reduction)
    if pos_weight is not None and pos_weight.requires_grad:
        raise DTypeError(f"{op}: pos_weight is a constant and gets no gradient; detach it")
    losses = apply(BCE_WITH_LOGITS, input, target, pos_weight)
    return _reduced(losses if weight is None else losses * weight, reduction)
