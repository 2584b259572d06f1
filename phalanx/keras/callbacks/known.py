"""Keras's callbacks on those of phalanx: stopping, saving, logging, learning rates."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from ... import callbacks as own
from ...callbacks.monitor import Monitor
from ...core.errors import RangeError
from .base import Callback, Logs


def mode_of(monitor: str, mode: str) -> str:
    """As Keras guesses: more is better of accuracies, AUC and F scores, less of all else."""
    if mode != "auto":
        return mode
    more = ("acc", "auc", "precision", "recall", "f1", "r2")
    return "max" if any(word in monitor.lower() for word in more) else "min"


class EarlyStopping(own.EarlyStopping):
    """Stop when ``monitor`` has not improved by more than ``min_delta`` for ``patience`` epochs; on all ranks together.

    >>> from phalanx import keras
    >>> keras.callbacks.EarlyStopping(monitor="val_loss", patience=3, restore_best_weights=True).patience
    3
    """

    def __init__(
        self,
        monitor: str = "val_loss",
        min_delta: float = 0,
        patience: int = 0,
        verbose: int = 0,
        mode: str = "auto",
        baseline: float | None = None,
        restore_best_weights: bool = False,
        start_from_epoch: int = 0,
    ) -> None:
        super().__init__(
            monitor, min_delta=min_delta, patience=patience, mode=mode_of(monitor, mode), baseline=baseline,
            restore_best_weights=restore_best_weights, start_from_epoch=start_from_epoch,
        )  # fmt: skip
        self.verbose, self.stopped_epoch = verbose, 0

    def on_epoch_end(self, epoch: int, logs: Logs) -> None:
        """Judge."""
        before = self.wait
        super().on_epoch_end(epoch, logs)
        if self.wait > before and self.wait >= max(1, self.patience):
            self.stopped_epoch = epoch
            if self.verbose and self.trainer.group.rank == 0:
                print(f"Epoch {epoch + 1}: early stopping", flush=True)


class ReduceLROnPlateau(own.ReduceLROnPlateau):
    """Multiply the rate by ``factor`` when ``monitor`` has not improved for ``patience`` epochs.

    >>> from phalanx import keras
    >>> plateau = keras.callbacks.ReduceLROnPlateau(monitor="val_loss", factor=0.2, patience=5, min_lr=0.001)
    """

    def __init__(
        self,
        monitor: str = "val_loss",
        factor: float = 0.1,
        patience: int = 10,
        verbose: int = 0,
        mode: str = "auto",
        min_delta: float = 0.0001,
        cooldown: int = 0,
        min_lr: float = 0.0,
    ) -> None:
        super().__init__(
            monitor, factor, max(0, patience - 1), mode=mode_of(monitor, mode), min_delta=min_delta, cooldown=cooldown,
            min_lr=min_lr,
        )  # fmt: skip


class LearningRateScheduler(own.LRScheduler):
    """Set the rate before each epoch: ``schedule(epoch, lr) -> lr``.

    >>> from phalanx import keras
    >>> halve = keras.callbacks.LearningRateScheduler(lambda epoch, lr: lr * 0.5)
    """

    def __init__(self, schedule: Callable[..., float], verbose: int = 0) -> None:
        super().__init__(schedule)
        self.verbose = verbose

    def on_epoch_begin(self, epoch: int, logs: Logs) -> None:
        """Ask the schedule."""
        super().on_epoch_begin(epoch, logs)
        if self.verbose and self.trainer.group.rank == 0:
            rate = self.trainer.optimizer.param_groups[0]["lr"]
            print(f"\nEpoch {epoch + 1}: LearningRateScheduler setting learning rate to {rate}.", flush=True)

    def on_epoch_end(self, epoch: int, logs: Logs) -> None:
        """As Keras: the rate is one of the epoch's numbers."""
        super().on_epoch_end(epoch, logs)
        logs["learning_rate"] = float(self.trainer.optimizer.param_groups[0]["lr"])


class ModelCheckpoint(Callback):
    """Save the model, or its weights, after each epoch or so many steps; rank 0 writes.

    Args:
        filepath: where to; ``{epoch:02d}`` (from 1) and names of the logs are filled in: ``"{epoch:02d}-{val_loss:.2f}.keras"``.
        save_best_only: only where ``monitor`` has improved. save_weights_only: weights alone (``load_weights`` reads them).
        save_freq: ``"epoch"`` or a number of steps.

    To go on with an interrupted fit use BackupAndRestore.

    >>> from phalanx import keras
    >>> keras.callbacks.ModelCheckpoint("best.keras", save_best_only=True).monitor.name
    'val_loss'
    """

    place = 90

    def __init__(
        self,
        filepath: str | os.PathLike[str],
        monitor: str = "val_loss",
        verbose: int = 0,
        save_best_only: bool = False,
        save_weights_only: bool = False,
        mode: str = "auto",
        save_freq: str | int = "epoch",
        initial_value_threshold: float | None = None,
    ) -> None:
        if save_freq != "epoch" and (not isinstance(save_freq, int) or save_freq < 1):
            raise RangeError(f'ModelCheckpoint expects save_freq "epoch" or a number of steps, got {save_freq!r}')
        self.filepath, self.verbose = os.fspath(filepath), verbose
        self.save_best_only, self.save_weights_only, self.save_freq = save_best_only, save_weights_only, save_freq
        self.monitor = Monitor("ModelCheckpoint", monitor, mode_of(monitor, mode))
        self.start = initial_value_threshold
        self.reset()

    def reset(self) -> None:
        """A fit begins."""
        self.best: float | None = self.start

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Save after so many steps."""
        if isinstance(self.save_freq, int) and self.trainer.step % self.save_freq == 0:
            self._save(self.trainer.epoch, dict(logs or {}) | {"batch": batch + 1})

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Save after an epoch."""
        if self.save_freq != "epoch":
            return
        value = None
        if self.save_best_only:
            value = self.monitor.value(logs, self.trainer.validated)
            if value is None or not self.monitor.better(value, self.best):
                return
        path = self._save(epoch, logs)
        if self.verbose and self.is_main:
            words = "" if value is None else f"{self.monitor.name} improved from {self.best} to {value:.5f}, "
            print(f"\nEpoch {epoch + 1}: {words}saving model to {path}", flush=True)
        self.best = value if value is not None else self.best

    def _save(self, epoch: int, logs: Any) -> str:
        path = self.filepath.format(epoch=epoch + 1, **logs)
        if self.save_weights_only:
            self.model.save_weights(path)
        else:
            self.model.save(path)
        return path

    def state_dict(self) -> dict[str, Any]:
        """The best value."""
        return {"best": self.best}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take it."""
        self.best = state["best"]


class BackupAndRestore(own.BackupAndRestore):
    """Go on after an interruption, at any number of ranks, to the bit with shards.

    >>> from phalanx import keras
    >>> backup = keras.callbacks.BackupAndRestore("run/backup")
    """

    def __init__(
        self, backup_dir: str | os.PathLike[str], save_freq: str | int = "epoch", double_checkpoint: bool = False,
        delete_checkpoint: bool = True,
    ) -> None:  # fmt: skip
        super().__init__(backup_dir, save_freq)


class CSVLogger(own.CSVLogger):
    """Write the numbers of each epoch to a CSV file.

    >>> from phalanx import keras
    >>> logger = keras.callbacks.CSVLogger("run/log.csv")
    """


class TensorBoard(own.TensorBoard):
    """Write event files for TensorBoard to ``log_dir``.

    >>> from phalanx import keras
    >>> board = keras.callbacks.TensorBoard(log_dir="run/board", histogram_freq=1)
    """

    def __init__(
        self,
        log_dir: str | os.PathLike[str] = "logs",
        histogram_freq: int = 0,
        write_graph: bool = True,
        write_images: bool = False,
        write_steps_per_second: bool = False,
        update_freq: str | int = "epoch",
        profile_batch: Any = 0,
        embeddings_freq: int = 0,
        embeddings_metadata: Any = None,
    ) -> None:
        steps = update_freq if isinstance(update_freq, int) else 1 if update_freq == "batch" else None
        super().__init__(log_dir, every_steps=steps, histograms=histogram_freq or None)


class TerminateOnNaN(own.TerminateOnNaN):
    """End the fit when a loss is NaN or infinite. Without it such a loss is an error here.

    >>> from phalanx import keras
    >>> stop = keras.callbacks.TerminateOnNaN()
    """
