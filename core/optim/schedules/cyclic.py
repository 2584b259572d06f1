"""Schedules that raise and lower the rate, and move momentum against it: one cycle, and triangles."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from ...errors import RangeError
from ..optimizer import Optimizer, Options
from .base import LRScheduler, by_group, require_optimizer

Numbers = float | Sequence[float]


class _Cycle(LRScheduler):
    """Sets momentum along with the rate."""

    relative = False
    cycle_momentum: bool
    use_beta1: bool

    def _take_momentum(self, optimizer: Optimizer, base: Numbers, largest: Numbers, anew: bool) -> None:
        """Each group's ``base_momentum`` and ``max_momentum``; raises RangeError for an optimizer that has no momentum."""
        name = type(self).__name__
        require_optimizer(name, optimizer)
        self.use_beta1 = "betas" in optimizer.defaults
        if not self.cycle_momentum:
            return
        if not self.use_beta1 and "momentum" not in optimizer.defaults:
            raise RangeError(
                f"{name}: {type(optimizer).__name__} has neither momentum nor betas; pass cycle_momentum=False"
            )
        groups = optimizer.param_groups
        lows, highs = (
            by_group(name, key, value, groups) for key, value in (("base_momentum", base), ("max_momentum", largest))
        )
        for group, low, high in zip(groups, lows, highs, strict=True):
            if anew:
                group["base_momentum"], group["max_momentum"] = low, high
                self._set_momentum(group, high)

    def _set_momentum(self, group: Options, value: float) -> None:
        if self.use_beta1:
            group["betas"] = (value, *group["betas"][1:])
        else:
            group["momentum"] = value

    def momentum(self, group: Options, epoch: float) -> float:
        """The momentum of a group after ``epoch`` steps."""
        raise NotImplementedError

    def _set(self, rates: Sequence[float]) -> None:
        super()._set(rates)
        if self.cycle_momentum:
            for group in self.optimizer.param_groups:
                self._set_momentum(group, self.momentum(group, self.last_epoch))


class _Phase(NamedTuple):
    """Up to which step, and between which of a group's numbers the rate and the momentum go."""

    end: float
    lr: tuple[str, str]
    momentum: tuple[str, str]


class OneCycleLR(_Cycle):
    """From ``max_lr / div_factor`` up to ``max_lr`` in ``pct_start`` of all steps, then down to ``1 / final_div_factor`` of the start.

    With ``three_phase`` down to the start as long as up, and the rest of the steps from there down. Momentum (or beta1) goes
    from ``max_momentum`` to ``base_momentum`` and back meanwhile. ``total_steps``, or ``epochs`` times ``steps_per_epoch``,
    counts optimizer steps: call ``step()`` after each. Raises RangeError beyond the last of them. Smith and Topin,
    "Super-convergence", 2017 (arXiv 1708.07120).

    >>> optimizer = optim.SGD(nn.Linear(1, 1).parameters(), lr=0.1, momentum=0.9)
    >>> scheduler = optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1.0, total_steps=10, anneal_strategy="linear")
    >>> [round(scheduler.rate(0, epoch), 2) for epoch in range(10)]
    [0.04, 0.52, 1.0, 0.86, 0.71, 0.57, 0.43, 0.29, 0.14, 0.0]
    """

    def __init__(
        self,
        optimizer: Optimizer,
        max_lr: Numbers,
        total_steps: int | None = None,
        epochs: int | None = None,
        steps_per_epoch: int | None = None,
        pct_start: float = 0.3,
        anneal_strategy: str = "cos",
        cycle_momentum: bool = True,
        base_momentum: Numbers = 0.85,
        max_momentum: Numbers = 0.95,
        div_factor: float = 25.0,
        final_div_factor: float = 1e4,
        three_phase: bool = False,
        last_epoch: int = -1,
    ) -> None:
        require_optimizer("OneCycleLR", optimizer)
        if total_steps is None and epochs is not None and steps_per_epoch is not None:
            total_steps = epochs * steps_per_epoch
        if not isinstance(total_steps, int) or total_steps < 1:
            raise RangeError(
                f"OneCycleLR expects total_steps, or epochs and steps_per_epoch, of at least 1, got {total_steps!r}, {epochs!r}, "
                f"{steps_per_epoch!r}"
            )
        if not 0 <= pct_start <= 1:
            raise RangeError(f"OneCycleLR expects pct_start in [0, 1], got {pct_start!r}")
        if anneal_strategy not in ("cos", "linear"):
            raise RangeError(f"OneCycleLR expects anneal_strategy to be 'cos' or 'linear', got {anneal_strategy!r}")
        self.total_steps, self.pct_start, self.three_phase = total_steps, float(pct_start), three_phase
        self.anneal_strategy, self.cycle_momentum = anneal_strategy, cycle_momentum
        largest = by_group("OneCycleLR", "max_lr", max_lr, optimizer.param_groups)
        self._take_momentum(optimizer, base_momentum, max_momentum, last_epoch == -1)
        if last_epoch == -1:
            for group, top in zip(optimizer.param_groups, largest, strict=True):
                group["initial_lr"], group["max_lr"] = top / div_factor, top
                group["min_lr"] = group["initial_lr"] / final_div_factor
        super().__init__(optimizer, last_epoch)

    def _phases(self) -> list[_Phase]:
        up, last = self.pct_start * self.total_steps - 1, float(self.total_steps - 1)
        rise = _Phase(up, ("initial_lr", "max_lr"), ("max_momentum", "base_momentum"))
        if not self.three_phase:
            return [rise, _Phase(last, ("max_lr", "min_lr"), ("base_momentum", "max_momentum"))]
        fall = _Phase(2 * up, ("max_lr", "initial_lr"), ("base_momentum", "max_momentum"))
        return [rise, fall, _Phase(last, ("initial_lr", "min_lr"), ("max_momentum", "max_momentum"))]

    def _between(self, group: Options, epoch: float, what: str) -> float:
        """The rate ("lr") or momentum of a group."""
        if epoch > self.total_steps:
            raise RangeError(
                f"OneCycleLR was made for {self.total_steps} steps, this is step {int(epoch)}; give it the steps of all epochs"
            )
        phases = self._phases()
        number = next((i for i, phase in enumerate(phases) if epoch <= phase.end), len(phases) - 1)
        phase, start = phases[number], phases[number - 1].end if number else 0.0
        low, high = (group[key] for key in (phase.lr if what == "lr" else phase.momentum))
        part = (epoch - start) / (phase.end - start) if phase.end > start else 1.0
        if self.anneal_strategy == "linear":
            return (high - low) * part + low
        return high + (low - high) / 2.0 * (math.cos(math.pi * part) + 1)

    def rate(self, index: int, epoch: float) -> float:
        return self._between(self.optimizer.param_groups[index], epoch, "lr")

    def momentum(self, group: Options, epoch: float) -> float:
        return self._between(group, epoch, "momentum")


class CyclicLR(_Cycle):
    """Triangles between ``base_lr`` and ``max_lr``: ``step_size_up`` steps up, ``step_size_down`` down, again and again.

    ``mode`` scales the height: "triangular" not, "triangular2" halves it with each cycle, "exp_range" takes ``gamma^step``; or
    give ``scale_fn``, a function of the cycle (from 1) or of the step as ``scale_mode`` says ("cycle", "iterations").
    Momentum (or beta1) goes the other way. Smith, "Cyclical learning rates for training neural networks", WACV 2017.

    >>> optimizer = optim.SGD(nn.Linear(1, 1).parameters(), lr=0.1, momentum=0.9)
    >>> scheduler = optim.lr_scheduler.CyclicLR(optimizer, base_lr=0.0, max_lr=1.0, step_size_up=2)
    >>> [scheduler.rate(0, epoch) for epoch in range(6)]
    [0.0, 0.5, 1.0, 0.5, 0.0, 0.5]
    """

    def __init__(
        self,
        optimizer: Optimizer,
        base_lr: Numbers,
        max_lr: Numbers,
        step_size_up: int = 2000,
        step_size_down: int | None = None,
        mode: str = "triangular",
        gamma: float = 1.0,
        scale_fn: Callable[[float], float] | None = None,
        scale_mode: str = "cycle",
        cycle_momentum: bool = True,
        base_momentum: Numbers = 0.8,
        max_momentum: Numbers = 0.9,
        last_epoch: int = -1,
    ) -> None:
        require_optimizer("CyclicLR", optimizer)
        if scale_fn is None and mode not in ("triangular", "triangular2", "exp_range"):
            raise RangeError(f"CyclicLR expects mode 'triangular', 'triangular2' or 'exp_range', got {mode!r}")
        if scale_fn is None:
            scale_mode = "iterations" if mode == "exp_range" else "cycle"
        self.mode, self.gamma, self.scale_fn, self.scale_mode = mode, gamma, scale_fn, scale_mode
        self.step_size_up, self.step_size_down = (
            step_size_up,
            step_size_up if step_size_down is None else step_size_down,
        )
        groups, self.cycle_momentum = optimizer.param_groups, cycle_momentum
        bases = by_group("CyclicLR", "base_lr", base_lr, groups)
        self.max_lrs = by_group("CyclicLR", "max_lr", max_lr, groups)
        self._take_momentum(optimizer, base_momentum, max_momentum, last_epoch == -1)
        for group, base in zip(groups, bases, strict=True):
            if last_epoch == -1:
                group["lr"] = group["initial_lr"] = base
        super().__init__(optimizer, last_epoch)

    def _height(self, epoch: float) -> float:
        """Where between base (0) and top (1)."""
        total = self.step_size_up + self.step_size_down
        cycle = math.floor(1 + epoch / total)
        at, up = 1.0 + epoch / total - cycle, self.step_size_up / total
        height = at / up if at <= up else (at - 1) / (up - 1)
        if self.scale_fn is not None:
            return height * self.scale_fn(cycle if self.scale_mode == "cycle" else epoch)
        if self.mode == "triangular2":
            return height / 2.0 ** (cycle - 1)
        return height * self.gamma**epoch if self.mode == "exp_range" else height

    def rate(self, index: int, epoch: float) -> float:
        base = self.base_lrs[index]
        return base + (self.max_lrs[min(index, len(self.max_lrs) - 1)] - base) * self._height(epoch)

    def momentum(self, group: Options, epoch: float) -> float:
        return group["max_momentum"] - (group["max_momentum"] - group["base_momentum"]) * self._height(epoch)

    def state_dict(self) -> dict[str, Any]:
        """As of every schedule; ``scale_fn`` is not saved."""
        return {key: value for key, value in super().state_dict().items() if key != "scale_fn"}
