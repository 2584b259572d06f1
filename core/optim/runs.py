"""What a step of an optimizer does: which neighbouring parameters one pass updates, and whether it is the same as in the last step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter, is_
from typing import TYPE_CHECKING, Any, NamedTuple

from ..flat import FlatStore
from ..void import is_void

if TYPE_CHECKING:
    from ..nn.parameter import Parameter
    from .optimizer import Optimizer

index_of, store_of, keeper_of = attrgetter("_index"), attrgetter("_store"), attrgetter("keeper")
_array, _grad, _slot = attrgetter("array"), attrgetter("_grad"), attrgetter("_slot")


@dataclass(slots=True)
class Run:
    """Neighbouring parameters of a store, first to last, with equal numbers of steps so far and equal numbers."""

    store: FlatStore
    first: int
    last: int
    steps: int
    numbers: dict[str, float]

    def __len__(self) -> int:
        return self.last - self.first + 1


def place_of(parameter: Parameter) -> tuple[int, int]:
    """Where it lies, for sorting."""
    return id(parameter._store), parameter._index or 0


class _Pass(NamedTuple):
    """One call of ``update``, and the buffers that its arguments were cut out of."""

    group: dict[str, Any]
    store: FlatStore
    whole: tuple[Any, Any]
    """Values and gradients."""
    held: Mapping[str, Any]
    names: tuple[str, ...]
    buffers: list[Any]
    """The state's, by ``names``, as they were in ``held``."""
    data: Any
    gradient: Any
    state: dict[str, Any]

    def stands(self, optimizer: Optimizer) -> bool:
        """Whether the arguments are still what a step would make them."""
        store, group = self.store, self.group
        return (
            store.data is self.whole[0]
            and store.gradient is self.whole[1]
            and store.owned is None
            and store.keeper is None
            and not group.get("maximize")
            and optimizer.state_names(group) == self.names
            and all(map(is_, map(self.held.get, self.names), self.buffers))
        )


class Plan:
    """The last step: all parameters had gradients, in their slots, and as many steps before, and ranks owned no parts of them.

    Where all that is so again, which is asked for all parameters together, a step is the same calls of ``update``.
    """

    def __init__(self, optimizer: Optimizer, parameters: list[Parameter], passes: list[_Pass]) -> None:
        self.passes = passes
        self.places = [(parameter, parameter.array, parameter._slot) for parameter in parameters]
        self.groups = [(group, list(group["params"])) for group in optimizer.param_groups]

    def whole(self, optimizer: Optimizer) -> bool:
        """As :meth:`again`, with what the one who listens to all parameters does before and after; for a step that has no hooks."""
        listener = self.places[0][0]._listener
        for parameter, _, _ in self.places:
            if parameter._listener is not listener:
                return False
        if listener is not None:
            listener.gradients_wanted()
            if is_void():
                return True
        if not self.again(optimizer):
            return False
        optimizer.updates += 1
        if listener is not None:
            listener.updated(optimizer)
        return True

    def again(self, optimizer: Optimizer) -> bool:
        """Do the step, unless something is not as it was; whether it was done."""
        groups, steps = optimizer.param_groups, optimizer._steps
        if len(groups) != len(self.groups):
            return False
        for group, (before, parameters) in zip(groups, self.groups, strict=True):
            now = group["params"]
            if group is not before or len(now) != len(parameters) or not all(map(is_, now, parameters)):
                return False
        done = steps.get(self.places[0][0])
        if done is None:
            return False
        for parameter, array, slot in self.places:
            gradient = parameter._grad
            if (
                gradient is None
                or gradient.array is not slot
                or parameter._slot is not slot
                or parameter.array is not array
                or steps.get(parameter) != done
            ):
                return False
        for each in self.passes:
            if not each.stands(optimizer):
                return False
        done += 1
        for parameter, _, _ in self.places:
            steps[parameter] = done
        for each in self.passes:
            each.store.version += 1
            optimizer.update(each.data, each.gradient, each.state.copy(), each.group, done)
        return True


def plan(optimizer: Optimizer, parameters: list[Parameter], done: Sequence[tuple[dict[str, Any], Run]]) -> Plan | None:
    """A plan of the step that has just made these passes; None where the next one must look at each parameter again."""
    if optimizer.grain != "element" or optimizer.number_names or sum(len(run) for _, run in done) != len(parameters):
        return None
    if len({run.steps for _, run in done}) != 1 or not _in_slots(parameters):
        return None
    passes = []
    for group, run in done:
        store, names = run.store, optimizer.state_names(group)
        lo, hi = store.offsets[run.first], store.extent(run.last)[1]
        if store.dtype.kind == "V":
            return None
        held = store.state.get(optimizer, {})
        buffers, whole = [held.get(name) for name in names], (store.data, store.gradient)
        if store.owned is not None or any(buffer is None for buffer in buffers):
            return None
        state = store.state_slices(optimizer, names, lo, hi)
        made = _Pass(group, store, whole, held, names, buffers, store.data[lo:hi], store.gradient[lo:hi], state)
        if not made.stands(optimizer):
            return None
        passes.append(made)
    return Plan(optimizer, parameters, passes)


def _in_slots(parameters: list[Parameter]) -> bool:
    """Whether all have gradients, in their slots."""
    try:
        return all(map(is_, map(_array, map(_grad, parameters)), map(_slot, parameters)))
    except AttributeError:  # None has no array
        return False
