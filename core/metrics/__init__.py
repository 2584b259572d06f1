"""Metrics: small states that merge exactly, so that results do not depend on who measured what."""

from .accuracy import Accuracy, BinaryAccuracy, CategoricalAccuracy, SparseCategoricalAccuracy, TopKAccuracy
from .confusion import F1, ConfusionMatrix, FBeta, JaccardIndex, Precision, Recall, Specificity
from .curves import AUC
from .mean import Mean, MeanOf
from .metric import Metric
from .names import get, get_all
from .perplexity import Perplexity
from .regression import (
    MeanAbsoluteError,
    MeanAbsolutePercentageError,
    MeanSquaredError,
    R2Score,
    RootMeanSquaredError,
)

__all__ = [
    "AUC",
    "F1",
    "Accuracy",
    "BinaryAccuracy",
    "CategoricalAccuracy",
    "ConfusionMatrix",
    "FBeta",
    "JaccardIndex",
    "Mean",
    "MeanAbsoluteError",
    "MeanAbsolutePercentageError",
    "MeanOf",
    "MeanSquaredError",
    "Metric",
    "Perplexity",
    "Precision",
    "R2Score",
    "Recall",
    "RootMeanSquaredError",
    "SparseCategoricalAccuracy",
    "Specificity",
    "TopKAccuracy",
    "get",
    "get_all",
]
