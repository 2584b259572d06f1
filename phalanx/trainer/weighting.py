"""Weights of samples and classes: a mean loss in which some samples count more."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from ..core.backend import array_module, to_host
from ..core.errors import RangeError, ShapeError
from ..core.nn.module import Module
from ..core.tensor import Tensor


class WeightedLoss:
    """``loss(prediction, target)``, with weights of samples where there are some.

    The weighted mean is ``sum(weight * loss) / sum(weight)``; its own weight in the sum over shards is ``sum(weight)``. A loss
    that knows ``sample_weight`` gets it; of others the losses of single samples are asked for by ``reduction="none"``.
    """

    def __init__(self, loss: Callable[..., Any]) -> None:
        if not callable(loss):
            raise TypeError(
                f"Trainer expects the loss to be a module or function of prediction and target, got {loss!r}"
            )
        self.loss = loss
        self._weighted: Callable[..., Any] | None = None

    def __call__(self, prediction: Any, target: Any, sample_weight: Any = None) -> Any:
        if target is None:
            return self.loss(prediction)
        if sample_weight is None:
            return self.loss(prediction, target)
        if self._weighted is None:
            self._weighted = _with_weights(self.loss)
        return self._weighted(prediction, target, sample_weight)


def _with_weights(loss: Callable[..., Any]) -> Callable[[Any, Any, Any], Any]:
    known = inspect.signature(loss.forward if isinstance(loss, Module) else loss).parameters
    if "sample_weight" in known:
        return lambda prediction, target, weight: loss(prediction, target, sample_weight=weight)
    if isinstance(loss, Module) and getattr(loss, "reduction", None) == "mean":
        single = copy.copy(loss)
        single.reduction = "none"
        return partial(_mean_of, single)
    if "reduction" in known:
        return partial(_mean_of, partial(loss, reduction="none"))
    name = getattr(loss, "__name__", type(loss).__name__)
    raise RangeError(
        f"sample and class weights need the losses of single samples, which {name} does not give: use a loss with "
        'reduction="mean" of phalanx.nn, or take an argument sample_weight'
    )


def _mean_of(losses_of: Callable[..., Any], prediction: Any, target: Any, weight: Any) -> Any:
    losses = losses_of(prediction, target)
    if losses.ndim > 1:
        losses = losses.flatten(1).mean(1)
    if losses.shape != weight.shape:
        raise ShapeError(
            f"weights of samples must have the shape of the losses, {losses.shape}, got {weight.shape}: one number a sample"
        )
    weight = weight.to(losses.dtype)
    total = float(weight.sum().item())
    loss = (losses * weight).sum() / (total or 1.0)
    loss.weight = total
    return loss


class ClassWeights:
    """Factors by class: ``{class: factor}`` (others count 1) or one factor for each class."""

    def __init__(self, factors: Mapping[int, float] | Sequence[float] | Any) -> None:
        if isinstance(factors, Mapping):
            if not all(isinstance(key, int | np.integer) and key >= 0 for key in factors):
                raise RangeError(f"class_weight expects classes 0, 1, ... as keys, got {sorted(map(repr, factors))}")
            table = np.ones(max(factors, default=0) + 1, np.float32)
            for key, factor in factors.items():
                table[key] = factor
            self._more = True
        else:
            table = np.asarray(to_host(factors.array) if isinstance(factors, Tensor) else factors, np.float32)
            self._more = False
        if table.ndim != 1 or not table.size or not np.isfinite(table).all() or (table < 0).any():
            raise RangeError(
                f"class_weight expects a factor of at least 0 for each class, in a dict or in order, got {factors!r}"
            )
        self._table = table

    def of(self, target: Any) -> Tensor:
        """The factor of each sample: target (N,) or (N, 1) of classes, or (N, C) one-hot or probabilities."""
        if target is None:
            raise RangeError("class_weight needs targets: give data as (x, y)")
        labels = to_host(target.array)
        if labels.ndim == 2 and labels.shape[1] > 1:
            labels = labels.argmax(axis=1)
        labels = labels.reshape(-1) if labels.ndim == 2 else labels
        if labels.ndim != 1:
            raise ShapeError(
                f"class_weight needs one class for each sample, targets of shape {target.shape} have more: give the loss a "
                "weight, for example nn.CrossEntropyLoss(weight=...)"
            )
        labels = labels.astype(np.int64)
        table = self._table
        beyond = labels.max(initial=0)
        if labels.min(initial=0) < 0 or (beyond >= len(table) and not self._more):
            raise RangeError(
                f"class_weight has factors for the classes 0 to {len(table) - 1}, the targets have "
                f"{labels.min(initial=0)} to {beyond}"
            )
        if beyond >= len(table):
            table = np.concatenate([table, np.ones(beyond + 1 - len(table), np.float32)])
        return Tensor(array_module(target.array).asarray(table[labels]))
