"""Ops that move elements."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..errors import StaticError
from ..graph import LARGEST, Graph, Sizes
from ..rule import option, output_dtype, rule
from ..runs import Call, varies


def reshaped(graph: Graph, call: Call, name: str, sizes: list[Sizes]) -> str:
    """``name`` in another shape: at most one size may be what no rule gives."""
    if not any(map(varies, sizes)):
        return graph.node(call, "Reshape", name, graph.integers(*(size[0] for size in sizes)))
    old = call.inputs[0].sizes
    numbers: list[int | None] = []
    for axis, size in enumerate(sizes):
        kept = axis < len(old) and old[axis] == size
        numbers.append(0 if kept and varies(size) else None if varies(size) or 0 in size else size[0])
    if numbers.count(None) <= 1:
        return graph.node(call, "Reshape", name, graph.integers(*(-1 if n is None else n for n in numbers)))
    parts = []
    rest = 0
    for size in sizes:
        try:
            parts.append(graph.size(call, size))
        except StaticError:
            rest += 1
            parts.append(graph.integers(-1))
            if rest > 1:
                raise
    return graph.node(call, "Reshape", name, graph.node(call, "Concat", *parts, axis=0))


@rule("reshape")
def _reshape(graph: Graph, call: Call) -> str:
    name = graph.array(call, call.inputs[0])
    sizes = call.outputs[0].sizes
    return name if sizes == call.inputs[0].sizes else reshaped(graph, call, name, sizes)


@rule("permute")
def _permute(graph: Graph, call: Call) -> str:
    ndim = call.inputs[0].value.ndim
    axes = [axis % ndim for axis in option(call, "axes", 1)]
    return graph.node(call, "Transpose", graph.array(call, call.inputs[0]), perm=axes)


@rule("transpose")
def _transpose(graph: Graph, call: Call) -> str:
    axes = list(range(call.inputs[0].value.ndim))
    if not axes:
        return graph.array(call, call.inputs[0])
    a, b = option(call, "dim0", 1), option(call, "dim1", 2)
    axes[a], axes[b] = axes[b], axes[a]
    return graph.node(call, "Transpose", graph.array(call, call.inputs[0]), perm=axes)


@rule("expand")
def _expand(graph: Graph, call: Call) -> str:
    old, new = call.inputs[0].sizes, call.outputs[0].sizes
    if old == new:
        return graph.array(call, call.inputs[0])
    ones: Sizes = (1,) * len(call.inputs[0].values)
    padded = [ones] * (len(new) - len(old)) + old
    wanted = [ones if before == after else after for before, after in zip(padded, new, strict=True)]
    return graph.node(call, "Expand", graph.array(call, call.inputs[0]), graph.shape(call, wanted))


def _joined(call: Call) -> list[Any]:
    """The operands of cat: empty ones of one dimension join anything and add nothing."""
    return [operand for operand in call.inputs if np.shape(operand.value) != (0,)] or list(call.inputs)


@rule("cat")
def _cat(graph: Graph, call: Call) -> str:
    names = [graph.array(call, operand, output_dtype(call)) for operand in _joined(call)]
    return graph.node(call, "Concat", *names, axis=call.get("axis", 0))


@rule("stack")
def _stack(graph: Graph, call: Call) -> str:
    axis = call.get("axis", 0) % call.outputs[0].value.ndim
    axes = graph.integers(axis)
    rows = [graph.node(call, "Unsqueeze", graph.array(call, x, output_dtype(call)), axes) for x in call.inputs]
    return graph.node(call, "Concat", *rows, axis=axis)


@rule("flip")
def _flip(graph: Graph, call: Call) -> str:
    axes = option(call, "axes", 1)
    axes = [axes] if isinstance(axes, int) else [axis % call.inputs[0].value.ndim for axis in axes]
    count = len(axes)
    name = graph.array(call, call.inputs[0])
    if not count:
        return name
    ends = graph.integers(*[-LARGEST] * count)
    return graph.node(call, "Slice", name, graph.integers(*[-1] * count), ends, graph.integers(*axes), graph.integers(*[-1] * count))  # fmt: skip


@rule("pad")
def _pad(graph: Graph, call: Call) -> str:
    value = graph.constant(call.get("value", 0.0) or 0.0, output_dtype(call))
    return padded(graph, call, graph.array(call, call.inputs[0]), call.get("widths"), value)


def padded(graph: Graph, call: Call, name: str, widths: Any, value: str = "", mode: str | None = None) -> str:
    """A frame of (before, after) around each dimension."""
    numbers = [before for before, _ in widths] + [after for _, after in widths]
    return graph.node(call, "Pad", name, graph.integers(*numbers), *([value] if value else []), mode=mode)
