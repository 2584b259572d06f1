"""Optimizer updates by signs, by averages and by whole parameters (layer-wise rates, orthogonal matrices).

Elementwise ones go block by block as in ``reference_optim``. Norms of a parameter are summed over the fixed chunk grid in
a fixed order, so that no bit depends on where the parameter lies.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..bfloat16 import is_half
from .reference_optim import blocks, sgd_update
from .reference_optim_norms import two_norm

Array = Any


def lion_update(
    data: Array, gradient: Array, mean: Array, *, lr: float, betas: tuple[float, float], weight_decay: float
) -> None:
    """``p -= lr (sign(b1 m + (1 - b1) g) + weight_decay p)``, then ``m = b2 m + (1 - b2) g``."""
    number = data.dtype.type
    for at in blocks(data.size):
        p, g, m = data[at], gradient[at], mean[at]
        w = m * number(betas[0])
        w += g * number(1.0 - betas[0])
        np.sign(w, out=w)
        w *= number(lr)
        if weight_decay:
            p *= number(1.0 - lr * weight_decay)
        p -= w
        m *= number(betas[1])
        m += g * number(1.0 - betas[1])


def rprop_update(
    data: Array, gradient: Array, previous: Array, step_size: Array, *, lr: float, etas: tuple[float, float],
    step_sizes: tuple[float, float], first: bool,
) -> None:  # fmt: skip
    """Each element's step grows while its gradient keeps its sign, shrinks and pauses when it changes."""
    number = data.dtype.type
    for at in blocks(data.size):
        p, g, before, size = data[at], gradient[at], previous[at], step_size[at]
        if first:
            size[...] = number(lr)
        agreement = np.sign(g * before)
        size *= np.where(agreement > 0, number(etas[1]), np.where(agreement < 0, number(etas[0]), number(1.0)))
        np.clip(size, number(step_sizes[0]), number(step_sizes[1]), out=size)
        before[...] = np.where(agreement < 0, number(0.0), g)
        p -= np.sign(before) * size


def asgd_update(
    data: Array, gradient: Array, average: Array, *, lambd: float, weight_decay: float, eta: float, mu: float
) -> None:
    """``p = (1 - lambd eta) p - eta g``, ``a += mu (p - a)``."""
    number = data.dtype.type
    for at in blocks(data.size):
        p, g, a = data[at], gradient[at], average[at]
        if weight_decay:
            g = g + p * number(weight_decay)
        p *= number(1.0 - lambd * eta)
        p -= g * number(eta)
        if mu == 1.0:
            a[...] = p
        else:
            a += (p - a) * number(mu)


def lamb_update(
    data: Array, gradient: Array, mean: Array, square: Array, *, lr: float, betas: tuple[float, float], eps: float,
    weight_decay: float, adapt: bool, trust_clip: bool, step: int,
) -> None:  # fmt: skip
    """Adam's direction u with decay, ``p -= lr |p| / |u| u``: one whole parameter."""
    number = data.dtype.type
    direction = np.empty_like(data)
    scale, root = number(1.0 / (1.0 - betas[0] ** step)), number(1.0 / math.sqrt(1.0 - betas[1] ** step))
    for at in blocks(data.size):
        p, g, m, v, u = data[at], gradient[at], mean[at], square[at], direction[at]
        m += (g - m) * number(1.0 - betas[0])
        v *= number(betas[1])
        v += g * g * number(1.0 - betas[1])
        w = np.sqrt(v)
        w *= root
        w += number(eps)
        np.multiply(m, scale, out=u)
        u /= w
        if weight_decay:
            u += p * number(weight_decay)
    ratio = 1.0
    if adapt:
        of_data, of_direction = two_norm(data), two_norm(direction)
        if of_data > 0 and of_direction > 0:
            ratio = min(of_data / of_direction, 1.0) if trust_clip else of_data / of_direction
    direction *= number(lr * ratio)
    data -= direction


def lars_ratio(of_data: float, of_gradient: float, trust_coefficient: float, weight_decay: float, eps: float) -> float:
    """``trust_coefficient |p| / (|g| + weight_decay |p| + eps)`` from both norms of one parameter; 1 where a norm is 0."""
    if not (of_data > 0 and of_gradient > 0):
        return 1.0
    return trust_coefficient * of_data / (of_gradient + weight_decay * of_data + eps)


def lars_update(
    data: Array, gradient: Array, buffer: Array | None, *, lr: float, momentum: float, dampening: float, nesterov: bool,
    weight_decay: float, adapt: bool, trust_coefficient: float, eps: float, first: bool,
) -> None:  # fmt: skip
    """SGD of ``lars_ratio (g + weight_decay p)`` where ``adapt``, else of g: one whole parameter."""
    if adapt:
        number = data.dtype.type
        ratio = lars_ratio(two_norm(data), two_norm(gradient), trust_coefficient, weight_decay, eps)
        gradient = (gradient + data * number(weight_decay)) * number(ratio)
    sgd_update(
        data, gradient, buffer, lr=lr, momentum=momentum, dampening=dampening, weight_decay=0.0, nesterov=nesterov,
        first=first,
    )  # fmt: skip


def orthogonalize(matrix: Array, coefficients: Sequence[float], steps: int, eps: float) -> Array:
    """Newton and Schulz's iteration towards the nearest half-orthogonal matrix: ``x = a x + (b s + c s^2) x, s = x x^T``."""
    a, b, c = map(matrix.dtype.type, coefficients)
    tall = matrix.shape[0] > matrix.shape[1]
    x = (matrix.T.copy() if tall else matrix) / matrix.dtype.type(max(two_norm(matrix.reshape(-1)), eps))
    for _ in range(steps):
        s = x @ x.T
        polynomial = s * b
        polynomial += (s @ s) * c
        y = polynomial @ x
        y += x * a
        x = y
    return x.T if tall else x


def muon_update(
    data: Array, gradient: Array, buffer: Array, *, lr: float, rate: float, momentum: float, weight_decay: float, nesterov: bool,
    coefficients: Sequence[float], steps: int, eps: float,
) -> None:  # fmt: skip
    """``b += (1 - momentum) (g - b)``, ``p = (1 - lr weight_decay) p - rate orthogonal(b)``: one matrix of 2 dimensions."""
    number = data.dtype.type
    buffer += (gradient - buffer) * number(1.0 - momentum)
    direction = gradient + (buffer - gradient) * number(momentum) if nesterov else buffer
    work = direction.astype(np.float32) if is_half(data.dtype) else direction
    update = orthogonalize(work, coefficients, steps, eps)
    if weight_decay:
        data *= number(1.0 - lr * weight_decay)
    data -= update.astype(data.dtype, copy=False) * number(rate)


KERNELS = {
    "lion_update": lion_update,
    "rprop_update": rprop_update,
    "asgd_update": asgd_update,
    "lamb_update": lamb_update,
    "lars_update": lars_update,
    "muon_update": muon_update,
}
