"""Errors, losses as metrics, and what counts of hits and misses say."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...core.errors import RangeError
from ...core.metrics.metric import State, per_sample, total
from .. import losses
from .base import MeanMetricWrapper, Metric


class MeanSquaredError(MeanMetricWrapper):
    """Mean squared error.

    >>> from phalanx import keras
    >>> keras.metrics.MeanSquaredError()([1.0], [3.0])
    4.0
    """

    def __init__(self, name: str = "mean_squared_error", dtype: Any = None) -> None:
        super().__init__(losses.mean_squared_error, name)


class MeanAbsoluteError(MeanMetricWrapper):
    """Mean absolute error.

    >>> from phalanx import keras
    >>> keras.metrics.MeanAbsoluteError()([1.0], [3.0])
    2.0
    """

    def __init__(self, name: str = "mean_absolute_error", dtype: Any = None) -> None:
        super().__init__(losses.mean_absolute_error, name)


class MeanAbsolutePercentageError(MeanMetricWrapper):
    """Mean relative error, in percent.

    >>> from phalanx import keras
    >>> keras.metrics.MeanAbsolutePercentageError()([1.0], [3.0])
    200.0
    """

    def __init__(self, name: str = "mean_absolute_percentage_error", dtype: Any = None) -> None:
        super().__init__(losses.mean_absolute_percentage_error, name)


class MeanSquaredLogarithmicError(MeanMetricWrapper):
    """Mean squared difference of logarithms.

    >>> from phalanx import keras
    >>> keras.metrics.MeanSquaredLogarithmicError()([1.0], [1.0])
    0.0
    """

    def __init__(self, name: str = "mean_squared_logarithmic_error", dtype: Any = None) -> None:
        super().__init__(losses.mean_squared_logarithmic_error, name)


class LogCoshError(MeanMetricWrapper):
    """Mean of log(cosh(error)).

    >>> from phalanx import keras
    >>> keras.metrics.LogCoshError()([1.0], [1.0])
    0.0
    """

    def __init__(self, name: str = "logcosh", dtype: Any = None) -> None:
        super().__init__(losses.log_cosh, name)


class KLDivergence(MeanMetricWrapper):
    """Mean divergence of distributions.

    >>> from phalanx import keras
    >>> keras.metrics.KLDivergence()([[1.0]], [[1.0]])
    0.0
    """

    def __init__(self, name: str = "kl_divergence", dtype: Any = None) -> None:
        super().__init__(losses.kl_divergence, name)


class Poisson(MeanMetricWrapper):
    """Mean of ``y_pred - y_true * log(y_pred)``.

    >>> from phalanx import keras
    >>> keras.metrics.Poisson()([1.0], [1.0]) < 1.001
    True
    """

    def __init__(self, name: str = "poisson", dtype: Any = None) -> None:
        super().__init__(losses.poisson, name)


class Hinge(MeanMetricWrapper):
    """Mean hinge.

    >>> from phalanx import keras
    >>> keras.metrics.Hinge()([1.0], [0.0])
    1.0
    """

    def __init__(self, name: str = "hinge", dtype: Any = None) -> None:
        super().__init__(losses.hinge, name)


class SquaredHinge(MeanMetricWrapper):
    """Mean squared hinge.

    >>> from phalanx import keras
    >>> keras.metrics.SquaredHinge()([1.0], [0.0])
    1.0
    """

    def __init__(self, name: str = "squared_hinge", dtype: Any = None) -> None:
        super().__init__(losses.squared_hinge, name)


class CategoricalHinge(MeanMetricWrapper):
    """Mean hinge of one-hot targets.

    >>> from phalanx import keras
    >>> keras.metrics.CategoricalHinge()([[0.0, 1.0]], [[0.0, 0.0]])
    1.0
    """

    def __init__(self, name: str = "categorical_hinge", dtype: Any = None) -> None:
        super().__init__(losses.categorical_hinge, name)


class RootMeanSquaredError(MeanMetricWrapper):
    """The root of the mean squared error.

    >>> from phalanx import keras
    >>> keras.metrics.RootMeanSquaredError()([1.0], [3.0])
    2.0
    """

    def __init__(self, name: str = "root_mean_squared_error", dtype: Any = None) -> None:
        super().__init__(losses.mean_squared_error, name)

    def value(self, state: State) -> Any:
        return float(np.sqrt(super().value(state)))


class CosineSimilarity(MeanMetricWrapper):
    """The mean cosine between targets and predictions; 1 where they agree.

    >>> from phalanx import keras
    >>> round(keras.metrics.CosineSimilarity()([[1.0, 1.0]], [[2.0, 2.0]]), 4)
    1.0
    """

    def __init__(self, name: str = "cosine_similarity", dtype: Any = None, axis: int = -1) -> None:
        super().__init__(losses.cosine_similarity, name, axis=axis)

    def value(self, state: State) -> Any:
        return -super().value(state)


class BinaryCrossentropy(MeanMetricWrapper):
    """The mean binary cross-entropy.

    >>> from phalanx import keras
    >>> round(keras.metrics.BinaryCrossentropy()([[1.0]], [[0.5]]), 4)
    0.6931
    """

    def __init__(
        self,
        name: str = "binary_crossentropy",
        dtype: Any = None,
        from_logits: bool = False,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__(losses.binary_crossentropy, name, from_logits=from_logits, label_smoothing=label_smoothing)


class CategoricalCrossentropy(MeanMetricWrapper):
    """The mean cross-entropy of one-hot targets.

    >>> from phalanx import keras
    >>> round(keras.metrics.CategoricalCrossentropy()([[0.0, 1.0]], [[0.5, 0.5]]), 4)
    0.6931
    """

    def __init__(
        self,
        name: str = "categorical_crossentropy",
        dtype: Any = None,
        from_logits: bool = False,
        label_smoothing: float = 0.0,
        axis: int = -1,
    ) -> None:
        super().__init__(
            losses.categorical_crossentropy, name, from_logits=from_logits, label_smoothing=label_smoothing, axis=axis
        )


class SparseCategoricalCrossentropy(MeanMetricWrapper):
    """The mean cross-entropy of integer labels.

    >>> from phalanx import keras
    >>> round(keras.metrics.SparseCategoricalCrossentropy()([1], [[0.5, 0.5]]), 4)
    0.6931
    """

    def __init__(
        self,
        name: str = "sparse_categorical_crossentropy",
        dtype: Any = None,
        from_logits: bool = False,
        ignore_class: int | None = None,
        axis: int = -1,
    ) -> None:
        options = {"from_logits": from_logits, "ignore_class": ignore_class, "axis": axis}
        super().__init__(losses.sparse_categorical_crossentropy, name, **options)


class _Counts(Metric):
    """True and false positives and negatives over all numbers of the predictions."""

    def __init__(self, thresholds: Any, name: str, class_id: int | None = None, top_k: int | None = None) -> None:
        super().__init__(name)
        if isinstance(thresholds, list | tuple):
            raise RangeError(f"{type(self).__name__}: one threshold at a time is known here, got {thresholds!r}")
        if top_k is not None:
            raise RangeError(f"{type(self).__name__}: top_k is not known here")
        self.threshold, self.class_id = 0.5 if thresholds is None else float(thresholds), class_id

    def measure(self, prediction: Any, target: Any, weight: Any) -> State:
        target = target.reshape(prediction.shape)
        weights = per_sample(self.name, weight, prediction.shape)
        if self.class_id is not None:
            prediction, target = prediction[..., self.class_id], target[..., self.class_id]
            weights = None if weights is None else weights[..., self.class_id]
        yes, truth = prediction > self.threshold, target > 0.5
        counts = {"tp": yes & truth, "fp": yes & ~truth, "fn": ~yes & truth, "tn": ~yes & ~truth}
        return {key: total(found, weights)["sum"] for key, found in counts.items()}


def _share(part: Any, whole: Any) -> float:
    return float(part) / float(whole) if float(whole) else 0.0


class Precision(_Counts):
    """The share of what was predicted as 1 that is 1.

    >>> from phalanx import keras
    >>> keras.metrics.Precision()([1, 0], [0.9, 0.8])
    0.5
    """

    def __init__(
        self,
        thresholds: Any = None,
        top_k: int | None = None,
        class_id: int | None = None,
        name: str = "precision",
        dtype: Any = None,
    ) -> None:
        super().__init__(thresholds, name, class_id, top_k)

    def value(self, state: State) -> Any:
        return _share(state["tp"], state["tp"] + state["fp"])


class Recall(_Counts):
    """The share of what is 1 that was predicted as 1.

    >>> from phalanx import keras
    >>> keras.metrics.Recall()([1, 0], [0.9, 0.8])
    1.0
    """

    def __init__(
        self,
        thresholds: Any = None,
        top_k: int | None = None,
        class_id: int | None = None,
        name: str = "recall",
        dtype: Any = None,
    ) -> None:
        super().__init__(thresholds, name, class_id, top_k)

    def value(self, state: State) -> Any:
        return _share(state["tp"], state["tp"] + state["fn"])


class TruePositives(_Counts):
    """How many true positives there are.

    >>> from phalanx import keras
    >>> keras.metrics.TruePositives()([1, 0], [0.9, 0.8])
    1.0
    """

    def __init__(self, thresholds: Any = None, name: str = "true_positives", dtype: Any = None) -> None:
        super().__init__(thresholds, name)

    def value(self, state: State) -> Any:
        return float(state["tp"])


class FalsePositives(_Counts):
    """How many false positives there are.

    >>> from phalanx import keras
    >>> keras.metrics.FalsePositives()([1, 0], [0.9, 0.8])
    1.0
    """

    def __init__(self, thresholds: Any = None, name: str = "false_positives", dtype: Any = None) -> None:
        super().__init__(thresholds, name)

    def value(self, state: State) -> Any:
        return float(state["fp"])


class TrueNegatives(_Counts):
    """How many true negatives there are.

    >>> from phalanx import keras
    >>> keras.metrics.TrueNegatives()([1, 0], [0.9, 0.8])
    0.0
    """

    def __init__(self, thresholds: Any = None, name: str = "true_negatives", dtype: Any = None) -> None:
        super().__init__(thresholds, name)

    def value(self, state: State) -> Any:
        return float(state["tn"])


class FalseNegatives(_Counts):
    """How many false negatives there are.

    >>> from phalanx import keras
    >>> keras.metrics.FalseNegatives()([1, 0], [0.9, 0.8])
    0.0
    """

    def __init__(self, thresholds: Any = None, name: str = "false_negatives", dtype: Any = None) -> None:
        super().__init__(thresholds, name)

    def value(self, state: State) -> Any:
        return float(state["fn"])
