"""Activations and binary cross-entropy of logits on the device, in one pass each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ...backend import Array, array_module
from .. import reference_activation, reference_bce, reference_erf
from .dense import alike, blocks_for, contiguous, dense, over_elements, served
from .launch import launch, suffix

_REFERENCE = {**reference_activation.KERNELS, **reference_erf.KERNELS}


def _two(numbers: tuple[float, ...]) -> tuple[float, float]:
    """The two numbers that each of these kernels takes."""
    first, second, *_ = (*map(float, numbers), 0.0, 0.0)
    return first, second


def _forward(name: str) -> Callable[..., Array]:
    reference = _REFERENCE[f"{name}_forward"]

    def forward(x: Array, *numbers: float) -> Array:
        if not served(x):
            return reference(x, *numbers)
        x = dense(x)
        y = array_module(x).empty_like(x)
        over_elements("elementwise", f"{name}_forward", x, y, numbers=_two(numbers))
        return y

    return forward


def _two_arrays(kernel: str, gradient: Array, saved: Array, numbers: tuple[float, ...]) -> Array:
    saved = dense(saved)
    dx = array_module(saved).empty_like(saved)
    over_elements("elementwise", kernel, alike(gradient, saved), saved, dx, numbers=_two(numbers))
    return dx


def _backward(name: str) -> Callable[..., Array]:
    reference = _REFERENCE[f"{name}_backward"]

    def backward(gradient: Array, saved: Array, *numbers: float) -> Array:
        if not served(saved, gradient) or gradient.shape != saved.shape:
            return reference(gradient, saved, *numbers)
        return _two_arrays(f"{name}_backward", gradient, saved, numbers)

    return backward


_NAMES = (
    "relu", "sigmoid", "tanh", "silu", "softplus", "leaky_relu", "elu", "hardtanh", "hardswish", "log_sigmoid", "mish",
)  # fmt: skip


# ---- GELU and the error function -------------------------------------------------------------------------------------


def _gelu_name(approximate: str) -> str:
    return "gelu_tanh" if approximate == "tanh" else "gelu"


def gelu_forward(x: Array, approximate: str = "none") -> Array:
    """As ``reference_erf.gelu_forward``."""
    if not served(x):
        return reference_erf.gelu_forward(x, approximate)
    x = dense(x)
    y = array_module(x).empty_like(x)
    over_elements("elementwise", f"{_gelu_name(approximate)}_forward", x, y, numbers=(0.0, 0.0))
    return y


def gelu_backward(gradient: Array, x: Array, approximate: str = "none") -> Array:
    """As ``reference_erf.gelu_backward``."""
    if not served(x, gradient) or gradient.shape != x.shape:
        return reference_erf.gelu_backward(gradient, x, approximate)
    return _two_arrays(f"{_gelu_name(approximate)}_backward", gradient, x, ())


def erf(x: Array) -> Array:
    """As ``reference_erf.erf``."""
    if not served(x):
        return reference_erf.erf(x)
    x = dense(x)
    y = array_module(x).empty_like(x)
    over_elements("elementwise", "erf_forward", x, y, numbers=(0.0, 0.0))
    return y


# ---- binary cross-entropy of logits ----------------------------------------------------------------------------------


def _pos_weight(pos_weight: Array | None, x: Array) -> tuple[Array | None, np.int32]:
    """What the kernel reads, and its step from element to element."""
    if pos_weight is None or pos_weight.size == 1:
        return pos_weight, np.int32(0)
    return contiguous(array_module(x).broadcast_to(pos_weight, x.shape)), np.int32(1)


def bce_logits_forward(x: Array, target: Array, pos_weight: Array | None = None) -> Array:
    """As ``reference_bce.bce_logits_forward``."""
    if not served(x, target, pos_weight):
        return reference_bce.bce_logits_forward(x, target, pos_weight)
    x, target = contiguous(x), contiguous(target)
    y = array_module(x).empty_like(x)
    weight = _pos_weight(pos_weight, x)
    launch(
        "elementwise", f"bce_logits_forward_{suffix(x.dtype)}", blocks_for(x.size), 256, x, target, *weight, y, x.size
    )
    return y


def bce_logits_backward(gradient: Array, x: Array, target: Array, pos_weight: Array | None = None) -> Array:
    """As ``reference_bce.bce_logits_backward``."""
    if not served(x, target, pos_weight, gradient):
        return reference_bce.bce_logits_backward(gradient, x, target, pos_weight)
    x, target = contiguous(x), contiguous(target)
    alone = gradient.size == 1
    g = gradient if alone else contiguous(array_module(x).broadcast_to(gradient, x.shape))
    dx = array_module(x).empty_like(x)
    launch(
        "elementwise", f"bce_logits_backward_{suffix(x.dtype)}", blocks_for(x.size), 256, g, np.int32(not alone), x, target,
        *_pos_weight(pos_weight, x), dx, x.size,
    )  # fmt: skip
    return dx


KERNELS: dict[str, Callable[..., Any]] = {
    **{f"{name}_forward": _forward(name) for name in _NAMES},
    **{f"{name}_backward": _backward(name) for name in _NAMES},
    "gelu_forward": gelu_forward,
    "gelu_backward": gelu_backward,
    "erf": erf,
    "bce_logits_forward": bce_logits_forward,
    "bce_logits_backward": bce_logits_backward,
}
