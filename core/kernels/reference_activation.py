"""Activations in plain array code, forward and backward; GELU is in ``reference_erf``.

A forward takes x and the function's numbers, a backward the gradient, what was saved (x, or the output y) and the same numbers.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..op import Array


def relu_forward(x: Array) -> Array:
    """``max(x, 0)``; any dtype.

    >>> relu_forward(np.array([-1.0, 2.0])).tolist()
    [0.0, 2.0]
    """
    return np.maximum(x, 0)


def relu_backward(gradient: Array, y: Array) -> Array:
    """``gradient`` where y > 0, else 0 (NaN for an infinite or missing gradient)."""
    return np.multiply(gradient, y > 0)


def sigmoid_forward(x: Array) -> Array:
    """``1 / (1 + exp(-x))``; exp may overflow to infinity, whose reciprocal is the right 0."""
    with np.errstate(over="ignore"):
        y = np.exp(-x)
    y += 1
    return 1 / y


def sigmoid_backward(gradient: Array, y: Array) -> Array:
    """``gradient * y * (1 - y)``."""
    return gradient * (y * (1 - y))


def tanh_forward(x: Array) -> Array:
    """``tanh(x)``."""
    return np.tanh(x)


def tanh_backward(gradient: Array, y: Array) -> Array:
    """``gradient * (1 - y**2)``."""
    return gradient * (1 - y * y)


def silu_forward(x: Array) -> Array:
    """``x * sigmoid(x)``."""
    return x * sigmoid_forward(x)


def silu_backward(gradient: Array, x: Array) -> Array:
    """``gradient * s * (1 + x * (1 - s))`` with s the sigmoid of x."""
    s = sigmoid_forward(x)
    return gradient * (s * (1 + x * (1 - s)))


def softplus_forward(x: Array, beta: float, threshold: float) -> Array:
    """``log(1 + exp(beta * x)) / beta``, x itself where ``beta * x > threshold``."""
    scaled = x * beta
    y = np.logaddexp(scaled, scaled.dtype.type(0)) / beta
    return np.where(scaled > threshold, x, y)


def softplus_backward(gradient: Array, x: Array, beta: float, threshold: float) -> Array:
    """``gradient * sigmoid(beta * x)``, the gradient itself above the threshold."""
    scaled = x * beta
    return gradient * np.where(scaled > threshold, x.dtype.type(1), sigmoid_forward(scaled))


def leaky_relu_forward(x: Array, negative_slope: float) -> Array:
    """``x`` above 0, else ``x * negative_slope``."""
    return np.where(x > 0, x, x * negative_slope)


def leaky_relu_backward(gradient: Array, x: Array, negative_slope: float) -> Array:
    """The gradient where x > 0, else ``gradient * negative_slope``."""
    return np.where(x > 0, gradient, gradient * negative_slope)


def elu_forward(x: Array, alpha: float) -> Array:
    """``x`` above 0, else ``alpha * (exp(x) - 1)``."""
    return np.where(x > 0, x, np.expm1(np.minimum(x, 0)) * alpha)


def elu_backward(gradient: Array, x: Array, alpha: float) -> Array:
    """The gradient where x > 0, else ``gradient * (y + alpha)``."""
    return np.where(x > 0, gradient, gradient * (elu_forward(x, alpha) + alpha))


def hardtanh_forward(x: Array, low: float, high: float) -> Array:
    """``x`` held within [low, high]; any dtype."""
    return np.clip(x, low, high)


def hardtanh_backward(gradient: Array, x: Array, low: float, high: float) -> Array:
    """The gradient within, 0 outside. Unlike clamp's, it is 0 at the bounds, as in PyTorch."""
    return gradient * ((x > low) & (x < high))


def hardswish_forward(x: Array) -> Array:
    """``x * clip(x + 3, 0, 6) / 6``."""
    return x * np.clip(x + 3, 0, 6) / 6


def hardswish_backward(gradient: Array, x: Array) -> Array:
    """0 up to -3, the gradient from 3 on, ``gradient * (x / 3 + 1 / 2)`` between."""
    inner = np.where(x < 3, x / 3 + x.dtype.type(0.5), x.dtype.type(1))
    return gradient * np.where(x <= -3, x.dtype.type(0), inner)


def log_sigmoid_forward(x: Array) -> Array:
    """``-log(1 + exp(-x))`` without overflow."""
    return np.minimum(x, 0) - np.log1p(np.exp(-np.abs(x)))


def log_sigmoid_backward(gradient: Array, x: Array) -> Array:
    """``gradient * sigmoid(-x)``."""
    return gradient * sigmoid_forward(-x)


def _mish_factor(x: Array) -> Array:
    return np.tanh(np.logaddexp(x, x.dtype.type(0)))


def mish_forward(x: Array) -> Array:
    """``x * tanh(log(1 + exp(x)))``."""
    return x * _mish_factor(x)


def mish_backward(gradient: Array, x: Array) -> Array:
    """``gradient * (t + x * sigmoid(x) * (1 - t**2))`` with t = tanh(log(1 + exp(x)))."""
    t = _mish_factor(x)
    return gradient * (t + x * sigmoid_forward(x) * (1 - t * t))


KERNELS: dict[str, Callable[..., Array]] = {
    "relu_forward": relu_forward,
    "relu_backward": relu_backward,
    "sigmoid_forward": sigmoid_forward,
    "sigmoid_backward": sigmoid_backward,
    "tanh_forward": tanh_forward,
    "tanh_backward": tanh_backward,
    "silu_forward": silu_forward,
    "silu_backward": silu_backward,
    "softplus_forward": softplus_forward,
    "softplus_backward": softplus_backward,
    "leaky_relu_forward": leaky_relu_forward,
    "leaky_relu_backward": leaky_relu_backward,
    "elu_forward": elu_forward,
    "elu_backward": elu_backward,
    "hardtanh_forward": hardtanh_forward,
    "hardtanh_backward": hardtanh_backward,
    "hardswish_forward": hardswish_forward,
    "hardswish_backward": hardswish_backward,
    "log_sigmoid_forward": log_sigmoid_forward,
    "log_sigmoid_backward": log_sigmoid_backward,
    "mish_forward": mish_forward,
    "mish_backward": mish_backward,
}
