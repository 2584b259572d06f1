"""A data set cut into fixed chunks by sample index, and batches taken apart: what evaluation and prediction go through.

Chunk k holds the samples [k * size, (k + 1) * size), the last one fewer; who computes it does not matter. Random
transforms draw by (seed, sample) as in an epoch of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ..core import rng
from ..core.backend import is_array
from ..core.data.batches import BatchMaker
from ..core.data.loader import DataLoader
from ..core.errors import DataError, RangeError, ShapeError
from ..core.node import Variable
from ..core.tensor import Tensor

CHUNK_SAMPLES = 256
"""Samples of a chunk where nobody says otherwise."""
EPOCH = 0xFFFFFFFE
"""The epoch by which random transforms draw here: no training epoch's."""


class Chunks:
    """The chunks of ``data``.

    Args:
        data: a data set (with a length), a DataLoader (its data set and collate_fn; its order does not count), or arrays and
            Tensors, alone or in nested tuples and dicts.
        size: samples of a chunk; None: a DataLoader's batch size up to 256, else 256.
    """

    def __init__(self, data: Any, size: int | None = None) -> None:
        self.size = CHUNK_SAMPLES if size is None else size
        if not isinstance(self.size, int) or isinstance(self.size, bool) or self.size < 1:
            raise RangeError(f"batch_size must be an integer of at least 1, got {size!r}")
        if _are_arrays(data):
            self.length, self._make = _length(data), _slicer(data)
        else:
            self.length, self._make = self._from_dataset(data, size)
        self.count = -(-self.length // self.size)

    def _from_dataset(self, data: Any, size: int | None) -> tuple[int, Callable[[int, int], Any]]:
        collate = None
        if isinstance(data, DataLoader):
            if size is None:
                self.size = min(data.batch_size, CHUNK_SAMPLES)
            data, collate = data.dataset, data.collate_fn
        if not hasattr(data, "__len__") or not hasattr(data, "__getitem__"):
            raise DataError(
                f"expected a data set with __len__ and __getitem__, a DataLoader, or arrays (x, y), got {type(data).__name__}"
            )
        length = len(data)
        if not length:
            raise DataError(f"the data set ({type(data).__name__}) is empty: there is nothing to evaluate")
        maker = BatchMaker(data, collate, rng.initial_seed())
        return length, lambda lo, hi: maker.make(EPOCH, np.arange(lo, hi))

    def bounds(self, number: int) -> tuple[int, int]:
        """The samples [lo, hi) of chunk ``number``."""
        return number * self.size, min((number + 1) * self.size, self.length)

    def batch(self, number: int) -> Any:
        """The batch of chunk ``number``."""
        return self._make(*self.bounds(number))


def _are_arrays(data: Any) -> bool:
    """Whether ``data`` is columns rather than samples."""
    if isinstance(data, Variable) or is_array(data):
        return True
    parts = data.values() if isinstance(data, Mapping) else data if isinstance(data, tuple) else ()
    return bool(parts) and all(part is None or _are_arrays(part) for part in parts)


def _length(data: Any) -> int:
    lengths: set[int] = set()

    def visit(part: Any) -> None:
        if isinstance(part, Mapping | tuple):
            for inner in part.values() if isinstance(part, Mapping) else part:
                visit(inner)
        elif part is not None:
            if not part.ndim:
                raise ShapeError("evaluation needs arrays with a dimension 0 of samples, got one of shape ()")
            lengths.add(len(part))

    visit(data)
    if len(lengths) > 1:
        raise ShapeError(f"the arrays must have equally many samples in dimension 0, got {sorted(lengths)}")
    (length,) = lengths
    if not length:
        raise DataError("the arrays hold no sample: there is nothing to evaluate")
    return length


def _slicer(data: Any) -> Callable[[int, int], Any]:
    def cut(part: Any, lo: int, hi: int) -> Any:
        if isinstance(part, Mapping):
            return {key: cut(value, lo, hi) for key, value in part.items()}
        if isinstance(part, tuple):
            return tuple(cut(value, lo, hi) for value in part)
        if part is None:
            return None
        return Tensor((part.array if isinstance(part, Variable) else part)[lo:hi])

    return lambda lo, hi: cut(data, lo, hi)


def split_batch(batch: Any) -> tuple[Any, Any, Any]:
    """(inputs, targets, weights) of a batch, as Keras counts them; what is not there is None."""
    if isinstance(batch, tuple | list):
        if not 1 <= len(batch) <= 3:
            raise DataError(
                f"a batch is (inputs,), (inputs, targets) or (inputs, targets, weights), got {len(batch)} parts; put several inputs "
                "into a tuple of their own, ((a, b), targets), with a collate_fn if need be"
            )
        inputs, targets, weights = (*batch, None, None)[:3]
        return inputs, targets, weights
    return batch, None, None


def call(model: Callable[..., Any], inputs: Any) -> Any:
    """``model`` on the inputs of a batch: a tuple or list as arguments, a dict as keyword arguments."""
    if isinstance(inputs, tuple | list):
        return model(*inputs)
    if isinstance(inputs, Mapping):
        return model(**inputs)
    return model(inputs)
