"""The loss of connectionist temporal classification as a function."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..backend import array_module
from ..errors import ShapeError
from ..graph import apply
from ..op import Array
from ..ops.ctc import CTC
from ..tensor import Tensor
from .reduction import check, reduced


def _lengths(given: Any, batch: int, like: Array) -> Array:
    array = given.array if isinstance(given, Tensor) else np.asarray(given)
    return array_module(like).asarray(array).reshape(-1 if array.ndim else batch)


def _padded(op: str, labels: Array, label_lengths: Array) -> Array:
    """Labels of all samples one after another -> (N, S)."""
    xp = array_module(labels)
    if int(label_lengths.sum()) != labels.size:
        raise ShapeError(
            f"{op}: targets in one row must be as many as target_lengths say ({int(label_lengths.sum())}), got {labels.size}"
        )
    longest = int(label_lengths.max()) if label_lengths.size else 0
    rows = xp.zeros((len(label_lengths), longest), labels.dtype)
    rows[xp.arange(longest)[None, :] < label_lengths[:, None]] = labels
    return rows


def ctc_loss(
    log_probs: Tensor,
    targets: Tensor,
    input_lengths: Any,
    target_lengths: Any,
    blank: int = 0,
    reduction: str = "mean",
    zero_infinity: bool = False,
    *,
    sample_weight: Any = None,
) -> Tensor:
    """Minus the log-probability that a sequence reads as its labels, once repeats are merged and blanks removed.

    Shapes: log_probs (T, N, C) or (T, C), from log_softmax; targets (N, S), or all labels in one row; lengths (N,). "mean" divides
    each loss by its number of labels, then by N. A sequence too short for its labels costs infinity, or 0 with
    ``zero_infinity``. Gradients are those of ``log_probs`` as they stand. Graves et al., ICML 2006.

    >>> log_p = F.log_softmax(phalanx.zeros(2, 1, 2), dim=2)
    >>> round(F.ctc_loss(log_p, phalanx.tensor([[1]]), (2,), (1,)).item(), 4)  # three of four readings: 1-, -1, 11
    0.2877
    """
    op = "ctc_loss"
    check(op, reduction, log_probs=log_probs, targets=targets)
    lone = log_probs.ndim == 2
    if lone:
        log_probs = log_probs.unsqueeze(1)
        targets = targets.unsqueeze(0) if targets.ndim == 1 else targets
    if log_probs.ndim != 3:
        raise ShapeError(
            f"{op}: log_probs must be (time, batch, classes) or (time, classes), got shape {log_probs.shape}"
        )
    batch, labels = log_probs.shape[1], targets.array
    lengths, label_lengths = (_lengths(given, batch, labels) for given in (input_lengths, target_lengths))
    if labels.ndim == 1:
        labels = _padded(op, labels, label_lengths)
    losses = apply(CTC, log_probs, labels, lengths, label_lengths, blank=int(blank), zero_infinity=bool(zero_infinity))
    if reduction == "mean":
        per_label = np.maximum(label_lengths, 1).astype(losses.dtype)
        losses = losses / Tensor(per_label)
    loss = reduced(op, losses, reduction, sample_weight)
    return loss.squeeze(0) if lone and reduction == "none" else loss
