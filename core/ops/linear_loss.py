"""The last layer of a classifier over many classes together with its loss."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..backend import device_kind
from ..errors import RangeError, ShapeError
from ..kernels.table import kernel
from ..op import Array, define
from . import expect

_OP = "linear_cross_entropy"


def _linear_cross_entropy(
    x: Array,
    weight: Array,
    labels: Array,
    class_weight: Array | None = None,
    *,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
    wanted: Sequence[bool] = (True, True),
    dtype: Any = None,
) -> tuple[tuple[Array, Array], Any]:
    expect.one_float_dtype(_OP, input=x, weight=weight)
    expect.dimensions(_OP, "weight", weight, 2, "(classes, features)")
    if reduction not in ("mean", "sum"):
        raise RangeError(f"{_OP}: reduction must be mean or sum, got {reduction!r}")
    if x.ndim == 0 or x.shape[-1] != weight.shape[1]:
        raise ShapeError(
            f"{_OP}: the input's last dimension must be the {weight.shape[1]} features of the weight {weight.shape}, got an "
            f"input of shape {x.shape}"
        )
    _check_labels(x, labels, len(weight), class_weight, ignore_index)
    rows, flat = x.reshape(labels.size, x.shape[-1]), labels.reshape(-1)
    loss, total, *gradients = kernel(_OP, device_kind(x))(
        rows, weight, flat, class_weight, ignore_index, label_smoothing, reduction == "mean", tuple(wanted)
    )
    return (loss.astype(dtype or x.dtype, copy=False), total), (gradients, x.shape)


def _check_labels(x: Array, labels: Array, classes: int, class_weight: Array | None, ignore_index: int) -> None:
    expect.integers(_OP, "labels", labels)
    if x.shape[:-1] != labels.shape:
        raise ShapeError(
            f"{_OP}: an input of shape {x.shape} (..., features) expects labels of shape {x.shape[:-1]}, got {labels.shape}"
        )
    if class_weight is not None and class_weight.shape != (classes,):
        raise ShapeError(
            f"{_OP}: class_weight must have one element for each of {classes} classes, got {class_weight.shape}"
        )
    expect.within(_OP, "label", labels, classes, f": the weight has {classes} rows", skip=ignore_index)


def _linear_cross_entropy_vjp(saved: Any, gradient: Any, needs: Any, slots: Any) -> tuple[Array | None, ...]:
    (dx, dw), shape = saved
    g = gradient[0]
    scaled = kernel("scaled", device_kind(g))
    found = (
        scaled(dx, g).reshape(shape) if needs[0] else None,
        scaled(dw, g, out=slots[1]) if needs[1] else None,
        None,
        None,
    )
    return found[: len(needs)]


LINEAR_CROSS_ENTROPY = define(_OP, _linear_cross_entropy, _linear_cross_entropy_vjp, differentiable=(0,))
"""Inputs x (..., I), weight (V, I), integer labels (...), perhaps class weights (V,). Outputs the loss and the sum of the labels'
weights; the loss is of ``dtype``, x's if that is None. The gradients of x and weight that are ``wanted`` are made in the forward, since the
logits are there then."""
