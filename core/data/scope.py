"""Opens and closes steps and shards: sets the scope of keyed randomness and tells whoever wants to know.

Observers (DataParallel is one) are thread-local and have four methods, called on the thread of the training loop::

    step_opens(step)                     before the step reaches the loop, on every rank
    shard_opens(step, shard, samples)    before a batch of this shard reaches the loop; samples: how many it holds
    shard_closes()                       when the loop asks for the next shard, ends, or is left
    step_closes(step)                    when the loop asks for the next step, ends, or is left

``step.loader`` tells loaders apart: an evaluation inside a training step opens steps of its own.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from .. import rng
from ..rank_local import of_rank
from ..void import is_void, set_void

if TYPE_CHECKING:
    from .step import Step


class Observer(Protocol):
    """What the loader calls."""

    def step_opens(self, step: Step) -> None: ...

    def shard_opens(self, step: Step, shard: int, samples: int) -> None: ...

    def shard_closes(self) -> None: ...

    def step_closes(self, step: Step) -> None: ...


class _Local(threading.local):
    def __init__(self) -> None:
        self.observers: list[Observer] = []
        self.open_steps: list[Step] = []
        self.boundary: Callable[[], None] | None = None


_local = of_rank(_Local())


def observers() -> list[Observer]:
    """This thread's observers: append to it or remove from it.

    >>> phalanx.data.observers() is phalanx.data.observers()
    True
    """
    return _local.observers


def innermost_step() -> Step | None:
    """The step whose loop this thread is in, if any."""
    return _local.open_steps[-1] if _local.open_steps else None


def outermost_step() -> Step | None:
    """The step of the training loop, where loops lie in each other."""
    return _local.open_steps[0] if _local.open_steps else None


def at_boundaries(call: Callable[[], None] | None) -> None:
    """From now on call ``call`` between two steps of a training loop, where ranks may come or go; None: nothing any more."""
    _local.boundary = call


def between_steps() -> None:
    """No step of this thread is open: now the ranks may become others."""
    if _local.boundary is not None and not _local.open_steps:
        _local.boundary()


def void_step() -> None:
    """Nothing of the step that the loop is in counts; the loader gives it again."""
    step = outermost_step()
    if step is not None and not step.void:
        step.undo()
        set_void(True)


def end_void() -> None:
    """No step is open: what follows counts again. A step that was void draws its numbers anew."""
    if is_void():
        set_void(False)
        rng.leave_step()


def open_step(step: Step) -> None:
    """Ranks without a shard in this step enter it too, so that numbers drawn outside of shards agree."""
    if not _local.open_steps:
        end_void()
    _local.open_steps.append(step)
    rng.enter_shard(step.index, None)
    for observer in tuple(_local.observers):
        observer.step_opens(step)


def open_shard(step: Step, shard: int, samples: int) -> None:
    rng.enter_shard(step.index, shard)
    for observer in tuple(_local.observers):
        observer.shard_opens(step, shard, samples)


def close_shard(step: Step) -> None:
    if _local.open_steps and _local.open_steps[-1] is step:
        rng.enter_shard(step.index, None)
    for observer in tuple(_local.observers):
        observer.shard_closes()


def close_step(step: Step) -> None:
    """Loops may lie in each other or run side by side (``zip``): the innermost open step keeps the scope."""
    innermost = _local.open_steps[-1] is step if _local.open_steps else False
    _local.open_steps[:] = [other for other in _local.open_steps if other is not step]
    if innermost and _local.open_steps:
        outer = _local.open_steps[-1]
        rng.enter_shard(outer.index, outer.shard)
    for observer in tuple(_local.observers):
        observer.step_closes(step)
