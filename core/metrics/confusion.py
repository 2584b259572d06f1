"""The confusion matrix, and what counts of hits and misses by class say: precision, recall, F and their kin."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..bfloat16 import is_floating
from ..errors import RangeError
from .labels import (
    Labels,
    check_labels,
    count_by_class,
    expect_target,
    flat,
    labels,
    padded,
)
from .metric import Metric, State, per_sample

AVERAGES = ("binary", "micro", "macro", "weighted", None)


class _ByClass(Metric):
    """Metrics whose state has a place for each class: classes that come up later let it grow."""

    def join(self, left: State, right: State) -> State:
        classes = max(len(array) for state in (left, right) for array in state.values())
        return {key: padded(left[key], classes) + padded(right[key], classes) for key in left}


class ConfusionMatrix(_ByClass):
    """How often class i was taken for class j: row i the true class, column j the predicted one; (C, C).

    Args:
        num_classes: C; by default as many as there are scores, or as labels that came up.
        normalize: ``"true"`` divides rows by their sums, ``"pred"`` columns, ``"all"`` by the total; None: counts.
        threshold: between the two classes, for probabilities.
        axis: the dimension of the classes.
        ignore_index: a label whose places do not count.

    >>> matrix = phalanx.metrics.ConfusionMatrix()
    >>> matrix.update(np.array([0, 1, 1, 1]), np.array([0, 0, 1, 1]))
    >>> matrix.compute().tolist()
    [[1, 1], [0, 2]]
    """

    default_name = "confusion_matrix"

    def __init__(
        self,
        num_classes: int | None = None,
        normalize: str | None = None,
        *,
        threshold: float = 0.5,
        axis: int = 1,
        ignore_index: int | None = None,
        name: str | None = None,
    ) -> None:
        if normalize not in (None, "none", "true", "pred", "all"):
            raise RangeError(f"ConfusionMatrix: normalize is None, 'true', 'pred' or 'all', got {normalize!r}")
        super().__init__(name)
        self.num_classes, self.normalize, self.threshold = num_classes, normalize, threshold
        self.axis, self.ignore_index = axis, ignore_index

    def measure(self, prediction: Any, target: Any, weight: Any) -> State:
        mine, truth, weights = labels(
            self.name, prediction, target, weight,
            axis=self.axis, threshold=self.threshold, ignore_index=self.ignore_index,
        )  # fmt: skip
        classes = class_count(self.name, self.num_classes, mine, truth, prediction, np.shape(target), self.axis)
        cells = count_by_class(truth * classes + mine, weights, classes * classes)
        return {"matrix": cells.reshape(classes, classes)}

    def result(self, state: State) -> np.ndarray:
        matrix = state["matrix"]
        if self.normalize in (None, "none"):
            return matrix
        axes: Any = {"true": 1, "pred": 0, "all": (0, 1)}[self.normalize or ""]
        return divided(matrix.astype(np.float64), matrix.sum(axis=axes, keepdims=True), 0.0)


def class_count(
    metric: str,
    given: int | None,
    mine: np.ndarray,
    truth: np.ndarray,
    prediction: np.ndarray,
    target_shape: tuple[int, ...],
    axis: int,
) -> int:
    """C: as given, or what scores or labels show, at least 2. Labels beyond a given number are an error."""
    met = 1 + max(int(mine.max(initial=1)), int(truth.max(initial=1)))
    if given is not None:
        check_labels(f"{metric} (num_classes={given})", truth, given)
        check_labels(f"{metric} (num_classes={given}), predictions", mine, given)
        return given
    check_labels(metric, truth, met)
    check_labels(f"{metric}, predictions", mine, met)
    scored = prediction.ndim > 1 and is_floating(prediction.dtype) and prediction.shape[axis] > 1
    return max(met, prediction.shape[axis]) if scored else met


def divided(over: Any, under: Any, otherwise: float) -> np.ndarray:
    """``over / under``, and ``otherwise`` where that is 0 / 0."""
    over, under = np.broadcast_arrays(np.asarray(over, np.float64), np.asarray(under, np.float64))
    return np.divide(over, under, out=np.full(over.shape, otherwise), where=under != 0)


class _Counts(_ByClass):
    """Precision and its kin: ``score`` of true positives, false positives, false negatives and true negatives."""

    def __init__(
        self,
        average: str | None = "binary",
        *,
        num_classes: int | None = None,
        threshold: float | None = None,
        zero_division: float = 0.0,
        axis: int = 1,
        ignore_index: int | None = None,
        name: str | None = None,
    ) -> None:
        average = None if average == "none" else average
        if average not in AVERAGES:
            known = ", ".join(map(repr, AVERAGES))
            raise RangeError(f"{type(self).__name__}: average is one of {known}, got {average!r}")
        super().__init__(name)
        self.average, self.num_classes, self.threshold = average, num_classes, threshold
        self.zero_division, self.axis, self.ignore_index = zero_division, axis, ignore_index

    def score(self, tp: Any, fp: Any, fn: Any, tn: Any) -> np.ndarray:
        """The value of each class."""
        raise NotImplementedError

    def measure(self, prediction: Any, target: Any, weight: Any) -> State:
        expect_target(self.name, target)
        if self._decides_each(prediction, target):
            return self._multi_label(prediction, target, weight)
        mine, truth, weights = self._labels(prediction, target, weight)
        if self.average == "binary":
            self._expect_two(mine, truth)
            classes = 2
        else:
            classes = class_count(self.name, self.num_classes, mine, truth, prediction, np.shape(target), self.axis)
        right = mine == truth
        hits = count_by_class(truth[right], None if weights is None else weights[right], classes)
        whole = right.size if weights is None else weights.sum()
        return {
            "tp": hits,
            "fp": count_by_class(mine, weights, classes) - hits,
            "fn": count_by_class(truth, weights, classes) - hits,
            "count": np.full(classes, whole),
        }

    def _decides_each(self, prediction: np.ndarray, target: np.ndarray) -> bool:
        """With a threshold, several numbers a sample are as many decisions (multi-label)."""
        several = prediction.ndim > 1 and prediction.shape == target.shape and prediction.shape[self.axis] > 1
        return several and (self.threshold is not None or prediction.dtype.kind in "bui" or self.average == "binary")

    def _labels(self, prediction: np.ndarray, target: np.ndarray, weight: np.ndarray | None) -> Labels:
        return labels(
            self.name, prediction, target, weight,
            axis=self.axis, threshold=self.threshold, ignore_index=self.ignore_index,
        )  # fmt: skip

    def _multi_label(self, prediction: np.ndarray, target: np.ndarray, weight: np.ndarray | None) -> State:
        decisions = prediction
        if is_floating(prediction.dtype):
            decisions = prediction > (0.5 if self.threshold is None else self.threshold)
        if self.average == "binary":  # all decisions are of one kind
            mine, truth, weights = flat(self.name, decisions, target, weight, self.ignore_index)
            mine, truth = mine.reshape(-1, 1) != 0, truth.reshape(-1, 1) != 0
            weights = None if weights is None else weights.reshape(-1, 1)
        else:
            spread = per_sample(self.name, weight, target.shape)
            if self.ignore_index is not None:
                kept = target != self.ignore_index
                spread = kept.astype(np.float64) if spread is None else spread * kept
            mine, truth = (self._columns(array) != 0 for array in (decisions, target))
            weights = None if spread is None else self._columns(spread)
        pairs = {"tp": mine & truth, "fp": mine & ~truth, "fn": ~mine & truth, "count": np.ones_like(mine)}
        found = {
            key: np.sum(flags, axis=0) if weights is None else np.sum(flags * weights, axis=0)
            for key, flags in pairs.items()
        }
        if self.average == "binary":  # as class 1 of two
            found = {key: np.concatenate([np.zeros_like(value), value]) for key, value in found.items()}
        return found

    def _columns(self, array: np.ndarray) -> np.ndarray:
        return np.moveaxis(array, self.axis, -1).reshape(-1, array.shape[self.axis])

    def _expect_two(self, mine: np.ndarray, truth: np.ndarray) -> None:
        for what, found in (("labels", truth), ("predictions", mine)):
            if found.size and (found.min() < 0 or found.max() > 1):
                raise RangeError(
                    f"{self.name}: average='binary' is for the classes 0 and 1, got {what} from {found.min()} to {found.max()}; "
                    "choose average='macro', 'micro', 'weighted' or None (one value for each class)"
                )

    def result(self, state: State) -> Any:
        tp, fp, fn = (state[key].astype(np.float64) for key in ("tp", "fp", "fn"))
        tn = state["count"] - tp - fp - fn
        if self.average == "micro":
            return float(self.score(tp.sum(), fp.sum(), fn.sum(), tn.sum()))
        scores = self.score(tp, fp, fn, tn)
        if self.average is None:
            return scores
        if self.average == "binary":
            return float(scores[1])
        if self.average == "weighted":
            return float(divided((scores * (tp + fn)).sum(), (tp + fn).sum(), self.zero_division))
        met = tp + fp + fn > 0  # a class that neither came nor was predicted says nothing
        return float(scores[met].sum() / met.sum()) if met.any() else self.zero_division


class Precision(_Counts):
    """``tp / (tp + fp)``: the share of what was predicted as a class that is of it.

    Shapes: scores (N, C, ...) with labels (N, ...) or one-hot targets; probabilities or labels (N,) of two classes; decisions
    (N, L) with ``threshold`` (multi-label).

    Args:
        average: ``"binary"``: of class 1; ``"micro"``: of all decisions together; ``"macro"``: the mean over classes that came up;
            ``"weighted"``: by how often each is true; None: one value for each class.
        num_classes: C; by default as many as there are scores, or as labels that came up.
        threshold: above it a probability means yes (0.5 if not given); given, each score of a sample is a decision of its own.
        zero_division: the value of 0 / 0.
        axis: the dimension of the classes.
        ignore_index: a label whose places do not count.

    >>> precision = phalanx.metrics.Precision()
    >>> precision.update(np.array([1, 1, 0, 1]), np.array([1, 0, 1, 1]))
    >>> round(precision.compute(), 4)
    0.6667
    """

    default_name = "precision"

    def score(self, tp: Any, fp: Any, fn: Any, tn: Any) -> np.ndarray:
        return divided(tp, tp + fp, self.zero_division)


class Recall(_Counts):
    """``tp / (tp + fn)``: the share of a class that was found. Arguments and shapes as :class:`Precision`.

    >>> recall = phalanx.metrics.Recall(average=None)
    >>> recall.update(np.array([0, 1, 2, 2]), np.array([0, 1, 1, 2]))
    >>> recall.compute().tolist()
    [1.0, 0.5, 1.0]
    """

    default_name = "recall"

    def score(self, tp: Any, fp: Any, fn: Any, tn: Any) -> np.ndarray:
        return divided(tp, tp + fn, self.zero_division)


class Specificity(_Counts):
    """``tn / (tn + fp)``: the share of what is not of a class that was kept out. Arguments and shapes as :class:`Precision`.

    >>> specificity = phalanx.metrics.Specificity()
    >>> specificity.update(np.array([1, 1, 0, 0]), np.array([1, 0, 0, 0]))
    >>> round(specificity.compute(), 4)
    0.6667
    """

    default_name = "specificity"

    def score(self, tp: Any, fp: Any, fn: Any, tn: Any) -> np.ndarray:
        return divided(tn, tn + fp, self.zero_division)


class FBeta(_Counts):
    """``(1 + beta^2) tp / ((1 + beta^2) tp + beta^2 fn + fp)``: precision and recall in one, recall ``beta`` times as important.

    Other arguments and shapes as :class:`Precision`. van Rijsbergen, "Information Retrieval", 1979.

    >>> score = phalanx.metrics.FBeta(2.0)
    >>> score.update(np.array([1, 1, 0, 1]), np.array([1, 0, 1, 1]))
    >>> round(score.compute(), 4)
    0.6667
    """

    default_name = "fbeta"

    def __init__(self, beta: float = 1.0, average: str | None = "binary", **options: Any) -> None:
        if not beta > 0:
            raise RangeError(f"FBeta expects beta to be above 0, got {beta!r}")
        super().__init__(average, **options)
        self.beta = beta

    def score(self, tp: Any, fp: Any, fn: Any, tn: Any) -> np.ndarray:
        square = self.beta * self.beta
        return divided((1 + square) * tp, (1 + square) * tp + square * fn + fp, self.zero_division)


class F1(FBeta):
    """``2 tp / (2 tp + fp + fn)``: the harmonic mean of precision and recall. Arguments and shapes as :class:`Precision`.

    >>> score = phalanx.metrics.F1(average="macro")
    >>> score.update(np.array([0, 1, 2, 2]), np.array([0, 1, 1, 2]))
    >>> round(score.compute(), 4)
    0.7778
    """

    default_name = "f1"

    def __init__(self, average: str | None = "binary", **options: Any) -> None:
        super().__init__(1.0, average, **options)


class JaccardIndex(_Counts):
    """``tp / (tp + fp + fn)``: intersection over union, the mean IoU of segmentation with ``average="macro"``.

    Arguments and shapes as :class:`Precision`.

    >>> overlap = phalanx.metrics.JaccardIndex(average="macro")
    >>> overlap.update(np.array([[0, 1], [1, 1]]).reshape(-1), np.array([[0, 1], [0, 1]]).reshape(-1))
    >>> round(overlap.compute(), 4)
    0.5833
    """

    default_name = "jaccard"

    def score(self, tp: Any, fp: Any, fn: Any, tn: Any) -> np.ndarray:
        return divided(tp, tp + fp + fn, self.zero_division)
