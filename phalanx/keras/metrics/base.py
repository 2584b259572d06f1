"""Metrics by Keras's names: ``update_state(y_true, y_pred, sample_weight)``, ``result()``, ``reset_state()``; exact over ranks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ...core import metrics as own
from ...core.metrics.metric import State, on_host, per_sample, ratio, total
from ...core.tensor import Tensor
from ..described import Described


class Metric(Described, own.Metric):
    """Base of metrics. Subclasses define ``measure(prediction, target, weight)``, whose arrays are summed up, and ``result(state)``.

    >>> from phalanx import keras
    >>> metric = keras.metrics.MeanAbsoluteError()
    >>> metric.update_state([1.0, 2.0], [1.0, 4.0])
    >>> metric.result()
    1.0
    """

    def update_state(self, y_true: Any, y_pred: Any = None, sample_weight: Any = None) -> None:
        """Take a batch."""
        self.update(np.asarray(on_host(y_pred)), np.asarray(on_host(y_true)), sample_weight)

    def result(self, state: Any = None) -> Any:
        """The value of all that was seen; of ``state`` where one is given."""
        return self.compute() if state is None else self.value(state)

    def value(self, state: State) -> Any:
        """The value of a state."""
        return ratio(state)

    def reset_state(self) -> None:
        """Forget everything."""
        self.reset()

    reset_states = reset_state

    def __call__(self, y_true: Any, y_pred: Any = None, sample_weight: Any = None) -> Any:
        self.update_state(y_true, y_pred, sample_weight)
        return self.result()


class Mean(Metric):
    """The mean of the values given to ``update_state``.

    >>> from phalanx import keras
    >>> mean = keras.metrics.Mean()
    >>> mean.update_state([1.0, 3.0])
    >>> mean.result()
    2.0
    """

    def __init__(self, name: str = "mean", dtype: Any = None) -> None:
        super().__init__(name)

    def update_state(self, y_true: Any, y_pred: Any = None, sample_weight: Any = None) -> None:
        """Take values; ``sample_weight``: how much each counts."""
        self.update(np.asarray(on_host(y_true), np.float64), None, sample_weight if y_pred is None else y_pred)

    def measure(self, prediction: Any, target: Any, weight: Any) -> State:
        return total(np.asarray(prediction, np.float64), per_sample(self.name, weight, prediction.shape))


class Sum(Mean):
    """The sum of the values given to ``update_state``.

    >>> from phalanx import keras
    >>> keras.metrics.Sum()([1.0, 3.0])
    4.0
    """

    def __init__(self, name: str = "sum", dtype: Any = None) -> None:
        super().__init__(name)

    def value(self, state: State) -> Any:
        return float(state["sum"])


class MeanMetricWrapper(Metric):
    """The mean of a function of targets and predictions, which gives a number for each sample.

    >>> from phalanx import keras
    >>> keras.metrics.MeanMetricWrapper(lambda y, p: abs(y - p), name="gap")([1.0, 2.0], [1.0, 4.0])
    1.0
    """

    def __init__(self, fn: Callable[..., Any], name: str | None = None, dtype: Any = None, **options: Any) -> None:
        super().__init__(name or getattr(fn, "name", None) or getattr(fn, "__name__", "metric"))
        self.function, self.options = fn, options

    def measure(self, prediction: Any, target: Any, weight: Any) -> State:
        loss = self.function
        given = getattr(loss, "call", loss)
        values = np.asarray(on_host(given(Tensor(target), Tensor(prediction), **self.options)), np.float64)
        if not values.ndim:
            count = float(len(prediction)) if weight is None else float(weight.sum())
            return total(values, np.asarray(count))
        return total(values, per_sample(self.name, weight, values.shape))
