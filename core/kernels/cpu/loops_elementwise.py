"""Activations, forward and backward, as compiled loops.

All are exact, so that an element's bits do not depend on its place: with contraction the compiler may fuse in the vectorised body of a
loop what it does not fuse in its rest. What only compares and multiplies gives the reference's bits.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from ...op import Array
from .. import reference_activation as reference
from .. import reference_erf
from .compiled import loop, prange
from .dense import of_one, of_two
from .mathematics import (
    HALF,
    ONE,
    TWO,
    ZERO,
    erf,
    exp,
    exp_below,
    expm1_below,
    f4,
    log1p_unit,
    normal_below,
    sigmoid,
    tanh,
)
from .mathematics import softplus as softplus_of

# ---- by comparing and multiplying ------------------------------------------------------------------------------------


@loop("f4[:], f4[:] out", exact=True)
def relu_forward(x, y):  # type: ignore[no-untyped-def]
    for i in prange(x.size):
        v = x[i]
        y[i] = ZERO if v <= ZERO else v


@loop("f4[:], f4[:], f4[:] out", exact=True)
def relu_backward(gradient, y, dx):  # type: ignore[no-untyped-def]
    for i in prange(y.size):
        dx[i] = gradient[i] * (ONE if y[i] > ZERO else ZERO)


@loop("f4[:], f4[:] out, f8", exact=True)
def leaky_relu_forward(x, y, negative_slope):  # type: ignore[no-untyped-def]
    slope = f4(negative_slope)
    for i in prange(x.size):
        v = x[i]
        y[i] = v if v > ZERO else v * slope


@loop("f4[:], f4[:], f4[:] out, f8", exact=True)
def leaky_relu_backward(gradient, x, dx, negative_slope):  # type: ignore[no-untyped-def]
    slope = f4(negative_slope)
    for i in prange(x.size):
        g = gradient[i]
        dx[i] = g if x[i] > ZERO else g * slope


@loop("f4[:], f4[:] out, f8, f8", exact=True)
def hardtanh_forward(x, y, low, high):  # type: ignore[no-untyped-def]
    least, most = f4(low), f4(high)
    for i in prange(x.size):
        v = x[i]
        v = least if v < least else v
        y[i] = most if v > most else v


@loop("f4[:], f4[:], f4[:] out, f8, f8", exact=True)
def hardtanh_backward(gradient, x, dx, low, high):  # type: ignore[no-untyped-def]
    least, most = f4(low), f4(high)
    for i in prange(x.size):
        dx[i] = gradient[i] * (ONE if x[i] > least else ZERO) * (ONE if x[i] < most else ZERO)


_THREE, _SIX = f4(3.0), f4(6.0)


@loop("f4[:], f4[:] out", exact=True)
def hardswish_forward(x, y):  # type: ignore[no-untyped-def]
    for i in prange(x.size):
        v = x[i] + _THREE
        v = ZERO if v < ZERO else v
        y[i] = x[i] * (_SIX if v > _SIX else v) * (ONE / _SIX)


@loop("f4[:], f4[:], f4[:] out", exact=True)
def hardswish_backward(gradient, x, dx):  # type: ignore[no-untyped-def]
    for i in prange(x.size):
        v = x[i]
        slope = v * (ONE / _THREE) + HALF
        slope = slope if v < _THREE else ONE
        dx[i] = gradient[i] * (ZERO if v <= -_THREE else slope)


# ---- by the exponential function -------------------------------------------------------------------------------------


@loop("f4[:], f4[:] out", exact=True)
def sigmoid_forward(x, y):  # type: ignore[no-untyped-def]
    for i in prange(x.size):
        y[i] = sigmoid(x[i])


@loop("f4[:], f4[:], f4[:] out", exact=True)
def sigmoid_backward(gradient, y, dx):  # type: ignore[no-untyped-def]
    for i in prange(y.size):
        dx[i] = gradient[i] * (y[i] * (ONE - y[i]))


@loop("f4[:], f4[:] out", exact=True)
def tanh_forward(x, y):  # type: ignore[no-untyped-def]
    for i in prange(x.size):
        y[i] = tanh(x[i])


@loop("f4[:], f4[:], f4[:] out", exact=True)
def tanh_backward(gradient, y, dx):  # type: ignore[no-untyped-def]
    for i in prange(y.size):
        dx[i] = gradient[i] * (ONE - y[i] * y[i])


@loop("f4[:], f4[:] out", exact=True)
def silu_forward(x, y):  # type: ignore[no-untyped-def]
    for i in prange(x.size):
        y[i] = x[i] * sigmoid(x[i])


@loop("f4[:], f4[:], f4[:] out", exact=True)
def silu_backward(gradient, x, dx):  # type: ignore[no-untyped-def]
    for i in prange(x.size):
        s = sigmoid(x[i])
        dx[i] = gradient[i] * (s * (ONE + x[i] * (ONE - s)))


@loop("f4[:], f4[:] out, f8, f8", exact=True)
def softplus_forward(x, y, beta, threshold):  # type: ignore[no-untyped-def]
    factor, most, back = f4(beta), f4(threshold), f4(1.0 / beta)
    for i in prange(x.size):
        scaled = x[i] * factor
        y[i] = x[i] if scaled > most else softplus_of(scaled) * back


@loop("f4[:], f4[:], f4[:] out, f8, f8", exact=True)
def softplus_backward(gradient, x, dx, beta, threshold):  # type: ignore[no-untyped-def]
    factor, most = f4(beta), f4(threshold)
    for i in prange(x.size):
        scaled = x[i] * factor
        dx[i] = gradient[i] * (ONE if scaled > most else sigmoid(scaled))


@loop("f4[:], f4[:] out, f8", exact=True)
def elu_forward(x, y, alpha):  # type: ignore[no-untyped-def]
    factor = f4(alpha)
    for i in prange(x.size):
        v = x[i]
        below = expm1_below(v if v < ZERO else ZERO) * factor
        y[i] = below if v <= ZERO else v


@loop("f4[:], f4[:], f4[:] out, f8", exact=True)
def elu_backward(gradient, x, dx, alpha):  # type: ignore[no-untyped-def]
    factor = f4(alpha)
    for i in prange(x.size):
        v = x[i]
        slope = exp_below(v if v < ZERO else ZERO) * factor
        slope = ONE if v > ZERO else slope
        dx[i] = gradient[i] * (slope if v == v else v)


@loop("f4[:], f4[:] out", exact=True)
def log_sigmoid_forward(x, y):  # type: ignore[no-untyped-def]
    for i in prange(x.size):
        v = x[i]
        y[i] = (ZERO if v > ZERO else v) - log1p_unit(exp_below(-abs(v)))


@loop("f4[:], f4[:], f4[:] out", exact=True)
def log_sigmoid_backward(gradient, x, dx):  # type: ignore[no-untyped-def]
    for i in prange(x.size):
        dx[i] = gradient[i] * sigmoid(-x[i])


_FLAT = f4(20.0)
"""From here on tanh(log(1 + exp(x))) is 1 in float32."""


@loop("f4[:], f4[:] out", exact=True)
def mish_forward(x, y):  # type: ignore[no-untyped-def]
    for i in prange(x.size):
        e = exp(_FLAT if x[i] > _FLAT else x[i])
        n = e * (e + TWO)  # tanh(log(1 + e)) is n / (n + 2)
        y[i] = x[i] * (n / (n + TWO))


@loop("f4[:], f4[:], f4[:] out", exact=True)
def mish_backward(gradient, x, dx):  # type: ignore[no-untyped-def]
    for i in prange(x.size):
        v = x[i]
        e = exp(_FLAT if v > _FLAT else v)
        n = e * (e + TWO)
        t = n / (n + TWO)
        dx[i] = gradient[i] * (t + v * (e / (ONE + e)) * (ONE - t * t))


# ---- GELU ------------------------------------------------------------------------------------------------------------

_DENSITY = f4(1.0 / math.sqrt(2.0 * math.pi))
_SCALE, _CUBE = f4(2.0 * math.sqrt(2.0 / math.pi)), f4(0.044715)
_FAR = f4(80.0)


@loop("f4[:], f4[:] out", exact=True)
def erf_forward(x, y):  # type: ignore[no-untyped-def]
    for i in prange(x.size):
        y[i] = erf(x[i])


@loop("f4[:], f4[:] out", exact=True)
def gelu_forward(x, y):  # type: ignore[no-untyped-def]
    for i in prange(x.size):
        y[i] = x[i] * normal_below(x[i])


@loop("f4[:], f4[:], f4[:] out", exact=True)
def gelu_backward(gradient, x, dx):  # type: ignore[no-untyped-def]
    for i in prange(x.size):
        v = x[i]
        density = _DENSITY * exp_below(-HALF * v * v)
        dx[i] = gradient[i] * (normal_below(v) + v * density)


@loop("f4[:], f4[:] out", exact=True)
def gelu_tanh_forward(x, y):  # type: ignore[no-untyped-def]
    for i in prange(x.size):
        v = x[i]
        y[i] = v * sigmoid(v * _SCALE * (ONE + _CUBE * v * v))  # (1 + tanh(u)) / 2 is sigmoid(2 u)


@loop("f4[:], f4[:], f4[:] out", exact=True)
def gelu_tanh_backward(gradient, x, dx):  # type: ignore[no-untyped-def]
    for i in prange(x.size):
        v = x[i]
        square = _CUBE * v * v
        u = v * _SCALE * (ONE + square)
        e = exp(_FAR if u < -_FAR else -u)
        s = ZERO if u < -_FAR else (ONE / (ONE + e))
        slope = e * s * s  # s * (1 - s) without cancellation
        dx[i] = gradient[i] * (s + slope * (v * _SCALE * (ONE + _THREE * square)))


_gelu = of_one(gelu_forward, reference_erf.gelu_forward)
_gelu_backward = of_two(gelu_backward, reference_erf.gelu_backward)
_gelu_tanh = of_one(gelu_tanh_forward, lambda x: reference_erf.gelu_forward(x, "tanh"))
_gelu_tanh_backward = of_two(gelu_tanh_backward, lambda gradient, x: reference_erf.gelu_backward(gradient, x, "tanh"))


def gelu(x: Array, approximate: str = "none") -> Array:
    """``gelu_forward`` of the table."""
    return _gelu_tanh(x) if approximate == "tanh" else _gelu(x)


def gelu_gradient(gradient: Array, x: Array, approximate: str = "none") -> Array:
    """``gelu_backward`` of the table."""
    return _gelu_tanh_backward(gradient, x) if approximate == "tanh" else _gelu_backward(gradient, x)


_FORWARD = {
    "relu": relu_forward,
    "leaky_relu": leaky_relu_forward,
    "hardtanh": hardtanh_forward,
    "hardswish": hardswish_forward,
    "sigmoid": sigmoid_forward,
    "tanh": tanh_forward,
    "silu": silu_forward,
    "softplus": softplus_forward,
    "elu": elu_forward,
    "log_sigmoid": log_sigmoid_forward,
    "mish": mish_forward,
}
_BACKWARD = {
    "relu": relu_backward,
    "leaky_relu": leaky_relu_backward,
    "hardtanh": hardtanh_backward,
    "hardswish": hardswish_backward,
    "sigmoid": sigmoid_backward,
    "tanh": tanh_backward,
    "silu": silu_backward,
    "softplus": softplus_backward,
    "elu": elu_backward,
    "log_sigmoid": log_sigmoid_backward,
    "mish": mish_backward,
}

KERNELS: dict[str, Callable[..., Any]] = {
    "erf": of_one(erf_forward, reference_erf.erf),
    "gelu_forward": gelu,
    "gelu_backward": gelu_gradient,
    **{f"{name}_forward": of_one(run, reference.KERNELS[f"{name}_forward"]) for name, run in _FORWARD.items()},
    **{f"{name}_backward": of_two(run, reference.KERNELS[f"{name}_backward"]) for name, run in _BACKWARD.items()},
}
