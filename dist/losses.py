"""The losses of a step, which a GPU may still be computing while the host goes on."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..core.backend import cupy, device_kind
from ..core.kernels.cuda.scalars import pinned


class Later:
    """A number that a GPU is computing. ``float`` of it waits for what the stream had been given until then, and for no more."""

    __slots__ = ("_copied", "_host", "_value")

    def __init__(self, array: Any) -> None:
        self._host = pinned(array.nbytes).view(array.dtype).reshape(array.shape)
        array.get(out=self._host, blocking=False)
        self._copied = cupy().cuda.Event(disable_timing=True)
        self._copied.record(cupy().cuda.get_current_stream())
        self._value: float | None = None

    def __float__(self) -> float:
        if self._value is None:
            self._copied.synchronize()
            self._value = float(self._host)
        return self._value


Loss = float | Later


def loss_of(array: Any, check: Callable[[float], None]) -> Loss:
    """The sum of the elements of ``array``; where it lies on the host at once, and ``check`` sees it if it is not finite."""
    if type(array) is not np.ndarray and device_kind(array) != "cpu":
        return Later(array.sum())
    loss = float(array.item() if array.size == 1 else array.sum())
    if not math.isfinite(loss):
        check(loss)
    return loss


class StepLoss:
    """The mean loss of the last completed step."""

    def __init__(self) -> None:
        self._value: float | None = None
        self._losses: Sequence[Loss] = ()
        self._scale: float | None = None

    @property
    def value(self) -> float | None:
        """None before the first step; waits for a GPU that is computing it."""
        if self._losses:
            self._value, self._losses = sum(map(float, self._losses), 0.0), ()
        return self._value if self._value is None or self._scale is None else self._value / self._scale

    def was_scaled(self, scale: float) -> None:
        """It had been multiplied by ``scale`` for the gradients' sake; who is the first to say so in a step is heard."""
        if self._scale is None:
            self._scale = scale

    def set(self, value: float) -> None:
        """The mean over all shards."""
        self._value, self._losses, self._scale = value, (), None

    def alone(self, losses: Sequence[Loss], check: Callable[[float], None]) -> None:
        """One rank without shards: nothing is waited for, so a loss that is still being computed is looked at a step later."""
        for loss in self._losses:
            if isinstance(loss, Later):
                check(float(loss))
        self._losses, self._scale = list(losses), None
