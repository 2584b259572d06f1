"""Metrics by the names that people give them in strings."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from ..errors import RangeError
from .accuracy import Accuracy, BinaryAccuracy, CategoricalAccuracy, SparseCategoricalAccuracy, TopKAccuracy
from .confusion import F1, ConfusionMatrix, JaccardIndex, Precision, Recall, Specificity
from .curves import AUC
from .mean import MeanOf
from .metric import Metric
from .perplexity import Perplexity
from .regression import (
    MeanAbsoluteError,
    MeanAbsolutePercentageError,
    MeanSquaredError,
    R2Score,
    RootMeanSquaredError,
)

BY_NAME: dict[str, Callable[..., Metric]] = {
    "accuracy": Accuracy, "acc": Accuracy, "binary_accuracy": BinaryAccuracy,
    "categorical_accuracy": CategoricalAccuracy, "sparse_categorical_accuracy": SparseCategoricalAccuracy,
    "top_k_accuracy": TopKAccuracy, "top_k_categorical_accuracy": TopKAccuracy,
    "sparse_top_k_categorical_accuracy": TopKAccuracy,
    "precision": Precision, "recall": Recall, "f1": F1, "f1_score": F1, "specificity": Specificity,
    "jaccard": JaccardIndex, "iou": JaccardIndex, "confusion_matrix": ConfusionMatrix,
    "auc": AUC, "roc_auc": AUC, "average_precision": partial(AUC, "PR"), "pr_auc": partial(AUC, "PR"),
    "mae": MeanAbsoluteError, "mean_absolute_error": MeanAbsoluteError,
    "mse": MeanSquaredError, "mean_squared_error": MeanSquaredError,
    "rmse": RootMeanSquaredError, "root_mean_squared_error": RootMeanSquaredError,
    "mape": MeanAbsolutePercentageError, "mean_absolute_percentage_error": MeanAbsolutePercentageError,
    "r2": R2Score, "r2_score": R2Score, "perplexity": Perplexity,
}  # fmt: skip
"""What :func:`get` knows; the result is listed under the string that was given."""


def get(metric: Any) -> Metric:
    """A metric from a string such as ``"accuracy"``, a function of prediction and target, or a Metric (itself).

    Raises RangeError that lists the known names.

    >>> phalanx.metrics.get("mae")
    MeanAbsoluteError(name='mae')
    """
    if isinstance(metric, Metric) or all(hasattr(metric, name) for name in ("update", "compute", "state", "merge")):
        return metric
    if isinstance(metric, str):
        make = BY_NAME.get(metric.lower())
        if make is None:
            raise RangeError(
                f"{metric!r} is no metric; known: {', '.join(sorted(BY_NAME))}. Or give a Metric or a function"
            )
        return make(name=metric)
    if callable(metric):
        return MeanOf(metric)
    raise RangeError(f"expected a metric, its name or a function, got {type(metric).__name__}")


def get_all(metrics: Any) -> list[Metric]:
    """Metrics from one or several of what :func:`get` takes. Raises RangeError if two have one name.

    >>> [metric.name for metric in phalanx.metrics.get_all(["accuracy", "auc"])]
    ['accuracy', 'auc']
    """
    several = isinstance(metrics, Iterable) and not isinstance(metrics, str)
    found = [get(metric) for metric in (metrics if several else [metrics])]
    names = [metric.name for metric in found]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise RangeError(
            f"two metrics are called {', '.join(map(repr, twice))}: give one of them another name, Metric(name=...)"
        )
    return found
