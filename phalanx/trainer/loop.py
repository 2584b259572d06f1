"""The loop of a fit: epochs, steps, shards, and what a checkpoint must hold to go on in the middle of it."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from ..callbacks.base import CallbackList
from ..core import rng
from ..core.data import DataLoader
from ..core.data.dataset import is_stream
from ..core.errors import RangeError, StateError
from ..core.nn.finite import first_non_finite
from ..core.optim import clip
from ..dist import exchanges
from ..dist.chunks import call, split_batch
from ..dist.evaluation import on_device_of
from ..dist.run_shards import run_shards
from ..dist.voting import agreed, vote
from .batch import count, micro_batches
from .totals import Totals
from .weighting import ClassWeights

if TYPE_CHECKING:
    from ..core.data import Step
    from .trainer import Trainer

STOP, NOT_FINITE = "trainer: stop", "trainer: the loss is not finite"
"""What ranks vote for at the end of a step."""


@dataclass(frozen=True)
class Plan:
    """How a fit trains."""

    epochs: int = 1
    steps_per_epoch: int | None = None
    """None: as many as the loader has."""
    accumulate: int = 1
    """Micro-batches of each shard's batch."""
    class_weights: ClassWeights | None = None
    validation: Any = None
    validation_batch_size: int | None = None
    validation_every: int = 1
    """Epochs from one validation to the next; the last epoch has one in any case."""
    initial_epoch: int = 0

    def __post_init__(self) -> None:
        for name in ("epochs", "steps_per_epoch", "accumulate", "validation_batch_size", "validation_every"):
            value = getattr(self, name)
            optional = value is None and name in ("steps_per_epoch", "validation_batch_size")
            if not optional and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
                raise RangeError(f"fit expects {name} to be an integer of at least 1, got {value!r}")


class FitLoop:
    """One call of ``Trainer.fit``. Its state says where in which epoch it is; the loader says where in the data."""

    def __init__(self, trainer: Trainer, plan: Plan, loader: DataLoader, callbacks: CallbackList, number: int) -> None:
        self.trainer, self.plan, self.loader, self.callbacks = trainer, plan, loader, callbacks
        self.number = number
        """This is so many-th fit of its Trainer."""
        self.epoch, self.steps_in_epoch = plan.initial_epoch, 0
        self.stopped: str | None = None
        self.totals = Totals(trainer.metrics, trainer.group)
        self.validated = False
        """Whether the last epoch was followed by a validation."""
        self._wants_stop: str | None = None
        self._problem: str | None = None
        self._tolerant = any(getattr(callback, "tolerates_nan", False) for callback in callbacks)
        self._logs: dict[str, Any] = {}

    @property
    def steps_per_epoch(self) -> int | None:
        """None where the data does not say."""
        if self.plan.steps_per_epoch is not None:
            return self.plan.steps_per_epoch
        return None if is_stream(self.loader.dataset) else len(self.loader)

    @property
    def ends(self) -> bool:
        """Whether the epoch that was last is the last of all."""
        return self.stopped is not None or self.epoch >= self.plan.epochs

    def want_stop(self, reason: str) -> None:
        """This rank's vote; the first reason counts."""
        self._wants_stop = self._wants_stop or reason

    # -- epochs -----------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Train to the end."""
        self.callbacks.call("on_fit_begin", {})
        while not self.ends:
            self._epoch()
        self.callbacks.call("on_fit_end", self._logs)

    def _epoch(self) -> None:
        epoch, trainer = self.epoch, self.trainer
        self.callbacks.call("on_epoch_begin", epoch, {})
        trainer.model.train()
        self._steps()
        logs = self._logs = self.totals.compute()
        last = self.stopped is not None or epoch + 1 == self.plan.epochs
        self.validated = self.plan.validation is not None and (last or (epoch + 1) % self.plan.validation_every == 0)
        if self.validated:
            found = trainer.evaluate(self.plan.validation, batch_size=self.plan.validation_batch_size)
            logs |= {f"val_{name}": value for name, value in found.items()}
        self.epoch, self.steps_in_epoch = epoch + 1, 0
        self.totals.reset()
        decided = False
        for callback in self.callbacks:
            if not decided and callback.place >= trainer.DECIDED:  # whoever saves knows whether the fit goes on
                self._decide(self._wants_stop)
                decided = True
            callback.on_epoch_end(epoch, logs)
        if not decided:
            self._decide(self._wants_stop)

    def _steps(self) -> None:
        """The rest of the current epoch; with ``steps_per_epoch`` over as many epochs of the loader as it takes."""
        limit = self.plan.steps_per_epoch
        while limit is None or self.steps_in_epoch < limit:
            for step in self.loader.steps():
                goes_on = self._step(step)
                if step.void:
                    continue
                if not goes_on:
                    return
                self.steps_in_epoch += 1
                self.callbacks.call("on_step_end", step.index, self._logs)
                self._leave_if_asked()
                if self.stopped or self.steps_in_epoch == limit:
                    return
            if limit is None:
                return

    def _leave_if_asked(self) -> None:
        """A signal, where no checkpoint takes care of it."""
        if word := self.trainer.group.stop_requested:
            self._say(
                f"stopped by {word} after step {self.loader.step}, nothing was saved: no checkpoint_dir was given"
            )
            raise SystemExit(1)

    # -- one step ---------------------------------------------------------------------------------------------------

    def _step(self, step: Step) -> bool:
        """One optimizer step; False if the loss was not finite somewhere and nothing was updated."""
        trainer, model, optimizer = self.trainer, self.trainer.model, self.trainer.optimizer
        self._logs = {}
        self.callbacks.call("on_step_begin", step.index, self._logs)
        optimizer.zero_grad()
        self._problem = None
        self.totals.step_begins()
        self._shards(step)
        self.totals.tell()
        vote(STOP, self._wants_stop is not None)
        vote(NOT_FINITE, self._problem is not None)
        with self._span("wait for others", step):
            model.synchronize()
        if step.void:
            return True
        self.totals.step_ends()
        if self._any(NOT_FINITE, self._problem):
            self._decide(self._problem)
            return False
        norm: dict[str, float] = {}
        with self._span("optimizer", step):
            if trainer.precision.unscale(optimizer):
                norm = self._clip()
                optimizer.step()
            trainer.precision.stepped()
        if self._any(STOP, self._wants_stop):
            self._decide(self._wants_stop)
        self._logs = {"loss": model.step_loss} | norm
        return True

    def _shards(self, step: Step) -> None:
        """Forward and backward of all shards that this rank owns."""
        if self.trainer.together:
            run_shards(lambda *parts: self._shard(step, parts), step)
            self._span_of_data(step, step.data_s)
            return
        waited_s = 0.0
        for batch in step:
            self._span_of_data(step, step.data_s - waited_s)
            waited_s = step.data_s
            self._shard(step, batch)

    def _shard(self, step: Step, batch: Any) -> None:
        """Forward and backward of one shard, in micro-batches."""
        trainer = self.trainer
        x, y, given = on_device_of(trainer.module, split_batch(batch))
        weight = given
        if self.plan.class_weights is not None:
            factors = self.plan.class_weights.of(y)
            weight = factors if given is None else given * factors
        whole = None if weight is None else float(weight.sum().item()) or 1.0
        for (part, target, part_weight, part_given), share in micro_batches(
            (x, y, weight, given), self.plan.accumulate
        ):
            with self._span("forward", step), trainer.precision.forward():
                loss, prediction = trainer.compute_loss(part, target, part_weight)
            value = float(loss.item())
            if self._tolerant and not math.isfinite(value):
                self._problem = self._describe(value, step, part)
                return
            items = float(count(part)) if loss.weight is None else float(loss.weight)
            self.totals.add(rng.scope()[1] or 0, value, items, prediction, target, part_given)
            if whole is not None and share != 1.0:
                share = float(part_weight.sum().item()) / whole
            with self._span("backward", step):
                trainer.precision.scaled(loss if share == 1.0 else loss * share).backward()

    def _describe(self, loss: float, step: Step, x: Any) -> str:
        group, module = self.trainer.group, self.trainer.module
        where = call(partial(first_non_finite, module), x)
        place = f"the first value that is not finite is in {where}" if where else "it arises in the loss itself"
        return f"rank {group.rank} of {group.size}: the loss is {loss} in step {step.index}; {place}"

    def _clip(self) -> dict[str, float]:
        """Clip the global gradient; its norm, where that is known."""
        trainer = self.trainer
        if trainer.clip_value is not None:
            clip.clip_grad_value_(trainer.model.parameters(), trainer.clip_value)
        if trainer.clip_norm is None:
            return {}
        norm = clip.clip_grad_norm_(trainer.model.parameters(), trainer.clip_norm)
        return {"gradient_norm": float(norm.item())}

    # -- decisions --------------------------------------------------------------------------------------------------

    def _any(self, name: str, own: str | None) -> bool:
        """Whether any rank voted for it in the step that was just summed."""
        group = self.trainer.group
        return agreed(name) if group.size > 1 or group.elastic is not None else own is not None

    def _decide(self, own: str | None) -> None:
        """All ranks call: stop if any of them has a reason; the lowest rank's is told."""
        group = self.trainer.group
        reasons = [own]
        if group.size > 1:
            reasons = exchanges.gather_object(group, own, name="reasons to stop") or []
        self.stopped = self.stopped or next((reason for reason in reasons if reason), None)

    # -- checkpoints ------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Everything that the loader, the model and the optimizer do not know; all ranks must call."""
        return {
            "fit": self.number,
            "epoch": self.epoch,
            "steps_in_epoch": self.steps_in_epoch,
            "stopped": self.stopped,
            "totals": self.totals.state_dict(),
            "callbacks": self.callbacks.state_dict(),
            **({"precision": held} if (held := self.trainer.precision.state()) else {}),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if state["fit"] != self.number:
            raise StateError(
                f"the checkpoint was made by call {state['fit']} of fit(), this is call {self.number}: give each its own "
                "checkpoint_dir"
            )
        self.epoch, self.steps_in_epoch = int(state["epoch"]), int(state["steps_in_epoch"])
        self.stopped = state["stopped"]
        self.totals.load_state_dict(state["totals"])
        self.trainer.precision.load_state(state.get("precision", {}))
        if lost := self.callbacks.load_state_dict(state["callbacks"]):
            self._say(f"the checkpoint holds state of {', '.join(lost)}, which this fit does not have")

    # -- words and times --------------------------------------------------------------------------------------------

    def _say(self, line: str) -> None:
        if self.trainer.group.rank == 0:
            print(f"phalanx: {line}", file=sys.stderr, flush=True)

    @contextmanager
    def _span(self, name: str, step: Step) -> Iterator[None]:
        """Recorded when somebody wants to know (callbacks.Timeline)."""
        spans = self.trainer.spans
        if spans is None:
            yield
            return
        began = time.monotonic()
        yield
        spans.append([name, step.index, began, time.monotonic()])

    def _span_of_data(self, step: Step, seconds: float) -> None:
        if self.trainer.spans is not None:
            now = time.monotonic()
            self.trainer.spans.append(["data", step.index, now - seconds, now])
