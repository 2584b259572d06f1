"""Which of two values of a metric is better."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ..core.errors import RangeError

_LESS = ("loss", "error", "mae", "mse", "rmse", "perplexity", "deviance", "distance")
_MORE = ("acc", "accuracy", "auc", "precision", "recall", "f1", "fbeta", "r2", "score", "top")


class Monitor:
    """The metric ``name`` in the logs of an epoch: its values and which is better by more than ``min_delta``."""

    def __init__(self, who: str, name: str, mode: str = "auto", min_delta: float = 0.0) -> None:
        if mode not in ("auto", "min", "max"):
            raise RangeError(f'{who} expects mode "auto", "min" or "max", got {mode!r}')
        if not min_delta >= 0:
            raise RangeError(f"{who} expects min_delta of at least 0, got {min_delta!r}")
        self.who, self.name, self.min_delta = who, name, min_delta
        self.sign = {"min": -1.0, "max": 1.0}.get(mode) or _direction(who, name)

    def value(self, logs: Mapping[str, Any], validated: bool = True) -> float | None:
        """None in an epoch without the validation that it belongs to. Raises RangeError when the logs lack it otherwise."""
        if self.name not in logs:
            if self.name.startswith("val_") and not validated:
                return None
            raise RangeError(
                f"{self.who} watches {self.name!r}, but the epoch's logs have: {', '.join(logs)}. "
                + ("Give fit() validation data, or " if self.name.startswith("val_") else "Change the metrics, or ")
                + "watch another by monitor=..."
            )
        return float(logs[self.name])

    def better(self, value: float, best: float | None) -> bool:
        """Whether ``value`` improves on ``best`` (None: anything but NaN does)."""
        if best is None:
            return not math.isnan(value)
        return self.sign * (value - best) > self.min_delta


def _direction(who: str, name: str) -> float:
    """-1 where less is better."""
    words = name.lower().replace("-", "_").split("_")
    for known, sign in ((_LESS, -1.0), (_MORE, 1.0)):
        if any(word.rstrip("0123456789") in known or word in known for word in words):
            return sign
    raise RangeError(f'{who} cannot tell whether less or more of {name!r} is better: give mode="min" or mode="max"')
