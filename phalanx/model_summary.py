"""``phalanx.summary``: a model's layers, shapes and parameters, what they cost a rank in memory and on the wire."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .core import rng
from .core.backend import as_dtype, is_array, to_device
from .core.bfloat16 import is_floating
from .core.cuda import get_device_name, mem_get_info
from .core.errors import RangeError
from .core.graph import no_grad
from .core.nn import statistics
from .core.nn.module import Module
from .core.optim.optimizer import Optimizer
from .core.tensor import Tensor
from .model_memory import of_passes, tensors_in

_WIDEST = 44
"""Characters of a column; what is longer ends with an ellipsis."""


@dataclass(frozen=True)
class Row:
    """One layer: its place in the tree, what it gave for the example, and the parameters that are its own (or below, at ``depth``)."""

    depth: int
    name: str
    kind: str
    shapes: tuple[tuple[int, ...], ...]
    parameters: int
    frozen: int
    note: str = ""
    """What is special: parameters that are frozen, or tied to ones that were counted above; several calls."""


@dataclass(frozen=True)
class Summary:
    """What :func:`summary` returns: printed, a table; its numbers are attributes.

    ``nbytes`` are of one rank; ``reduced_nbytes`` are summed over ranks in each step. ``plan`` says how, for a DataParallel.

    >>> found = phalanx.summary(nn.Linear(3, 2))
    >>> found.parameters, found.trainable, found.parameter_nbytes
    (8, 8, 32)
    """

    title: str
    rows: tuple[Row, ...]
    parameters: int
    trainable: int
    buffers: int
    parameter_nbytes: int
    buffer_nbytes: int
    gradient_nbytes: int
    optimizer_nbytes: int | None
    reduced_nbytes: int
    plan: str
    place: str = ""
    """Which GPU the parameters are on, and what is free there; "" on the CPU."""
    passing_nbytes: int | None = None
    """The most that activations and temporary arrays take at once in a step on the example; None where it was not measured."""
    refused: str = ""
    """Why it could not be measured: what the model says to the example in training mode."""

    @property
    def peak_nbytes(self) -> int | None:
        """The most that a step on the example holds at once: the model, gradients, the optimizer's state, and ``passing_nbytes``."""
        if self.passing_nbytes is None:
            return None
        model = self.parameter_nbytes + self.buffer_nbytes + self.gradient_nbytes
        return model + (self.optimizer_nbytes or 0) + self.passing_nbytes

    def __str__(self) -> str:
        return "\n".join([*_table(self), *self._words()])

    __repr__ = __str__

    def _words(self) -> Iterator[str]:
        frozen = self.parameters - self.trainable
        yield (
            f" Parameters: {self.parameters:,} ({_size(self.parameter_nbytes)}), trained: {self.trainable:,}, frozen: {frozen:,}"
        )
        if self.buffers:
            yield f" Buffers: {self.buffers:,} ({_size(self.buffer_nbytes)})"
        parts = [f"parameters {_size(self.parameter_nbytes)}", f"gradients {_size(self.gradient_nbytes)}"]
        if self.optimizer_nbytes is not None:
            parts.append(f"optimizer state {_size(self.optimizer_nbytes)}")
        yield f" Memory of a rank{self.place}: {', '.join(parts)}"
        if self.passing_nbytes is not None:
            yield (
                f" Peak memory of a step on the example: {_size(self.peak_nbytes or 0)}, of which activations and temporary "
                f"arrays {_size(self.passing_nbytes)}"
            )
        if self.refused:
            yield f" Peak memory of a step: not known, in training mode the model refuses the example: {self.refused}"
        yield f" Gradients summed over ranks in each step: {_size(self.reduced_nbytes)}{self.plan}"


def summary(
    model: Module,
    input_shape_or_example: Any = None,
    *,
    optimizer: Optimizer | None = None,
    depth: int | None = None,
    dtype: Any = None,
) -> Summary:
    """The layers of ``model`` as a table: ``print(phalanx.summary(model, (1, 3, 32, 32)))``.

    Args:
        input_shape_or_example: a shape with its batch dimension, a list of them, or the input itself (a tuple of several, a dict of keyword
            arguments). With it the model is run once, in evaluation mode and without a trace. Without, the shapes are left out.
        optimizer: counts its state. With an example on the CPU, forward and backward are then run twice in training mode (the model, its
            gradients and the optimizer stay as they are) to find the peak of a step's memory: arrays, without the loss, the example
            itself, and what sums over ranks need.
        depth: show so many levels, and add what is below to the lowest.
        dtype: of an input that is given by its shape; the model's own if not given, ``phalanx.int64`` for an Embedding.

    A DataParallel is shown by its module; the last line tells the buckets, shards and ranks of its sums. Sizes are in bytes, K = 1024.

    >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> print(phalanx.summary(model, (1, 4)))
    Sequential
    ┌──────────────┬──────────────┬────────────┐
    │ Layer (type) │ Output shape │ Parameters │
    ├──────────────┼──────────────┼────────────┤
    │ 0 (Linear)   │ (1, 8)       │         40 │
    │ 1 (ReLU)     │ (1, 8)       │            │
    │ 2 (Linear)   │ (1, 2)       │         18 │
    └──────────────┴──────────────┴────────────┘
     Parameters: 58 (232 B), trained: 58, frozen: 0
     Memory of a rank: parameters 232 B, gradients 232 B
     Gradients summed over ranks in each step: 232 B
    """
    if not isinstance(model, Module):
        raise TypeError(f"summary expects a Module, got {type(model).__name__}")
    if depth is not None and depth < 1:
        raise RangeError(f"summary: depth is at least 1, got {depth}")
    reducer = model.__dict__.get("reducer")  # a DataParallel's; it is not imported, because numbers suffice here
    inner: Module = model if reducer is None else model.__dict__["module"]
    shapes: dict[Module, list[tuple[tuple[int, ...], ...]]] = {}
    passing: int | str | None = None
    parameters = list(inner.parameters())
    if input_shape_or_example is not None:
        example = _example(inner, input_shape_or_example, dtype)
        shapes = _shapes(inner, *example)
        if optimizer is not None and all(p.device.type == "cpu" for p in parameters):
            passing = of_passes(inner, *example)
    trainable = [p for p in parameters if p.requires_grad]
    buffers = [buffer.array for buffer in inner.buffers()]
    zero = None if reducer is None else reducer.zero
    spread = zero is not None and zero.gradients
    return Summary(
        title=type(inner).__name__,
        rows=tuple(_rows(inner, shapes, depth)),
        parameters=sum(p.array.size for p in parameters),
        trainable=sum(p.array.size for p in trainable),
        buffers=sum(array.size for array in buffers),
        parameter_nbytes=sum(p.array.nbytes for p in parameters),
        buffer_nbytes=sum(array.nbytes for array in buffers),
        gradient_nbytes=sum(_held(p, spread) for p in trainable),
        optimizer_nbytes=None if optimizer is None else _state_nbytes(optimizer, zero is not None),
        reduced_nbytes=sum(
            p.array.size * max(4, p.array.itemsize) for p in trainable
        ),  # half precision is summed in float32
        plan="" if reducer is None else _plan(reducer),
        place=_place(parameters),
        passing_nbytes=passing if isinstance(passing, int) else None,
        refused=passing if isinstance(passing, str) else "",
    )


# ---- numbers -------------------------------------------------------------------------------------------------------------


def _held(parameter: Any, spread: bool) -> int:
    """Bytes of a parameter, or of what this rank owns of it, in a store that is spread over ranks."""
    store = parameter._store
    if not spread or store is None:
        return parameter.array.nbytes
    lo, hi = store.clip(*store.extent(parameter._index))
    return (hi - lo) * parameter.array.itemsize


def _state_nbytes(optimizer: Optimizer, spread: bool) -> int:
    return sum(
        len(optimizer.state_names(group)) * _held(p, spread)
        for group in optimizer.param_groups
        for p in group["params"]
        if p.requires_grad
    )


def _plan(reducer: Any) -> str:
    group = reducer.group
    if reducer.trivial:
        return "; alone and without shards nothing travels"
    lo, hi = reducer.owned
    ranks = "1 rank" if group.size == 1 else f"{group.size} ranks"
    shards = f"{reducer.shards} shards on {ranks}" if reducer.with_shards else f"{ranks}, each one shard"
    own = f", rank {group.rank} owns {_range(lo, hi)}" if reducer.with_shards else ""
    mode = "" if reducer.zero is None else f', shard="{reducer.zero.mode}"'
    count = len(reducer.fold.labels)
    return f"; {count} bucket{'s' * (count != 1)}, {shards}{own}{mode}"


def _place(parameters: Sequence[Any]) -> str:
    device = next((p.device for p in parameters if p.device.type == "cuda"), None)
    if device is None:
        return ""
    free, total = mem_get_info(device)
    return f" on {device} ({get_device_name(device)}, {_size(free)} of {_size(total)} free)"


def _range(lo: int, hi: int) -> str:
    return "none" if lo == hi else f"{lo}" if hi == lo + 1 else f"{lo} to {hi - 1}"


def _rows(model: Module, shapes: dict[Module, Any], depth: int | None) -> Iterator[Row]:
    counted: set[int] = set()
    for path, module in model.named_modules():
        level = path.count(".") + 1 if path else 0
        if depth is not None and level > depth:
            continue
        own = [p for _, p in module.named_parameters(recurse=level == depth)]
        new = [p for p in own if id(p) not in counted]
        counted.update(map(id, new))
        calls = shapes.get(module, [])
        if not path and module._module_names and not own:
            continue  # the title says it
        count, frozen = sum(p.array.size for p in new), sum(p.array.size for p in new if not p.requires_grad)
        notes = ["frozen" if frozen == count else "partly frozen"] * (frozen > 0)
        notes += ["tied"] * (len(new) < len(own)) + [f"called {len(calls)} times"] * (len(calls) > 1)
        yield Row(
            max(level - 1, 0),
            path.rpartition(".")[2],
            type(module).__name__,
            calls[-1] if calls else (),
            count,
            frozen,
            ", ".join(notes),
        )


# ---- shapes --------------------------------------------------------------------------------------------------------------


def _is_shape(value: Any) -> bool:
    return isinstance(value, (tuple, list)) and all(isinstance(n, (int, np.integer)) for n in value)


def _example(model: Module, given: Any, dtype: Any) -> tuple[tuple[Any, ...], Mapping[str, Any]]:
    """Positional and keyword arguments for one forward."""
    first = next((p for p in model.parameters() if is_floating(p.array.dtype)), None)
    kind = as_dtype(dtype or (np.float32 if first is None else first.array.dtype))
    device = None if first is None else first.device

    def made(value: Any) -> Any:
        if _is_shape(value):
            return Tensor(to_device(np.zeros(value, kind), device))
        return Tensor(to_device(value, device)) if is_array(value) else value

    if isinstance(given, Mapping):
        return (), {name: made(value) for name, value in given.items()}
    if isinstance(given, (tuple, list)) and not _is_shape(given):
        return tuple(made(value) for value in given), {}
    return (made(given),), {}


def _shapes(model: Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[Module, Any]:
    """For each module the shapes of its outputs, call by call; the model is left as it was."""
    found: dict[Module, list[Any]] = {}

    def note(module: Module, inputs: Any, output: Any) -> None:
        found.setdefault(module, []).append(tuple(tuple(y.shape) for y in tensors_in(output)))

    before = [(module, module.training) for module in model.modules()]
    handles = [module.register_forward_hook(note) for module, _ in before]
    try:
        model.eval()
        with no_grad(), statistics.discard(), rng.own_stream(0):
            model(*args, **kwargs)
    finally:
        for handle in handles:
            handle.remove()
        for module, training in before:
            module.training = training
    return found


# ---- words ---------------------------------------------------------------------------------------------------------------


def _size(nbytes: float) -> str:
    """1024 bytes are a KB.

    >>> _size(232), _size(17_000_000)
    ('232 B', '16.2 MB')
    """
    for unit in ("B", "KB", "MB", "GB"):
        if nbytes < 1024:
            return f"{nbytes:.0f} {unit}" if unit == "B" else f"{nbytes:.1f} {unit}"
        nbytes /= 1024
    return f"{nbytes:.1f} TB"


def _short(text: str) -> str:
    return text if len(text) <= _WIDEST else text[: _WIDEST - 1] + "…"


def _table(found: Summary) -> Iterator[str]:
    cells = [("Layer (type)", "Output shape", "Parameters", "Note")]
    for row in found.rows:
        name = f"{row.name} ({row.kind})" if row.name else row.kind
        shapes = ", ".join(str(shape) for shape in row.shapes)
        count = f"{row.parameters:,}" if row.parameters else ""
        cells.append((_short("  " * row.depth + name), _short(shapes), count, row.note))
    shown = [column for column in range(4) if column in (0, 2) or any(line[column] for line in cells[1:])]
    widths = [max(len(line[column]) for line in cells) for column in range(4)]

    def rule(left: str, middle: str, right: str) -> str:
        return left + middle.join("─" * (widths[column] + 2) for column in shown) + right

    yield found.title
    yield rule("┌", "┬", "┐")
    for number, line in enumerate(cells):
        numeric = 2 if number else None
        padded = [line[c].rjust(widths[c]) if c == numeric else line[c].ljust(widths[c]) for c in shown]
        yield "│ " + " │ ".join(padded) + " │"
        if not number:
            yield rule("├", "┼", "┤")
    yield rule("└", "┴", "┘")
