"""The weights alone, as files that other programs read."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from ..core.errors import CheckpointError, RangeError
from ..model_io.state import save
from .base import Callback, Logs
from .monitor import Monitor


class ModelCheckpoint(Callback):
    """Write the model's state to a safetensors file, as :func:`phalanx.save` does; rank 0 writes.

    Args:
        filepath: of the file; ``{epoch}`` (from 1), ``{step}`` and names of the epoch's logs are filled in:
            ``"weights/{epoch:02d}-{val_loss:.3f}.safetensors"``. A name without them is written over.
        monitor, mode: a name in the epoch's logs; ``"min"``, ``"max"``, or ``"auto"``: by the name.
        save_best_only: only when ``monitor`` has improved; else after every epoch.
        save_freq: ``"epoch"``, or a number of steps (then ``monitor`` does not count).

    With :class:`EMA` these are the averaged weights. What a fit resumes from is a :class:`Checkpoint`. A write that fails is told and training goes on.

    >>> best = phalanx.callbacks.ModelCheckpoint("best.safetensors", "val_accuracy", save_best_only=True)
    >>> best.best is None
    True
    """

    place = 60

    def __init__(
        self,
        filepath: str | os.PathLike[str],
        monitor: str = "val_loss",
        *,
        save_best_only: bool = False,
        mode: str = "auto",
        save_freq: str | int = "epoch",
    ) -> None:
        if save_freq != "epoch" and (not isinstance(save_freq, int) or isinstance(save_freq, bool) or save_freq < 1):
            raise RangeError(
                f'ModelCheckpoint expects save_freq "epoch" or a number of steps of at least 1, got {save_freq!r}'
            )
        if save_best_only and save_freq != "epoch":
            raise RangeError('ModelCheckpoint: save_best_only looks at whole epochs: save_freq="epoch"')
        self.filepath, self.save_freq = os.fspath(filepath), save_freq
        self.monitor = Monitor("ModelCheckpoint", monitor, mode) if save_best_only else None
        self.reset()

    def reset(self) -> None:
        self.best: float | None = None
        """The best value so far, with ``save_best_only``."""
        self.path: Path | None = None
        """The file that was written last."""

    def on_step_end(self, step: int, logs: Logs) -> None:
        if isinstance(self.save_freq, int) and self.trainer.step % self.save_freq == 0:
            self._save(self.trainer.epoch, logs)

    def on_epoch_end(self, epoch: int, logs: Logs) -> None:
        if self.save_freq != "epoch":
            return
        if self.monitor is not None:
            value = self.monitor.value(logs, self.trainer.validated)
            if value is None or not self.monitor.better(value, self.best):
                return
            self.best = value
        self._save(epoch, logs)

    def _save(self, epoch: int, logs: Logs) -> None:
        try:
            path = Path(self.filepath.format(**logs | {"epoch": epoch + 1, "step": self.trainer.step}))
        except (KeyError, IndexError, ValueError) as error:
            names = ", ".join(["epoch", "step", *logs])
            raise RangeError(
                f"ModelCheckpoint: {self.filepath!r} cannot be filled in ({error}); there are: {names}"
            ) from error
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with self.trainer.evaluated_weights():
                save(self.trainer.module, path)
            self.path = path
        except (CheckpointError, OSError) as problem:
            print(f"phalanx: weights not written: {problem}; training goes on", file=sys.stderr, flush=True)

    def state_dict(self) -> dict[str, Any]:
        return {} if self.monitor is None else {"best": self.best}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.best = state["best"]
