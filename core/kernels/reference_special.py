"""erfc, erfinv and the gamma family, in plain array code: NumPy has none of them.

All of them work in float64 and round once. erfc is ``1 - erf`` in the middle and Laplace's continued fraction in the tail;
erfinv is Giles's single-precision polynomial (Approximating the erfinv function, GPU Computing Gems, 2011) and steps of
Halley's method; lgamma, digamma and trigamma are Stirling's series above 8, where the recurrence carries smaller
arguments, and the reflection formulas carry negative ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from ..backend import array_module
from ..op import Array
from .reference_erf import KERNELS as _ERF

_erf = _ERF["erf"]
_TAIL = 1.5
"""Beyond it ``1 - erf`` would lose more than two digits."""
_TERMS = 60
"""Of the continued fraction; its error at 1.5 is about exp(-4 * 1.5 * sqrt(60)) = 6e-21."""
_SHIFT = 8
"""Stirling's series is accurate to 1e-15 from here on."""
_HALLEY_STEPS = 5
"""Two in the middle; the polynomial is off by 1% where 1 - |x| is 1e-15."""
_CENTRE = (
    2.81022636e-08, 3.43273939e-07, -3.5233877e-06, -4.39150654e-06, 0.00021858087, -0.00125372503, -0.00417768164,
    0.246640727, 1.50140941,
)  # fmt: skip
_EDGE = (
    -0.000200214257, 0.000100950558, 0.00134934322, -0.00367342844, 0.00573950773, -0.0076224613, 0.00943887047,
    1.00167406, 2.83297682,
)  # fmt: skip
_LGAMMA = (1 / 12, -1 / 360, 1 / 1260, -1 / 1680, 1 / 1188, -691 / 360360, 1 / 156)
_DIGAMMA = (-1 / 12, 1 / 120, -1 / 252, 1 / 240, -1 / 132, 691 / 32760, -1 / 12)
_TRIGAMMA = (1 / 6, -1 / 30, 1 / 42, -1 / 30, 5 / 66, -691 / 2730, 7 / 6)


def _in_float64(function: Callable[[Array], Array]) -> Callable[[Array], Array]:
    """``function`` computed in float64, its result rounded to the argument's dtype."""

    def call(x: Array) -> Array:
        with np.errstate(all="ignore"):
            return function(array_module(x).asarray(x, np.float64)).astype(x.dtype, copy=False)

    return call


def _horner(coefficients: tuple[float, ...], x: Array) -> Array:
    """Highest coefficient first."""
    value = x * 0.0 + coefficients[0]
    for coefficient in coefficients[1:]:
        value = value * x + coefficient
    return value


def _erfc(x: Array) -> Array:
    magnitude = np.maximum(np.abs(x), _TAIL)
    fraction = magnitude
    for term in range(_TERMS, 0, -1):
        fraction = magnitude + (0.5 * term) / fraction
    tail = np.exp(-magnitude * magnitude) / (fraction * math.sqrt(math.pi))
    tail = np.where(np.isinf(magnitude), 0.0, tail)
    return np.where(magnitude > _TAIL, np.where(x > 0, tail, 2.0 - tail), 1.0 - _erf(x))


def _erfinv(x: Array) -> Array:
    w = -np.log((1.0 - x) * (1.0 + x))
    y = x * np.where(w < 5.0, _horner(_CENTRE, w - 2.5), _horner(_EDGE, np.sqrt(np.maximum(w, 5.0)) - 3.0))
    for _ in range(_HALLEY_STEPS):
        # near the ends the distance from 1 has more digits than x
        error = np.where(np.abs(x) < 0.5, _erf(y) - x, np.sign(x) * ((1.0 - np.abs(x)) - _erfc(np.abs(y))))
        step = error / (2.0 / math.sqrt(math.pi) * np.exp(-y * y))
        y = y - step / (1.0 + y * step)
    y = np.where(np.abs(x) == 1.0, np.copysign(math.inf, x), y)
    return np.where(np.abs(x) > 1.0, math.nan, y)


def _sine(x: Array) -> Array:
    """sin(pi x), exact 0 at integers; for reflections, where only its size and square matter."""
    return np.sin(math.pi * (x - np.floor(x)))


def _raised(x: Array) -> Array:
    """How often 1 must be added to reach ``_SHIFT``."""
    return np.maximum(np.ceil(_SHIFT - x), 0.0)


def _lgamma(x: Array) -> Array:
    positive = np.where(x < 0.5, 1.0 - x, x)
    count = _raised(positive)
    product = np.ones_like(positive)
    for k in range(_SHIFT):
        product = np.where(k < count, product * (positive + k), product)
    z = positive + count
    inverse = 1.0 / z
    series = _horner(_LGAMMA[::-1], inverse * inverse) * inverse
    value = (z - 0.5) * np.log(z) - z + 0.5 * math.log(2.0 * math.pi) + series - np.log(product)
    value = np.where(np.isinf(positive), math.inf, value)
    reflected = math.log(math.pi) - np.log(np.abs(_sine(x))) - value
    return np.where(x < 0.5, np.where(np.isinf(x), math.inf, reflected), value)


def _digamma(x: Array) -> Array:
    positive = np.where(x < 0.5, 1.0 - x, x)
    count = _raised(positive)
    below = np.zeros_like(positive)
    for k in range(_SHIFT):
        below = np.where(k < count, below + 1.0 / (positive + k), below)
    z = positive + count
    square = 1.0 / (z * z)
    value = np.log(z) - 0.5 / z + _horner(_DIGAMMA[::-1], square) * square - below
    fraction = x - np.floor(x)
    reflected = value - math.pi / np.tan(math.pi * fraction)
    reflected = np.where(fraction == 0.0, math.nan, reflected)
    value = np.where(x < 0.5, reflected, value)
    return np.where(x == 0.0, np.copysign(math.inf, -x), value)


def _trigamma(x: Array) -> Array:
    positive = np.where(x < 0.5, 1.0 - x, x)
    count = _raised(positive)
    below = np.zeros_like(positive)
    for k in range(_SHIFT):
        below = np.where(k < count, below + 1.0 / ((positive + k) * (positive + k)), below)
    inverse = 1.0 / (positive + count)
    square = inverse * inverse
    value = inverse + 0.5 * square + _horner(_TRIGAMMA[::-1], square) * square * inverse + below
    sine = _sine(x)
    return np.where(x < 0.5, math.pi * math.pi / (sine * sine) - value, value)


KERNELS: dict[str, Any] = {
    "erfc": _in_float64(_erfc),
    "erfinv": _in_float64(_erfinv),
    "lgamma": _in_float64(_lgamma),
    "digamma": _in_float64(_digamma),
    "trigamma": _in_float64(_trigamma),
}
