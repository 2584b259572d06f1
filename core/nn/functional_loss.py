"""Losses over classes as functions; those of distances and margins are in files of their own.

With ``reduction="mean"`` the returned Tensor knows its **weight**, how many items were averaged (``loss.weight``): unignored
labels (with class weights the sum of the labels' weights) for the class losses, samples (the first dimension) for
the others. The sum over shards uses it. A mean over nothing is 0 with weight 0 and a gradient of zeros, where PyTorch gives NaN:
shards may be empty.

``sample_weight`` (one number a sample, or one an item) makes a mean ``sum(w * loss) / sum(w)`` with the weight sum(w).
"""

from __future__ import annotations

from typing import Any

from ..amp.casting import in_float32
from ..backend import array_module, device_kind
from ..bfloat16 import is_floating
from ..errors import DTypeError, RangeError, ShapeError
from ..graph import apply
from ..live import live
from ..op import Op
from ..ops.loss import BCE_WITH_LOGITS, BINARY_CROSS_ENTROPY, CROSS_ENTROPY, NLL_LOSS, REDUCTIONS
from ..tensor import Tensor
from .functional_activation import log_softmax
from .reduction import check, item_weights, reduced, refuse_old, weighted_mean

# ---- classes ---------------------------------------------------------------------------------------------------------


def cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: None = None,
    ignore_index: int = -100,
    reduce: None = None,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
    *,
    sample_weight: Any = None,
) -> Tensor:
    """``-log softmax(input)[target]``, averaged over the labels that are not ``ignore_index``.

    Shapes: input (N, C), (N, C, ...) or (C,); target integer labels (N,), (N, ...) or (), or probabilities of the input's
    shape; ``weight`` (C,); ``sample_weight`` (N,) or of the labels' shape. A weighted mean divides by the sum of the weights.
    Raises RangeError for a label outside of [0, C), DTypeError for labels that are not integers.

    >>> loss = F.cross_entropy(phalanx.zeros(2, 4), phalanx.tensor([0, 3]))
    >>> round(loss.item(), 4), loss.weight
    (1.3863, 2.0)
    """
    if size_average is not None or reduce is not None:
        refuse_old("cross_entropy", size_average, reduce)
    if not (isinstance(input, Tensor) and isinstance(target, Tensor) and reduction in REDUCTIONS):
        check("cross_entropy", reduction, input=input, target=target)
    if not 0.0 <= label_smoothing <= 1.0:
        raise RangeError(f"cross_entropy: label_smoothing must be in [0, 1], got {label_smoothing}")
    dtype = target.dtype
    if dtype.kind not in "iu" and is_floating(dtype) and target.shape == input.shape and input.ndim:
        return _cross_entropy_probabilities(input, target, weight, reduction, label_smoothing, sample_weight)
    smoothing = {"label_smoothing": float(label_smoothing)}
    return _of_classes(CROSS_ENTROPY, input, target, weight, ignore_index, reduction, sample_weight, smoothing)


def _of_classes(
    op: Op,
    input: Tensor,
    target: Tensor,
    weight: Tensor | None,
    ignore_index: int,
    reduction: str,
    sample_weight: Any,
    options: dict[str, Any],
) -> Tensor:
    lone = input.ndim == 1 and target.ndim in (0, 1)  # one sample without a batch dimension
    if lone:
        input, target = input.unsqueeze(0), target.reshape(1)
    options["ignore_index"] = ignore_index
    if sample_weight is None:
        loss, total = apply(op, input, target, weight, reduction=reduction, **options)
        if reduction == "mean":
            loss._weight = divided_by(total)
    else:
        losses, _ = apply(op, input, target, weight, reduction="none", **options)
        items = item_weights(op.name, sample_weight, target.shape, losses.array)
        weighted = losses * Tensor(items.astype(losses.dtype, copy=False))
        labels, xp = target.array, array_module(losses.array)
        kept = labels != ignore_index
        counted = kept if weight is None else xp.where(kept, weight.array[xp.where(kept, labels, 0)], 0)
        loss = weighted_mean(weighted, float((items * counted).sum()), reduction)
    return loss.reshape(()) if lone and reduction == "none" else loss


@live
def _counted(total: Tensor) -> float:
    return float(total.array)


def divided_by(total: Tensor) -> Any:
    """What a mean divided by: a number, or on a device an array that nobody has waited for."""
    return _counted(total) if device_kind(total.array) == "cpu" else total.array


@in_float32
def _cross_entropy_probabilities(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None,
    reduction: str,
    label_smoothing: float,
    sample_weight: Any,
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
    total = float(input.array.size // max(1, classes))
    if sample_weight is not None:
        items = item_weights("cross_entropy", sample_weight, losses.shape, losses.array)
        losses = losses * Tensor(items.astype(losses.dtype, copy=False))
        total = float(items.sum()) * (losses.array.size // max(1, items.size))
    return weighted_mean(losses, total, reduction)


def nll_loss(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: None = None,
    ignore_index: int = -100,
    reduce: None = None,
    reduction: str = "mean",
    *,
    sample_weight: Any = None,
) -> Tensor:
    """``-input[target]`` for log-probabilities (N, C, ...), averaged as in cross_entropy.

    >>> F.nll_loss(phalanx.tensor([[-1.0, -2.0]]), phalanx.tensor([1])).item()
    2.0
    """
    refuse_old("nll_loss", size_average, reduce)
    check("nll_loss", reduction, input=input, target=target)
    return _of_classes(NLL_LOSS, input, target, weight, ignore_index, reduction, sample_weight, {})


# ---- yes or no -------------------------------------------------------------------------------------------------------


@in_float32
def binary_cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: None = None,
    reduce: None = None,
    reduction: str = "mean",
    *,
    sample_weight: Any = None,
) -> Tensor:
    """``-(t log p + (1 - t) log(1 - p))`` for probabilities p, logarithms not below -100; two equal shapes.

    ``weight`` multiplies the elements' losses and broadcasts. Raises RangeError for an input outside of [0, 1].

    >>> round(F.binary_cross_entropy(phalanx.tensor([0.5]), phalanx.tensor([1.0])).item(), 4)
    0.6931
    """
    op = "binary_cross_entropy"
    refuse_old(op, size_average, reduce)
    check(op, reduction, input=input, target=target)
    losses = apply(BINARY_CROSS_ENTROPY, input, target)
    return reduced(op, losses if weight is None else losses * weight, reduction, sample_weight)


def binary_cross_entropy_with_logits(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: None = None,
    reduce: None = None,
    reduction: str = "mean",
    pos_weight: Tensor | None = None,
    *,
    sample_weight: Any = None,
) -> Tensor:
    """binary_cross_entropy of ``sigmoid(input)`` without overflow; ``pos_weight`` multiplies the term of positive targets.

    >>> round(F.binary_cross_entropy_with_logits(phalanx.tensor([0.0]), phalanx.tensor([1.0])).item(), 4)
    0.6931
    """
    op = "binary_cross_entropy_with_logits"
    refuse_old(op, size_average, reduce)
    check(op, reduction, input=input, target=target)
    if pos_weight is not None and pos_weight.requires_grad:
        raise DTypeError(f"{op}: pos_weight is a constant and gets no gradient; detach it")
    losses = apply(BCE_WITH_LOGITS, input, target, pos_weight)
    return reduced(op, losses if weight is None else losses * weight, reduction, sample_weight)
