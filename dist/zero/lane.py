"""One flat store whose gradients are spread over ranks (ZeRO-2): leaves in a small ring, partial sums, the own part of the sum.

A parameter has no slot: backward makes its gradient, the reduction of its bucket takes it, times the weight, into a slot of
the ring or into a partial sum, and it is freed. Rows and ring are of fixed size, so that the memory can be told on paper.
"""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from ...core.flat import CHUNK, FlatStore
from ..communicators.base import Communicator
from ..communicators.work import Work
from ..reduction.bucket import Bucket, plan_buckets
from ..reduction.expression import Term
from ..reduction.tree import Accumulator, Node, pending_limit
from .ownership import Range, part_of

if TYPE_CHECKING:
    from ...core.nn.parameter import Parameter

PIECE_BYTES = 4 << 20
"""Buckets, and parameters that are larger, travel in pieces of at most this size: all memory on the way is of fixed size."""
IN_FLIGHT = 4
"""Pieces that may be on their way at once; backward waits for the oldest when there is one more."""


class ZeroLane:
    """One store of a :class:`~.fold.ZeroFold`. Made by all ranks together.

    Args:
        ranges: the shards of each rank.
        cut: the elements that each rank owns.
        own: parameters of this model; others in the store count as not used.
        name: of the store, for messages.
    """

    def __init__(
        self,
        store: FlatStore,
        communicator: Communicator,
        ranges: list[Range],
        cut: list[Range],
        bucket_bytes: int | None,
        own: set[Parameter],
        name: str,
    ) -> None:
        self.store, self.communicator, self.ranges, self.cut, self.own = store, communicator, ranges, cut, own
        self.shards = max((hi for _, hi in ranges), default=0)
        self.leaf_dtype = np.dtype(np.float64 if store.dtype == np.float64 else np.float32)
        sizes = communicator.bucket_sizes(bucket_bytes)
        self.buckets = plan_buckets(
            store.offsets, store.length, store.dtype.itemsize, sizes.bytes, sizes.first_bytes, sizes.last_bytes
        )
        limit = max(CHUNK, min(sizes.bytes, PIECE_BYTES) // store.dtype.itemsize)
        self.pieces = [list(_pieces(bucket, limit)) for bucket in self.buckets]
        longest = max((hi - lo for pieces in self.pieces for lo, hi in pieces), default=0)
        limit = max(pending_limit(lo, hi, self.shards) for lo, hi in ranges)
        self._find_memory(longest, limit, name)
        self._alone = own.issuperset(store.parameters)
        same = self.leaf_dtype == store.dtype and self._alone
        self.result = store.gradient if same else store.new_buffer(self.leaf_dtype, len(store.gradient))
        """The own part of the sum over all shards."""
        self._flying: deque[tuple[Work, Any, Range]] = deque()
        self._next_slot = 0
        self.reset()

    def _find_memory(self, longest: int, limit: int, name: str) -> None:
        """The ring, for pieces of at most ``longest`` elements, and ``limit`` partial sums."""
        share = functools.partial(self.communicator.shared_empty, dtype=self.leaf_dtype)
        self.slots = [share(longest, name=f"{name} leaf of piece {i}") for i in range(IN_FLIGHT)]
        self.sums = [share(longest, name=f"{name} sum of piece {i}", common=True) for i in range(IN_FLIGHT)]
        """One for all ranks of a host: each sums a slice of a piece, whoever owns it."""
        local = self.communicator.local
        self._one_host = local is not None and local.size == self.communicator.size
        self.rows: list[Any] = [share(self.store.length, name=f"{name} partial sum {i}") for i in range(limit)]

    def reset(self) -> None:
        """Forget all partial sums."""
        self.folds = [Accumulator(self.shards, functools.partial(self._add, bucket)) for bucket in self.buckets]
        self._free = [list(range(len(self.rows))) for _ in self.buckets]

    def _add(self, bucket: Bucket, left: int, right: int) -> int:
        part = slice(bucket.lo, bucket.hi)
        self._sum(self.rows[left][part], self.rows[right][part])
        self._free[bucket.number].append(right)
        return left

    def _sum(self, left: Any, right: Any) -> None:
        """Add ``right`` to ``left``."""
        np.add(left, right, out=left)

    def _scale(self, gradient: Any, factor: Any, out: Any) -> None:
        """``out = gradient * factor`` in the type of sums."""
        np.multiply(gradient, factor, out=out, dtype=self.leaf_dtype)

    # -- leaves -------------------------------------------------------------------------------------------------------

    def skip(self, shard: int) -> None:
        """A shard without samples is an absent leaf."""
        for fold in self.folds:
            fold.push(shard, None)

    def push(self, bucket: Bucket, shard: int, weight: float) -> None:
        """Take one bucket's leaf of a shard that is not the last owned one, into a partial sum."""
        row = self._free[bucket.number].pop()
        self._write_leaf(self.rows[row][bucket.lo : bucket.hi], bucket, (bucket.lo, bucket.hi), weight)
        self.folds[bucket.number].push(shard, row)

    def submit(self, bucket: Bucket, shards: range, weight: float, label: str) -> None:
        """Start the reduction of a bucket, whose leaf is the first of ``shards``; it is absent when ``weight`` is 0."""
        for number, (lo, hi) in enumerate(self.pieces[bucket.number]):
            if len(self._flying) == len(self.slots):
                self._land()
            slot, total = (ring[self._next_slot][: hi - lo] for ring in (self.slots, self.sums))
            self._next_slot = (self._next_slot + 1) % len(self.slots)
            terms: dict[Node, Term | None] = {
                node: None if row is None else Term(self.rows[row][lo:hi])
                for node, row in self.folds[bucket.number].partials.items()
            }
            terms.update({(shard, shard + 1): None for shard in shards})
            if weight:
                self._write_leaf(slot, bucket, (lo, hi), weight)
                terms[shards[0], shards[0] + 1] = Term(slot)
            work = self.communicator.tree_all_reduce(
                terms,
                self.ranges,
                self.shards,
                total,
                cut=None if self._one_host else part_of(self.cut, lo, hi),
                gather=self._one_host,
                name=f"{label}, piece {number}",
                start="background",
            )
            self._flying.append((work, total, (lo, hi)))

    def _write_leaf(self, out: Any, bucket: Bucket, piece: Range, weight: float) -> None:
        """``out = gradient * weight`` for the elements of ``piece``; -0.0, which adds nothing, where a parameter was not used."""
        low, high = piece
        factor, store = self.leaf_dtype.type(weight), self.store
        for index in range(bucket.first, bucket.last + 1):
            parameter, (start, stop) = store.parameters[index], store.extent(index)
            end = store.offsets[index + 1] if index < bucket.last else bucket.hi
            lo, hi = max(low, start), min(high, stop)
            out[max(low, stop) - low : max(min(high, end), low) - low] = 0  # between two parameters
            if lo >= hi:
                continue
            if parameter._grad is None or parameter not in self.own:
                out[lo - low : hi - low] = -0.0
                continue
            gradient = parameter._grad.array.reshape(-1)[lo - start : hi - start]
            self._scale(gradient, factor, out[lo - low : hi - low])

    # -- the sum ------------------------------------------------------------------------------------------------------

    def _land(self) -> None:
        """Wait for the oldest piece and keep the own part of it."""
        work, total, (lo, hi) = self._flying.popleft()
        work.wait()
        first, last = self.store.clip(lo, hi)
        low = self.store.range[0]
        self.result[first - low : last - low] = total[first - lo : last - lo]

    def wait(self) -> None:
        """Until every piece that was submitted is complete."""
        while self._flying:
            self._land()

    def forget(self) -> None:
        """Wait, and drop what comes."""
        while self._flying:
            self._flying.popleft()[0].wait()

    @property
    def in_flight(self) -> int:
        return len(self._flying)

    def write_means(self, weight: float) -> None:
        """Divide the own part of the sum by the total weight, once, into the gradient."""
        store, number = self.store, self.leaf_dtype.type(weight)
        if self._alone:
            np.divide(self.result, number, out=store.gradient, casting="same_kind")
            return
        low = store.range[0]
        for index, parameter in enumerate(store.parameters):  # the others are of another model
            if parameter in self.own:
                lo, hi = store.clip(*store.extent(index))
                part = self.result[lo - low : hi - low]
                np.divide(part, number, out=store.gradient_part(lo, hi), casting="same_kind")


def _pieces(bucket: Bucket, limit: int) -> Iterator[Range]:
    for lo in range(bucket.lo, bucket.hi, limit):
        yield lo, min(lo + limit, bucket.hi)
