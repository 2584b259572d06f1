"""RNN, LSTM and GRU: each direction of each layer is one operator of ONNX, whose gates stand in another order."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..errors import ExportError
from ..graph import Graph
from ..proto import Body, Port
from ..rule import rule
from ..runs import Call, described
from .arithmetic import Formula
from .layers import present

_KINDS = {"rnn": "RNN", "lstm": "LSTM", "gru": "GRU"}
_ORDER = {"rnn": (0,), "lstm": (0, 3, 1, 2), "gru": (1, 0, 2)}
"""ONNX's gates as numbers of PyTorch's: input, output, forget, cell of i, f, g, o; update, reset, hidden of r, z, n."""


@rule("rnn", "lstm", "gru")
def _recurrent(graph: Graph, call: Call) -> Any:
    states = 2 if call.op == "lstm" else 1
    if "sizes" in call.attributes and call.attributes["sizes"].value is not None:
        raise ExportError(f"{described(call)}: packed sequences cannot be exported: give padded ones")
    if call.op == "lstm" and present(call, 7):
        return _projected(graph, call)
    order, weights = _ORDER[call.op], 1 + states
    hidden = call.inputs[weights + 1].value.shape[1]

    def turned(array: np.ndarray) -> np.ndarray:
        gates = array.reshape(len(order), hidden, *array.shape[1:])
        return gates[list(order)].reshape(1, *array.shape)

    x = graph.array(call, call.inputs[0])
    inputs = [x, *(graph.derived(call, call.inputs[at], "gates", turned) for at in (weights, weights + 1))]
    inputs.append(_bias(graph, call, weights + 2, turned) if present(call, weights + 2) else "")
    inputs.append("")  # lengths: all steps count
    for at in range(1, 1 + states):
        inputs.append(graph.node(call, "Unsqueeze", graph.array(call, call.inputs[at]), graph.integers(0)))
    options: dict[str, Any] = {"hidden_size": hidden, "direction": "reverse" if call.get("reverse") else "forward"}
    if call.op == "gru":
        options["linear_before_reset"] = 1
    if call.op == "rnn":
        options["activations"] = [call.get("nonlinearity", "tanh").capitalize()]
    y, *last = graph.node(call, _KINDS[call.op], *inputs, outputs=1 + states, **options)
    return (
        graph.node(call, "Squeeze", y, graph.integers(1)),
        *(graph.node(call, "Squeeze", name, graph.integers(0)) for name in last),
    )


def _projected(graph: Graph, call: Call) -> tuple[str, str, str]:
    """ONNX's LSTM has no projection: the steps as the body of a Scan."""
    dtype = call.inputs[0].value.dtype
    x, h, c = (graph.array(call, operand) for operand in call.inputs[:3])
    w_ih, w_hh, w_hr = (
        graph.node(call, "Transpose", graph.array(call, call.inputs[at]), perm=[1, 0]) for at in (3, 4, 7)
    )
    shares = graph.node(call, "MatMul", x, w_ih)
    if present(call, 5):
        biases = (graph.array(call, operand) for operand in call.inputs[5:7])
        shares = graph.node(call, "Add", shares, graph.node(call, "Add", *biases))
    before = [graph.fresh(f"{call.layer}/step:{word}") for word in ("h", "c", "gates")]
    with graph.inside() as nodes:
        f = Formula(graph, call, dtype)
        parts = {"num_outputs": 4} if graph.opset >= 18 else {}
        i, forget, g, o = f.split(f.add(before[2], f.mat_mul(before[0], w_hh)), outputs=4, axis=-1, **parts)
        cell = f.add(f.mul(f.sigmoid(forget), before[1]), f.mul(f.sigmoid(i), f.tanh(g)))
        hidden = f.mat_mul(f.mul(f.sigmoid(o), f.tanh(cell)), w_hr)
        after = (hidden, cell, f.identity(hidden))
    rows: tuple[int | str | None, ...] = (None, None)
    body = Body(nodes, [Port(name, dtype, rows) for name in before], [Port(name, dtype, rows) for name in after])
    backwards = [int(bool(call.get("reverse")))]
    last, memory, y = graph.node(
        call, "Scan", h, c, shares, outputs=3, body=body, num_scan_inputs=1,
        scan_input_directions=backwards, scan_output_directions=backwards,
    )  # fmt: skip
    return y, last, memory


@rule("take_rows", "put_rows")
def _packed(graph: Graph, call: Call) -> str:
    raise ExportError(f"{described(call)}: packed sequences cannot be exported: give padded ones")


def _bias(graph: Graph, call: Call, position: int, turned: Any) -> str:
    """Both biases of a direction, one behind the other."""
    first, second = call.inputs[position : position + 2]
    return graph.derived(call, first, "bias", lambda b: np.concatenate([turned(b), turned(second.value)], axis=1))
