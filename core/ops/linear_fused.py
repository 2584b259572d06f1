"""Ops in one that often follow each other: a linear layer, an activation, and another linear layer."""

from __future__ import annotations

from typing import Any

from ..backend import device_kind
from ..errors import ShapeError
from ..kernels.bound import bound, is_plain
from ..kernels.reference_linear import activation_gradient
from ..kernels.table import kernel
from ..op import Array, Op, define
from .linear import check_linear, input_gradient, parameter_gradients


def _linear_then(op: str, activation: str) -> Op:
    """The op of a linear layer and the activation behind it."""

    def forward(x: Array, weight: Array, bias: Array | None = None) -> tuple[Array, Any]:
        check_linear(op, x, weight, bias)
        y, aux = kernel("linear_activation", device_kind(x))(x, weight, bias, activation)
        return y, (x, weight, y if activation == "relu" else None, aux)

    def vjp(saved: Any, gradient: Array, needs: Any, slots: Any) -> tuple[Array | None, ...]:
        x, weight, y, aux = saved
        if needs[1:] == (True, True) and not needs[0]:
            work = kernel("linear_activation_gradients", device_kind(gradient))
            return None, *work(gradient, x, y, aux, activation, slots[1], slots[2])
        dz = activation_gradient(gradient, y, aux, activation)
        dx = input_gradient(dz, weight, slots[0]) if needs[0] else None
        return dx, *parameter_gradients(dz, x, needs[1:], slots[1:])

    def bind(shapes: Any) -> Op | None:
        if len(shapes) != 3 or None in shapes:
            return None
        of_x, of_weight, *_ = shapes
        of_parameters, of_y = shapes[1:], of_x[:-1] + of_weight[:1]
        run = bound("linear_activation", of_x, of_weight, activation)
        gradients = bound("linear_activation_gradients", of_y, of_x, activation)
        is_relu = activation == "relu"

        def bound_forward(x: Array, weight: Array, bias: Array) -> tuple[Array, Any]:
            if (
                is_plain(x, of_x)
                and x.dtype is weight.dtype is bias.dtype
                and (weight.shape, bias.shape) == of_parameters
            ):
                y, aux = run(x, weight, bias, activation)
                return y, [x, weight, y if is_relu else None, aux]  # a list: of arrays that lie as said
            return forward(x, weight, bias)

        def bound_vjp(saved: Any, gradient: Array, needs: Any, slots: Any) -> tuple[Array | None, ...]:
            if saved.__class__ is list and needs == (False, True, True) and is_plain(gradient, of_y):
                x, _, y, aux = saved
                return None, *gradients(gradient, x, y, aux, activation, slots[1], slots[2])
            return vjp(saved, gradient, needs, slots)

        return Op(op, bound_forward, bound_vjp)

    return define(op, forward, vjp, bind=bind)


LINEAR_GELU = _linear_then("linear_gelu", "gelu_tanh")
"""``gelu(x @ weight.T + bias)`` by tanh: inputs x (..., I), weight (O, I), perhaps bias (O,)."""
LINEAR_RELU = _linear_then("linear_relu", "relu")
"""``max(x @ weight.T + bias, 0)``: inputs x (..., I), weight (O, I), perhaps bias (O,)."""


def _feed_forward(x: Array, *parameters: Array | None, activation: str = "gelu_tanh") -> tuple[Array, Any]:
    saved: list[Any] = []
    for at in range(0, len(parameters), 2):
        weight, bias = parameters[at : at + 2]
        assert weight is not None
        check_linear("feed_forward", x, weight, bias)
        if at + 2 == len(parameters):
            saved.append((x, weight, None))
            return kernel("linear_forward", device_kind(x))(x, weight, bias), (saved, activation)
        y, aux = kernel("linear_activation", device_kind(x))(x, weight, bias, activation, True)
        saved.append((x, weight, aux))
        x = y
    raise ShapeError("feed_forward: expected weight and bias (or None) of at least one layer, got none")


def _feed_forward_vjp(saved: Any, gradient: Array, needs: Any, slots: Any) -> tuple[Array | None, ...]:
    layers, activation = saved
    device = device_kind(gradient)
    found: list[Array | None] = [None] * len(needs)
    db = None
    for number in reversed(range(len(layers))):
        x, weight, _ = layers[number]
        at = 1 + 2 * number
        if db is None:
            found[at : at + 2] = parameter_gradients(gradient, x, needs[at : at + 2], slots[at : at + 2])
        else:
            found[at] = parameter_gradients(gradient, x, needs[at : at + 1], slots[at : at + 1])[0]
            found[at + 1] = db if needs[at + 1] else None
        if not any(needs[:at]):
            break
        if number:  # x is what the activation gave
            bias_slot = slots[at - 1]
            aux = layers[number - 1][2]
            gradient, db = kernel("linear_activation_input_gradient", device)(
                gradient, weight, x, aux, activation, bias_slot
            )
        else:
            found[0] = kernel("linear_input_gradient", device)(gradient, weight)
    return tuple(found)


FEED_FORWARD = define("feed_forward", _feed_forward, _feed_forward_vjp)
"""Linear layers with one activation between each two: x (..., I), then weight (O, I) and bias (O,) or None of each layer."""
