"""A data set cut into fixed chunks by sample index, and batches taken apart: what evaluation and prediction go through.

Chunk k holds the samples [k * size, (k + 1) * size), the last one fewer; who computes it does not matter. Random
transforms draw by (seed, sample) as in an epoch of its own. Of an indexed data set each rank computes neighbouring chunks; of a
stream, whose end nobody knows before, all ranks read all records and take blocks of chunks in turn.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

import numpy as np

from ..core.backend import is_array
from ..core.data.dataset import is_stream
from ..core.data.feed import arrived
from ..core.data.loader import DataLoader
from ..core.data.prefetch import Inline, Prefetcher
from ..core.data.shards import owned_range
from ..core.errors import DataError, RangeError, ShapeError
from ..core.node import Variable
from ..core.tensor import Tensor

CHUNK_SAMPLES = 256
"""Samples of a chunk where nobody says otherwise."""
EPOCH = 0xFFFFFFFE
"""The epoch by which random transforms draw here: no training epoch's."""
BLOCK = 8
"""So many chunks of a stream, a power of two, are one rank's: a whole subtree of what is merged."""


class Chunks:
    """The chunks of ``data`` and those of one rank.

    Args:
        data: a data set or stream, a DataLoader (its data set, collate_fn and workers; its order does not count), or arrays and
            Tensors, alone or in nested tuples and dicts.
        size: samples of a chunk; None: a DataLoader's batch size up to 256, else 256.
    """

    def __init__(self, data: Any, size: int | None = None) -> None:
        self.size = CHUNK_SAMPLES if size is None else size
        if not isinstance(self.size, int) or isinstance(self.size, bool) or self.size < 1:
            raise RangeError(f"batch_size must be an integer of at least 1, got {size!r}")
        self.length: int | None
        """Samples; of a stream known when it has been read."""
        self._cut: Callable[[int, int], Any] | None = None
        self._loader: DataLoader | None = None
        self._source: Inline[Any] | Prefetcher[Any] | None = None
        self._records: list[Any] = []
        if _are_arrays(data):
            self.length, self._cut = _length(data), _slicer(data)
            return
        if not isinstance(data, DataLoader):
            data = DataLoader(data, batch_size=self.size)
        elif size is None and data.batch_sampler is None:
            self.size = min(data.batch_size, CHUNK_SAMPLES)
        self._loader = data
        self.length = None if is_stream(data.dataset) else len(data.dataset)

    @property
    def count(self) -> int:
        """How many chunks there are."""
        assert self.length is not None
        return -(-self.length // self.size)

    def bounds(self, number: int) -> tuple[int, int]:
        """The samples [lo, hi) of chunk ``number``."""
        end = (number + 1) * self.size
        return number * self.size, end if self.length is None else min(end, self.length)

    def owned(self, rank: int, size: int) -> Iterable[int]:
        """The numbers of the chunks of ``rank`` out of ``size`` ranks, in order."""
        if self.length is None or (self._loader is not None and is_stream(self._loader.dataset)):
            count = None if self.length is None else self.count
            return _in_turn(rank, size, count)
        return range(*owned_range(rank, size, self.count))

    def open(self, rank: int, size: int) -> Iterable[int]:
        """The numbers of this rank's chunks; after each comes :meth:`batch`."""
        if self._loader is None:
            return self.owned(rank, size)
        if self.length is None:
            return self._read(rank, size, self._loader)
        numbers = self.owned(rank, size)
        self._source = self._loader.made_of(EPOCH, (np.arange(*self.bounds(number)) for number in numbers))
        return numbers

    def batch(self, number: int) -> Any:
        """The batch of the chunk that has come up."""
        if self._cut is not None:
            return self._cut(*self.bounds(number))
        if self._source is not None:
            return arrived(self._source.take())
        maker, records = self._maker, self._records
        return arrived(maker.make_of(EPOCH, number * self.size, records, 0, len(records)))

    def samples(self, number: int) -> int:
        """How many samples the chunk that has come up holds."""
        lo, hi = self.bounds(number)
        return hi - lo if self._source is not None or self._cut is not None else len(self._records)

    def close(self) -> None:
        """End what works in the background."""
        if self._source is not None:
            self._source.close()
            self._source = None

    def _read(self, rank: int, size: int, loader: DataLoader) -> Iterator[int]:
        """Read a stream to its end, stopping at each chunk of this rank."""
        self._maker = loader._batch_maker()
        records, number, length = (record for record, _ in self._maker.records(EPOCH, 0, None)), 0, 0
        while held := list(islice(records, self.size)):
            length += len(held)
            if number // BLOCK % size == rank:
                self._records = held
                yield number
            number += 1
        if not length:
            raise DataError(f"the stream ({type(loader.dataset).__name__}) is empty: there is nothing to evaluate")
        self.length = length


def _in_turn(rank: int, size: int, count: int | None) -> Iterator[int]:
    assert count is not None, "a stream was not read to its end"
    return (number for number in range(count) if number // BLOCK % size == rank)


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
