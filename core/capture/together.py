"""A recorded shard in several at once: replays that go side by side on the cores of a rank.

Each shard's replay is a generator. It does what the replay of this shard alone does, with two differences. At recurrent layers it says
what it would call and gets what came of it, so that several shards on one core can walk through time together
(``ops/recurrent_together.py``). And what touches the parameters waits for the end: until then several shards compute at once,
and afterwards each gives its gradients when it is its turn.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, Protocol

from ..op import Op
from ..ops import recurrent_together
from .events import Called, Entered, Ran, Walked
from .program import Writer, compiled
from .recorder import Recorder

Call = tuple[Any, ...]
"""("forward", op, inputs, attributes) or ("vjp", op, saved, gradient, needs, slots)."""
Replay = Generator[Call | None, Any, Any]
"""Gives calls and takes their answers; None: from now on the parameters must be this shard's. Returns what the step returns."""
MUCH = 1 << 22
"""So many multiplications forward make it worth while to use another core."""
_ELEMENT = 32
"""An element that is only read and written takes as long as so many of them."""
_LIVE = ("nn.functional_dropout", "nn.functional_loss", "nn.statistics", "creation_random")
"""Live functions that touch no parameter."""


class Place(Protocol):
    """What a replay must know of its shard."""

    def slot(self, leaf: Any) -> Any:
        """Where the gradient of ``leaf`` may be written before it is this shard's turn, or None."""

    def scope(self, module: Any) -> AbstractContextManager[Any]:
        """What ``module.forward_scope`` is in this shard's forward."""


class Together(NamedTuple):
    """How the shards of a recorded step go side by side."""

    begin: Callable[[list[Any], Place], Replay]
    joins: bool
    """Whether they gain on one core, too."""
    much: bool
    """Whether they gain on several."""


def _forward(op: Op, inputs: tuple[Any, ...], attributes: dict[str, Any]) -> Call:
    return "forward", op, inputs, attributes


def _vjp(op: Op, *given: Any) -> Call:
    return "vjp", op, *given


class _Writer(Writer):
    """Writes what a shard does among others."""

    arguments = "inputs, here"

    def __init__(self, recorder: Recorder) -> None:
        super().__init__(recorder)
        self.names |= {"forward": _forward, "vjp": _vjp}
        self._given: list[tuple[int, str]] = []
        """The lines that give gradients to parameters."""
        self._open: list[str] = []
        """Scopes of modules. Each live call enters them anew: they must not be open while others have the word."""
        self._entered: list[str] = []

    def forward(self, event: Ran, given: list[str]) -> str:
        if event.op.name not in recurrent_together.FORMS:
            return super().forward(event, given)
        count = len(event.inputs.value)
        inputs, attributes = ", ".join(given[:count]), ", ".join(given[count:])
        return f"yield forward({self.name('o', event.op)}, ({inputs}, ), dict({attributes}))"

    def vjp(self, ran: Ran, given: str) -> str:
        if ran.op.name not in recurrent_together.FORMS:
            return super().vjp(ran, given)
        return f"yield vjp({self.name('o', ran.op)}, {given})"

    def entered(self, event: Entered) -> None:
        if event.inputs is None:
            self._open.pop()
        else:
            self._open.append(f"here.scope({self.name('c', event.module)})")
            self._entered.append(self.scope(event))

    def called(self, event: Called) -> None:
        if self._open:
            self.line(f"with {', '.join(self._open)}:")
        self.depth += bool(self._open)
        super().called(event)
        self.depth -= bool(self._open)

    def place(self, target: Any, leaf: str) -> str:
        return f"here.slot({leaf})"

    def to_leaf(self, target: Any, value: str, place: str) -> None:
        before, self.lines = self.lines, self._given
        super().to_leaf(target, value, place)
        self.lines = before

    def walk_begins(self, event: Walked) -> None:
        self._event = event

    def walk_ends(self) -> None:
        self.line("yield None")
        for scope in self._entered:  # where a loss is not finite, its inputs are asked for
            self.line(f"with {scope}: pass")
        super().walk_begins(self._event)
        for _, text in self._given:
            self.line(text)
        super().walk_ends()


def written(recorder: Recorder) -> Together | None:
    """How several shards of this recording go side by side; None where nothing is gained, or where parameters are touched within."""
    events = recorder.events
    if recorder.on_device or [type(event) for event in events].count(Walked) != 1:
        return None
    for event in events:
        if isinstance(event, Called) and not event.function.__module__.endswith(_LIVE):
            return None
        if isinstance(event, Walked) and any(
            target and target[0] == "lowered" for step in event.steps for target in step.targets
        ):
            return None
    ran = [event for event in events if isinstance(event, Ran)]
    joins, much = any(event.op.name in recurrent_together.FORMS for event in ran), sum(map(_work, ran)) >= MUCH
    return Together(compiled(recorder, _Writer)[0], joins, much) if joins or much else None


def _work(event: Ran) -> int:
    """Multiplications: elements of what an op gives, times those of a row of its widest matrix."""
    elements = max(math.prod(size) for size, _ in event.shapes)
    arrays = [item.value[1] for item in event.inputs.value if item.kind == "array"]
    return elements * max([_ELEMENT, *(math.prod(array.shape[1:]) for array in arrays if array.ndim > 1)])


def answers(calls: Sequence[Call]) -> list[Any]:
    """What each of these calls gives: the same op everywhere, since all replays are of one program."""
    kind, op = calls[0][:2]
    if kind == "forward":
        return recurrent_together.forward(op, [call[2] for call in calls], calls[0][3])
    saved, gradients, needs, slots = zip(*(call[2:] for call in calls), strict=True)
    return list(recurrent_together.vjp(op, saved, gradients, needs[0], slots))
