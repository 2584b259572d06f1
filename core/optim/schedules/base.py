"""The base of all schedules.

A schedule is a function of the step: ``rate(index, epoch)`` is the learning rate of parameter group ``index`` after
``epoch`` calls of ``step()``. So a resumed run needs the count alone, and no rounding piles up. What somebody else does
to a rate (a second schedule on the same optimizer, the user's own hand) is kept by going on from there, as in PyTorch.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from ...errors import RangeError, StateError
from ...live import live
from ...void import is_void
from ..optimizer import Optimizer, Options


class LRScheduler:
    """Base class: sets ``group["lr"]`` of an optimizer's groups at every :meth:`step`, which is called after ``optimizer.step()``.

    ``last_epoch`` counts the calls of ``step()``, be they one an epoch or one an optimizer step; -1 begins anew, another number
    goes on from there. The rate of each group at the start is kept as ``group["initial_lr"]``. A subclass defines
    ``rate(index, epoch)``, or ``get_lr()`` as in PyTorch. All ranks call alike; the count is global as batch sizes are. Give it to
    ``Checkpointer(state={"schedule": scheduler})``, so that it survives with the run.

    >>> class Harmonic(optim.lr_scheduler.LRScheduler):
    ...     def rate(self, index, epoch):
    ...         return self.base_lrs[index] / (1 + epoch)
    >>> optimizer = optim.SGD(nn.Linear(1, 1).parameters(), lr=1.0)
    >>> scheduler = Harmonic(optimizer)
    >>> for _ in range(3):
    ...     optimizer.step()
    ...     scheduler.step()
    >>> scheduler.get_last_lr()
    [0.25]
    """

    relative = True
    """Whether a rate that somebody else has changed is changed further in proportion; else it is overwritten."""

    optimizer: Optimizer
    base_lrs: list[float]
    last_epoch: int
    _last_lr: list[float]

    def __init__(self, optimizer: Optimizer, last_epoch: int = -1) -> None:
        self._belong(optimizer)
        for number, group in enumerate(optimizer.param_groups):
            if last_epoch == -1:
                group.setdefault("initial_lr", group["lr"])
            elif "initial_lr" not in group:
                raise StateError(
                    f"{type(self).__name__} with last_epoch={last_epoch}: parameter group {number} has no 'initial_lr'; load the "
                    "optimizer's state first, or leave last_epoch out to begin anew"
                )
        self.base_lrs = [group["initial_lr"] for group in optimizer.param_groups]
        self.last_epoch = last_epoch
        self._step_count = 0
        self._begin()

    def _belong(self, optimizer: Optimizer) -> None:
        require_optimizer(type(self).__name__, optimizer)
        self.optimizer = optimizer
        self._loads: int | None = optimizer.loads
        """The optimizer's ``loads`` that this schedule knows of; None: its own state came along."""

    def _notice_load(self) -> None:
        """Say it when the optimizer goes on from saved state and this schedule does not."""
        if self._loads is not None and self._loads != self.optimizer.loads:
            warnings.warn(
                f"the optimizer's state was loaded, that of its {type(self).__name__} was not: it goes on from its own count of "
                f'{self.last_epoch}. Give it to Checkpointer(state={{"schedule": scheduler}}), or load its state_dict()',
                stacklevel=5,
            )
        self._loads = self.optimizer.loads

    def _begin(self) -> None:
        """The first rate. With a ``last_epoch`` it is the formula's, else what is there counts as the rate before it."""
        self._step_count = 0
        if self.last_epoch == -1:
            self._advance() if is_void() else self.step()
        else:
            self._step_count = 1
            self._jump(self.last_epoch + 1)

    def rate(self, index: int, epoch: float) -> float:
        """The learning rate of group ``index`` after ``epoch`` steps."""
        raise NotImplementedError(f"{type(self).__name__} defines neither rate() nor get_lr()")

    def follow(self, index: int, lr: float, before: float, now: float) -> float:
        """What becomes of a rate ``lr`` that was not ``before``, which the formula had given, where it gives ``now``."""
        return lr * (now / before) if before else now

    def get_lr(self) -> list[float]:
        """The rates of all groups at ``last_epoch``, from those of one step before; ask :meth:`get_last_lr` for the present ones."""
        return [self._next(index, group["lr"]) for index, group in enumerate(self.optimizer.param_groups)]

    def _next(self, index: int, lr: float) -> float:
        now = self.rate(index, self.last_epoch)
        if not self.relative:
            return now
        before = self.rate(index, self.last_epoch - 1) if self.last_epoch > 0 else self.base_lrs[index]
        return now if lr == before else self.follow(index, lr, before, now)

    def get_last_lr(self) -> list[float]:
        """The rates that this schedule set last, by group."""
        return list(self._last_lr)

    @live
    def step(self, epoch: float | None = None) -> None:
        """Go one step on, or to ``epoch``; after ``optimizer.step()``. A step that is void does not count."""
        if not is_void():
            self._advance(epoch)

    def _advance(self, epoch: float | None = None) -> None:
        """:meth:`step`, also within another schedule's."""
        if self._step_count == 1 and not self.optimizer.updates:
            warnings.warn(
                f"{type(self).__name__}.step() came before the first optimizer.step(): the first rate of the schedule is never "
                "used; call optimizer.step() first",
                stacklevel=4,
            )
        self._notice_load()
        self._step_count += 1
        self._know_groups()
        if epoch is not None:
            self._jump(epoch)
        else:
            self.last_epoch += 1
            self._set(self.get_lr())

    def _know_groups(self) -> None:
        """Groups that were added later."""
        for group in self.optimizer.param_groups[len(self.base_lrs) :]:
            group.setdefault("initial_lr", group["lr"])
            self.base_lrs.append(group["initial_lr"])

    def _jump(self, epoch: float) -> None:
        """To the formula's rates at ``epoch``, whatever the present ones are."""
        self.last_epoch = int(epoch)
        if type(self).rate is LRScheduler.rate:
            self._set(self.get_lr())
        else:
            self._set([self.rate(index, epoch) for index in range(len(self.optimizer.param_groups))])

    def _set(self, rates: Sequence[float]) -> None:
        for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
        self._last_lr = [group["lr"] for group in self.optimizer.param_groups]

    def _restart(self) -> None:
        """As if made now: a schedule that others begin later."""
        self.last_epoch = -1
        self._begin()

    def state_dict(self) -> dict[str, Any]:
        """Everything but the optimizer and functions: numbers, texts and lists. The optimizer's own state has the present rates."""
        kept = {key: value for key, value in self.__dict__.items() if key not in ("optimizer", "_loads")}
        return {key: value for key, value in kept.items() if not callable(value)}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take what :meth:`state_dict` gave, options included. Raises StateError for the state of another kind of schedule."""
        missing = sorted(self.state_dict().keys() - state_dict.keys())
        if missing:
            raise StateError(
                f"{type(self).__name__}: the state lacks {', '.join(missing)}; it is of another kind of schedule"
            )
        self.__dict__.update({key: value for key, value in state_dict.items() if key in self.__dict__})
        self._loads = None


def require_optimizer(schedule: str, optimizer: Any) -> None:
    """Raises TypeError for what is none."""
    if not isinstance(optimizer, Optimizer):
        raise TypeError(f"{schedule} expects an Optimizer, got {type(optimizer).__name__}")


def by_group(schedule: str, name: str, value: Any, groups: Sequence[Options]) -> list[float]:
    """One number for each group, from one for all or a list."""
    if not isinstance(value, list | tuple):
        return [value] * len(groups)
    if len(value) != len(groups):
        raise RangeError(f"{schedule} expects {len(groups)} values of {name}, one a parameter group, got {len(value)}")
    return list(value)
