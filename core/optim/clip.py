"""Clipping gradients by their global norm or by value."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from ..errors import NonFiniteError
from ..flat import chunk_grid, tree_sum
from ..nn.parameter import Parameter
from ..tensor import Tensor
from .optimizer import want_gradients


def clip_grad_norm_(
    parameters: Iterable[Parameter] | Parameter,
    max_norm: float,
    norm_type: float = 2.0,
    error_if_nonfinite: bool = False,
) -> Tensor:
    """Scale all gradients by ``max_norm / (norm + 1e-6)`` if their joint norm is above ``max_norm``; returns the norm.

    The norm is that of the global gradient: under a DataParallel the sum over shards and ranks is completed first, so
    all ranks must call. Sums run over the fixed chunk grid, so that no bit depends on ranks or slices. Pascanu,
    Mikolov and Bengio, "On the difficulty of training recurrent neural networks", ICML 2013.
    """
    given = [parameters] if isinstance(parameters, Tensor) else list(parameters)
    want_gradients(given)
    gradients = [p._grad.array for p in dict.fromkeys(given) if p._grad is not None]
    norm = _norm(gradients, norm_type)
    if error_if_nonfinite and not np.isfinite(norm):
        raise NonFiniteError(
            f"clip_grad_norm_: the norm of the gradients is {norm}; lower the learning rate or find the layer"
        )
    scale = max_norm / (norm + 1e-6)
    if scale < 1.0:
        for gradient in gradients:
            gradient *= gradient.dtype.type(scale)
    return Tensor(np.float32(norm))


def clip_grad_value_(parameters: Iterable[Parameter] | Parameter, clip_value: float) -> None:
    """Limit every element of the (global) gradients to [-clip_value, clip_value], in place."""
    given = [parameters] if isinstance(parameters, Tensor) else list(parameters)
    want_gradients(given)
    for parameter in dict.fromkeys(given):
        if parameter._grad is not None:
            np.clip(parameter._grad.array, -clip_value, clip_value, out=parameter._grad.array)


def _norm(gradients: list[Any], norm_type: float) -> float:
    if norm_type == float("inf"):
        return max((float(np.abs(g).max()) for g in gradients if g.size), default=0.0)
    sums: list[float] = []
    for gradient in gradients:
        flat = gradient.reshape(-1)
        for lo, hi in chunk_grid(flat.size):
            chunk = flat[lo:hi] if flat.dtype != np.float16 else flat[lo:hi].astype(np.float32)
            sums.append(float(np.dot(chunk, chunk)) if norm_type == 2.0 else float((np.abs(chunk) ** norm_type).sum()))
    return tree_sum(sums) ** (1.0 / norm_type)
