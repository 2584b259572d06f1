"""One epoch, from a position on, as one rank sees it: which samples each global batch has, and its batches in order.

There are two kinds: indexed data sets, whose order is known beforehand, and streams, whose batches turn up as they are
read. Both hand out :class:`Portion`\\ s until the epoch ends, at the same one on all ranks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any, Protocol

import numpy as np

from ..errors import DataError
from .batches import BatchMaker, SendingMaker
from .placement import Placement
from .prefetch import Inline, Prefetcher
from .shards import global_batches
from .step import parts_of

Part = tuple[int, int, int]
"""(shard, lo, hi) within a global batch."""
Supply = Callable[[Callable[[Any], Any], Iterator[Any], int | None], "Inline[Any] | Prefetcher[Any]"]
"""Where work is done: on this thread, on others, in other processes. These know the samples by (epoch, indices)."""


@dataclass(frozen=True)
class Portion:
    """One global batch."""

    samples: np.ndarray
    """Indices, or places in the stream, of all its samples."""
    parts: list[Part]
    """The shards that this rank computes."""
    end: int
    """The position in the epoch behind it."""
    cursor: Any
    """Where a stream stands behind it."""
    take: Callable[[], Any]
    """The next of its batches, each once."""
    make: Callable[[int, int], Any]
    """The batch of its samples [lo, hi), again."""


class Epoch(Protocol):
    def next(self) -> Portion | None:
        """The next global batch, or None at the end."""

    def close(self) -> None:
        """End what works in the background."""


class IndexedEpoch:
    """The global batches [lo, hi) of ``order``."""

    def __init__(
        self,
        maker: BatchMaker | SendingMaker,
        epoch: int,
        order: np.ndarray,
        bounds: list[tuple[int, int]],
        place: Placement,
        plain: bool,
        supply: Supply,
    ) -> None:
        self._order, self._bounds, self._parts = order, iter(bounds), partial(parts_of, place=place, plain=plain)
        self._make = partial(maker.make, epoch)
        parts = self._parts
        tasks = (order[lo + a : lo + b] for lo, hi in bounds for _, a, b in parts(hi - lo))
        self._source = supply(self._make, tasks, epoch)

    def next(self) -> Portion | None:
        for lo, hi in self._bounds:
            samples = self._order[lo:hi]
            again = lambda a, b, samples=samples: self._make(samples[a:b])  # noqa: E731
            return Portion(samples, self._parts(hi - lo), hi, None, self._source.take, again)
        return None

    def close(self) -> None:
        self._source.close()


def batch_bounds(
    length: int, batch_size: int, drop_last: bool, first: int, batches: list[np.ndarray] | None
) -> list[tuple[int, int]]:
    """Where the global batches lie in an epoch's order from position ``first`` on; ``batches`` of a batch sampler."""
    if batches is None:
        return list(global_batches(length, batch_size, drop_last, first))
    ends = np.cumsum([len(batch) for batch in batches]).tolist()
    return [(lo, hi) for lo, hi in zip([0, *ends[:-1]], ends, strict=True) if lo >= first and hi > lo]


class StreamEpoch:
    """Global batches as a stream gives them. All ranks read all records, each makes samples of its own."""

    def __init__(
        self,
        maker: BatchMaker | SendingMaker,
        epoch: int,
        position: int,
        cursor: Any,
        cut: tuple[int, bool],
        place: Placement,
        plain: bool,
        supply: Supply,
    ) -> None:
        self._maker, self._epoch, self._first = maker, epoch, position
        self._batch_size, self._drop_last = cut
        self._parts = partial(parts_of, place=place, plain=plain)
        self._source = supply(self._work, chain(self._chunks(position, cursor), [None]), None)

    def _chunks(self, position: int, cursor: Any) -> Iterator[Any]:
        """(first position, records, cursor) of each global batch; an error comes along as one, at its turn."""
        held: list[Any] = []
        try:
            for record, behind in self._maker.records(self._epoch, position, cursor):
                held.append(record)
                if len(held) == self._batch_size:
                    yield position, held, behind
                    position, held = position + len(held), []
                cursor = behind
            if held and not self._drop_last:
                yield position, held, cursor
        except Exception as error:  # a thread may be reading: the training loop is told when it gets there
            yield error

    def _work(self, chunk: Any) -> Any:
        if chunk is None or isinstance(chunk, Exception):
            return chunk
        position, records, cursor = chunk
        make = partial(self._maker.make_of, self._epoch, position, records)
        parts = self._parts(len(records))
        return position, len(records), cursor, parts, [make(lo, hi) for _, lo, hi in parts], make

    def next(self) -> Portion | None:
        done = self._source.take()
        if isinstance(done, Exception):
            raise done
        if done is None:
            return None
        position, count, cursor, parts, batches, make = done
        samples = np.arange(position, position + count)
        return Portion(samples, parts, position + count, cursor, iter(batches).__next__, make)

    def close(self) -> None:
        self._source.close()


def nothing_came(dataset: Any) -> DataError:
    return DataError(f"the stream ({type(dataset).__name__}) gave no batch: is it empty, or used up (an iterator)?")
