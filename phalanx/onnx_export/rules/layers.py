"""Products and norms."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..errors import ExportError
from ..graph import Graph
from ..rule import first, output_dtype, rule
from ..runs import Call, described
from .arithmetic import Formula, gelu_tanh
from .reduce import reduced


def present(call: Call, position: int) -> bool:
    """Whether the op got an input at ``position``."""
    return position < len(call.inputs) and call.inputs[position].value is not None


def _affine(graph: Graph, call: Call, x: str, at: int) -> str:
    """``x`` times the weight at position ``at``, and the bias behind that if there is one."""
    weight = graph.array(call, call.inputs[at])
    bias = [graph.array(call, call.inputs[at + 1])] if present(call, at + 1) else []
    if call.inputs[0].value.ndim == 2:
        return graph.node(call, "Gemm", x, weight, *bias, transB=1)
    y = graph.node(call, "MatMul", x, graph.node(call, "Transpose", weight, perm=[1, 0]))
    return graph.node(call, "Add", y, *bias) if bias else y


def _activated(graph: Graph, call: Call, x: str, activation: str) -> str:
    return graph.node(call, "Relu", x) if activation == "relu" else gelu_tanh(Formula(graph, call), x)


@rule("linear")
def _linear(graph: Graph, call: Call) -> str:
    return _affine(graph, call, first(graph, call), 1)


@rule("linear_relu", "linear_gelu")
def _linear_activation(graph: Graph, call: Call) -> str:
    return _activated(graph, call, _affine(graph, call, first(graph, call), 1), call.op.partition("_")[2])


@rule("feed_forward")
def _feed_forward(graph: Graph, call: Call) -> str:
    x = _affine(graph, call, first(graph, call), 1)
    for at in range(3, len(call.inputs), 2):
        x = _affine(graph, call, _activated(graph, call, x, call.get("activation")), at)
    return x


@rule("matmul")
def _matmul(graph: Graph, call: Call) -> str:
    return graph.node(call, "MatMul", *(graph.array(call, operand, output_dtype(call)) for operand in call.inputs))


@rule("attention")
def _attention(graph: Graph, call: Call) -> str:
    query, key = call.inputs[:2]
    names = [graph.array(call, operand, output_dtype(call)) for operand in call.inputs]
    return _attended(graph, call, names, key.value.ndim, (query.sizes[-2], key.sizes[-2]))


@rule("packed_attention")
def _packed_attention(graph: Graph, call: Call) -> str:
    packed = call.inputs[0]
    name, turned = graph.array(call, packed, output_dtype(call)), [0, 2, 1, 3]
    parts = [graph.node(call, "Gather", name, graph.constant(i, np.int64), axis=2) for i in range(3)]
    heads = [graph.node(call, "Transpose", part, perm=turned) for part in parts]
    return graph.node(
        call, "Transpose", _attended(graph, call, heads, 4, (packed.sizes[1], packed.sizes[1])), perm=turned
    )


def _attended(graph: Graph, call: Call, names: list[str], ndim: int, sides: tuple[Any, Any]) -> str:
    """Attention of query, key and value (..., L, E) by these ``names``; ``sides``: the sizes L and S."""
    (query, key, value), dtype = names, output_dtype(call)
    turned = graph.node(call, "Transpose", key, perm=[*range(ndim - 2), ndim - 1, ndim - 2])
    scaled = graph.node(call, "Mul", query, graph.constant(call.get("scale"), dtype))
    scores = graph.node(call, "MatMul", scaled, turned)
    if call.get("causal", False):
        ones = graph.node(call, "Expand", graph.constant(1, np.int64), graph.shape(call, sides))
        seen = graph.node(call, "Trilu", ones, graph.constant(0, np.int64), upper=0)
        allowed = graph.cast(call, seen, np.bool_)
        scores = graph.node(call, "Where", allowed, scores, graph.constant(-np.inf, dtype))
    return graph.node(call, "MatMul", graph.node(call, "Softmax", scores, axis=-1), value)


@rule("det")
def _det(graph: Graph, call: Call) -> str:
    return graph.node(call, "Det", first(graph, call))


def scale_and_shift(graph: Graph, call: Call, position: int, shape: tuple[int, ...]) -> tuple[str, str]:
    """The names of weight and bias at ``position`` and behind it; ones and zeros where there are none."""
    names = []
    for at, value in ((position, 1), (position + 1, 0)):
        names.append(graph.array(call, call.inputs[at]) if present(call, at) else graph.constant(np.full(shape, value, output_dtype(call))))  # fmt: skip
    return names[0], names[1]


@rule("batch_norm_eval")
def _batch_norm(graph: Graph, call: Call) -> str:
    x, mean, variance = (graph.array(call, operand) for operand in call.inputs[:3])
    weight, bias = scale_and_shift(graph, call, 3, call.inputs[1].value.shape)
    return graph.node(call, "BatchNormalization", x, weight, bias, mean, variance, epsilon=float(call.get("eps", 1e-5)))


@rule("batch_norm_train")
def _batch_norm_train(graph: Graph, call: Call) -> tuple[str, None, None]:
    """By the batch's own statistics, as a layer without running ones does."""
    ndim = call.inputs[0].value.ndim
    weight, bias = scale_and_shift(graph, call, 1, call.inputs[0].value.shape[1:2])
    axes = [axis for axis in range(ndim) if axis != 1]
    y = standardized(graph, call, first(graph, call), axes, float(call.get("eps", 1e-5)))
    if ndim > 2:
        weight, bias = (
            graph.node(call, "Unsqueeze", name, graph.integers(*range(1, ndim - 1))) for name in (weight, bias)
        )
    return graph.node(call, "Add", graph.node(call, "Mul", y, weight), bias), None, None


def standardized(graph: Graph, call: Call, x: str, axes: list[int], eps: float) -> str:
    """(x - mean) / sqrt(variance + eps) over ``axes``."""
    distance = graph.node(call, "Sub", x, reduced(graph, call, "ReduceMean", x, axes, True))
    variance = reduced(graph, call, "ReduceMean", graph.node(call, "Mul", distance, distance), axes, True)
    shifted = graph.node(call, "Add", variance, graph.constant(eps, output_dtype(call)))
    return graph.node(call, "Div", distance, graph.node(call, "Sqrt", shifted))


@rule("layer_norm")
def _layer_norm(graph: Graph, call: Call) -> str:
    return _layer_normed(graph, call, first(graph, call), 1)


@rule("add_layer_norm")
def _add_layer_norm(graph: Graph, call: Call) -> tuple[str, str]:
    both = graph.node(call, "Add", first(graph, call), graph.array(call, call.inputs[1]))
    return both, _layer_normed(graph, call, both, 2)


def _layer_normed(graph: Graph, call: Call, x: str, at: int) -> str:
    """Layer norm of ``x``; weight and bias, if any, are inputs ``at`` and behind it."""
    shape = tuple(call.get("shape"))
    weight, bias = scale_and_shift(graph, call, at, shape)
    epsilon = float(call.get("eps", 1e-5))
    return graph.node(call, "LayerNormalization", x, weight, bias, axis=-len(shape), epsilon=epsilon)


@rule("rms_norm")
def _rms_norm(graph: Graph, call: Call) -> str:
    return _rms_normed(graph, call, first(graph, call), 1)


@rule("add_rms_norm")
def _add_rms_norm(graph: Graph, call: Call) -> tuple[str, str]:
    both = graph.node(call, "Add", first(graph, call), graph.array(call, call.inputs[1]))
    return both, _rms_normed(graph, call, both, 2)


def _rms_normed(graph: Graph, call: Call, x: str, at: int) -> str:
    """RMS norm of ``x``; its weight, if any, is input ``at``."""
    ndim, dtype = call.inputs[0].value.ndim, output_dtype(call)
    axes = list(range(ndim - len(call.get("shape")), ndim))
    square = reduced(graph, call, "ReduceMean", graph.node(call, "Mul", x, x), axes, True)
    shifted = graph.node(call, "Add", square, graph.constant(call.get("eps", 1e-5), dtype))
    y = graph.node(call, "Div", x, graph.node(call, "Sqrt", shifted))
    return graph.node(call, "Mul", y, graph.array(call, call.inputs[at])) if present(call, at) else y


@rule("dropout")
def _dropout(graph: Graph, call: Call) -> str:
    raise ExportError(
        f"{described(call)}: dropout that acts in evaluation cannot be exported: pass training=self.training"
    )
