"""Reference kernels: what goes together with a linear layer: both its gradients, an activation after it.

They are made of the device's kernels for the parts, which the table gives, so that a fast product serves here too. Dimensions: N rows, I and
O features in and out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..backend import device_kind
from ..errors import RangeError
from ..op import Array
from .table import kernel

ACTIVATIONS = ("gelu_tanh", "relu")
"""What may follow a linear layer in one kernel."""


def linear_gradients(
    gradient: Array, x: Array, out: Array | None = None, bias_out: Array | None = None
) -> tuple[Array, Array]:
    """Gradients of weight (O, I) and bias (O,): gradient (..., O), x (..., I)."""
    device = device_kind(gradient)
    return (
        kernel("linear_weight_gradient", device)(gradient, x, out=out),
        kernel("bias_gradient", device)(gradient, out=bias_out),
    )


def activate(x: Array, activation: str) -> Array:
    """``activation(x)``. Raises RangeError for another name than "gelu_tanh" and "relu"."""
    if activation == "relu":
        return kernel("relu_forward", device_kind(x))(x)
    if activation == "gelu_tanh":
        return kernel("gelu_forward", device_kind(x))(x, "tanh")
    raise RangeError(f"activation must be one of {', '.join(ACTIVATIONS)}, got {activation!r}")


def activation_gradient(gradient: Array, y: Array | None, aux: Array | None, activation: str) -> Array:
    """``gradient`` times the slope of the activation whose output is ``y`` and whose input, for GELU, is ``aux``."""
    if activation == "relu":
        return kernel("relu_backward", device_kind(gradient))(gradient, y)
    return kernel("gelu_backward", device_kind(gradient))(gradient, aux, "tanh")


def linear_activation(
    x: Array, weight: Array, bias: Array | None, activation: str, follows: bool = False
) -> tuple[Array, Array | None]:
    """``activation(x @ weight.T + bias)`` (..., O), and what its gradient needs beside it.

    That is the activation's input (..., O) for GELU and nothing for relu. ``follows``: another linear layer comes next, for whose
    input gradient a fast kernel may add what it likes for relu.
    """
    z = kernel("linear_forward", device_kind(x))(x, weight, bias)
    return activate(z, activation), None if activation == "relu" else z


def linear_activation_gradients(
    gradient: Array, x: Array, y: Array | None, aux: Array | None, activation: str, out: Array | None = None,
    bias_out: Array | None = None,
) -> tuple[Array, Array]:  # fmt: skip
    """Gradients of weight (O, I) and bias (O,) of a linear layer with an activation behind it: gradient (..., O), x (..., I).

    ``y`` and ``aux`` are what :func:`linear_activation` gave.
    """
    dz = activation_gradient(gradient, y, aux, activation)
    both: tuple[Array, Array] = kernel("linear_gradients", device_kind(dz))(dz, x, out, bias_out)
    return both


def linear_activation_input_gradient(
    gradient: Array, weight: Array, y: Array, aux: Array | None, activation: str, bias_out: Array | None = None
) -> tuple[Array, Array | None]:
    """Backward through a linear layer and the activation before it: gradient (..., O), weight (O, I), y (..., I) -> (..., I).

    ``y`` and ``aux`` are what :func:`linear_activation` gave. Where a kernel gets the result's sum over rows (I,), the gradient of
    the bias before the activation, along with it, that is the second result; else None. ``bias_out`` is where it is wanted.
    """
    dy = kernel("linear_input_gradient", device_kind(gradient))(gradient, weight)
    return activation_gradient(dy, y, aux, activation), None


KERNELS: dict[str, Callable[..., Any]] = {
    "linear_gradients": linear_gradients,
    "linear_activation": linear_activation,
    "linear_activation_gradients": linear_activation_gradients,
    "linear_activation_input_gradient": linear_activation_input_gradient,
}
