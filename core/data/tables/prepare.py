"""What is done to a table before it is learnt from: fitted on the training part, applied to all of them.

All take a :class:`Table` or an array (N, D) and give the same kind back. ``columns`` are those that a step works on; by
default all of numbers, or all of words. ``state_dict()`` holds what was fitted, in JSON's types.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ...errors import DataError, RangeError, StateError
from .table import Table, absent

State = dict[str, Any]


class Preparation:
    """Base of the steps: a subclass fits one column (``_fit``) and changes one (``_apply``).

    >>> from phalanx.data import tables
    >>> class Centre(tables.Preparation):
    ...     def _fit(self, values, name): return {"mean": float(values.mean())}
    ...     def _apply(self, values, name, fitted): return {name: values - fitted["mean"]}
    >>> Centre().fit_transform(np.array([[1.0], [3.0]])).tolist()
    [[-1.0], [1.0]]
    """

    wants_numbers = True
    """Which columns are meant by default."""

    def __init__(self, columns: Sequence[str] | None = None) -> None:
        self.columns = None if columns is None else list(columns)
        self.fitted: dict[str, State] | None = None
        """Column -> what was fitted."""

    def fit(self, data: Any, *, exclude: Sequence[str] = ()) -> Preparation:
        """Learn from ``data``; ``exclude``: columns to leave alone, such as the target. Returns self."""
        table = as_table(data)
        names = self.columns
        if names is None:
            names = [name for name in table.columns if self._means(table, name) and name not in exclude]
        self.fitted = {name: self._fit(table[name], name) for name in names}
        return self

    def transform(self, data: Any) -> Any:
        """``data`` as fitted. Raises StateError before :meth:`fit`, DataError that names row and column."""
        if self.fitted is None:
            raise StateError(f"{type(self).__name__} is not fitted: call fit() on the training data first")
        table = as_table(data)
        columns: dict[str, np.ndarray] = {}
        for name in table.columns:
            if name in self.fitted:
                columns |= self._apply(self._checked(table, name), name, self.fitted[name])
            else:
                columns[name] = table[name]
        lost = [name for name in self.fitted if name not in table]
        if lost:
            raise DataError(f"{type(self).__name__} was fitted on {', '.join(lost)}, which {table.source} lacks")
        changed = table.replaced(columns)
        return changed if isinstance(data, Table) else changed.numbers(dtype=np.asarray(data).dtype)

    def fit_transform(self, data: Any, *, exclude: Sequence[str] = ()) -> Any:
        """:meth:`fit`, then :meth:`transform`."""
        return self.fit(data, exclude=exclude).transform(data)

    def state_dict(self) -> State:
        """What was fitted."""
        if self.fitted is None:
            raise StateError(f"{type(self).__name__} is not fitted: there is no state to save")
        return {"kind": type(self).__name__, "fitted": self.fitted}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what was fitted elsewhere."""
        if state.get("kind") != type(self).__name__:
            raise StateError(f"the state of a {state.get('kind')} was given to a {type(self).__name__}")
        self.fitted = {name: dict(fitted) for name, fitted in state["fitted"].items()}

    def _means(self, table: Table, name: str) -> bool:
        return table.is_number(name) == self.wants_numbers

    def _checked(self, table: Table, name: str) -> np.ndarray:
        if table.is_number(name) != self.wants_numbers and len(table):
            kinds = ("words", "numbers") if self.wants_numbers else ("numbers", "words")
            raise DataError(
                f"{table.source}, column {name!r} holds {kinds[0]}, {type(self).__name__} expects {kinds[1]}"
            )
        self._refuse(table, name)
        return table[name]

    def _refuse(self, table: Table, name: str) -> None:
        """Raises DataError for a value that cannot be."""

    def _fit(self, values: np.ndarray, name: str) -> State:
        raise TypeError(f"{type(self).__name__} must define _fit(values, name)")

    def _apply(self, values: np.ndarray, name: str, fitted: State) -> dict[str, np.ndarray]:
        raise TypeError(f"{type(self).__name__} must define _apply(values, name, fitted)")

    def __repr__(self) -> str:
        return f"{type(self).__name__}(columns={self.columns})"


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
        return changed if isinstance(data, Table) else changed.numbers(dtype=np.asarray(data).dtype)


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


class Pipeline:
    """Steps one after another; ``target`` names a column that none of them touches.

    >>> from phalanx.data import tables
    >>> people = tables.Table({"age": [20, None, 40], "town": ["Ulm", "Bonn", "Ulm"], "rich": [0, 1, 1]})
    >>> steps = tables.Pipeline(
    ...     [tables.SimpleImputer(), tables.StandardScaler(), tables.OneHotEncoder()], target="rich"
    ... )
    >>> data = steps.fit_transform(people).dataset(target="rich")
    >>> data[1][0].tolist(), data[1][1].item()
    ([0.0, 1.0, 0.0], 1)
    """

    def __init__(self, steps: Sequence[Preparation], target: str | None = None) -> None:
        self.steps, self.target = list(steps), target

    def fit(self, data: Any) -> Pipeline:
        """Fit each step on what those before it made of ``data``. Returns self."""
        self.fit_transform(data)
        return self

    def transform(self, data: Any) -> Any:
        """``data`` through all steps."""
        for step in self.steps:
            data = step.transform(data)
        return data

    def fit_transform(self, data: Any) -> Any:
        """:meth:`fit`, then :meth:`transform`."""
        exclude = () if self.target is None else (self.target,)
        for step in self.steps:
            data = step.fit_transform(data, exclude=exclude)
        return data

    def state_dict(self) -> State:
        """What was fitted, in JSON's types."""
        return {"steps": [step.state_dict() for step in self.steps], "target": self.target}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what an equal pipeline fitted."""
        if len(state["steps"]) != len(self.steps):
            raise StateError(f"the state has {len(state['steps'])} steps, this pipeline {len(self.steps)}")
        for step, saved in zip(self.steps, state["steps"], strict=True):
            step.load_state_dict(saved)

    def __repr__(self) -> str:
        return f"Pipeline({self.steps!r}, target={self.target!r})"


def as_table(data: Any) -> Table:
    """``data`` as it is, or an array (N, D) with columns "0", "1", ..."""
    if isinstance(data, Table):
        return data
    array = np.asarray(data.numpy() if hasattr(data, "numpy") else data)
    if array.ndim != 2:
        raise DataError(f"expected a Table or an array (N, D), got shape {array.shape}")
    return Table({str(number): array[:, number] for number in range(array.shape[1])})


def _codes(values: np.ndarray, categories: list[Any]) -> np.ndarray:
    """The place of each value among the categories; -1 for others and missing ones."""
    place = {category: code for code, category in enumerate(categories)}
    return np.array([place.get(value, -1) for value in values.tolist()], np.int64)
