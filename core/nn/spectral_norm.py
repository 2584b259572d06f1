"""Spectral normalisation: a weight divided by its largest singular value."""

from __future__ import annotations

import math
from typing import Any, TypeVar

import numpy as np

from .. import rng
from ..backend import array_module
from ..errors import RangeError
from ..op import Array
from ..tensor import Tensor
from . import statistics
from .conv import ConvBase
from .module import Module
from .parameter import Parameter

M = TypeVar("M", bound=Module)
_NORMS = "_spectral_norms"


class SpectralNorm:
    """What one weight needs: where its vectors are, and how they move.

    The vectors belong to the state of the module and move once per step: in a DataParallel they are recorded like batch
    statistics (all shards find the same ones), alone they move in forward, as in PyTorch.
    """

    def __init__(self, module: Module, name: str, iterations: int, eps: float, dim: int) -> None:
        self.module, self.name, self.iterations, self.eps, self.dim = module, name, iterations, eps, dim

    def matrix(self, weight: Array) -> Array:
        """The weight as a matrix whose rows belong to ``dim``."""
        xp = array_module(weight)
        moved = xp.moveaxis(weight, self.dim, 0)
        return moved.reshape(moved.shape[0], math.prod(moved.shape[1:]))

    def _unit(self, vector: Array) -> Array:
        length = float(array_module(vector).sqrt((vector * vector).sum()))
        return vector / vector.dtype.type(max(length, self.eps))

    def commit(self, n: float, mean: Array, m2: Array) -> None:
        """Take over the vectors of a step: u and v in one row, the same in all shards."""
        u, v = self.module.get_buffer(f"{self.name}_u").array, self.module.get_buffer(f"{self.name}_v").array
        u[...], v[...] = mean[: u.size], mean[u.size :]

    def before(self, module: Module, args: Any) -> None:
        """The weight for one forward; in training also better vectors."""
        original = module.get_parameter(f"{self.name}_orig")
        u, v = module.get_buffer(f"{self.name}_u").array, module.get_buffer(f"{self.name}_v").array
        matrix = self.matrix(original.array)
        if module.training:
            for _ in range(self.iterations):
                v = self._unit(matrix.T @ u)
                u = self._unit(matrix @ v)
            seen = array_module(u).concatenate([u, v])
            statistics.record(self.module, 1, seen, seen * 0)  # type: ignore[arg-type]
        xp = array_module(matrix)
        outer = xp.outer(u, v).reshape(self._moved(original.shape))
        sigma = (original * Tensor(xp.ascontiguousarray(xp.moveaxis(outer, 0, self.dim)))).sum()
        setattr(module, self.name, original / sigma)

    def _moved(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return (shape[self.dim], *shape[: self.dim], *shape[self.dim + 1 :])

    def after(self, module: Module, args: Any, output: Any) -> None:
        """What an op made could not be copied with the module."""
        setattr(module, self.name, getattr(module, self.name).detach())


def spectral_norm(
    module: M, name: str = "weight", n_power_iterations: int = 1, eps: float = 1e-12, dim: int | None = None
) -> M:
    """Divide the parameter ``name`` by its largest singular value, as a matrix whose rows belong to ``dim``.

    The parameter becomes ``name_orig``; the vectors ``name_u`` and ``name_v`` of the power iteration are part of the state. ``dim`` is 0 if
    not given, for transposed convolutions 1. Call it before the optimizer is made. Miyato et al., 2018.

    >>> layer = nn.utils.spectral_norm(nn.Linear(4, 3))
    >>> list(layer.state_dict())
    ['bias', 'weight_orig', 'weight_u', 'weight_v']
    """
    weight = module.__dict__.get(name)
    if not isinstance(weight, Parameter) or hasattr(module, "commit"):
        raise RangeError(f"spectral_norm: {type(module).__name__} has no parameter {name!r} to normalise")
    if n_power_iterations < 1:
        raise RangeError(f"spectral_norm: n_power_iterations must be at least 1, got {n_power_iterations}")
    rows = dim if dim is not None else 1 if isinstance(module, ConvBase) and module.transposed else 0
    norm = SpectralNorm(module, name, n_power_iterations, eps, rows % max(1, weight.ndim))
    sizes = norm.matrix(weight.array).shape
    delattr(module, name)
    module.register_parameter(f"{name}_orig", weight)
    setattr(module, name, weight.detach())
    xp = array_module(weight.array)
    for part, size in (("u", sizes[0]), ("v", sizes[1])):
        drawn = xp.asarray(rng.normal((size,), rng.init_key(), np.float64).astype(weight.dtype))
        module.register_buffer(f"{name}_{part}", Tensor(norm._unit(drawn)))
    hooks = (module.register_forward_pre_hook(norm.before), module.register_forward_hook(norm.after))
    module.__dict__["commit"] = norm.commit
    module.__dict__[_NORMS] = (norm, hooks)
    return module


def remove_spectral_norm(module: M, name: str = "weight") -> M:
    """Make ``name`` one parameter again, of the value that it had in the last forward.

    >>> layer = nn.utils.remove_spectral_norm(nn.utils.spectral_norm(nn.Linear(4, 3)))
    >>> list(layer.state_dict())
    ['bias', 'weight']
    """
    norm, hooks = module.__dict__.get(_NORMS, (None, ()))
    if norm is None or norm.name != name:
        raise RangeError(f"remove_spectral_norm: {type(module).__name__} has no spectral norm of {name!r}")
    for hook in hooks:
        hook.remove()
    training, module.training = module.training, False  # the vectors stay as they are
    norm.before(module, ())
    module.training = training
    value = getattr(module, name).array
    for part in (name, f"{name}_orig", f"{name}_u", f"{name}_v", "commit", _NORMS):
        delattr(module, part)
    module.register_parameter(name, Parameter(value))
    return module
