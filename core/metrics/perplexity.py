"""How surprised a language model is."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..errors import ShapeError
from .labels import check_labels, expect_target
from .metric import Metric, State, per_sample, ratio, total


class Perplexity(Metric):
    """``exp(-mean(log p(target)))`` over all tokens that are not ``ignore_index``.

    Shapes: scores (N, C, ...), or with ``axis=-1`` (N, ..., C), and labels (N, ...).

    Args:
        ignore_index: a label whose places do not count: padding.
        from_logits: the scores are logits; False: probabilities.
        axis: the dimension of the classes.

    >>> perplexity = phalanx.metrics.Perplexity(axis=-1)
    >>> perplexity.update(np.zeros((2, 3, 5)), np.ones((2, 3), int))
    >>> round(perplexity.compute(), 4)
    5.0
    """

    default_name = "perplexity"

    def __init__(
        self,
        ignore_index: int | None = None,
        *,
        from_logits: bool = True,
        axis: int = 1,
        name: str | None = None,
    ) -> None:
        super().__init__(name)
        self.ignore_index, self.from_logits, self.axis = ignore_index, from_logits, axis

    def measure(self, prediction: Any, target: Any, weight: Any) -> State:
        expect_target(self.name, target)
        scores = np.moveaxis(prediction, self.axis, -1) if prediction.ndim > 1 else prediction
        if scores.shape[:-1] != target.shape:
            raise ShapeError(
                f"{self.name}: expected scores (N, C, ...) and labels (N, ...) with the classes in dimension {self.axis}, got "
                f"{prediction.shape} and {target.shape}"
            )
        check_labels(self.name, target, scores.shape[-1], self.ignore_index)
        weights = per_sample(self.name, weight, target.shape)
        kept = np.ones(target.shape, bool) if self.ignore_index is None else target != self.ignore_index
        scores, truth = scores[kept].astype(np.float64), target[kept].astype(np.int64)[:, None]
        if self.from_logits:
            scores = scores - scores.max(axis=1, keepdims=True)
            logs = np.take_along_axis(scores, truth, axis=1)[:, 0] - np.log(np.exp(scores).sum(axis=1))
        else:
            logs = np.log(np.take_along_axis(scores, truth, axis=1)[:, 0])
        return total(-logs, None if weights is None else weights[kept])

    def result(self, state: State) -> float:
        return float(np.exp(ratio(state)))
