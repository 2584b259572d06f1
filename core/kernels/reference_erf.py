"""The error function and GELU, in plain array code.

NumPy has no ``erf``. In float64 it is a Taylor series about the nearest point of a grid of step 1/32, whose
coefficients come from ``math.erf`` and the Hermite recurrence: accurate to about one unit in the last place. In float32
it is a rational function of our own fit (weighted least squares over Chebyshev points of [0, 3.92]); error below 5e-7.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from ..backend import array_module
from ..bfloat16 import is_half
from ..op import Array

BLOCK = 16384
"""Elements worked on at a time, so that the temporaries of a long formula stay in the first-level cache."""

_GRID_STEP = 1.0 / 32.0
_GRID_END = 6.0
"""1 - erf(6) is 2e-17, below half a unit in the last place of 1."""
_TERMS = 10

_FLOAT32_END = 3.92
"""1 - erf(3.92) is 3e-8, half a unit in the last place of a float32 1."""
_NUMERATOR = (1.12837915, 0.190407566, 0.0527488731, 0.00376566526, 0.000284884004, 2.05008135e-06)
_DENOMINATOR = (1.0, 0.502077052, 0.11410957, 0.0149693133, 0.00116254758, 3.80917205e-05)


def _taylor_table() -> np.ndarray:
    """Coefficients (terms, grid points) of erf about each grid point.

    erf' = 2/sqrt(pi) exp(-x^2); with f = erf' the recurrence is f^(n+1) = -2 x f^(n) - 2 n f^(n-1).
    """
    points = np.arange(round(_GRID_END / _GRID_STEP) + 1) * _GRID_STEP
    derivatives = [2.0 / math.sqrt(math.pi) * np.exp(-points * points)]
    derivatives.append(-2.0 * points * derivatives[0])
    for n in range(1, _TERMS - 2):
        derivatives.append(-2.0 * points * derivatives[n] - 2.0 * n * derivatives[n - 1])
    rows = [np.array([math.erf(x) for x in points])]
    rows += [d / math.factorial(n + 1) for n, d in enumerate(derivatives)]
    return np.stack(rows)


_TABLE = _taylor_table()


def _polynomial(coefficients: tuple[float, ...], t: Array) -> Array:
    """Horner's rule, lowest coefficient first, in the precision of ``t``."""
    value = t * coefficients[-1]
    value += coefficients[-2]
    for coefficient in coefficients[-3::-1]:
        value *= t
        value += coefficient
    return value


def _erf_float32(x: Array) -> Array:
    xp = array_module(x)
    clipped = xp.clip(x, -_FLOAT32_END, _FLOAT32_END)
    square = clipped * clipped
    value = _polynomial(_NUMERATOR, square)
    value *= clipped
    value /= _polynomial(_DENOMINATOR, square)
    return xp.clip(value, -1.0, 1.0, out=value)


def _erf_float64(x: Array) -> Array:
    xp = array_module(x)
    table = xp.asarray(_TABLE)
    magnitude = xp.minimum(xp.abs(x), _GRID_END)
    index = xp.rint(xp.fmin(magnitude, _GRID_END) * (1.0 / _GRID_STEP)).astype(np.int64)  # fmin: NaN finds a place too
    offset = magnitude - index * _GRID_STEP
    value = xp.take(table[-1], index)
    for row in table[-2::-1]:
        value *= offset
        value += xp.take(row, index)
    return xp.copysign(value, x)


def _blockwise(function: Callable[..., Array], out: Array, *inputs: Array) -> Array:
    """``out[:] = function(*inputs)`` in blocks; all C-contiguous and of one size. Returns ``out``."""
    flat_out = out.reshape(-1)
    flat_inputs = [x.reshape(-1) for x in inputs]
    block = BLOCK if array_module(out) is np else max(1, flat_out.size)
    work = np.float32 if is_half(out.dtype) else out.dtype
    for start in range(0, flat_out.size, block):
        stop = start + block
        flat_out[start:stop] = function(*(x[start:stop].astype(work, copy=False) for x in flat_inputs))
    return out


def _erf(x: Array) -> Array:
    return _erf_float64(x) if x.dtype == np.float64 else _erf_float32(x)


def erf(x: Array) -> Array:
    """``2/sqrt(pi) * integral from 0 to x of exp(-t^2) dt``, same shape and dtype.

    >>> float(erf(np.array([0.5]))[0]) == math.erf(0.5)
    True
    """
    xp = array_module(x)
    return _blockwise(_erf, xp.empty(x.shape, x.dtype), xp.ascontiguousarray(x))


def _gelu_erf(x: Array) -> Array:
    value = _erf(x * math.sqrt(0.5))
    value += 1.0
    value *= x
    value *= 0.5
    return value


def _gelu_erf_backward(gradient: Array, x: Array) -> Array:
    xp = array_module(x)
    slope = x * x
    slope *= -0.5
    xp.exp(slope, out=slope)
    slope *= 1.0 / math.sqrt(2.0 * math.pi)
    slope *= x
    cdf = _erf(x * math.sqrt(0.5))
    cdf += 1.0
    cdf *= 0.5
    slope += cdf
    slope *= gradient
    return slope


_TANH_SCALE = math.sqrt(2.0 / math.pi)
_TANH_CUBE = 0.044715
"""Hendrycks and Gimpel, Gaussian error linear units, 2016 (arXiv 1606.08415), section 2."""


def _tanh_argument(x: Array, square: Array) -> Array:
    argument = square * _TANH_CUBE
    argument += 1.0
    argument *= x
    argument *= _TANH_SCALE
    return argument


def _gelu_tanh(x: Array) -> Array:
    xp = array_module(x)
    value = _tanh_argument(x, x * x)
    xp.tanh(value, out=value)
    value += 1.0
    value *= x
    value *= 0.5
    return value


def _gelu_tanh_backward(gradient: Array, x: Array) -> Array:
    xp = array_module(x)
    square = x * x
    t = _tanh_argument(x, square)
    xp.tanh(t, out=t)
    square *= 3.0 * _TANH_CUBE
    square += 1.0
    square *= _TANH_SCALE
    square *= x  # derivative of the argument, times x
    slope = 1.0 - t * t
    slope *= square
    slope += t
    slope += 1.0
    slope *= 0.5
    slope *= gradient
    return slope


def gelu_forward(x: Array, approximate: str = "none") -> Array:
    """``x * Phi(x)``, or its tanh form with ``approximate="tanh"``; same shape and dtype.

    Hendrycks and Gimpel, Gaussian error linear units, 2016 (arXiv 1606.08415).

    >>> gelu_forward(np.array([0.0, 1.0])).round(4).tolist()
    [0.0, 0.8413]
    """
    xp = array_module(x)
    function = _gelu_tanh if approximate == "tanh" else _gelu_erf
    return _blockwise(function, xp.empty(x.shape, x.dtype), xp.ascontiguousarray(x))


def gelu_backward(gradient: Array, x: Array, approximate: str = "none") -> Array:
    """``gradient * d gelu(x) / dx``; same shape and dtype as ``x``."""
    xp = array_module(x)
    function = _gelu_tanh_backward if approximate == "tanh" else _gelu_erf_backward
    return _blockwise(function, xp.empty(x.shape, x.dtype), xp.ascontiguousarray(gradient), xp.ascontiguousarray(x))


KERNELS: dict[str, Callable[..., Array]] = {"erf": erf, "gelu_forward": gelu_forward, "gelu_backward": gelu_backward}
