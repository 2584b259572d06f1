"""The learning rate: written down, and moved by a schedule."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, Protocol

from ..core.errors import RangeError
from ..core.optim.schedules import ReduceLROnPlateau as Plateau
from .base import Callback, Logs
from .monitor import Monitor


class Scheduler(Protocol):
    """As those of ``optim.lr_scheduler``."""

    step: Callable[..., Any]

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state_dict: Any) -> Any: ...


class LearningRateMonitor(Callback):
    """Add the learning rate to the logs of each step and epoch: ``lr``, or ``lr_0``, ``lr_1``, ... of several groups.

    It is the rate of the last update, before a schedule moves it.

    >>> model = nn.Linear(2, 1)
    >>> trainer = phalanx.Trainer(model, optim.SGD(model.parameters(), lr=0.1), nn.MSELoss())
    >>> x = np.ones((4, 2), np.float32)
    >>> history = trainer.fit((x, x[:, :1]), verbose=0, callbacks=[phalanx.callbacks.LearningRateMonitor()])
    >>> history.history["lr"]
    [0.1]
    """

    place = -10

    def on_step_end(self, step: int, logs: Logs) -> None:
        logs.update(self._rates())

    def on_epoch_end(self, epoch: int, logs: Logs) -> None:
        logs.update(self._rates())

    def _rates(self) -> dict[str, float]:
        groups = self.trainer.optimizer.param_groups
        if len(groups) == 1:
            return {"lr": float(groups[0]["lr"])}
        return {f"lr_{number}": float(group["lr"]) for number, group in enumerate(groups)}


class LRScheduler(Callback):
    """Step a schedule of ``optim.lr_scheduler`` after every epoch or step, or set the rate by a function of the epoch.

    Args:
        scheduler: a scheduler, or ``function(epoch, lr) -> lr`` (or of the epoch alone), called before each epoch, as Keras's
            LearningRateScheduler.
        every: ``"epoch"`` or ``"step"``, as the scheduler counts.
        monitor: the name in the epoch's logs that a ReduceLROnPlateau looks at.

    The scheduler's state is part of checkpoints. What it sees is exact and equal on all ranks, and so is the rate.

    >>> schedule = phalanx.callbacks.LRScheduler(lambda epoch, lr: lr * 0.5)
    >>> model = nn.Linear(2, 1)
    >>> trainer = phalanx.Trainer(model, optim.SGD(model.parameters(), lr=0.1), nn.MSELoss())
    >>> x = np.ones((4, 2), np.float32)
    >>> history = trainer.fit((x, x[:, :1]), epochs=2, verbose=0, callbacks=[schedule])
    >>> trainer.optimizer.param_groups[0]["lr"]
    0.025
    """

    place = -5

    def __init__(
        self, scheduler: Scheduler | Callable[[int, float], float], every: str = "epoch", *, monitor: str = "val_loss"
    ) -> None:
        if every not in ("epoch", "step"):
            raise RangeError(f'LRScheduler expects every to be "epoch" or "step", got {every!r}')
        step: Callable[..., Any] | None = getattr(scheduler, "step", None)
        self.by_function = step is None
        if self.by_function and not callable(scheduler):
            raise TypeError(
                f"LRScheduler expects a scheduler with step(), or a function of epoch and rate, got {scheduler!r}"
            )
        self.scheduler: Any = scheduler
        self.every = every
        self._monitor = Monitor("LRScheduler", monitor, "min")  # which direction is better is the scheduler's matter
        self._wants_metric = step is not None and _needs_argument(step)
        if self._wants_metric and every == "step":
            raise RangeError(
                f'LRScheduler: {type(self.scheduler).__name__} looks at a metric of an epoch; use every="epoch"'
            )

    def on_epoch_begin(self, epoch: int, logs: Logs) -> None:
        if not self.by_function or self.trainer.steps_in_epoch:  # set before the epoch was interrupted
            return
        for group in self.trainer.optimizer.param_groups:
            given = (epoch, float(group["lr"]))[: len(_positional(self.scheduler))]
            group["lr"] = float(self.scheduler(*given))

    def on_step_end(self, step: int, logs: Logs) -> None:
        if self.every == "step" and not self.by_function:
            self.scheduler.step()

    def on_epoch_end(self, epoch: int, logs: Logs) -> None:
        if self.every == "step" or self.by_function:
            return
        if not self._wants_metric:
            self.scheduler.step()
            return
        value = self._monitor.value(logs, self.trainer.validated)
        if value is not None:
            self.scheduler.step(value)

    def state_dict(self) -> dict[str, Any]:
        return {} if self.by_function else {"scheduler": self.scheduler.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.scheduler.load_state_dict(state["scheduler"])


class ReduceLROnPlateau(Callback):
    """Lower the rate when ``monitor`` has not got better for more than ``patience`` epochs, by ``optim.lr_scheduler``'s rule.

    Args:
        factor: what the rate is multiplied by.
        mode: ``"min"``, ``"max"``, or ``"auto"``: by the name.
        min_delta: better is better by more than this.
        cooldown: so many epochs after a reduction are not judged.
        min_lr: the rate does not go below.

    The same as ``LRScheduler(optim.lr_scheduler.ReduceLROnPlateau(optimizer, ...), monitor=...)``, made where the fit begins.

    >>> model = nn.Linear(2, 1)
    >>> trainer = phalanx.Trainer(model, optim.SGD(model.parameters(), lr=0.1), nn.MSELoss())
    >>> x = np.ones((4, 2), np.float32)
    >>> plateau = phalanx.callbacks.ReduceLROnPlateau("loss", factor=0.5, patience=0, min_delta=1e9)
    >>> history = trainer.fit((x, x[:, :1]), epochs=3, verbose=0, callbacks=[plateau])
    >>> trainer.optimizer.param_groups[0]["lr"]
    0.025
    """

    place = -5

    def __init__(
        self,
        monitor: str = "val_loss",
        factor: float = 0.1,
        patience: int = 10,
        *,
        mode: str = "auto",
        min_delta: float = 1e-4,
        cooldown: int = 0,
        min_lr: float = 0.0,
    ) -> None:
        self.monitor = Monitor("ReduceLROnPlateau", monitor, mode, min_delta)
        self._options: dict[str, Any] = {
            "mode": "min" if self.monitor.sign < 0 else "max", "factor": factor, "patience": patience,
            "threshold": min_delta, "threshold_mode": "abs", "cooldown": cooldown, "min_lr": min_lr,
        }  # fmt: skip
        self.schedule: Plateau | None = None
        """The schedule of the current fit."""

    def reset(self) -> None:
        self.schedule = Plateau(self.trainer.optimizer, **self._options)

    def on_epoch_end(self, epoch: int, logs: Logs) -> None:
        assert self.schedule is not None
        value = self.monitor.value(logs, self.trainer.validated)
        if value is not None:
            self.schedule.step(value)

    def state_dict(self) -> dict[str, Any]:
        return {} if self.schedule is None else self.schedule.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        assert self.schedule is not None
        self.schedule.load_state_dict(state)


def _positional(function: Callable[..., Any]) -> list[inspect.Parameter]:
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return [p for p in inspect.signature(function).parameters.values() if p.kind in kinds]


def _needs_argument(function: Callable[..., Any]) -> bool:
    return any(parameter.default is parameter.empty for parameter in _positional(function))
