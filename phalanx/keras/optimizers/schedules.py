"""Learning rates that follow the step, by Keras's names: ``schedule(step)`` gives the rate."""

from __future__ import annotations

import math
from typing import Any

from ...core.errors import RangeError
from ..described import Described


class LearningRateSchedule(Described):
    """Base of schedules: ``__call__(step)`` gives the rate of that step, counted from 0.

    >>> from phalanx import keras
    >>> class Halved(keras.optimizers.schedules.LearningRateSchedule):
    ...     def __call__(self, step):
    ...         return 0.1 * 0.5**step
    >>> Halved()(1)
    0.05
    """

    def __call__(self, step: Any) -> float:
        raise NotImplementedError(f"{type(self).__name__} defines no __call__(step)")

    def get_config(self) -> dict[str, Any]:
        """The arguments."""
        return {key: value for key, value in vars(self).items() if not key.startswith("_")}


class ExponentialDecay(LearningRateSchedule):
    """``initial_learning_rate * decay_rate^(step / decay_steps)``; whole powers only with ``staircase``.

    >>> from phalanx import keras
    >>> keras.optimizers.schedules.ExponentialDecay(0.1, decay_steps=10, decay_rate=0.5)(10)
    0.05
    """

    def __init__(
        self,
        initial_learning_rate: float,
        decay_steps: int,
        decay_rate: float,
        staircase: bool = False,
        name: str = "ExponentialDecay",
    ) -> None:
        if decay_steps <= 0:
            raise RangeError(f"ExponentialDecay expects decay_steps above 0, got {decay_steps!r}")
        self.initial_learning_rate, self.decay_steps = initial_learning_rate, decay_steps
        self.decay_rate, self.staircase = decay_rate, staircase

    def __call__(self, step: Any) -> float:
        power = step / self.decay_steps
        return self.initial_learning_rate * self.decay_rate ** (math.floor(power) if self.staircase else power)


class PiecewiseConstantDecay(LearningRateSchedule):
    """``values[0]`` up to and with step ``boundaries[0]``, then ``values[1]``, and so on.

    >>> from phalanx import keras
    >>> keras.optimizers.schedules.PiecewiseConstantDecay([10], [0.1, 0.01])(11)
    0.01
    """

    def __init__(self, boundaries: Any, values: Any, name: str = "PiecewiseConstant") -> None:
        if len(values) != len(boundaries) + 1:
            raise RangeError(
                f"PiecewiseConstantDecay expects one value more than boundaries, got {len(values)} and {len(boundaries)}"
            )
        self.boundaries, self.values = list(boundaries), list(values)

    def __call__(self, step: Any) -> float:
        return next((v for b, v in zip(self.boundaries, self.values, strict=False) if step <= b), self.values[-1])


class PolynomialDecay(LearningRateSchedule):
    """``(initial - end) * (1 - step / decay_steps)^power + end``, ``end_learning_rate`` afterwards, or again with ``cycle``.

    >>> from phalanx import keras
    >>> keras.optimizers.schedules.PolynomialDecay(0.5, 10, end_learning_rate=0.0)(5)
    0.25
    """

    def __init__(
        self,
        initial_learning_rate: float,
        decay_steps: int,
        end_learning_rate: float = 0.0001,
        power: float = 1.0,
        cycle: bool = False,
        name: str = "PolynomialDecay",
    ) -> None:
        self.initial_learning_rate, self.decay_steps = initial_learning_rate, decay_steps
        self.end_learning_rate, self.power, self.cycle = end_learning_rate, power, cycle

    def __call__(self, step: Any) -> float:
        length = self.decay_steps * (max(1, math.ceil(step / self.decay_steps)) if self.cycle else 1)
        left = 1.0 - min(step, length) / length
        return (self.initial_learning_rate - self.end_learning_rate) * left**self.power + self.end_learning_rate


class InverseTimeDecay(LearningRateSchedule):
    """``initial_learning_rate / (1 + decay_rate * step / decay_steps)``; whole steps only with ``staircase``.

    >>> from phalanx import keras
    >>> keras.optimizers.schedules.InverseTimeDecay(0.5, 10, 1.0)(10)
    0.25
    """

    def __init__(
        self,
        initial_learning_rate: float,
        decay_steps: int,
        decay_rate: float,
        staircase: bool = False,
        name: str = "InverseTimeDecay",
    ) -> None:
        self.initial_learning_rate, self.decay_steps = initial_learning_rate, decay_steps
        self.decay_rate, self.staircase = decay_rate, staircase

    def __call__(self, step: Any) -> float:
        part = step / self.decay_steps
        return self.initial_learning_rate / (1.0 + self.decay_rate * (math.floor(part) if self.staircase else part))


class CosineDecay(LearningRateSchedule):
    """Half a cosine from ``initial_learning_rate`` to ``alpha`` times it, behind a linear warm-up to ``warmup_target`` if wanted.

    >>> from phalanx import keras
    >>> keras.optimizers.schedules.CosineDecay(0.5, 10)(10)
    0.0
    """

    def __init__(
        self,
        initial_learning_rate: float,
        decay_steps: int,
        alpha: float = 0.0,
        name: str = "CosineDecay",
        warmup_target: float | None = None,
        warmup_steps: int = 0,
    ) -> None:
        self.initial_learning_rate, self.decay_steps, self.alpha = initial_learning_rate, decay_steps, alpha
        self.warmup_target, self.warmup_steps = warmup_target, warmup_steps

    def __call__(self, step: Any) -> float:
        top = self.initial_learning_rate
        if self.warmup_target is not None:
            if step < self.warmup_steps:
                return top + (self.warmup_target - top) * step / self.warmup_steps
            top, step = self.warmup_target, step - self.warmup_steps
        cosine = 0.5 * (1.0 + math.cos(math.pi * min(step, self.decay_steps) / self.decay_steps))
        return top * ((1.0 - self.alpha) * cosine + self.alpha)


class CosineDecayRestarts(LearningRateSchedule):
    """Cosines one after another: each ``t_mul`` times as long and ``m_mul`` times as high as that before.

    >>> from phalanx import keras
    >>> keras.optimizers.schedules.CosineDecayRestarts(0.5, 10)(10)
    0.5
    """

    def __init__(
        self,
        initial_learning_rate: float,
        first_decay_steps: int,
        t_mul: float = 2.0,
        m_mul: float = 1.0,
        alpha: float = 0.0,
        name: str = "SGDRDecay",
    ) -> None:
        self.initial_learning_rate, self.first_decay_steps = initial_learning_rate, first_decay_steps
        self.t_mul, self.m_mul, self.alpha = t_mul, m_mul, alpha

    def __call__(self, step: Any) -> float:
        length, height = float(self.first_decay_steps), 1.0
        while step >= length:
            step, length, height = step - length, length * self.t_mul, height * self.m_mul
        cosine = 0.5 * height * (1.0 + math.cos(math.pi * step / length))
        return self.initial_learning_rate * ((1.0 - self.alpha) * cosine + self.alpha)


__all__ = [
    "CosineDecay",
    "CosineDecayRestarts",
    "ExponentialDecay",
    "InverseTimeDecay",
    "LearningRateSchedule",
    "PiecewiseConstantDecay",
    "PolynomialDecay",
]
