"""How losses of items become one loss, and what it weighs: the part that all loss functions share."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from ..backend import array_module
from ..bfloat16 import is_half
from ..errors import DTypeError, RangeError, ShapeError
from ..op import Array
from ..ops.loss import check_reduction
from ..tensor import Tensor


def check(op: str, reduction: str, **tensors: Any) -> None:
    """``reduction`` exists, and what should be Tensors are."""
    check_reduction(op, reduction)
    for name, given in tensors.items():
        if not hasattr(given, "dtype"):
            raise DTypeError(
                f"{op}: {name} must be a Tensor, got {type(given).__name__}; make one with phalanx.tensor()"
            )


def refuse_old(op: str, size_average: Any, reduce: Any) -> None:
    """The two options that ``reduction`` replaced in PyTorch."""
    if size_average is not None or reduce is not None:
        raise RangeError(f"{op}: size_average and reduce are gone; use reduction='mean', 'sum' or 'none'")


def warn_of_broadcast(op: str, input: Tensor, target: Tensor) -> None:
    """Warn, as PyTorch does, where the two broadcast: nearly always a mistake."""
    if input.shape != target.shape:
        warnings.warn(
            f"{op}: the target's shape {target.shape} is not the input's {input.shape}; they are broadcast, which is "
            "likely not what is meant",
            stacklevel=4,
        )


def samples(*shapes: tuple[int, ...]) -> float:
    """Samples of a loss of elements: the first dimension of the larger shape, 1 for a lone number."""
    shape = max(shapes, key=len)
    sizes = [s[0] for s in shapes if len(s) == len(shape) and s]
    return 1.0 if not sizes else float(0 if 0 in sizes else max(sizes))


def item_weights(op: str, sample_weight: Any, shape: tuple[int, ...], like: Array) -> Array:
    """``sample_weight`` as an array that broadcasts to the losses' ``shape``: one number a sample, or one an item."""
    given = sample_weight.array if isinstance(sample_weight, Tensor) else np.asarray(sample_weight)
    if isinstance(sample_weight, Tensor) and sample_weight.requires_grad:
        raise DTypeError(f"{op}: sample_weight is a constant and gets no gradient; detach it")
    if given.dtype.kind not in "fiubV":
        raise DTypeError(f"{op}: sample_weight must be numbers, got {given.dtype}")
    if given.shape != shape[: given.ndim]:
        raise ShapeError(
            f"{op}: sample_weight must have one number for each of the {shape[0] if shape else 1} samples, or the losses' shape "
            f"{shape}, got shape {given.shape}"
        )
    dtype = np.float32 if is_half(like.dtype) else like.dtype
    return array_module(like).asarray(given, dtype).reshape(given.shape + (1,) * (len(shape) - given.ndim))


def reduced(op: str, losses: Tensor, reduction: str, sample_weight: Any = None) -> Tensor:
    """The losses of elements (N, ...) as one loss.

    A mean knows its weight, the number of samples; with ``sample_weight`` it is ``sum(w * loss) / sum(w)`` and its weight
    sum(w). A mean over nothing is 0.
    """
    if sample_weight is None:
        if reduction == "none":
            return losses
        if reduction == "sum":
            return losses.sum()
        loss = losses.mean() if losses.array.size else losses.sum()
        loss._weight = samples(losses.shape)
        return loss
    weights = item_weights(op, sample_weight, losses.shape, losses.array)
    weighted = losses * Tensor(weights.astype(losses.dtype, copy=False))
    each = losses.array.size // max(1, weights.size)  # elements that one weight counts for
    loss = weighted_mean(weighted, float(weights.sum()) * each, reduction)
    if reduction == "mean":
        loss._weight = loss._weight * samples(losses.shape) / max(1, losses.array.size)  # type: ignore[operator]
    return loss


def weighted_mean(weighted: Tensor, total: float, reduction: str) -> Tensor:
    """``sum(weighted) / total``, which is its weight, or the sum or the items themselves."""
    if reduction == "none":
        return weighted
    loss = weighted.sum()
    if reduction == "mean":
        loss = loss / (total if total else 1.0)
        loss._weight = total
    return loss
