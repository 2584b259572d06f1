"""What belongs to each shard of a rank while several are under way: a *seat* is taken by the one that has the word."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import WeakKeyDictionary

from ..core.data.scope import close_shard, observers
from ..core.data.step import Step
from ..core.flat import FlatStore
from ..core.nn.statistics import collect
from ..core.rng import enter_shard
from .open_shard import OpenShard

if TYPE_CHECKING:
    from ..core.nn.parameter import Parameter
    from .reducer import Reducer


class _Place(NamedTuple):
    """A gradient buffer and the parameters' slots in it."""

    gradient: Any
    slots: list[Any]


_spare: WeakKeyDictionary[FlatStore, list[_Place]] = WeakKeyDictionary()
"""Where the gradients of all seats but the last lie, kept for the next step."""


class Seat:
    """What belongs to one shard while others run: its record in each reducer, its gradients and where they lie."""

    def __init__(
        self, reducers: Sequence[Reducer], places: dict[FlatStore, _Place], gradients: dict[Parameter, Any]
    ) -> None:
        self.reducers = reducers
        self.records = [OpenShard() for _ in reducers]
        self.places, self.gradients = places, gradients
        self.is_free = True
        """Whether nothing lies where this shard's gradients will."""
        self._slots: dict[Parameter, Any] = {}

    def take(self) -> None:
        """From now on what happens belongs to this shard."""
        self.record()
        for store, place in self.places.items():
            store.gradient = place.gradient
            for parameter, slot in zip(store.parameters, place.slots, strict=True):
                if store.holds(parameter):
                    parameter._slot = slot
        for parameter in self.gradients:
            parameter._grad = self.gradients[parameter]

    def record(self) -> None:
        """From now on what is recorded belongs to this shard; no gradient is touched."""
        for reducer, record in zip(self.reducers, self.records, strict=True):
            reducer.now = record

    def leave(self) -> None:
        """Keep what has come up."""
        self.records = [reducer.now for reducer in self.reducers]
        self.gradients = {parameter: parameter._grad for parameter in self.gradients}

    def slot(self, leaf: Any) -> Any:
        """Where the gradient of ``leaf`` may be written before this seat is taken; None: nowhere, or it has one already."""
        if not self.is_free:
            return None
        if not self._slots:
            for store, place in self.places.items():
                self._slots |= {
                    p: slot for p, slot in zip(store.parameters, place.slots, strict=True) if store.holds(p)
                }
        return self._slots.get(leaf) if self.gradients.get(leaf) is None else None

    def scope(self, module: Any) -> AbstractContextManager[Any]:
        """Where the statistics of a forward of ``module``, a DataParallel, go before this seat is taken."""
        for reducer, record in zip(self.reducers, self.records, strict=True):
            if reducer is module.reducer:
                return collect(record.records)
        return nullcontext()


def summing() -> list[Reducer]:
    """The reducers of this rank that sum something."""
    found = [reducer for observer in observers() if (reducer := getattr(observer, "reducer", None)) is not None]
    return [reducer for reducer in found if not reducer.trivial]


def seats_for(reducers: Sequence[Reducer], count: int) -> list[Seat]:
    """One for each owned shard; the last has the buffers from which the ranks sum, the first what nobody cleared."""
    for reducer in reducers:
        reducer.follow_structure()
    stores = list(dict.fromkeys(p._store for reducer in reducers for p in reducer.parameters if p._store is not None))
    parameters = list(dict.fromkeys(p for s in stores for p in s.parameters if s.holds(p)))
    slotted = [store for store in stores if not store.gradient_owned]
    for store in slotted:
        spare = _spare.setdefault(store, [])
        spare += [_place(store, store.new_buffer()) for _ in range(count - 1 - len(spare))]
    seats = []
    for number in range(count):
        last = number == count - 1
        places = {store: _place(store, store.gradient) if last else _spare[store][number] for store in slotted}
        seats.append(Seat(reducers, places, {p: None if number else p._grad for p in parameters}))
    seats[-1].is_free = all(p._grad is None for p in parameters)  # the first seat has yet to take what nobody cleared
    for reducer in reducers:
        reducer.together = True
    return seats


def _place(store: FlatStore, gradient: Any) -> _Place:
    return _Place(gradient, [store.view(gradient, index) for index in range(len(store.parameters))])


def close(step: Step, reducers: Sequence[Reducer], seats: Sequence[Seat], done: bool) -> None:
    """The shards are through, one after another, or nothing of them counts."""
    for seat in seats if done else seats[-1:]:
        seat.take()
        if done:
            close_shard(step)
    if not done:
        for reducer in reducers:
            reducer.now = OpenShard()
    step.shard = None
    enter_shard(step.index, None)
    for reducer in reducers:
        reducer.together = False
