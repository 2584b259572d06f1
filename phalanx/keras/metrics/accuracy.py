"""How often predictions are right."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...core.metrics.metric import State, per_sample, total
from .. import losses
from .base import Metric


def _classes_last(prediction: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Scores (M, C) and labels (M,), from (..., C) and integer labels (...), (..., 1) or one-hot (..., C)."""
    classes = prediction.shape[-1]
    if target.ndim == prediction.ndim and target.shape[-1] == classes and classes > 1:
        target = target.argmax(axis=-1)
    elif target.ndim == prediction.ndim and target.shape[-1] == 1:
        target = target[..., 0]
    return prediction.reshape(-1, classes), target.reshape(-1)


def _per_place(name: str, weight: Any, shape: tuple[int, ...]) -> Any:
    found = per_sample(name, weight, shape)
    return None if found is None else found.reshape(-1)


class _OfClasses(Metric):
    """Something right or wrong for each place of (N, ..., C)."""

    def measure(self, prediction: Any, target: Any, weight: Any) -> State:
        scores, labels = _classes_last(prediction, target)
        return total(self.right(scores, labels), _per_place(self.name, weight, prediction.shape[:-1]))

    def right(self, scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """Whether each is right."""
        return scores.argmax(axis=1) == labels


class SparseCategoricalAccuracy(_OfClasses):
    """How often the highest score is that of the integer label.

    >>> from phalanx import keras
    >>> keras.metrics.SparseCategoricalAccuracy()([1, 0], [[0.1, 0.9], [0.2, 0.8]])
    0.5
    """

    def __init__(self, name: str = "sparse_categorical_accuracy", dtype: Any = None) -> None:
        super().__init__(name)


class CategoricalAccuracy(_OfClasses):
    """How often the highest score is that of the one-hot target.

    >>> from phalanx import keras
    >>> keras.metrics.CategoricalAccuracy()([[0, 1], [1, 0]], [[0.1, 0.9], [0.2, 0.8]])
    0.5
    """

    def __init__(self, name: str = "categorical_accuracy", dtype: Any = None) -> None:
        super().__init__(name)


class TopKCategoricalAccuracy(_OfClasses):
    """How often the true class is among the ``k`` highest scores.

    >>> from phalanx import keras
    >>> keras.metrics.TopKCategoricalAccuracy(k=2)([[0, 0, 1]], [[0.1, 0.5, 0.4]])
    1.0
    """

    def __init__(self, k: int = 5, name: str = "top_k_categorical_accuracy", dtype: Any = None) -> None:
        super().__init__(name)
        self.k = k

    def right(self, scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
        own = np.take_along_axis(scores, labels[:, None].astype(np.int64), axis=1)
        return (scores > own).sum(axis=1) < self.k


class SparseTopKCategoricalAccuracy(TopKCategoricalAccuracy):
    """The same for integer labels.

    >>> from phalanx import keras
    >>> keras.metrics.SparseTopKCategoricalAccuracy(k=2)([2], [[0.1, 0.5, 0.4]])
    1.0
    """

    def __init__(self, k: int = 5, name: str = "sparse_top_k_categorical_accuracy", dtype: Any = None) -> None:
        super().__init__(k, name)


class BinaryAccuracy(Metric):
    """How often predictions above ``threshold`` stand at targets 1.

    >>> from phalanx import keras
    >>> keras.metrics.BinaryAccuracy()([[1], [0]], [[0.8], [0.7]])
    0.5
    """

    def __init__(self, name: str = "binary_accuracy", dtype: Any = None, threshold: float = 0.5) -> None:
        super().__init__(name)
        self.threshold = threshold

    def measure(self, prediction: Any, target: Any, weight: Any) -> State:
        target = target.reshape(prediction.shape)
        right = (prediction > self.threshold) == (target > 0.5)
        return total(right, per_sample(self.name, weight, right.shape))


class Accuracy(_OfClasses):
    """How often labels are equal; in ``compile`` the string ``"accuracy"`` picks the kind by the shapes.

    >>> from phalanx import keras
    >>> keras.metrics.Accuracy()([1, 2], [1, 3])
    0.5
    """

    def __init__(self, name: str = "accuracy", dtype: Any = None) -> None:
        super().__init__(name)

    def measure(self, prediction: Any, target: Any, weight: Any) -> State:
        right = prediction == target.reshape(prediction.shape)
        return total(right, per_sample(self.name, weight, right.shape))


class AutoAccuracy(_OfClasses):
    """What ``"accuracy"`` means in ``compile``: binary where there is one score a place, else of classes.

    >>> from phalanx import keras
    >>> keras.metrics.get("accuracy").name
    'accuracy'
    """

    def __init__(self, name: str = "accuracy", loss: Any = None) -> None:
        super().__init__(name)
        self.binary = isinstance(loss, losses.BinaryCrossentropy)
        self.threshold = 0.5

    def measure(self, prediction: Any, target: Any, weight: Any) -> State:
        same = target.ndim == prediction.ndim and target.shape == prediction.shape
        if prediction.ndim < 2 or prediction.shape[-1] == 1 or (self.binary and same):
            return BinaryAccuracy(self.name).measure(prediction, target, weight)
        return super().measure(prediction, target, weight)
