"""The ONNX graph while it grows: nodes, initializers, names, and sizes that follow from those of the inputs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from .errors import ExportError, StaticError
from .proto import Node, element_type
from .runs import Call, Operand, Place, described, same, varies

Sizes = tuple[int, ...]
"""One size in each run."""
LARGEST = 2**63 - 1


class Graph:
    """Nodes in order and the tensors that they use."""

    def __init__(self, opset: int, symbols: dict[Sizes, tuple[str, int]]) -> None:
        self.opset = opset
        self.symbols = symbols
        """The sizes of each dynamic axis -> an input that has it, and at which dimension."""
        self.nodes: list[Node] = []
        self.tensors: dict[str, np.ndarray] = {}
        self.names: dict[Place, str] = {}
        """Where an array came from -> its name in the graph."""
        self.constants: dict[Place, np.ndarray] = {}
        """Arrays that no input changes: state, and what was folded."""
        self._taken: set[str] = set()
        self._known: dict[Any, str] = {}

    # ---- names and nodes

    def fresh(self, wanted: str) -> str:
        """``wanted``, or with a number behind it if that name is taken."""
        name, number = wanted, 0
        while name in self._taken:
            number += 1
            name = f"{wanted}_{number}"
        self._taken.add(name)
        return name

    def node(self, call: Call, kind: str, *inputs: str, outputs: int = 1, **attributes: Any) -> Any:
        """Add an operator; returns the name of its output, or a tuple of names of several."""
        name = self.fresh(f"{call.layer}/{kind}" if call.layer else kind)
        names = tuple(f"{name}:{n}" for n in range(outputs)) if outputs > 1 else (f"{name}:0",)
        given = {key: value for key, value in attributes.items() if value is not None}
        self.nodes.append(Node(kind, name, inputs, names, given))
        return names if outputs > 1 else names[0]

    @contextmanager
    def inside(self) -> Iterator[list[Node]]:
        """Within, nodes go into a list of their own: the body of an operator that repeats it."""
        outer, self.nodes = self.nodes, []
        try:
            yield self.nodes
        finally:
            self.nodes = outer

    def constant(self, value: Any, dtype: Any = None) -> str:
        """The name of a small constant; equal ones are one."""
        array = np.asarray(value, dtype)
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._known:
            self._known[key] = self.fresh("constant")
            self.tensors[self._known[key]] = array
        return self._known[key]

    def integers(self, *values: int) -> str:
        """An int64 constant of one dimension: sizes, axes."""
        return self.constant(values, np.int64)

    # ---- operands

    def array(self, call: Call, operand: Operand, dtype: Any = None) -> str:
        """The name of what a call got, cast to ``dtype`` if that is another one."""
        value = operand.value
        if not isinstance(value, np.ndarray):
            if isinstance(value, bool | int | float | np.generic):
                return self._number(call, operand, dtype)
            raise ExportError(f"{described(call)} got {type(value).__name__}, which ONNX has no word for")
        name = self._name_of(call, operand)
        return name if dtype is None or np.dtype(dtype) == value.dtype else self.cast(call, name, dtype)

    def _number(self, call: Call, operand: Operand, dtype: Any) -> str:
        """A Python number; one that differs between runs must be a size."""
        if not varies(operand.values):
            return self.constant(operand.value, dtype)
        if not isinstance(operand.value, int) or operand.values[0] != operand.values[1]:
            raise StaticError(f"{described(call)} got numbers that depend on the input: {operand.values}")
        size = self.node(call, "Squeeze", self.size(call, operand.values), self.integers(0))
        return size if dtype is None or np.dtype(dtype) == np.int64 else self.cast(call, size, dtype)

    def cast(self, call: Call, name: str, dtype: Any) -> str:
        """``name`` as another element type."""
        return self.node(call, "Cast", name, to=element_type(dtype))

    def derived(self, call: Call, operand: Operand, word: str, function: Callable[[np.ndarray], np.ndarray]) -> str:
        """A parameter in another form, under its own name with ``word`` behind it."""
        place = operand.place
        if place is None or place not in self.constants:
            raise ExportError(f"{described(call)}: its weights must be parameters, not what ops made of the input")
        name = self.fresh(f"{place[1] if place[0] == 'state' else 'folded'}:{word}")
        self.tensors[name] = function(operand.value)
        return name

    def _name_of(self, call: Call, operand: Operand) -> str:
        place = operand.place
        if place in self.names:
            return self.names[place]
        if place is not None and place in self.constants:
            wanted = place[1] if place[0] == "state" else "folded"
            self.names[place] = name = self.fresh(str(wanted))
            self.tensors[name] = self.constants[place]
            return name
        if place is not None:
            raise ExportError(f"{described(call)} uses an output of another op that ONNX does not give")
        if not varies(operand.values):
            return self.constant(operand.value)
        return self._made(call, operand)

    def _made(self, call: Call, operand: Operand) -> str:
        """An array that no op made and that differs between runs: a range, one value everywhere, or a triangle of ones."""
        values = operand.values
        first = values[0]
        if not same(first, values[1]):
            raise ExportError(
                f"{described(call)} got an array of shape {first.shape} that depends on the values of the inputs, but "
                "was made by NumPy or drawn at random: a graph of ops cannot hold how. Compute it with phalanx's functions, or give it as an input"
            )
        if first.ndim == 1 and all(same(value, np.arange(value.size, dtype=value.dtype)) for value in values):
            end = self.node(call, "Squeeze", self.size(call, operand.sizes[0]), self.integers(0))
            zero, one = self.constant(0, np.int64), self.constant(1, np.int64)
            counted = self.node(call, "Range", zero, end, one)
            return counted if first.dtype == np.int64 else self.cast(call, counted, first.dtype)
        if first.size and all(value.size and (value == first.flat[0]).all() for value in values):
            return self.node(call, "Expand", self.constant(first.flat[0], first.dtype), self.shape(call, operand.sizes))
        if first.ndim >= 2 and first.size > 1:
            for k in (-1, 0, 1):
                if (sides := _triangle(values, k)) is not None:
                    return self._triangular(call, operand, k, sides)
        raise StaticError(f"{described(call)} got a constant whose shape follows from the input's: {operand.sizes}")

    def _triangular(self, call: Call, operand: Operand, k: int, sides: tuple[Any, Any]) -> str:
        """One value on and below the ``k``-th diagonal of the last two axes, another one above."""
        dtype = operand.value.dtype
        ones = self.node(call, "Expand", self.constant(1, np.int64), self.shape(call, operand.sizes))
        below = self.cast(call, self.node(call, "Trilu", ones, self.constant(k, np.int64), upper=0), np.bool_)
        if dtype == np.bool_:  # of which onnxruntime has no Where
            return below if sides[0] else self.node(call, "Not", below)
        return self.node(call, "Where", below, *(self.constant(side, dtype) for side in sides))

    # ---- sizes

    def shape(self, call: Call, sizes: Sequence[Sizes]) -> str:
        """The name of an int64 tensor of these sizes."""
        if not any(map(varies, sizes)):
            return self.integers(*(size[0] for size in sizes))
        return self.node(call, "Concat", *(self.size(call, size) for size in sizes), axis=0)

    def size(self, call: Call, size: Sizes) -> str:
        """The name of an int64 tensor with the one element that is ``size`` in each run. Raises StaticError."""
        if not varies(size):
            return self.integers(size[0])
        for operand in (*call.inputs, *call.attributes.values()):
            if operand.is_array and operand.place in self.names:
                for axis, there in enumerate(operand.sizes):
                    if there == size:
                        return self._dimension(call, self.names[operand.place], axis)
        factor, factors = size[0], []
        for symbol, place in self.symbols.items():
            if any(s != symbol[0] and v * symbol[0] == size[0] * s for s, v in zip(symbol, size, strict=True)):
                factors.append((symbol, place))
                factor //= symbol[0] or 1
        found = [factor * math.prod(row) for row in zip(*(symbol for symbol, _ in factors), strict=True)]
        if factors and tuple(found) == size:
            names = [self._dimension(call, *place) for _, place in factors]
            names += [self.integers(factor)] if factor != 1 else []
            while len(names) > 1:
                names[:2] = [self.node(call, "Mul", names[0], names[1])]
            return names[0]
        return self._straight(call, size)

    def _straight(self, call: Call, size: Sizes) -> str:
        """A slope times one dynamic size, and a number."""
        for symbol, place in self.symbols.items():
            other = next((n for n, s in enumerate(symbol) if s != symbol[0]), 0)
            run = symbol[other] - symbol[0]
            if not run or (size[other] - size[0]) % run:
                continue
            slope = (size[other] - size[0]) // run
            if all(v == size[0] + slope * (s - symbol[0]) for s, v in zip(symbol, size, strict=True)):
                scaled = self.node(call, "Mul", self._dimension(call, *place), self.integers(slope))
                return self.node(call, "Add", scaled, self.integers(size[0] - slope * symbol[0]))
        raise StaticError(f"{described(call)} needs a size that is {size} with inputs of several sizes")

    def _dimension(self, call: Call, name: str, axis: int) -> str:
        key = ("dimension", name, axis)
        if key not in self._known:
            shape = self.node(call, "Shape", name)
            self._known[key] = self.node(call, "Gather", shape, self.integers(axis), axis=0)
        return self._known[key]


def _triangle(values: Sequence[np.ndarray], k: int) -> tuple[Any, Any] | None:
    """The two values of arrays that have one on and below the ``k``-th diagonal and another one above; None for others."""
    found = None
    for value in values:
        below = np.broadcast_to(np.tri(value.shape[-2], value.shape[-1], k, dtype=bool), value.shape)
        inside, outside = value[below], value[~below]
        if not inside.size or not outside.size or not ((inside == inside[0]).all() and (outside == outside[0]).all()):
            return None
        if found is not None and found != (inside[0], outside[0]):
            return None
        found = inside[0], outside[0]
    return found
