"""What Sequential does at once: on a GPU linear layers and the activation between them, which there are one kernel each.

There the bits are not those of the layers one after the other: the activation sees its input before that is rounded. On the CPU a linear
layer and a relu are one op with the bits of the two: for small layers that is a fifth of the forward pass less of Python.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ..backend import device_kind
from ..kernels import reference_linear
from ..kernels.table import kernel
from ..tensor import Tensor
from . import functional as F
from .activation import GELU, ReLU
from .linear import Linear


def available(input: Any) -> bool:
    """Whether there are kernels for it where ``input`` lies."""
    if not isinstance(input, Tensor):
        return False
    device = device_kind(input.array)
    return (device == "cuda" or input.array.dtype.char == "f") and (
        kernel("linear_activation", device) is not reference_linear.linear_activation
    )


def together(modules: Sequence[Any], input: Any, is_plain: Callable[[Any], bool]) -> tuple[int, Any]:
    """How many of the modules, of which the first is a Linear, were done at once, and their output; 0 if none."""
    if not isinstance(input, Tensor) or not is_plain(modules[0]):
        return 0, None
    activation = _activation(modules[1], is_plain)
    if activation is None:
        return 0, None
    if device_kind(input.array) == "cpu":
        return _relu_behind(modules[0], input) if activation == "relu" else (0, None)
    parameters, at = [modules[0].weight, modules[0].bias], 2
    while at < len(modules) and _activation(modules[at - 1], is_plain) == activation:
        linear = modules[at]
        if type(linear) is not Linear or not is_plain(linear):
            break
        parameters += [linear.weight, linear.bias]
        at += 2
    if at > 2:
        return at - 1, F.feed_forward(input, *parameters, activation=activation)
    both = F.linear_relu if activation == "relu" else F.linear_gelu
    return 2, both(input, *parameters)


def _relu_behind(linear: Linear, input: Tensor) -> tuple[int, Any]:
    """As :func:`together` on the CPU; that something does not fit is said by the layer itself."""
    x, weight = input.array, linear.weight.array
    if x.dtype is not weight.dtype or x.shape[-1:] != weight.shape[1:]:
        return 0, None
    return 2, F.linear_relu(input, linear.weight, linear.bias)


def _activation(module: Any, is_plain: Callable[[Any], bool]) -> str | None:
    if type(module) is ReLU and is_plain(module):
        return "relu"
    if type(module) is GELU and is_plain(module) and module.approximate == "tanh":
        return "gelu_tanh"
    return None
