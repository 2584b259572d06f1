"""One step: a global batch, of which the loop sees the shards that this rank owns."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import spans
from ..errors import DataError
from .feed import arrived
from .placement import Placement
from .scope import close_shard, close_step, open_shard, open_step
from .shards import shard_slices

if TYPE_CHECKING:
    from .loader import DataLoader


def parts_of(samples: int, place: Placement, plain: bool) -> list[tuple[int, int, int]]:
    """(shard, lo, hi) for the shards that ``place`` computes; empty ones only in the plain loop, whose ranks keep step.

    >>> parts_of(10, Placement(1, 2, 4), False), parts_of(1, Placement(1, 2), False), parts_of(1, Placement(1, 2), True)
    ([(2, 6, 8), (3, 8, 10)], [], [(1, 1, 1)])
    """
    slices = shard_slices(samples, place.shard_count)
    return [(shard, *slices[shard]) for shard in place.owned if plain or slices[shard][0] < slices[shard][1]]


class Step:
    """``for batch in step`` gives the batch of each shard that this rank owns and that holds samples, in order.

    The loop may run over a step more than once; the batches are the same. Steps are made by ``loader.steps()``; of ``epoch`` they hold
    ``samples`` up to the position ``end``, cut as ``place`` says.

    >>> loader = phalanx.data.DataLoader(phalanx.data.TensorDataset(np.arange(5)), batch_size=3)
    >>> [(step.index, step.weight, [x.tolist() for (x,) in step]) for step in loader.steps()]
    [(0, 3, [[0, 1, 2]]), (1, 2, [[3, 4]])]
    """

    def __init__(self, loader: DataLoader, epoch: int, end: Any, samples: np.ndarray, place: Placement) -> None:
        self.loader = loader
        self.index = loader.step
        """The global step: batches handed out before this one since training began."""
        self.epoch = epoch
        self.samples = samples
        """The sample indices of the global batch, int64, in order; for a stream, places in the epoch."""
        self.sizes = tuple(hi - lo for lo, hi in shard_slices(len(samples), place.shard_count))
        """How many samples each shard holds, over all ranks."""
        self.weight = len(samples)
        """How many samples the global batch holds."""
        self.shard: int | None = None
        """The shard that is open now."""
        self.data_s = 0.0
        """Seconds that the loop has waited for this step's batches."""
        self.void = False
        """Whether ranks were lost before it was complete: nothing of it counts, and ``loader.steps()`` gives it once more."""
        self._before = loader.position
        self._end = end
        self._began = self._counted = self._closed = False

    def _supply(
        self, parts: list[tuple[int, int, int]], take: Callable[[], Any], make: Callable[..., Any], plain: bool
    ) -> None:
        """``take`` gives the batches of ``parts`` once, in order; ``make(lo, hi)`` makes one again."""
        self._parts, self._take, self._make, self._plain = parts, take, make, plain
        self._pending = len(parts)

    @property
    def is_plain(self) -> bool:
        """Whether it is of a loop over the loader itself, which gives every rank a batch, if need be an empty one."""
        return self._plain

    def __iter__(self) -> Iterator[Any]:
        if self._closed:
            raise DataError(f"step {self.index} is over: iterate it inside the loop over loader.steps()")
        fresh, self._began = not self._began, True
        if not fresh:
            open_step(self)  # a further loop over the shards: a rank that owns no samples must hear of it too
        for shard, lo, hi in self._parts:
            yield from self._hand_out(shard, self._next(fresh, lo, hi), hi - lo)
        self._count()

    @contextmanager
    def together(self) -> Iterator[list[tuple[int, Any, int]]]:
        """(shard, batch, samples) of every shard that this rank owns, all at once, for whoever opens and closes them itself."""
        if self._closed:
            raise DataError(f"step {self.index} is over: use it inside the loop over loader.steps()")
        fresh, self._began = not self._began, True
        if not fresh:
            open_step(self)
        yield [(shard, self._next(fresh, lo, hi), hi - lo) for shard, lo, hi in self._parts]
        self._count()

    def _next(self, fresh: bool, lo: int, hi: int) -> Any:
        if not fresh:
            return arrived(self._make(lo, hi))
        self._pending -= 1
        began = time.monotonic()
        batch = arrived(self._take())
        ended = time.monotonic()
        self.data_s += ended - began
        if spans.on:
            spans.tell("data", "wait for data", began, ended)
        return batch

    def _hand_out(self, shard: int, batch: Any, samples: int) -> Iterator[Any]:
        if self._plain:
            self._count()
        self.shard = shard
        try:
            open_shard(self, shard, samples)
            yield batch
        finally:
            self._close_shard()

    def _close_shard(self) -> None:
        if self.shard is not None:
            self.shard = None
            close_shard(self)

    def undo(self) -> None:
        """Nothing of this step counts; the loader's position is the one before it."""
        self.void = True
        self.loader.go_back(self._before)

    def _count(self) -> None:
        """The position moves on, once."""
        if not self._counted and not self.void:
            self._counted = True
            self.loader._advance(self._end)

    def _offer(self) -> Iterator[Step]:
        """Hand this step to the loop over steps."""
        try:
            open_step(self)
            yield self
            while (
                self._pending and not self.void
            ):  # left the loop over shards early: the next step's batches come after these
                self._next(True, 0, 0)
            self._count()
        finally:
            self._close_shard()
            self._closed = True
            close_step(self)

    def __repr__(self) -> str:
        return f"Step(index={self.index}, epoch={self.epoch}, weight={self.weight}, sizes={self.sizes})"
