"""Distances between predicted and true values."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..errors import RangeError, ShapeError
from .confusion import divided
from .labels import expect_target
from .metric import Metric, State, per_sample, ratio, total


def differences(metric: str, prediction: Any, target: Any) -> tuple[np.ndarray, np.ndarray]:
    """Prediction and target as float64 of one shape; (N, 1) goes with (N,)."""
    expect_target(metric, target)
    prediction, target = prediction.astype(np.float64), target.astype(np.float64)
    if prediction.ndim == target.ndim + 1 and prediction.shape[-1] == 1:
        prediction = prediction[..., 0]
    elif target.ndim == prediction.ndim + 1 and target.shape[-1] == 1:
        target = target[..., 0]
    if prediction.shape != target.shape:
        raise ShapeError(
            f"{metric}: prediction and target must have one shape, got {prediction.shape} and {target.shape}"
        )
    return prediction, target


class _Error(Metric):
    """The mean over samples and their places of ``distance``."""

    def distance(self, prediction: np.ndarray, target: np.ndarray) -> np.ndarray:
        """Of each place."""
        raise NotImplementedError

    def measure(self, prediction: Any, target: Any, weight: Any) -> State:
        prediction, target = differences(self.name, prediction, target)
        return total(self.distance(prediction, target), per_sample(self.name, weight, target.shape))

    def result(self, state: State) -> float:
        return ratio(state)


class MeanAbsoluteError(_Error):
    """``mean(|prediction - target|)`` over samples and their places; prediction and target of one shape (N, ...).

    >>> error = phalanx.metrics.MeanAbsoluteError()
    >>> error.update(np.array([1.0, 2.0]), np.array([1.0, 4.0]))
    >>> error.compute()
    1.0
    """

    default_name = "mae"

    def distance(self, prediction: np.ndarray, target: np.ndarray) -> np.ndarray:
        return np.abs(prediction - target)


class MeanSquaredError(_Error):
    """``mean((prediction - target)^2)`` over samples and their places; prediction and target of one shape (N, ...).

    >>> error = phalanx.metrics.MeanSquaredError()
    >>> error.update(np.array([1.0, 2.0]), np.array([1.0, 4.0]))
    >>> error.compute()
    2.0
    """

    default_name = "mse"

    def distance(self, prediction: np.ndarray, target: np.ndarray) -> np.ndarray:
        return np.square(prediction - target)


class RootMeanSquaredError(MeanSquaredError):
    """``sqrt(mean((prediction - target)^2))``; prediction and target of one shape (N, ...).

    >>> error = phalanx.metrics.RootMeanSquaredError()
    >>> error.update(np.array([1.0, 2.0]), np.array([4.0, 6.0]))
    >>> round(error.compute(), 4)
    3.5355
    """

    default_name = "rmse"

    def result(self, state: State) -> float:
        return float(np.sqrt(ratio(state)))


class MeanAbsolutePercentageError(_Error):
    """``100 * mean(|prediction - target| / max(|target|, 1e-7))``, in percent as Keras gives it.

    >>> error = phalanx.metrics.MeanAbsolutePercentageError()
    >>> error.update(np.array([1.0, 3.0]), np.array([1.0, 4.0]))
    >>> error.compute()
    12.5
    """

    default_name = "mape"

    def distance(self, prediction: np.ndarray, target: np.ndarray) -> np.ndarray:
        return 100.0 * np.abs(prediction - target) / np.maximum(np.abs(target), 1e-7)


class R2Score(Metric):
    """``1 - sum(w (t - p)^2) / sum(w (t - mean(t))^2)``: the share of the target's variance that is explained.

    Shapes: (N,) or (N, D). A target without variance gives 1.0 if it is met exactly, else 0.0.

    Args:
        multioutput: of D columns: ``"uniform_average"``: their mean; ``"variance_weighted"``: weighted by the targets' variances;
            ``"raw_values"``: a value for each.

    >>> score = phalanx.metrics.R2Score()
    >>> score.update(np.array([2.5, 0.0, 2.0, 8.0]), np.array([3.0, -0.5, 2.0, 7.0]))
    >>> round(score.compute(), 4)
    0.9486
    """

    default_name = "r2"

    def __init__(self, multioutput: str = "uniform_average", *, name: str | None = None) -> None:
        known = ("uniform_average", "variance_weighted", "raw_values")
        if multioutput not in known:
            raise RangeError(f"R2Score: multioutput is one of {', '.join(known)}, got {multioutput!r}")
        super().__init__(name)
        self.multioutput = multioutput

    def measure(self, prediction: Any, target: Any, weight: Any) -> State:
        prediction, target = differences(self.name, prediction, target)
        if target.ndim > 2 or target.ndim == 0:
            raise ShapeError(f"{self.name}: expected shapes (N,) or (N, D), got {target.shape}")
        weights = per_sample(self.name, weight, target.shape[:1])
        w = np.ones((len(target), 1)) if weights is None else weights[:, None]
        p, t = prediction.reshape(len(target), -1), target.reshape(len(target), -1)
        count = w.sum()
        mean = (t * w).sum(axis=0) / (count or 1.0)
        return {
            "count": count,
            "mean": mean,
            "deviation": (w * np.square(t - mean)).sum(axis=0),
            "residual": (w * np.square(t - p)).sum(axis=0),
        }

    def join(self, left: State, right: State) -> State:
        """Means and squared deviations merge by Chan, Golub and LeVeque's rule (COMPSTAT 1982)."""
        count = left["count"] + right["count"]
        delta, share = right["mean"] - left["mean"], right["count"] / (count or 1.0)
        return {
            "count": count,
            "mean": left["mean"] + delta * share,
            "deviation": left["deviation"] + right["deviation"] + delta * delta * (left["count"] * share),
            "residual": left["residual"] + right["residual"],
        }

    def result(self, state: State) -> Any:
        deviation, residual = state["deviation"], state["residual"]
        scores = 1.0 - divided(residual, deviation, 1.0)
        scores[(deviation == 0) & (residual == 0)] = 1.0
        if self.multioutput == "raw_values":
            return scores
        if self.multioutput == "variance_weighted" and deviation.any():
            return float((scores * deviation).sum() / deviation.sum())
        return float(scores.mean())
