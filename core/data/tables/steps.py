"""The steps: filling, scaling, encoding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ...errors import DataError, RangeError, StateError
from .prepare import Preparation, State, as_table, in_kind_of
from .table import Table, absent


class SimpleImputer(Preparation):
    """Missing values become the column's mean, median or most frequent value, or ``fill_value`` ("constant").

    "most_frequent" and "constant" work on words too; among equally frequent values the least is taken.
    ``add_indicator`` adds a column ``NAME_missing`` of 0 and 1 for each column that lacked values when fitted.

    >>> from phalanx.data import tables
    >>> tables.SimpleImputer("median").fit_transform(np.array([[1.0], [np.nan], [3.0], [9.0]])).tolist()
    [[1.0], [3.0], [3.0], [9.0]]
    """

    STRATEGIES = ("mean", "median", "most_frequent", "constant")

    def __init__(
        self,
        strategy: str = "mean",
        fill_value: float | str | None = None,
        columns: Sequence[str] | None = None,
        add_indicator: bool = False,
    ) -> None:
        super().__init__(columns)
        if strategy not in self.STRATEGIES:
            raise RangeError(f"SimpleImputer: strategy is one of {', '.join(self.STRATEGIES)}, got {strategy!r}")
        if (strategy == "constant") != (fill_value is not None):
            raise RangeError('SimpleImputer: fill_value goes with strategy="constant"')
        self.strategy, self.fill_value, self.add_indicator = strategy, fill_value, add_indicator

    def _means(self, table: Table, name: str) -> bool:
        if self.strategy == "constant":
            return table.is_number(name) != isinstance(self.fill_value, str)
        return self.strategy == "most_frequent" or table.is_number(name)

    def _checked(self, table: Table, name: str) -> np.ndarray:
        assert self.fitted is not None
        if table.is_number(name) == isinstance(self.fitted[name]["value"], str) and not absent(table[name]).all():
            raise DataError(f"{table.source}, column {name!r} is not of the kind that SimpleImputer was fitted on")
        return table[name]

    def _fit(self, values: np.ndarray, name: str) -> State:
        there = values[~absent(values)]
        if self.strategy != "constant" and not len(there):
            raise DataError(f"column {name!r} has no value at all to take the {self.strategy} of: drop it")
        return {"value": self._value(there, name), "indicator": bool(self.add_indicator and len(there) < len(values))}

    def _value(self, there: np.ndarray, name: str) -> Any:
        if self.strategy == "constant":
            return self.fill_value
        if self.strategy == "most_frequent":
            found, counts = np.unique(there.astype(str) if there.dtype == object else there, return_counts=True)
            return found[np.argmax(counts)].item()
        if there.dtype == object:
            raise DataError(
                f"column {name!r} holds words, which have no {self.strategy}: use most_frequent or constant"
            )
        return float(there.mean() if self.strategy == "mean" else np.median(there))

    def _apply(self, values: np.ndarray, name: str, fitted: State) -> dict[str, np.ndarray]:
        gone = absent(values)
        filled = values.astype(object if isinstance(fitted["value"], str) else np.float64)
        filled[gone] = fitted["value"]
        return {name: filled, **({f"{name}_missing": gone.astype(np.float64)} if fitted["indicator"] else {})}


class _Scaler(Preparation):
    """``(values - centre) / spread``; a spread of 0 counts as 1. Missing values stay missing."""

    def _fit(self, values: np.ndarray, name: str) -> State:
        if values.dtype == object:
            raise DataError(
                f"column {name!r} holds words, which cannot be scaled: leave it out of columns, or encode it"
            )
        there = values[~np.isnan(values)]
        if not len(there):
            raise DataError(f"column {name!r} has no value at all to scale by: drop it")
        centre, spread = self._measure(there)
        return {"centre": float(centre), "spread": float(spread) if spread != 0 else 1.0}

    def _measure(self, values: np.ndarray) -> tuple[Any, Any]:
        raise NotImplementedError

    def _apply(self, values: np.ndarray, name: str, fitted: State) -> dict[str, np.ndarray]:
        return {name: (values - fitted["centre"]) / fitted["spread"]}

    def inverse_transform(self, data: Any) -> Any:
        """Back to the original units."""
        if self.fitted is None:
            raise StateError(f"{type(self).__name__} is not fitted: call fit() on the training data first")
        table = as_table(data)
        back = {name: table[name] * f["spread"] + f["centre"] for name, f in self.fitted.items() if name in table}
        changed = table.replaced({name: back.get(name, table[name]) for name in table.columns})
        return in_kind_of(data, changed)


class StandardScaler(_Scaler):
    """``(x - mean) / standard deviation`` of each column of numbers.

    >>> from phalanx.data import tables
    >>> tables.StandardScaler().fit_transform(np.array([[1.0], [3.0]])).tolist()
    [[-1.0], [1.0]]
    """

    def __init__(self, columns: Sequence[str] | None = None, with_mean: bool = True, with_std: bool = True) -> None:
        super().__init__(columns)
        self.with_mean, self.with_std = with_mean, with_std

    def _measure(self, values: np.ndarray) -> tuple[Any, Any]:
        return values.mean() if self.with_mean else 0.0, values.std() if self.with_std else 1.0


class MinMaxScaler(_Scaler):
    """Each column of numbers onto ``feature_range``, by its least and largest value.

    >>> from phalanx.data import tables
    >>> tables.MinMaxScaler().fit_transform(np.array([[1.0], [2.0], [5.0]])).tolist()
    [[0.0], [0.25], [1.0]]
    """

    def __init__(self, feature_range: tuple[float, float] = (0, 1), columns: Sequence[str] | None = None) -> None:
        super().__init__(columns)
        if not feature_range[0] < feature_range[1]:
            raise RangeError(f"MinMaxScaler: feature_range is (low, high), got {feature_range}")
        self.feature_range = feature_range

    def _measure(self, values: np.ndarray) -> tuple[Any, Any]:
        low, high = self.feature_range
        spread = (values.max() - values.min()) / (high - low) or 1.0
        return values.min() - low * spread, spread


class RobustScaler(_Scaler):
    """``(x - median) / (difference of two quantiles)`` of each column of numbers, which single odd values hardly move.

    >>> from phalanx.data import tables
    >>> tables.RobustScaler().fit_transform(np.array([[1.0], [2.0], [3.0], [4.0], [500.0]])).tolist()[:3]
    [[-1.0], [-0.5], [0.0]]
    """

    def __init__(
        self, quantile_range: tuple[float, float] = (25.0, 75.0), columns: Sequence[str] | None = None
    ) -> None:
        super().__init__(columns)
        if not 0 <= quantile_range[0] < quantile_range[1] <= 100:
            raise RangeError(f"RobustScaler: quantile_range is (low, high) in percent, got {quantile_range}")
        self.quantile_range = quantile_range

    def _measure(self, values: np.ndarray) -> tuple[Any, Any]:
        low, high = np.percentile(values, self.quantile_range)
        return np.median(values), high - low


class _Encoder(Preparation):
    """Words to numbers by a list of categories."""

    wants_numbers = False

    def __init__(self, columns: Sequence[str] | None, handle_unknown: str, allowed: tuple[str, str]) -> None:
        super().__init__(columns)
        if handle_unknown not in allowed:
            raise RangeError(
                f"{type(self).__name__}: handle_unknown is one of {', '.join(allowed)}, got {handle_unknown!r}"
            )
        self.handle_unknown = handle_unknown

    def _checked(self, table: Table, name: str) -> np.ndarray:
        self._refuse(table, name)
        return table[name]

    def _fit(self, values: np.ndarray, name: str) -> State:
        return {
            "categories": np.unique(values[~absent(values)].astype(str) if values.dtype == object else values).tolist()
        }

    def _refuse(self, table: Table, name: str) -> None:
        assert self.fitted is not None
        codes = _codes(table[name], self.fitted[name]["categories"])
        unknown = codes < 0
        if self.handle_unknown == "error" and unknown.any():
            row = int(np.argmax(unknown))
            value = table[name][row]
            known = ", ".join(map(str, self.fitted[name]["categories"][:8]))
            what = "is missing" if absent(table[name])[row] else f"is {value!r}, none of {known}"
            raise DataError(f"{table.place(row)}, column {name!r}: the value {what}, as in the data that was fitted")


class OneHotEncoder(_Encoder):
    """A column ``NAME=CATEGORY`` of 0 and 1 for each category that the fitted data has, in sorted order.

    ``handle_unknown``: "error", or "ignore" (all zeros). ``drop="first"`` leaves the first category out.

    >>> from phalanx.data import tables
    >>> town = tables.Table({"town": ["Ulm", "Bonn"]})
    >>> tables.OneHotEncoder().fit_transform(town).columns
    ['town=Bonn', 'town=Ulm']
    """

    def __init__(
        self, columns: Sequence[str] | None = None, handle_unknown: str = "error", drop: str | None = None
    ) -> None:
        super().__init__(columns, handle_unknown, ("error", "ignore"))
        if drop not in (None, "first"):
            raise RangeError(f'OneHotEncoder: drop is None or "first", got {drop!r}')
        self.drop = drop

    def _apply(self, values: np.ndarray, name: str, fitted: State) -> dict[str, np.ndarray]:
        codes = _codes(values, fitted["categories"])
        kept = list(enumerate(fitted["categories"]))[1 if self.drop else 0 :]
        return {f"{name}={category}": (codes == code).astype(np.float64) for code, category in kept}


class OrdinalEncoder(_Encoder):
    """Categories become 0, 1, ... in sorted order. ``handle_unknown``: "error", or "use_encoded_value" (``unknown_value``).

    >>> from phalanx.data import tables
    >>> tables.OrdinalEncoder().fit_transform(tables.Table({"town": ["Ulm", "Bonn"]}))["town"].tolist()
    [1.0, 0.0]
    """

    def __init__(
        self, columns: Sequence[str] | None = None, handle_unknown: str = "error", unknown_value: float = -1
    ) -> None:
        super().__init__(columns, handle_unknown, ("error", "use_encoded_value"))
        self.unknown_value = unknown_value

    def _apply(self, values: np.ndarray, name: str, fitted: State) -> dict[str, np.ndarray]:
        codes = _codes(values, fitted["categories"]).astype(np.float64)
        return {name: np.where(codes < 0, self.unknown_value, codes)}


def _codes(values: np.ndarray, categories: list[Any]) -> np.ndarray:
    """The place of each value among the categories; -1 for others and missing ones."""
    place = {category: code for code, category in enumerate(categories)}
    return np.array([place.get(value, -1) for value in values.tolist()], np.int64)
