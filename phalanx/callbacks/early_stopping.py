"""Ends a fit that does not get better any more."""

from __future__ import annotations

from typing import Any

from ..core.errors import RangeError
from .base import Callback, Logs
from .monitor import Monitor


class EarlyStopping(Callback):
    """Stop when ``monitor`` has not improved by more than ``min_delta`` for ``patience`` epochs (of those with validation).

    Args:
        monitor: a name in the logs of an epoch.
        mode: ``"min"``, ``"max"``, or ``"auto"``: by the name.
        baseline: the value to beat; until then no epoch counts as an improvement.
        restore_best_weights: at the end of the fit put back parameters and buffers of the best epoch.
        start_from_epoch: so many epochs at the beginning are not judged.

    All ranks stop after the same epoch; the counters are part of checkpoints. Prechelt, "Early Stopping - But When?", 1998.

    >>> stopping = phalanx.callbacks.EarlyStopping("val_accuracy", patience=3, restore_best_weights=True)
    >>> stopping.best is None
    True
    """

    def __init__(
        self,
        monitor: str = "val_loss",
        *,
        min_delta: float = 0.0,
        patience: int = 0,
        mode: str = "auto",
        baseline: float | None = None,
        restore_best_weights: bool = False,
        start_from_epoch: int = 0,
    ) -> None:
        if patience < 0:
            raise RangeError(f"EarlyStopping expects patience of at least 0 epochs, got {patience!r}")
        self.monitor = Monitor("EarlyStopping", monitor, mode, abs(min_delta))
        self.patience, self.baseline = patience, baseline
        self.restore_best_weights, self.start_from_epoch = restore_best_weights, start_from_epoch
        self.reset()

    def reset(self) -> None:
        self.best: float | None = self.baseline
        """The best value so far."""
        self.best_epoch: int | None = None
        self.wait = 0
        """Epochs since then."""
        self._weights: dict[str, Any] = {}

    def on_epoch_end(self, epoch: int, logs: Logs) -> None:
        value = self.monitor.value(logs, self.trainer.validated)
        if value is None or epoch < self.start_from_epoch:
            return
        if self.monitor.better(value, self.best):
            self.best, self.best_epoch, self.wait = value, epoch, 0
            if self.restore_best_weights:
                with self.trainer.evaluated_weights():
                    state = self.trainer.model.state_dict()
                    self._weights = {name: tensor.array.copy() for name, tensor in state.items()}
            return
        self.wait += 1
        if self.wait >= max(1, self.patience):
            best = "" if self.best is None else f" than {self.best:.6g}"
            self.trainer.stop(f"EarlyStopping: {self.monitor.name} is no better{best} for {self.wait} epochs")

    def on_fit_end(self, logs: Logs) -> None:
        if self._weights:
            self.trainer.model.load_state_dict(self._weights)

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "best_epoch": self.best_epoch, "wait": self.wait, "weights": self._weights}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.best, self.best_epoch, self.wait = state["best"], state["best_epoch"], state["wait"]
        self._weights = dict(state["weights"])
