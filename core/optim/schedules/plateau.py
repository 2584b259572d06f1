"""A rate that is lowered when a metric no longer gets better."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import SupportsFloat

from ...errors import RangeError
from ...void import is_void
from ..optimizer import Optimizer
from .base import LRScheduler, by_group


class ReduceLROnPlateau(LRScheduler):
    """Multiply rates by ``factor`` when the metric was not better for more than ``patience`` steps.

    Better is less ("min") or more ("max") by ``threshold``, a share of the best so far ("rel") or a difference ("abs"). After a
    reduction ``cooldown`` steps count as good. ``min_lr``: one number, or one a group; changes below ``eps`` are left out.
    On several ranks ``step(metric)`` needs the same number on all of them: what ``phalanx.evaluate`` returns, or
    ``model.step_loss``. A metric that is not a number is never better.

    >>> optimizer = optim.SGD(nn.Linear(1, 1).parameters(), lr=0.8)
    >>> scheduler = optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=1)
    >>> for loss in (1.0, 0.9, 0.9, 0.9):
    ...     scheduler.step(loss)
    >>> scheduler.get_last_lr()
    [0.4]
    """

    def __init__(
        self,
        optimizer: Optimizer,
        mode: str = "min",
        factor: float = 0.1,
        patience: int = 10,
        threshold: float = 1e-4,
        threshold_mode: str = "rel",
        cooldown: int = 0,
        min_lr: float | Sequence[float] = 0.0,
        eps: float = 1e-8,
    ) -> None:
        self._belong(optimizer)
        if not factor < 1.0:
            raise RangeError(f"ReduceLROnPlateau expects a factor below 1, got {factor!r}")
        if mode not in ("min", "max"):
            raise RangeError(f"ReduceLROnPlateau expects mode 'min' or 'max', got {mode!r}")
        if threshold_mode not in ("rel", "abs"):
            raise RangeError(f"ReduceLROnPlateau expects threshold_mode 'rel' or 'abs', got {threshold_mode!r}")
        self.mode, self.factor, self.patience, self.threshold = mode, factor, patience, threshold
        self.threshold_mode, self.cooldown, self.eps = threshold_mode, cooldown, eps
        self.min_lrs = by_group("ReduceLROnPlateau", "min_lr", min_lr, optimizer.param_groups)
        self.last_epoch = 0
        self.best = math.inf if mode == "min" else -math.inf
        self.num_bad_epochs = self.cooldown_counter = 0
        self._last_lr = [group["lr"] for group in optimizer.param_groups]

    @property
    def in_cooldown(self) -> bool:
        """Whether steps count as good because of a reduction a short while ago."""
        return self.cooldown_counter > 0

    def step(self, metrics: SupportsFloat, epoch: int | None = None) -> None:  # type: ignore[override]
        """Take the metric of one more epoch (or of whatever interval), the same on all ranks."""
        if is_void():
            return
        self._notice_load()
        current = float(metrics)
        self.last_epoch = self.last_epoch + 1 if epoch is None else epoch
        if self._is_better(current):
            self.best, self.num_bad_epochs = current, 0
        else:
            self.num_bad_epochs += 1
        if self.in_cooldown:
            self.cooldown_counter -= 1
            self.num_bad_epochs = 0
        if self.num_bad_epochs > self.patience:
            self._reduce()
            self.cooldown_counter, self.num_bad_epochs = self.cooldown, 0
        self._last_lr = [group["lr"] for group in self.optimizer.param_groups]

    def _is_better(self, current: float) -> bool:
        sign = -1.0 if self.mode == "min" else 1.0
        if self.threshold_mode == "rel":
            limit = self.best * (1.0 + sign * self.threshold)
        else:
            limit = self.best + sign * self.threshold
        return current < limit if self.mode == "min" else current > limit

    def _reduce(self) -> None:
        self.min_lrs += self.min_lrs[-1:] * (len(self.optimizer.param_groups) - len(self.min_lrs))
        for group, least in zip(self.optimizer.param_groups, self.min_lrs, strict=True):
            lowered = max(group["lr"] * self.factor, least)
            if group["lr"] - lowered > self.eps:
                group["lr"] = lowered

    def get_lr(self) -> list[float]:
        """The present rates."""
        return [group["lr"] for group in self.optimizer.param_groups]
