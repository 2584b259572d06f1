"""Records what one call of a step does; :mod:`.watch` tells it, :mod:`.program` turns it into a function."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from .. import graph, rng
from ..backend import device_kind, is_array
from ..kernels.bound import shapes_of
from ..live import now
from ..node import Node, Variable
from ..ops.lower import LOWER
from ..part import Part
from .events import Called, Entered, Given, Ran, Walked
from .reference import DifferentError, Reference, merged
from .traced import Slotted, StandIn, plain, slotted, traced

_NUMBERS = (int, float, bool, str, bytes, type(None))
NOTHING = Reference("value", None)


class Recorder:
    """One recording. ``inputs``: the arrays of the step's arguments, which are slots 0, 1, ..."""

    def __init__(self, inputs: Sequence[Any]) -> None:
        self.inputs = len(inputs)
        self.events: list[Any] = []
        self.modules: dict[int, Any] = {}
        self.leaves: dict[int, Any] = {}
        """Tensors of before that the step uses."""
        self.reasons: list[str] = []
        self.quiet = 0
        """Above 0 what happens is part of a live call or of backward."""
        self.on_device = False
        """Whether ops gave arrays on a GPU."""
        self.result = NOTHING
        self.weights: dict[int, Reference] = {}
        """Of the tensors that the step returns, by slot."""
        self._slots: dict[int, int] = {}
        self._tensors: dict[int, Any] = {}
        self._kept: list[Any] = []  # what lives cannot have another one's id
        self._count = 0
        self._nodes: dict[Node, Ran] = {}
        self._last: tuple[Ran, Any] | None = None
        self._walk: list[Any] | None = None
        """What the vjps of the running backward pass gave."""
        self._walked: set[Node] = set()
        for array in inputs:
            self._slot(array)
        self._draws = self._random()

    # -- what is told ------------------------------------------------------------------------------------------------

    def refuse(self, reason: str) -> None:
        """The step cannot be replayed."""
        if reason not in self.reasons:
            self.reasons.append(reason)

    def read(self, tensor: Any, array: Any, by_engine: bool) -> Any:
        """Somebody asks for the array of ``tensor``."""
        if self.quiet:
            return array
        array = plain(array)
        if id(array) not in self._slots and self._tensors.get(id(array)) is not tensor:
            self._kept.append((array, tensor))
            self._tensors[id(array)] = tensor
        return array if by_engine else traced(array)

    def ran(self, op: Any, forward: Callable[..., Any], arrays: Sequence[Any], attributes: dict[str, Any]) -> Any:
        """Run an op."""
        inputs, options = self.describe(tuple(arrays)), self.describe(attributes)
        if _has_mask(attributes):
            self.refuse(f"{op.name} selects by a mask: how much depends on values")
        output, saved = forward(*plain(tuple(arrays)), **plain(attributes))
        several = isinstance(output, tuple)
        raw = output if several else (output,)
        made = tuple(graph.as_array(array) for array in raw)
        slots = [self._slot(array) for array in made]
        shapes = [(array.shape, array.dtype) for array in made]
        scalars = [not is_array(array) for array in raw]
        self.on_device = self.on_device or device_kind(made[0]) == "cuda"
        event = Ran(
            op, inputs, options, slots, shapes, several, scalars, len(self.events), shapes_of(plain(tuple(arrays)))
        )
        self.events.append(event)
        self._last = event, saved
        return (made if several else made[0]), saved

    def noded(self, op: Any, saved: Any, node: Node) -> None:
        """The graph recorded ``node`` for the op that ran just now."""
        if self._last is None or self._last[0].op is not op or self._last[1] is not saved:
            self.refuse(f"{op.name} is an operation outside of the table")
            return
        self._nodes[node] = self._last[0]

    def gave(self, gradients: Sequence[Any]) -> None:
        """A vjp of the running backward pass returned."""
        if self._walk is not None:
            self._walk.append([None if g is None else (g.shape, g.__class__ is Part) for g in gradients])

    def call(self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call a live function."""
        if self.quiet:
            return function(*args, **kwargs)
        args, kwargs = tuple(map(_listed, args)), {key: _listed(value) for key, value in kwargs.items()}
        described = self.describe(args), self.describe(kwargs)
        with self.silence(), self._random_counts():
            result = function(*plain(args), **plain(kwargs))
        if result is None and any(item.kind == "number" for item in described[0].value):
            self.refuse("a sum of two losses that average different numbers of items")
        results: list[tuple[str, int]] = []
        form = "none" if result is None else "tuple" if isinstance(result, tuple) else "single"
        parts = result if form == "tuple" else () if form == "none" else (result,)
        told = [self._result(part, results, function) for part in parts]
        self.events.append(Called(function, *described, results, form))
        return None if form == "none" else told[0] if form == "single" else tuple(told)

    def enter(self, module: Any, inputs: Any) -> None:
        """A module with a scope of its own is called."""
        self.events.append(Entered(module, self.describe(inputs)))

    def leave(self, module: Any) -> None:
        """Its call is over."""
        self.events.append(Entered(module, None))

    def backward(self, walk: Callable[..., None], root: Any, seed: Any, retain_graph: bool) -> None:
        """Run a backward pass."""
        array = plain(root.array)
        if id(array) not in self._slots:
            self.refuse("backward() of a tensor that the step did not make")
            with self.silence():
                return walk(root, seed, retain_graph)
        nodes, leaves = ([], {}) if root._node is None else graph._reachable(root._node)
        event = Walked(self._slots[id(array)], self.describe(root._weight), self.describe(seed), list(leaves))
        self._check(nodes, leaves)
        remaining = {leaf: pending.remaining for leaf, pending in leaves.items()}
        before, self._walk = self._walk, []
        try:
            with self.silence():
                walk(root, seed, retain_graph)
            if not self.reasons:
                event.steps = self._steps(root._node, nodes, remaining, self._walk)
        finally:
            self._walk = before
        self._walked.update(nodes)
        self.events.append(event)

    @contextmanager
    def silence(self) -> Iterator[None]:
        """What happens inside is not recorded by itself."""
        self.quiet += 1
        try:
            yield
        finally:
            self.quiet -= 1

    def returned(self, value: Any) -> None:
        """What the step returned."""
        self._check_random()
        self.result = self.describe(value, "the result")
        for tensor in _tensors(value):
            node = tensor._node
            if tensor._weight is not None and (made := self.describe(tensor)).kind == "wrap":
                self.weights[made.value] = self.describe(tensor._weight)
            if node is not None and node not in self._walked:
                self.refuse(
                    "the step returns a tensor whose backward() has not run: call it inside, or return it detached"
                )

    # -- what it becomes -------------------------------------------------------------------------------------------------

    def merge(self, earlier: Recorder) -> None:
        """Keep what an earlier recording and this one agree on. Raises DifferentError."""
        for first, second in zip(earlier.events, self.events, strict=False):
            if type(first) is not type(second):
                raise DifferentError(f"{_word(first)} in one call where there was {_word(second)} in the next")
            first.merge(second)
        if len(earlier.events) != len(self.events):
            raise DifferentError(
                f"the step did {len(earlier.events)} things in one call and {len(self.events)} in the next"
            )
        self.result = merged(earlier.result, self.result, "what the step returns")
        for slot, weight in self.weights.items():
            self.weights[slot] = merged(
                earlier.weights.get(slot, NOTHING), weight, "the weight of what the step returns"
            )

    def release(self) -> None:
        """Let go of what only recording needed."""
        self._kept, self._tensors, self._nodes, self._walked, self._last = [], {}, {}, set(), None

    def describe(self, value: Any, where: str = "an input") -> Reference:
        """Where ``value`` comes from."""
        if isinstance(value, Slotted):
            return Reference("number", value.slot)
        if isinstance(value, Variable):
            with self.silence():
                array = plain(value.array)
            if id(array) in self._slots:
                return Reference("wrap", self._slots[id(array)])
            self._known(value)
            return Reference("tensor", value)
        if is_array(value):
            array = plain(value)
            if id(array) in self._slots:
                return Reference("slot", self._slots[id(array)])
            tensor = self._tensors.get(id(array))
            if tensor is None:
                self._kept.append(array)
                return Reference("constant", array)
            self._known(tensor)
            return Reference("array", (tensor, array))
        if type(value) in (tuple, list):
            return Reference(type(value).__name__, [self.describe(item, where) for item in value])
        if isinstance(value, tuple) and hasattr(value, "_fields"):
            return Reference(
                "named", [Reference("value", type(value)), *(self.describe(item, where) for item in value)]
            )
        if isinstance(value, slice):
            return Reference("slice", [self.describe(v, where) for v in (value.start, value.stop, value.step)])
        if isinstance(value, dict):
            return Reference("dict", {key: self.describe(item, where) for key, item in value.items()})
        if where == "the result" and type(value) not in _NUMBERS:
            self.refuse(
                f"the step returns a {type(value).__name__}: return tensors, or tuples, lists and dicts of them"
            )
        return Reference("value", value)

    # -- inner things ------------------------------------------------------------------------------------------------------

    def _slot(self, array: Any) -> int:
        self._kept.append(array)
        number = self._slots[id(array)] = self._count
        self._count += 1
        return number

    def _known(self, tensor: Any) -> None:
        self.leaves.setdefault(id(tensor), tensor)

    def _result(self, part: Any, results: list[tuple[str, int]], function: Any) -> Any:
        """A stand-in for one thing that a live function returned."""
        if isinstance(part, Variable):
            if part._node is not None:
                self.refuse(f"{function.__qualname__} returned a tensor of a graph")
            with self.silence():
                results.append(("wrap", self._slot(part.array)))
            return part
        if is_array(part):
            results.append(("slot", self._slot(part)))
            return part
        if isinstance(part, float):
            self._count += 1
            results.append(("number", self._count - 1))
            return slotted(part, self._count - 1)
        if part is not None:
            self.refuse(f"{function.__qualname__} returned a {type(part).__name__} inside of the step")
        results.append(("value", 0))
        return part

    def _check(self, nodes: Sequence[Node], leaves: Any) -> None:
        for node in nodes:
            if node.op is not None and node not in self._nodes:
                self.refuse(f"backward passes {node.op.name}, which ran before the step or outside of the table")
            if node.hooks is not None:
                self.refuse(f"a hook on a tensor (forward at {node.site()})")
        for leaf in leaves:
            if leaf._hooks is not None and (leaf._hooks or leaf._hooks.after):
                self.refuse("a hook on a parameter")
            with self.silence():
                inside = id(leaf.array) in self._slots
            if inside:
                self.refuse("an input of the step wants a gradient")
            self._known(leaf)

    def _steps(self, top: Node | None, nodes: Sequence[Node], remaining: dict[Any, int], log: list[Any]) -> list[Given]:
        """The walk again, on names instead of arrays; as ``graph._step`` goes it."""
        names: dict[Node, Any] = {n: [None] * len(n.gradient) for n in nodes if n.shape is None}
        contributed: dict[Any, int] = {}
        given, steps = iter(log), []
        if top is not None:
            names[top] = "seed", "first"
        for place, node in enumerate(nodes):
            gradient: Any = names.get(node)
            if node.shape is None and not any(part is not None for part in gradient):
                gradient = None
            if node.op is None:
                names[node.edges[0]][node.saved] = gradient
                continue
            found = [None] * len(node.edges) if gradient is None else next(given)
            targets: list[Any] = []
            for edge, gave in zip(node.edges, found, strict=False):
                if edge is None or (edge.__class__ is Node and gave is None):
                    targets.append(None)
                elif edge.__class__ is Node:
                    part = gave[1] and gave[0] == edge.shape
                    name, before = names.get(edge, (f"{place}_{len(targets)}", None))
                    how = _next(before, part)
                    names[edge] = name, how
                    if edge.op is LOWER:
                        leaf = edge.edges[0]
                        alone = remaining[leaf] == 1 and not contributed.get(leaf)
                        targets.append(("lowered", leaf, alone, name, how, before, edge.shape))
                    else:
                        targets.append(("node", name, how, before, edge.shape))
                else:
                    remaining[edge] -= 1
                    targets.append(("leaf", edge, contributed.get(edge, 0), remaining[edge]))
                    contributed[edge] = contributed.get(edge, 0) + (gave is not None)
            needs = tuple([edge is not None for edge in node.edges])
            steps.append(Given(self._nodes[node], gradient, needs, targets, list(found)))
        return steps

    # -- randomness --------------------------------------------------------------------------------------------------------

    def _random(self) -> Any:
        """Where all that draws stands, but for what live functions draw."""
        return dict(rng.moment().calls), random.getstate(), tuple(np.random.get_state())[1:3]

    def _check_random(self) -> None:
        calls, state, numpy_state = self._random()
        before_calls, before, before_numpy = self._draws
        if state != before or numpy_state[1] != before_numpy[1] or (numpy_state[0] != before_numpy[0]).any():
            self.refuse("the step draws from Python's or NumPy's own random numbers")
        if calls != before_calls:
            self.refuse("the step draws random numbers in a way that a replay cannot repeat")

    @contextmanager
    def _random_counts(self) -> Iterator[None]:
        """What is drawn inside counts as drawn before."""
        before = rng.moment().calls
        yield
        counts = self._draws[0]
        for place, count in rng.moment().calls.items():
            if count != before.get(place, 0):
                counts[place] = counts.get(place, 0) + count - before.get(place, 0)


def _next(before: str | None, part: bool) -> str:
    """What a node's gradient is after one more contribution: "part", "first" (somebody else's array), or "sum" (made here)."""
    if before is None:
        return "part" if part else "first"
    return "part" if before == "part" and part else "sum"


def recording() -> Recorder | None:
    """This thread's recorder, unless what happens is part of something that it knows already."""
    recorder = now.recorder
    return None if recorder is None or recorder.quiet else recorder


def _listed(value: Any) -> Any:
    """An iterator (of parameters) would be used up by the first call."""
    return list(value) if isinstance(value, Iterator) else value


def _has_mask(value: Any) -> bool:
    if isinstance(value, dict):
        return any(map(_has_mask, value.values()))
    if isinstance(value, tuple | list):
        return any(map(_has_mask, value))
    return isinstance(value, StandIn) and value.dtype.kind == "b"


def _tensors(value: Any) -> list[Any]:
    if isinstance(value, Variable):
        return [value]
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, tuple | list) else ()
    return [tensor for part in parts for tensor in _tensors(part)]


def _word(event: Any) -> str:
    if isinstance(event, Ran):
        return event.op.name
    return (
        event.function.__qualname__
        if isinstance(event, Called)
        else "backward()"
        if isinstance(event, Walked)
        else "a module"
    )
