"""Binary cross-entropy of logits as compiled loops."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ...op import Array
from .. import reference_bce
from .compiled import loop, prange
from .dense import FLOAT32, PLAIN, alike, dense
from .mathematics import ONE, sigmoid, softplus


@loop("f4[:], f4[:], f4[:] out", exact=True)
def losses_of(x, target, loss):  # type: ignore[no-untyped-def]
    for i in prange(x.size):
        loss[i] = (ONE - target[i]) * x[i] + softplus(-x[i])


@loop("f4[:], f4[:], f4[:], f4[:] out", exact=True)
def gradients_of(gradient, x, target, dx):  # type: ignore[no-untyped-def]
    for i in prange(x.size):
        dx[i] = gradient[i] * ((ONE - target[i]) - sigmoid(-x[i]))


def _served(x: Array, target: Array, pos_weight: Array | None) -> bool:
    return pos_weight is None and x.dtype is FLOAT32 and target.dtype is FLOAT32 and x.shape == target.shape


def bce_logits_forward(x: Array, target: Array, pos_weight: Array | None = None) -> Array:
    """``bce_logits_forward`` of the table; with ``pos_weight`` the reference."""
    if not _served(x, target, pos_weight):
        return reference_bce.bce_logits_forward(x, target, pos_weight)
    if x.flags.num & target.flags.num & PLAIN != PLAIN:
        x = dense(x)
        target = alike(target, x)
    loss = np.empty_like(x)
    losses_of(x.size, x.ravel("K"), target.ravel("K"), loss.ravel("K"))
    return loss


def bce_logits_backward(gradient: Array, x: Array, target: Array, pos_weight: Array | None = None) -> Array:
    """``bce_logits_backward`` of the table; with ``pos_weight`` the reference."""
    if not _served(x, target, pos_weight) or gradient.dtype is not FLOAT32 or gradient.shape != x.shape:
        return reference_bce.bce_logits_backward(gradient, x, target, pos_weight)
    if gradient.flags.num & x.flags.num & target.flags.num & PLAIN != PLAIN:
        x = dense(x)
        gradient, target = alike(gradient, x), alike(target, x)
    dx = np.empty_like(x)
    gradients_of(x.size, gradient.ravel("K"), x.ravel("K"), target.ravel("K"), dx.ravel("K"))
    return dx


KERNELS: dict[str, Callable[..., Array]] = {
    "bce_logits_forward": bce_logits_forward,
    "bce_logits_backward": bce_logits_backward,
}
