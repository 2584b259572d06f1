"""Weight normalisation: a weight as a direction and a length."""

from __future__ import annotations

from typing import Any, TypeVar

from ..errors import RangeError
from ..tensor import Tensor
from .module import Module
from .parameter import Parameter

M = TypeVar("M", bound=Module)
_HANDLES = "_weight_norms"


def _length(v: Tensor, dim: int | None) -> Tensor:
    """The 2-norm over all dimensions but ``dim``; over all of them for None."""
    if dim is None:
        return v.norm()
    return v.norm(2, tuple(d for d in range(v.ndim) if d != dim % v.ndim), True) if v.ndim > 1 else v.abs()


def weight_norm(module: M, name: str = "weight", dim: int | None = 0) -> M:
    """Replace the parameter ``name`` by ``name_g``, its length for each index of ``dim``, and ``name_v``, its direction.

    ``weight = g * v / |v|`` is computed anew before every forward. Call it before the optimizer is made. Salimans and Kingma, 2016.

    >>> layer = nn.utils.weight_norm(nn.Linear(4, 3))
    >>> sorted(name for name, _ in layer.named_parameters()), layer.weight_g.shape
    (['bias', 'weight_g', 'weight_v'], (3, 1))
    """
    handles: dict[str, Any] = module.__dict__.setdefault(_HANDLES, {})
    weight = module.__dict__.get(name)
    if name in handles or not isinstance(weight, Parameter):
        raise RangeError(f"weight_norm: {type(module).__name__} has no parameter {name!r} to normalise")
    delattr(module, name)
    module.register_parameter(f"{name}_g", Parameter(_length(weight.detach(), dim).array.copy()))
    module.register_parameter(f"{name}_v", Parameter(weight.array.copy()))

    def before(layer: Module, args: Any) -> None:
        setattr(layer, name, _weight(layer, name, dim))

    def after(layer: Module, args: Any, output: Any) -> None:  # what an op made could not be copied with the module
        setattr(layer, name, getattr(layer, name).detach())

    setattr(module, name, _weight(module, name, dim).detach())
    handles[name] = ((module.register_forward_pre_hook(before), module.register_forward_hook(after)), dim)
    return module


def _weight(module: Module, name: str, dim: int | None) -> Tensor:
    length, direction = module.get_parameter(f"{name}_g"), module.get_parameter(f"{name}_v")
    return direction * (length / _length(direction, dim))


def remove_weight_norm(module: M, name: str = "weight") -> M:
    """Make ``name`` one parameter again, of the value that length and direction give.

    >>> layer = nn.utils.remove_weight_norm(nn.utils.weight_norm(nn.Linear(4, 3)))
    >>> sorted(name for name, _ in layer.named_parameters())
    ['bias', 'weight']
    """
    handles: dict[str, Any] = module.__dict__.get(_HANDLES, {})
    if name not in handles:
        raise RangeError(f"remove_weight_norm: {type(module).__name__} has no weight norm of {name!r}")
    hooks, dim = handles.pop(name)
    for hook in hooks:
        hook.remove()
    value = _weight(module, name, dim).array
    for part in (name, f"{name}_g", f"{name}_v"):
        delattr(module, part)
    module.register_parameter(name, Parameter(value))
    return module
