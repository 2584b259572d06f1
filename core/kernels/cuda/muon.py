"""Muon on the device: matrix products, and a norm that the host never sees."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ...backend import array_module
from .. import reference_optim_signs as reference
from ..table import kernel
from .flat import two_norm
from .optim import serves

Array = Any


def _orthogonalize(matrix: Array, coefficients: Sequence[float], steps: int, eps: float) -> Array:
    """As ``reference_optim_signs.orthogonalize``, of a C-contiguous float32 matrix."""
    xp, product = array_module(matrix), kernel("matmul", "cuda")
    a, b, c = map(np.float32, coefficients)
    tall = matrix.shape[0] > matrix.shape[1]
    norm = xp.maximum(two_norm(matrix.reshape(-1)), eps).astype(np.float32)
    x = (matrix.T if tall else matrix) / norm
    for _ in range(steps):
        s = product(x, x.T)
        polynomial = s * b
        polynomial += product(s, s) * c
        y = product(polynomial, x)
        y += x * a
        x = y
    return x.T if tall else x


def muon_update(
    data: Array, gradient: Array, buffer: Array, *, lr: float, rate: float, momentum: float, weight_decay: float, nesterov: bool,
    coefficients: Sequence[float], steps: int, eps: float,
) -> None:  # fmt: skip
    """As ``reference_optim_signs.muon_update``."""
    if not serves(data, gradient, buffer) or data.size == 0:
        return reference.muon_update(
            data, gradient, buffer, lr=lr, rate=rate, momentum=momentum, weight_decay=weight_decay, nesterov=nesterov,
            coefficients=coefficients, steps=steps, eps=eps,
        )  # fmt: skip
    number, xp = data.dtype.type, array_module(data)
    buffer += (gradient - buffer) * number(1.0 - momentum)
    direction = gradient + (buffer - gradient) * number(momentum) if nesterov else buffer
    update = _orthogonalize(xp.ascontiguousarray(direction, dtype=np.float32), coefficients, steps, eps)
    if weight_decay:
        data *= number(1.0 - lr * weight_decay)
    data -= update.astype(data.dtype, copy=False) * number(rate)
    return None


KERNELS = {"muon_update": muon_update}
