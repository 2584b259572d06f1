"""Schedules with one formula: steps, lines, exponentials, polynomials, cosines, and the user's own."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from ...errors import RangeError
from ..optimizer import Optimizer
from .base import LRScheduler


class StepLR(LRScheduler):
    """``lr = initial_lr gamma^(epoch // step_size)``.

    >>> optimizer = optim.SGD(nn.Linear(1, 1).parameters(), lr=0.8)
    >>> scheduler = optim.lr_scheduler.StepLR(optimizer, step_size=2, gamma=0.5)
    >>> [scheduler.rate(0, epoch) for epoch in range(5)]
    [0.8, 0.8, 0.4, 0.4, 0.2]
    """

    def __init__(self, optimizer: Optimizer, step_size: int, gamma: float = 0.1, last_epoch: int = -1) -> None:
        if step_size < 1:
            raise RangeError(f"StepLR expects a step_size of at least 1, got {step_size!r}")
        self.step_size, self.gamma = step_size, gamma
        super().__init__(optimizer, last_epoch)

    def rate(self, index: int, epoch: float) -> float:
        return self.base_lrs[index] * self.gamma ** (epoch // self.step_size)


class MultiStepLR(LRScheduler):
    """``lr = initial_lr gamma^n`` after n of the ``milestones``.

    >>> optimizer = optim.SGD(nn.Linear(1, 1).parameters(), lr=0.8)
    >>> scheduler = optim.lr_scheduler.MultiStepLR(optimizer, milestones=[1, 3], gamma=0.5)
    >>> [scheduler.rate(0, epoch) for epoch in range(5)]
    [0.8, 0.4, 0.4, 0.2, 0.2]
    """

    def __init__(
        self, optimizer: Optimizer, milestones: Iterable[int], gamma: float = 0.1, last_epoch: int = -1
    ) -> None:
        self.milestones, self.gamma = sorted(milestones), gamma
        super().__init__(optimizer, last_epoch)

    def rate(self, index: int, epoch: float) -> float:
        return self.base_lrs[index] * self.gamma ** bisect_right(self.milestones, epoch)


class ConstantLR(LRScheduler):
    """``lr = initial_lr factor`` for the first ``total_iters`` steps, then ``initial_lr``.

    >>> optimizer = optim.SGD(nn.Linear(1, 1).parameters(), lr=0.8)
    >>> scheduler = optim.lr_scheduler.ConstantLR(optimizer, factor=0.5, total_iters=2)
    >>> [scheduler.rate(0, epoch) for epoch in range(4)]
    [0.4, 0.4, 0.8, 0.8]
    """

    def __init__(
        self, optimizer: Optimizer, factor: float = 1.0 / 3, total_iters: int = 5, last_epoch: int = -1
    ) -> None:
        if not 0 <= factor <= 1:
            raise RangeError(f"ConstantLR expects a factor in [0, 1], got {factor!r}")
        self.factor, self.total_iters = factor, total_iters
        super().__init__(optimizer, last_epoch)

    def rate(self, index: int, epoch: float) -> float:
        return self.base_lrs[index] * (self.factor if epoch < self.total_iters else 1.0)


class LinearLR(LRScheduler):
    """From ``initial_lr start_factor`` to ``initial_lr end_factor`` along a line of ``total_iters`` steps.

    >>> optimizer = optim.SGD(nn.Linear(1, 1).parameters(), lr=0.8)
    >>> scheduler = optim.lr_scheduler.LinearLR(optimizer, start_factor=0.5, total_iters=2)
    >>> [round(scheduler.rate(0, epoch), 3) for epoch in range(4)]
    [0.4, 0.6, 0.8, 0.8]
    """

    def __init__(
        self,
        optimizer: Optimizer,
        start_factor: float = 1.0 / 3,
        end_factor: float = 1.0,
        total_iters: int = 5,
        last_epoch: int = -1,
    ) -> None:
        if not 0 < start_factor <= 1:
            raise RangeError(f"LinearLR expects a start_factor in (0, 1], got {start_factor!r}")
        if not 0 <= end_factor <= 1:
            raise RangeError(f"LinearLR expects an end_factor in [0, 1], got {end_factor!r}")
        if total_iters < 1:
            raise RangeError(f"LinearLR expects total_iters of at least 1, got {total_iters!r}")
        self.start_factor, self.end_factor, self.total_iters = start_factor, end_factor, total_iters
        super().__init__(optimizer, last_epoch)

    def rate(self, index: int, epoch: float) -> float:
        done = min(epoch, self.total_iters) / self.total_iters
        return self.base_lrs[index] * (self.start_factor + (self.end_factor - self.start_factor) * done)


class ExponentialLR(LRScheduler):
    """``lr = initial_lr gamma^epoch``.

    >>> optimizer = optim.SGD(nn.Linear(1, 1).parameters(), lr=0.8)
    >>> scheduler = optim.lr_scheduler.ExponentialLR(optimizer, gamma=0.5)
    >>> [scheduler.rate(0, epoch) for epoch in range(3)]
    [0.8, 0.4, 0.2]
    """

    def __init__(self, optimizer: Optimizer, gamma: float, last_epoch: int = -1) -> None:
        self.gamma = gamma
        super().__init__(optimizer, last_epoch)

    def rate(self, index: int, epoch: float) -> float:
        return self.base_lrs[index] * self.gamma**epoch


class PolynomialLR(LRScheduler):
    """``lr = initial_lr (1 - epoch / total_iters)^power``, 0 from ``total_iters`` on.

    >>> optimizer = optim.SGD(nn.Linear(1, 1).parameters(), lr=0.8)
    >>> scheduler = optim.lr_scheduler.PolynomialLR(optimizer, total_iters=4)
    >>> [round(scheduler.rate(0, epoch), 3) for epoch in range(6)]
    [0.8, 0.6, 0.4, 0.2, 0.0, 0.0]
    """

    def __init__(self, optimizer: Optimizer, total_iters: int = 5, power: float = 1.0, last_epoch: int = -1) -> None:
        if total_iters < 1:
            raise RangeError(f"PolynomialLR expects total_iters of at least 1, got {total_iters!r}")
        self.total_iters, self.power = total_iters, power
        super().__init__(optimizer, last_epoch)

    def rate(self, index: int, epoch: float) -> float:
        return self.base_lrs[index] * (1.0 - min(self.total_iters, epoch) / self.total_iters) ** self.power


class CosineAnnealingLR(LRScheduler):
    """``lr = eta_min + (initial_lr - eta_min) (1 + cos(pi epoch / T_max)) / 2``.

    Loshchilov and Hutter, "SGDR: stochastic gradient descent with warm restarts", ICLR 2017.

    >>> optimizer = optim.SGD(nn.Linear(1, 1).parameters(), lr=0.8)
    >>> scheduler = optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=4)
    >>> [round(scheduler.rate(0, epoch), 3) for epoch in range(5)]
    [0.8, 0.683, 0.4, 0.117, 0.0]
    """

    def __init__(self, optimizer: Optimizer, T_max: float, eta_min: float = 0.0, last_epoch: int = -1) -> None:
        if not T_max > 0:
            raise RangeError(f"CosineAnnealingLR expects T_max above 0, got {T_max!r}")
        self.T_max, self.eta_min = T_max, eta_min
        super().__init__(optimizer, last_epoch)

    def rate(self, index: int, epoch: float) -> float:
        return self.eta_min + (self.base_lrs[index] - self.eta_min) * (1 + math.cos(math.pi * epoch / self.T_max)) / 2

    def follow(self, index: int, lr: float, before: float, now: float) -> float:
        height = abs(self.base_lrs[index] - self.eta_min)
        if abs(before - self.eta_min) <= 1e-12 * height:  # at the bottom there is no proportion to keep
            return lr + (now - before)
        return (lr - self.eta_min) * (now - self.eta_min) / (before - self.eta_min) + self.eta_min


class CosineAnnealingWarmRestarts(LRScheduler):
    """A cosine from ``initial_lr`` to ``eta_min`` over ``T_0`` steps, begun anew each time, ``T_mult`` times as long.

    ``step(epoch)`` takes fractions: ``scheduler.step(epoch + batch / batches)``. Loshchilov and Hutter, "SGDR", ICLR 2017.

    >>> optimizer = optim.SGD(nn.Linear(1, 1).parameters(), lr=0.8)
    >>> scheduler = optim.lr_scheduler.CosineAnnealingWarmRestarts(optimizer, T_0=2, T_mult=2)
    >>> [round(scheduler.rate(0, epoch), 3) for epoch in range(7)]
    [0.8, 0.4, 0.8, 0.683, 0.4, 0.117, 0.8]
    """

    relative = False

    def __init__(
        self, optimizer: Optimizer, T_0: int, T_mult: int = 1, eta_min: float = 0.0, last_epoch: int = -1
    ) -> None:
        if not isinstance(T_0, int) or T_0 < 1 or not isinstance(T_mult, int) or T_mult < 1:
            raise RangeError(
                f"CosineAnnealingWarmRestarts expects T_0 and T_mult to be integers of at least 1, got {T_0!r} and {T_mult!r}"
            )
        self.T_0, self.T_mult, self.eta_min = T_0, T_mult, eta_min
        self._fraction = 0.0
        super().__init__(optimizer, last_epoch)

    def rate(self, index: int, epoch: float) -> float:
        at, length = self._place(epoch)
        return self.eta_min + (self.base_lrs[index] - self.eta_min) * (1 + math.cos(math.pi * at / length)) / 2

    def _place(self, epoch: float) -> tuple[float, int]:
        """Steps since the last restart, and steps between it and the next."""
        if self.T_mult == 1:
            return epoch % self.T_0, self.T_0
        length = self.T_0
        while epoch >= length:
            epoch -= length
            length *= self.T_mult
        return epoch, length

    @property
    def T_cur(self) -> float:
        """Steps since the last restart."""
        return self._place(self.last_epoch + self._fraction)[0]

    @property
    def T_i(self) -> int:
        """Steps between the last restart and the next."""
        return self._place(self.last_epoch + self._fraction)[1]

    def get_lr(self) -> list[float]:
        return [self.rate(index, self.last_epoch + self._fraction) for index in range(len(self.optimizer.param_groups))]

    def _jump(self, epoch: float) -> None:
        if epoch < 0:
            raise RangeError(f"CosineAnnealingWarmRestarts.step expects an epoch of at least 0, got {epoch!r}")
        super()._jump(epoch)
        self._fraction = epoch - self.last_epoch


Rule = Callable[[int], float]


class LambdaLR(LRScheduler):
    """``lr = initial_lr lr_lambda(epoch)``; a list has one function a parameter group.

    Functions are not saved; of other callables what ``__dict__`` holds.

    >>> optimizer = optim.SGD(nn.Linear(1, 1).parameters(), lr=0.8)
    >>> scheduler = optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: 1 / (1 + epoch))
    >>> [round(scheduler.rate(0, epoch), 3) for epoch in range(4)]
    [0.8, 0.4, 0.267, 0.2]
    """

    relative = False

    def __init__(self, optimizer: Optimizer, lr_lambda: Rule | Sequence[Rule], last_epoch: int = -1) -> None:
        self.lr_lambdas = rules_by_group(type(self).__name__, lr_lambda, optimizer)
        super().__init__(optimizer, last_epoch)

    def rate(self, index: int, epoch: float) -> float:
        return self.base_lrs[index] * self.lr_lambdas[min(index, len(self.lr_lambdas) - 1)](int(epoch))

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"lr_lambdas": [state_of_rule(rule) for rule in self.lr_lambdas]}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        super().load_state_dict({**state_dict, "lr_lambdas": self.lr_lambdas})
        for rule, state in zip(self.lr_lambdas, state_dict["lr_lambdas"], strict=True):
            if state is not None:
                rule.__dict__.update(state)


class MultiplicativeLR(LambdaLR):
    """``lr = lr lr_lambda(epoch)`` at each step: a product over all steps so far.

    >>> optimizer = optim.SGD(nn.Linear(1, 1).parameters(), lr=0.8)
    >>> scheduler = optim.lr_scheduler.MultiplicativeLR(optimizer, lambda epoch: 0.5)
    >>> for _ in range(2):
    ...     optimizer.step()
    ...     scheduler.step()
    >>> scheduler.get_last_lr()
    [0.2]
    """

    def rate(self, index: int, epoch: float) -> float:
        rule = self.lr_lambdas[min(index, len(self.lr_lambdas) - 1)]
        return self.base_lrs[index] * math.prod(rule(number) for number in range(1, int(epoch) + 1))

    def get_lr(self) -> list[float]:
        rules, groups = self.lr_lambdas, self.optimizer.param_groups
        if self.last_epoch <= 0:
            return [group["lr"] for group in groups]
        return [group["lr"] * rules[min(i, len(rules) - 1)](self.last_epoch) for i, group in enumerate(groups)]


def rules_by_group(schedule: str, given: Any, optimizer: Optimizer) -> list[Rule]:
    """One function for each group."""
    rules = list(given) if isinstance(given, list | tuple) else [given] * len(optimizer.param_groups)
    if len(rules) != len(optimizer.param_groups):
        raise RangeError(
            f"{schedule} expects {len(optimizer.param_groups)} functions, one a parameter group, got {len(rules)}"
        )
    for rule in rules:
        if not callable(rule):
            raise TypeError(f"{schedule} expects functions of the epoch, got {type(rule).__name__}")
    return rules


def state_of_rule(rule: Any) -> dict[str, Any] | None:
    """What is saved of the user's callable: nothing of a function."""
    return None if not hasattr(rule, "__dict__") or hasattr(rule, "__code__") else dict(rule.__dict__)
