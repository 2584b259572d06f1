"""What a training step of a model holds in memory at once, found by doing its forward and backward once."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from .core import rng
from .core.autograd import Walk
from .core.errors import PhalanxError
from .core.graph import enable_grad
from .core.nn import statistics
from .core.nn.module import Module
from .core.node import Node
from .core.tensor import Tensor


class _Forgetful(Walk):
    """A backward pass whose gradients of leaves are let go: a step writes them where they have their place already."""

    def _add(self, target: Any, gradient: Any) -> None:
        if target.__class__ is Node:
            super()._add(target, gradient)


def tensors_in(value: Any) -> Iterator[Tensor]:
    """The tensors in what a module gave, in order."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        yield from tensors_in(list(value.values()))
    elif isinstance(value, (tuple, list)):
        for part in value:
            yield from tensors_in(part)


def of_passes(model: Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> int | str:
    """The most bytes that a forward in training mode and its backward hold at once beside the model, its gradients and the inputs:
    activations and temporary arrays. Words instead if the model refuses the inputs in training mode.

    Only arrays of the host are seen, and not what oneDNN takes for itself within a product. The model is left as it was. It runs twice:
    what is loaded at the first run is no array.
    """

    def run() -> None:
        outputs = [y for y in tensors_in(model(*args, **kwargs)) if y.requires_grad]
        if outputs:
            walk = _Forgetful(outputs, [p for p in model.parameters() if p.requires_grad])
            walk.run([np.ones_like(y.array) for y in outputs])

    attributes = [(vars(module), dict(vars(module))) for module in model.modules()]
    buffers = [(buffer, buffer.array, buffer.array.copy()) for buffer in model.buffers()]
    try:
        model.train()
        with enable_grad(), statistics.discard(), rng.own_stream(0):
            run()
            return _most(run)
    except PhalanxError as error:
        return str(error).splitlines()[0]
    finally:
        for now, before in attributes:
            now.clear()
            now.update(before)
        for buffer, array, values in buffers:
            buffer.array = array
            array[...] = values


def _most(run: Callable[[], None]) -> int:
    """How far Python's memory, of which NumPy's arrays are a part, rises during ``run``."""
    outer = tracemalloc.is_tracing()
    if not outer:
        tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        run()
        return tracemalloc.get_traced_memory()[1] - before
    finally:
        if not outer:
            tracemalloc.stop()
