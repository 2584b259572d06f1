"""Optimizers by signs, by averages and by whole parameters as compiled loops, exact as those of ``loops_optim``; norms on the chunk grid.

Norms alone have an order of their own: what it is depends on the chunk, not on where it lies.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ...flat import CHUNK, tree_sum
from .. import reference_optim_norms
from .. import reference_optim_signs as reference
from .compiled import inline, loop, prange
from .loops_optim import FLOAT, decayed, momentum_loop, plain_loop

Array = Any
f4, i4 = np.float32, np.int32
ZERO, ONE = f4(0.0), f4(1.0)


@inline
def sign(x):  # type: ignore[no-untyped-def]
    """Of NaN it is NaN."""
    return ONE if x > ZERO else (-ONE if x < ZERO else (x if x != x else ZERO))


# ---- norms -----------------------------------------------------------------------------------------------------------


@loop("f4[:], f8[:] out")
def squares_loop(flat, out):  # type: ignore[no-untyped-def]
    for c in prange(out.size):
        chunk, total = flat[c * CHUNK : c * CHUNK + CHUNK], ZERO  # counting within a chunk is what makes it fast
        for i in range(chunk.size):
            total += chunk[i] * chunk[i]
        out[c] = total


@loop("i4[:], i4[:] out")
def tops_loop(bits, out):  # type: ignore[no-untyped-def]
    """The largest bits without the sign: those of NaN are above infinity's, and these above any number's."""
    for c in prange(out.size):
        chunk, top = bits[c * CHUNK : c * CHUNK + CHUNK], i4(0)
        for i in range(chunk.size):
            top = max(top, i4(chunk[i] & i4(0x7FFFFFFF)))
        out[c] = top


def _tops(flat: Array) -> np.ndarray:
    out = np.empty(-(-flat.size // CHUNK), np.int32)
    tops_loop(flat.size, flat.view(np.int32), out)
    return out


def chunk_norms(flat: Array, norm_type: float) -> np.ndarray:
    """As the reference."""
    if flat.dtype is FLOAT and norm_type in (2.0, math.inf) and flat.flags.c_contiguous:
        if norm_type == 2.0:
            out = np.empty(-(-flat.size // CHUNK))
            squares_loop(flat.size, flat, out)
            return out
        return _tops(flat).view(np.float32).astype(np.float64)
    return reference_optim_norms.chunk_norms(flat, norm_type)


def all_finite(array: Array) -> bool:
    """As the reference."""
    if array.dtype is FLOAT and array.flags.forc and array.size:
        return bool(_tops(array.ravel(order="K")).max() < 0x7F800000)
    return reference_optim_norms.all_finite(array)


def _two_norm(flat: Array) -> float:
    return math.sqrt(tree_sum(chunk_norms(flat, 2.0).tolist()))


# ---- optimizers ------------------------------------------------------------------------------------------------------


@loop("f4[:] out, f4[:], f4[:] out, f8, f8, f8, f8, f8, f8", exact=True)
def lion_loop(data, gradient, mean, keep, beta1, share1, beta2, share2, lr):  # type: ignore[no-untyped-def]
    keep, beta1, share1, beta2, share2, lr = f4(keep), f4(beta1), f4(share1), f4(beta2), f4(share2), f4(lr)
    for i in prange(data.size):
        g, m = gradient[i], mean[i]
        data[i] = data[i] * keep - sign(m * beta1 + g * share1) * lr
        mean[i] = m * beta2 + g * share2


def lion_update(
    data: Array, gradient: Array, mean: Array, *, lr: float, betas: tuple[float, float], weight_decay: float
) -> None:
    """As the reference."""
    if data.dtype is FLOAT:
        beta1, beta2 = betas
        try:
            return lion_loop(
                data.size, data, gradient, mean, 1.0 - lr * weight_decay, beta1, 1.0 - beta1, beta2, 1.0 - beta2, lr
            )  # fmt: skip
        except TypeError:  # arrays of another kind
            pass
    return reference.lion_update(data, gradient, mean, lr=lr, betas=betas, weight_decay=weight_decay)


@loop("f4[:] out, f4[:], f4[:] out, f4[:] out, f8, f8, f8, f8, f8, b1", exact=True)
def rprop_loop(data, gradient, previous, step_size, lr, shrink, grow, least, most, first):  # type: ignore[no-untyped-def]
    lr, shrink, grow, least, most = f4(lr), f4(shrink), f4(grow), f4(least), f4(most)
    for i in prange(data.size):
        g = gradient[i]
        agreement = g * previous[i]
        size = (lr if first else step_size[i]) * (
            grow if agreement > ZERO else (shrink if agreement < ZERO else ONE)
        )  # fmt: skip
        size = least if size < least else size
        size = most if size > most else size
        step_size[i] = size
        g = ZERO if agreement < ZERO else g
        previous[i] = g
        data[i] = data[i] - sign(g) * size


def rprop_update(
    data: Array, gradient: Array, previous: Array, step_size: Array, *, lr: float, etas: tuple[float, float],
    step_sizes: tuple[float, float], first: bool,
) -> None:  # fmt: skip
    """As the reference."""
    if data.dtype is FLOAT:
        try:
            return rprop_loop(data.size, data, gradient, previous, step_size, lr, *etas, *step_sizes, first)
        except TypeError:
            pass
    return reference.rprop_update(
        data, gradient, previous, step_size, lr=lr, etas=etas, step_sizes=step_sizes, first=first
    )


@loop("f4[:] out, f4[:], f4[:] out, f8, f8, f8, f8, b1", exact=True)
def asgd_loop(data, gradient, average, decay, keep, eta, mu, copy):  # type: ignore[no-untyped-def]
    decay, keep, eta, mu = f4(decay), f4(keep), f4(eta), f4(mu)
    for i in prange(data.size):
        p, a = data[i], average[i]
        p = p * keep - decayed(gradient[i], p, decay) * eta
        data[i] = p
        average[i] = p if copy else a + (p - a) * mu


def asgd_update(
    data: Array, gradient: Array, average: Array, *, lambd: float, weight_decay: float, eta: float, mu: float
) -> None:
    """As the reference."""
    if data.dtype is FLOAT:
        try:
            return asgd_loop(
                data.size, data, gradient, average, weight_decay, 1.0 - lambd * eta, eta, mu, mu == 1.0
            )  # fmt: skip
        except TypeError:
            pass
    return reference.asgd_update(data, gradient, average, lambd=lambd, weight_decay=weight_decay, eta=eta, mu=mu)


@loop("f4[:], f4[:], f4[:] out, f4[:] out, f4[:] out, f8, f8, f8, f8, f8, f8, f8", exact=True)
def lamb_loop(data, gradient, mean, square, direction, decay, share1, beta2, share2, root, eps, scale):  # type: ignore[no-untyped-def]
    decay, share1, beta2, share2 = f4(decay), f4(share1), f4(beta2), f4(share2)
    root, eps, scale = f4(root), f4(eps), f4(scale)
    for i in prange(data.size):
        g, m = gradient[i], mean[i]
        m = m + (g - m) * share1
        v = square[i] * beta2 + g * g * share2
        mean[i] = m
        square[i] = v
        direction[i] = decayed(m * scale / (np.sqrt(v) * root + eps), data[i], decay)


def lamb_update(
    data: Array, gradient: Array, mean: Array, square: Array, *, lr: float, betas: tuple[float, float], eps: float,
    weight_decay: float, adapt: bool, trust_clip: bool, step: int,
) -> None:  # fmt: skip
    """As the reference, but for the order of the norms' sums."""
    if data.dtype is FLOAT:
        beta1, beta2 = betas
        scale, root = 1.0 / (1.0 - beta1**step), 1.0 / math.sqrt(1.0 - beta2**step)
        direction = np.empty(data.size, np.float32)
        try:
            lamb_loop(
                data.size, data, gradient, mean, square, direction, weight_decay, 1.0 - beta1, beta2, 1.0 - beta2, root, eps, scale
            )  # fmt: skip
        except TypeError:
            pass
        else:
            ratio = 1.0
            if adapt:
                of_data, of_direction = _two_norm(data), _two_norm(direction)
                if of_data > 0 and of_direction > 0:
                    ratio = min(of_data / of_direction, 1.0) if trust_clip else of_data / of_direction
            return plain_loop(data.size, data, direction, 0.0, 1.0, lr * ratio)
    return reference.lamb_update(
        data, gradient, mean, square, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, adapt=adapt,
        trust_clip=trust_clip, step=step,
    )  # fmt: skip


def lars_update(
    data: Array, gradient: Array, buffer: Array | None, *, lr: float, momentum: float, dampening: float, nesterov: bool,
    weight_decay: float, adapt: bool, trust_coefficient: float, eps: float, first: bool,
) -> None:  # fmt: skip
    """As the reference, but for the order of the norms' sums."""
    if data.dtype is FLOAT and (weight_decay or not adapt):
        ratio = 1.0
        if adapt:
            of_data, of_gradient = _two_norm(data), _two_norm(gradient)
            ratio = reference.lars_ratio(of_data, of_gradient, trust_coefficient, weight_decay, eps)
        try:
            if buffer is None:
                return plain_loop(data.size, data, gradient, weight_decay, ratio, lr)
            return momentum_loop(
                data.size, data, gradient, buffer, weight_decay, ratio, momentum, 1.0 - dampening, lr, nesterov, first
            )
        except TypeError:
            pass
    return reference.lars_update(
        data, gradient, buffer, lr=lr, momentum=momentum, dampening=dampening, nesterov=nesterov,
        weight_decay=weight_decay, adapt=adapt, trust_coefficient=trust_coefficient, eps=eps, first=first,
    )  # fmt: skip


KERNELS = {
    "chunk_norms": chunk_norms,
    "all_finite": all_finite,
    "lion_update": lion_update,
    "rprop_update": rprop_update,
    "asgd_update": asgd_update,
    "lamb_update": lamb_update,
    "lars_update": lars_update,
}
