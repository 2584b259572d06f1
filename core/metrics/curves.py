"""Areas under curves over all thresholds, from every score: no grid of thresholds, and ties count as they should."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..bfloat16 import is_floating
from ..errors import RangeError, ShapeError
from .confusion import divided
from .labels import check_labels, expect_target, squeezed
from .metric import Metric, State, per_sample

_AVERAGES = ("macro", "weighted", "micro", None)


class AUC(Metric):
    """The area under the ROC curve or the precision-recall curve, exact: its state holds every score.

    ROC: the share of pairs (one sample of the class, one of another) that the scores put in the right order, ties count half.
    PR: average precision, ``sum((R_k - R_(k-1)) * P_k)`` over the distinct scores, from the highest.

    Shapes: scores (N,), (N, 1) or two classes (N, 2) with labels 0 and 1; (N, C) with labels (N,): one against the rest;
    (N, L) with targets (N, L) of 0 and 1: each column by itself. NaN for a column whose targets are all alike.

    Args:
        curve: ``"ROC"`` or ``"PR"``.
        average: of several columns: ``"macro"``: their mean, without undefined ones; ``"weighted"``: by how often each class is true;
            ``"micro"``: all columns in one; None: a value for each.

    Hanley and McNeil, "The meaning and use of the area under a ROC curve", Radiology, 1982.

    >>> auc = phalanx.metrics.AUC()
    >>> auc.update(np.array([0.1, 0.4, 0.35, 0.8]), np.array([0, 0, 1, 1]))
    >>> auc.compute()
    0.75
    """

    default_name = "auc"

    def __init__(self, curve: str = "ROC", average: str | None = "macro", *, name: str | None = None) -> None:
        average = None if average == "none" else average
        if curve.upper() not in ("ROC", "PR"):
            raise RangeError(f"AUC: curve is 'ROC' or 'PR', got {curve!r}")
        if average not in _AVERAGES:
            raise RangeError(f"AUC: average is one of {', '.join(map(repr, _AVERAGES))}, got {average!r}")
        super().__init__(name)
        self.curve, self.average = curve.upper(), average

    def measure(self, prediction: Any, target: Any, weight: Any) -> State:
        expect_target(self.name, target)
        scores, truth = squeezed(prediction, target, 1)
        if scores.ndim == 2 and scores.shape == truth.shape and scores.shape[1] == 1:
            scores, truth = scores[:, 0], truth[:, 0]
        if scores.ndim > 2 or scores.ndim == 0 or truth.shape not in (scores.shape, scores.shape[:1]):
            raise ShapeError(
                f"{self.name}: expected scores (N,) or (N, C) with targets (N,), or both (N, L), got {prediction.shape} and {target.shape}"
            )
        if truth.shape == scores.shape:
            check_labels(self.name, truth, 2)
            truth = truth != 0
        else:
            check_labels(self.name, truth, scores.shape[1])
            truth = truth.astype(np.int64)
            if scores.shape[1] == 2:
                scores, truth = scores[:, 1], truth == 1
        if not np.isfinite(scores).all():
            raise RangeError(f"{self.name}: scores must be finite numbers to be put in order")
        if not is_floating(scores.dtype):
            scores = scores.astype(np.float64)
        weights = per_sample(self.name, weight, (len(scores),))
        return {"scores": scores, "target": truth, "weight": np.ones(len(scores)) if weights is None else weights}

    def join(self, left: State, right: State) -> State:
        return {key: np.concatenate([left[key], right[key]]) for key in left}

    def result(self, state: State) -> Any:
        scores, truth, weight = state["scores"], state["target"], state["weight"]
        if scores.ndim == 1:
            return self._area(scores, truth, weight)
        if truth.ndim == 1:
            truth = truth[:, None] == np.arange(scores.shape[1])
        if self.average == "micro":
            return self._area(scores.reshape(-1), truth.reshape(-1), np.repeat(weight, scores.shape[1]))
        areas = np.array([self._area(scores[:, c], truth[:, c], weight) for c in range(scores.shape[1])])
        if self.average is None:
            return areas
        shares = np.ones(len(areas)) if self.average == "macro" else (truth * weight[:, None]).sum(axis=0)
        known = np.isfinite(areas)
        return float(divided((areas[known] * shares[known]).sum(), shares[known].sum(), float("nan")))

    def _area(self, scores: np.ndarray, truth: np.ndarray, weight: np.ndarray) -> float:
        """One curve: scores (N,), truth (N,) bool, weight (N,)."""
        order = np.argsort(-scores, kind="stable")
        scores, yes = scores[order], truth[order] * weight[order]
        last = np.append(scores[1:] != scores[:-1], True)  # of each group of equal scores
        hits = np.cumsum(yes)[last]
        alarms = np.cumsum(weight[order] - yes)[last]
        positives, negatives = hits[-1], alarms[-1]
        if self.curve == "PR":
            if not positives:
                return float("nan")
            steps = np.diff(hits, prepend=0.0)
            return float((steps * divided(hits, hits + alarms, 0.0)).sum() / positives)
        if not positives or not negatives:
            return float("nan")
        heights = hits - np.diff(hits, prepend=0.0) / 2
        return float((np.diff(alarms, prepend=0.0) * heights).sum() / (positives * negatives))
