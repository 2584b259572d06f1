"""Optimizer updates, each one pass over a piece of the flat store, in plain array code.

The pass goes block by block so that the work arrays stay in the cache; every update is elementwise, so that no
bit depends on where a block begins. Scalars are rounded to the buffer's dtype before use.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..backend import array_module

Array = Any
_BLOCK = 32_768


def blocks(length: int) -> Any:
    return (slice(lo, min(lo + _BLOCK, length)) for lo in range(0, length, _BLOCK))


def sgd_update(
    data: Array, gradient: Array, buffer: Array | None, *, lr: float, momentum: float, dampening: float,
    weight_decay: float, nesterov: bool, first: bool,
) -> None:  # fmt: skip
    """``b = momentum b + (1 - dampening) g`` (``b = g`` at first); ``p -= lr b``, or ``lr (g + momentum b)`` with Nesterov."""
    number = data.dtype.type
    for at in blocks(data.size):
        p, g = data[at], gradient[at]
        if weight_decay:
            g = g + p * number(weight_decay)
        if buffer is not None:
            b = buffer[at]
            if first:
                b[...] = g
            else:
                b *= number(momentum)
                b += g * number(1.0 - dampening) if dampening else g
            g = g + b * number(momentum) if nesterov else b
        p -= g * number(lr)


def adam_update(
    data: Array, gradient: Array, mean: Array, square: Array, largest: Array | None, *, lr: float, betas: tuple[float, float],
    eps: float, weight_decay: float, decoupled: bool, step: int,
) -> None:  # fmt: skip
    """Adam (Kingma and Ba, 2015), AdamW when ``decoupled`` (Loshchilov and Hutter, 2019), AMSGrad with ``largest``."""
    number = data.dtype.type
    beta1, beta2 = betas
    step_size = number(lr / (1.0 - beta1**step))
    root = number(1.0 / np.sqrt(1.0 - beta2**step))
    work = np.empty_like(data[:_BLOCK])
    for at in blocks(data.size):
        p, g, m, v = data[at], gradient[at], mean[at], square[at]
        w = work[: p.size]
        if weight_decay and decoupled:
            p *= number(1.0 - lr * weight_decay)
        elif weight_decay:
            g = g + p * number(weight_decay)
        np.subtract(g, m, out=w)
        w *= number(1.0 - beta1)
        m += w
        v *= number(beta2)
        np.multiply(g, g, out=w)
        w *= number(1.0 - beta2)
        v += w
        if largest is not None:
            np.maximum(largest[at], v, out=largest[at])
            v = largest[at]
        np.sqrt(v, out=w)
        w *= root
        w += number(eps)
        np.divide(m, w, out=w)
        w *= step_size
        p -= w


def average_update(average: Array, data: Array, share: float) -> None:
    """``average += share (data - average)``."""
    for at in blocks(data.size):
        average[at] += (data[at] - average[at]) * data.dtype.type(share)


def exchange(first: Array, second: Array) -> None:
    """Each gets the other's values."""
    for at in blocks(first.size):
        kept = first[at].copy()
        first[at] = second[at]
        second[at] = kept


def mean_of_two(first: Array, second: Array, share: float) -> None:
    """Both become ``(first + second) * share``."""
    for at in blocks(first.size):
        mean = first[at]
        mean += second[at]
        mean *= first.dtype.type(share)
        second[at] = mean


def merge_moments(first: Array, second: Array, share: Array, product: Array) -> Array:
    """(2, C): means and sums of squared differences of two parts together.

    ``share``: of the second one in all values, for each channel; ``product``: of both counts, over their sum.
    """
    delta = second[0] - first[0]
    merged = first + second
    np.add(first[0], delta * share, out=merged[0])
    delta *= delta
    delta *= product
    merged[1] += delta
    return merged


_MIX1, _MIX2 = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xD6E8FEB86659FD93)
_HALF = np.uint64(32)


def hash_words(words: Array, start: int) -> int:
    """Sum over words of a 64-bit mix of (word, position): integers, so that any order of summation gives the same."""
    total, xp = 0, array_module(words)
    for at in blocks(words.size):
        x = xp.arange(start + at.start + 1, start + at.stop + 1, dtype=np.uint64)
        x *= _MIX1
        x ^= words[at]
        x *= _MIX2
        x ^= x >> _HALF
        x *= _MIX2
        x ^= x >> _HALF
        total += int(x.sum(dtype=np.uint64))
    return total & 0xFFFFFFFFFFFFFFFF


KERNELS = {
    "sgd_update": sgd_update,
    "adam_update": adam_update,
    "average_update": average_update,
    "exchange": exchange,
    "mean_of_two": mean_of_two,
    "merge_moments": merge_moments,
    "hash_words": hash_words,
}
