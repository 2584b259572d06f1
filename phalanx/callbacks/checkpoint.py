"""Saves a fit so that any number of ranks goes on with it, or has its best weights."""

from __future__ import annotations

import os
import sys
from typing import Any

from ..core.errors import CheckpointError, RangeError
from .base import Callback, Logs
from .monitor import Monitor

_KEEP = {"last": 3, "best": 1, "all": None}


class Checkpoint(Callback):
    """Save model, optimizer, position in the data, history and the state of all callbacks, as :class:`phalanx.Checkpointer` does.

    Args:
        directory: where the checkpoints are; all ranks must see the same folder.
        save: ``"last"``: the newest few; ``"all"``: every one; ``"best"``: when ``monitor`` has improved.
        every: ``"epoch"``, or a number of steps (not with ``"best"``; the end of the fit is saved too).
        monitor, mode: with ``"best"``: a name in the epoch's logs; ``"min"``, ``"max"``, or ``"auto"``: by the name.
        keep: so many of the newest remain; by default 3 of the last, 1 best, all of all.
        keep_every: those of steps that are multiples of it remain, too.
        background: write while training goes on, as :class:`phalanx.Checkpointer` does (``every`` must be a number of steps).

    ``fit()`` resumes from the newest checkpoint of the first Checkpoint that saves "last" or "all", at any number of ranks, also
    in the middle of an epoch. With such a one SIGTERM and SIGUSR1 save and end the job. A save that fails is told and
    training goes on. ``trainer.load_weights(directory)`` takes the weights alone.

    >>> best = phalanx.callbacks.Checkpoint("run/best", save="best", monitor="val_accuracy")
    >>> best.resumable
    False
    """

    place = 100

    def __init__(
        self,
        directory: str | os.PathLike[str],
        save: str = "last",
        *,
        every: str | int = "epoch",
        monitor: str = "val_loss",
        mode: str = "auto",
        keep: int | None = None,
        keep_every: int | None = None,
        background: bool = False,
    ) -> None:
        if save not in _KEEP:
            raise RangeError(f'Checkpoint expects save "last", "best" or "all", got {save!r}')
        if every != "epoch" and (not isinstance(every, int) or isinstance(every, bool) or every < 1):
            raise RangeError(
                f'Checkpoint expects every to be "epoch" or a number of steps of at least 1, got {every!r}'
            )
        if save == "best" and every != "epoch":
            raise RangeError(f'Checkpoint: save="best" looks at whole epochs, every={every!r} does not go with it')
        if background and every == "epoch":
            raise RangeError(
                "Checkpoint: background=True belongs to every=<number of steps>; the end of an epoch is waited for"
            )
        self.directory, self.every, self.keep_every, self.background = directory, every, keep_every, background
        self.keep = _KEEP[save] if keep is None else keep
        self.resumable = save != "best"
        """Whether a fit goes on from it."""
        self.monitor = None if self.resumable else Monitor("Checkpoint", monitor, mode)
        if not self.resumable:
            self.place = 90  # so that the last one knows of the best
        self._checkpointer: Any = None
        self.reset()

    def reset(self) -> None:
        self.best: float | None = None
        """The best value so far, with ``save="best"``."""
        self.best_epoch: int | None = None

    def open(self, *, main: bool) -> Any:
        """Make the :class:`phalanx.Checkpointer` of this fit; ``main``: it is asked after each step."""
        steps = self.every if isinstance(self.every, int) else None
        self._main = main
        self._checkpointer = self.trainer.checkpointer(
            self.directory, every=steps, keep=self.keep, keep_every=self.keep_every, background=self.background
        )
        return self._checkpointer

    def on_step_end(self, step: int, logs: Logs) -> None:
        if self._main:
            self._checkpointer.after_step()
        elif isinstance(self.every, int) and self.trainer.step % self.every == 0:
            self._save()

    def on_epoch_end(self, epoch: int, logs: Logs) -> None:
        if self.monitor is not None:
            value = self.monitor.value(logs, self.trainer.validated)
            if value is None or not self.monitor.better(value, self.best):
                return
            self.best, self.best_epoch = value, epoch
        elif self.every != "epoch" and not self.trainer.ends:
            return
        self._save()

    def on_fit_end(self, logs: Logs) -> None:
        if self.background:
            self._checkpointer.wait()

    def _save(self) -> None:
        try:
            self._checkpointer.save()
        except CheckpointError as problem:  # on all ranks alike
            if self.trainer.group.rank == 0:
                step = self.trainer.step
                print(
                    f"phalanx: no checkpoint after step {step}: {problem}; training goes on",
                    file=sys.stderr,
                    flush=True,
                )

    def close(self) -> None:
        self._checkpointer = None

    def state_dict(self) -> dict[str, Any]:
        return {} if self.monitor is None else {"best": self.best, "best_epoch": self.best_epoch}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.best, self.best_epoch = state["best"], state["best_epoch"]


class BackupAndRestore(Checkpoint):
    """Go on after an interruption: one checkpoint at a time in ``backup_dir``, from which ``fit()`` resumes.

    ``save_freq``: ``"epoch"``, or a number of steps. Keras's name for ``Checkpoint(backup_dir, every=save_freq, keep=1)``; the
    checkpoint stays when the fit is done, so that starting it again does nothing.

    >>> phalanx.callbacks.BackupAndRestore("run/backup", save_freq=100).keep
    1
    """

    def __init__(self, backup_dir: str | os.PathLike[str], save_freq: str | int = "epoch") -> None:
        super().__init__(backup_dir, every=save_freq, keep=1)
