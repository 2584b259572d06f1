"""compile, fit, evaluate and predict: Keras's arguments, the Trainer's work."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..core.data import DataLoader
from ..core.errors import StateError
from ..core.mode import no_grad
from ..core.tensor import Tensor
from ..trainer import Trainer
from . import callbacks as known_callbacks
from . import metrics as known_metrics
from . import mixed_precision, nest, optimizers
from .data import as_rows, sample_of, with_targets
from .fitting import Runner, model_loss, model_metrics
from .symbolic import KerasTensor, run_on_zeros


class Trainable:
    """The part of a Model that trains."""

    name: str

    def _prepare(self) -> None:
        self.__dict__.update(
            optimizer=None, loss=None, compiled=False, history=None, _compiled={}, _trainer=None, _runner=None,
            _stopping=False, _output_names=None,
        )  # fmt: skip

    # -- compile ----------------------------------------------------------------------------------------------------

    def compile(
        self,
        optimizer: Any = "rmsprop",
        loss: Any = None,
        loss_weights: Any = None,
        metrics: Any = None,
        weighted_metrics: Any = None,
        run_eagerly: bool = False,
        steps_per_execution: int = 1,
        jit_compile: Any = "auto",
        auto_scale_loss: bool = True,
    ) -> None:
        """Say how to train: by names (``"adam"``, ``"mse"``, ``["accuracy"]``) or objects; lists or dicts for several outputs.

        ``run_eagerly``, ``jit_compile`` and ``steps_per_execution`` change nothing.
        """
        known = optimizers.get(optimizer)
        if metrics is None and any(
            part is not None and not isinstance(part, int | float) for part in nest.flat(loss_weights)
        ):
            metrics, loss_weights = loss_weights, None  # the third argument was metrics before Keras 3
        for part in nest.flat(loss):
            if isinstance(part, str):
                model_loss(part, None, ["output"])  # an unknown name is told at once
        for part in nest.flat([metrics, weighted_metrics]):
            if isinstance(part, str):
                known_metrics.get(part)
        self.__dict__.update(optimizer=known, loss=loss, compiled=True)
        self.__dict__["_compiled"] = {
            "optimizer": known, "loss": loss, "loss_weights": loss_weights, "metrics": metrics,
            "weighted_metrics": weighted_metrics,
        }  # fmt: skip
        self._forget_trainer()

    def _forget_trainer(self) -> None:
        self.__dict__.update(_trainer=None, _output_names=None)

    @property
    def metrics_names(self) -> list[str]:
        """``loss`` and the metrics, as :meth:`evaluate` lists them."""
        return ["loss", *(metric.name for metric in self._made().metrics)]

    @property
    def metrics(self) -> list[Any]:
        """The compiled metrics, once the model has seen data."""
        trainer = self.__dict__["_trainer"]
        return [] if trainer is None else [metric.inner for metric in trainer.metrics]

    @property
    def trainer(self) -> Trainer:
        """The :class:`phalanx.Trainer` that does the work, once the model has been fitted or evaluated."""
        return self._made()

    @property
    def stop_training(self) -> bool:
        """Set it in a callback to end the fit: on all ranks, even if one rank sets it."""
        return self.__dict__["_stopping"]

    @stop_training.setter
    def stop_training(self, value: bool) -> None:
        self.__dict__["_stopping"] = bool(value)
        if value and self.__dict__["_trainer"] is not None:
            self.__dict__["_trainer"].stop("model.stop_training was set")

    # -- the Trainer ------------------------------------------------------------------------------------------------

    def _see(self, x: Any) -> None:
        """Build the model for data like ``x`` (a batch of one sample), and learn how many outputs it has."""
        if x is not None and self.__dict__["_output_names"] is None:
            place = nest.changed(x, lambda part: KerasTensor(part.shape, part.dtype))
            if isinstance(place, tuple):
                place = place[0] if len(place) == 1 else list(place)
            output = run_on_zeros(self, (place,), {})
            self.__dict__["_output_names"] = self._names_of(output)

    def _names_of(self, output: Any) -> list[str]:
        if not isinstance(output, list | tuple | dict):
            return ["output"]
        if isinstance(output, dict):
            return list(output)
        names = getattr(self, "output_names", None) or [f"output_{number}" for number in range(1, len(output) + 1)]
        return list(names)

    def _made(self) -> Trainer:
        """The Trainer; made once there are weights."""
        if self.__dict__["_trainer"] is None:
            if not self.__dict__["compiled"]:
                raise StateError(f"{self.name} is not compiled: call compile(optimizer=..., loss=...) first")
            given, names = self.__dict__["_compiled"], self.__dict__["_output_names"]
            if names is None:
                raise StateError(f"{self.name} is not built: give it an input shape, or fit it")
            loss = model_loss(given["loss"], given["loss_weights"], names)
            metrics = model_metrics(given["metrics"], given["weighted_metrics"], loss, names)
            if self.__dict__["_runner"] is None:
                self.__dict__["_runner"] = Runner(self)
            optimizer = given["optimizer"]
            self.__dict__["_trainer"] = Trainer(
                self.__dict__["_runner"], optimizer, loss, metrics, clip_norm=getattr(optimizer, "global_clipnorm", None),
                clip_value=getattr(optimizer, "clipvalue", None), precision=mixed_precision.precision(),
            )  # fmt: skip
        return self.__dict__["_trainer"]

    def _model_for_prediction(self) -> Any:
        if self.__dict__["_runner"] is None:
            self.__dict__["_runner"] = Runner(self)
        return self.__dict__["_runner"]

    # -- fit --------------------------------------------------------------------------------------------------------

    def fit(
        self,
        x: Any = None,
        y: Any = None,
        batch_size: int | None = None,
        epochs: int = 1,
        verbose: Any = "auto",
        callbacks: Any = None,
        validation_split: float = 0.0,
        validation_data: Any = None,
        shuffle: bool = True,
        class_weight: Any = None,
        sample_weight: Any = None,
        initial_epoch: int = 0,
        steps_per_epoch: int | None = None,
        validation_steps: int | None = None,
        validation_batch_size: int | None = None,
        validation_freq: int = 1,
        **unused: Any,
    ) -> Any:
        """Train for ``epochs``; returns a History. All ranks must call.

        Args:
            x: arrays, a list or dict of them for several inputs, or a phalanx Dataset or DataLoader of (x, y).
            y: targets; a list or dict for several outputs.
            batch_size: samples of a step over all ranks, 32 if not given.
            verbose: 0: nothing; 1: a line with a bar for each epoch; 2: a line; "auto" is 1.
            validation_split: this share, the last samples before shuffling, validates.
            class_weight, sample_weight: factors of losses, by class or for each sample.
        """
        _refuse("fit", unused, ("workers", "use_multiprocessing", "max_queue_size"))
        data = with_targets("fit", self, x, y, sample_weight)
        if validation_data is not None:
            validation_data = with_targets("fit", self, *_parts(validation_data), steps=validation_steps)
        self._see(sample_of(data))
        trainer = self._made()
        self.__dict__["_stopping"] = False
        if isinstance(data, tuple) and len(data) == 3:
            *columns, sample_weight = data
            data = tuple(columns)
        else:
            sample_weight = None
        given = known_callbacks.for_fit(self, callbacks, verbose, epochs, class_weight)
        try:
            found = trainer.fit(
                data, validation_data, epochs, batch_size=batch_size, shuffle=bool(shuffle),
                steps_per_epoch=steps_per_epoch, validation_split=validation_split,
                validation_batch_size=validation_batch_size, validation_every=validation_freq,
                class_weight=class_weight, sample_weight=sample_weight, initial_epoch=initial_epoch, callbacks=given,
                verbose=0,
            )  # fmt: skip
        finally:
            self.eval()  # type: ignore[attr-defined]
        history = next(callback for callback in given if isinstance(callback, known_callbacks.History))
        history.take(found)
        self.__dict__["history"] = history
        return history

    # -- evaluate and predict ---------------------------------------------------------------------------------------

    def evaluate(
        self,
        x: Any = None,
        y: Any = None,
        batch_size: int | None = None,
        verbose: Any = "auto",
        sample_weight: Any = None,
        steps: int | None = None,
        callbacks: Any = None,
        return_dict: bool = False,
        **unused: Any,
    ) -> Any:
        """Loss and metrics, each sample once: a list in the order of ``metrics_names`` (a number if it is one), or a dict. All ranks call."""
        _refuse("evaluate", unused, ("workers", "use_multiprocessing", "max_queue_size"))
        data = with_targets("evaluate", self, x, y, sample_weight, steps=steps, batch_size=batch_size)
        self._see(sample_of(data))
        trainer = self._made()
        with known_callbacks.alone(self, trainer, callbacks):
            logs = trainer.evaluate(data, batch_size=batch_size)
        logs = {name: value if np.ndim(value) else float(value) for name, value in logs.items()}
        if verbose:
            known_callbacks.say(trainer, logs)
        if return_dict:
            return logs
        return list(logs.values()) if len(logs) > 1 else logs["loss"]

    def predict(
        self,
        x: Any,
        batch_size: int | None = None,
        verbose: Any = "auto",
        steps: int | None = None,
        callbacks: Any = None,
        **unused: Any,
    ) -> Any:
        """The outputs for all samples as arrays, in their order, on all ranks, which all must call."""
        _refuse("predict", unused, ("workers", "use_multiprocessing", "max_queue_size"))
        data = as_rows("predict", self, x)
        if (not isinstance(data, DataLoader) and not hasattr(data, "__getitem__")) or isinstance(
            data, tuple | dict | np.ndarray
        ):
            data = (data,)
        self._see(sample_of(data))
        runner = self._model_for_prediction()
        with known_callbacks.alone(self, self.__dict__["_trainer"], callbacks):
            found = known_callbacks.predicted(runner, data, batch_size)
        if isinstance(found, tuple) and not isinstance(self._form_of_output(), tuple):
            return list(found)
        return found

    def _form_of_output(self) -> Any:
        return getattr(self, "output", None) if getattr(self, "_outputs", None) is not None else None

    # -- single batches ---------------------------------------------------------------------------------------------

    def train_on_batch(
        self, x: Any, y: Any = None, sample_weight: Any = None, class_weight: Any = None, return_dict: bool = False
    ) -> Any:
        """One step on a batch, which all ranks share; returns its loss. All ranks must call."""
        samples = len(nest.flat(as_rows("train_on_batch", self, x))[0])
        history = self.fit(
            x, y, batch_size=samples, epochs=1, verbose=0, shuffle=False, sample_weight=sample_weight,
            class_weight=class_weight,
        )  # fmt: skip
        logs = {name: values[-1] for name, values in history.history.items()}
        return logs if return_dict else list(logs.values()) if len(logs) > 1 else logs["loss"]

    def test_on_batch(self, x: Any, y: Any = None, sample_weight: Any = None, return_dict: bool = False) -> Any:
        """Loss and metrics of a batch. All ranks must call."""
        return self.evaluate(x, y, verbose=0, sample_weight=sample_weight, return_dict=return_dict)

    def predict_on_batch(self, x: Any) -> Any:
        """The outputs for a batch as arrays, computed here."""
        x = as_rows("predict_on_batch", self, x)
        given = list(x) if isinstance(x, tuple) else x
        with no_grad():
            output = self(given, training=False)  # type: ignore[operator]
        return nest.changed(
            output, lambda part: np.array(part.detach().cpu().numpy()) if isinstance(part, Tensor) else part
        )


def _parts(data: Any) -> tuple[Any, Any, Any]:
    """(x, y, sample_weight) of validation data."""
    if isinstance(data, list | tuple) and not isinstance(data, np.ndarray):
        if not 1 <= len(data) <= 3:
            raise ValueError(f"validation_data is (x, y) or (x, y, sample_weight), got {len(data)} parts")
        return (*data, None, None)[:3]  # type: ignore[return-value]
    return data, None, None


def _refuse(who: str, unused: dict[str, Any], harmless: tuple[str, ...]) -> None:
    if strange := sorted(unused.keys() - set(harmless)):
        raise TypeError(f"{who}() does not know {', '.join(strange)}")
