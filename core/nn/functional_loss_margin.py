"""Losses of margins as functions; what a mean weighs is told in ``functional_loss``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..amp.casting import in_float32
from ..backend import array_module
from ..errors import RangeError, ShapeError
from ..graph import apply
from ..op import Array
from ..ops import expect
from ..ops.arithmetic import MINIMUM, WHERE
from ..tensor import Tensor
from .functional_activation import logsigmoid
from .functional_distance import pairwise_distance
from .reduction import check, reduced, refuse_old


def _positive_part(x: Tensor) -> Tensor:
    """max(x, 0)."""
    return x.clamp(min=0.0)


def _keep(mask: Array, x: Tensor) -> Tensor:
    """x where ``mask``, else 0."""
    return apply(WHERE, mask, x, x.dtype.type(0))


def _no_margin_below_zero(op: str, margin: float) -> None:
    if not margin > 0:
        raise RangeError(f"{op}: margin must be positive, got {margin}")


@in_float32
def hinge_embedding_loss(
    input: Tensor,
    target: Tensor,
    margin: float = 1.0,
    size_average: None = None,
    reduce: None = None,
    reduction: str = "mean",
    *,
    sample_weight: Any = None,
) -> Tensor:
    """Of distances x: x where the target is 1, ``max(0, margin - x)`` where it is -1.

    >>> F.hinge_embedding_loss(phalanx.tensor([0.5, 0.25]), phalanx.tensor([1.0, -1.0]), reduction="none").tolist()
    [0.5, 0.75]
    """
    op = "hinge_embedding_loss"
    refuse_old(op, size_average, reduce)
    check(op, reduction, input=input, target=target)
    losses = _keep(target.array != 1, _positive_part(margin - input)) + _keep(target.array != -1, input)
    return reduced(op, losses, reduction, sample_weight)


@in_float32
def margin_ranking_loss(
    input1: Tensor,
    input2: Tensor,
    target: Tensor,
    margin: float = 0,
    size_average: None = None,
    reduce: None = None,
    reduction: str = "mean",
    *,
    sample_weight: Any = None,
) -> Tensor:
    """``max(0, -target (input1 - input2) + margin)``: target 1 wants the first larger, -1 the second.

    >>> F.margin_ranking_loss(phalanx.tensor([1.0]), phalanx.tensor([3.0]), phalanx.tensor([1.0])).item()
    2.0
    """
    op = "margin_ranking_loss"
    refuse_old(op, size_average, reduce)
    check(op, reduction, input1=input1, input2=input2, target=target)
    if not input1.ndim == input2.ndim == target.ndim:
        raise ShapeError(
            f"{op}: inputs and target must have equally many dimensions, got shapes {input1.shape}, {input2.shape} and "
            f"{target.shape}"
        )
    return reduced(op, _positive_part((input2 - input1) * target + margin), reduction, sample_weight)


@in_float32
def soft_margin_loss(
    input: Tensor,
    target: Tensor,
    size_average: None = None,
    reduce: None = None,
    reduction: str = "mean",
    *,
    sample_weight: Any = None,
) -> Tensor:
    """``log(1 + exp(-target input))`` for targets 1 and -1.

    >>> round(F.soft_margin_loss(phalanx.tensor([0.0]), phalanx.tensor([1.0])).item(), 4)
    0.6931
    """
    op = "soft_margin_loss"
    refuse_old(op, size_average, reduce)
    check(op, reduction, input=input, target=target)
    if input.shape != target.shape:
        raise ShapeError(f"{op}: target must have the input's shape {input.shape}, got {target.shape}")
    return reduced(op, -logsigmoid(target * input), reduction, sample_weight)


# ---- of classes ------------------------------------------------------------------------------------------------------


@in_float32
def multi_margin_loss(
    input: Tensor,
    target: Tensor,
    p: int = 1,
    margin: float = 1.0,
    weight: Tensor | None = None,
    size_average: None = None,
    reduce: None = None,
    reduction: str = "mean",
    *,
    sample_weight: Any = None,
) -> Tensor:
    """Multi-class hinge loss: the mean over classes c of ``max(0, margin - x[label] + x[c])^p``, the label's own left out.

    Shapes: input (N, C) or (C,), integer target (N,) or (), ``weight`` (C,) multiplies by the label's weight.

    >>> F.multi_margin_loss(phalanx.tensor([[0.0, 0.5]]), phalanx.tensor([0])).item()
    0.75
    """
    op = "multi_margin_loss"
    refuse_old(op, size_average, reduce)
    check(op, reduction, input=input, target=target)
    if p not in (1, 2):
        raise RangeError(f"{op}: p must be 1 or 2, got {p}")
    lone = input.ndim == 1
    if lone:
        input, target = input.unsqueeze(0), target.reshape(1)
    if input.ndim != 2 or target.shape != input.shape[:1]:
        raise ShapeError(f"{op}: expected input (N, C) and labels (N,), got shapes {input.shape} and {target.shape}")
    classes = input.shape[1]
    expect.integers(op, "labels", target.array)
    expect.within(op, "label", target.array, classes)
    if weight is not None and weight.shape != (classes,):
        raise ShapeError(f"{op}: weight must have one element for each of {classes} classes, got {weight.shape}")
    labels = target.array
    others = array_module(labels).arange(classes)[None, :] != labels[:, None]
    hinge = _positive_part(input - input.gather(1, target.unsqueeze(1)) + margin)
    losses = _keep(others, hinge if p == 1 else hinge * hinge).sum(dim=1) / classes
    if weight is not None:
        losses = losses * weight[target]
    loss = reduced(op, losses, reduction, sample_weight)
    return loss.reshape(()) if lone and reduction == "none" else loss


@in_float32
def multilabel_margin_loss(
    input: Tensor,
    target: Tensor,
    size_average: None = None,
    reduce: None = None,
    reduction: str = "mean",
    *,
    sample_weight: Any = None,
) -> Tensor:
    """Hinge loss of several labels: the sum over labels j and other classes i of ``max(0, 1 - (x[j] - x[i])) / C``.

    Shapes: input (N, C) or (C,); integer target of that shape: a sample's labels first, then -1 (what follows is ignored).

    >>> x, labels = phalanx.tensor([[0.5, 0.0, 0.5]]), phalanx.tensor([[2, -1, 0]])
    >>> F.multilabel_margin_loss(x, labels).item()
    0.5
    """
    op = "multilabel_margin_loss"
    refuse_old(op, size_average, reduce)
    check(op, reduction, input=input, target=target)
    if input.shape != target.shape or input.ndim not in (1, 2):
        raise ShapeError(f"{op}: expected input (N, C) and labels of that shape, got {input.shape} and {target.shape}")
    lone = input.ndim == 1
    if lone:
        input, target = input.unsqueeze(0), target.unsqueeze(0)
    classes, labels = input.shape[1], target.array
    xp = array_module(labels)
    expect.integers(op, "labels", labels)
    listed = xp.cumsum(labels < 0, axis=1) == 0  # before the first -1
    expect.within(op, "label", xp.where(listed, labels, 0), classes)
    safe = xp.where(listed, labels, 0)
    chosen = (listed[:, :, None] & (safe[:, :, None] == xp.arange(classes))).any(axis=1)
    differences = input.unsqueeze(1) - input.gather(1, Tensor(safe)).unsqueeze(2) + 1.0  # (N, labels, C)
    pairs = listed[:, :, None] & ~chosen[:, None, :]
    losses = _keep(pairs, _positive_part(differences)).sum(dim=(1, 2)) / classes
    loss = reduced(op, losses, reduction, sample_weight)
    return loss.reshape(()) if lone and reduction == "none" else loss


@in_float32
def multilabel_soft_margin_loss(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: None = None,
    reduce: None = None,
    reduction: str = "mean",
    *,
    sample_weight: Any = None,
) -> Tensor:
    """binary_cross_entropy_with_logits averaged over the classes (last dimension); ``weight`` multiplies the classes.

    >>> round(F.multilabel_soft_margin_loss(phalanx.zeros(2, 3), phalanx.ones(2, 3)).item(), 4)
    0.6931
    """
    op = "multilabel_soft_margin_loss"
    refuse_old(op, size_average, reduce)
    check(op, reduction, input=input, target=target)
    losses = -(target * logsigmoid(input) + (1.0 - target) * logsigmoid(-input))
    if weight is not None:
        losses = losses * weight
    return reduced(op, losses.mean(dim=-1), reduction, sample_weight)


# ---- of vectors ------------------------------------------------------------------------------------------------------

_COSINE_EPS = 1e-12
"""Added to the squared lengths, as in PyTorch."""


@in_float32
def cosine_embedding_loss(
    input1: Tensor,
    input2: Tensor,
    target: Tensor,
    margin: float = 0,
    size_average: None = None,
    reduce: None = None,
    reduction: str = "mean",
    *,
    sample_weight: Any = None,
) -> Tensor:
    """``1 - cos`` of vectors (N, D) whose target (N,) is 1, ``max(0, cos - margin)`` where it is -1.

    >>> a, b = phalanx.tensor([[1.0, 0.0]]), phalanx.tensor([[0.0, 1.0]])
    >>> F.cosine_embedding_loss(a, b, phalanx.tensor([1.0])).item()
    1.0
    """
    op = "cosine_embedding_loss"
    refuse_old(op, size_average, reduce)
    check(op, reduction, input1=input1, input2=input2, target=target)
    if input1.shape != input2.shape or input1.ndim not in (1, 2) or target.shape != input1.shape[:-1]:
        raise ShapeError(
            f"{op}: expected two inputs (N, D) and a target (N,), got shapes {input1.shape}, {input2.shape} and {target.shape}"
        )
    squares = ((x * x).sum(dim=-1) + _COSINE_EPS for x in (input1, input2))
    lengths = next(squares) * next(squares)
    cosine = (input1 * input2).sum(dim=-1) / lengths.sqrt()
    losses = _keep(target.array == 1, 1.0 - cosine) + _keep(target.array == -1, _positive_part(cosine - margin))
    return reduced(op, losses, reduction, sample_weight)


@in_float32
def triplet_margin_loss(
    anchor: Tensor,
    positive: Tensor,
    negative: Tensor,
    margin: float = 1.0,
    p: float = 2,
    eps: float = 1e-6,
    swap: bool = False,
    size_average: None = None,
    reduce: None = None,
    reduction: str = "mean",
    *,
    sample_weight: Any = None,
) -> Tensor:
    """``max(0, d(anchor, positive) - d(anchor, negative) + margin)`` with ``d`` the p-norm of the difference plus eps.

    Shapes: three (N, D) or (D,). ``swap`` takes d(positive, negative) where that is smaller. Balntas et al., 2016.

    >>> a, p, n = phalanx.zeros(1, 2), phalanx.zeros(1, 2), phalanx.tensor([[3.0, 4.0]])
    >>> F.triplet_margin_loss(a, p, n).item()
    0.0
    """
    op = "triplet_margin_loss"
    refuse_old(op, size_average, reduce)

    def distance(x: Tensor, y: Tensor) -> Tensor:
        return pairwise_distance(x, y, p, eps)

    return _triplet(op, anchor, positive, negative, distance, margin, swap, reduction, sample_weight)


@in_float32
def triplet_margin_with_distance_loss(
    anchor: Tensor,
    positive: Tensor,
    negative: Tensor,
    *,
    distance_function: Callable[[Tensor, Tensor], Tensor] | None = None,
    margin: float = 1.0,
    swap: bool = False,
    reduction: str = "mean",
    sample_weight: Any = None,
) -> Tensor:
    """triplet_margin_loss with a distance of your own; without one it is pairwise_distance.

    >>> far = lambda x, y: (x - y).abs().sum(dim=-1)
    >>> a, p, n = phalanx.zeros(1, 2), phalanx.ones(1, 2), phalanx.ones(1, 2)
    >>> F.triplet_margin_with_distance_loss(a, p, n, distance_function=far).item()
    1.0
    """
    op = "triplet_margin_with_distance_loss"
    distance = pairwise_distance if distance_function is None else distance_function
    return _triplet(op, anchor, positive, negative, distance, margin, swap, reduction, sample_weight)


def _triplet(
    op: str,
    anchor: Tensor,
    positive: Tensor,
    negative: Tensor,
    distance: Callable[[Tensor, Tensor], Tensor],
    margin: float,
    swap: bool,
    reduction: str,
    sample_weight: Any,
) -> Tensor:
    check(op, reduction, anchor=anchor, positive=positive, negative=negative)
    _no_margin_below_zero(op, margin)
    if not anchor.ndim == positive.ndim == negative.ndim:
        raise ShapeError(
            f"{op}: anchor, positive and negative must have equally many dimensions, got shapes {anchor.shape}, "
            f"{positive.shape} and {negative.shape}"
        )
    near, far = distance(anchor, positive), distance(anchor, negative)
    if swap:
        far = apply(MINIMUM, far, distance(positive, negative))
    return reduced(op, _positive_part(near - far + margin), reduction, sample_weight)
