"""Softmax and the losses over classes by compiled loops: float32 rows that lie one after another.

What else comes (other dtypes and axes, class weights, smoothing) goes to the reference. A row that holds NaN or +inf, or -inf only,
is NaN as a whole, as it is there. The order of sums is written down (:func:`mathematics.total`), and all else is exact arithmetic: the
same bits in every form of a loop and for every width of vectors.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from ...op import Array
from .. import reference, reference_checks, reference_mean_loss
from ..bound import BOUND
from .compiled import inline, loop, prange
from .dense import PLAIN
from .mathematics import ZERO, dot, exp_below, largest, total

FLOAT32, INT64 = np.dtype(np.float32), np.dtype(np.int64)
f4 = np.float32
NAN = f4(np.nan)

PART = 16
"""Rows that one thread takes at a time, where it needs memory to work in."""
EXACT_COUNT = 1 << 24
"""So many rows float32 still counts one by one."""


def lies_well(x: Array, dtype: np.dtype = FLOAT32) -> bool:
    """Whether ``x`` has elements, is of ``dtype``, and lies as compiled loops want it."""
    return x.dtype == dtype and x.flags.num & PLAIN == PLAIN and x.size > 0


def as_matrix(x: Array) -> Array:
    """(..., C) -> (M, C)."""
    return x if x.ndim == 2 else x.reshape(-1, x.shape[-1])


# ---- softmax ---------------------------------------------------------------------------------------------------------


@inline
def _highest(row):  # type: ignore[no-untyped-def]
    top = row[0]
    for i in range(row.size):
        top = largest(top, row[i])
    return top


@inline
def _share(shifted):  # type: ignore[no-untyped-def]
    """exp of what is not above 0; all else comes from NaN and infinity, and is NaN."""
    return exp_below(shifted) if shifted <= ZERO else NAN


@loop("f4[:,:], f4[:,:] out", exact=True)
def _softmax(x, y):  # type: ignore[no-untyped-def]
    for m in prange(x.shape[0]):
        a, b = x[m], y[m]
        top = _highest(a)
        for i in range(a.size):
            b[i] = _share(a[i] - top)
        scale = f4(1) / total(b)
        for i in range(b.size):
            b[i] *= scale


@loop("f4[:,:], f4[:,:], f4[:,:] out", exact=True)
def _softmax_gradient(g, y, dx):  # type: ignore[no-untyped-def]
    for m in prange(g.shape[0]):
        a, b, d = g[m], y[m], dx[m]
        mean = dot(a, b)
        for i in range(a.size):
            d[i] = b[i] * (a[i] - mean)


@loop("f4[:,:], f4[:,:] out", exact=True)
def _log_softmax(x, y):  # type: ignore[no-untyped-def]
    for m in prange(x.shape[0]):
        a, b = x[m], y[m]
        top = _highest(a)
        for i in range(a.size):
            b[i] = _share(a[i] - top)
        log = np.log(total(b))
        for i in range(a.size):
            b[i] = (a[i] - top) - log


@loop("f4[:,:], f4[:,:], f4[:,:] out", exact=True)
def _log_softmax_gradient(g, y, dx):  # type: ignore[no-untyped-def]
    for m in prange(g.shape[0]):
        a, b, d = g[m], y[m], dx[m]
        whole = total(a)
        for i in range(a.size):
            d[i] = a[i] - _share(b[i]) * whole


def _forward(run: Any, other: Callable[..., Array]) -> Callable[..., Array]:
    def forward(x: Array, axis: int = -1) -> Array:
        if axis not in (-1, x.ndim - 1) or not lies_well(x) or not x.ndim:
            return other(x, axis)
        y = np.empty_like(x)
        run(x.size, as_matrix(x), as_matrix(y))
        return y

    return forward


def _backward(run: Any, other: Callable[..., Array]) -> Callable[..., Array]:
    def backward(gradient: Array, y: Array, axis: int = -1) -> Array:
        if axis not in (-1, y.ndim - 1) or not lies_well(y) or not lies_well(gradient) or not y.ndim:
            return other(gradient, y, axis)
        dx = np.empty_like(y)
        run(y.size, as_matrix(gradient), as_matrix(y), as_matrix(dx))
        return dx

    return backward


# ---- losses over classes ---------------------------------------------------------------------------------------------


@loop("i8[:], i8, i8, b1", exact=True)
def _all_within(values, count, skip, skips):  # type: ignore[no-untyped-def]
    outside = 0
    for i in range(values.size):
        v = values[i]
        if (v < 0 or v >= count) and not (skips and v == skip):
            outside += 1
    return outside == 0


def check_within(op: str, name: str, values: Array, count: int, hint: str, skip: int | None) -> None:
    """As ``reference_checks.check_within``, which finds the words where there is something to say."""
    if lies_well(values, INT64) and _all_within(
        values.size, values.reshape(-1), count, 0 if skip is None else skip, skip is not None
    ):
        return
    reference_checks.check_within(op, name, values, count, hint, skip)


@inline
def _moments(row, shares):  # type: ignore[no-untyped-def]
    """A row's maximum, and the logarithm of the sum of exp of all else below it."""
    top = _highest(row)
    for i in range(row.size):
        shares[i] = _share(row[i] - top)
    return top, np.log(total(shares))


@loop("f4[:,:], i8[:], i8, f4[:] out, f4[:] out, f4[:,:] out, f4[:,:] out", exact=True)
def _cross_entropy(x, labels, ignore, losses, weights, tops, logs):  # type: ignore[no-untyped-def]
    rows, classes = x.shape
    for part in prange((rows + PART - 1) // PART):
        shares = np.empty(classes, np.float32)
        for m in range(part * PART, min((part + 1) * PART, rows)):
            a, label = x[m], labels[m]
            top, log = _moments(a, shares)
            tops[m, 0], logs[m, 0] = top, log
            losses[m] = ZERO if label == ignore else log - (a[label] - top)
            weights[m] = ZERO if label == ignore else f4(1)


@loop("f4[:,:], i8[:], i8, f4[:] out, f4[:,:] out, f4[:,:] out", exact=True)
def _mean_cross_entropy(x, labels, ignore, sums, tops, logs):  # type: ignore[no-untyped-def]
    rows, classes = x.shape
    losses = np.empty(rows, np.float32)
    outside = counted = 0
    for part in prange((rows + PART - 1) // PART):
        shares = np.empty(classes, np.float32)
        for m in range(part * PART, min((part + 1) * PART, rows)):
            a, label = x[m], labels[m]
            top, log = _moments(a, shares)
            tops[m, 0], logs[m, 0] = top, log
            losses[m] = ZERO
            if label >= 0 and label < classes and label != ignore:
                losses[m] = log - (a[label] - top)
                counted += 1
            elif label != ignore:
                outside += 1
    sums[1], sums[2] = f4(counted), f4(max(counted, 1))
    sums[0] = total(losses) / sums[2]
    return outside == 0


@loop("f4[:], i8, f4[:,:], f4[:,:], f4[:,:], i8[:], i8, f4[:,:] out", exact=True)
def _cross_entropy_gradient(gradient, step, x, tops, logs, labels, ignore, dx):  # type: ignore[no-untyped-def]
    for m in prange(x.shape[0]):
        a, d = x[m], dx[m]
        top, log, label = tops[m, 0], logs[m, 0], labels[m]
        scale = f4(0) if label == ignore else gradient[m * step]
        scale = scale if log >= f4(0) else NAN
        for i in range(a.size):
            d[i] = exp_below((a[i] - top) - log) * scale
        if label != ignore:
            d[label] -= scale


def cross_entropy_forward(
    logits: Array, labels: Array, class_weight: Array | None, ignore_index: int, smoothing: float
) -> tuple[Array, Array, Array, Array]:
    """As ``reference.cross_entropy_forward``."""
    if smoothing or class_weight is not None or not lies_well(logits) or not lies_well(labels, INT64):
        return reference.cross_entropy_forward(logits, labels, class_weight, ignore_index, smoothing)
    rows = len(logits)
    losses, weights = np.empty(rows, FLOAT32), np.empty(rows, FLOAT32)
    tops, logs = np.empty((rows, 1), FLOAT32), np.empty((rows, 1), FLOAT32)
    _cross_entropy(logits.size, logits, labels, ignore_index, losses, weights, tops, logs)
    return losses, weights, tops, logs


def mean_cross_entropy(
    op: str, logits: Array, labels: Array, ignore_index: int, hint: str
) -> tuple[Array, Array, Array, Array, Array]:
    """As ``reference_mean_loss.mean_cross_entropy``."""
    rows = len(logits)
    if lies_well(logits) and lies_well(labels, INT64) and rows <= EXACT_COUNT:
        sums = np.empty(3, FLOAT32)
        tops, logs = np.empty((rows, 1), FLOAT32), np.empty((rows, 1), FLOAT32)
        if _mean_cross_entropy(logits.size, logits, labels, ignore_index, sums, tops, logs):
            return sums[0, ...], sums[1, ...], sums[2, ...], tops, logs
    return reference_mean_loss.mean_cross_entropy(op, logits, labels, ignore_index, hint)


def _bind_mean_cross_entropy(logits: tuple[int, int]) -> Callable[..., Any] | None:
    (rows, classes), size = logits, math.prod(logits)
    if not 0 < rows <= EXACT_COUNT or not classes:
        return None
    column = rows, 1

    def run(op: str, logits: Array, labels: Array, ignore_index: int, hint: str) -> Any:
        sums, tops, logs = np.empty(3, FLOAT32), np.empty(column, FLOAT32), np.empty(column, FLOAT32)
        if _mean_cross_entropy(size, logits, labels, ignore_index, sums, tops, logs):
            return sums[0, ...], sums[1, ...], sums[2, ...], tops, logs
        return reference_mean_loss.mean_cross_entropy(op, logits, labels, ignore_index, hint)

    return run


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
    """As ``reference.cross_entropy_backward``."""
    served = not smoothing and class_weight is None and lies_well(logits) and lies_well(labels, INT64)
    if not served or not lies_well(row_gradient):
        return reference.cross_entropy_backward(
            row_gradient, logits, top, log_sum, labels, class_weight, ignore_index, smoothing
        )
    dx = np.empty_like(logits)
    _cross_entropy_gradient(
        dx.size, row_gradient.reshape(-1), row_gradient.ndim, logits, top, log_sum, labels, ignore_index, dx
    )
    return dx


def _bind_cross_entropy_backward(row_gradient: tuple[int, ...], logits: tuple[int, int]) -> Callable[..., Array]:
    size, step = math.prod(logits), len(row_gradient)

    def run(
        row_gradient: Array,
        x: Array,
        top: Array,
        log_sum: Array,
        labels: Array,
        class_weight: None,
        ignore_index: int,
        smoothing: float,
    ) -> Array:
        dx = np.empty(logits, FLOAT32)
        _cross_entropy_gradient(size, row_gradient.reshape(-1), step, x, top, log_sum, labels, ignore_index, dx)
        return dx

    return run


@loop("f4[:,:], i8[:], i8, f4[:] out, f4[:] out", exact=True)
def _nll(x, labels, ignore, losses, weights):  # type: ignore[no-untyped-def]
    for m in prange(x.shape[0]):
        label = labels[m]
        if label == ignore:
            losses[m] = weights[m] = f4(0)
        else:
            losses[m] = -x[m, label]
            weights[m] = f4(1)


@loop("f4[:], i8, i8[:], i8, f4[:,:] out", exact=True)
def _nll_gradient(gradient, step, labels, ignore, dx):  # type: ignore[no-untyped-def]
    for m in prange(dx.shape[0]):
        d, label = dx[m], labels[m]
        d[:] = f4(0)
        if label != ignore:
            d[label] = -gradient[m * step]


def nll_forward(log_p: Array, labels: Array, class_weight: Array | None, ignore_index: int) -> tuple[Array, Array]:
    """As ``reference.nll_forward``."""
    if class_weight is not None or not lies_well(log_p) or not lies_well(labels, INT64):
        return reference.nll_forward(log_p, labels, class_weight, ignore_index)
    losses, weights = np.empty(len(log_p), FLOAT32), np.empty(len(log_p), FLOAT32)
    _nll(len(log_p), log_p, labels, ignore_index, losses, weights)
    return losses, weights


def nll_backward(
    row_gradient: Array, shape: tuple[int, int], labels: Array, class_weight: Array | None, ignore_index: int
) -> Array:
    """As ``reference.nll_backward``."""
    if class_weight is not None or not lies_well(row_gradient) or not lies_well(labels, INT64) or not shape[1]:
        return reference.nll_backward(row_gradient, shape, labels, class_weight, ignore_index)
    dx = np.empty(shape, FLOAT32)
    _nll_gradient(dx.size, row_gradient.reshape(-1), row_gradient.ndim, labels, ignore_index, dx)
    return dx


@loop("f4[:], f4[:], f4[:] out", exact=True)
def _two_sums(x, y, sums):  # type: ignore[no-untyped-def]
    sums[0], sums[1] = total(x), total(y)


def row_sums(losses: Array, weights: Array) -> tuple[Array, Array]:
    """As ``reference.row_sums``."""
    if not lies_well(losses) or not lies_well(weights):
        return reference.row_sums(losses, weights)
    sums = np.empty(2, FLOAT32)
    _two_sums(1, losses, weights, sums)
    return sums[0], sums[1]


KERNELS: dict[str, Callable[..., Any]] = {
    "softmax_forward": _forward(_softmax, reference.softmax_forward),
    "softmax_backward": _backward(_softmax_gradient, reference.softmax_backward),
    "log_softmax_forward": _forward(_log_softmax, reference.log_softmax_forward),
    "log_softmax_backward": _backward(_log_softmax_gradient, reference.log_softmax_backward),
    "check_within": check_within,
    "cross_entropy_forward": cross_entropy_forward,
    "cross_entropy_backward": cross_entropy_backward,
    "mean_cross_entropy": mean_cross_entropy,
    "nll_forward": nll_forward,
    "nll_backward": nll_backward,
    "row_sums": row_sums,
}
BOUND.update(
    {mean_cross_entropy: _bind_mean_cross_entropy, cross_entropy_backward: _bind_cross_entropy_backward},
)
