"""Callbacks with Keras's hooks, called by the Trainer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ...callbacks.base import Callback as Own

Logs = dict[str, Any]


class Callback(Own):
    """Base of callbacks with Keras's hooks; ``self.model`` and ``self.params`` are set, hooks run on every rank.

    ``logs`` holds exact values over all ranks, equal on all of them. Whoever writes or prints does so where
    ``self.is_main`` is true.

    >>> from phalanx import keras
    >>> class Tell(keras.callbacks.Callback):
    ...     def on_epoch_end(self, epoch, logs=None):
    ...         print(epoch, list(logs))
    >>> model = keras.Sequential([keras.layers.Dense(1)])
    >>> model.compile("sgd", "mse")
    >>> history = model.fit(np.ones((4, 2)), np.ones(4), verbose=0, callbacks=[Tell()])
    0 ['loss']
    """

    model: Any = None
    params: dict[str, Any] = {}

    def set_model(self, model: Any) -> None:
        """Called before a fit."""
        self.model = model

    def set_params(self, params: dict[str, Any]) -> None:
        """Called before a fit: ``epochs``, ``steps`` and ``verbose``."""
        self.params = params

    @property
    def is_main(self) -> bool:
        """Whether this rank is the one that writes."""
        return self.trainer is None or self.trainer.group.rank == 0

    def on_train_begin(self, logs: Any = None) -> None:
        """Before the first epoch."""

    def on_train_end(self, logs: Any = None) -> None:
        """After the last epoch."""

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Before an epoch."""

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """After an epoch and its validation."""

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        """Before a step of an epoch."""
        self.on_batch_begin(batch, logs)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """After a step; ``logs`` has the loss of its batch."""
        self.on_batch_end(batch, logs)

    def on_batch_begin(self, batch: int, logs: Any = None) -> None:
        """The old name of on_train_batch_begin."""

    def on_batch_end(self, batch: int, logs: Any = None) -> None:
        """The old name of on_train_batch_end."""

    def on_test_begin(self, logs: Any = None) -> None:
        """Before an evaluation."""

    def on_test_end(self, logs: Any = None) -> None:
        """After an evaluation."""

    # -- the Trainer's hooks ----------------------------------------------------------------------------------------

    def on_fit_begin(self, logs: Logs) -> None:
        self.on_train_begin({})

    def on_fit_end(self, logs: Logs) -> None:
        self.on_train_end(logs)

    def on_step_begin(self, step: int, logs: Logs) -> None:
        self.on_train_batch_begin(self.trainer.steps_in_epoch, {})

    def on_step_end(self, step: int, logs: Logs) -> None:
        self.on_train_batch_end(self.trainer.steps_in_epoch - 1, logs)

    def on_evaluate_begin(self, logs: Logs) -> None:
        self.on_test_begin({})

    def on_evaluate_end(self, logs: Logs) -> None:
        self.on_test_end(logs)


class LambdaCallback(Callback):
    """Hooks given as functions, by their names.

    >>> from phalanx import keras
    >>> tell = keras.callbacks.LambdaCallback(on_train_end=lambda logs: print("done"))
    >>> tell.on_train_end({})
    done
    """

    def __init__(
        self,
        on_epoch_begin: Callable[..., Any] | None = None,
        on_epoch_end: Callable[..., Any] | None = None,
        on_train_begin: Callable[..., Any] | None = None,
        on_train_end: Callable[..., Any] | None = None,
        on_train_batch_begin: Callable[..., Any] | None = None,
        on_train_batch_end: Callable[..., Any] | None = None,
        **hooks: Callable[..., Any],
    ) -> None:
        given = {
            "on_epoch_begin": on_epoch_begin, "on_epoch_end": on_epoch_end, "on_train_begin": on_train_begin,
            "on_train_end": on_train_end, "on_train_batch_begin": on_train_batch_begin,
            "on_train_batch_end": on_train_batch_end, **hooks,
        }  # fmt: skip
        for name, function in given.items():
            if function is None:
                continue
            if not hasattr(Callback, name):
                raise TypeError(f"LambdaCallback does not know the hook {name}")
            setattr(self, name, function)


class History(Callback):
    """What ``fit`` returns: ``history``, a dict of lists of the epochs' numbers, ``epoch``, ``params``, ``model``.

    >>> from phalanx import keras
    >>> model = keras.Sequential([keras.layers.Dense(1)])
    >>> model.compile("sgd", "mse")
    >>> history = model.fit(np.ones((4, 2)), np.ones(4), epochs=2, verbose=0)
    >>> list(history.history), history.epoch
    (['loss'], [0, 1])
    """

    def __init__(self) -> None:
        self.history: dict[str, list[Any]] = {}
        self.epoch: list[int] = []

    def take(self, found: Any) -> None:
        """The numbers of the Trainer's history."""
        self.epoch = list(found.epoch)
        self.history = {
            name: [value if getattr(value, "ndim", 0) else float(value) for value in values]
            for name, values in found.history.items()
        }
