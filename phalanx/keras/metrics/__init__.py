"""Metrics by Keras's names: ``update_state(y_true, y_pred, sample_weight)``, ``result()``, ``reset_state()``; exact over ranks."""

from __future__ import annotations

from typing import Any

from ...core.metrics import Metric as _Own
from ..losses import Loss
from ..names import by_name
from .accuracy import (
    Accuracy,
    AutoAccuracy,
    BinaryAccuracy,
    CategoricalAccuracy,
    SparseCategoricalAccuracy,
    SparseTopKCategoricalAccuracy,
    TopKCategoricalAccuracy,
)
from .base import Mean, MeanMetricWrapper, Metric, Sum
from .curves import AUC, F1Score, R2Score
from .more import (
    BinaryCrossentropy,
    CategoricalCrossentropy,
    CategoricalHinge,
    CosineSimilarity,
    FalseNegatives,
    FalsePositives,
    Hinge,
    KLDivergence,
    LogCoshError,
    MeanAbsoluteError,
    MeanAbsolutePercentageError,
    MeanSquaredError,
    MeanSquaredLogarithmicError,
    Poisson,
    Precision,
    Recall,
    RootMeanSquaredError,
    SparseCategoricalCrossentropy,
    SquaredHinge,
    TrueNegatives,
    TruePositives,
)

_SHORT = {
    "mse": MeanSquaredError, "mae": MeanAbsoluteError, "mape": MeanAbsolutePercentageError,
    "msle": MeanSquaredLogarithmicError, "rmse": RootMeanSquaredError, "bce": BinaryCrossentropy, "auc": AUC,
    "accuracy": AutoAccuracy, "acc": AutoAccuracy, "f1_score": F1Score, "r2_score": R2Score,
}  # fmt: skip


def get(identifier: Any, loss: Any = None) -> Any:
    """The metric of that name, under the string as its name; metrics as they are, functions as means.

    >>> from phalanx import keras
    >>> keras.metrics.get("mae").name
    'mae'
    """
    if isinstance(identifier, str):
        known = {kind().name: kind for kind in _CLASSES} | _SHORT
        kind = by_name("metric", "".join(identifier.split()) if identifier != "AUC" else "auc", known)
        return kind(name=identifier, loss=loss) if kind is AutoAccuracy else kind(name=identifier)
    if isinstance(identifier, type):
        return identifier()
    if isinstance(identifier, _Own):
        return identifier
    if isinstance(identifier, Loss) or callable(identifier):
        return MeanMetricWrapper(identifier)
    raise TypeError(f"a metric is a name, a Metric or a function of targets and predictions, got {identifier!r}")


_CLASSES: tuple[Any, ...] = (
    AUC,
    BinaryAccuracy,
    BinaryCrossentropy,
    CategoricalAccuracy,
    CategoricalCrossentropy,
    CategoricalHinge,
    CosineSimilarity,
    F1Score,
    FalseNegatives,
    FalsePositives,
    Hinge,
    KLDivergence,
    LogCoshError,
    Mean,
    MeanAbsoluteError,
    MeanAbsolutePercentageError,
    MeanSquaredError,
    MeanSquaredLogarithmicError,
    Poisson,
    Precision,
    R2Score,
    Recall,
    RootMeanSquaredError,
    SparseCategoricalAccuracy,
    SparseCategoricalCrossentropy,
    SparseTopKCategoricalAccuracy,
    SquaredHinge,
    Sum,
    TopKCategoricalAccuracy,
    TrueNegatives,
    TruePositives,
)

__all__ = [
    "AUC",
    "Accuracy",
    "BinaryAccuracy",
    "BinaryCrossentropy",
    "CategoricalAccuracy",
    "CategoricalCrossentropy",
    "CategoricalHinge",
    "CosineSimilarity",
    "F1Score",
    "FalseNegatives",
    "FalsePositives",
    "Hinge",
    "KLDivergence",
    "LogCoshError",
    "Mean",
    "MeanAbsoluteError",
    "MeanAbsolutePercentageError",
    "MeanMetricWrapper",
    "MeanSquaredError",
    "MeanSquaredLogarithmicError",
    "Metric",
    "Poisson",
    "Precision",
    "R2Score",
    "Recall",
    "RootMeanSquaredError",
    "SparseCategoricalAccuracy",
    "SparseCategoricalCrossentropy",
    "SparseTopKCategoricalAccuracy",
    "SquaredHinge",
    "Sum",
    "TopKCategoricalAccuracy",
    "TrueNegatives",
    "TruePositives",
    "get",
]
