"""Clipping gradients by their global norm or by value."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from ..errors import NonFiniteError
from ..flat import chunk_grid, tree_sum
from ..nn.parameter import Parameter
from ..owned import Keeper
from ..tensor import Tensor
from .optimizer import own_gradient, want_gradients


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
    present = [p for p in dict.fromkeys(given) if p._grad is not None]
    norm = _norm(present, norm_type)
    if error_if_nonfinite and not np.isfinite(norm):
        raise NonFiniteError(
            f"clip_grad_norm_: the norm of the gradients is {norm}; lower the learning rate or find the layer"
        )
    scale = max_norm / (norm + 1e-6)
    if scale < 1.0:
        for parameter in present:
            gradient = own_gradient(parameter)
            gradient *= gradient.dtype.type(scale)
    return Tensor(np.float32(norm))


def clip_grad_value_(parameters: Iterable[Parameter] | Parameter, clip_value: float) -> None:
    """Limit every element of the (global) gradients to [-clip_value, clip_value], in place."""
    given = [parameters] if isinstance(parameters, Tensor) else list(parameters)
    want_gradients(given)
    for parameter in dict.fromkeys(given):
        if parameter._grad is not None:
            gradient = own_gradient(parameter)
            np.clip(gradient, -clip_value, clip_value, out=gradient)


def _norm(parameters: Sequence[Parameter], norm_type: float) -> float:
    """The joint norm, from one number for each chunk of the grid, in the order of parameters and chunks."""
    grids = [list(chunk_grid(int(np.prod(p._grad.array.shape)))) for p in parameters]
    ends = list(itertools.accumulate(map(len, grids)))
    values = np.zeros(ends[-1] if ends else 0)
    own = np.ones(values.size, bool)
    keepers: dict[int, tuple[Keeper, list[int]]] = {}
    for parameter, grid, end in zip(parameters, grids, ends, strict=True):
        flat, lo = own_gradient(parameter).reshape(-1), 0
        if (store := parameter._store) is not None and store.gradient_owned and store.holds(parameter):
            lo = store.clip(*store.extent(parameter._index))[0] - store.offsets[parameter._index]
            keepers.setdefault(id(store.keeper), (store.keeper, []))[1].extend(range(end - len(grid), end))
        for number, (start, stop) in enumerate(grid, end - len(grid)):
            own[number] = lo <= start and stop <= lo + flat.size
            if own[number]:
                values[number] = _chunk(flat[start - lo : stop - lo], norm_type)
    for keeper, numbers in keepers.values():
        part = values[numbers]
        keeper.gather_values(part, own[numbers])
        values[numbers] = part
    if norm_type == float("inf"):
        return max((float(values[e - len(g) : e].max()) for g, e in zip(grids, ends, strict=True) if g), default=0.0)
    return tree_sum(values.tolist()) ** (1.0 / norm_type)


def _chunk(chunk: Any, norm_type: float) -> float:
    if norm_type == float("inf"):
        return float(np.abs(chunk).max())
    if chunk.dtype == np.float16:
        chunk = chunk.astype(np.float32)
    return float(np.dot(chunk, chunk)) if norm_type == 2.0 else float((np.abs(chunk) ** norm_type).sum())
