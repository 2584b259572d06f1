"""The affine map of a fully connected layer."""

from __future__ import annotations

from typing import Any

from ..backend import device_kind
from ..errors import ShapeError
from ..kernels.table import kernel
from ..op import Array, define
from . import expect


def _linear(x: Array, weight: Array, bias: Array | None = None) -> tuple[Array, Any]:
    expect.one_float_dtype("linear", input=x, weight=weight, bias=bias)
    if weight.ndim != 2:
        raise ShapeError(f"linear: weight must have 2 dimensions (out_features, in_features), got shape {weight.shape}")
    if x.ndim == 0 or x.shape[-1] != weight.shape[1]:
        raise ShapeError(
            f"linear: the input's last dimension must be in_features={weight.shape[1]} (weight of shape {weight.shape}), "
            f"got an input of shape {x.shape}"
        )
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ShapeError(f"linear: bias must have shape {weight.shape[:1]}, got {bias.shape}")
    return kernel("linear_forward", device_kind(x))(x, weight, bias), (x, weight)


def _linear_vjp(saved: Any, gradient: Array, needs: Any, slots: Any) -> tuple[Array | None, ...]:
    x, weight = saved
    device = device_kind(gradient)
    dx = kernel("linear_input_gradient", device)(gradient, weight) if needs[0] else None
    dw = kernel("linear_weight_gradient", device)(gradient, x, out=slots[1]) if needs[1] else None
    if len(needs) == 2:
        return dx, dw
    return dx, dw, kernel("bias_gradient", device)(gradient, out=slots[2]) if needs[2] else None


LINEAR = define("linear", _linear, _linear_vjp)
"""``x @ weight.T + bias``: inputs x (..., I), weight (O, I), perhaps bias (O,)."""
