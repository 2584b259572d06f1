"""Areas under curves, F scores, R2: by the metrics of phalanx."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...core import metrics as own
from ...core.errors import RangeError
from ...core.metrics.metric import State
from .base import Metric


class _By(Metric):
    """Measured by a metric of phalanx.metrics."""

    def __init__(self, name: str, by: own.Metric) -> None:
        super().__init__(name)
        self.by = by

    def measure(self, prediction: Any, target: Any, weight: Any) -> State:
        return self.by.measure(prediction, target, weight)

    def join(self, left: State, right: State) -> State:
        return self.by.join(left, right)

    def value(self, state: State) -> Any:
        return self.by.result(state)


class AUC(_By):
    """The area under the ROC or PR curve: exact, from all scores, where Keras adds up over thresholds.

    >>> from phalanx import keras
    >>> keras.metrics.AUC()([0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8])
    0.75
    """

    def __init__(
        self,
        num_thresholds: int = 200,
        curve: str = "ROC",
        summation_method: str = "interpolation",
        name: str = "auc",
        dtype: Any = None,
        thresholds: Any = None,
        multi_label: bool = False,
        num_labels: int | None = None,
        label_weights: Any = None,
        from_logits: bool = False,
    ) -> None:
        if label_weights is not None:
            raise RangeError("AUC: label_weights are not known here")
        super().__init__(name, own.AUC(curve, average="macro" if multi_label else "micro"))

    def measure(self, prediction: Any, target: Any, weight: Any) -> State:
        if prediction.ndim == 2 and prediction.shape[1] == 1:
            prediction = prediction[:, 0]
        if prediction.ndim == 1:
            target = target.reshape(prediction.shape)
        return super().measure(prediction, target, weight)


class F1Score(_By):
    """The harmonic mean of precision and recall for one-hot targets: a value for each class, or ``average`` macro, micro or weighted.

    >>> from phalanx import keras
    >>> keras.metrics.F1Score(average="macro")([[0, 1], [1, 0]], [[0.1, 0.9], [0.7, 0.3]])
    1.0
    """

    def __init__(
        self, average: str | None = None, threshold: float | None = None, name: str = "f1_score", dtype: Any = None
    ) -> None:
        if threshold is not None:
            raise RangeError("F1Score: a threshold is not known here, the class with the highest score counts")
        super().__init__(name, own.F1(average=average))

    def measure(self, prediction: Any, target: Any, weight: Any) -> State:
        if target.shape == prediction.shape and prediction.ndim == 2 and prediction.shape[1] > 1:
            target = np.asarray(target).argmax(axis=1)
        return super().measure(prediction, target, weight)


class R2Score(_By):
    """The share of the variance that is explained.

    >>> from phalanx import keras
    >>> keras.metrics.R2Score()([[1.0], [2.0]], [[1.0], [2.0]])
    1.0
    """

    def __init__(self, class_aggregation: str = "uniform_average", name: str = "r2_score", dtype: Any = None) -> None:
        super().__init__(name, own.R2Score(class_aggregation))
