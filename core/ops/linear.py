"""The affine map of a fully connected layer."""

from __future__ import annotations

from typing import Any

from ..backend import device_kind
from ..errors import ShapeError
from ..kernels.bound import bound, is_plain
from ..kernels.table import kernel
from ..op import Array, Op, define
from . import expect


def check_linear(op: str, x: Array, weight: Array, bias: Array | None) -> None:
    """Input, weight and bias are of one dtype and fit."""
    dtype = x.dtype
    if (
        dtype is weight.dtype
        and dtype.kind in "fV"
        and weight.ndim == 2
        and x.shape[-1:] == weight.shape[1:]
        and (bias is None or (bias.dtype is dtype and bias.shape == weight.shape[:1]))
    ):
        return  # the way of nearly all calls
    expect.one_float_dtype(op, input=x, weight=weight, bias=bias)
    if weight.ndim != 2:
        raise ShapeError(f"{op}: weight must have 2 dimensions (out_features, in_features), got shape {weight.shape}")
    if x.ndim == 0 or x.shape[-1] != weight.shape[1]:
        raise ShapeError(
            f"{op}: the input's last dimension must be in_features={weight.shape[1]} (weight of shape {weight.shape}), "
            f"got an input of shape {x.shape}"
        )
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ShapeError(f"{op}: bias must have shape {weight.shape[:1]}, got {bias.shape}")


def _linear(x: Array, weight: Array, bias: Array | None = None) -> tuple[Array, Any]:
    check_linear("linear", x, weight, bias)
    return kernel("linear_forward", device_kind(x))(x, weight, bias), (x, weight)


def _linear_vjp(saved: Any, gradient: Array, needs: Any, slots: Any) -> tuple[Array | None, ...]:
    x, weight = saved
    dx = input_gradient(gradient, weight, slots[0]) if needs[0] else None
    return dx, *parameter_gradients(gradient, x, needs[1:], slots[1:])


def input_gradient(gradient: Array, weight: Array, slot: Array | None) -> Array:
    """Gradient of the input; on the CPU it is made in ``slot``, by the same product, where that is given."""
    if slot is not None and gradient.ndim == 2 and slot.dtype == gradient.dtype and device_kind(gradient) == "cpu":
        return kernel("matmul", "cpu")(gradient, weight, slot)
    return kernel("linear_input_gradient", device_kind(gradient))(gradient, weight)


def parameter_gradients(gradient: Array, x: Array, needs: Any, slots: Any) -> tuple[Array | None, ...]:
    """Gradients of the weight, and of the bias if ``needs`` and ``slots`` have a second place for it."""
    device = device_kind(gradient)
    if len(needs) == 2 and needs[0] and needs[1]:
        both: tuple[Array, Array] = kernel("linear_gradients", device)(gradient, x, slots[0], slots[1])
        return both
    dw = kernel("linear_weight_gradient", device)(gradient, x, out=slots[0]) if needs[0] else None
    if len(needs) == 1:
        return (dw,)
    return dw, kernel("bias_gradient", device)(gradient, out=slots[1]) if needs[1] else None


def _bind(shapes: Any) -> Op | None:
    if len(shapes) != 3 or None in shapes:
        return None
    of_x, of_weight, *_ = shapes
    of_parameters, of_y = shapes[1:], of_x[:-1] + of_weight[:1]
    run = bound("linear_forward", of_x, of_weight)
    to_input, gradients = bound("linear_input_gradient", of_y, of_weight), bound("linear_gradients", of_y, of_x)

    def forward(x: Array, weight: Array, bias: Array) -> tuple[Array, Any]:
        if is_plain(x, of_x) and x.dtype is weight.dtype is bias.dtype and (weight.shape, bias.shape) == of_parameters:
            return run(x, weight, bias), [x, weight]  # a list: of arrays that lie as said
        return _linear(x, weight, bias)

    def vjp(saved: Any, gradient: Array, needs: Any, slots: Any) -> tuple[Array | None, ...]:
        if not (saved.__class__ is list and needs[1] and needs[2] and is_plain(gradient, of_y)):
            return _linear_vjp(saved, gradient, needs, slots)
        x, weight = saved
        dx = None
        if needs[0]:
            dx = to_input(gradient, weight) if slots[0] is None else input_gradient(gradient, weight, slots[0])
        return dx, *gradients(gradient, x, slots[1], slots[2])

    return Op("linear", forward, vjp)


LINEAR = define("linear", _linear, _linear_vjp, bind=_bind)
"""``x @ weight.T + bias``: inputs x (..., I), weight (O, I), perhaps bias (O,)."""
