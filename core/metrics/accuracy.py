"""Shares of right decisions: accuracy in its forms, and top-k."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..errors import RangeError, ShapeError
from .labels import are_scores, check_labels, expect_target, flat, hold_classes, labels, squeezed
from .metric import Metric, State, ratio, total


class Accuracy(Metric):
    """The share of right labels: ``sum(weight * (predicted == true)) / sum(weight)``.

    What is predicted follows from the shapes: scores (N, C, ...) with labels (N, ...) or one-hot targets (N, C, ...): the class
    with the highest score; probabilities (N,) or (N, 1): above ``threshold`` means 1; integers: labels.

    Args:
        threshold: between the two classes, for probabilities; 0.0 if the model gives logits.
        axis: the dimension of the classes.
        ignore_index: a label whose places do not count.

    >>> accuracy = phalanx.metrics.Accuracy()
    >>> accuracy.update(np.array([[0.1, 0.9], [0.8, 0.2], [0.3, 0.7]]), np.array([1, 0, 0]))
    >>> round(accuracy.compute(), 4)
    0.6667
    """

    default_name = "accuracy"

    def __init__(
        self, threshold: float = 0.5, *, axis: int = 1, ignore_index: int | None = None, name: str | None = None
    ) -> None:
        super().__init__(name)
        self.threshold, self.axis, self.ignore_index = threshold, axis, ignore_index

    def measure(self, prediction: Any, target: Any, weight: Any) -> State:
        mine, truth, weights = labels(
            self.name, prediction, target, weight,
            axis=self.axis, threshold=self.threshold, ignore_index=self.ignore_index,
        )  # fmt: skip
        return total(mine == truth, weights)

    def result(self, state: State) -> float:
        return ratio(state)


class BinaryAccuracy(Accuracy):
    """The share of right yes-or-no decisions: each number of the prediction above ``threshold`` means 1.

    Prediction and target of one shape; with several numbers a sample each of them is a decision (multi-label).

    >>> accuracy = phalanx.metrics.BinaryAccuracy()
    >>> accuracy.update(np.array([0.9, 0.2, 0.6]), np.array([1, 0, 0]))
    >>> round(accuracy.compute(), 4)
    0.6667
    """

    default_name = "binary_accuracy"

    def measure(self, prediction: Any, target: Any, weight: Any) -> State:
        expect_target(self.name, target)
        prediction, target = squeezed(prediction, target, self.axis)
        if prediction.shape != target.shape:
            raise ShapeError(
                f"{self.name}: prediction and target must have one shape, got {prediction.shape} and {target.shape}"
            )
        mine, truth, weights = flat(self.name, prediction > self.threshold, target, weight, self.ignore_index)
        return total(mine == truth, weights)


class CategoricalAccuracy(Accuracy):
    """The share of samples whose highest score is that of the class of a one-hot target; shapes (N, C, ...).

    ``threshold`` decides where there is one score a sample.

    >>> accuracy = phalanx.metrics.CategoricalAccuracy()
    >>> accuracy.update(np.array([[0.1, 0.9], [0.8, 0.2]]), np.array([[0, 1], [0, 1]]))
    >>> accuracy.compute()
    0.5
    """

    default_name = "categorical_accuracy"

    def measure(self, prediction: Any, target: Any, weight: Any) -> State:
        expect_target(self.name, target)
        if prediction.shape != target.shape or prediction.ndim < 2:
            raise ShapeError(
                f"{self.name}: expected scores and one-hot targets of one shape (N, C, ...), got {prediction.shape} and {target.shape}"
            )
        mine, truth = prediction.argmax(axis=self.axis), target.argmax(axis=self.axis)
        mine, truth, weights = flat(self.name, mine, truth, weight, self.ignore_index)
        return total(mine == truth, weights)


class SparseCategoricalAccuracy(Accuracy):
    """The share of samples whose highest score (N, C, ...) is that of their label (N, ...).

    ``threshold`` decides where there is one score a sample.

    >>> accuracy = phalanx.metrics.SparseCategoricalAccuracy()
    >>> accuracy.update(np.array([[0.1, 0.9], [0.8, 0.2]]), np.array([1, 1]))
    >>> accuracy.compute()
    0.5
    """

    default_name = "sparse_categorical_accuracy"

    def measure(self, prediction: Any, target: Any, weight: Any) -> State:
        expect_target(self.name, target)
        if target.ndim == prediction.ndim and target.shape[self.axis] == 1:
            target = target.squeeze(self.axis)
        if prediction.ndim != target.ndim + 1:
            raise ShapeError(
                f"{self.name}: expected scores (N, C, ...) and labels (N, ...), got {prediction.shape} and {target.shape}"
            )
        return super().measure(prediction, target, weight)


class TopKAccuracy(Metric):
    """The share of samples whose class is among the ``k`` highest scores; of equal scores the lower class goes first.

    Scores (N, C, ...) with labels (N, ...) or one-hot targets (N, C, ...).

    >>> accuracy = phalanx.metrics.TopKAccuracy(2)
    >>> accuracy.update(np.array([[0.1, 0.6, 0.3], [0.5, 0.4, 0.1]]), np.array([2, 2]))
    >>> accuracy.compute()
    0.5
    """

    def __init__(self, k: int = 5, *, axis: int = 1, ignore_index: int | None = None, name: str | None = None) -> None:
        if not isinstance(k, int) or isinstance(k, bool) or k < 1:
            raise RangeError(f"TopKAccuracy expects k to be an integer of at least 1, got {k!r}")
        super().__init__(f"top_{k}_accuracy" if name is None else name)
        self.k, self.axis, self.ignore_index = k, axis, ignore_index

    def measure(self, prediction: Any, target: Any, weight: Any) -> State:
        expect_target(self.name, target)
        prediction, target = squeezed(prediction, target, self.axis)
        if not are_scores(self.name, prediction, target, self.axis):
            if not hold_classes(prediction, target, self.axis):
                raise ShapeError(f"{self.name}: expected scores (N, C, ...), got shape {prediction.shape}")
            target = target.argmax(axis=self.axis)
        classes = prediction.shape[self.axis]
        check_labels(self.name, target, classes, self.ignore_index)
        scores = np.moveaxis(prediction, self.axis, -1).reshape(-1, classes)
        own = np.clip(target.reshape(-1, 1).astype(np.int64), 0, classes - 1)
        score = np.take_along_axis(scores, own, axis=1)
        before = (scores > score) | ((scores == score) & (np.arange(classes) < own))
        # NaN is above nothing and below nothing: a score that is none is never among the highest
        found = (before.sum(axis=1) < self.k) & (score == score)[:, 0]
        hits, _, weights = flat(self.name, found.reshape(target.shape), target, weight, self.ignore_index)
        return total(hits.astype(bool), weights)

    def result(self, state: State) -> float:
        return ratio(state)
