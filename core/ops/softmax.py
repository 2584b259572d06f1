"""Softmax and its logarithm along one axis."""

from __future__ import annotations

from typing import Any

from ..backend import device_kind
from ..errors import RangeError
from ..kernels.table import kernel
from ..op import Array, define
from . import expect


def _check(op: str, x: Array, axis: int) -> None:
    expect.one_float_dtype(op, input=x)
    if x.ndim and not -x.ndim <= axis < x.ndim:
        raise RangeError(f"{op}: dim {axis} is out of range for a tensor of shape {x.shape}")


def _softmax(x: Array, *, axis: int) -> tuple[Array, Any]:
    _check("softmax", x, axis)
    y = kernel("softmax_forward", device_kind(x))(x, axis)
    return y, (y, axis)


def _softmax_vjp(saved: Any, gradient: Array, needs: Any, slots: Any) -> tuple[Array | None, ...]:
    return (kernel("softmax_backward", device_kind(gradient))(gradient, *saved),)


SOFTMAX = define("softmax", _softmax, _softmax_vjp)


def _log_softmax(x: Array, *, axis: int) -> tuple[Array, Any]:
    _check("log_softmax", x, axis)
    y = kernel("log_softmax_forward", device_kind(x))(x, axis)
    return y, (y, axis)


def _log_softmax_vjp(saved: Any, gradient: Array, needs: Any, slots: Any) -> tuple[Array | None, ...]:
    return (kernel("log_softmax_backward", device_kind(gradient))(gradient, *saved),)


LOG_SOFTMAX = define("log_softmax", _log_softmax, _log_softmax_vjp)
