"""``phalanx.onnx.export``: one forward in evaluation mode, as an ONNX file."""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..core.backend import device_kind, to_host
from ..core.errors import RangeError
from ..core.nn.module import Module
from ..core.tensor import Tensor
from ..dist.data_parallel import DataParallel
from . import rules as rules
from .errors import ExportError, StaticError
from .graph import Graph, Sizes
from .judge import Judge
from .proto import Node, Page, Port, package, write
from .rule import RULES
from .runs import Call, Operand, Run, described, join, run, varies

LOWEST_OPSET, HIGHEST_OPSET = 17, 23
Axes = Mapping[str, Mapping[int, str] | Sequence[int]]
_Symbols = dict[str, list[tuple[int, int]]]
"""The name of a dynamic axis -> the inputs and dimensions that have it."""


def export(
    model: Module,
    args: Any,
    f: str | os.PathLike[str],
    *,
    kwargs: Mapping[str, Any] | None = None,
    input_names: Sequence[str] | None = None,
    output_names: Sequence[str] | None = None,
    dynamic_axes: Axes | None = None,
    opset_version: int = 17,
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
        opset_version: 17 to 23.
        external_data: weights in a file of their own; None: only where they must be.
        verify: compare with onnxruntime; None: if it is installed.

    Raises ExportError that names op and layer for what ONNX cannot express.

    >>> import os, tempfile
    >>> path = os.path.join(tempfile.mkdtemp(), "model.onnx")
    >>> phalanx.onnx.export(nn.Linear(3, 2), phalanx.ones(1, 3), path)
    >>> os.path.exists(path)
    True
    """
    package()
    if not LOWEST_OPSET <= opset_version <= HIGHEST_OPSET:
        raise RangeError(f"export: opset_version is {LOWEST_OPSET} to {HIGHEST_OPSET}, got {opset_version}")
    if isinstance(model, DataParallel):
        model = model.module
    if any(device_kind(tensor.array) != "cpu" for tensor in (*model.parameters(), *model.buffers())):
        raise ExportError("export: the model is on a GPU: call model.cpu() first")
    arguments = tuple(_array(value) for value in (args if isinstance(args, tuple | list) else (args,)))
    options = {key: _array(value) for key, value in (kwargs or {}).items()}
    inputs = [value for value in (*arguments, *options.values()) if isinstance(value, np.ndarray)]
    names = _input_names(model, arguments, options, input_names)
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        symbols = _symbols(names, inputs, dynamic_axes)
        try:
            graph, runs, ends = _graph(model, arguments, options, names, symbols, opset_version)
        except StaticError as error:
            if dynamic_axes is not None or not symbols:
                raise
            print(f"phalanx: {f}: the batch size is fixed: {error}", file=sys.stderr)
            symbols = {}
            graph, runs, ends = _graph(model, arguments, options, names, symbols, opset_version)
    finally:
        for module in training:
            module.training = True
    by_place = {(n, axis): name for name, places in symbols.items() for n, axis in places}
    ports = [
        Port(name, value.dtype, tuple(by_place.get((n, axis), size) for axis, size in enumerate(value.shape)))
        for n, (name, value) in enumerate(zip(names, inputs, strict=True))
    ]
    outputs = _outputs(graph, ends, output_names, symbols)
    _drop_unused(graph, {port.name for port in outputs})
    page = Page(graph.nodes, graph.tensors, ports, outputs, opset_version)
    write(page, Path(f), external_data, None if verify is False else Judge(names, runs, strict=verify is True))


def _array(value: Any) -> Any:
    if isinstance(value, Tensor):
        value = value.array
    if isinstance(value, np.ndarray) or value is None or isinstance(value, bool | int | float | str | tuple | list):
        return value.copy() if isinstance(value, np.ndarray) else value
    return np.array(to_host(value))


def _input_names(model: Module, arguments: Sequence[Any], options: Mapping[str, Any], given: Any) -> list[str]:
    """Names of the arrays among the arguments."""
    parameters = list(inspect.signature(model.forward).parameters.values())
    words = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    words += [f"input_{n}" for n in range(len(words), len(arguments))]
    names = [word for word, value in zip(words, arguments, strict=False) if isinstance(value, np.ndarray)]
    names += [key for key, value in options.items() if isinstance(value, np.ndarray)]
    if given is None:
        return names
    if len(given) != len(names) or len(set(given)) < len(given):
        raise RangeError(
            f"export: {len(names)} different input_names expected (for {', '.join(names)}), got {list(given)}"
        )
    return list(given)


def _symbols(names: Sequence[str], inputs: Sequence[np.ndarray], axes: Axes | None) -> _Symbols:
    symbols: _Symbols = {}
    if axes is None:
        places = [(n, 0) for n, value in enumerate(inputs) if value.ndim]
        sizes = {inputs[n].shape[0] for n, _ in places}
        return {"batch": places} if len(sizes) == 1 else {}
    for name, dimensions in axes.items():
        if name not in names:
            continue  # an output's axes follow from the inputs'
        n = names.index(name)
        rows = dimensions if isinstance(dimensions, Mapping) else {axis: f"{name}_{axis}" for axis in dimensions}
        for axis, symbol in rows.items():
            if not -inputs[n].ndim <= axis < inputs[n].ndim:
                raise RangeError(
                    f"export: dynamic_axes names dimension {axis} of {name}, whose shape is {inputs[n].shape}"
                )
            symbols.setdefault(symbol, []).append((n, axis % inputs[n].ndim))
    for symbol, places in symbols.items():
        if len({inputs[n].shape[axis] for n, axis in places}) > 1:
            raise RangeError(f"export: the axes called {symbol!r} have different sizes in args")
    return symbols


# ---- the runs


def _other_values(value: Any) -> Any:
    """Like ``value``, but with other numbers in another order: what depends on them shows. Integers stay within their range."""
    if not isinstance(value, np.ndarray) or not value.size:
        return value
    turned = np.roll(value.reshape(-1)[::-1], 1).reshape(value.shape)
    if value.dtype.kind == "f":
        return np.where(np.isfinite(turned), turned * value.dtype.type(0.75) + value.dtype.type(0.1), turned)
    return turned


def _resized(values: Sequence[Any], places: Sequence[tuple[int, int]], size: int) -> list[Any]:
    """The arguments with other sizes along some axes; ``places`` count arrays only."""
    resized, n = [], -1
    for value in values:
        if isinstance(value, np.ndarray):
            n += 1
            for axis in (axis for number, axis in places if number == n):
                value = np.take(value, np.arange(size) % max(1, value.shape[axis]), axis)
        resized.append(value)
    return resized


def _runs(model: Module, arguments: Sequence[Any], options: Mapping[str, Any], symbols: _Symbols) -> tuple[list[Run], dict[str, Sizes]]:  # fmt: skip
    """Run 0 as given, run 1 with other values, one for each symbol with another size, one with all of these."""
    keys = list(options)

    def go(values: Sequence[Any]) -> Run:
        return run(model, values[: len(arguments)], dict(zip(keys, values[len(arguments) :], strict=True)))

    base = [*arguments, *options.values()]
    runs = [go(base), go([_other_values(value) for value in base])]
    arrays = [value for value in base if isinstance(value, np.ndarray)]
    chosen: dict[str, tuple[int, int]] = {}
    everything = list(base)
    for symbol, places in symbols.items():
        n, axis = places[0]
        old = arrays[n].shape[axis]
        failure: Exception | None = None
        for size in (2 * old, old + 1, old - 1):
            try:
                if size > 0 and size != old:
                    runs.append(go(_resized(base, places, size)))
                    break
            except Exception as error:  # whatever the model says of a size that it does not take
                failure = error
        else:
            raise StaticError(f"the model takes no other size of {symbol!r} than {old} ({failure})")
        chosen[symbol] = (old, size)
        everything = _resized(everything, places, size)
    if len(symbols) > 1:
        runs.append(go(everything))
    columns = {}
    for number, (symbol, (old, new)) in enumerate(chosen.items()):
        changed = [new if other == number else old for other in range(len(symbols))]
        columns[symbol] = (old, old, *changed, *([new] if len(symbols) > 1 else []))
    return runs, columns


# ---- the graph


def _graph(
    model: Module,
    arguments: Sequence[Any],
    options: Mapping[str, Any],
    names: Sequence[str],
    symbols: _Symbols,
    opset: int,
) -> tuple[Graph, list[Run], list[Operand]]:
    runs, columns = _runs(model, arguments, options, symbols)
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
    return graph, runs, ends


def _is_constant(graph: Graph, call: Call) -> bool:
    """Whether no input of the model changes what the call gives."""
    if any(varies(output.values) for output in call.outputs):
        return False
    return all(
        operand.place in graph.constants if operand.place is not None else not varies(operand.values)
        for operand in (*call.inputs, *call.attributes.values())
    )


def _outputs(graph: Graph, ends: Sequence[Operand], given: Any, symbols: _Symbols) -> list[Port]:
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
            kept.append(node)
    graph.nodes = kept[::-1]
    graph.tensors = {name: array for name, array in graph.tensors.items() if name in used}
