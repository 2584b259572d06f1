"""Metric: what an evaluation measures, as a small state that merges exactly.

A metric takes batches (``update``), gives its ``state()`` as arrays, takes the states of others (``merge``), and computes
its value from the state alone. Counts of unweighted samples are integers, all else is float64. States are added pairwise
by their numbers, never one by one: who measured which part does not show as long as the parts are the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..backend import to_host
from ..bfloat16 import is_half
from ..errors import ShapeError, StateError
from ..node import Variable

State = dict[str, np.ndarray]
"""Name -> array. A metric that has seen nothing has an empty state."""


def on_host(value: Any) -> np.ndarray:
    """A Tensor, array, list or number as a NumPy array; halves, in which counts and sums would be rounded, as float32."""
    array = to_host(value.array if isinstance(value, Variable) else value)
    return array.astype(np.float32) if is_half(array.dtype) else array


class Metric:
    """Base of all metrics. A subclass defines ``measure`` and ``result``, and ``join`` where states do not simply add up.

    Args:
        name: under which results are listed; by default the class's own.

    >>> class Largest(phalanx.metrics.Metric):
    ...     default_name = "largest"
    ...     def measure(self, prediction, target, weight):
    ...         return {"largest": prediction.max()}
    ...     def join(self, left, right):
    ...         return {"largest": np.maximum(left["largest"], right["largest"])}
    ...     def result(self, state):
    ...         return float(state["largest"])
    >>> metric = Largest()
    >>> metric.update(np.array([1.0, 3.0]), None); metric.update(np.array([2.0]), None)
    >>> metric.compute()
    3.0
    """

    default_name = "metric"

    def __init__(self, name: str | None = None) -> None:
        self.name = self.default_name if name is None else name
        self._parts: list[tuple[int, State]] = []
        """(level, state): the state of two parts of one level is one part of the next, as in a binary counter."""

    # -- what a subclass defines ------------------------------------------------------------------------------------

    def measure(self, prediction: Any, target: Any, weight: Any) -> State:
        """The state of one batch of NumPy arrays; ``target`` and ``weight`` may be None."""
        raise NotImplementedError(f"{type(self).__name__} defines no measure()")

    def join(self, left: State, right: State) -> State:
        """The state of two neighbouring parts; changes neither."""
        return {key: left[key] + right[key] for key in left}

    def result(self, state: State) -> Any:
        """The value: a float, or an array of one number for each class."""
        raise NotImplementedError(f"{type(self).__name__} defines no result()")

    # -- what a user calls ------------------------------------------------------------------------------------------

    def reset(self) -> None:
        """Forget everything."""
        self._parts = []

    def update(self, prediction: Any, target: Any = None, weight: Any = None) -> None:
        """Take one batch: Tensors or arrays of N samples. ``weight`` (N,): how much each sample counts, 1 by default."""
        prediction = on_host(prediction)
        target = None if target is None else on_host(target)
        weight = None if weight is None else on_host(weight).astype(np.float64)
        if prediction.ndim and not len(prediction):
            return
        self._push({key: np.asarray(value) for key, value in self.measure(prediction, target, weight).items()})

    def state(self) -> State:
        """What was measured so far; empty before the first sample."""
        if not self._parts:
            return {}
        *earlier, (_, found) = self._parts
        for _, part in reversed(earlier):
            found = self.join(part, found)
        return dict(found)

    def merge(self, state: Mapping[str, Any]) -> None:
        """Add what another metric of the same kind measured, as given by its ``state()``. Raises StateError if it is of another kind."""
        if not state:
            return
        if self._parts and state.keys() != self._parts[0][1].keys():
            raise StateError(
                f"metric {self.name!r} cannot merge a state with {', '.join(sorted(state))}: its own has "
                f"{', '.join(sorted(self._parts[0][1]))}"
            )
        self._push({key: np.asarray(value) for key, value in state.items()})

    def compute(self) -> Any:
        """The value over all that was seen; NaN when that is nothing."""
        state = self.state()
        return self.result(state) if state else float("nan")

    def _push(self, state: State) -> None:
        level, parts = 0, self._parts
        while parts and parts[-1][0] == level:
            state = self.join(parts.pop()[1], state)
            level += 1
        parts.append((level, state))

    def __repr__(self) -> str:
        return f"{type(self).__name__}(name={self.name!r})"


def per_sample(metric: str, weight: np.ndarray | None, shape: tuple[int, ...]) -> np.ndarray | None:
    """``weight`` of ``shape``, or of its first dimensions, spread over ``shape``."""
    if weight is None:
        return None
    if weight.shape != shape[: weight.ndim]:
        raise ShapeError(
            f"{metric}: weight must have one number for each sample, shape {shape[:1]}, or the targets' shape {shape}, "
            f"got {weight.shape}"
        )
    return np.broadcast_to(weight.reshape(weight.shape + (1,) * (len(shape) - weight.ndim)), shape)


def total(values: np.ndarray, weight: np.ndarray | None) -> State:
    """Sum and count of ``values``, weighted: the state of a mean."""
    if weight is None:
        whole = values.dtype.kind in "bui"
        found: Any = np.sum(values, dtype=np.int64 if whole else np.float64)
        return {"sum": np.asarray(found), "count": np.asarray(values.size)}
    return {
        key: np.asarray(np.sum(part, dtype=np.float64)) for key, part in (("sum", values * weight), ("count", weight))
    }


def ratio(state: State) -> float:
    """The mean of a state of :func:`total`."""
    count = float(state["count"])
    return float(state["sum"]) / count if count else float("nan")
