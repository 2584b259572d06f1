"""``phalanx.onnx.export``: one forward in evaluation mode, as an ONNX file."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..core.backend import device_kind
from ..core.errors import RangeError
from ..core.nn.module import Module
from ..dist.data_parallel import DataParallel
from ..dist.evaluation import evaluating
from . import rules as rules
from .errors import ExportError, StaticError
from .example import Example
from .graph import Graph
from .judge import Judge
from .proto import Body, Node, Page, Port, package, write
from .rule import RULES
from .runs import Call, Operand, Run, described, join, varies
from .sizes import Axes, Symbols, find_symbols, make_runs

LOWEST_OPSET, HIGHEST_OPSET = 17, 23


def export(
    model: Module,
    args: Any,
    f: str | os.PathLike[str],
    *,
    kwargs: Mapping[str, Any] | None = None,
    export_params: bool = True,
    verbose: bool | None = None,
    input_names: Sequence[str] | None = None,
    output_names: Sequence[str] | None = None,
    opset_version: int | None = None,
    do_constant_folding: bool = True,
    dynamic_axes: Axes | None = None,
    dynamo: bool | None = None,
    external_data: bool | None = None,
    verify: bool | None = None,
) -> None:
    """Write ``model`` as an ONNX file, with parameters under their state-dict names, by running it once on ``args``.

    The file appears when onnx's checker and, where it is installed, onnxruntime have passed it: with several inputs, some of
    other sizes, it must give the model's outputs. A model above 1.9 GB has its weights beside it in ``f`` + ".data".

    Args:
        args: the example input, or a tuple of the arguments of forward: Tensors, arrays, None, numbers. Sizes and values
            are free but for what the model checks.
        f: path of the file.
        kwargs: more arguments of forward, by name.
        input_names, output_names: of the graph; the names of forward's arguments, and "output" (or "output_0", ...).
        dynamic_axes: input's name -> {dimension: name}, as PyTorch takes it. None: dimension 0 of all inputs is "batch"
            where the model allows it, and a line on stderr says so where it does not; {}: every size is fixed.
        opset_version: 17 (the default) to 23.
        external_data: weights in a file of their own; None: only where they must be.
        verify: compare with onnxruntime; None: if it is installed.
        export_params, do_constant_folding: always so; verbose, dynamo: without meaning here. For scripts that give them.

    Raises ExportError that names op and layer for what ONNX cannot express.

    >>> import os, tempfile
    >>> path = os.path.join(tempfile.mkdtemp(), "model.onnx")
    >>> phalanx.onnx.export(nn.Linear(3, 2), phalanx.ones(1, 3), path)
    >>> os.path.exists(path)
    True
    """
    model, opset_version = _checked(model, opset_version, export_params)
    example = Example(args if isinstance(args, tuple | list) else (args,), kwargs or {})
    names = example.names(model, input_names)
    symbols = find_symbols(names, example.arrays, dynamic_axes)
    with evaluating(model):
        try:
            graph, runs, outputs = _graph(model, example, names, output_names, symbols, opset_version)
        except StaticError as error:
            if dynamic_axes is not None or not symbols:
                raise
            print(f"phalanx: {f}: the batch size is fixed: {error}", file=sys.stderr)
            symbols = {}
            graph, runs, outputs = _graph(model, example, names, output_names, symbols, opset_version)
    _drop_unused(graph, {port.name for port in outputs})
    page = Page(graph.nodes, graph.tensors, _inputs(names, example.arrays, symbols), outputs, opset_version)
    write(page, Path(f), external_data, None if verify is False else Judge(names, runs, strict=verify is True))


def _checked(model: Module, opset: int | None, export_params: bool) -> tuple[Module, int]:
    """The model without its DataParallel, and the opset. Raises RangeError or ExportError for what cannot be."""
    package()
    opset = LOWEST_OPSET if opset is None else opset
    if not export_params:
        raise RangeError("export: export_params=False is not known: the parameters are part of the file")
    if not LOWEST_OPSET <= opset <= HIGHEST_OPSET:
        raise RangeError(f"export: opset_version is {LOWEST_OPSET} to {HIGHEST_OPSET}, got {opset}")
    if isinstance(model, DataParallel):
        model = model.module
    if any(device_kind(tensor.array) != "cpu" for tensor in (*model.parameters(), *model.buffers())):
        raise ExportError("export: the model is on a GPU: call model.cpu() first")
    return model, opset


def _inputs(names: Sequence[str], arrays: Sequence[np.ndarray], symbols: Symbols) -> list[Port]:
    by_place = {place: symbol for symbol, places in symbols.items() for place in places}
    return [
        Port(name, array.dtype, tuple(by_place.get((n, axis), size) for axis, size in enumerate(array.shape)))
        for n, (name, array) in enumerate(zip(names, arrays, strict=True))
    ]


# ---- the graph


def _graph(
    model: Module,
    example: Example,
    names: Sequence[str],
    output_names: Sequence[str] | None,
    symbols: Symbols,
    opset: int,
) -> tuple[Graph, list[Run], list[Port]]:
    """The graph, the runs that it was made from, and its outputs. Raises StaticError where a size does not follow."""
    runs, columns = make_runs(model, example, symbols)
    calls, ends = join(runs)
    graph = Graph(opset, {column: (names[symbols[s][0][0]], symbols[s][0][1]) for s, column in columns.items()})
    for n, name in enumerate(names):
        graph.names["input", n] = graph.fresh(name)
    state = dict(model.named_buffers()) | model.state_dict(keep_vars=True)
    graph.constants |= {("state", name): tensor.array for name, tensor in state.items()}
    for number, call in enumerate(calls):
        places = [(number, n) for n in range(len(call.outputs))]
        if _is_constant(graph, call):
            graph.constants.update(zip(places, (output.value for output in call.outputs), strict=True))
            continue
        if call.op not in RULES:
            raise ExportError(f"ONNX export knows no rule for {described(call)}")
        made = RULES[call.op](graph, call)
        for place, name in zip(places, made if isinstance(made, tuple) else (made,), strict=True):
            if name is not None:
                graph.names[place] = name
    return graph, runs, _outputs(graph, ends, output_names, symbols)


def _is_constant(graph: Graph, call: Call) -> bool:
    """Whether no input of the model changes what the call gives."""
    if any(varies(output.values) for output in call.outputs):
        return False
    return all(
        operand.place in graph.constants if operand.place is not None else not varies(operand.values)
        for operand in (*call.inputs, *call.attributes.values())
    )


def _outputs(graph: Graph, ends: Sequence[Operand], given: Any, symbols: Symbols) -> list[Port]:
    """The graph's outputs under their names, each made by a node of its own."""
    names = (
        list(given)
        if given is not None
        else ["output"]
        if len(ends) == 1
        else [f"output_{n}" for n in range(len(ends))]
    )
    if len(names) != len(ends) or len(set(names)) < len(names):
        raise RangeError(f"export: {len(ends)} different output_names expected, got {names}")
    words = dict(zip(graph.symbols, symbols, strict=True))
    last = Call("output", "", (), {}, ())
    ports = []
    for name, end in zip(names, ends, strict=True):
        if graph.fresh(name) != name:
            raise RangeError(f"export: output name {name!r} is taken by an input or a parameter")
        source = graph.array(last, end)
        graph.nodes.append(Node("Identity", graph.fresh(f"{name}/Identity"), (source,), (name,), {}))
        shape = tuple(size[0] if not varies(size) else words.get(size) for size in end.sizes)
        ports.append(Port(name, end.value.dtype, shape))
    return ports


def _drop_unused(graph: Graph, outputs: set[str]) -> None:
    """Leave out nodes and tensors that lead to no output."""
    used = set(outputs)
    kept = []
    for node in reversed(graph.nodes):
        if used.intersection(node.outputs):
            used.update(node.inputs)
            for body in node.attributes.values():
                if isinstance(body, Body):
                    used.update(name for inner in body.nodes for name in inner.inputs)
            kept.append(node)
    graph.nodes = kept[::-1]
    graph.tensors = {name: array for name, array in graph.tensors.items() if name in used}
