"""Progress as Keras shows it, once a job."""

from __future__ import annotations

import sys
import time
from typing import Any

import numpy as np

from ...progress_bar import is_shown
from .base import Callback

_BAR = "━"
_WIDTH = 20
_EVERY_S = 0.1
"""How often a line on a terminal is written anew."""


class ProgbarLogger(Callback):
    """Keras's lines: ``Epoch 1/5``, then steps, a bar, times and numbers; ``verbose=2`` without the bar.

    >>> from phalanx import keras
    >>> keras.callbacks.ProgbarLogger(verbose=2).verbose
    2
    """

    place = 60

    def __init__(self, verbose: int = 1) -> None:
        self.verbose = verbose
        self._shown = 0.0

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """The first line of an epoch."""
        self._began, self._first = time.monotonic(), self.trainer.step
        if self.is_main:
            print(f"Epoch {epoch + 1}/{self.trainer.epochs}", flush=True)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """On a terminal the line of the steps so far."""
        now = time.monotonic()
        if self.verbose == 1 and is_shown() and now - self._shown > _EVERY_S:
            self._shown = now
            print(f"\r{self._line(batch + 1, logs or {})}\x1b[K", end="", flush=True)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """The line of the epoch."""
        if not self.is_main:
            return
        steps = self.trainer.step - self._first
        head = "\r" if self.verbose == 1 and is_shown() else ""
        tail = "\x1b[K" if head else ""
        print(f"{head}{self._line(steps, logs or {}, done=True)}{tail}", flush=True)

    def _line(self, steps: int, logs: dict[str, Any], done: bool = False) -> str:
        total = steps if done else self.trainer.steps_per_epoch or steps
        seconds = time.monotonic() - self._began
        each = 1000.0 * seconds / max(1, steps)
        per_step = f"{each:.0f}ms/step" if each < 10_000 else f"{each / 1000:.0f}s/step"
        numbers = words(logs)
        if self.verbose == 2:
            return f"{steps}/{total} - {seconds:.0f}s - {per_step} - {numbers}"
        filled = _WIDTH * steps // max(1, total)
        bar = _BAR * filled + " " * (_WIDTH - filled)
        return f"{steps}/{total} {bar} {seconds:.0f}s {per_step} - {numbers}"


def words(logs: dict[str, Any]) -> str:
    """``accuracy: 0.9 - loss: 0.3 - val_accuracy: ...``: by name, those of the validation behind.

    >>> words({"loss": 0.25, "val_loss": 0.5, "accuracy": 1.0})
    'accuracy: 1.0000 - loss: 0.2500 - val_loss: 0.5000'
    """
    order = sorted(logs, key=lambda name: (name.startswith("val_"), name))
    return " - ".join(f"{name}: {_number(logs[name])}" for name in order if not np.ndim(logs[name]))


def _number(value: Any) -> str:
    value = float(value)
    return f"{value:.4f}" if value == 0 or 1e-3 <= abs(value) < 1e6 else f"{value:.4e}"


def say(trainer: Any, logs: dict[str, Any]) -> None:
    """The line of an evaluation."""
    if trainer.group.rank == 0:
        print(words(logs), file=sys.stdout, flush=True)
