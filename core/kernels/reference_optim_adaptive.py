"""Optimizer updates with statistics of the gradient beyond Adam's, each one pass over a piece of the flat store.

As in ``reference_optim``: block by block, elementwise, scalars rounded to the buffer's dtype before use, so that no bit
depends on where a block or a piece begins. ``first`` is the parameter's first step: buffers come in as zeros.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .reference_optim import blocks

Array = Any


def rmsprop_update(
    data: Array, gradient: Array, square: Array, mean: Array | None, buffer: Array | None, *, lr: float, alpha: float,
    eps: float, weight_decay: float, momentum: float,
) -> None:  # fmt: skip
    """``v = alpha v + (1 - alpha) g^2``, ``p -= lr g / (sqrt(v) + eps)``; with ``mean`` the variance instead of v."""
    number = data.dtype.type
    for at in blocks(data.size):
        p, g, v = data[at], gradient[at], square[at]
        if weight_decay:
            g = g + p * number(weight_decay)
        v *= number(alpha)
        v += g * g * number(1.0 - alpha)
        if mean is not None:
            m = mean[at]
            m += (g - m) * number(1.0 - alpha)
            w = np.sqrt(np.maximum(v - m * m, 0))  # rounding may take a variance of 0 below it
        else:
            w = np.sqrt(v)
        w += number(eps)
        np.divide(g, w, out=w)
        if buffer is not None:
            b = buffer[at]
            b *= number(momentum)
            b += w
            w = b
        p -= w * number(lr)


def adagrad_update(
    data: Array, gradient: Array, total: Array, *, lr: float, lr_decay: float, eps: float, weight_decay: float,
    initial: float, step: int,
) -> None:  # fmt: skip
    """``s += g^2``, ``p -= lr / (1 + (step - 1) lr_decay) g / (sqrt(s) + eps)``."""
    number = data.dtype.type
    rate = number(lr / (1.0 + (step - 1) * lr_decay))
    for at in blocks(data.size):
        p, g, s = data[at], gradient[at], total[at]
        if weight_decay:
            g = g + p * number(weight_decay)
        if step == 1:
            s[...] = number(initial)
        s += g * g
        w = np.sqrt(s)
        w += number(eps)
        np.divide(g, w, out=w)
        w *= rate
        p -= w


def adadelta_update(
    data: Array, gradient: Array, square: Array, moved: Array, *, lr: float, rho: float, eps: float, weight_decay: float
) -> None:
    """``v = rho v + (1 - rho) g^2``, ``d = sqrt(u + eps) / sqrt(v + eps) g``, ``u = rho u + (1 - rho) d^2``, ``p -= lr d``."""
    number = data.dtype.type
    for at in blocks(data.size):
        p, g, v, u = data[at], gradient[at], square[at], moved[at]
        if weight_decay:
            g = g + p * number(weight_decay)
        v *= number(rho)
        v += g * g * number(1.0 - rho)
        d = np.sqrt(u + number(eps))
        d /= np.sqrt(v + number(eps))
        d *= g
        u *= number(rho)
        u += d * d * number(1.0 - rho)
        d *= number(lr)
        p -= d


def adamax_update(
    data: Array, gradient: Array, mean: Array, largest: Array, *, lr: float, betas: tuple[float, float], eps: float,
    weight_decay: float, step: int,
) -> None:  # fmt: skip
    """``u = max(b2 u, |g| + eps)``, ``p -= lr / (1 - b1^step) m / u``."""
    number = data.dtype.type
    rate = number(lr / (1.0 - betas[0] ** step))
    for at in blocks(data.size):
        p, g, m, u = data[at], gradient[at], mean[at], largest[at]
        if weight_decay:
            g = g + p * number(weight_decay)
        m += (g - m) * number(1.0 - betas[0])
        w = np.abs(g)
        w += number(eps)
        u *= number(betas[1])
        np.maximum(u, w, out=u)
        np.divide(m, u, out=w)
        w *= rate
        p -= w


def _decayed(p: Array, g: Array, lr: float, weight_decay: float, decoupled: bool) -> Array:
    """Weight decay on the parameter itself when ``decoupled``, else in the gradient that is returned."""
    number = p.dtype.type
    if not weight_decay:
        return g
    if decoupled:
        p *= number(1.0 - lr * weight_decay)
        return g
    return g + p * number(weight_decay)


def _moments(g: Array, m: Array, v: Array, betas: tuple[float, float]) -> None:
    number = m.dtype.type
    m += (g - m) * number(1.0 - betas[0])
    v *= number(betas[1])
    v += g * g * number(1.0 - betas[1])


def nadam_update(
    data: Array, gradient: Array, mean: Array, square: Array, *, lr: float, betas: tuple[float, float], eps: float,
    weight_decay: float, decoupled: bool, mu: float, mu_next: float, mu_product: float, step: int,
) -> None:  # fmt: skip
    """Adam with Nesterov's look ahead; ``mu_product`` is the product of all mu up to and with this step's."""
    number = data.dtype.type
    root = number(1.0 / math.sqrt(1.0 - betas[1] ** step))
    of_gradient = number(lr * (1.0 - mu) / (1.0 - mu_product))
    of_mean = number(lr * mu_next / (1.0 - mu_product * mu_next))
    for at in blocks(data.size):
        p, m, v = data[at], mean[at], square[at]
        g = _decayed(p, gradient[at], lr, weight_decay, decoupled)
        _moments(g, m, v, betas)
        w = np.sqrt(v)
        w *= root
        w += number(eps)
        p -= (g * of_gradient + m * of_mean) / w


def rectified_rate(lr: float, betas: tuple[float, float], step: int) -> tuple[float, bool]:
    """RAdam's rate at ``step``, and whether it is divided by the root of the second moment."""
    correction = 1.0 - betas[1] ** step
    limit = 2.0 / (1.0 - betas[1]) - 1.0
    length = limit - 2.0 * step * betas[1] ** step / correction
    rate = lr / (1.0 - betas[0] ** step)
    if length > 5.0:
        fraction = (length - 4) * (length - 2) * limit / ((limit - 4) * (limit - 2) * length)
        rate *= math.sqrt(fraction) * math.sqrt(correction)
    return rate, length > 5.0


def radam_update(
    data: Array, gradient: Array, mean: Array, square: Array, *, lr: float, betas: tuple[float, float], eps: float,
    weight_decay: float, decoupled: bool, step: int,
) -> None:  # fmt: skip
    """Adam whose adaptive rate is rectified, and off while its variance is unbounded (the first steps)."""
    number = data.dtype.type
    rate, adaptive = rectified_rate(lr, betas, step)
    for at in blocks(data.size):
        p, m, v = data[at], mean[at], square[at]
        g = _decayed(p, gradient[at], lr, weight_decay, decoupled)
        _moments(g, m, v, betas)
        w = m * number(rate)
        if adaptive:
            w /= np.sqrt(v) + number(eps)
        p -= w


KERNELS = {
    "rmsprop_update": rmsprop_update,
    "adagrad_update": adagrad_update,
    "adadelta_update": adadelta_update,
    "adamax_update": adamax_update,
    "nadam_update": nadam_update,
    "radam_update": radam_update,
}
