"""Ops in one that often follow each other: a linear layer, an activation, and another linear layer."""

from __future__ import annotations

from typing import Any

from ..backend import device_kind
from ..errors import ShapeError
from ..kernels.reference_linear import activation_gradient
from ..kernels.table import kernel
from ..op import Array, Op, define
from .linear import check_linear, parameter_gradients


def _linear_then(op: str, activation: str) -> Op:
    """The op of a linear layer and the activation behind it."""

    def forward(x: Array, weight: Array, bias: Array | None = None) -> tuple[Array, Any]:
        check_linear(op, x, weight, bias)
        y, aux = kernel("linear_activation", device_kind(x))(x, weight, bias, activation)
        return y, (x, weight, y if activation == "relu" else None, aux)

    def vjp(saved: Any, gradient: Array, needs: Any, slots: Any) -> tuple[Array | None, ...]:
        x, weight, y, aux = saved
        dz = activation_gradient(gradient, y, aux, activation)
        dx = kernel("linear_input_gradient", device_kind(dz))(dz, weight) if needs[0] else None
        return dx, *parameter_gradients(dz, x, needs[1:], slots[1:])

    return define(op, forward, vjp)


LINEAR_GELU = _linear_then("linear_gelu", "gelu_tanh")
"""``gelu(x @ weight.T + bias)`` by tanh: inputs x (..., I), weight (O, I), perhaps bias (O,)."""
LINEAR_RELU = _linear_then("linear_relu", "relu")
"""``max(x @ weight.T + bias, 0)``: inputs x (..., I), weight (O, I), perhaps bias (O,)."""


def _feed_forward(
    x: Array, weight1: Array, bias1: Array | None, weight2: Array, bias2: Array | None, activation: str = "gelu_tanh"
) -> tuple[Array, Any]:
    check_linear("feed_forward", x, weight1, bias1)
    if weight2.ndim != 2 or weight2.shape[1] != weight1.shape[0]:
        raise ShapeError(
            f"feed_forward: weight2 must be (out_features, {weight1.shape[0]}) to follow a weight1 of shape {weight1.shape}, "
            f"got shape {weight2.shape}"
        )
    y, aux = kernel("linear_activation", device_kind(x))(x, weight1, bias1, activation, True)
    check_linear("feed_forward", y, weight2, bias2)
    return kernel("linear_forward", device_kind(x))(y, weight2, bias2), (x, weight1, y, aux, weight2, activation)


def _feed_forward_vjp(saved: Any, gradient: Array, needs: Any, slots: Any) -> tuple[Array | None, ...]:
    x, weight1, y, aux, weight2, activation = saved
    device = device_kind(gradient)
    dw2, db2 = parameter_gradients(gradient, y, needs[3:], slots[3:])
    if not any(needs[:3]):
        return None, None, None, dw2, db2
    dz, db1 = kernel("linear_activation_input_gradient", device)(gradient, weight2, y, aux, activation, slots[2])
    dx = kernel("linear_input_gradient", device)(dz, weight1) if needs[0] else None
    if db1 is None:
        dw1, db1 = parameter_gradients(dz, x, needs[1:3], slots[1:3])
    else:
        dw1 = parameter_gradients(dz, x, needs[1:2], slots[1:2])[0]
    return dx, dw1, db1 if needs[2] else None, dw2, db2


FEED_FORWARD = define("feed_forward", _feed_forward, _feed_forward_vjp)
"""``activation(x @ weight1.T + bias1) @ weight2.T + bias2``: x (..., I), weight1 (H, I), weight2 (O, H), biases (H,), (O,) or None."""
