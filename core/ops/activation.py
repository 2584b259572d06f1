"""Activations: elementwise functions of one input. The work is done by kernels, ``NAME_forward`` and ``NAME_backward``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..backend import device_kind
from ..kernels.table import kernel
from ..op import Array, Op, define
from .arithmetic import Gradients, Needs, floating, from_output


def _relu(x: Array) -> tuple[Array, Array]:
    y = kernel("relu_forward", device_kind(x))(x)
    return y, y


def _relu_vjp(y: Array, gradient: Array, needs: Needs, slots: Any) -> Gradients:
    return (kernel("relu_backward", device_kind(gradient))(gradient, y),)


RELU = define("relu", _relu, _relu_vjp)


def _by_output(name: str) -> Op:
    """An op whose gradient needs its output only."""
    return from_output(
        name,
        lambda x: kernel(f"{name}_forward", device_kind(x))(x),
        lambda g, y: kernel(f"{name}_backward", device_kind(y))(g, y),
    )


SIGMOID = _by_output("sigmoid")
TANH = _by_output("tanh")


def _gelu(x: Array, approximate: str = "none") -> tuple[Array, Any]:
    x = floating(x)
    return kernel("gelu_forward", device_kind(x))(x, approximate), (x, approximate)


def _gelu_vjp(saved: Any, gradient: Array, needs: Needs, slots: Any) -> Gradients:
    x, approximate = saved
    return (kernel("gelu_backward", device_kind(x))(gradient, x, approximate),)


GELU = define("gelu", _gelu, _gelu_vjp)


def _by_input(name: str) -> tuple[Callable[..., tuple[Array, Any]], Callable[..., Gradients]]:
    """Forward and gradient of an op whose gradient needs its input, and numbers beside it."""
    forward_name, backward_name = f"{name}_forward", f"{name}_backward"

    def forward(x: Array, *numbers: float) -> tuple[Array, Any]:
        return kernel(forward_name, device_kind(x))(x, *numbers), (x, *numbers)

    def vjp(saved: Any, gradient: Array, needs: Needs, slots: Any) -> Gradients:
        return (kernel(backward_name, device_kind(gradient))(gradient, *saved),)

    return forward, vjp


_silu, _silu_vjp = _by_input("silu")
SILU = define("silu", lambda x: _silu(floating(x)), _silu_vjp)

_softplus, _softplus_vjp = _by_input("softplus")
SOFTPLUS = define(
    "softplus", lambda x, beta=1.0, threshold=20.0: _softplus(floating(x), beta, threshold), _softplus_vjp
)

_leaky_relu, _leaky_relu_vjp = _by_input("leaky_relu")
LEAKY_RELU = define(
    "leaky_relu", lambda x, negative_slope=0.01: _leaky_relu(floating(x), negative_slope), _leaky_relu_vjp
)

_elu, _elu_vjp = _by_input("elu")
ELU = define("elu", lambda x, alpha=1.0: _elu(floating(x), alpha), _elu_vjp)

_hardtanh, _hardtanh_vjp = _by_input("hardtanh")
HARDTANH = define("hardtanh", lambda x, low=-1.0, high=1.0: _hardtanh(x, low, high), _hardtanh_vjp)
"""Unlike clamp's, its gradient is 0 at the bounds, as in PyTorch."""

_hardswish, _hardswish_vjp = _by_input("hardswish")
HARDSWISH = define("hardswish", lambda x: _hardswish(floating(x)), _hardswish_vjp)

_log_sigmoid, _log_sigmoid_vjp = _by_input("log_sigmoid")
LOG_SIGMOID = define("log_sigmoid", lambda x: _log_sigmoid(floating(x)), _log_sigmoid_vjp)

_mish, _mish_vjp = _by_input("mish")
MISH = define("mish", lambda x: _mish(floating(x)), _mish_vjp)
