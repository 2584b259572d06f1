"""Graphs of layers: the order of their calls, and their form as plain data."""

from __future__ import annotations

from typing import Any

from ..core.errors import StateError
from . import nest
from .layers.dense import InputLayer
from .symbolic import KerasTensor, Node


def order_of(inputs: Any, outputs: Any) -> list[Node]:
    """The calls between inputs and outputs, each after those that it needs."""
    begins, order, seen = {id(tensor) for tensor in nest.flat(inputs)}, list[Node](), set[int]()
    waiting: list[tuple[Any, bool]] = [(tensor, False) for tensor in reversed(nest.flat(outputs))]
    while waiting:
        tensor, ready = waiting.pop()
        if id(tensor) in begins:
            continue
        node = tensor.node
        if node is None:
            raise ValueError(
                f"the outputs need {tensor.name!r} {tensor.shape}, which is not among the inputs of the model"
            )
        if ready:
            order.append(node)
        elif id(node) not in seen:
            seen.add(id(node))
            waiting.append((tensor, True))
            waiting += [(needed, False) for needed in reversed(node.inputs)]
    return order


def graph_of(model: Any) -> dict[str, Any]:
    """Layers, calls and places as plain data; a place is {"tensor": [number of the call, number of the output]}, inputs are call -1."""
    order: list[Node] = model.__dict__["_order"]
    layers: list[Any] = []
    for node in order:
        if not any(node.layer is known for known in layers):
            layers.append(node.layer)
    place: dict[int, list[int]] = {id(tensor): [-1, number] for number, tensor in enumerate(model.inputs)}
    for number, node in enumerate(order):
        place |= {id(t): [number, index] for index, t in enumerate(nest.flat(node.outputs)) if id(t) not in place}

    def word(leaf: Any) -> Any:
        if isinstance(leaf, KerasTensor):
            return {"tensor": place[id(leaf)]}
        if isinstance(leaf, slice):
            return {"slice": [leaf.start, leaf.stop, leaf.step]}
        return {"ellipsis": []} if leaf is Ellipsis else leaf

    begins = [
        {"shape": list(t.shape[1:]), "dtype": t.dtype, "name": t.name} if t.layer is not None else None
        for t in model.inputs
    ]
    if None in begins:
        raise StateError(f"{model.name} begins in the middle of another graph: it cannot be saved, save_weights can")
    calls = [
        [next(n for n, layer in enumerate(layers) if layer is node.layer), *nest.changed(list(node.arguments), word)]
        for node in order
    ]
    ends = nest.changed(model.output, word)
    return {
        "inputs": begins,
        "several": not isinstance(model.input, KerasTensor),
        "layers": layers,
        "calls": calls,
        "outputs": ends,
    }


def from_graph(graph: dict[str, Any]) -> tuple[Any, Any]:
    begins = [InputLayer(tuple(row["shape"]), dtype=row["dtype"], name=row["name"]).output for row in graph["inputs"]]
    made: list[list[Any]] = []

    def tensors(form: Any) -> Any:
        if isinstance(form, dict) and form.keys() == {"tensor"}:
            call, number = form["tensor"]
            return begins[number] if call < 0 else made[call][number]
        if isinstance(form, dict) and form.keys() == {"slice"}:
            return slice(*form["slice"])
        if isinstance(form, dict) and form.keys() == {"ellipsis"}:
            return Ellipsis
        if isinstance(form, dict):
            return {key: tensors(part) for key, part in form.items()}
        return type(form)(tensors(part) for part in form) if isinstance(form, list | tuple) else form

    for number, args, kwargs in graph["calls"]:
        made.append(nest.flat(graph["layers"][number](*tensors(args), **tensors(kwargs))))
    return (begins if graph["several"] else begins[0]), tensors(graph["outputs"])
