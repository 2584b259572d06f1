"""The Trainer: what most training scripts would write by hand."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from ..callbacks.base import Callback, CallbackList
from ..callbacks.checkpoint import Checkpoint
from ..callbacks.history import History
from ..callbacks.learning_rate import LRScheduler
from ..callbacks.progress import for_verbosity
from ..core import metrics as known_metrics
from ..core import rng
from ..core.data import DataLoader
from ..core.errors import RangeError, StateError
from ..core.mode import no_grad
from ..core.nn.module import Module
from ..core.nn.sync_batch_norm import SyncBatchNorm
from ..core.optim import Optimizer
from ..dist.checkpoint import Checkpointer
from ..dist.chunks import call
from ..dist.data_parallel import DataParallel
from ..dist.evaluation import evaluate, predict
from ..dist.group import init, joined
from .data import training_loader
from .loop import FitLoop, Plan
from .precision import precision as precision_of
from .weighting import ClassWeights, WeightedLoss
from .whole_loss import WholeLoss, loss_of


class Trainer:
    """Trains, evaluates and applies a model: alone, under ``mpirun`` and under ``phalanx run``, with one script.

    Args:
        model: a Module, or a DataParallel; else it is wrapped in one with ``parallel`` as its options.
        optimizer: of its parameters, or a function that makes one of them (``lambda p: optim.SGD(p, lr=0.1)``).
        loss: a module or function of prediction and target.
        metrics: metrics, their names (``"accuracy"``), or functions; measured in training and validation.
        callbacks: of every fit (see ``phalanx.callbacks``).
        clip_norm, clip_value: clip the global gradient before each update.
        precision: ``"float32"``; ``"bf16"`` or ``"fp16"``: forward and loss run under ``phalanx.autocast``, in training and
            evaluation, and with float16 the loss is scaled by a ``GradScaler`` of the Trainer's own, which checkpoints hold.
        together: shards of a rank are under way together (``phalanx.run_shards``); None: where a layer needs the whole global batch
            (SyncBatchNorm). For losses over the whole batch (``phalanx.gather_over_shards``) say True.

    Call ``phalanx.init(shards=V)`` before the model is made and every number and every bit is the same on any number of ranks;
    without a call the ranks are found here. Subclasses may override :meth:`compute_loss`. All ranks must make it.

    >>> model = nn.Linear(2, 1)
    >>> trainer = phalanx.Trainer(model, optim.SGD(model.parameters(), lr=0.1), nn.MSELoss(), metrics=["mae"])
    >>> x = np.ones((8, 2), np.float32)
    >>> history = trainer.fit((x, x[:, :1]), epochs=20, batch_size=4, verbose=0)
    >>> trainer.evaluate((x, x[:, :1]))["mae"] < 0.01
    True
    """

    DECIDED = 90
    """Callbacks from this place on are called when all ranks know whether the fit goes on."""

    def __init__(
        self,
        model: Module,
        optimizer: Any = None,
        loss: Callable[..., Any] | None = None,
        metrics: Any = (),
        callbacks: Callback | Iterable[Callback] = (),
        *,
        clip_norm: float | None = None,
        clip_value: float | None = None,
        precision: str = "float32",
        together: bool | None = None,
        **parallel: Any,
    ) -> None:
        for name, value in (("clip_norm", clip_norm), ("clip_value", clip_value)):
            if value is not None and not value > 0:
                raise RangeError(f"Trainer expects {name} to be None or a number above 0, got {value!r}")
        self.group = joined() or init(seed=rng.initial_seed())
        if isinstance(model, DataParallel) and parallel:
            raise RangeError(f"Trainer got a DataParallel and its options {', '.join(parallel)}: give them there")
        self.model = model if isinstance(model, DataParallel) else DataParallel(model, **parallel)
        self.module = self.model.module
        self.optimizer = _optimizer(optimizer, self.model)
        self.loss = None if loss is None else WeightedLoss(loss)
        self.metrics = known_metrics.get_all(metrics)
        self.callbacks = _several(callbacks)
        self.clip_norm, self.clip_value = clip_norm, clip_value
        self.precision = precision_of(precision, self.module)
        self.together = (
            any(isinstance(m, SyncBatchNorm) for m in self.module.modules()) if together is None else together
        )
        self.history = History()
        """Of the last fit."""
        self.spans: list[list[Any]] | None = None
        """Where callbacks.Timeline wants the times of a step: [phase, step, began, ended]."""
        self._active = CallbackList(self, self.callbacks)
        self._loop: FitLoop | None = None
        self._main: Checkpointer | None = None
        """What the current fit resumed from; in an elastic job ranks that join get the state through it."""
        self._fits = self._epochs_done = self._steps = 0

    # -- where a fit is ---------------------------------------------------------------------------------------------

    @property
    def step(self) -> int:
        """Steps since training began, those before a resume included."""
        return self._steps if self._loop is None else self._loop.loader.step

    @property
    def epoch(self) -> int:
        """Epochs of the current or last fit that are complete."""
        return 0 if self._loop is None else self._loop.epoch

    @property
    def epochs(self) -> int:
        """Epochs that the current or last fit goes to."""
        return 0 if self._loop is None else self._loop.plan.epochs

    @property
    def steps_in_epoch(self) -> int:
        """Steps of the current epoch that are done."""
        return 0 if self._loop is None else self._loop.steps_in_epoch

    @property
    def steps_per_epoch(self) -> int | None:
        """Steps of a whole epoch of the current fit; None where the data does not say."""
        return None if self._loop is None else self._loop.steps_per_epoch

    @property
    def stopped(self) -> str | None:
        """Why the current or last fit ended before its last epoch; None if it did not."""
        return None if self._loop is None else self._loop.stopped

    @property
    def ends(self) -> bool:
        """In ``on_epoch_end`` of callbacks that save: whether this epoch is the last."""
        return self._loop is None or self._loop.ends

    @property
    def validated(self) -> bool:
        """In ``on_epoch_end``: whether a validation of this epoch was to be made and its numbers are in the logs."""
        return self._loop is None or self._loop.validated or self._loop.plan.validation is None

    def stop(self, reason: str = "a callback asked to stop") -> None:
        """End the fit on all ranks together; any rank may call, the others need not.

        From ``on_step_begin`` the current step is the last, from ``on_step_end`` the next one (the vote travels with its
        gradients), from ``on_epoch_end`` that epoch.
        """
        if self._loop is not None:
            self._loop.want_stop(reason)

    # -- fit --------------------------------------------------------------------------------------------------------

    def fit(
        self,
        train: Any,
        validation: Any = None,
        epochs: int = 1,
        *,
        batch_size: int | None = None,
        shuffle: bool = True,
        steps_per_epoch: int | None = None,
        validation_split: float = 0.0,
        validation_batch_size: int | None = None,
        validation_every: int = 1,
        class_weight: Any = None,
        sample_weight: Any = None,
        accumulate: int = 1,
        initial_epoch: int = 0,
        callbacks: Callback | Iterable[Callback] = (),
        scheduler: Any = None,
        checkpoint_dir: str | os.PathLike[str] | None = None,
        resume: str | os.PathLike[str] | None = "auto",
        allow: Iterable[str] = (),
        verbose: str | int = "auto",
    ) -> History:
        """Train for ``epochs``; returns the numbers of each epoch. All ranks must call.

        Args:
            train: arrays or Tensors ``(x, y)`` or ``(x, y, weight)``, a Dataset of such samples, or a DataLoader.
            validation: the same, evaluated after each epoch; its numbers are called ``val_...``.
            batch_size: samples of a step over all ranks (32), where ``train`` is no DataLoader; ``shuffle`` likewise.
            steps_per_epoch: an epoch has so many steps, however long the data is.
            validation_batch_size, validation_every: samples that are computed at a time; epochs from one validation to the next.
            validation_split: hold out this share of the samples, the last ones.
            class_weight: factors of samples by class, ``{class: factor}`` or in order; the loss is the weighted mean.
            sample_weight: a factor for each sample.
            accumulate: compute each shard's batch in so many micro-batches: the same update with less memory. For the effect of
                k batches an update, multiply ``batch_size`` by k.
            initial_epoch: count epochs from here on, up to ``epochs``.
            scheduler: of the learning rate, stepped after each epoch; for others see callbacks.LRScheduler.
            checkpoint_dir: save after each epoch, and when the job is asked to stop (see callbacks.Checkpoint).
            resume: ``"auto"``: from the newest checkpoint there; None: not; or the folder of a checkpoint.
            allow: what may differ from the saved run (``"batch_size"``, ...), as for ``Checkpointer.resume``.
            verbose: ``"auto"`` or 1: a progress bar on a terminal and a line an epoch; 2: the lines; 0: nothing.
        """
        device = next((p.device for p in self.module.parameters()), None)
        loader, held_out = training_loader(train, batch_size, shuffle, sample_weight, validation_split, device)
        if held_out is not None and validation is not None:
            raise RangeError("fit got validation data and validation_split: give one of them")
        plan = Plan(
            epochs=epochs,
            steps_per_epoch=steps_per_epoch,
            accumulate=accumulate,
            class_weights=None if class_weight is None else ClassWeights(class_weight),
            validation=held_out if validation is None else validation,
            validation_batch_size=validation_batch_size,
            validation_every=validation_every,
            initial_epoch=initial_epoch,
        )
        if loader is not train:  # a later fit goes on in another order, with other masks
            loader.epoch, loader.step = self._epochs_done, self._steps
        chosen = [*_several(callbacks), *for_verbosity(verbose)]
        if scheduler is not None:
            chosen.append(scheduler if isinstance(scheduler, LRScheduler) else LRScheduler(scheduler))
        if checkpoint_dir is not None:
            chosen.append(Checkpoint(checkpoint_dir))
        return self._run(plan, loader, chosen, resume, tuple(allow))

    def _run(
        self, plan: Plan, loader: DataLoader, callbacks: list[Callback], resume: Any, allow: tuple[str, ...]
    ) -> History:
        if self.optimizer is None or (self.loss is None and not self._computes_itself):
            missing = "an optimizer" if self.optimizer is None else "a loss"
            raise StateError(f"fit() needs {missing}: give it to Trainer(model, optimizer, loss)")
        self.history = History()
        self._active = CallbackList(self, [*self.callbacks, *callbacks, self.history])
        self._fits += 1
        self._loop = FitLoop(self, plan, loader, self._active, self._fits)
        try:
            self._active.call("reset")
            self._resume(resume, allow)
            self._loop.run()
        finally:
            self._active.close()
            self._steps, self._epochs_done = loader.step, self._epochs_done + self._loop.epoch - plan.initial_epoch
        return self.history

    def _resume(self, which: Any, allow: tuple[str, ...]) -> None:
        main = None
        for callback in self._active:
            if isinstance(callback, Checkpoint):
                checkpointer = callback.open(main=main is None and callback.resumable)
                main = checkpointer if main is None and callback.resumable else main
        if main is None and (which not in ("auto", "none", None) or self.group.elastic is not None):
            main = self.checkpointer(None)
        self._main = main
        if main is not None:
            main.resume("none" if which is None else which, allow=allow)

    def checkpointer(
        self,
        directory: str | os.PathLike[str] | None,
        *,
        every: int | None = None,
        keep: int | None = 3,
        keep_every: int | None = None,
        background: bool = False,
    ) -> Checkpointer:
        """A :class:`phalanx.Checkpointer` of everything that the current fit needs to go on."""
        if self._loop is None:
            raise StateError("checkpointer() belongs to a fit: call it from a callback")
        state, loader = {"trainer": self._loop}, self._loop.loader
        return Checkpointer(
            directory, model=self.model, optimizer=self.optimizer, loader=loader, every=every, keep=keep,
            keep_every=keep_every, background=background, state=state,
        )  # fmt: skip

    def load_weights(self, path: str | os.PathLike[str]) -> int | None:
        """Take the weights of a checkpoint, or of the newest one in the folder of a run; returns its step. All ranks call."""
        return Checkpointer(None, model=self.model).resume(path, allow=("seed", "shards"))

    def compute_loss(self, x: Any, y: Any, sample_weight: Any = None) -> tuple[Any, Any]:
        """(loss, prediction) of a batch: ``loss(model(x), y)`` and the penalties that layers registered.

        Override it for another form of training and evaluation. Several inputs in a tuple are arguments of the model, those of a dict
        keywords. The loss should be a mean that knows its weight.
        """
        assert self.loss is not None
        prediction = call(self.model, x)
        loss = self.loss(prediction, y, sample_weight)
        penalty = self.module.penalty()
        return (loss if penalty is None else loss + penalty), prediction

    @property
    def _computes_itself(self) -> bool:
        return type(self).compute_loss is not Trainer.compute_loss

    # -- evaluate and predict ---------------------------------------------------------------------------------------

    def evaluate(self, data: Any, *, batch_size: int | None = None) -> dict[str, Any]:
        """``loss`` and metrics over ``data`` (as for :meth:`fit`), each sample once; exact, equal on all ranks. All must call."""
        logs: dict[str, Any] = {}
        self._active.call("on_evaluate_begin", logs)
        with self.evaluated_weights(), self.precision.forward():
            if self._computes_itself:
                model: Module = WholeLoss(self.module, self.compute_loss)
                logs |= evaluate(model, data, self.metrics, loss=loss_of, batch_size=batch_size)
            else:
                logs |= evaluate(self.module, data, self.metrics, loss=self.loss, batch_size=batch_size)
                with no_grad():
                    penalty = self.module.penalty()
                if penalty is not None and "loss" in logs:
                    logs["loss"] += float(penalty.item())
        self._active.call("on_evaluate_end", logs)
        return logs

    def predict(self, data: Any, *, batch_size: int | None = None) -> Any:
        """The model's outputs for all of ``data``, in the order of samples, on all ranks, which all must call."""
        self._active.call("on_predict_begin", {})
        with self.evaluated_weights(), self.precision.forward():
            outputs = predict(self.module, data, batch_size=batch_size)
        self._active.call("on_predict_end", {})
        return outputs

    @contextmanager
    def evaluated_weights(self) -> Iterator[None]:
        """Within this block the model has the weights that evaluation sees: averages, where callbacks.EMA keeps them. All ranks."""
        with ExitStack() as stack:
            for callback in self._active:
                stack.enter_context(callback.evaluated_weights())
            yield


def _several(callbacks: Callback | Iterable[Callback]) -> list[Callback]:
    return [callbacks] if isinstance(callbacks, Callback) else list(callbacks)


def _optimizer(given: Any, model: Module) -> Any:
    """The optimizer, which must update the model's parameters and no others: nobody would sum their gradients over ranks."""
    if given is None:
        return None
    if not isinstance(given, Optimizer) and not callable(given):
        raise TypeError(
            f"Trainer expects an optimizer of phalanx.optim, or a function that makes one of parameters, got {given!r}"
        )
    optimizer = given if isinstance(given, Optimizer) else given(model.parameters())
    own = set(model.parameters())
    foreign = sum(p not in own for group in optimizer.param_groups for p in group["params"])
    if foreign:
        raise StateError(
            f"Trainer: the optimizer updates {foreign} parameters that are not in the model: make it of model.parameters(), and "
            "let modules with parameters (of a loss, too) belong to the model"
        )
    return optimizer
