"""A cheap hash of a data set's content, so that a run is not resumed on other data by mistake."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..backend import is_array, to_host
from ..tensor import Tensor
from .dataset import ConcatDataset, Subset, TensorDataset, is_stream
from .sampling import borrowed_globals, keyed_sample

SAMPLES = 128
"""How many samples, evenly spread, stand for a data set that is not an array."""
WHOLE_NBYTES = 256 * 1024 * 1024
"""Arrays up to this size are hashed whole; of larger ones 4,096 rows are."""
ROWS = 4096


def fingerprint(dataset: Any) -> str:
    """16 hexadecimal digits that follow from the data set's length and content.

    Arrays of a TensorDataset count whole, other data sets with 128 samples spread evenly, or with what they say of
    themselves (``identity()``: text; for files, names and sizes). It tells accidents apart
    (another split, another preprocessing, another version), not a single changed sample in a large folder.

    >>> a = phalanx.data.TensorDataset(np.arange(10)); b = phalanx.data.TensorDataset(np.arange(10) + 1)
    >>> phalanx.data.fingerprint(a) == phalanx.data.fingerprint(phalanx.data.TensorDataset(np.arange(10))), phalanx.data.fingerprint(a) == phalanx.data.fingerprint(b)
    (True, False)
    """
    digest = hashlib.blake2b(digest_size=8)
    _mix_dataset(digest, dataset)
    return digest.hexdigest()


def _mix_dataset(digest: Any, dataset: Any) -> None:
    if hasattr(dataset, "identity"):
        digest.update(f"{type(dataset).__name__}: {dataset.identity()}".encode())
        return
    if is_stream(dataset):  # reading it might use it up
        digest.update(f"stream {type(dataset).__name__}".encode())
        return
    digest.update(f"data set of {len(dataset)};".encode())
    if isinstance(dataset, TensorDataset):
        for array in dataset.arrays:
            _mix_array(digest, array)
    elif isinstance(dataset, Subset):
        _mix_array(digest, dataset.indices)
        _mix_dataset(digest, dataset.dataset)
    elif isinstance(dataset, ConcatDataset):
        for part in dataset.datasets:
            _mix_dataset(digest, part)
    else:
        _mix_samples(digest, dataset)


def _mix_samples(digest: Any, dataset: Any) -> None:
    """The samples as they come at seed 0: random transforms count too."""
    count = min(SAMPLES, len(dataset))
    with borrowed_globals() as seed_globals:
        for index in np.linspace(0, len(dataset) - 1, count).astype(np.int64).tolist():
            seed_globals(index)
            with keyed_sample(index):
                _mix_value(digest, dataset[index])


def _mix_value(digest: Any, value: Any) -> None:
    if isinstance(value, Tensor):
        _mix_array(digest, value.array)
    elif isinstance(value, str | bytes):
        digest.update(value.encode() if isinstance(value, str) else value)
    elif value is None or isinstance(value, bool | int | float | complex):
        digest.update(repr(value).encode())
    elif isinstance(value, Mapping):
        for key in sorted(value, key=str):
            digest.update(str(key).encode())
            _mix_value(digest, value[key])
    elif isinstance(value, list | tuple):
        digest.update(f"{len(value)} parts;".encode())
        for part in value:
            _mix_value(digest, part)
    elif is_array(value) or hasattr(value, "__array__"):
        _mix_array(digest, value if is_array(value) else np.asarray(value))
    else:
        digest.update(type(value).__name__.encode())


def _mix_array(digest: Any, array: Any) -> None:
    digest.update(f"{array.dtype} {tuple(array.shape)};".encode())
    if array.nbytes > WHOLE_NBYTES and len(array) > ROWS:
        array = array[np.linspace(0, len(array) - 1, ROWS).astype(np.int64)]
    host = np.ascontiguousarray(to_host(array))
    if host.dtype == object:
        digest.update(repr(host.tolist()).encode())
    elif host.size:
        digest.update(host.reshape(-1).view(np.uint8))
