"""What happens in a step, as it is recorded: each event is one or a few instructions of the program."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from .reference import DifferentError, Reference, merged


@dataclass(slots=True, eq=False)
class Ran:
    """An op ran forward."""

    op: Any
    inputs: Reference
    attributes: Reference
    outputs: list[int]
    """Slots."""
    shapes: list[Any]
    several: bool
    scalars: list[bool]
    """Which outputs came as NumPy's scalars."""
    number: int
    """Of the event: names what it saved for backward."""
    given: tuple[Any, ...] | None
    """Shapes of the inputs (None where there is none) if all are such as an op can be bound for: see ``op.Op.bind``."""

    def merge(self, other: Ran) -> Ran:
        """What two recordings agree on; raises DifferentError."""
        where = f"an input of {self.op.name}"
        if self.op is not other.op or self.several != other.several or self.outputs != other.outputs:
            raise DifferentError(f"{self.op.name} ran in one call where {other.op.name} ran in the next")
        if self.shapes != other.shapes:
            raise DifferentError(f"{self.op.name} gave shapes {self.shapes} in one call and {other.shapes} in the next")
        other.inputs = merged(self.inputs, other.inputs, where)
        other.attributes = merged(self.attributes, other.attributes, f"an option of {self.op.name}")
        return other


@dataclass(slots=True, eq=False)
class Called:
    """A live function was called."""

    function: Any
    args: Reference
    kwargs: Reference
    results: list[tuple[str, int]]
    """("slot", n), ("wrap", n) or ("number", n) for each thing that it returned."""
    form: str
    """"none", "single" or "tuple"."""

    def merge(self, other: Called) -> Called:
        """What two recordings agree on; raises DifferentError."""
        name = getattr(self.function, "__qualname__", "a function")
        if self.function is not other.function or self.results != other.results or self.form != other.form:
            raise DifferentError(f"{name} was called in one call and not in the next")
        other.args = merged(self.args, other.args, f"an argument of {name}")
        other.kwargs = merged(self.kwargs, other.kwargs, f"an argument of {name}")
        return other


@dataclass(slots=True, eq=False)
class Entered:
    """A module whose forward stands in a scope of its own was called; ``inputs`` is None where that call ends."""

    module: Any
    inputs: Reference | None

    def merge(self, other: Entered) -> Entered:
        """What two recordings agree on; raises DifferentError."""
        if self.module is not other.module or (self.inputs is None) != (other.inputs is None):
            raise DifferentError("other modules were called in the next call")
        if self.inputs is not None and other.inputs is not None:
            other.inputs = merged(self.inputs, other.inputs, "an input of a module")
        return other


@dataclass(slots=True, eq=False)
class Given:
    """A node passed its gradient on: one vjp, or the gradient of one of several outputs (``ran`` is None)."""

    ran: Ran | None
    gradient: Any
    """(name, what it is) of the output's gradient, see ``recorder._next``; a list with None holes for an op with several."""
    needs: tuple[bool, ...]
    targets: list[Any]
    """For each input None, ("node", name, what it is then, what it was, shape), ("lowered", tensor, whether nothing else comes for it,
    and the same four) or ("leaf", tensor, contributions before, and to come)."""
    found: list[Any]
    """For each input None where no gradient came, else its shape and whether it is a part."""


@dataclass(slots=True, eq=False)
class Walked:
    """A backward pass."""

    root: int
    weight: Reference
    seed: Reference
    leaves: list[Any]
    steps: list[Given] = field(default_factory=list)

    def merge(self, other: Walked) -> Walked:
        """What two recordings agree on; raises DifferentError."""
        if self.root != other.root or len(self.leaves) != len(other.leaves):
            raise DifferentError("backward began elsewhere in the next call")
        if any(a is not b for a, b in zip(self.leaves, other.leaves, strict=True)):
            raise DifferentError("backward led to other parameters in the next call")
        other.weight = merged(self.weight, other.weight, "the weight of the loss")
        other.seed = merged(self.seed, other.seed, "the gradient that backward() begins with")
        if [_form(step) for step in self.steps] != [_form(step) for step in other.steps]:
            raise DifferentError("backward took another way in the next call")
        return other


def _form(step: Given) -> Any:
    targets = [t and (t[:1] + (id(t[1]),) + t[2:] if t[0] != "node" else t) for t in step.targets]
    return step.ran and step.ran.number, step.gradient, step.needs, targets, step.found
