"""What a DataParallel does after each update: compare replicas now and then, and keep the clock of who made whom wait."""

from __future__ import annotations

import os
import time
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING

from . import env
from .diagnosis.replicas import ReplicaCheck
from .diagnosis.stragglers import StepClock
from .group import Group

if TYPE_CHECKING:
    from ..core.data.step import Step
    from ..core.nn.module import Module
    from ..core.optim.optimizer import Optimizer

_clocks: weakref.WeakKeyDictionary[Group, StepClock] = weakref.WeakKeyDictionary()
"""One clock for each group: that of the first DataParallel, as long as it lives."""


class StepEnd:
    """The end of each step of one DataParallel on several ranks.

    Args:
        check_replicas: compare the replicas after every so many steps; None: as ``phalanx run --check-replicas`` says.
        heal: take the majority's values where replicas differ.
    """

    def __init__(self, group: Group, module: Module, check_replicas: int | None = None, heal: bool = False) -> None:
        self.group = group
        every = env.check_replicas_every(os.environ) if check_replicas is None else check_replicas
        self._check = None if every is None else ReplicaCheck(group, module, every, heal)
        self._clock: StepClock | None = None
        self.steps = 0
        """Steps of this DataParallel that all ranks have completed."""
        self.exposed_s = 0.0
        """Seconds of the last step in which this rank waited for messages: what computing did not hide."""
        self._told = 0
        self._step: Callable[[], Step | None] = lambda: None
        self._data_s = self._taken_s = 0.0
        self._waited_s = self._waited()
        self._ended = time.monotonic()

    def data_came(self, step: Step) -> None:
        """A batch of ``step`` has come."""
        if step is not self._step():
            self._step, self._taken_s = weakref.ref(step), 0.0
        self._data_s += step.data_s - self._taken_s
        self._taken_s = step.data_s

    def regroup(self) -> None:
        """The ranks are others: all of them count from one number."""
        self.steps = self._told = self.group.steps_committed
        if self._clock is not None:
            self._clock.start_anew()

    def leave_out(self) -> None:
        """The others have done without this rank what is due at the end of this step."""
        self._told = self.steps

    def committed(self) -> None:
        """All ranks hold the gradient of one more step."""
        self.steps += 1

    def updated(self, optimizer: Optimizer) -> None:
        """``optimizer`` has moved the parameters."""
        if self.steps == self._told:
            return
        self._told = self.steps
        now, waited_s = time.monotonic(), self._waited()
        exposed_s, data_s = waited_s - self._waited_s, self._data_s
        computed_s = now - self._ended - data_s - exposed_s
        self.exposed_s, self._ended, self._waited_s, self._data_s = exposed_s, now, waited_s, 0.0
        if self._clock is not None:
            if data_s:
                self._clock.mark_data(data_s)
            self._clock.step_done(computed_s if computed_s > 0.0 else 0.0, exposed_s)
        elif self.group.size > 1 and self.group not in _clocks:
            self._clock = _clocks[self.group] = StepClock(self.group)
        if self._check is not None:
            self._check.after_step(self.steps, [optimizer])

    def _waited(self) -> float:
        group = self.group
        control_s = 0.0 if group.control is group.communicator else group.control.flight.waited_s
        return group.communicator.flight.waited_s + control_s
