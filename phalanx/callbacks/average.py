"""Averaged weights in a fit."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

from ..core.optim import EMA as Average
from .base import Callback, Logs


class EMA(Callback):
    """Keep an exponential moving average of the weights (:class:`optim.EMA`) and evaluate with it.

    Args:
        decay: of the average, per step; or an ``optim.EMA`` made before.
        warmup: forget the start sooner, as ``optim.EMA`` does.
        keep: at the end of the fit the model has the averaged weights.

    Validation, ``trainer.evaluate`` and ``trainer.predict`` see the averaged weights, and the best weights of EarlyStopping and
    ModelCheckpoint are those; training goes on with its own. A Checkpoint holds both.

    >>> model = nn.Linear(2, 1)
    >>> average = phalanx.callbacks.EMA(0.9)
    >>> trainer = phalanx.Trainer(model, optim.SGD(model.parameters(), lr=0.1), nn.MSELoss(), callbacks=[average])
    >>> x = np.ones((4, 2), np.float32)
    >>> history = trainer.fit((x, x[:, :1]), epochs=3, verbose=0)
    >>> average.average.updates
    3
    """

    place = -8

    def __init__(self, decay: float | Average = 0.999, *, warmup: bool = False, keep: bool = False) -> None:
        self.keep = keep
        self.average: Average | None = decay if isinstance(decay, Average) else None
        self._options: dict[str, Any] = {"decay": decay, "warmup": warmup}

    def reset(self) -> None:
        if self.average is None:
            self.average = Average(self.trainer.module, **self._options)

    def on_step_end(self, step: int, logs: Logs) -> None:
        self._made.update()

    def evaluated_weights(self) -> AbstractContextManager[Any]:
        return nullcontext() if self.average is None else self.average.swapped()

    def on_fit_end(self, logs: Logs) -> None:
        if self.keep:
            self._made.copy_to()

    def state_dict(self) -> dict[str, Any]:
        return {"average": self._made.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._made.load_state_dict(state["average"])

    @property
    def _made(self) -> Average:
        assert self.average is not None  # reset() makes it
        return self.average
