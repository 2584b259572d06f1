"""Which layer was the first to give NaN or infinity."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ..backend import device_kind
from ..bfloat16 import is_floating
from ..graph import no_grad
from ..kernels.table import kernel
from ..tensor import Tensor
from . import statistics
from .hooks import RemovableHandle
from .module import Module


def _tensors(value: Any) -> Iterator[Tensor]:
    """All tensors in nested tuples, lists and dicts."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from _tensors(part)
    elif isinstance(value, dict):
        yield from _tensors(list(value.values()))


def is_finite(value: Any) -> bool:
    """Whether all floating numbers in a tensor, or in nested containers of tensors, are finite."""
    arrays = [tensor.array for tensor in _tensors(value)]
    return all(kernel("all_finite", device_kind(array))(array) for array in arrays if is_floating(array.dtype))


class _Found(Exception):
    pass


def first_non_finite(model: Module, *inputs: Any, **keywords: Any) -> str | None:
    """Name what is the first to be NaN or infinite: "input", a parameter or buffer, a layer's output or input; else None.

    Runs ``model(*inputs, **keywords)`` again without gradients; running statistics stay as they were, dropout draws a new mask.

    >>> model = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    >>> nn.first_non_finite(model, phalanx.tensor([[1.0, float("nan")]]))
    'input'
    """
    if not is_finite((inputs, keywords)):
        return "input"
    for kind, named in (("parameter", model.named_parameters()), ("buffer", model.named_buffers())):
        for name, tensor in named:
            if not is_finite(tensor):
                return f"{kind} {name!r}"
    found: list[str] = []
    handles: list[RemovableHandle] = []

    def watch(name: str) -> Any:
        def after(module: Module, args: Any, output: Any) -> None:
            if not is_finite(output):
                layer = f"layer {name!r} ({module._one_line()})" if name else f"layer {module._one_line()}"
                found.append(layer if is_finite(args) else f"the input of {layer}, computed between two layers")
                raise _Found

        return after

    try:
        for name, module in model.named_modules():
            handles.append(module.register_forward_hook(watch(name)))
        with no_grad(), statistics.discard():
            model(*inputs, **keywords)
    except _Found:
        pass
    finally:
        for handle in handles:
            handle.remove()
    return found[0] if found else None
