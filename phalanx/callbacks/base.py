"""What a callback is: hooks that a Trainer calls, and state that its checkpoints keep."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from ..core.errors import RangeError

Logs = dict[str, Any]
"""Numbers by name, equal on all ranks. Each callback gets the same dict and may add to it."""


class Callback:
    """Base class: override the hooks that are wanted. ``self.trainer`` is the :class:`phalanx.Trainer` that calls.

    Hooks are called on every rank at the same place, so that a callback may communicate; whoever prints or writes does so on
    rank 0 alone. ``logs`` holds exact global values, so that decisions made from them are equal on all ranks.
    ``self.trainer.stop(reason)`` ends the fit, on all ranks after the same step, even if only one of them calls it.

    >>> class Shout(phalanx.callbacks.Callback):
    ...     def on_epoch_end(self, epoch, logs):
    ...         print(f"epoch {epoch}:", *logs)
    >>> model = nn.Linear(2, 1)
    >>> trainer = phalanx.Trainer(model, optim.SGD(model.parameters(), lr=0.1), nn.MSELoss())
    >>> x = np.ones((4, 2), np.float32)
    >>> history = trainer.fit((x, x[:, :1]), epochs=2, verbose=0, callbacks=[Shout()])
    epoch 0: loss
    epoch 1: loss
    """

    trainer: Any = None
    place = 0
    """Hooks run in rising order of it, then in the order given. Who adds to ``logs`` is below 0, who writes them above."""

    def reset(self) -> None:
        """Forget earlier fits. Called when ``fit()`` begins, before a checkpoint is restored."""

    def on_fit_begin(self, logs: Logs) -> None:
        """Before the first step; what was resumed is in place (``trainer.step``, ``trainer.epoch``)."""

    def on_fit_end(self, logs: Logs) -> None:
        """After the last step, unless the fit ended by an error. ``logs`` of the last epoch."""

    def on_epoch_begin(self, epoch: int, logs: Logs) -> None:
        """Before an epoch (from 0), also when it goes on after a resume."""

    def on_epoch_end(self, epoch: int, logs: Logs) -> None:
        """After an epoch and its validation: ``loss``, the metrics, and the same of the validation data with ``val_``."""

    def on_step_begin(self, step: int, logs: Logs) -> None:
        """Before a step (from 0, counted since training began)."""

    def on_step_end(self, step: int, logs: Logs) -> None:
        """After an optimizer step: ``loss`` of the global batch, and ``gradient_norm`` if it is clipped."""

    def on_evaluate_begin(self, logs: Logs) -> None:
        """Before an evaluation, within a fit or alone."""

    def on_evaluate_end(self, logs: Logs) -> None:
        """After an evaluation; ``logs`` are its numbers."""

    def on_predict_begin(self, logs: Logs) -> None:
        """Before ``trainer.predict`` computes."""

    def on_predict_end(self, logs: Logs) -> None:
        """After ``trainer.predict`` has computed."""

    def evaluated_weights(self) -> AbstractContextManager[Any]:
        """Within it the model has the weights that evaluation and prediction shall see; by default its own."""
        return nullcontext()

    def state_dict(self) -> dict[str, Any]:
        """What a resumed fit needs: JSON, arrays and Tensors. All ranks call; equal on all of them."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take what :meth:`state_dict` gave."""

    def close(self) -> None:
        """The fit is over, by its end or an error: close what is open."""


class CallbackList:
    """The callbacks of one fit, in the order in which they are called."""

    def __init__(self, trainer: Any, callbacks: Iterable[Callback]) -> None:
        given = list(callbacks)
        for callback in given:
            if not isinstance(callback, Callback):
                raise TypeError(
                    f"callbacks expects instances of phalanx.callbacks.Callback, got {callback!r}"
                    + ("; call it to make one" if isinstance(callback, type) else "")
                )
        if len({id(callback) for callback in given}) < len(given):
            raise RangeError("callbacks holds the same object twice")
        self._callbacks = sorted(given, key=lambda callback: callback.place)
        for callback in self._callbacks:
            callback.trainer = trainer

    def __iter__(self) -> Iterator[Callback]:
        return iter(self._callbacks)

    def call(self, hook: str, *arguments: Any) -> None:
        """Call ``hook`` of each."""
        for callback in self._callbacks:
            getattr(callback, hook)(*arguments)

    def close(self) -> None:
        """Close all, the last first."""
        for callback in reversed(self._callbacks):
            callback.close()

    def state_dict(self) -> dict[str, Any]:
        """The state of each by its name; those without any are left out."""
        states = {name: callback.state_dict() for name, callback in self._named()}
        return {name: state for name, state in states.items() if state}

    def load_state_dict(self, states: dict[str, Any]) -> list[str]:
        """Give each its state; the names of the states that nobody took."""
        named = dict(self._named())
        for name, state in states.items():
            if name in named:
                named[name].load_state_dict(state)
        return sorted(states.keys() - named.keys())

    def _named(self) -> Iterator[tuple[str, Callback]]:
        """The class's name, with a number where there are several of one class."""
        counts: dict[str, int] = {}
        for callback in self._callbacks:
            name = type(callback).__name__
            counts[name] = counts.get(name, 0) + 1
            yield name if counts[name] == 1 else f"{name}_{counts[name]}", callback
