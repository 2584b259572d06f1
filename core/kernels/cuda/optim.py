"""Optimizer updates on the device: one launch for a run of the flat store, no word from the device back to the host.

float32 parameters and state become what the reference makes of them, to the bit (but for subnormal numbers, and what hangs on the
norms of LAMB and LARS); half precision is computed in float32 and rounded once. What changes from step to step goes by ``scalars.on_device``.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ...backend import array_module
from ...flat import CHUNK
from .. import reference_optim as reference
from .. import reference_optim_adaptive as adaptive
from .. import reference_optim_signs as signs
from .launch import launch, suffix
from .scalars import on_device

Array = Any
BLOCK = 256
EACH = 4
"""Threads of a block, and elements that one takes at a time."""
MOST_BLOCKS = 1 << 20


def blocks_for(size: int) -> int:
    """Blocks of a pass over ``size`` elements, each thread taking ``EACH`` at a time."""
    return min(-(-size // (BLOCK * EACH)), MOST_BLOCKS)


def serves(data: Array, *others: Array | None) -> bool:
    """Whether the kernels take these: floats of at most 32 bits, all of one dtype and contiguous."""
    return data.dtype.name in ("float32", "bfloat16", "float16") and all(
        other is None or (other.dtype == data.dtype and other.flags.c_contiguous) for other in (data, *others)
    )


def numbers(*values: float) -> Array:
    """Numbers of this step, as the kernels read them."""
    return on_device(np.array(values, np.float32))


def _update(
    name: str, data: Array, gradient: Array, state: tuple[Array | None, ...], values: tuple[float, ...],
) -> None:  # fmt: skip
    a, b, c = (*state, None, None)[:3]
    launch(
        "optim", f"{name}_{suffix(data.dtype)}", blocks_for(data.size), BLOCK, data, gradient, a, b, c,
        data.size, numbers(*values),
    )  # fmt: skip


def _decay(lr: float, weight_decay: float, decoupled: bool) -> tuple[float, float]:
    """What multiplies the parameter, and what of it joins the gradient."""
    return (1.0 - lr * weight_decay, 0.0) if decoupled else (1.0, weight_decay)


def _moments(betas: tuple[float, float]) -> tuple[float, float, float]:
    return 1.0 - betas[0], betas[1], 1.0 - betas[1]


def sgd_update(
    data: Array, gradient: Array, buffer: Array | None, *, lr: float, momentum: float, dampening: float,
    weight_decay: float, nesterov: bool, first: bool,
) -> None:  # fmt: skip
    """As ``reference_optim.sgd_update``."""
    if not serves(data, gradient, buffer):
        return reference.sgd_update(
            data, gradient, buffer, lr=lr, momentum=momentum, dampening=dampening, weight_decay=weight_decay,
            nesterov=nesterov, first=first,
        )  # fmt: skip
    values = (1.0, weight_decay, lr, momentum, 1.0 - dampening, float(nesterov), float(first))
    return _update("sgd", data, gradient, (buffer,), values)


def adam_update(
    data: Array, gradient: Array, mean: Array, square: Array, largest: Array | None, *, lr: float, betas: tuple[float, float],
    eps: float, weight_decay: float, decoupled: bool, step: int,
) -> None:  # fmt: skip
    """As ``reference_optim.adam_update``."""
    if not serves(data, gradient, mean, square, largest):
        return reference.adam_update(
            data, gradient, mean, square, largest, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay,
            decoupled=decoupled, step=step,
        )  # fmt: skip
    step_size, correction = lr / (1.0 - betas[0] ** step), 1.0 / math.sqrt(1.0 - betas[1] ** step)
    values = (*_decay(lr, weight_decay, decoupled), *_moments(betas), step_size, correction, eps)
    return _update("adam", data, gradient, (mean, square, largest), values)


def nadam_update(
    data: Array, gradient: Array, mean: Array, square: Array, *, lr: float, betas: tuple[float, float], eps: float,
    weight_decay: float, decoupled: bool, mu: float, mu_next: float, mu_product: float, step: int,
) -> None:  # fmt: skip
    """As ``reference_optim_adaptive.nadam_update``."""
    if not serves(data, gradient, mean, square):
        return adaptive.nadam_update(
            data, gradient, mean, square, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, decoupled=decoupled,
            mu=mu, mu_next=mu_next, mu_product=mu_product, step=step,
        )  # fmt: skip
    of_gradient = lr * (1.0 - mu) / (1.0 - mu_product)
    of_mean = lr * mu_next / (1.0 - mu_product * mu_next)
    correction = 1.0 / math.sqrt(1.0 - betas[1] ** step)
    values = (*_decay(lr, weight_decay, decoupled), *_moments(betas), of_gradient, of_mean, correction, eps)
    return _update("nadam", data, gradient, (mean, square), values)


def radam_update(
    data: Array, gradient: Array, mean: Array, square: Array, *, lr: float, betas: tuple[float, float], eps: float,
    weight_decay: float, decoupled: bool, step: int,
) -> None:  # fmt: skip
    """As ``reference_optim_adaptive.radam_update``."""
    if not serves(data, gradient, mean, square):
        return adaptive.radam_update(
            data, gradient, mean, square, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, decoupled=decoupled, step=step
        )  # fmt: skip
    rate, by_root = adaptive.rectified_rate(lr, betas, step)
    values = (*_decay(lr, weight_decay, decoupled), *_moments(betas), rate, float(by_root), eps)
    return _update("radam", data, gradient, (mean, square), values)


def adamax_update(
    data: Array, gradient: Array, mean: Array, largest: Array, *, lr: float, betas: tuple[float, float], eps: float,
    weight_decay: float, step: int,
) -> None:  # fmt: skip
    """As ``reference_optim_adaptive.adamax_update``."""
    if not serves(data, gradient, mean, largest):
        return adaptive.adamax_update(
            data, gradient, mean, largest, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, step=step
        )
    values = (1.0, weight_decay, 1.0 - betas[0], betas[1], lr / (1.0 - betas[0] ** step), eps)
    return _update("adamax", data, gradient, (mean, largest), values)


def rmsprop_update(
    data: Array, gradient: Array, square: Array, mean: Array | None, buffer: Array | None, *, lr: float, alpha: float,
    eps: float, weight_decay: float, momentum: float,
) -> None:  # fmt: skip
    """As ``reference_optim_adaptive.rmsprop_update``."""
    if not serves(data, gradient, square, mean, buffer):
        return adaptive.rmsprop_update(
            data, gradient, square, mean, buffer, lr=lr, alpha=alpha, eps=eps, weight_decay=weight_decay, momentum=momentum
        )  # fmt: skip
    return _update(
        "rmsprop", data, gradient, (square, mean, buffer), (1.0, weight_decay, alpha, 1.0 - alpha, eps, momentum, lr)
    )


def adagrad_update(
    data: Array, gradient: Array, total: Array, *, lr: float, lr_decay: float, eps: float, weight_decay: float,
    initial: float, step: int,
) -> None:  # fmt: skip
    """As ``reference_optim_adaptive.adagrad_update``."""
    if not serves(data, gradient, total):
        return adaptive.adagrad_update(
            data, gradient, total, lr=lr, lr_decay=lr_decay, eps=eps, weight_decay=weight_decay, initial=initial, step=step
        )  # fmt: skip
    rate = lr / (1.0 + (step - 1) * lr_decay)
    return _update("adagrad", data, gradient, (total,), (1.0, weight_decay, rate, eps, initial, float(step == 1)))


def adadelta_update(
    data: Array, gradient: Array, square: Array, moved: Array, *, lr: float, rho: float, eps: float, weight_decay: float
) -> None:
    """As ``reference_optim_adaptive.adadelta_update``."""
    if not serves(data, gradient, square, moved):
        return adaptive.adadelta_update(
            data, gradient, square, moved, lr=lr, rho=rho, eps=eps, weight_decay=weight_decay
        )
    return _update("adadelta", data, gradient, (square, moved), (1.0, weight_decay, rho, 1.0 - rho, eps, lr))


def asgd_update(
    data: Array, gradient: Array, average: Array, *, lambd: float, weight_decay: float, eta: float, mu: float
) -> None:
    """As ``reference_optim_signs.asgd_update``."""
    if not serves(data, gradient, average):
        return signs.asgd_update(data, gradient, average, lambd=lambd, weight_decay=weight_decay, eta=eta, mu=mu)
    return _update("asgd", data, gradient, (average,), (1.0, weight_decay, 1.0 - lambd * eta, eta, mu))


def rprop_update(
    data: Array, gradient: Array, previous: Array, step_size: Array, *, lr: float, etas: tuple[float, float],
    step_sizes: tuple[float, float], first: bool,
) -> None:  # fmt: skip
    """As ``reference_optim_signs.rprop_update``."""
    if not serves(data, gradient, previous, step_size):
        return signs.rprop_update(
            data, gradient, previous, step_size, lr=lr, etas=etas, step_sizes=step_sizes, first=first
        )
    return _update("rprop", data, gradient, (previous, step_size), (lr, *etas, *step_sizes, float(first)))


def lion_update(
    data: Array, gradient: Array, mean: Array, *, lr: float, betas: tuple[float, float], weight_decay: float,
) -> None:  # fmt: skip
    """As ``reference_optim_signs.lion_update``."""
    if not serves(data, gradient, mean):
        return signs.lion_update(data, gradient, mean, lr=lr, betas=betas, weight_decay=weight_decay)
    values = (*_decay(lr, weight_decay, True), lr, betas[0], 1.0 - betas[0], betas[1], 1.0 - betas[1])
    return _update("lion", data, gradient, (mean,), values)


# ---- by the norms of a whole parameter -------------------------------------------------------------------------------


def _squares(data: Array) -> tuple[int, Array, Array]:
    """The number of chunks, room for two sums of each, and for one number."""
    xp = array_module(data)
    chunks = -(-data.size // CHUNK)
    return chunks, xp.empty(2 * chunks, np.float32), xp.empty(1, np.float32)


def lamb_update(
    data: Array, gradient: Array, mean: Array, square: Array, *, lr: float, betas: tuple[float, float], eps: float,
    weight_decay: float, adapt: bool, trust_clip: bool, step: int,
) -> None:  # fmt: skip
    """As ``reference_optim_signs.lamb_update``."""
    if not serves(data, gradient, mean, square):
        return signs.lamb_update(
            data, gradient, mean, square, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, adapt=adapt,
            trust_clip=trust_clip, step=step,
        )  # fmt: skip
    chunks, squares, rate = _squares(data)
    direction, kind = array_module(data).empty(data.size, np.float32), suffix(data.dtype)
    scale, correction = 1.0 / (1.0 - betas[0] ** step), 1.0 / math.sqrt(1.0 - betas[1] ** step)
    values = numbers(*_moments(betas), scale, correction, eps, weight_decay, lr, float(trust_clip))
    launch(
        "optim", f"lamb_direction_{kind}", chunks, BLOCK, data, gradient, mean, square, direction, data.size, values, squares
    )  # fmt: skip
    if adapt:
        launch("optim", "lamb_rate", 1, BLOCK, squares, chunks, values[7:], rate)
    else:
        rate = values[7:]
    launch("optim", f"lamb_move_{kind}", blocks_for(data.size), BLOCK, data, direction, data.size, rate)
    return None


def lars_update(
    data: Array, gradient: Array, buffer: Array | None, *, lr: float, momentum: float, dampening: float, nesterov: bool,
    weight_decay: float, adapt: bool, trust_coefficient: float, eps: float, first: bool,
) -> None:  # fmt: skip
    """As ``reference_optim_signs.lars_update``."""
    if not serves(data, gradient, buffer):
        return signs.lars_update(
            data, gradient, buffer, lr=lr, momentum=momentum, dampening=dampening, nesterov=nesterov, weight_decay=weight_decay,
            adapt=adapt, trust_coefficient=trust_coefficient, eps=eps, first=first,
        )  # fmt: skip
    decay = weight_decay if adapt else 0.0
    values = (1.0, decay, lr, momentum, 1.0 - dampening, float(nesterov), float(first))
    if not adapt:
        return _update("sgd", data, gradient, (buffer,), values)
    chunks, squares, ratio = _squares(data)
    kind, given = suffix(data.dtype), numbers(*values, trust_coefficient, weight_decay, eps)
    launch("optim", f"squares_of_two_{kind}", chunks, BLOCK, data, gradient, data.size, squares)
    launch("optim", "lars_ratio", 1, BLOCK, squares, chunks, given[7:], ratio)
    launch(
        "optim", f"lars_{kind}", blocks_for(data.size), BLOCK, data, gradient, buffer, data.size, given, ratio
    )  # fmt: skip
    return None


KERNELS = {
    "sgd_update": sgd_update,
    "adam_update": adam_update,
    "nadam_update": nadam_update,
    "radam_update": radam_update,
    "adamax_update": adamax_update,
    "rmsprop_update": rmsprop_update,
    "adagrad_update": adagrad_update,
    "adadelta_update": adadelta_update,
    "asgd_update": asgd_update,
    "rprop_update": rprop_update,
    "lion_update": lion_update,
    "lamb_update": lamb_update,
    "lars_update": lars_update,
}
