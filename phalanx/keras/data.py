"""From what Keras's users give as data to what the Trainer takes."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..core.backend import is_array
from ..core.data import DataLoader, Dataset
from ..core.data.dataset import is_stream
from ..core.errors import DataError
from ..core.tensor import Tensor


def column(value: Any) -> Any:
    """An array for the Trainer: float64 becomes float32, lists of numbers become arrays."""
    if isinstance(value, Tensor):
        value = value.array
    if not is_array(value):
        value = np.asarray(value)
        if value.dtype.kind not in "biuf":
            raise DataError(f"data is made of numbers, got an array of {value.dtype}")
    if value.dtype.kind == "f" and value.dtype.itemsize == 8:
        value = value.astype(np.float32)
    return value


def as_rows(who: str, model: Any, x: Any) -> Any:
    """Inputs as one array, or a tuple of several in the order of the model's inputs, or a dict; data sets as they are."""
    if hasattr(x, "__next__"):
        raise DataError(f"{who} expects arrays or a phalanx Dataset or DataLoader; generators are not known here")
    if isinstance(x, DataLoader | Dataset) or (
        is_stream(x) and not isinstance(x, list | tuple | dict | np.ndarray | Tensor)
    ):
        return x
    if isinstance(x, dict):
        names = getattr(model, "input_names", None)
        if names and set(names) <= set(x):
            found = tuple(column(x[name]) for name in names)
            return found if len(found) > 1 else found[0]
        return {name: column(part) for name, part in x.items()}
    if isinstance(x, list | tuple) and x and all(is_array(part) or isinstance(part, Tensor) for part in x):
        found = tuple(column(part) for part in x)
        return found if len(found) > 1 else found[0]
    return column(x)


def with_targets(
    who: str,
    model: Any,
    x: Any,
    y: Any = None,
    sample_weight: Any = None,
    steps: int | None = None,
    batch_size: int | None = None,
) -> Any:
    """(inputs, targets) or (inputs, targets, weights) as arrays; data sets as they are."""
    if x is None:
        raise DataError(f"{who} got no data: give it x and y, or a phalanx Dataset or DataLoader")
    rows = as_rows(who, model, x)
    if rows is x and not isinstance(x, np.ndarray) and not is_array(x):
        if y is not None or sample_weight is not None:
            raise DataError(f"{who} got a {type(x).__name__} and y or sample_weight: a data set holds its own")
        return x
    if y is None:
        raise DataError(f"{who} got x without targets y")
    if isinstance(y, dict):
        names = getattr(model, "output_names", None)
        y = tuple(column(y[name]) for name in names) if names else {name: column(part) for name, part in y.items()}
    elif isinstance(y, list | tuple) and y and all(is_array(part) or isinstance(part, Tensor) for part in y):
        y = tuple(column(part) for part in y)
        y = y if len(y) > 1 else y[0]
    else:
        y = column(y)
    data = [rows, y] if sample_weight is None else [rows, y, column(sample_weight)]
    if steps is not None:
        count = steps * (batch_size or 32)
        data = [_first(part, count) for part in data]
    return tuple(data)


def _first(part: Any, count: int) -> Any:
    if isinstance(part, tuple):
        return tuple(_first(inner, count) for inner in part)
    if isinstance(part, dict):
        return {name: _first(inner, count) for name, inner in part.items()}
    return part[:count]


def sample_of(data: Any) -> Any:
    """The inputs of one sample as a batch, to learn shapes from; None where a stream would have to be read."""
    if isinstance(data, DataLoader):
        data = data.dataset
    if isinstance(data, tuple):
        return _row(data[0])
    if is_stream(data) and not hasattr(data, "__getitem__"):
        return None
    sample = data[0]
    inputs = sample[0] if isinstance(sample, list | tuple) else sample
    return _lone(inputs)


def _row(part: Any) -> Any:
    if isinstance(part, tuple):
        return tuple(_row(inner) for inner in part)
    if isinstance(part, dict):
        return {name: _row(inner) for name, inner in part.items()}
    if not len(part):
        raise DataError("the data holds no sample")
    return part[:1]


def _lone(part: Any) -> Any:
    if isinstance(part, list | tuple):
        return tuple(_lone(inner) for inner in part)
    if isinstance(part, dict):
        return {name: _lone(inner) for name, inner in part.items()}
    return column(part)[None]
