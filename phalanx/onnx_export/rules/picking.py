"""Ops that pick elements by position."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..errors import ExportError, StaticError
from ..graph import LARGEST, Graph
from ..rule import first, option, rule
from ..runs import Call, Operand, described, varies


@rule("index_select")
def _index_select(graph: Graph, call: Call) -> str:
    index = graph.array(call, call.attributes["index"], np.int64)
    flat = graph.node(call, "Reshape", index, graph.integers(-1))
    return graph.node(call, "Gather", first(graph, call), flat, axis=option(call, "axis", 1))


@rule("gather")
def _gather(graph: Graph, call: Call) -> str:
    axis = option(call, "axis", 1) % max(1, call.inputs[0].value.ndim)
    index = call.attributes["index"] if "index" in call.attributes else call.inputs[2]
    name = first(graph, call)
    for dimension, (have, want) in enumerate(zip(call.inputs[0].sizes, index.sizes, strict=True)):
        if dimension != axis and have != want:
            end = graph.size(call, want)
            name = graph.node(call, "Slice", name, graph.integers(0), end, graph.integers(dimension))
    return graph.node(call, "GatherElements", name, graph.array(call, index, np.int64), axis=axis)


def _slice(graph: Graph, call: Call, name: str, parts: Sequence[tuple[int, Sequence[slice]]]) -> str:
    """``name`` cut along axes; a bound may differ between runs."""
    columns: list[list[tuple[int, ...]]] = [[], [], []]
    for _, slices in parts:
        for column, bound in zip(columns, zip(*map(_bounds, slices), strict=True), strict=True):
            column.append(bound)
    starts, ends, steps = columns
    axes = graph.integers(*(axis for axis, _ in parts))
    return graph.node(
        call, "Slice", name, graph.shape(call, starts), graph.shape(call, ends), axes, graph.shape(call, steps)
    )


def _bounds(part: slice) -> tuple[int, int, int]:
    step = 1 if part.step is None else int(part.step)
    start, end = (0, LARGEST) if step > 0 else (LARGEST, -LARGEST)
    return start if part.start is None else int(part.start), end if part.stop is None else int(part.stop), step


def _keys(call: Call) -> list[Operand]:
    """The parts of an index, over all runs, without an Ellipsis."""
    key = call.attributes["key"]
    if not isinstance(key.value, tuple):
        parts = [key]
    else:
        columns = zip(*key.values, strict=True)
        parts = [call.attributes.get(f"key.{number}", Operand(column, None)) for number, column in enumerate(columns)]
    taken = sum(_takes(part.value) for part in parts)
    rest = call.inputs[0].value.ndim - taken
    everything = Operand((slice(None),) * len(key.values), None)
    at = next((number for number, part in enumerate(parts) if part.value is Ellipsis), None)
    return parts if at is None else [*parts[:at], *[everything] * rest, *parts[at + 1 :]]


def _takes(part: Any) -> int:
    """How many dimensions a part of an index uses up."""
    if part is None or part is Ellipsis or isinstance(part, bool):
        return 0
    return part.ndim if isinstance(part, np.ndarray) and part.dtype == np.bool_ else 1


@rule("index")
def _index(graph: Graph, call: Call) -> str:
    """Slices first; then the one array along its dimension; then whole numbers and new dimensions."""
    name = graph.array(call, call.inputs[0])
    slices, numbers, arrays, new = [], [], [], []
    axis = place = 0
    for part in _keys(call):
        value = part.value
        if value is None:
            new.append(place)
            place += 1
            continue
        if isinstance(value, slice):
            if varies(part.values) or value != slice(None):
                slices.append((axis, part.values))
            place += 1
        elif isinstance(value, np.ndarray) and value.ndim and value.dtype != np.bool_:
            arrays.append((axis, part))
            place += value.ndim
        elif isinstance(value, int | np.integer) or (isinstance(value, np.ndarray) and value.dtype.kind in "iu"):
            numbers.append((axis, part))
        else:
            raise ExportError(f"{described(call)}: an index of {value!r} has a result whose shape depends on values")
        axis += 1
    if len(arrays) > 1 or (arrays and numbers):
        raise ExportError(
            f"{described(call)}: an index with several arrays, or with an array and a number, is not known"
        )
    if slices:
        name = _slice(graph, call, name, slices)
    for at, part in sorted(arrays + numbers, key=lambda pair: -pair[0]):
        index = graph.array(call, part, np.int64) if part.is_array else graph.constant(_one(call, part), np.int64)
        name = graph.node(call, "Gather", name, index, axis=at)
    return graph.node(call, "Unsqueeze", name, graph.integers(*new)) if new else name


def _one(call: Call, part: Operand) -> int:
    """A number in an index; it counts from the end where that is what stays the same."""
    if not varies(part.values):
        return int(part.value)
    raise ExportError(
        f"{described(call)}: the position {part.values} follows from the input's size; count from the end"
    )


@rule("embedding")
def _embedding(graph: Graph, call: Call) -> str:
    weight, indices = call.inputs[:2]
    return graph.node(call, "Gather", graph.array(call, weight), graph.array(call, indices), axis=0)


@rule("diagonal")
def _diagonal(graph: Graph, call: Call) -> str:
    """The last two of the turned axes as one, of which every width-and-one-th element is taken."""
    ndim = call.inputs[0].value.ndim
    axes = [option(call, name, at, default) % ndim for name, at, default in (("axis1", 2, 0), ("axis2", 3, 1))]
    offset, order = option(call, "offset", 1, 0), [a for a in range(ndim) if a not in axes] + axes
    sizes = [call.inputs[0].sizes[axis] for axis in order]
    if varies(sizes[-1]) or varies(sizes[-2]):
        raise StaticError(f"{described(call)}: the size of a diagonal must not change")
    turned = graph.node(call, "Transpose", graph.array(call, call.inputs[0]), perm=order)
    width = sizes[-1][0]
    flat = graph.node(
        call,
        "Reshape",
        turned,
        graph.shape(call, [*sizes[:-2], tuple(a * b for a, b in zip(*sizes[-2:], strict=True))]),
    )
    start = offset if offset >= 0 else -offset * width
    places = start + np.arange(call.outputs[0].value.shape[-1]) * (width + 1)
    return graph.node(call, "Gather", flat, graph.integers(*map(int, places)), axis=len(sizes) - 2)
