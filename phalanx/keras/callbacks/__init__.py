"""Callbacks by Keras's names, on those of the Trainer; decisions are agreed by all ranks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from ...callbacks.base import Callback as _Own
from ...callbacks.base import CallbackList as _List
from ...dist.evaluation import predict as _predict
from .base import Callback, History, LambdaCallback
from .known import (
    BackupAndRestore,
    CSVLogger,
    EarlyStopping,
    LearningRateScheduler,
    ModelCheckpoint,
    ReduceLROnPlateau,
    TensorBoard,
    TerminateOnNaN,
)
from .progress import ProgbarLogger
from .progress import say as say

__all__ = [
    "BackupAndRestore",
    "CSVLogger",
    "Callback",
    "EarlyStopping",
    "History",
    "LambdaCallback",
    "LearningRateScheduler",
    "ModelCheckpoint",
    "ProgbarLogger",
    "ReduceLROnPlateau",
    "TensorBoard",
    "TerminateOnNaN",
]


class _Follow(_Own):
    """Moves the learning rate by a schedule of steps."""

    place = -20

    def __init__(self, optimizer: Any) -> None:
        self.optimizer = optimizer

    def on_step_begin(self, step: int, logs: Any) -> None:
        self.optimizer.before_step(self.trainer.step)


def _listed(callbacks: Any) -> list[Any]:
    if callbacks is None:
        return []
    return list(callbacks) if isinstance(callbacks, Iterable) else [callbacks]


def for_fit(model: Any, callbacks: Any, verbose: Any, epochs: int, class_weight: Any) -> list[Any]:
    """The callbacks of a fit: those given, a History, the lines that ``verbose`` asks for, the optimizer's schedule."""
    if verbose not in ("auto", 0, 1, 2):
        raise ValueError(f'fit expects verbose "auto", 0, 1 or 2, got {verbose!r}')
    given = _listed(callbacks)
    if not any(isinstance(callback, History) for callback in given):
        given.append(History())
    level = 1 if verbose == "auto" else int(verbose)
    if level and not any(isinstance(callback, ProgbarLogger) for callback in given):
        given.append(ProgbarLogger(level))
    if getattr(model.optimizer, "schedule", None) is not None:
        given.append(_Follow(model.optimizer))
    for callback in given:
        if isinstance(callback, Callback):
            callback.set_model(model)
            callback.set_params({"epochs": epochs, "steps": None, "verbose": level})
    return given


@contextmanager
def alone(model: Any, trainer: Any, callbacks: Any) -> Iterator[None]:
    """Within, the callbacks of an evaluation or prediction of its own are there."""
    given = _listed(callbacks)
    if not given or trainer is None:
        yield
        return
    for callback in given:
        if isinstance(callback, Callback):
            callback.set_model(model)
    before = trainer._active
    trainer._active = _List(trainer, [*trainer.callbacks, *given])
    try:
        yield
    finally:
        trainer._active = before


def predicted(runner: Any, data: Any, batch_size: int | None) -> Any:
    """By ``phalanx.predict``."""
    return _predict(runner, data, batch_size=batch_size)
