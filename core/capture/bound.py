"""A recording as a function whose ops are bound to the shapes that they had: nobody looks at what the shapes have decided."""

from __future__ import annotations

from collections.abc import Callable
from operator import attrgetter
from typing import Any

from ..op import Op
from .events import Ran
from .program import Writer, compiled
from .recorder import Recorder

_both = attrgetter("forward", "vjp")


class _Binder(Writer):
    """Writes calls of bound ops, where an op has such a form."""

    def __init__(self, recorder: Recorder) -> None:
        super().__init__(recorder)
        self.ops: dict[int, Op] = {}
        """By the number of the event."""
        self.instead_of: dict[Op, Any] = {}
        """What the ops were for which bound ones stand."""

    def forward(self, event: Ran, given: list[str]) -> str:
        made = _bound(event)
        if made is None:
            return super().forward(event, given)
        self.ops[event.number] = made
        self.instead_of[event.op] = tuple(map(_own, _both(event.op)))
        return f"{self.name('o', made)}.forward({', '.join(given[: len(event.inputs.value)])})"

    def vjp(self, ran: Ran, given: str) -> str:
        made = self.ops.get(ran.number)
        return super().vjp(ran, given) if made is None else f"{self.name('o', made)}.vjp({given})"


def _bound(event: Ran) -> Op | None:
    options = event.attributes.value
    if event.op.bind is None or event.given is None or any(each.kind != "value" for each in options.values()):
        return None
    return event.op.bind(event.given, **{key: each.value for key, each in options.items()})


def _own(function: Any) -> Any:
    """A function of an op without what tells a recording of it."""
    return getattr(function, "instead_of", function)


def replay_of(recorder: Recorder) -> tuple[Callable[[list[Any]], Any], str]:
    """The function of the input arrays that does what was recorded, and its source.

    While somebody exchanges ops for others that tell (a profiler, an exporter), these are called instead of bound ones.
    """
    writer = _Binder(recorder)
    fast, source = compiled(recorder, lambda _: writer)
    if not writer.instead_of:
        return fast, source
    plain, _ = compiled(recorder)
    ops, before = list(writer.instead_of), list(writer.instead_of.values())

    def replay(inputs: list[Any]) -> Any:
        return fast(inputs) if list(map(_both, ops)) == before else plain(inputs)

    return replay, source
