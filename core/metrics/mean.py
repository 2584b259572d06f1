"""Means: of values that somebody else measured, and of any function of prediction and target."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..errors import ShapeError
from ..tensor import Tensor
from .metric import Metric, State, on_host, per_sample, ratio, total


class Mean(Metric):
    """``sum(weight * value) / sum(weight)`` of the values given to ``update``: a loss over all batches, for example.

    ``update(values, weight=...)``: a number or N values, and how much each counts (for a mean loss ``loss.weight``).

    >>> loss = phalanx.metrics.Mean("loss")
    >>> loss.update(1.0, weight=3); loss.update(2.0, weight=1)
    >>> loss.compute()
    1.25
    """

    default_name = "mean"

    def measure(self, prediction: Any, target: Any, weight: Any) -> State:
        return total(prediction.astype(np.float64), per_sample(self.name, weight, prediction.shape))

    def result(self, state: State) -> float:
        return ratio(state)


class MeanOf(Metric):
    """The mean over samples of ``function(prediction, target)``, which takes Tensors and gives one value for each sample.

    A single number counts as the mean of its batch.

    >>> distance = phalanx.metrics.MeanOf(lambda p, t: (p - t).abs().sum(dim=1), "distance")
    >>> distance.update(np.array([[1.0, 2.0], [3.0, 3.0]]), np.array([[1.0, 1.0], [1.0, 2.0]]))
    >>> distance.compute()
    2.0
    """

    def __init__(self, function: Callable[[Any, Any], Any], name: str | None = None) -> None:
        super().__init__(name or getattr(function, "__name__", "function"))
        self.function = function

    def measure(self, prediction: Any, target: Any, weight: Any) -> State:
        values = on_host(self.function(Tensor(prediction), None if target is None else Tensor(target)))
        values, samples = values.astype(np.float64), len(prediction)
        if values.ndim == 0:
            counts = float(samples) if weight is None else float(weight.sum())
            return total(values, np.asarray(counts))
        if len(values) != samples:
            raise ShapeError(
                f"metric {self.name!r}: the function must give one value for each of the {samples} samples, or one number, got shape "
                f"{values.shape}"
            )
        return total(values, per_sample(self.name, weight, values.shape))

    def result(self, state: State) -> float:
        return ratio(state)
