"""SGD, Adam, averages, means of two and hashes as compiled loops: one pass over memory, without temporaries.

All are exact: every operation is rounded as NumPy rounds it, in the reference's order, so that the bits are the reference's,
wherever ranks cut a run. What is not float32, or not contiguous, goes to the reference.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .. import reference_optim as reference
from .compiled import inline, loop, prange

Array = Any
f4, u8 = np.float32, np.uint64
FLOAT = np.dtype(np.float32)
ONE = f4(1.0)
_MIX1, _MIX2, _HALF = u8(0x9E3779B97F4A7C15), u8(0xD6E8FEB86659FD93), u8(32)


@inline
def decayed(g, p, decay):  # type: ignore[no-untyped-def]
    """The gradient with weight decay; as it is where there is none, also beside an infinite parameter."""
    return g + p * decay if decay != f4(0.0) else g


@loop("f4[:] out, f4[:], f8, f8, f8", exact=True)
def plain_loop(data, gradient, decay, scale, lr):  # type: ignore[no-untyped-def]
    decay, scale, lr = f4(decay), f4(scale), f4(lr)
    for i in prange(data.size):
        p = data[i]
        data[i] = p - decayed(gradient[i], p, decay) * scale * lr


@loop("f4[:] out, f4[:], f4[:] out, f8, f8, f8, f8, f8, b1, b1", exact=True)
def momentum_loop(data, gradient, buffer, decay, scale, momentum, share, lr, nesterov, first):  # type: ignore[no-untyped-def]
    decay, scale, momentum, share, lr = f4(decay), f4(scale), f4(momentum), f4(share), f4(lr)
    for i in prange(data.size):
        p = data[i]
        g = decayed(gradient[i], p, decay) * scale
        b = g if first else buffer[i] * momentum + g * share
        buffer[i] = b
        data[i] = p - (g + b * momentum if nesterov else b) * lr


@loop("f4[:] out, f4[:], f4[:] out, f4[:] out, f8, f8, f8, f8, f8, f8, f8, f8", exact=True)
def adam_loop(data, gradient, mean, square, keep, decay, share1, beta2, share2, root, eps, rate):  # type: ignore[no-untyped-def]
    keep, decay, share1, beta2, share2 = f4(keep), f4(decay), f4(share1), f4(beta2), f4(share2)
    root, eps, rate = f4(root), f4(eps), f4(rate)
    for i in prange(data.size):
        p = data[i] * keep
        g = decayed(gradient[i], p, decay)
        m = mean[i]
        m = m + (g - m) * share1
        v = square[i] * beta2 + g * g * share2
        mean[i] = m
        square[i] = v
        data[i] = p - m / (np.sqrt(v) * root + eps) * rate


@loop("f4[:] out, f4[:], f4[:] out, f4[:] out, f4[:] out, f8, f8, f8, f8, f8, f8, f8, f8", exact=True)
def amsgrad_loop(data, gradient, mean, square, top, keep, decay, share1, beta2, share2, root, eps, rate):  # type: ignore[no-untyped-def]
    keep, decay, share1, beta2, share2 = f4(keep), f4(decay), f4(share1), f4(beta2), f4(share2)
    root, eps, rate = f4(root), f4(eps), f4(rate)
    for i in prange(data.size):
        p = data[i] * keep
        g = decayed(gradient[i], p, decay)
        m = mean[i]
        m = m + (g - m) * share1
        v = square[i] * beta2 + g * g * share2
        mean[i] = m
        square[i] = v
        t = top[i]
        t = v if v > t or v != v else t
        top[i] = t
        data[i] = p - m / (np.sqrt(t) * root + eps) * rate


def sgd_update(
    data: Array, gradient: Array, buffer: Array | None, *, lr: float, momentum: float, dampening: float,
    weight_decay: float, nesterov: bool, first: bool,
) -> None:  # fmt: skip
    """As the reference."""
    if data.dtype is FLOAT:
        try:
            if buffer is None:
                return plain_loop(data.size, data, gradient, weight_decay, 1.0, lr)
            return momentum_loop(
                data.size, data, gradient, buffer, weight_decay, 1.0, momentum, 1.0 - dampening, lr, nesterov, first
            )
        except TypeError:  # arrays of another kind
            pass
    return reference.sgd_update(
        data, gradient, buffer, lr=lr, momentum=momentum, dampening=dampening, weight_decay=weight_decay, nesterov=nesterov,
        first=first,
    )  # fmt: skip


def adam_update(
    data: Array, gradient: Array, mean: Array, square: Array, largest: Array | None, *, lr: float, betas: tuple[float, float],
    eps: float, weight_decay: float, decoupled: bool, step: int,
) -> None:  # fmt: skip
    """As the reference."""
    if data.dtype is FLOAT:
        beta1, beta2 = betas
        keep, decay = (1.0 - lr * weight_decay, 0.0) if decoupled else (1.0, weight_decay)
        rate, root = lr / (1.0 - beta1**step), 1.0 / math.sqrt(1.0 - beta2**step)
        try:
            if largest is None:
                return adam_loop(
                    data.size, data, gradient, mean, square, keep, decay, 1.0 - beta1, beta2, 1.0 - beta2, root, eps, rate
                )  # fmt: skip
            return amsgrad_loop(
                data.size, data, gradient, mean, square, largest, keep, decay, 1.0 - beta1, beta2, 1.0 - beta2, root, eps, rate
            )  # fmt: skip
        except TypeError:
            pass
    return reference.adam_update(
        data, gradient, mean, square, largest, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, decoupled=decoupled,
        step=step,
    )  # fmt: skip


@loop("f4[:] out, f4[:], f8", exact=True)
def average_loop(average, data, share):  # type: ignore[no-untyped-def]
    share = f4(share)
    for i in prange(average.size):
        a = average[i]
        average[i] = a + (data[i] - a) * share


def average_update(average: Array, data: Array, share: float) -> None:
    """As the reference."""
    if data.dtype is FLOAT:
        try:
            return average_loop(data.size, average, data, share)
        except TypeError:
            pass
    return reference.average_update(average, data, share)


@loop("f4[:] out, f4[:] out", exact=True)
def exchange_loop(first, second):  # type: ignore[no-untyped-def]
    for i in prange(first.size):
        kept = first[i]
        first[i] = second[i]
        second[i] = kept


def exchange(first: Array, second: Array) -> None:
    """As the reference."""
    if first.dtype is FLOAT:
        try:
            return exchange_loop(first.size, first, second)
        except TypeError:
            pass
    return reference.exchange(first, second)


@loop("f4[:] out, f4[:] out, f8", exact=True)
def mean_loop(first, second, share):  # type: ignore[no-untyped-def]
    share = f4(share)
    for i in prange(first.size):
        mean = (first[i] + second[i]) * share
        first[i] = mean
        second[i] = mean


def mean_of_two(first: Array, second: Array, share: float) -> None:
    """As the reference."""
    if first.dtype is FLOAT:
        try:
            return mean_loop(first.size, first, second, share)
        except TypeError:
            pass
    return reference.mean_of_two(first, second, share)


@loop("f8[:,:], f8[:,:], f8[:], f8[:], f8[:,:] out", exact=True)
def moments_loop(first, second, share, product, merged):  # type: ignore[no-untyped-def]
    for i in range(share.size):
        delta = second[0, i] - first[0, i]
        merged[0, i] = first[0, i] + delta * share[i]
        merged[1, i] = (first[1, i] + second[1, i]) + delta * delta * product[i]


def merge_moments(first: Array, second: Array, share: Array, product: Array) -> Array:
    """As the reference."""
    merged = np.empty((2, share.size))
    try:
        moments_loop(share.size, first, second, share, product, merged)
    except TypeError:
        return reference.merge_moments(first, second, share, product)
    return merged


@loop("u4[:], u8", exact=True)
def hash_loop(words, start):  # type: ignore[no-untyped-def]
    total = u8(0)
    for i in prange(words.size):
        x = (start + u8(i) + u8(1)) * _MIX1
        x = (x ^ u8(words[i])) * _MIX2
        x = (x ^ (x >> _HALF)) * _MIX2
        total += x ^ (x >> _HALF)
    return total


def hash_words(words: Array, start: int) -> int:
    """As the reference."""
    try:
        return int(hash_loop(words.size, words, start))
    except TypeError:
        return reference.hash_words(words, start)


KERNELS = {
    "sgd_update": sgd_update,
    "adam_update": adam_update,
    "average_update": average_update,
    "exchange": exchange,
    "mean_of_two": mean_of_two,
    "merge_moments": merge_moments,
    "hash_words": hash_words,
}
