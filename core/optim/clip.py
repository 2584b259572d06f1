"""Clipping gradients by their global norm or by value."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from ..backend import device_kind
from ..errors import NonFiniteError, RangeError
from ..flat import CHUNK
from ..kernels.reference_optim_norms import joined
from ..kernels.table import kernel
from ..live import live
from ..nn.parameter import Parameter
from ..owned import Keeper
from ..tensor import Tensor
from .optimizer import own_gradient, want_gradients


@live
def clip_grad_norm_(
    parameters: Iterable[Parameter] | Parameter,
    max_norm: float,
    norm_type: float = 2.0,
    error_if_nonfinite: bool = False,
    foreach: bool | None = None,
) -> Tensor:
    """Scale all gradients by ``max_norm / (norm + 1e-6)`` if their joint norm is above ``max_norm``; returns the norm.

    The norm is that of the global gradient: under a DataParallel the sum over shards and ranks is completed first, so
    all ranks must call. Sums run over the fixed chunk grid, so that no bit depends on ranks or slices. ``norm_type`` may be
    ``inf``; ``foreach`` changes nothing. Raises NonFiniteError for a norm that is no finite number, if asked; without, a norm
    that is not a number makes all gradients so. Pascanu, Mikolov and Bengio, "On the difficulty of training recurrent neural
    networks", ICML 2013.

    >>> weight = nn.Parameter(phalanx.zeros(2))
    >>> (weight * phalanx.tensor([3.0, 4.0])).sum().backward()
    >>> nn.utils.clip_grad_norm_([weight], max_norm=1.0).item()
    5.0
    >>> [round(x, 3) for x in weight.grad.tolist()]
    [0.6, 0.8]
    """
    given = _listed(parameters)
    want_gradients(given)
    present = [p for p in dict.fromkeys(given) if p._grad is not None]
    exponent = _exponent(norm_type)
    if present and not error_if_nonfinite and all(_on_device(p) for p in present):
        arrays = [own_gradient(p).reshape(-1) for p in present]
        return _as_tensor(kernel("clip_by_norm", "cuda")(arrays, max_norm, exponent), arrays)
    norm = _checked(joint_norm(present, exponent), error_if_nonfinite)
    _scale(present, max_norm, norm)
    return _as_tensor(norm, [p._grad.array for p in present])


@live
def clip_grads_with_norm_(
    parameters: Iterable[Parameter] | Parameter, max_norm: float, total_norm: Any, foreach: bool | None = None
) -> None:
    """Scale all gradients by ``max_norm / (total_norm + 1e-6)`` where that is below 1: clipping by a norm known already.

    ``total_norm`` must be the same on all ranks; ``foreach`` changes nothing.

    >>> weight = nn.Parameter(phalanx.zeros(2))
    >>> weight.sum().backward()
    >>> nn.utils.clip_grads_with_norm_(weight, max_norm=1.0, total_norm=2.0)
    >>> [round(x, 3) for x in weight.grad.tolist()]
    [0.5, 0.5]
    """
    given = _listed(parameters)
    want_gradients(given)
    _scale([p for p in dict.fromkeys(given) if p._grad is not None], max_norm, float(total_norm))


def get_total_norm(
    tensors: Iterable[Tensor] | Tensor,
    norm_type: float = 2.0,
    error_if_nonfinite: bool = False,
    foreach: bool | None = None,
) -> Tensor:
    """The joint norm of Tensors, taken as one vector, over the fixed chunk grid.

    For gradients under a DataParallel, ``model.synchronize()`` comes first; :func:`clip_grad_norm_` does all by itself.
    ``foreach`` changes nothing. Raises NonFiniteError for a norm that is no finite number, if asked.

    >>> nn.utils.get_total_norm([phalanx.tensor([3.0]), phalanx.tensor([[4.0]])]).item()
    5.0
    """
    arrays = [tensor.array.reshape(-1) for tensor in _listed(tensors)]
    exponent = _exponent(norm_type)
    norm = joined(_chunk_norms(arrays, exponent), exponent)
    return _as_tensor(_checked(norm, error_if_nonfinite), arrays)


@live
def clip_grad_value_(
    parameters: Iterable[Parameter] | Parameter, clip_value: float, foreach: bool | None = None
) -> None:
    """Limit every element of the (global) gradients to [-clip_value, clip_value], in place; ``foreach`` changes nothing.

    >>> weight = nn.Parameter(phalanx.zeros(2))
    >>> (weight * phalanx.tensor([3.0, -0.5])).sum().backward()
    >>> nn.utils.clip_grad_value_([weight], clip_value=1.0)
    >>> weight.grad.tolist()
    [1.0, -0.5]
    """
    given = _listed(parameters)
    want_gradients(given)
    for parameter in dict.fromkeys(given):
        if parameter._grad is not None:
            gradient = own_gradient(parameter)
            np.clip(gradient, -clip_value, clip_value, out=gradient)


def _listed(given: Any) -> list[Any]:
    return [given] if isinstance(given, Tensor) else list(given)


def _as_tensor(norm: Any, of: Sequence[Any]) -> Tensor:
    """In float64 where some of it was, else in float32; on the device where the norm is there."""
    dtype = np.float64 if any(array.dtype == np.float64 for array in of) else np.float32
    return Tensor(dtype(norm) if isinstance(norm, float) else norm.astype(dtype))


def _on_device(parameter: Parameter) -> bool:
    """Whether the whole gradient lies on a GPU, where it can be clipped without telling the host."""
    store = parameter._store
    whole = store is None or not store.gradient_owned or not store.holds(parameter)
    gradient = parameter._grad.array
    return whole and device_kind(gradient) == "cuda" and bool(gradient.flags.c_contiguous)


def _chunk_norms(arrays: Sequence[Any], norm_type: float) -> np.ndarray:
    """One number for each chunk of each array, in order."""
    found: np.ndarray = kernel("chunk_norms_of", device_kind(arrays[0]) if arrays else "cpu")(arrays, norm_type)
    return found


def _exponent(norm_type: Any) -> float:
    exponent = float(norm_type)
    if not exponent > 0:
        raise RangeError(f"the norm of gradients expects norm_type above 0 (or inf), got {norm_type!r}")
    return exponent


def _checked(norm: float, error_if_nonfinite: bool) -> float:
    if error_if_nonfinite and not np.isfinite(norm):
        raise NonFiniteError(
            f"clip_grad_norm_: the norm of the gradients is {norm}; lower the learning rate or find the layer"
        )
    return norm


def _scale(present: Sequence[Parameter], max_norm: float, norm: float) -> None:
    scale = max_norm / (norm + 1e-6)
    if scale >= 1.0:
        return
    for parameter in present:
        gradient = own_gradient(parameter)
        gradient *= gradient.dtype.type(scale)


def joint_norm(parameters: Sequence[Parameter], norm_type: float) -> float:
    """The joint norm, from one number for each chunk of the grid, in the order of parameters and chunks."""
    ends = list(itertools.accumulate(-(-p.array.size // CHUNK) for p in parameters))
    values = np.zeros(ends[-1] if ends else 0)
    own = np.ones(values.size, bool)
    keepers: dict[int, tuple[Keeper, list[int]]] = {}
    parts = [own_gradient(parameter).reshape(-1) for parameter in parameters]
    places: list[int] = []
    for parameter, flat, begin, end in zip(parameters, parts, [0, *ends], ends, strict=False):
        first, store = begin, parameter._store
        if store is not None and store.gradient_owned and store.holds(parameter):
            lo = store.clip(*store.extent(parameter._index))[0] - store.offsets[parameter._index]
            assert flat.size == 0 or lo % CHUNK == 0  # ranks own whole chunks
            first += lo // CHUNK
            own[begin:end] = False
            keepers.setdefault(id(store.keeper), (store.keeper, []))[1].extend(range(begin, end))
        places.extend(range(first, first - (-flat.size // CHUNK)))
    values[places] = _chunk_norms(parts, norm_type)
    own[places] = True
    for keeper, numbers in keepers.values():
        part = values[numbers]
        keeper.gather_values(part, own[numbers])
        values[numbers] = part
    return joined(values, norm_type)
