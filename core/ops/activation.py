"""Activations: elementwise functions of one input."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..backend import device_kind
from ..kernels.table import kernel
from ..op import Array, define
from .arithmetic import Gradients, Needs, floating, from_output


def _relu(x: Array) -> tuple[Array, Array]:
    y = np.maximum(x, 0)
    return y, y


def _relu_vjp(y: Array, gradient: Array, needs: Needs, slots: Any) -> Gradients:
    return (np.multiply(gradient, y > 0),)


RELU = define("relu", _relu, _relu_vjp)


def _sigmoid(x: Array) -> Array:
    """1 / (1 + exp(-x)); exp may overflow to infinity, whose reciprocal is the right 0."""
    with np.errstate(over="ignore"):
        y = np.exp(-x)
    y += 1
    return 1 / y


SIGMOID = from_output("sigmoid", _sigmoid, lambda g, y: g * (y * (1 - y)))
TANH = from_output("tanh", np.tanh, lambda g, y: g * (1 - y * y))


def _gelu(x: Array, approximate: str = "none") -> tuple[Array, Any]:
    x = floating(x)
    return kernel("gelu_forward", device_kind(x))(x, approximate), (x, approximate)


def _gelu_vjp(saved: Any, gradient: Array, needs: Needs, slots: Any) -> Gradients:
    x, approximate = saved
    return (kernel("gelu_backward", device_kind(x))(gradient, x, approximate),)


GELU = define("gelu", _gelu, _gelu_vjp)


def _silu(x: Array) -> tuple[Array, Any]:
    x = floating(x)
    s = _sigmoid(x)
    return x * s, (x, s)


def _silu_vjp(saved: Any, gradient: Array, needs: Needs, slots: Any) -> Gradients:
    x, s = saved
    return (gradient * (s * (1 + x * (1 - s))),)


SILU = define("silu", _silu, _silu_vjp)


def _softplus(x: Array, beta: float = 1.0, threshold: float = 20.0) -> tuple[Array, Any]:
    x = floating(x)
    scaled = x * beta
    y = np.logaddexp(scaled, scaled.dtype.type(0)) / beta
    return np.where(scaled > threshold, x, y), (x, beta, threshold)


def _softplus_vjp(saved: Any, gradient: Array, needs: Needs, slots: Any) -> Gradients:
    x, beta, threshold = saved
    scaled = x * beta
    return (gradient * np.where(scaled > threshold, x.dtype.type(1), _sigmoid(scaled)),)


SOFTPLUS = define("softplus", _softplus, _softplus_vjp)


def _leaky_relu(x: Array, negative_slope: float = 0.01) -> tuple[Array, Any]:
    x = floating(x)
    return np.where(x > 0, x, x * negative_slope), (x, negative_slope)


def _leaky_relu_vjp(saved: Any, gradient: Array, needs: Needs, slots: Any) -> Gradients:
    x, negative_slope = saved
    return (np.where(x > 0, gradient, gradient * negative_slope),)


LEAKY_RELU = define("leaky_relu", _leaky_relu, _leaky_relu_vjp)


def _elu(x: Array, alpha: float = 1.0) -> tuple[Array, Any]:
    x = floating(x)
    y = np.where(x > 0, x, np.expm1(np.minimum(x, 0)) * alpha)
    return y, (x, y, alpha)


def _elu_vjp(saved: Any, gradient: Array, needs: Needs, slots: Any) -> Gradients:
    x, y, alpha = saved
    return (np.where(x > 0, gradient, gradient * (y + alpha)),)


ELU = define("elu", _elu, _elu_vjp)


def _hardtanh(x: Array, low: float = -1.0, high: float = 1.0) -> tuple[Array, Any]:
    return np.clip(x, low, high), (x, low, high)


def _hardtanh_vjp(saved: Any, gradient: Array, needs: Needs, slots: Any) -> Gradients:
    """Unlike clamp's, it is 0 at the bounds, as in PyTorch."""
    x, low, high = saved
    return (gradient * ((x > low) & (x < high)),)


HARDTANH = define("hardtanh", _hardtanh, _hardtanh_vjp)


def _hardswish(x: Array) -> tuple[Array, Array]:
    x = floating(x)
    return x * np.clip(x + 3, 0, 6) / 6, x


def _hardswish_vjp(x: Array, gradient: Array, needs: Needs, slots: Any) -> Gradients:
    inner = np.where(x < 3, x / 3 + x.dtype.type(0.5), x.dtype.type(1))
    return (gradient * np.where(x <= -3, x.dtype.type(0), inner),)


HARDSWISH = define("hardswish", _hardswish, _hardswish_vjp)


def _log_sigmoid(x: Array) -> tuple[Array, Array]:
    """-log(1 + exp(-x)) without overflow."""
    x = floating(x)
    return np.minimum(x, 0) - np.log1p(np.exp(-np.abs(x))), x


def _log_sigmoid_vjp(x: Array, gradient: Array, needs: Needs, slots: Any) -> Gradients:
    return (gradient * _sigmoid(-x),)


LOG_SIGMOID = define("log_sigmoid", _log_sigmoid, _log_sigmoid_vjp)


def _mish(x: Array) -> tuple[Array, Any]:
    x = floating(x)
    t = np.tanh(np.logaddexp(x, x.dtype.type(0)))
    return x * t, (x, t)


def _mish_vjp(saved: Any, gradient: Array, needs: Needs, slots: Any) -> Gradients:
    x, t = saved
    return (gradient * (t + x * _sigmoid(x) * (1 - t * t)),)


MISH = define("mish", _mish, _mish_vjp)
