"""A recording as a function: its source is written, line by line, and compiled. ``print(step.program)`` shows it.

Names: ``v`` arrays of the step's inputs and ops, ``s`` what an op saved for backward, ``g`` gradients, ``p`` places in the
gradient buffer, ``o`` ops, ``t`` tensors of before the step, ``c`` whatever else is fixed.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from operator import attrgetter
from typing import Any

import numpy as np

from ..backend import as_array
from ..broadcasting import unbroadcast
from ..leaf import Pending, contribute, first_write
from ..node import bindings, wrap
from ..part import Part
from .events import Called, Entered, Given, Ran, Walked
from .recorder import Recorder
from .reference import Reference

_listener = attrgetter("_listener")
LOCAL = re.compile(r"\b[vsgpkr]\d+(?:_\d+)*\b")
"""Names of what a program computes."""


def deliver(leaf: Any, gradient: Any, slot: Any) -> None:
    """All that this backward pass gives to ``leaf``; ``slot``: where it may have been written already."""
    if gradient is slot and gradient is not None and leaf._grad is None:  # the way of nearly all
        leaf._grad = bindings.make(gradient)
    elif gradient is not None:
        if leaf._grad is not None:
            if gradient.shape != leaf.array.shape:
                gradient = unbroadcast(gradient, leaf.array.shape)
            leaf._grad.array += gradient
        else:
            first_write(leaf, gradient)
    listener = leaf._listener
    if listener is not None:
        listener.gradient_final(leaf)


def beside(leaf: Any, alone: bool) -> Any:
    """Where the gradient of a lowered parameter is made: in its slot if nothing else comes for it."""
    slot = leaf._slot if alone and leaf._grad is None else None
    return np.empty_like(leaf.array) if slot is None else slot


def begin(leaves: list[Any], root: Any, weight: Any) -> list[Any]:
    """Tell the listeners that a backward pass from the array ``root`` begins; returns those who heard."""
    if list(map(_listener, leaves)) == [None] * len(leaves):
        return []
    own: dict[int, tuple[Any, list[Any]]] = {}
    for leaf in leaves:
        listener = leaf._listener
        if listener is not None:
            own.setdefault(id(listener), (listener, []))[1].append(leaf)
    begun: list[Any] = []
    loss = tensor(root, weight)
    try:
        for listener, reached in own.values():
            listener.backward_begins(reached, loss)
            begun.append(listener)
    except BaseException:
        end(begun)
        raise
    return begun


def end(begun: list[Any]) -> None:
    """Tell them that it is over."""
    for listener in begun:
        listener.backward_ends()


def added(first: Any, second: Any) -> Any:
    """The sum of two gradients of one node."""
    total = first + second
    return total if total.__class__ is Part else as_array(total)


def pending(remaining: int) -> Any:
    """A leaf that gets several contributions."""
    found = Pending()
    found.remaining = remaining
    return found


def tensor(array: Any, weight: Any) -> Any:
    """A Tensor with a weight, or none."""
    made = bindings.make(array)
    made._weight = weight
    return made


class Writer:
    """Writes what was recorded as lines of Python."""

    arguments = "inputs"

    def __init__(self, recorder: Recorder) -> None:
        self.names: dict[str, Any] = {
            "as_array": as_array, "unbroadcast": unbroadcast, "added": added, "deliver": deliver, "contribute": contribute,
            "begin": begin, "beside": beside, "end": end, "pending": pending, "tensor": tensor, "wrap": wrap,
        }  # fmt: skip
        self.lines: list[tuple[int, str]] = []
        self.depth = 1
        self._named: dict[tuple[str, int], str] = {}
        self.recorder = recorder
        self.passes = self.pass_ = 0

    def name(self, letter: str, value: Any) -> str:
        """The name under which ``value`` is known in the program."""
        key = (letter, id(value))
        found = self._named.get(key)
        if found is None:
            found = self._named[key] = f"{letter}{len(self._named)}_"
            self.names[found] = value
        return found

    def line(self, text: str) -> None:
        self.lines.append((self.depth, text))

    def text(self, reference: Reference) -> str:
        """The expression that gives what ``reference`` says."""
        kind, value = reference
        if kind in ("slot", "number"):
            return f"v{value}"
        if kind == "wrap":
            return f"wrap(v{value})"
        if kind == "array":
            return f"{self.name('t', value[0])}.array"
        if kind in ("tensor", "fixed"):
            return self.name("t", value)
        if kind == "constant":
            return self.name("c", value)
        if kind == "dict":
            return f"{{{', '.join(f'{key!r}: {self.text(item)}' for key, item in value.items())}}}"
        if kind == "list":
            return f"[{', '.join(map(self.text, value))}]"
        if kind in ("slice", "named"):
            head = "slice" if kind == "slice" else self.text(value[0])
            return f"{head}({', '.join(map(self.text, value if kind == 'slice' else value[1:]))})"
        if kind == "tuple":
            return f"({''.join(self.text(item) + ', ' for item in value)})"
        return repr(value) if type(value) in (int, bool, type(None), str) else self.name("c", value)

    # -- events ------------------------------------------------------------------------------------------------------------

    def write(self, event: Any) -> None:
        if isinstance(event, Ran):
            self.ran(event)
        elif isinstance(event, Called):
            self.called(event)
        elif isinstance(event, Walked):
            self.walked(event)
        else:
            self.entered(event)

    def ran(self, event: Ran) -> None:
        outputs = [f"v{slot}" for slot in event.outputs]
        left = f"({''.join(f'{name}, ' for name in outputs)})" if event.several else outputs[0]
        given = [self.text(item) for item in event.inputs.value]
        given += [f"{key}={self.text(item)}" for key, item in event.attributes.value.items()]
        self.line(f"{left}, s{event.number} = {self.forward(event, given)}  # {event.op.name}")
        for name, scalar in zip(outputs, event.scalars, strict=True):
            if scalar:
                self.line(f"{name} = as_array({name})")

    def forward(self, event: Ran, given: list[str]) -> str:
        return f"{self.name('o', event.op)}.forward({', '.join(given)})"

    def called(self, event: Called) -> None:
        given = [self.text(item) for item in event.args.value]
        given += [f"{key}={self.text(item)}" for key, item in event.kwargs.value.items()]
        call = f"{self.callee(event)}({', '.join(given)})  # {event.function.__qualname__}"
        if not event.results:
            self.line(call)
            return
        names = [f"v{slot}" if kind != "value" else "_" for kind, slot in event.results]
        self.line(f"{names[0] if event.form == 'single' else ''.join(f'{name}, ' for name in names)} = {call}")
        for kind, slot in event.results:
            if kind == "wrap":
                self.line(f"v{slot} = v{slot}.array")

    def callee(self, event: Called) -> str:
        return self.name("c", event.function)

    def entered(self, event: Entered) -> None:
        if event.inputs is None:
            self.line("pass")
            self.depth -= 1
        else:
            self.line(f"with {self.scope(event)}:")
            self.depth += 1

    def scope(self, event: Entered) -> str:
        inputs = ", ".join(map(self.text, event.inputs.value)) if event.inputs is not None else ""
        return f"{self.name('c', event.module)}.forward_scope({inputs})"

    def walked(self, event: Walked) -> None:
        self.pass_, self.passes = self.passes, self.passes + 1
        self.walk_begins(event)
        seed = self.text(event.seed)
        for step in event.steps:
            self.gave(step, seed)
        self.walk_ends()

    def walk_begins(self, event: Walked) -> None:
        self.line(f"r{self.pass_} = {self.beginning(event)}")
        self.line("try:")
        self.depth += 1

    def beginning(self, event: Walked) -> str:
        return f"begin({self.name('c', event.leaves)}, v{event.root}, {self.text(event.weight)})"

    def walk_ends(self) -> None:
        self.line("pass")
        self.depth -= 1
        self.line("finally:")
        self.line(f"    end(r{self.pass_})")

    def gradient(self, name: str, seed: str, kind: str = "") -> str:
        return seed if name == "seed" else f"g{self.pass_}_{name}" + (".whole()" if kind == "part" else "")

    def gave(self, step: Given, seed: str) -> None:
        assert step.ran is not None
        if step.gradient is None:
            found: list[str] = []
        else:
            slots = [self.slot(step.targets, k) for k in range(len(step.needs))]
            for k, target in enumerate(step.targets):
                if slots[k] != "None":
                    self.line(f"{slots[k]} = {self.place(target, self.name('t', target[1]))}")
            many = isinstance(step.gradient, list)
            parts = [
                None if g is None else self.gradient(g[0], seed, g[1])
                for g in (step.gradient if many else [step.gradient])
            ]
            gradient = f"({''.join(f'{part}, ' for part in parts)})" if many else parts[0]
            found = [f"p{step.ran.number}_{k}" for k in range(len(step.found))]
            used = [name if shape is not None else "_" for name, shape in zip(found, step.found, strict=True)]
            given = f"s{step.ran.number}, {gradient}, {self.name('c', step.needs)}, [{', '.join(slots)}]"
            self.line(f"{''.join(f'{name}, ' for name in used)} = {self.vjp(step.ran, given)}  # {step.ran.op.name}")
            self.places = slots
        for k, (target, gave) in enumerate(zip(step.targets, step.found, strict=False)):
            if target is None:
                continue
            value = found[k] if gave is not None else "None"
            if target[0] != "leaf":
                self.to_node(target, value, gave)
            else:
                place = self.places[k] if gave is not None else "None"
                self.to_leaf(target, value + (".whole()" if gave is not None and gave[1] else ""), place)

    def vjp(self, ran: Ran, given: str) -> str:
        return f"{self.name('o', ran.op)}.vjp({given})"

    def place(self, target: Any, leaf: str) -> str:
        return (
            f"{leaf}._slot if {leaf}._grad is None else None" if target[0] == "leaf" else f"beside({leaf}, {target[2]})"
        )

    def slot(self, targets: list[Any], k: int) -> str:
        """The place that a vjp may write input k's gradient to: where all that a leaf gets comes at once."""
        target = targets[k] if k < len(targets) else None
        if target is None or target[0] == "node" or (target[0] == "leaf" and (target[2] or target[3])):
            return "None"
        return f"k{len(self.lines)}_{k}"

    def to_node(self, target: Any, value: str, found: Any) -> None:
        name, _, before, wanted = target[-4:]
        into = self.gradient(name, "")
        if found[0] != wanted:
            value = f"unbroadcast({value}, {wanted!r})"
        if before is None:
            self.line(f"{into} = {value}")
        else:
            self.line(f"{into} += {value}" if before == "sum" else f"{into} = added({into}, {value})")

    def to_leaf(self, target: Any, value: str, place: str) -> None:
        _, leaf, before, remaining = target
        name = self.name("t", leaf)
        if not before and not remaining:
            self.line(f"deliver({name}, {value}, {place})")
            return
        if not before and value == "None":
            return
        kept = f"r{self.pass_}_{name[1:-1]}"
        if not before:
            self.line(f"{kept} = pending({remaining + 1})")
        self.line(f"contribute({name}, {kept}, {value})")


def compiled(recorder: Recorder, kind: Callable[[Recorder], Writer] = Writer) -> tuple[Any, str]:
    """The function of the input arrays that does what was recorded, and its source."""
    writer = kind(recorder)
    inputs = recorder.inputs
    writer.line(f"{''.join(f'v{n}, ' for n in range(inputs))} = inputs" if inputs else "pass")
    for event in recorder.events:
        writer.write(event)
    writer.line(f"return {result(writer, recorder.result)}")
    source = f"def replay({writer.arguments}):\n" + "\n".join(with_deletions(writer.lines)) + "\n"
    exec(compile(source, "<captured step>", "exec"), writer.names)
    return writer.names["replay"], source


def result(writer: Writer, reference: Reference) -> str:
    """What the step returns; its tensors keep their weights."""
    kind, value = reference
    if kind == "wrap" and value in writer.recorder.weights:
        return f"tensor(v{value}, {writer.text(writer.recorder.weights[value])})"
    if kind in ("tuple", "list"):
        parts = "".join(result(writer, item) + ", " for item in value)
        return f"({parts})" if kind == "tuple" else f"[{parts}]"
    if kind == "dict":
        return f"{{{', '.join(f'{key!r}: {result(writer, item)}' for key, item in value.items())}}}"
    return writer.text(reference)


def with_deletions(lines: list[tuple[int, str]], kept: frozenset[str] = frozenset()) -> list[str]:
    """Each array is let go of after its last use, as the graph does: the next one gets its memory, which is in the cache.

    Those that are ``kept`` are not.
    """
    last: dict[str, int] = {}
    for place, (_, text) in enumerate(lines):
        for name in LOCAL.findall(text.partition("  #")[0]):
            last[name] = place
    ending: dict[int, list[str]] = {}
    for name, place in last.items():
        if name not in kept and not lines[place][1].startswith(("return", "with", "    end")):
            ending.setdefault(place, []).append(name)
    written = []
    for place, (depth, text) in enumerate(lines):
        written.append("    " * depth + text)
        if place in ending:
            written.append("    " * depth + f"{' = '.join(ending[place])} = None")
    return written
