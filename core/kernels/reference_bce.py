"""Binary cross-entropy of logits in plain array code."""

from __future__ import annotations

from collections.abc import Callable

from ..backend import array_module
from ..op import Array


def softplus_of_minus(x: Array) -> Array:
    """``log(1 + exp(-x))`` without overflow."""
    xp = array_module(x)
    return xp.log1p(xp.exp(-xp.abs(x))) + xp.maximum(-x, 0)


def bce_logits_forward(x: Array, target: Array, pos_weight: Array | None = None) -> Array:
    """``(1 - t) x + (1 + (p - 1) t) log(1 + exp(-x))`` for each element; of the shape and dtype of ``x``."""
    scale = 1 if pos_weight is None else 1 + (pos_weight - 1) * target
    loss = (1 - target) * x + scale * softplus_of_minus(x)
    return loss.astype(x.dtype, copy=False)


def bce_logits_backward(gradient: Array, x: Array, target: Array, pos_weight: Array | None = None) -> Array:
    """``gradient * ((1 - t) - (1 + (p - 1) t) sigmoid(-x))``."""
    xp = array_module(x)
    scale = 1 if pos_weight is None else 1 + (pos_weight - 1) * target
    small = xp.exp(-xp.abs(x))  # sigmoid(-x) without overflow
    return gradient * ((1 - target) - scale * (xp.where(x >= 0, small, 1) / (1 + small)))


KERNELS: dict[str, Callable[..., Array]] = {
    "bce_logits_forward": bce_logits_forward,
    "bce_logits_backward": bce_logits_backward,
}
