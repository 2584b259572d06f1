"""The last layer of a classifier with its loss, a part of the rows at a time: losses and gradients are made where the logits lie."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ...backend import Array, array_module
from .. import reference_linear_loss as reference
from ..reference import matmul
from ..table import kernel
from .dense import FLOAT32, THREADS, blocks_for, contiguous, dense, filled, over_elements, plain, served
from .launch import launch, strided, suffix
from .reduce import row_sums
from .rows import ROW_THREADS, target, weight_sum

CHUNK_BYTES = 1 << 30
"""What the logits of one part take."""
PADDING = 64
"""Rows of logits begin at multiples of so many elements: products are faster so, and rows are read in packs."""


def linear_cross_entropy(
    x: Array, weight: Array, labels: Array, class_weight: Array | None, ignore_index: int, smoothing: float, mean: bool,
    wanted: Sequence[bool],
) -> tuple[Array, Array, Array | None, Array | None]:  # fmt: skip
    """As ``reference_linear_loss.linear_cross_entropy``."""
    if not filled(x, weight) or not weight.size:
        return reference.linear_cross_entropy(x, weight, labels, class_weight, ignore_index, smoothing, mean, wanted)
    xp, classes = array_module(x), len(weight)
    aims = target(labels, class_weight, ignore_index, classes)
    weights = xp.empty(len(x), FLOAT32)
    launch("rows", "label_weights", blocks_for(len(x)), THREADS, *aims, weights, len(x))
    total, _ = row_sums(weights, weights)
    sum_of_classes = weight_sum(class_weight)
    size = reference.chunk_rows(classes, x.itemsize, CHUNK_BYTES)
    multiply = kernel("matmul", "cuda")
    padded = (
        classes if multiply is matmul else -(-classes // PADDING) * PADDING
    )  # CuPy's product wants its output whole
    logits = xp.empty((min(size, len(x)), padded), x.dtype)
    losses = xp.empty(len(x), FLOAT32)
    dx = xp.empty_like(x) if wanted[0] else None
    alone = len(x) <= size
    dw = None
    if wanted[1]:
        dw = xp.empty(weight.shape, weight.dtype) if alone else xp.zeros(weight.shape, FLOAT32)
    for lo in range(0, len(x), size):
        hi = min(lo + size, len(x))
        part = logits[: hi - lo, :classes]
        multiply(x[lo:hi], weight.T, out=part)
        pack = 16 // x.itemsize
        launch(
            "rows", f"cross_entropy_in_place_{suffix(x.dtype)}", hi - lo, min(ROW_THREADS, 32 * -(-classes // (32 * pack))),
            strided(part), padded, aims[0][lo:hi], *aims[1:], float(smoothing), any(wanted), total if mean else None,
            sum_of_classes, losses[lo:hi],
        )  # fmt: skip
        if dx is not None:
            kernel("linear_input_gradient", "cuda")(part, weight, out=dx[lo:hi])
        if dw is not None and alone:
            kernel("linear_weight_gradient", "cuda")(part, x, out=dw)
        elif dw is not None:
            kernel("add_weight_gradient", "cuda")(part, x[lo:hi], dw)
    loss, _ = row_sums(losses, losses)
    return loss / reference.divisor(total, mean), total, dx, None if dw is None else dw.astype(weight.dtype, copy=False)


def scaled(x: Array, factor: Array, out: Array | None = None) -> Array:
    """As ``reference_linear_loss.scaled``."""
    if not served(x):
        return reference.scaled(x, factor, out)
    x = dense(x) if out is None else contiguous(x)
    if out is None or out.dtype != x.dtype:
        out = array_module(x).empty_like(x)
    over_elements("elementwise", "scaled", x, out, numbers=(plain(factor, FLOAT32),))
    return out


KERNELS: dict[str, Callable[..., Any]] = {"linear_cross_entropy": linear_cross_entropy, "scaled": scaled}
