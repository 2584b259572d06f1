"""What is done to a table before it is learnt from: fitted on the training part, applied to all of them.

All take a :class:`Table` or an array (N, D) and give the same kind back. ``columns`` are those that a step works on; by
default all of numbers, or all of words. ``state_dict()`` holds what was fitted, in JSON's types.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ...errors import DataError, StateError
from .table import Table

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
        return in_kind_of(data, changed)

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


def in_kind_of(data: Any, table: Table) -> Any:
    """``table``, as an array if ``data`` is one; missing values are NaN there."""
    if isinstance(data, Table):
        return table
    dtype = np.asarray(data.numpy() if hasattr(data, "numpy") else data).dtype
    return np.stack([table[name] for name in table.columns], 1).astype(dtype if dtype.kind == "f" else np.float64)
