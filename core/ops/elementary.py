"""More elementary and special functions, of one input and of two; ``arithmetic`` has the everyday ones."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from ..backend import as_array, device_kind
from ..kernels.table import kernel
from ..op import Array, Op, define
from .arithmetic import Gradients, Needs, constant, floating, from_output, unary

# ---- one input -------------------------------------------------------------------------------------------------------


def _kernel(name: str) -> Callable[[Array], Array]:
    def function(x: Array) -> Array:
        return kernel(name, device_kind(x))(as_array(x))

    return function


def _sinc(x: Array) -> Array:
    """sin(pi x) / (pi x), 1 at 0."""
    return np.sinc(x).astype(x.dtype, copy=False)


def _sinc_slope(gradient: Array, x: Array, y: Array) -> Array:
    """(cos(pi x) - sinc(x)) / x, 0 at 0."""
    zero = x == 0
    return gradient * np.where(zero, 0, (np.cos(x * math.pi) - y) / np.where(zero, 1, x)).astype(x.dtype, copy=False)


SINH = unary("sinh", np.sinh, lambda g, x, y: g * np.cosh(x))
COSH = unary("cosh", np.cosh, lambda g, x, y: g * np.sinh(x))
ARCSIN = unary("asin", np.arcsin, lambda g, x, y: g / np.sqrt(1 - x * x))
ARCCOS = unary("acos", np.arccos, lambda g, x, y: -g / np.sqrt(1 - x * x))
ARCSINH = unary("asinh", np.arcsinh, lambda g, x, y: g / np.sqrt(x * x + 1))
ARCCOSH = unary("acosh", np.arccosh, lambda g, x, y: g / np.sqrt((x - 1) * (x + 1)))
ARCTANH = unary("atanh", np.arctanh, lambda g, x, y: g / (1 - x * x))
EXP2 = from_output("exp2", np.exp2, lambda g, y: g * y * math.log(2))
SINC = unary("sinc", _sinc, _sinc_slope)
ERFC = unary("erfc", _kernel("erfc"), lambda g, x, y: g * np.exp(-x * x) * (-2 / math.sqrt(math.pi)))
ERFINV = from_output("erfinv", _kernel("erfinv"), lambda g, y: g * np.exp(y * y) * (math.sqrt(math.pi) / 2))
LGAMMA = unary("lgamma", _kernel("lgamma"), lambda g, x, y: g * _kernel("digamma")(x))
DIGAMMA = unary("digamma", _kernel("digamma"), lambda g, x, y: g * _kernel("trigamma")(x))


# ---- two inputs ------------------------------------------------------------------------------------------------------


def _alike(a: Any, b: Any) -> tuple[Array, Array]:
    """A number beside an array in the array's dtype: NumPy's functions would take it for float64."""
    if not hasattr(a, "dtype"):
        return b.dtype.type(a), b
    return a, (b if hasattr(b, "dtype") else a.dtype.type(b))


def binary(
    name: str,
    function: Callable[[Array, Array], Array],
    first: Callable[[Array, Array, Array], Array],
    second: Callable[[Array, Array, Array], Array],
    whole: bool = False,
) -> Op:
    """An elementwise op y = function(a, b) with the derivatives ``first(a, b, y)`` and ``second(a, b, y)``.

    ``whole``: integers stay integers; else they become float32.
    """

    def forward(a: Array, b: Array) -> tuple[Array, Any]:
        a, b = _alike(a, b)
        y = function(a, b) if whole else function(floating(a), floating(b))
        return y, (a, b, y)

    def vjp(saved: Any, gradient: Array, needs: Needs, slots: Any) -> Gradients:
        with np.errstate(divide="ignore", invalid="ignore"):
            da = gradient * first(*saved) if needs[0] else None
            return da, gradient * second(*saved) if needs[1] else None

    return define(name, forward, vjp)


def _over(numerator: Array, denominator: Array) -> Array:
    """A quotient that is 0 where the denominator is."""
    zero = denominator == 0
    return np.where(zero, zero.dtype.type(0), numerator / np.where(zero, 1, denominator)).astype(denominator.dtype)


def _share(a: Array, b: Array) -> Array:
    """exp(a) / (exp(a) + exp(b)); a half where they are equal, infinities included."""
    with np.errstate(over="ignore"):
        return np.where(a == b, a.dtype.type(0.5), 1 / (1 + np.exp(b - a)))


def _xlogy(a: Array, b: Array) -> Array:
    """a log(b), 0 where a is 0 and b is a number."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where((a == 0) & ~np.isnan(b), a.dtype.type(0), a * np.log(b))


def _taken(a: Array, b: Array) -> Array:
    return ((a >= b) | np.isnan(b)).astype(a.dtype)


def _taken_below(a: Array, b: Array) -> Array:
    return ((a <= b) | np.isnan(b)).astype(a.dtype)


ATAN2 = binary(
    "atan2",
    np.arctan2,
    lambda a, b, y: _over(b, a * a + b * b),
    lambda a, b, y: _over(-a, a * a + b * b),
)
HYPOT = binary("hypot", np.hypot, lambda a, b, y: _over(a, y), lambda a, b, y: _over(b, y))
LOGADDEXP = binary("logaddexp", np.logaddexp, lambda a, b, y: _share(a, b), lambda a, b, y: _share(b, a))
XLOGY = binary(
    "xlogy",
    _xlogy,
    lambda a, b, y: np.where((a == 0) & (b <= 0), b.dtype.type(0), np.log(b)),
    lambda a, b, y: a / b,
)
FMOD = binary("fmod", np.fmod, lambda a, b, y: np.ones_like(y), lambda a, b, y: -np.trunc(a / b), whole=True)
COPYSIGN = binary(
    "copysign", np.copysign, lambda a, b, y: np.sign(a) * np.copysign(np.ones_like(y), b), lambda a, b, y: y * 0
)
FMAX = binary("fmax", np.fmax, lambda a, b, y: _taken(a, b), lambda a, b, y: 1 - _taken(a, b), whole=True)
FMIN = binary("fmin", np.fmin, lambda a, b, y: _taken_below(a, b), lambda a, b, y: 1 - _taken_below(a, b), whole=True)


# ---- no gradient -----------------------------------------------------------------------------------------------------


def _heaviside(a: Array, b: Array) -> Array:
    """0 below 0, 1 above, ``b`` at 0."""
    return np.heaviside(*_alike(a, b))


HEAVISIDE = constant("heaviside", _heaviside)
NEXTAFTER = constant("nextafter", lambda a, b: np.nextafter(*_alike(a, b)))
SIGNBIT = constant("signbit", np.signbit)
ISPOSINF = constant("isposinf", lambda x: x == math.inf)
ISNEGINF = constant("isneginf", lambda x: x == -math.inf)
LEFT_SHIFT = constant("bitwise_left_shift", np.left_shift)
RIGHT_SHIFT = constant("bitwise_right_shift", np.right_shift)
GCD = constant("gcd", np.gcd)
LCM = constant("lcm", np.lcm)
