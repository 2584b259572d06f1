"""What ranks tell each other between steps, so that the loss of a rank in the middle of it leaves nobody behind.

In an elastic job each such exchange has a number, and its result is kept until the next one. All of them need something of every
rank, so none can be ahead of another by more than one: who did not get a result before the ranks became others takes it from one that
did (:meth:`Exchanges.settle`), and what nobody has is done again. An action of several exchanges, in which each rank does what its
number says, is :func:`repeated` from the beginning when the ranks become others within it. In other jobs nothing of this costs anything.
"""

from __future__ import annotations

import itertools
import json
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakKeyDictionary

import numpy as np

from ..core.errors import StateError
from ..core.void import is_void
from .errors import CommunicatorError

if TYPE_CHECKING:
    from .communicators.base import Communicator
    from .elastic import Elastic
    from .group import Group

Result = TypeVar("Result")


class Regrouped(Exception):
    """The ranks are others than those with which the action began."""


class Exchanges:
    """Of one group: how many there were, and what the last one gave."""

    def __init__(self, group: Group) -> None:
        self._group = weakref.ref(group)
        self.number = 0
        self.last: list[bytes] = []
        self.since: int | None = None
        """Within an action of several exchanges: the generation in which it began."""

    def gather(self, data: bytes, name: str) -> list[bytes] | None:
        """Every rank's ``data``; None where the step has become void and nobody has them."""
        group = self._group()
        assert group is not None
        elastic = elastic_of(group)
        if elastic is None:
            return _gather(group, data, name)
        if elastic.newcomer:
            raise StateError(
                f"{name}: this rank was started while the others train and has not joined them; what needs all ranks comes after "
                "the resume() of its Checkpointer"
            )
        if is_void():
            return None
        number = self.number + 1
        while True:
            if self.since not in (None, elastic.generation):
                raise Regrouped
            try:
                rows = _gather(group, data, name)
            except CommunicatorError as error:
                elastic.recover(error)
                if is_void():
                    return None
                if self.number == number:
                    return self.last
            else:
                self.number, self.last = number, rows
                return rows

    def settle(self, control: Communicator) -> None:
        """Called by all ranks of a new generation: those that are behind, or new, take what the others have."""
        numbers = control.all_gather_object(self.number, name="exchanges").wait()
        newest = max(numbers)
        if min(numbers) == newest:
            return
        holder = numbers.index(newest)
        sizes = control.broadcast_object([len(row) for row in self.last], root=holder, name="the last exchange").wait()
        joined = (
            np.frombuffer(b"".join(self.last), np.uint8) if control.rank == holder else np.empty(sum(sizes), np.uint8)
        )
        control.broadcast(joined, root=holder, name="what the last exchange gave").wait()
        if self.number < newest:
            ends = np.cumsum([0, *sizes]).tolist()
            self.number, self.last = newest, [joined[a:b].tobytes() for a, b in itertools.pairwise(ends)]


_known: WeakKeyDictionary[Any, Exchanges] = WeakKeyDictionary()


def of(group: Group) -> Exchanges:
    """The exchanges of ``group``."""
    found = _known.get(group)
    if found is None:
        found = _known[group] = Exchanges(group)
    return found


def gather_bytes(group: Group, data: bytes, *, name: str) -> list[bytes] | None:
    """Every rank's bytes on all ranks, by rank. None in a step that is void, where nothing is sent."""
    return of(group).gather(data, name)


def gather_object(group: Group, value: Any, *, name: str) -> list[Any] | None:
    """Every rank's ``value`` (JSON) on all ranks, by rank. None in a step that is void, where nothing is sent."""
    if elastic_of(group) is None:
        return _control(group).all_gather_object(value, name=name).wait()  # type: ignore[no-any-return]
    rows = of(group).gather(json.dumps(value).encode(), name)
    return None if rows is None else [json.loads(row) for row in rows]


def from_rank_0(group: Group, value: Any, *, name: str) -> Any:
    """Rank 0's ``value`` (JSON) on all ranks; in an elastic job all send something, so that none is ahead by more than one."""
    if elastic_of(group) is None:
        return _control(group).broadcast_object(value, name=name).wait()
    rows = of(group).gather(json.dumps(value).encode() if group.rank == 0 else b"", name)
    return None if rows is None else json.loads(rows[0])


def repeated(group: Group, action: Callable[[], Result]) -> Result | None:
    """``action()``, from the beginning again where the ranks become others before all of them are through.

    Its last message must be an exchange. None in a step that is void, be it from the beginning or after a loss within.
    """
    elastic = elastic_of(group)
    if is_void():
        return None
    if elastic is None or of(group).since is not None:
        return action()
    while not is_void():
        try:
            with within(group, elastic.generation):
                return action()
        except Regrouped:
            pass
        except CommunicatorError as error:
            elastic.recover(error)
    return None


@contextmanager
def within(group: Group, generation: int | None) -> Iterator[None]:
    """Within, an exchange raises :class:`Regrouped` unless the ranks are those of ``generation``."""
    exchanges = of(group)
    before, exchanges.since = exchanges.since, generation
    try:
        yield
    finally:
        exchanges.since = before


def generation(group: Group) -> int | None:
    """The number of the membership; None where ranks do not come and go."""
    elastic = elastic_of(group)
    return None if elastic is None else elastic.generation


def elastic_of(group: Group) -> Elastic | None:
    """How the ranks of ``group`` come and go; None where they do not."""
    return getattr(group, "elastic", None)


def _gather(group: Group, data: bytes, name: str) -> list[bytes]:
    if group.size == 1:
        return [data]
    return _control(group).call(lambda m: m.programs.all_gather_bytes(m, data), name=name)  # type: ignore[no-any-return]


def _control(group: Group) -> Communicator:
    return getattr(group, "control", group.communicator)
