"""Reference kernel: the last layer of a classifier over many classes with its loss, a part of the rows at a time.

The logits of all rows, which may be larger than all else in a model, never exist at once: those of a part become its losses and its
gradients before the next part comes. It is made of the device's kernels for the parts, which the table gives. Dimensions: N rows,
I features, V classes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..backend import array_module, as_array, device_kind
from ..op import Array
from .reference import deliver, label_weights, wide
from .table import kernel

CHUNK_BYTES = 1 << 26
"""What the logits of one part take on the CPU."""
CHUNK_ROWS = 128
"""A part has a multiple of so many rows."""


@dataclass(frozen=True, slots=True)
class Targets:
    """What the losses of rows follow from, beside their logits."""

    labels: Array
    """(N,), integers."""
    class_weight: Array | None
    """(V,) or nothing."""
    ignore_index: int
    smoothing: float

    def part(self, lo: int, hi: int) -> tuple[Any, ...]:
        """As kernels of losses take them, for rows lo to hi."""
        return self.labels[lo:hi], self.class_weight, self.ignore_index, self.smoothing


def chunk_rows(classes: int, itemsize: int, nbytes: int) -> int:
    """Rows whose logits take about ``nbytes``.

    >>> chunk_rows(50304, 2, 1 << 30)
    10624
    """
    return max(1, nbytes // (max(1, classes) * itemsize) // CHUNK_ROWS) * CHUNK_ROWS


def divisor(total: Array, mean: bool) -> Array:
    """What the sum of the rows' losses is divided by: the sum of their weights for a mean, one for a mean of nothing and for a sum."""
    xp = array_module(total)
    one = total.dtype.type(1)
    return as_array(xp.where(total != 0, total, one)) if mean else xp.ones_like(total)


def linear_cross_entropy(
    x: Array, weight: Array, labels: Array, class_weight: Array | None, ignore_index: int, smoothing: float, mean: bool,
    wanted: Sequence[bool],
) -> tuple[Array, Array, Array | None, Array | None]:  # fmt: skip
    """Cross-entropy of ``x @ weight.T``, x (N, I) and weight (V, I), against labels (N,).

    Returns loss (mean or sum) and the sum of the rows' weights, in float32 or better, and those gradients of x and weight that are
    ``wanted``, of a loss whose own gradient is 1.
    """
    targets = Targets(labels, class_weight, ignore_index, smoothing)
    dtype = wide(x[:0]).dtype
    _, weights = label_weights(labels, class_weight, ignore_index, dtype)
    device = device_kind(x)
    total = as_array(kernel("row_sums", device)(weights, weights)[1])
    count = divisor(total, mean)
    each = as_array(1 / count)

    def part(logits: Array, lo: int, hi: int) -> tuple[Array, Array]:
        losses, _, *moments = kernel("cross_entropy_forward", device)(logits, *targets.part(lo, hi))
        if not any(wanted):
            return losses, logits
        return losses, kernel("cross_entropy_backward", device)(each, logits, *moments, *targets.part(lo, hi))

    size = chunk_rows(len(weight), x.itemsize, CHUNK_BYTES)
    losses, *gradients = by_parts(x, weight, size, wanted, part)
    loss, _ = kernel("row_sums", device)(losses, weights)
    return as_array(loss / count), total, gradients[0], gradients[1]


def by_parts(
    x: Array, weight: Array, size: int, wanted: Sequence[bool], part: Callable[[Array, int, int], tuple[Array, Array]]
) -> tuple[Array, Array | None, Array | None]:
    """Losses (N,) and the gradients of x and weight, ``size`` rows at a time.

    ``part(logits, lo, hi)`` makes of the logits of rows lo to hi their losses and their gradient.
    """
    xp, device, count = array_module(x), device_kind(x), len(x)
    dtype = wide(x[:0]).dtype
    losses = xp.empty(count, dtype)
    dx = xp.empty_like(x) if wanted[0] else None
    alone = count <= size
    dw = xp.zeros(weight.shape, weight.dtype if alone else dtype) if wanted[1] else None
    for lo in range(0, count, size):
        hi = min(lo + size, count)
        losses[lo:hi], slope = part(kernel("linear_forward", device)(x[lo:hi], weight, None), lo, hi)
        slope = slope.astype(x.dtype, copy=False)
        if dx is not None:
            kernel("linear_input_gradient", device)(slope, weight, out=dx[lo:hi])
        if dw is not None and alone:
            kernel("linear_weight_gradient", device)(slope, x, out=dw)
        elif dw is not None:
            kernel("add_weight_gradient", device)(slope, x[lo:hi], dw)
    return losses, dx, None if dw is None else dw.astype(weight.dtype, copy=False)


def add_weight_gradient(gradient: Array, x: Array, total: Array) -> None:
    """Add ``gradient.T @ x`` to ``total`` (O, I), which may be float32 beside halves: gradient (N, O), x (N, I)."""
    total += kernel("linear_weight_gradient", device_kind(x))(gradient, x)


def scaled(x: Array, factor: Array, out: Array | None = None) -> Array:
    """``x * factor`` in the dtype of x; ``factor`` is an array of one number, of any floating dtype."""
    return deliver(wide(x) * wide(factor).reshape(()).astype(np.float32 if x.itemsize < 8 else x.dtype), x.dtype, out)


KERNELS: dict[str, Callable[..., Any]] = {
    "linear_cross_entropy": linear_cross_entropy,
    "add_weight_gradient": add_weight_gradient,
    "scaled": scaled,
}
