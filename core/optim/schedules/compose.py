"""Schedules made of others: one after the other, all at once, after a warm-up."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from typing import Any

from ...errors import RangeError
from ..optimizer import Optimizer
from .base import LRScheduler
from .plateau import ReduceLROnPlateau


def _require_parts(name: str, optimizer: Any, schedulers: Sequence[Any]) -> None:
    """Schedules of this optimizer that need no metric."""
    if not schedulers:
        raise RangeError(f"{name} expects at least one schedule, got none")
    for number, part in enumerate(schedulers):
        if not isinstance(part, LRScheduler):
            raise TypeError(f"{name} expects schedules, got {type(part).__name__} at place {number}")
        if isinstance(part, ReduceLROnPlateau):
            raise RangeError(f"{name} cannot hold ReduceLROnPlateau (place {number}): its step() needs a metric")
        if part.optimizer is not optimizer:
            raise RangeError(f"{name}: the schedule at place {number} ({type(part).__name__}) is of another optimizer")


class _Composed(LRScheduler):
    """Holds schedules and saves their state with its own."""

    _schedulers: list[LRScheduler]

    def get_lr(self) -> list[float]:
        """The present rates."""
        return [group["lr"] for group in self.optimizer.param_groups]

    def _jump(self, epoch: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = group["initial_lr"]
        self._restart()
        for _ in range(int(epoch)):
            self._advance()

    def _restart(self) -> None:
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        """Its own numbers, and ``_schedulers``: the state of each part."""
        parts = [part.state_dict() for part in self._schedulers]
        return {**super().state_dict(), "_schedulers": parts}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take what :meth:`state_dict` gave, for equal parts."""
        parts = state_dict.get("_schedulers", [])
        if len(parts) != len(self._schedulers):
            raise RangeError(
                f"{type(self).__name__}: the state is of {len(parts)} schedules, here are {len(self._schedulers)}"
            )
        super().load_state_dict({**state_dict, "_schedulers": self._schedulers})
        for part, state in zip(self._schedulers, parts, strict=True):
            part.load_state_dict(state)


class SequentialLR(_Composed):
    """One schedule after the other: ``schedulers[i]`` from step ``milestones[i - 1]`` on, each from its own beginning.

    >>> optimizer = optim.SGD(nn.Linear(1, 1).parameters(), lr=0.8)
    >>> first = optim.lr_scheduler.ConstantLR(optimizer, factor=0.25, total_iters=2)
    >>> second = optim.lr_scheduler.ExponentialLR(optimizer, gamma=0.5)
    >>> scheduler = optim.lr_scheduler.SequentialLR(optimizer, [first, second], milestones=[2])
    >>> seen = scheduler.get_last_lr()
    >>> for _ in range(3):
    ...     optimizer.step()
    ...     scheduler.step()
    ...     seen += scheduler.get_last_lr()
    >>> seen
    [0.2, 0.2, 0.8, 0.4]
    """

    def __init__(
        self, optimizer: Optimizer, schedulers: Sequence[LRScheduler], milestones: Sequence[int], last_epoch: int = -1
    ) -> None:
        self._belong(optimizer)
        _require_parts("SequentialLR", optimizer, schedulers)
        if len(milestones) != len(schedulers) - 1:
            raise RangeError(
                f"SequentialLR expects one milestone less than schedules, got {len(milestones)} milestones for {len(schedulers)}"
            )
        self._schedulers, self._milestones = list(schedulers), list(milestones)
        self._restart()
        self.last_epoch = last_epoch + 1

    def _restart(self) -> None:
        self.last_epoch = 0
        for group in self.optimizer.param_groups:
            group["lr"] = group["initial_lr"]
        first = self._schedulers[bisect_right(self._milestones, 0)]
        first._restart()
        self._last_lr = first.get_last_lr()

    def _advance(self, epoch: float | None = None) -> None:
        """With the schedule whose turn it is."""
        if epoch is not None:
            self._jump(epoch)
            return
        self.last_epoch += 1
        turn = bisect_right(self._milestones, self.last_epoch)
        if turn and self._milestones[turn - 1] == self.last_epoch:
            self._schedulers[turn]._jump(0)
        else:
            self._schedulers[turn]._advance()
        self._last_lr = self._schedulers[turn].get_last_lr()


class ChainedScheduler(_Composed):
    """Several schedules at once: each changes what the one before it has made of the rates.

    >>> optimizer = optim.SGD(nn.Linear(1, 1).parameters(), lr=0.8)
    >>> warm = optim.lr_scheduler.ConstantLR(optimizer, factor=0.5, total_iters=2)
    >>> decay = optim.lr_scheduler.ExponentialLR(optimizer, gamma=0.5)
    >>> scheduler = optim.lr_scheduler.ChainedScheduler([warm, decay])
    >>> seen = scheduler.get_last_lr()
    >>> for _ in range(3):
    ...     optimizer.step()
    ...     scheduler.step()
    ...     seen += scheduler.get_last_lr()
    >>> seen
    [0.4, 0.2, 0.2, 0.1]
    """

    def __init__(self, schedulers: Sequence[LRScheduler], optimizer: Optimizer | None = None) -> None:
        optimizer = optimizer or getattr(next(iter(schedulers), None), "optimizer", None)
        _require_parts("ChainedScheduler", optimizer, schedulers)
        assert optimizer is not None
        self._belong(optimizer)
        self._schedulers = list(schedulers)
        self._last_lr = self.get_lr()

    def _restart(self) -> None:
        for part in self._schedulers:
            part._restart()
        self._last_lr = self.get_lr()

    def _advance(self, epoch: float | None = None) -> None:
        if epoch is not None:
            self._jump(epoch)
            return
        for part in self._schedulers:
            part._advance()
        self._last_lr = self.get_lr()


class WarmupLR(_Composed):
    """A line up to the full rate over ``warmup_steps`` steps, then another schedule from its own beginning.

    Step t of the warm-up (from 0) has the share ``start_factor + (1 - start_factor) (t + 1) / warmup_steps`` of the rate that
    ``after`` begins with; without ``after`` the rate stays. Goyal et al., "Accurate, large minibatch SGD", 2017.

    >>> optimizer = optim.SGD(nn.Linear(1, 1).parameters(), lr=0.8)
    >>> cosine = optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=4)
    >>> scheduler = optim.lr_scheduler.WarmupLR(optimizer, warmup_steps=2, after=cosine)
    >>> seen = scheduler.get_last_lr()
    >>> for _ in range(4):
    ...     optimizer.step()
    ...     scheduler.step()
    ...     seen += scheduler.get_last_lr()
    >>> [round(rate, 3) for rate in seen]
    [0.4, 0.8, 0.8, 0.683, 0.4]
    """

    def __init__(
        self,
        optimizer: Optimizer,
        warmup_steps: int,
        after: LRScheduler | None = None,
        start_factor: float = 0.0,
    ) -> None:
        self._belong(optimizer)
        if warmup_steps < 1:
            raise RangeError(f"WarmupLR expects warmup_steps of at least 1, got {warmup_steps!r}")
        if not 0 <= start_factor <= 1:
            raise RangeError(f"WarmupLR expects a start_factor in [0, 1], got {start_factor!r}")
        if after is not None:
            _require_parts("WarmupLR", optimizer, [after])
        self._schedulers = [] if after is None else [after]
        self.warmup_steps, self.start_factor = warmup_steps, start_factor
        for group in optimizer.param_groups:
            group.setdefault("initial_lr", group["lr"])
        self._restart()

    def _restart(self) -> None:
        for part in self._schedulers:
            part._jump(0)
        self.base_lrs = self.get_lr()
        self.last_epoch = -1
        self._advance()

    def _advance(self, epoch: float | None = None) -> None:
        if epoch is not None:
            self._jump(epoch)
            return
        self._notice_load()
        self.last_epoch += 1
        if self.last_epoch < self.warmup_steps:
            share = self.start_factor + (1.0 - self.start_factor) * (self.last_epoch + 1) / self.warmup_steps
            self._set([base * share for base in self.base_lrs])
        elif self._schedulers:
            (after,) = self._schedulers
            after._jump(0) if self.last_epoch == self.warmup_steps else after._advance()
            self._last_lr = after.get_last_lr()
        else:
            self._set(self.base_lrs)
