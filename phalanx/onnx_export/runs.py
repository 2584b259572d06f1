"""Forwards of a model on inputs of several sizes and values, as calls of ops that are the same in each.

What a size or a constant of a call depends on is not guessed from one forward: it is seen from how it differs between runs.
Run 0 has the caller's inputs, run 1 other values of the same shapes, each later one other sizes along the dynamic axes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from ..core.bfloat16 import is_floating
from ..core.errors import GraphError
from ..core.graph import enable_grad
from ..core.nn.module import Module
from ..core.tensor import Tensor
from ..core.trace import watched
from .errors import ExportError, StaticError
from .example import Example

Place = tuple[Any, ...]
"""Where an array came from: ("input", number), ("state", name) or (number of the call, number of its output)."""


class Seen(NamedTuple):
    """One op in one run."""

    op: str
    layer: str
    inputs: tuple[Any, ...]
    places: tuple[Place | None, ...]
    attributes: dict[str, Any]
    attribute_places: dict[str, Place]
    outputs: tuple[np.ndarray, ...]


def varies(values: Sequence[Any]) -> bool:
    """Whether a size or constant differs between runs."""
    first = values[0]
    return any(not same(first, value) for value in values[1:])


def same(first: Any, second: Any) -> bool:
    """Equal, arrays by dtype, shape and value (NaN equals itself)."""
    if isinstance(first, np.ndarray) or isinstance(second, np.ndarray):
        if not (isinstance(first, np.ndarray) and isinstance(second, np.ndarray)) or first.dtype != second.dtype:
            return False
        return np.array_equal(first, second, equal_nan=is_floating(first.dtype))
    if isinstance(first, tuple | list) and isinstance(second, tuple | list):
        return len(first) == len(second) and all(same(a, b) for a, b in zip(first, second, strict=True))
    if isinstance(first, slice) and isinstance(second, slice):
        return (first.start, first.stop, first.step) == (second.start, second.stop, second.step)
    return type(first) is type(second) and bool(first == second or (first != first and second != second))


@dataclass
class Run:
    """One forward."""

    inputs: list[np.ndarray]
    calls: list[Seen] = field(default_factory=list)
    outputs: list[np.ndarray] = field(default_factory=list)
    places: dict[int, Place] = field(default_factory=dict)
    """By the identity of an array that ``calls`` keeps alive."""


@dataclass(frozen=True)
class Operand:
    """What a call got, over all runs: an array that something made, a constant, a Python number, or None."""

    values: tuple[Any, ...]
    place: Place | None

    @property
    def value(self) -> Any:
        """That of the caller's inputs."""
        return self.values[0]

    @property
    def is_array(self) -> bool:
        return isinstance(self.value, np.ndarray)

    @property
    def sizes(self) -> list[tuple[int, ...]]:
        """Of each dimension, the size in each run."""
        return list(zip(*(np.shape(value) for value in self.values), strict=True))


@dataclass(frozen=True)
class Call:
    """One op, over all runs."""

    op: str
    layer: str
    inputs: tuple[Operand, ...]
    attributes: Mapping[str, Operand]
    outputs: tuple[Operand, ...]

    def get(self, name: str, default: Any = None) -> Any:
        """An attribute that is the same in all runs. Raises StaticError for one that is not."""
        if name not in self.attributes:
            return default
        if varies(self.attributes[name].values):
            raise StaticError(
                f"{described(self)}: {name} follows from the input's size: {self.attributes[name].values}"
            )
        return self.attributes[name].value


def run(model: Module, example: Example, arrays: Sequence[np.ndarray]) -> Run:
    """Run ``model`` on ``arrays`` in the form of the example, and note every op.

    The inputs want gradients, so that writing in place and leaving the graph are refused as they are in training.
    """
    tensors = [Tensor(array, requires_grad=is_floating(array.dtype)) for array in arrays]
    arguments, options = example.filled(tensors)
    seen = Run(list(arrays))
    state = dict(model.named_buffers()) | model.state_dict(keep_vars=True)
    for name, tensor in reversed(state.items()):
        seen.places[id(tensor.array)] = ("state", name)
    seen.places |= {id(array): ("input", number) for number, array in enumerate(arrays)}
    layers = [""]
    handles = []

    def leave(*_: Any) -> None:
        layers.pop()

    for name, module in model.named_modules():
        handles.append(module.register_forward_pre_hook(lambda *_, name=name: layers.append(name)))
        handles.append(module.register_forward_hook(leave))

    def see(op: Any, values: tuple[Any, ...], attributes: Mapping[str, Any], outputs: tuple[Any, ...]) -> None:
        places = tuple(seen.places.get(id(value)) for value in values)
        flat = spread(attributes)
        array_places = {key: seen.places[id(value)] for key, value in flat.items() if id(value) in seen.places}
        seen.calls.append(Seen(op.name, layers[-1], values, places, flat, array_places, outputs))
        for number, array in enumerate(outputs):
            seen.places[id(array)] = (len(seen.calls) - 1, number)

    try:
        with enable_grad(), watched(see):
            result = model(*arguments, **options)
    except GraphError as error:
        raise ExportError(f"the export cannot follow forward: {error}") from error
    finally:
        for handle in handles:
            handle.remove()
    seen.outputs = [tensor.array for tensor in leaves(result)]
    return seen


def spread(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Attributes by name; the arrays in a tuple also by "name.number", so that each has a place."""
    flat = dict(attributes)
    for name, value in attributes.items():
        if isinstance(value, tuple | list):
            flat |= {f"{name}.{n}": item for n, item in enumerate(value) if isinstance(item, np.ndarray)}
    return flat


def leaves(value: Any) -> list[Tensor]:
    """The tensors of a nested output, in order."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list | tuple):
        return [tensor for item in value for tensor in leaves(item)]
    if value is None or isinstance(value, bool | int | float | str):
        return []
    raise ExportError(
        f"the model returned {type(value).__name__}: tensors, or tuples, lists and dicts of them expected"
    )


def join(runs: Sequence[Run]) -> tuple[list[Call], list[Operand]]:
    """The calls and the outputs over all runs. Raises StaticError where they are not the same ops."""
    first = runs[0]
    for number, other in enumerate(runs[1:], start=1):
        differing = next(
            (c for c, (a, b) in enumerate(zip(first.calls, other.calls, strict=False)) if _kind(a) != _kind(b)), None
        )
        if differing is None and len(first.calls) != len(other.calls):
            differing = min(len(first.calls), len(other.calls)) - 1
        if differing is not None:
            call = first.calls[differing]
            what = "values" if number == 1 else "sizes"
            raise StaticError(f"with inputs of other {what} the model runs other ops, from {described(call)} on")
    calls = []
    for same in zip(*(run.calls for run in runs), strict=True):
        call = same[0]
        inputs = [Operand(values, place) for values, place in zip(zip(*(c.inputs for c in same), strict=True), call.places, strict=True)]  # fmt: skip
        outputs = [Operand(values, None) for values in zip(*(c.outputs for c in same), strict=True)]
        attributes = {
            key: Operand(tuple(c.attributes[key] for c in same), call.attribute_places.get(key))
            for key in call.attributes
        }
        calls.append(Call(call.op, call.layer, tuple(inputs), attributes, tuple(outputs)))
    if len({len(run.outputs) for run in runs}) > 1:
        raise StaticError("with inputs of other sizes the model returns another number of tensors")
    ends = []
    for values in zip(*(run.outputs for run in runs), strict=True):
        places = {run.places.get(id(value)) for run, value in zip(runs, values, strict=True)}
        if len(places) > 1:
            raise StaticError("with inputs of other sizes the model returns what another op made")
        ends.append(Operand(values, places.pop()))
    return calls, ends


def _kind(call: Seen) -> Any:
    """What must be equal in all runs: the op, what made its inputs, and how many there are."""
    counts = len(call.inputs), len(call.outputs)
    return call.op, call.layer, counts, call.places, sorted(call.attribute_places.items()), sorted(call.attributes)


def described(call: Seen | Call) -> str:
    """For messages: the op and its layer."""
    return f"op {call.op!r} of layer {call.layer!r}" if call.layer else f"op {call.op!r} of the model itself"
