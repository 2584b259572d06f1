"""Losses of distances and of densities as functions; what a mean weighs is told in ``functional_loss``."""

from __future__ import annotations

import math
import warnings
from typing import Any

from ..amp.casting import in_float32
from ..errors import RangeError, ShapeError
from ..graph import apply
from ..ops.arithmetic import WHERE
from ..ops.loss import MSE_LOSS
from ..tensor import Tensor
from .reduction import check, reduced, refuse_old, samples, warn_of_broadcast


def _weights(op: str, input: Tensor, weight: Any, sample_weight: Any) -> Any:
    """PyTorch's ``weight`` of elements and ``sample_weight`` are one thing; not both at once."""
    if weight is None:
        return sample_weight
    if sample_weight is not None:
        raise RangeError(f"{op}: give weight (elements) or sample_weight (samples), not both")
    if weight.shape != input.shape:
        raise ShapeError(f"{op}: weight must have the input's shape {input.shape}, got {weight.shape}")
    return weight


@in_float32
def mse_loss(
    input: Tensor,
    target: Tensor,
    size_average: None = None,
    reduce: None = None,
    reduction: str = "mean",
    weight: Tensor | None = None,
    *,
    sample_weight: Any = None,
) -> Tensor:
    """``(input - target)^2``, averaged over all elements; its weight is the number of samples.

    ``weight`` (the input's shape) or ``sample_weight`` (N,) makes it a weighted mean, ``sum(w * loss) / sum(w)``.

    >>> F.mse_loss(phalanx.tensor([1.0, 2.0]), phalanx.tensor([1.0, 4.0])).item()
    2.0
    """
    op = "mse_loss"
    refuse_old(op, size_average, reduce)
    check(op, reduction, input=input, target=target)
    warn_of_broadcast(op, input, target)
    weights = _weights(op, input, weight, sample_weight)
    if weights is not None:
        return reduced(op, apply(MSE_LOSS, input, target, reduction="none"), reduction, weights)
    loss = apply(MSE_LOSS, input, target, reduction=reduction)
    if reduction == "mean":
        loss._weight = samples(input.shape, target.shape)
    return loss


@in_float32
def l1_loss(
    input: Tensor,
    target: Tensor,
    size_average: None = None,
    reduce: None = None,
    reduction: str = "mean",
    weight: Tensor | None = None,
    *,
    sample_weight: Any = None,
) -> Tensor:
    """``|input - target|``, averaged over all elements; weights as in mse_loss.

    >>> F.l1_loss(phalanx.tensor([1.0, 2.0]), phalanx.tensor([1.0, 4.0])).item()
    1.0
    """
    op = "l1_loss"
    refuse_old(op, size_average, reduce)
    check(op, reduction, input=input, target=target)
    warn_of_broadcast(op, input, target)
    return reduced(op, (input - target).abs(), reduction, _weights(op, input, weight, sample_weight))


@in_float32
def smooth_l1_loss(
    input: Tensor,
    target: Tensor,
    size_average: None = None,
    reduce: None = None,
    reduction: str = "mean",
    beta: float = 1.0,
    *,
    sample_weight: Any = None,
) -> Tensor:
    """``d^2 / (2 beta)`` where ``d = |input - target| < beta``, else ``d - beta / 2``. Girshick, "Fast R-CNN", 2015.

    >>> F.smooth_l1_loss(phalanx.tensor([0.0, 0.0]), phalanx.tensor([1.0, 4.0])).item()
    2.0
    """
    op = "smooth_l1_loss"
    refuse_old(op, size_average, reduce)
    check(op, reduction, input=input, target=target)
    if beta < 0:
        raise RangeError(f"{op}: beta must not be negative, got {beta}")
    warn_of_broadcast(op, input, target)
    distance = (input - target).abs()
    if beta == 0:
        return reduced(op, distance, reduction, sample_weight)
    near = distance * distance * (0.5 / beta)
    losses = apply(WHERE, distance.array < beta, near, distance - 0.5 * beta)
    return reduced(op, losses, reduction, sample_weight)


@in_float32
def huber_loss(
    input: Tensor,
    target: Tensor,
    reduction: str = "mean",
    delta: float = 1.0,
    weight: Tensor | None = None,
    *,
    sample_weight: Any = None,
) -> Tensor:
    """``d^2 / 2`` where ``d = |input - target| <= delta``, else ``delta (d - delta / 2)``. Huber, 1964.

    ``weight`` (the input's shape) multiplies the elements' losses; unlike mse_loss's it does not divide the mean.

    >>> F.huber_loss(phalanx.tensor([0.0, 0.0]), phalanx.tensor([1.0, 4.0])).item()
    2.0
    """
    op = "huber_loss"
    check(op, reduction, input=input, target=target)
    if not delta > 0:
        raise RangeError(f"{op}: delta must be positive, got {delta}")
    warn_of_broadcast(op, input, target)
    distance = (input - target).abs()
    near = distance * distance * 0.5
    losses = apply(WHERE, distance.array <= delta, near, (distance - 0.5 * delta) * delta)
    if weight is not None:
        losses = losses * _weights(op, input, weight, None)
    return reduced(op, losses, reduction, sample_weight)


# ---- densities -------------------------------------------------------------------------------------------------------


@in_float32
def kl_div(
    input: Tensor,
    target: Tensor,
    size_average: None = None,
    reduce: None = None,
    reduction: str = "mean",
    log_target: bool = False,
    *,
    sample_weight: Any = None,
) -> Tensor:
    """``target * (log target - input)``: input log-probabilities, target probabilities, or their logarithms with ``log_target``.

    The divergence of Kullback and Leibler is ``reduction="batchmean"``, the sum divided by the first dimension; "mean" divides
    by all elements.

    >>> p = phalanx.tensor([[0.5, 0.5]])
    >>> F.kl_div(p.log(), p, reduction="batchmean").item()
    0.0
    """
    op = "kl_div"
    refuse_old(op, size_average, reduce)
    check(op, "sum" if reduction == "batchmean" else reduction, input=input, target=target)
    if reduction == "mean":
        warnings.warn(
            "kl_div: reduction='mean' divides by all elements; the divergence itself is reduction='batchmean'",
            stacklevel=3,
        )
    if log_target:
        losses = target.exp() * (target - input)
    else:
        positive = target.array > 0
        entropy = target * apply(WHERE, positive, target, target.dtype.type(1)).log()
        losses = entropy - target * input
    if reduction == "batchmean":
        each = losses.reshape(losses.shape[0], -1).sum(dim=1) if losses.array.size else losses
        return reduced(op, each if losses.ndim else losses, "mean", sample_weight)
    return reduced(op, losses, reduction, sample_weight)


@in_float32
def poisson_nll_loss(
    input: Tensor,
    target: Tensor,
    log_input: bool = True,
    full: bool = False,
    size_average: None = None,
    eps: float = 1e-8,
    reduce: None = None,
    reduction: str = "mean",
    *,
    sample_weight: Any = None,
) -> Tensor:
    """``exp(input) - target * input`` for the logarithm of a Poisson rate, ``input - target log(input + eps)`` for the rate.

    ``full`` adds Stirling's ``t log t - t + log(2 pi t) / 2`` for targets above 1.

    >>> F.poisson_nll_loss(phalanx.tensor([0.0]), phalanx.tensor([3.0])).item()
    1.0
    """
    op = "poisson_nll_loss"
    refuse_old(op, size_average, reduce)
    check(op, reduction, input=input, target=target)
    losses = input.exp() - target * input if log_input else input - target * (input + eps).log()
    if full:
        large = target.array > 1
        t = apply(WHERE, large, target, target.dtype.type(1))
        stirling = t * t.log() - t + (t * (2 * math.pi)).log() * 0.5
        losses = losses + apply(WHERE, large, stirling, target.dtype.type(0))
    return reduced(op, losses, reduction, sample_weight)


@in_float32
def gaussian_nll_loss(
    input: Tensor,
    target: Tensor,
    var: Tensor | float,
    full: bool = False,
    eps: float = 1e-6,
    reduction: str = "mean",
    *,
    sample_weight: Any = None,
) -> Tensor:
    """``(log(var) + (input - target)^2 / var) / 2``, the variance not below ``eps``; ``full`` adds ``log(2 pi) / 2``.

    ``var`` has the input's shape, that shape with 1 or nothing as its last dimension, or is a number. Nix and Weigend, 1994.

    >>> F.gaussian_nll_loss(phalanx.tensor([0.0]), phalanx.tensor([2.0]), phalanx.ones(1)).item()
    2.0
    """
    op = "gaussian_nll_loss"
    check(op, reduction, input=input, target=target)
    if not isinstance(var, Tensor):
        var = Tensor(input.array * 0 + input.dtype.type(var))
    if var.array.size and var.array.min() < 0:
        raise RangeError(f"{op}: var must not be negative, got {var.array.min()}")
    if var.shape != input.shape:
        if input.shape[:-1] == var.shape:
            var = var.unsqueeze(-1)
        elif var.ndim != input.ndim or sum(a != b for a, b in zip(var.shape, input.shape, strict=True)) != 1:
            raise ShapeError(
                f"{op}: var must have the input's shape {input.shape}, perhaps 1 at the end, got {var.shape}"
            )
    floor = var.detach().clamp(min=eps) - var.detach()  # the value is raised, the gradient passes
    variance = var + floor
    difference = input - target
    losses = (variance.log() + difference * difference / variance) * 0.5
    if full:
        losses = losses + 0.5 * math.log(2 * math.pi)
    return reduced(op, losses, reduction, sample_weight)
