"""From samples to a batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..backend import array_module, is_array
from ..errors import DataError
from ..tensor import Tensor


def default_collate(samples: Sequence[Any]) -> Any:
    """One batch of ``samples``, as PyTorch's: Tensors, arrays and numbers are stacked along a new dimension 0.

    Tuples and lists become a list of batches, dicts a dict of batches, strings stay as they are.

    >>> images, labels = phalanx.data.default_collate([(np.zeros(3, np.float32), 1), (np.ones(3, np.float32), 2)])
    >>> images.shape, labels.numpy().tolist()
    ((2, 3), [1, 2])
    """
    first = samples[0]
    if isinstance(first, Tensor):
        return Tensor(_stack([sample.array for sample in samples]))
    if isinstance(first, str | bytes):
        return samples
    if isinstance(first, bool | int | float | np.generic) or is_array(first) or hasattr(first, "__array__"):
        return Tensor(_stack([sample if is_array(sample) else np.asarray(sample) for sample in samples]))
    if isinstance(first, Mapping):
        return {key: default_collate([sample[key] for sample in samples]) for key in first}
    if isinstance(first, tuple) and hasattr(first, "_fields"):
        return type(first)(*_collate_columns(samples))
    if isinstance(first, tuple | list):
        return _collate_columns(samples)
    raise DataError(
        f"cannot make a batch of {type(first).__name__} samples: give arrays, Tensors, numbers, strings, or tuples, "
        "lists and dicts of them, or a collate_fn"
    )


def _collate_columns(samples: Sequence[Any]) -> list[Any]:
    lengths = {len(sample) for sample in samples}
    if len(lengths) > 1:
        raise DataError(f"cannot make a batch of samples with {sorted(lengths)} parts: each must have equally many")
    return [default_collate(column) for column in zip(*samples, strict=True)]


def _stack(arrays: list[Any]) -> Any:
    shapes = {array.shape for array in arrays}
    if len(shapes) > 1:
        raise DataError(
            f"cannot stack samples of shapes {sorted(shapes)}: crop or pad them to one shape, or give a collate_fn"
        )
    return array_module(*arrays).stack(arrays)


def empty_like_batch(batch: Any) -> Any:
    """``batch`` with no samples: every Tensor and array has shape (0, ...)."""
    if isinstance(batch, Tensor):
        return Tensor(batch.array[:0])
    if is_array(batch):
        return batch[:0]
    if isinstance(batch, Mapping):
        return {key: empty_like_batch(value) for key, value in batch.items()}
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*(empty_like_batch(value) for value in batch))
    if isinstance(batch, list | tuple):
        if any(isinstance(value, str | bytes) for value in batch):
            return type(batch)()
        return type(batch)(empty_like_batch(value) for value in batch)
    raise DataError(
        f"this rank has no sample of the batch, and a batch of type {type(batch).__name__} cannot be emptied: "
        "use a batch_size of at least the number of ranks and drop_last=True, or steps()"
    )
