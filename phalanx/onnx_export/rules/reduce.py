"""Ops that reduce axes, or run along one."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..graph import Graph
from ..rule import RULES, Rule, first, option, output_dtype, rule
from ..runs import Call


def axes_of(call: Call) -> list[int]:
    """The axes that a call reduces: all of them without an axis."""
    return _axes(call, option(call, "axis", 1))


def _axes(call: Call, axis: Any) -> list[int]:
    ndim = call.inputs[0].value.ndim
    if axis is None:
        return list(range(ndim))
    return [a % ndim for a in ([axis] if isinstance(axis, int) else axis)] if ndim else []


def reduced(graph: Graph, call: Call, kind: str, name: str, axes: list[int], keepdims: bool) -> str:
    """``name`` reduced over ``axes``."""
    if not axes:
        return name
    if kind == "ReduceSum" or graph.opset >= 18:
        return graph.node(call, kind, name, graph.integers(*axes), keepdims=int(keepdims))
    return graph.node(call, kind, name, axes=axes, keepdims=int(keepdims))


def _keeps(call: Call) -> bool:
    return bool(option(call, "keepdims", 2, False))


def _reduction(kind: str) -> Rule:
    return lambda graph, call: reduced(graph, call, kind, first(graph, call), axes_of(call), _keeps(call))


KINDS = {"sum": "ReduceSum", "mean": "ReduceMean", "amax": "ReduceMax", "amin": "ReduceMin", "prod": "ReduceProd", "norm": "ReduceL2"}  # fmt: skip
RULES.update({name: _reduction(kind) for name, kind in KINDS.items()})


@rule("p_norm")
def _p_norm(graph: Graph, call: Call) -> str:
    p, dtype = float(option(call, "p", 1)), output_dtype(call)
    size = graph.node(call, "Abs", first(graph, call))
    axes, keepdims = _axes(call, option(call, "axis", 2)), bool(option(call, "keepdims", 3, False))
    if p == 1:
        return reduced(graph, call, "ReduceSum", size, axes, keepdims)
    powers = graph.node(call, "Pow", size, graph.constant(p, dtype))
    total = reduced(graph, call, "ReduceSum", powers, axes, keepdims)
    return graph.node(call, "Pow", total, graph.constant(1 / p, dtype))


def _some(kind: str) -> Rule:
    """any and all, over numbers 0 and 1."""

    def made(graph: Graph, call: Call) -> str:
        truth = graph.cast(call, graph.array(call, call.inputs[0], np.bool_), np.int32)
        return graph.cast(call, reduced(graph, call, kind, truth, axes_of(call), _keeps(call)), np.bool_)

    return made


RULES["any"], RULES["all"] = _some("ReduceMax"), _some("ReduceMin")


def _place(graph: Graph, call: Call, kind: str, keepdims: bool) -> str:
    """Position of the (first) extreme."""
    name = graph.array(call, call.inputs[0])
    axis = option(call, "axis", 1)
    if call.inputs[0].value.dtype == np.bool_:
        name = graph.cast(call, name, np.int32)
    if axis is None:
        flat = graph.node(call, "Reshape", name, graph.integers(-1))
        found = graph.node(call, kind, flat, axis=0, keepdims=0)
        return graph.node(call, "Reshape", found, graph.integers(*call.outputs[0].value.shape)) if keepdims else found
    return graph.node(call, kind, name, axis=axis, keepdims=int(keepdims))


@rule("argmax")
def _argmax(graph: Graph, call: Call) -> str:
    return _place(graph, call, "ArgMax", _keeps(call))


@rule("argmin")
def _argmin(graph: Graph, call: Call) -> str:
    return _place(graph, call, "ArgMin", _keeps(call))


def _choice(reduce: str, place: str) -> Rule:
    def made(graph: Graph, call: Call) -> tuple[str, str]:
        values = reduced(graph, call, reduce, first(graph, call), axes_of(call), _keeps(call))
        return values, _place(graph, call, place, _keeps(call))

    return made


RULES["max"], RULES["min"] = _choice("ReduceMax", "ArgMax"), _choice("ReduceMin", "ArgMin")


@rule("cumsum")
def _cumsum(graph: Graph, call: Call) -> str:
    return graph.node(call, "CumSum", first(graph, call), graph.constant(option(call, "axis", 1), np.int64))


@rule("softmax", "log_softmax")
def _softmax(graph: Graph, call: Call) -> str:
    kind = "Softmax" if call.op == "softmax" else "LogSoftmax"
    return graph.node(call, kind, first(graph, call), axis=option(call, "axis", 1))


@rule("argsort")
def _argsort(graph: Graph, call: Call) -> str:
    return sorted_along(graph, call, option(call, "axis", 1, -1), option(call, "descending", 2, False))[1]


def sorted_along(graph: Graph, call: Call, axis: int, descending: Any) -> tuple[str, str]:
    """Values and positions in order; equal ones keep theirs, as TopK of ONNX Runtime does."""
    size = graph.size(call, call.inputs[0].sizes[axis])
    name = graph.array(call, call.inputs[0])
    return graph.node(call, "TopK", name, size, outputs=2, axis=axis, largest=int(bool(descending)), sorted=1)
