"""A table in memory: named columns of numbers or words, some of them missing."""

from __future__ import annotations

import csv
import gzip
import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import DataError, RangeError, ShapeError
from ..dataset import TensorDataset
from ..splits import split

MISSING = ("", "NA", "N/A", "n/a", "nan", "NaN", "NULL", "null", "None", "?")
"""Cells that say that there is no value (Kaggle's and UCI's files between them)."""
TYPES = ("number", "category")


class Table:
    """Columns of equal length: numbers are float64 with NaN for a missing value, words are objects with None for one.

    >>> table = phalanx.data.tables.Table({"age": [31, None, 50], "town": ["Ulm", "Bonn", None]})
    >>> table.columns, len(table), table.missing()
    (['age', 'town'], 3, {'age': 1, 'town': 1})
    """

    def __init__(
        self, columns: Mapping[str, Any], *, source: str = "table", lines: Sequence[int] | np.ndarray | None = None
    ) -> None:
        self._columns = {str(name): _column(values) for name, values in columns.items()}
        self.source = source
        lengths = {name: len(values) for name, values in self._columns.items()}
        if len(set(lengths.values())) > 1:
            raise ShapeError(f"a table's columns have equal lengths, got {lengths}")
        length = next(iter(lengths.values()), 0)
        self.lines = np.arange(length) if lines is None else np.asarray(lines, np.int64)
        """For messages: where each row comes from."""

    @property
    def columns(self) -> list[str]:
        """The columns' names, in order."""
        return list(self._columns)

    def __len__(self) -> int:
        return len(self.lines)

    def __contains__(self, name: object) -> bool:
        return name in self._columns

    def __getitem__(self, key: Any) -> Any:
        """A column by its name, a table of columns by a list of names, a table of rows by a slice, indices or booleans."""
        if isinstance(key, str):
            if key not in self._columns:
                raise RangeError(f"{self.source} has no column {key!r}; it has {', '.join(self._columns)}")
            return self._columns[key]
        if isinstance(key, list | tuple) and key and all(isinstance(name, str) for name in key):
            return Table({name: self[name] for name in key}, source=self.source, lines=self.lines)
        rows = [key] if isinstance(key, int) else key
        chosen = {name: values[rows] for name, values in self._columns.items()}
        return Table(chosen, source=self.source, lines=self.lines[rows])

    def drop(self, names: str | Sequence[str]) -> Table:
        """Without these columns."""
        gone = [names] if isinstance(names, str) else list(names)
        for name in gone:
            self[name]
        return self.replaced({name: values for name, values in self._columns.items() if name not in gone})

    def replaced(self, columns: Mapping[str, Any]) -> Table:
        """The same rows with other columns."""
        return Table(columns, source=self.source, lines=self.lines)

    def with_column(self, name: str, values: Any) -> Table:
        """With one more column, or another in its place."""
        return self.replaced({**self._columns, name: values})

    def is_number(self, name: str) -> bool:
        """Whether a column holds numbers."""
        return bool(self[name].dtype != object)

    def missing(self) -> dict[str, int]:
        """Name -> how many values are missing, of columns that lack some."""
        counts = {name: int(absent(values).sum()) for name, values in self._columns.items()}
        return {name: count for name, count in counts.items() if count}

    def drop_missing(self, columns: Sequence[str] | None = None) -> Table:
        """Only the rows that have all values (of ``columns``)."""
        whole = np.ones(len(self), bool)
        for name in self.columns if columns is None else columns:
            whole &= ~absent(self[name])
        return self[whole]

    def numbers(self, columns: Sequence[str] | None = None, dtype: Any = np.float32) -> np.ndarray:
        """The columns as one array (N, D). Raises DataError that names row and column of what is no number."""
        names = self.columns if columns is None else list(columns)
        for name in names:
            wrong = absent(self[name]) if self.is_number(name) else np.ones(len(self), bool)
            if wrong.any():
                row = int(np.argmax(wrong))
                value = self[name][row]
                what = "is missing" if absent(self[name])[row] else f"is {value!r}, no number"
                way = "SimpleImputer or drop_missing()" if "missing" in what else "OneHotEncoder or OrdinalEncoder"
                raise DataError(f"{self.place(row)}, column {name!r}: the value {what}; use {way} first")
        stacked = [self[name] for name in names]
        return np.stack(stacked, 1).astype(dtype) if stacked else np.zeros((len(self), 0), dtype)

    def labels(self, name: str) -> tuple[np.ndarray, list[str] | None]:
        """A column as a target: whole numbers int64, others float32, words int64 with the sorted list of classes."""
        if self.is_number(name):
            values = self.numbers([name], np.float64)[:, 0]
            return values.astype(np.int64 if (values == np.floor(values)).all() else np.float32), None
        gone = absent(self[name])
        if gone.any():
            raise DataError(f"{self.place(int(np.argmax(gone)))}, column {name!r}: the label is missing")
        classes, labels = np.unique(self[name].astype(str), return_inverse=True)
        return labels.astype(np.int64), classes.tolist()

    def dataset(self, target: str | None = None, columns: Sequence[str] | None = None) -> TensorDataset:
        """Samples: features float32 (all columns but the target, or ``columns``), then the target as :meth:`labels` has it."""
        features = [name for name in self.columns if name != target] if columns is None else list(columns)
        arrays = [self.numbers(features)]
        return TensorDataset(*arrays, *([] if target is None else [self.labels(target)[0]]))

    def split(
        self, lengths: Sequence[float], *, stratify: str | None = None, seed: int | None = None, shuffle: bool = True
    ) -> list[Table]:
        """Cut into parts at random as :func:`phalanx.data.split`; ``stratify`` names a column of classes."""
        labels = None if stratify is None else self[stratify].astype(str)
        return [
            self[part.indices] for part in split(range(len(self)), lengths, stratify=labels, seed=seed, shuffle=shuffle)
        ]

    def place(self, row: int) -> str:
        """Words for messages."""
        return f"{self.source}, {'row' if self.source == 'table' else 'line'} {self.lines[row]}"

    def __repr__(self) -> str:
        return f"Table({len(self)} rows: {', '.join(self._columns)})"


def absent(values: np.ndarray) -> np.ndarray:
    """True where there is no value."""
    if values.dtype == object:
        return np.array([value is None for value in values], bool)
    return np.isnan(values)


def _column(values: Any) -> np.ndarray:
    array = np.asarray(values.numpy() if hasattr(values, "numpy") else values)
    if array.ndim != 1:
        array = np.asarray(values, object) if array.ndim == 0 else array
        if array.ndim != 1:
            raise ShapeError(f"a column is one value a row, got shape {array.shape}")
    if array.dtype.kind in "fiub":
        return array.astype(np.float64)
    cells = [None if _is_none(value) else value for value in array.tolist()]
    if all(value is None or isinstance(value, int | float) for value in cells):
        return np.array([np.nan if value is None else value for value in cells], np.float64)
    words = np.empty(len(cells), object)
    words[:] = [None if value is None else str(value) for value in cells]
    return words


def _is_none(value: Any) -> bool:
    return value is None or (isinstance(value, float) and value != value)


def read_csv(
    path: str | os.PathLike[str],
    *,
    header: bool | Sequence[str] = True,
    delimiter: str = ",",
    types: Mapping[str, str] | None = None,
    columns: Sequence[str] | None = None,
    missing: Sequence[str] = MISSING,
    encoding: str = "utf-8",
) -> Table:
    """A CSV file (.gz too) as a :class:`Table`. A column is of numbers where all its cells are, else of words.

    ``header``: True (the first line has the names), False (they are "0", "1", ...) or the names. ``types``: name -> "number"
    or "category", for columns that are not what they look like. ``columns``: only these. ``missing``: cells that mean that
    there is no value; blanks around cells don't count.

    Raises DataError that names line and column.

    >>> import tempfile
    >>> path = tempfile.mkdtemp() + "/people.csv"
    >>> _ = open(path, "w").write("age,town\\n31,Ulm\\n,Bonn\\n50,?\\n")
    >>> phalanx.data.tables.read_csv(path)["age"].tolist()
    [31.0, nan, 50.0]
    """
    for name, kind in (types or {}).items():
        if kind not in TYPES:
            raise RangeError(f"read_csv: types[{name!r}] is one of {', '.join(TYPES)}, got {kind!r}")
    names, rows, lines = _rows(Path(path), header, delimiter, encoding)
    wanted = names if columns is None else list(columns)
    unknown = [name for name in (*wanted, *(types or {})) if name not in names]
    if unknown:
        raise DataError(f"{path} has no column {', '.join(unknown)}; it has {', '.join(names)}")
    gone = set(missing)
    found = {}
    for name in wanted:
        place = names.index(name)
        cells = [None if row[place] in gone else row[place] for row in rows]
        found[name] = _typed(cells, (types or {}).get(name), name, f"{path}", lines)
    return Table(found, source=str(path), lines=lines)


def _rows(
    path: Path, header: bool | Sequence[str], delimiter: str, encoding: str
) -> tuple[list[str], list[list[str]], list[int]]:
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        text = content.decode(encoding).removeprefix("\ufeff")
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True)
    rows, lines = [], []
    for row in reader:
        if row:
            rows.append([cell.strip() for cell in row])
            lines.append(reader.line_num)
    if not rows:
        raise DataError(f"{path} is empty")
    if header is True:
        names, rows, lines = rows[0], rows[1:], lines[1:]
    else:
        names = [str(number) for number in range(len(rows[0]))] if header is False else list(header)
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DataError(f"{path}: the header names {', '.join(map(repr, twice))} more than once; give header=[names]")
    for row, line in zip(rows, lines, strict=True):
        if len(row) != len(names):
            raise DataError(f"{path}, line {line}: {len(row)} cells, expected {len(names)} ({', '.join(names)})")
    return names, rows, lines


def _typed(cells: list[str | None], kind: str | None, name: str, source: str, lines: list[int]) -> np.ndarray:
    """Numbers, unless a cell is none; an error then if they should be."""
    words = np.empty(len(cells), object)
    words[:] = cells
    if kind == "category":
        return words
    numbers = np.full(len(cells), np.nan)
    for place, cell in enumerate(cells):
        if cell is not None:
            try:
                numbers[place] = float(cell)
            except ValueError:
                if kind == "number":
                    raise DataError(f"{source}, line {lines[place]}, column {name!r}: {cell!r} is no number") from None
                return words
    return numbers
