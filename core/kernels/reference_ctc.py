"""Reference kernels: connectionist temporal classification, the loss of a labelling that says nothing about when.

Graves, Fernandez, Gomez, Schmidhuber, "Connectionist temporal classification", ICML 2006. Dimensions: T time steps, N samples,
C classes, S labels of the longest sample, E = 2 S + 1 labels with blanks between and around them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..backend import array_module
from ..op import Array
from .reference import wide


def _extended(labels: Array, blank: int) -> tuple[Array, Array]:
    """Labels with blanks (N, E), and where a step may leap over the blank before: to a label unlike the one before it."""
    xp = array_module(labels)
    extended = xp.full((labels.shape[0], 2 * labels.shape[1] + 1), blank, np.int64)
    extended[:, 1::2] = labels
    leap = xp.zeros(extended.shape, bool)
    leap[:, 3::2] = labels[:, 1:] != labels[:, :-1]
    return extended, leap


def _shifted(row: Array, places: int) -> Array:
    """(N, E) moved right by ``places`` (left if negative), -inf moving in."""
    moved = array_module(row).full(row.shape, -np.inf, row.dtype)
    if places > 0:
        moved[:, places:] = row[:, :-places]
    else:
        moved[:, :places] = row[:, -places:]
    return moved


def _emissions(log_p: Array, extended: Array) -> Array:
    """Log-probabilities of the extended labels: (T, N, C) -> (T, N, E)."""
    xp = array_module(log_p)
    return xp.take_along_axis(log_p, xp.broadcast_to(extended, (len(log_p),) + extended.shape), axis=2)


def _at_end(row: Array, label_lengths: Array) -> Array:
    """Sum of exp(row) over the two places where a path may end, the last label and the blank behind it: (N, E) -> log (N,)."""
    xp = array_module(row)
    end = 2 * label_lengths[:, None]
    blank, label = (xp.take_along_axis(row, place, axis=1)[:, 0] for place in (end, xp.maximum(end - 1, 0)))
    return xp.where(label_lengths > 0, xp.logaddexp(blank, label), blank)


def ctc_forward(log_p: Array, labels: Array, lengths: Array, label_lengths: Array, blank: int) -> tuple[Array, Array]:
    """Minus the log-probability of each sample's labelling (N,), and log alpha (T, N, E), which the backward wants.

    log_p (T, N, C), labels (N, S), of which the first ``label_lengths`` (N,) count, as do the first ``lengths`` (N,) steps.
    """
    xp = array_module(log_p)
    work = wide(log_p)
    extended, leap = _extended(labels, blank)
    emissions = _emissions(work, extended)
    alpha = xp.full(emissions.shape, -np.inf, work.dtype)
    losses = xp.full(len(labels), np.inf, work.dtype)
    if not emissions.size:
        return losses, alpha
    for t in range(len(emissions)):
        if t == 0:
            alpha[0, :, :2] = emissions[0, :, :2]
        else:
            before = alpha[t - 1]
            reached = xp.logaddexp(before, _shifted(before, 1))
            leapt = xp.where(leap, _shifted(before, 2), work.dtype.type(-np.inf)) if before.shape[1] > 2 else -np.inf
            alpha[t] = xp.logaddexp(reached, leapt) + emissions[t]
        losses = xp.where(lengths == t + 1, -_at_end(alpha[t], label_lengths), losses)
    return losses, alpha


def ctc_backward(gradient: Array, log_p: Array, alpha: Array, losses: Array, options: Any) -> Array:
    """Gradient of the log-probabilities (T, N, C): minus the probability, given the labelling, of each class at each step.

    ``gradient`` and ``losses`` (N,); ``options`` are labels, lengths, label_lengths, blank. An infinite loss gives NaN.
    """
    labels, lengths, label_lengths, blank = options
    xp = array_module(log_p)
    work = wide(log_p)
    extended, leap = _extended(labels, blank)
    emissions = _emissions(work, extended)
    never, last = work.dtype.type(-np.inf), 2 * label_lengths[:, None] - xp.arange(extended.shape[1])[None, :]
    end = xp.where((last == 0) | (last == 1), work.dtype.type(0), never)
    beta, shares = xp.full(extended.shape, -np.inf, work.dtype), xp.zeros(emissions.shape, work.dtype)
    for t in reversed(range(len(emissions))):  # beta: log-probability of the rest of the labelling from step t + 1 on
        if t + 1 < len(emissions):
            ahead = beta + emissions[t + 1]
            stay = xp.logaddexp(ahead, _shifted(ahead, -1))
            leapt = _shifted(xp.where(leap, ahead, never), -2) if extended.shape[1] > 2 else never
            beta = xp.logaddexp(stay, leapt)
        beta = xp.where((lengths == t + 1)[:, None], end, beta)
        with np.errstate(invalid="ignore"):
            share = xp.exp(alpha[t] + beta + losses[:, None])
        shares[t] = xp.where((lengths > t)[:, None], share, work.dtype.type(0))
    dx, samples = xp.zeros(work.shape, work.dtype), xp.arange(len(labels))
    for place in range(extended.shape[1]):  # in order: one class may stand at several places
        dx[:, samples, extended[:, place]] -= shares[:, :, place]
    return (dx * gradient[None, :, None]).astype(log_p.dtype, copy=False)


KERNELS: dict[str, Callable[..., Any]] = {"ctc_forward": ctc_forward, "ctc_backward": ctc_backward}
