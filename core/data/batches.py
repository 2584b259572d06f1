"""Makes one batch from sample indices: all at once where the data set can, else sample by sample, seeded."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np

from ..errors import DataError
from ..tensor import Tensor
from .collate import default_collate, empty_like_batch
from .dataset import is_stream
from .feed import Feed
from .sampling import borrowed_globals, keyed_sample, sample_seeds, seeds_between
from .streams import where


class SendingMaker:
    """A ``maker`` whose batches are sent to a GPU by ``feed``."""

    def __init__(self, maker: BatchMaker, feed: Feed) -> None:
        self._maker, self.feed = maker, feed

    def __getattr__(self, name: str) -> Any:
        return getattr(self._maker, name)

    def make(self, epoch: int, indices: np.ndarray) -> Any:
        return self.feed.send(self._maker.make(epoch, indices))

    def make_of(self, epoch: int, position: int, records: list[Any], lo: int, hi: int) -> Any:
        return self.feed.send(self._maker.make_of(epoch, position, records, lo, hi))


class BatchMaker:
    """``make(epoch, indices)`` is the collated batch; the same whoever calls it, on whatever thread."""

    def __init__(self, dataset: Any, collate_fn: Callable[[list[Any]], Any] | None, seed: int) -> None:
        self.dataset, self.collate_fn, self.seed = dataset, collate_fn, seed
        self._length = None if is_stream(dataset) else len(dataset)
        self._seeds: tuple[int, np.ndarray] | None = None
        self.begins: Callable[[int], None] | None = None
        """Told each sample's number before it is fetched; for those who watch from outside."""

    @property
    def row_nbytes(self) -> int | None:
        """Bytes of one sample where batches are cut from arrays at once; None where samples are fetched singly."""
        row = self._take(np.zeros(1, np.int64))
        return None if row is None else sum(array.nbytes for array in row)

    @property
    def keyed(self) -> bool:
        """Whether making a batch leaves the process-wide random generators alone."""
        return getattr(self.dataset, "keyed", False) and (
            self.collate_fn is None or getattr(self.collate_fn, "keyed", False)
        )

    def make(self, epoch: int, indices: np.ndarray) -> Any:
        """The batch of ``indices``; of no sample, when it is empty, in the shapes of any other batch."""
        arrays = self._take(indices)
        if arrays is not None:
            return [Tensor(array) for array in arrays]
        if not len(indices):
            return empty_like_batch(self.make(epoch, np.zeros(1, np.int64)))
        return self._gather(indices.tolist(), self._seeds_of(epoch)[indices].tolist(), self._sample)

    # -- streams ----------------------------------------------------------------------------------------------------

    def records(self, epoch: int, position: int, cursor: Any) -> Iterator[tuple[Any, Any]]:
        """(record, cursor behind it) from ``position`` of the epoch on. A stream without cursors is read from its start."""
        if hasattr(self.dataset, "records"):
            yield from self.dataset.records(self.seed, epoch, cursor)
            return
        if hasattr(self.dataset, "set_epoch"):
            self.dataset.set_epoch(epoch)
        stream = self._seeded(epoch)
        for sample in islice(stream, position, None):
            yield sample, None

    def _seeded(self, epoch: int) -> Iterator[Any]:
        """The stream's own samples, the process's generators seeded before each unless the stream is keyed."""
        position, samples = 0, None
        while True:
            seed = int(seeds_between(position, position + 1, self.seed, epoch)[0])
            try:
                if self.keyed:
                    with keyed_sample(seed):
                        samples = iter(self.dataset) if samples is None else samples
                        sample = next(samples)
                else:
                    with borrowed_globals() as seed_globals, keyed_sample(seed):
                        seed_globals(seed)
                        samples = iter(self.dataset) if samples is None else samples
                        sample = next(samples)
            except StopIteration:
                return
            except Exception as error:
                raise DataError(
                    f"sample {position} of the stream {type(self.dataset).__name__} cannot be read: "
                    f"{type(error).__name__}: {error}"
                ) from error
            yield sample
            position += 1

    def make_of(self, epoch: int, position: int, records: list[Any], lo: int, hi: int) -> Any:
        """The batch of ``records[lo:hi]``, the first of which has ``position`` in the epoch."""
        if hi <= lo:
            return empty_like_batch(self.make_of(epoch, position, records, 0, 1))
        seeds = seeds_between(position, position + len(records), self.seed, epoch)[lo:hi].tolist()
        return self._gather(records[lo:hi], seeds, self._record, range(position + lo, position + hi))

    def _record(self, record: Any, seed: int) -> Any:
        if not hasattr(self.dataset, "sample"):
            return record
        try:
            with keyed_sample(seed):
                return self.dataset.sample(record)
        except Exception as error:
            raise DataError(f"{where(record)} cannot be made a sample: {type(error).__name__}: {error}") from error

    # -- both -------------------------------------------------------------------------------------------------------

    def _gather(
        self, sources: list[Any], seeds: list[int], fetch: Callable[[Any, int], Any], names: Sequence[int] | None = None
    ) -> Any:
        """The batch of ``fetch(source, seed)``, with generators as the data set wants them."""
        names = sources if names is None else names
        collate_seed = seeds[0] ^ 0x5BD1E995  # apart from what the samples draw
        if self.keyed:
            samples = [self._fetch(fetch, *each) for each in zip(sources, seeds, names, strict=True)]
            return self._collate(samples, names, collate_seed)
        samples = []
        with borrowed_globals() as seed_globals:
            for source, seed, name in zip(sources, seeds, names, strict=True):
                seed_globals(seed)
                samples.append(self._fetch(fetch, source, seed, name))
            seed_globals(collate_seed)
            return self._collate(samples, names, collate_seed)

    def _fetch(self, fetch: Callable[[Any, int], Any], source: Any, seed: int, name: int) -> Any:
        if self.begins is not None:
            self.begins(name)
        return fetch(source, seed)

    def _take(self, indices: np.ndarray) -> tuple[Any, ...] | None:
        take = getattr(self.dataset, "take", None)
        return None if take is None or self.collate_fn is not None else take(indices)

    def _sample(self, index: int, seed: int) -> Any:
        try:
            with keyed_sample(seed):
                return self.dataset[index]
        except Exception as error:
            raise DataError(
                f"sample {index} of {type(self.dataset).__name__} ({self._length} samples) cannot be read: "
                f"{type(error).__name__}: {error}"
            ) from error

    def _collate(self, samples: list[Any], indices: Sequence[int], seed: int) -> Any:
        collate = default_collate if self.collate_fn is None else self.collate_fn
        try:
            with keyed_sample(seed):
                return collate(samples)
        except Exception as error:
            shown = ", ".join(str(index) for index in indices[:4]) + (", ..." if len(indices) > 4 else "")
            name = getattr(collate, "__name__", type(collate).__name__)
            raise DataError(f"{name} failed on samples {shown}: {type(error).__name__}: {error}") from error

    def _seeds_of(self, epoch: int) -> np.ndarray:
        """Seeds of all samples in ``epoch``, kept for the last one asked."""
        kept = self._seeds
        if kept is None or kept[0] != epoch:
            kept = self._seeds = (epoch, sample_seeds(self._length or 0, self.seed, epoch))
        return kept[1]
