"""Symbolic tensors: what layers are called with to build a graph of them, before there is data."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from ..core import rng
from ..core.backend import as_dtype
from ..core.mode import no_grad
from ..core.nn import statistics
from ..core.tensor import Tensor
from . import nest, scope

Shape = tuple[int | None, ...]


class KerasTensor:
    """A place in a graph of layers: a shape, whose None are sizes that data will tell, and a dtype.

    >>> from phalanx import keras
    >>> x = keras.Input(shape=(4,))
    >>> keras.layers.Dense(2)(x).shape
    (None, 2)
    """

    node: Node | None = None
    """The call of a layer that gives this tensor; None where a graph begins."""
    index: int = 0
    """Which of its outputs."""
    layer: Any = None
    """The InputLayer, where a graph begins."""

    def __init__(self, shape: Any, dtype: Any = "float32", name: str | None = None) -> None:
        self.shape: Shape = tuple(None if size is None else int(size) for size in shape)
        self.dtype = str(as_dtype(dtype))
        self.name = name

    @property
    def ndim(self) -> int:
        """Dimensions, that of the samples included."""
        return len(self.shape)

    def _operate(self, name: str, *operands: Any) -> Any:
        return OPERATE[name](*operands)

    def __add__(self, other: Any) -> Any:
        return self._operate("add", self, other)

    def __radd__(self, other: Any) -> Any:
        return self._operate("add", other, self)

    def __sub__(self, other: Any) -> Any:
        return self._operate("sub", self, other)

    def __rsub__(self, other: Any) -> Any:
        return self._operate("sub", other, self)

    def __mul__(self, other: Any) -> Any:
        return self._operate("mul", self, other)

    def __rmul__(self, other: Any) -> Any:
        return self._operate("mul", other, self)

    def __truediv__(self, other: Any) -> Any:
        return self._operate("truediv", self, other)

    def __rtruediv__(self, other: Any) -> Any:
        return self._operate("truediv", other, self)

    def __pow__(self, other: Any) -> Any:
        return self._operate("pow", self, other)

    def __matmul__(self, other: Any) -> Any:
        return self._operate("matmul", self, other)

    def __neg__(self) -> Any:
        return self._operate("neg", self)

    def __getitem__(self, index: Any) -> Any:
        return self._operate("getitem", self, index)

    def __bool__(self) -> bool:
        raise TypeError(
            "a symbolic tensor has no value yet: it cannot decide an if; use a Lambda or a Layer of your own"
        )

    def __iter__(self) -> Iterator[Any]:
        raise TypeError("a symbolic tensor cannot be iterated over: its number of samples is not known")

    def __repr__(self) -> str:
        return f"<KerasTensor shape={self.shape}, dtype={self.dtype}, name={self.name}>"


OPERATE: dict[str, Any] = {}
"""Operators of symbolic tensors; the layers enter them."""


class Node:
    """One call of a layer in a graph: ``arguments`` (args, kwargs) hold symbolic tensors, ``outputs`` is what came of it."""

    def __init__(self, layer: Any, arguments: Any, outputs: Any) -> None:
        self.layer, self.arguments, self.outputs = layer, arguments, outputs
        for index, tensor in enumerate(nest.flat(outputs)):
            tensor.node, tensor.index = self, index
        layer.__dict__.setdefault("_nodes", []).append(self)

    @property
    def inputs(self) -> list[KerasTensor]:
        """The symbolic tensors among the arguments."""
        return [leaf for leaf in nest.flat(list(self.arguments)) if isinstance(leaf, KerasTensor)]


def has_symbolic(value: Any) -> bool:
    """Whether there is a symbolic tensor in it."""
    return any(isinstance(leaf, KerasTensor) for leaf in nest.flat(value))


def symbolic_call(layer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Enter a call of ``layer`` into the graph; returns its symbolic outputs."""
    if not layer.built:
        layer._build_from(args, kwargs)
    outputs = outcome(layer, args, kwargs)
    Node(layer, (args, kwargs), outputs)
    for index, tensor in enumerate(leaves := nest.flat(outputs)):
        tensor.name = layer.name if len(leaves) == 1 else f"{layer.name}_{index}"
    return outputs


def outcome(layer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Symbolic tensors for what ``layer`` gives: it is run on zeros, twice where other sizes than that of the batch are unknown."""
    found = run_on_zeros(layer, args, kwargs)
    again = found
    if any(None in leaf.shape[1:] for leaf in nest.flat([list(args), kwargs]) if isinstance(leaf, KerasTensor)):
        again = run_on_zeros(layer, args, kwargs, 64)
    second = iter(nest.flat(again))

    def tensor(value: Any) -> KerasTensor:
        other = next(second)
        sizes = [a if a == b else None for a, b in zip(value.shape, other.shape, strict=True)]
        return KerasTensor((None, *sizes[1:]), value.dtype)

    return nest.changed(found, tensor)


def run_on_zeros(layer: Any, args: tuple[Any, ...], kwargs: dict[str, Any], unknown: int = 32) -> Any:
    """What ``layer`` gives for one sample of zeros, in evaluation mode, without a trace; builds it if need be."""

    def real(leaf: Any) -> Any:
        if not isinstance(leaf, KerasTensor):
            return leaf
        return Tensor(np.zeros([1, *(unknown if size is None else size for size in leaf.shape[1:])], leaf.dtype))

    args, kwargs = nest.changed(args, real), nest.changed(kwargs, real)
    before = [(module, module.training) for module in layer.modules()]
    try:
        layer.eval()
        with no_grad(), statistics.discard(), rng.own_stream(0), scope.of_engine():
            return layer(*args, **kwargs)
    finally:
        for module, training in before:
            module.training = training
