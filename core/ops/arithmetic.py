"""Elementwise arithmetic, comparisons and elementary functions.

Inputs broadcast; a gradient may have the broadcast shape, the graph sums it down. A Python number among the inputs takes
the array's dtype. Integers become float32 where the result cannot be an integer.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from ..backend import as_array, device_kind, device_of, to_device
from ..bfloat16 import is_floating
from ..kernels.table import kernel
from ..op import Array, Op, define

Needs = tuple[bool, ...]
Gradients = tuple[Array | None, ...]


def floating(x: Any) -> Any:
    """``x``, integers and booleans as float32."""
    return x if is_floating(x.dtype) else x.astype(np.float32)


# ---- two inputs ------------------------------------------------------------------------------------------------------


def _add(a: Array, b: Array) -> tuple[Array, None]:
    return np.add(a, b), None


def _add_vjp(saved: None, gradient: Array, needs: Needs, slots: Any) -> Gradients:
    return gradient if needs[0] else None, gradient if needs[1] else None


ADD = define("add", _add, _add_vjp)


def _sub(a: Array, b: Array) -> tuple[Array, None]:
    return np.subtract(a, b), None


def _sub_vjp(saved: None, gradient: Array, needs: Needs, slots: Any) -> Gradients:
    return gradient if needs[0] else None, np.negative(gradient) if needs[1] else None


SUB = define("sub", _sub, _sub_vjp)


def _mul(a: Array, b: Array) -> tuple[Array, Any]:
    return np.multiply(a, b), (a, b)


def _mul_vjp(saved: Any, gradient: Array, needs: Needs, slots: Any) -> Gradients:
    a, b = saved
    return np.multiply(gradient, b) if needs[0] else None, np.multiply(gradient, a) if needs[1] else None


MUL = define("mul", _mul, _mul_vjp)


def _div(a: Array, b: Array) -> tuple[Array, Any]:
    y = np.divide(a, b)
    return y, (y, b)


def _div_vjp(saved: Any, gradient: Array, needs: Needs, slots: Any) -> Gradients:
    y, b = saved
    da = np.divide(gradient, b)
    return da if needs[0] else None, np.negative(da * y) if needs[1] else None


DIV = define("div", _div, _div_vjp)


def _pow(a: Array, b: Array) -> tuple[Array, Any]:
    y = np.power(a, b)
    return y, (a, b, y)


def _pow_vjp(saved: Any, gradient: Array, needs: Needs, slots: Any) -> Gradients:
    """d/da a^b = b a^(b-1), 0 where b = 0; d/db a^b = a^b log a, 0 where a = 0 and b >= 0."""
    a, b, y = saved
    da = db = None
    with np.errstate(divide="ignore", invalid="ignore"):
        if needs[0]:
            da = (
                gradient * 2 * a
                if b.__class__ is int and b == 2
                else gradient * np.where(b == 0, 0, b * np.power(a, b - 1))
            )
        if needs[1]:
            db = gradient * np.where((a == 0) & (b >= 0), 0, y * np.log(a))
    return da, db


POW = define("pow", _pow, _pow_vjp)


def _shares(a: Array, b: Array, y: Array, gradient: Array, needs: Needs) -> Gradients:
    """The gradient goes to the input that was taken; equal inputs share it in halves, as in PyTorch."""
    taken = (a == y).astype(gradient.dtype)
    other = (b == y).astype(gradient.dtype)
    part = gradient / np.maximum(taken + other, 1)
    return part * taken if needs[0] else None, part * other if needs[1] else None


def _maximum(a: Array, b: Array) -> tuple[Array, Any]:
    y = np.maximum(a, b)
    return y, (a, b, y)


def _extremum_vjp(saved: Any, gradient: Array, needs: Needs, slots: Any) -> Gradients:
    a, b, y = saved
    return _shares(a, b, y, gradient, needs)


def _minimum(a: Array, b: Array) -> tuple[Array, Any]:
    y = np.minimum(a, b)
    return y, (a, b, y)


MAXIMUM = define("maximum", _maximum, _extremum_vjp)
MINIMUM = define("minimum", _minimum, _extremum_vjp)


def _where(condition: Array, a: Array, b: Array) -> tuple[Array, Array]:
    return np.where(condition, a, b), condition


def _where_vjp(condition: Array, gradient: Array, needs: Needs, slots: Any) -> Gradients:
    zero = gradient.dtype.type(0)
    da = np.where(condition, gradient, zero) if needs[1] else None
    return None, da, np.where(condition, zero, gradient) if needs[2] else None


WHERE = define("where", _where, _where_vjp)


# ---- one input -------------------------------------------------------------------------------------------------------


def unary(name: str, function: Callable[[Array], Array], slope: Callable[[Array, Array, Array], Array]) -> Op:
    """An elementwise op y = function(x), whose gradient is ``slope(gradient, x, y)``; integers become float32."""

    def forward(x: Array) -> tuple[Array, Any]:
        x = floating(x)
        y = function(x)
        return y, (x, y)

    def vjp(saved: Any, gradient: Array, needs: Needs, slots: Any) -> Gradients:
        return (slope(gradient, *saved),)

    return define(name, forward, vjp)


def from_output(name: str, function: Callable[[Array], Array], slope: Callable[[Array, Array], Array]) -> Op:
    """An elementwise op whose gradient ``slope(gradient, y)`` needs its output only: the input is not kept."""

    def forward(x: Array) -> tuple[Array, Any]:
        y = function(floating(x))
        return y, y

    def vjp(y: Any, gradient: Array, needs: Needs, slots: Any) -> Gradients:
        return (slope(gradient, y),)

    return define(name, forward, vjp)


def _neg(x: Array) -> tuple[Array, None]:
    return np.negative(x), None


def _neg_vjp(saved: None, gradient: Array, needs: Needs, slots: Any) -> Gradients:
    return (np.negative(gradient),)


NEG = define("neg", _neg, _neg_vjp)


def _abs(x: Array) -> tuple[Array, Array]:
    return np.abs(x), x


def _abs_vjp(x: Array, gradient: Array, needs: Needs, slots: Any) -> Gradients:
    return (gradient * np.sign(x),)


ABS = define("abs", _abs, _abs_vjp)


def _clamp(x: Array, low: float | None = None, high: float | None = None) -> tuple[Array, Any]:
    return np.clip(x, low, high), (x, low, high)


def _clamp_vjp(saved: Any, gradient: Array, needs: Needs, slots: Any) -> Gradients:
    x, low, high = saved
    inside = np.greater_equal(x, -math.inf if low is None else low)
    if high is not None:
        inside = inside & (x <= high)
    return (gradient * inside,)


CLAMP = define("clamp", _clamp, _clamp_vjp)


def _rsqrt(x: Array) -> Array:
    y = np.sqrt(x)
    return np.divide(1, y, out=y) if y.shape else 1 / y


def _erf(x: Array) -> Array:
    return kernel("erf", device_kind(x))(as_array(x))


EXP = from_output("exp", np.exp, lambda g, y: g * y)
EXPM1 = from_output("expm1", np.expm1, lambda g, y: g * (y + 1))
SQRT = from_output("sqrt", np.sqrt, lambda g, y: g / (2 * y))
RSQRT = from_output("rsqrt", _rsqrt, lambda g, y: g * (y * y * y) * -0.5)
RECIPROCAL = from_output("reciprocal", lambda x: 1 / x, lambda g, y: -g * (y * y))
LOG = unary("log", np.log, lambda g, x, y: g / x)
LOG2 = unary("log2", np.log2, lambda g, x, y: g / (x * math.log(2)))
LOG10 = unary("log10", np.log10, lambda g, x, y: g / (x * math.log(10)))
LOG1P = unary("log1p", np.log1p, lambda g, x, y: g / (x + 1))
SIN = unary("sin", np.sin, lambda g, x, y: g * np.cos(x))
COS = unary("cos", np.cos, lambda g, x, y: -g * np.sin(x))
TAN = from_output("tan", np.tan, lambda g, y: g * (y * y + 1))
ARCTAN = unary("atan", np.arctan, lambda g, x, y: g / (x * x + 1))
ERF = unary("erf", _erf, lambda g, x, y: g * np.exp(-x * x) * (2 / math.sqrt(math.pi)))


# ---- no gradient -----------------------------------------------------------------------------------------------------


def no_vjp(saved: Any, gradient: Any, needs: Any, slots: Any) -> Any:
    """The vjp of an op without one; the graph never calls it."""
    raise AssertionError("an op without gradient was recorded")


def constant(name: str, function: Callable[..., Array]) -> Op:
    """An op whose result never wants a gradient."""

    def forward(*arrays: Array) -> tuple[Array, None]:
        return function(*arrays), None

    return define(name, forward, no_vjp, differentiable=())


EQ = constant("eq", np.equal)
NE = constant("ne", np.not_equal)
LT = constant("lt", np.less)
LE = constant("le", np.less_equal)
GT = constant("gt", np.greater)
GE = constant("ge", np.greater_equal)
LOGICAL_AND = constant("logical_and", np.logical_and)
LOGICAL_OR = constant("logical_or", np.logical_or)
LOGICAL_XOR = constant("logical_xor", np.logical_xor)
LOGICAL_NOT = constant("logical_not", np.logical_not)
BITWISE_AND = constant("bitwise_and", np.bitwise_and)
BITWISE_OR = constant("bitwise_or", np.bitwise_or)
BITWISE_XOR = constant("bitwise_xor", np.bitwise_xor)
BITWISE_NOT = constant("bitwise_not", np.bitwise_not)
ISNAN = constant("isnan", np.isnan)
ISINF = constant("isinf", np.isinf)
ISFINITE = constant("isfinite", np.isfinite)
FLOOR_DIVIDE = constant("floor_divide", np.floor_divide)


def stepwise(name: str, function: Callable[[Array], Array]) -> Op:
    """An op that is constant between its steps: its gradient is 0, not absent, as in PyTorch."""

    def forward(x: Array) -> tuple[Array, None]:
        return function(x).astype(x.dtype, copy=False), None

    def vjp(saved: None, gradient: Array, needs: Needs, slots: Any) -> Gradients:
        return (np.zeros_like(gradient),)

    return define(name, forward, vjp)


SIGN = stepwise("sign", np.sign)
FLOOR = stepwise("floor", np.floor)
CEIL = stepwise("ceil", np.ceil)
ROUND = stepwise("round", np.round)
TRUNC = stepwise("trunc", np.trunc)


def _remainder(a: Array, b: Array) -> tuple[Array, Any]:
    return np.remainder(a, b), (a, b)


def _remainder_vjp(saved: Any, gradient: Array, needs: Needs, slots: Any) -> Gradients:
    a, b = saved
    return gradient if needs[0] else None, -gradient * np.floor_divide(a, b) if needs[1] else None


REMAINDER = define("remainder", _remainder, _remainder_vjp)


# ---- dtype and copy --------------------------------------------------------------------------------------------------


def _cast(x: Array, dtype: np.dtype) -> tuple[Array, np.dtype]:
    return x.astype(dtype), x.dtype


def _cast_vjp(dtype: np.dtype, gradient: Array, needs: Needs, slots: Any) -> Gradients:
    return (gradient.astype(dtype),)


CAST = define("cast", _cast, _cast_vjp)


def _clone(x: Array) -> tuple[Array, None]:
    return x.copy(), None


def _clone_vjp(saved: None, gradient: Array, needs: Needs, slots: Any) -> Gradients:
    return (gradient,)


CLONE = define("clone", _clone, _clone_vjp)


def _to_device(x: Array, device: Any) -> tuple[Array, Any]:
    return to_device(x, device), device_of(x)


def _to_device_vjp(device: Any, gradient: Array, needs: Needs, slots: Any) -> Gradients:
    return (to_device(gradient, device),)


TO_DEVICE = define("to_device", _to_device, _to_device_vjp)
