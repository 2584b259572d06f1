"""How far a fit is: a bar on a terminal, a line for each epoch elsewhere; one a job."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from ..core.errors import RangeError
from ..progress_bar import is_shown, new_bar
from .base import Callback, Logs


class ProgressBar(Callback):
    """Show the steps of the current epoch as a bar where rank 0 has a terminal, and print one line for each epoch.

    ``bar=False``: lines only. ``fit(verbose=...)`` makes one: ``"auto"`` or 1 with a bar, 2 without, 0 none.

    >>> model = nn.Linear(2, 1)
    >>> trainer = phalanx.Trainer(model, optim.SGD(model.parameters(), lr=0.1), nn.MSELoss())
    >>> x = np.ones((4, 2), np.float32)
    >>> history = trainer.fit((x, x[:, :1]), epochs=2, verbose=2)  # doctest: +ELLIPSIS
    epoch 1/2, 1 step, ... s: loss ...
    epoch 2/2, 1 step, ... s: loss ...
    """

    place = 30

    def __init__(self, bar: bool = True) -> None:
        self.with_bar = bar
        self._bar: Any = None

    def on_epoch_begin(self, epoch: int, logs: Logs) -> None:
        self._began, self._first_step = time.monotonic(), self.trainer.step
        if self.with_bar and is_shown():
            done, total = self.trainer.steps_in_epoch, self.trainer.steps_per_epoch
            self._bar = new_bar()
            self._bar.start()
            self._task = self._bar.add_task(
                f"epoch {epoch + 1}/{self.trainer.epochs}", total=total, completed=done, rate=""
            )

    def on_step_end(self, step: int, logs: Logs) -> None:
        if self._bar is not None:
            self._bar.advance(self._task)
            speed = self._bar.tasks[0].speed
            rate = f"{speed:.1f}/s" if speed else ""
            self._bar.update(self._task, rate=f"{rate} {_numbers({'loss': logs['loss']})}")

    def on_epoch_end(self, epoch: int, logs: Logs) -> None:
        self.close()
        if self.trainer.group.rank == 0:
            steps, seconds = self.trainer.step - self._first_step, time.monotonic() - self._began
            print(
                f"epoch {epoch + 1}/{self.trainer.epochs}, {steps} step{'s' * (steps != 1)}, {seconds:.1f} s: {_numbers(logs)}",
                flush=True,
            )

    def on_fit_end(self, logs: Logs) -> None:
        if self.trainer.stopped and self.trainer.group.rank == 0:
            print(f"stopped after step {self.trainer.step}: {self.trainer.stopped}", flush=True)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def for_verbosity(verbose: str | int | bool) -> list[Callback]:
    """The callbacks that ``fit(verbose=...)`` stands for."""
    if verbose not in ("auto", 0, 1, 2):
        raise RangeError(f'fit expects verbose "auto", 0, 1 or 2, got {verbose!r}')
    return [ProgressBar(bar=verbose != 2)] if verbose else []


def _numbers(logs: Logs) -> str:
    """Not arrays, such as a confusion matrix."""
    shown = {name: value for name, value in logs.items() if not np.ndim(value)}
    return ", ".join(
        f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}" for name, value in shown.items()
    )
