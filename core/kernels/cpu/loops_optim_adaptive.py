"""Optimizers with statistics of the gradient beyond Adam's as compiled loops, exact as those of ``loops_optim``."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .. import reference_optim_adaptive as reference
from .compiled import loop, prange
from .loops_optim import FLOAT, decayed

Array = Any
f4 = np.float32
ZERO, ONE = f4(0.0), f4(1.0)


@loop("f4[:] out, f4[:], f4[:] out, f8, f8, f8, f8, f8", exact=True)
def rmsprop_loop(data, gradient, square, decay, alpha, share, eps, lr):  # type: ignore[no-untyped-def]
    decay, alpha, share, eps, lr = f4(decay), f4(alpha), f4(share), f4(eps), f4(lr)
    for i in prange(data.size):
        p = data[i]
        g = decayed(gradient[i], p, decay)
        v = square[i] * alpha + g * g * share
        square[i] = v
        data[i] = p - g / (np.sqrt(v) + eps) * lr


@loop("f4[:] out, f4[:], f4[:] out, f4[:] out, f8, f8, f8, f8, f8, f8", exact=True)
def rmsprop_momentum_loop(data, gradient, square, buffer, decay, alpha, share, eps, momentum, lr):  # type: ignore[no-untyped-def]
    decay, alpha, share, eps, momentum, lr = f4(decay), f4(alpha), f4(share), f4(eps), f4(momentum), f4(lr)
    for i in prange(data.size):
        p = data[i]
        g = decayed(gradient[i], p, decay)
        v = square[i] * alpha + g * g * share
        square[i] = v
        b = buffer[i] * momentum + g / (np.sqrt(v) + eps)
        buffer[i] = b
        data[i] = p - b * lr


@loop("f4[:] out, f4[:], f4[:] out, f4[:] out, f8, f8, f8, f8, f8", exact=True)
def rmsprop_centered_loop(data, gradient, square, mean, decay, alpha, share, eps, lr):  # type: ignore[no-untyped-def]
    decay, alpha, share, eps, lr = f4(decay), f4(alpha), f4(share), f4(eps), f4(lr)
    for i in prange(data.size):
        p = data[i]
        g = decayed(gradient[i], p, decay)
        v = square[i] * alpha + g * g * share
        square[i] = v
        m = mean[i]
        m = m + (g - m) * share
        mean[i] = m
        w = v - m * m
        w = w if w > ZERO or w != w else ZERO
        data[i] = p - g / (np.sqrt(w) + eps) * lr


@loop("f4[:] out, f4[:], f4[:] out, f4[:] out, f4[:] out, f8, f8, f8, f8, f8, f8", exact=True)
def rmsprop_both_loop(data, gradient, square, mean, buffer, decay, alpha, share, eps, momentum, lr):  # type: ignore[no-untyped-def]
    decay, alpha, share, eps, momentum, lr = f4(decay), f4(alpha), f4(share), f4(eps), f4(momentum), f4(lr)
    for i in prange(data.size):
        p = data[i]
        g = decayed(gradient[i], p, decay)
        v = square[i] * alpha + g * g * share
        square[i] = v
        m = mean[i]
        m = m + (g - m) * share
        mean[i] = m
        w = v - m * m
        w = w if w > ZERO or w != w else ZERO
        b = buffer[i] * momentum + g / (np.sqrt(w) + eps)
        buffer[i] = b
        data[i] = p - b * lr


def rmsprop_update(
    data: Array, gradient: Array, square: Array, mean: Array | None, buffer: Array | None, *, lr: float, alpha: float,
    eps: float, weight_decay: float, momentum: float,
) -> None:  # fmt: skip
    """As the reference."""
    if data.dtype is FLOAT:
        numbers = weight_decay, alpha, 1.0 - alpha, eps
        try:
            if buffer is None:
                if mean is None:
                    return rmsprop_loop(data.size, data, gradient, square, *numbers, lr)
                return rmsprop_centered_loop(data.size, data, gradient, square, mean, *numbers, lr)
            if mean is None:
                return rmsprop_momentum_loop(data.size, data, gradient, square, buffer, *numbers, momentum, lr)
            return rmsprop_both_loop(data.size, data, gradient, square, mean, buffer, *numbers, momentum, lr)
        except TypeError:  # arrays of another kind
            pass
    return reference.rmsprop_update(
        data, gradient, square, mean, buffer, lr=lr, alpha=alpha, eps=eps, weight_decay=weight_decay, momentum=momentum
    )


@loop("f4[:] out, f4[:], f4[:] out, f8, f8, f8, f8, b1", exact=True)
def adagrad_loop(data, gradient, total, decay, initial, eps, rate, first):  # type: ignore[no-untyped-def]
    decay, initial, eps, rate = f4(decay), f4(initial), f4(eps), f4(rate)
    for i in prange(data.size):
        p = data[i]
        g = decayed(gradient[i], p, decay)
        s = (initial if first else total[i]) + g * g
        total[i] = s
        data[i] = p - g / (np.sqrt(s) + eps) * rate


def adagrad_update(
    data: Array, gradient: Array, total: Array, *, lr: float, lr_decay: float, eps: float, weight_decay: float,
    initial: float, step: int,
) -> None:  # fmt: skip
    """As the reference."""
    if data.dtype is FLOAT:
        rate = lr / (1.0 + (step - 1) * lr_decay)
        try:
            return adagrad_loop(data.size, data, gradient, total, weight_decay, initial, eps, rate, step == 1)
        except TypeError:
            pass
    return reference.adagrad_update(
        data, gradient, total, lr=lr, lr_decay=lr_decay, eps=eps, weight_decay=weight_decay, initial=initial, step=step
    )


@loop("f4[:] out, f4[:], f4[:] out, f4[:] out, f8, f8, f8, f8, f8", exact=True)
def adadelta_loop(data, gradient, square, moved, decay, rho, share, eps, lr):  # type: ignore[no-untyped-def]
    decay, rho, share, eps, lr = f4(decay), f4(rho), f4(share), f4(eps), f4(lr)
    for i in prange(data.size):
        p, u = data[i], moved[i]
        g = decayed(gradient[i], p, decay)
        v = square[i] * rho + g * g * share
        square[i] = v
        d = np.sqrt(u + eps) / np.sqrt(v + eps) * g
        moved[i] = u * rho + d * d * share
        data[i] = p - d * lr


def adadelta_update(
    data: Array, gradient: Array, square: Array, moved: Array, *, lr: float, rho: float, eps: float, weight_decay: float
) -> None:
    """As the reference."""
    if data.dtype is FLOAT:
        try:
            return adadelta_loop(data.size, data, gradient, square, moved, weight_decay, rho, 1.0 - rho, eps, lr)
        except TypeError:
            pass
    return reference.adadelta_update(
        data, gradient, square, moved, lr=lr, rho=rho, eps=eps, weight_decay=weight_decay
    )  # fmt: skip


@loop("f4[:] out, f4[:], f4[:] out, f4[:] out, f8, f8, f8, f8, f8", exact=True)
def adamax_loop(data, gradient, mean, largest, decay, share, beta2, eps, rate):  # type: ignore[no-untyped-def]
    decay, share, beta2, eps, rate = f4(decay), f4(share), f4(beta2), f4(eps), f4(rate)
    for i in prange(data.size):
        p = data[i]
        g = decayed(gradient[i], p, decay)
        m = mean[i]
        m = m + (g - m) * share
        mean[i] = m
        u, w = largest[i] * beta2, np.abs(g) + eps
        u = w if w > u or w != w else u
        largest[i] = u
        data[i] = p - m / u * rate


def adamax_update(
    data: Array, gradient: Array, mean: Array, largest: Array, *, lr: float, betas: tuple[float, float], eps: float,
    weight_decay: float, step: int,
) -> None:  # fmt: skip
    """As the reference."""
    if data.dtype is FLOAT:
        rate = lr / (1.0 - betas[0] ** step)
        try:
            return adamax_loop(
                data.size, data, gradient, mean, largest, weight_decay, 1.0 - betas[0], betas[1], eps, rate
            )  # fmt: skip
        except TypeError:
            pass
    return reference.adamax_update(
        data, gradient, mean, largest, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, step=step
    )


@loop("f4[:] out, f4[:], f4[:] out, f4[:] out, f8, f8, f8, f8, f8, f8, f8, f8, f8", exact=True)
def nadam_loop(data, gradient, mean, square, keep, decay, share1, beta2, share2, root, eps, of_gradient, of_mean):  # type: ignore[no-untyped-def]
    keep, decay, share1, beta2, share2 = f4(keep), f4(decay), f4(share1), f4(beta2), f4(share2)
    root, eps, of_gradient, of_mean = f4(root), f4(eps), f4(of_gradient), f4(of_mean)
    for i in prange(data.size):
        p = data[i] * keep
        g = decayed(gradient[i], p, decay)
        m = mean[i]
        m = m + (g - m) * share1
        v = square[i] * beta2 + g * g * share2
        mean[i] = m
        square[i] = v
        data[i] = p - (g * of_gradient + m * of_mean) / (np.sqrt(v) * root + eps)


def nadam_update(
    data: Array, gradient: Array, mean: Array, square: Array, *, lr: float, betas: tuple[float, float], eps: float,
    weight_decay: float, decoupled: bool, mu: float, mu_next: float, mu_product: float, step: int,
) -> None:  # fmt: skip
    """As the reference."""
    if data.dtype is FLOAT:
        beta1, beta2 = betas
        keep, decay = (1.0 - lr * weight_decay, 0.0) if decoupled else (1.0, weight_decay)
        root = 1.0 / math.sqrt(1.0 - beta2**step)
        of_gradient = lr * (1.0 - mu) / (1.0 - mu_product)
        of_mean = lr * mu_next / (1.0 - mu_product * mu_next)
        try:
            return nadam_loop(
                data.size, data, gradient, mean, square, keep, decay, 1.0 - beta1, beta2, 1.0 - beta2, root, eps,
                of_gradient, of_mean,
            )  # fmt: skip
        except TypeError:
            pass
    return reference.nadam_update(
        data, gradient, mean, square, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, decoupled=decoupled, mu=mu,
        mu_next=mu_next, mu_product=mu_product, step=step,
    )  # fmt: skip


@loop("f4[:] out, f4[:], f4[:] out, f4[:] out, f8, f8, f8, f8, f8, f8, f8, b1", exact=True)
def radam_loop(data, gradient, mean, square, keep, decay, share1, beta2, share2, eps, rate, adaptive):  # type: ignore[no-untyped-def]
    keep, decay, share1, beta2, share2 = f4(keep), f4(decay), f4(share1), f4(beta2), f4(share2)
    eps, rate = f4(eps), f4(rate)
    for i in prange(data.size):
        p = data[i] * keep
        g = decayed(gradient[i], p, decay)
        m = mean[i]
        m = m + (g - m) * share1
        v = square[i] * beta2 + g * g * share2
        mean[i] = m
        square[i] = v
        data[i] = p - m * rate / (np.sqrt(v) + eps if adaptive else ONE)


def radam_update(
    data: Array, gradient: Array, mean: Array, square: Array, *, lr: float, betas: tuple[float, float], eps: float,
    weight_decay: float, decoupled: bool, step: int,
) -> None:  # fmt: skip
    """As the reference."""
    if data.dtype is FLOAT:
        beta1, beta2 = betas
        keep, decay = (1.0 - lr * weight_decay, 0.0) if decoupled else (1.0, weight_decay)
        rate, adaptive = reference.rectified_rate(lr, betas, step)
        try:
            return radam_loop(
                data.size, data, gradient, mean, square, keep, decay, 1.0 - beta1, beta2, 1.0 - beta2, eps, rate, adaptive
            )  # fmt: skip
        except TypeError:
            pass
    return reference.radam_update(
        data, gradient, mean, square, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, decoupled=decoupled,
        step=step,
    )  # fmt: skip


KERNELS = {
    "rmsprop_update": rmsprop_update,
    "adagrad_update": adagrad_update,
    "adadelta_update": adadelta_update,
    "adamax_update": adamax_update,
    "nadam_update": nadam_update,
    "radam_update": radam_update,
}
