"""From what a user gives as data to a loader."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..core.backend import is_array, to_host
from ..core.data import DataLoader, Dataset, Subset, TensorDataset
from ..core.data.dataset import is_stream
from ..core.errors import DataError, RangeError
from ..core.tensor import Tensor


class Weighted(Dataset):
    """The samples (x, y) of ``dataset`` as (x, y, weight)."""

    def __init__(self, dataset: Any, weights: np.ndarray) -> None:
        if weights.shape != (len(dataset),):
            raise DataError(
                f"sample_weight must have one number for each of the {len(dataset)} samples, got shape {weights.shape}"
            )
        if not np.isfinite(weights).all() or (weights < 0).any():
            raise DataError("sample_weight must be finite and at least 0 everywhere")
        self.dataset, self.weights = dataset, weights

    @property
    def keyed(self) -> bool:  # type: ignore[override]
        return getattr(self.dataset, "keyed", False)

    def __len__(self) -> int:
        return len(self.weights)

    def __getitem__(self, index: int) -> Any:
        sample = self.dataset[index]
        if not isinstance(sample, list | tuple) or len(sample) != 2:
            raise DataError("sample_weight goes with samples (x, y)")
        return (*sample, self.weights[index])

    def take(self, indices: np.ndarray) -> tuple[Any, ...] | None:
        take = getattr(self.dataset, "take", None)
        columns = None if take is None else take(indices)
        return None if columns is None else (*columns, self.weights[indices])


class Nested(Dataset):
    """Rows of nested tuples and dicts of arrays of equal length: several inputs, ``((x1, x2), y)``."""

    keyed = True

    def __init__(self, arrays: Any) -> None:
        self.arrays = arrays
        lengths = _lengths(arrays)
        if len(set(lengths)) != 1:
            raise DataError(f"arrays of data must be equally long, got lengths {lengths}")
        self._length = lengths[0]

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> Any:
        return _row(self.arrays, index)


def as_dataset(data: Any) -> Any:
    """A Dataset as it is, a DataLoader's own, or one of arrays: ``x``, ``(x, y)`` or ``(x, y, weight)``, x and y may be nested."""
    if isinstance(data, DataLoader):
        return data.dataset
    if _is_rows(data):
        return TensorDataset(_rows(data))
    if isinstance(data, tuple):
        if not 1 <= len(data) <= 3:
            raise DataError(f"data in a tuple is (x,), (x, y) or (x, y, weight), got {len(data)} parts")
        columns = [part for part in data if part is not None]
        if all(_is_rows(part) for part in columns):
            return TensorDataset(*map(_rows, columns))
        return Nested(tuple(columns))
    if hasattr(data, "__getitem__") and hasattr(data, "__len__") and not isinstance(data, Mapping | str):
        return data
    if is_stream(data) and not isinstance(data, Mapping | str):
        return data
    raise DataError(f"data is arrays (x, y), a Dataset or a DataLoader, got {type(data).__name__}")


def training_loader(
    data: Any,
    batch_size: int | None,
    shuffle: bool,
    sample_weight: Any,
    validation_split: float,
    device: Any = None,
) -> tuple[DataLoader, Any]:
    """(loader, validation data or None); a loader that is made here sends to ``device``. A DataLoader is taken as it is; then batch_size and the like cannot be given too."""
    if isinstance(data, DataLoader):
        for name, given in (
            ("batch_size", batch_size is not None),
            ("sample_weight", sample_weight is not None),
            ("validation_split", bool(validation_split)),
        ):
            if given:
                raise RangeError(
                    f"fit got a DataLoader and {name}: the loader decides that; give its dataset instead, or leave {name} out"
                )
        return data, None
    dataset = as_dataset(data)
    if is_stream(dataset) and (sample_weight is not None or validation_split):
        raise RangeError("sample_weight and validation_split need data with a length, not a stream of samples")
    if sample_weight is not None:
        dataset = Weighted(dataset, _rows(sample_weight).astype(np.float32))
    held_out = None
    if validation_split:
        dataset, held_out = _split(dataset, validation_split)
    shuffle = shuffle and not is_stream(dataset)  # a stream has its own order
    size = 32 if batch_size is None else batch_size
    return DataLoader(dataset, batch_size=size, shuffle=shuffle, device=device), held_out


def _split(dataset: Any, share: float) -> tuple[Any, Any]:
    """The last ``share`` of the samples is held out, as in Keras."""
    if not 0.0 < share < 1.0:
        raise RangeError(f"fit expects validation_split in [0, 1), got {share!r}")
    samples = len(dataset)
    kept = int(samples * (1.0 - share))
    if not 0 < kept < samples:
        raise RangeError(
            f"validation_split={share} of {samples} samples leaves nothing to train on or to validate with"
        )
    return Subset(dataset, range(kept)), Subset(dataset, range(kept, samples))


def _is_rows(value: Any) -> bool:
    return isinstance(value, Tensor) or is_array(value)


def _rows(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.array
    return value if is_array(value) else np.asarray(value)


def _lengths(arrays: Any) -> list[int]:
    if isinstance(arrays, Mapping | tuple):
        parts = arrays.values() if isinstance(arrays, Mapping) else arrays
        return [length for part in parts for length in _lengths(part)]
    if not _is_rows(arrays):
        raise DataError(
            f"data is made of arrays and Tensors, several of them in tuples or dicts, got {type(arrays).__name__}"
        )
    return [len(arrays)]


def _row(arrays: Any, index: int) -> Any:
    if isinstance(arrays, Mapping):
        return {key: _row(part, index) for key, part in arrays.items()}
    if isinstance(arrays, tuple):
        return tuple(_row(part, index) for part in arrays)
    return to_host(_rows(arrays)[index])
