"""Small callbacks: end at NaN, functions as hooks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .base import Callback

HOOKS = (
    "on_fit_begin", "on_fit_end", "on_epoch_begin", "on_epoch_end", "on_step_begin", "on_step_end", "on_evaluate_begin",
    "on_evaluate_end", "on_predict_begin", "on_predict_end",
)  # fmt: skip


class TerminateOnNaN(Callback):
    """End the fit in order when a loss is NaN or infinite: on all ranks at that step, before anything is updated.

    Rank 0 prints the step and the first layer whose output is not finite. Without this callback such a loss is an error
    (:class:`NonFiniteError`) that says the same.

    >>> model = nn.Linear(2, 1)
    >>> trainer = phalanx.Trainer(model, optim.SGD(model.parameters(), lr=0.1), nn.MSELoss())
    >>> x = np.full((4, 2), np.nan, np.float32)
    >>> history = trainer.fit((x, x[:, :1]), verbose=0, callbacks=[phalanx.callbacks.TerminateOnNaN()])
    >>> trainer.stopped
    'rank 0 of 1: the loss is nan in step 0; the first value that is not finite is in input'
    """

    tolerates_nan = True


class LambdaCallback(Callback):
    """Hooks given as functions, by their names: ``hooks`` are those of :class:`Callback`.

    >>> model = nn.Linear(2, 1)
    >>> trainer = phalanx.Trainer(model, optim.SGD(model.parameters(), lr=0.1), nn.MSELoss())
    >>> x = np.ones((4, 2), np.float32)
    >>> told = phalanx.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: print("epoch", epoch))
    >>> history = trainer.fit((x, x[:, :1]), verbose=0, callbacks=[told])
    epoch 0
    """

    def __init__(self, **hooks: Callable[..., Any]) -> None:
        unknown = sorted(hooks.keys() - set(HOOKS))
        if unknown:
            raise TypeError(f"LambdaCallback does not know the hooks {', '.join(unknown)}; it knows {', '.join(HOOKS)}")
        for name, function in hooks.items():
            if not callable(function):
                raise TypeError(f"LambdaCallback expects a function for {name}, got {function!r}")
            setattr(self, name, function)
