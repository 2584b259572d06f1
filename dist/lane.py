"""One flat store on its way through the reduction: pending partial sums, buckets, results.

Where ranks of one host share memory, all of these lie there: the ranks that sum a slice read every gradient and partial
sum where it is, and one result serves the whole host.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..core.flat import FlatStore
from .communicators.base import Communicator
from .reduction.bucket import Bucket, BucketSizes, plan_buckets
from .reduction.expression import Evaluator, Term, expression
from .reduction.tree import Accumulator, Node, pending_limit


class Lane:
    """One flat store on its way through the reduction. Made by all ranks together.

    Args:
        ranges: the shards of each rank.
        name: of the store, for messages.
        in_place: nothing is summed before all ranks have all gradients, so that the sum may take their place where the store's
            dtype allows it: less memory, and less to read and write.
    """

    def __init__(
        self,
        store: FlatStore,
        communicator: Communicator,
        shards: int,
        ranges: list[tuple[int, int]],
        bucket_bytes: int | None,
        name: str,
        in_place: bool = False,
    ) -> None:
        self.store, self.shards = store, shards
        self._evaluator = Evaluator()
        self.leaf_dtype = np.dtype(np.float64 if store.dtype == np.float64 else np.float32)
        in_place = in_place and store.dtype == self.leaf_dtype
        sizes = communicator.bucket_sizes(bucket_bytes)
        whole = store.length * store.dtype.itemsize
        if in_place and bucket_bytes is None and whole:
            # cuts would hide nothing, and sums that do not know the weight yet are divided in a pass of their own
            sizes = BucketSizes(whole, whole)
        self.buckets = plan_buckets(
            store.offsets, store.length, store.dtype.itemsize, sizes.bytes, sizes.first_bytes, sizes.last_bytes
        )
        limit = max(pending_limit(lo, hi, shards) for lo, hi in ranges)
        self._asked: tuple[Any, Any] = (None, None)
        self._terms: dict[Node, Term | None] = {}
        """What was asked for the last time, of which gradients, and the answer."""
        self.fold: Accumulator[Any] = Accumulator(shards, self._add)
        self._find_memory(communicator, ranges, limit, name, in_place)

    def _find_memory(
        self, communicator: Communicator, ranges: list[tuple[int, int]], limit: int, name: str, in_place: bool
    ) -> None:
        """Room for the result, unless it is ``in_place``, and for ``limit`` partial sums."""
        store, share = self.store, communicator.shared_empty
        if communicator.size > 1 and not communicator.is_shared(store.gradient):
            store.move(gradient=share(store.length, store.dtype, name=f"{name} gradient"))
        self._result = None if in_place else share(store.length, self.leaf_dtype, name=f"{name} result", common=True)
        self._free = [share(store.length, self.leaf_dtype, name=f"{name} partial sum {i}") for i in range(limit)]

    def reset(self) -> None:
        """Forget all partial sums."""
        if self.fold.partials:
            self._free += [p for p in self.fold.partials.values() if p is not None]
            self.fold = Accumulator(self.shards, self._add)

    @property
    def result(self) -> Any:
        """The sum over all shards, bucket by bucket: one for all ranks of the host, or in place of each rank's gradients."""
        return self.store.gradient if self._result is None else self._result

    @property
    def is_in_place(self) -> bool:
        """Whether the sum takes the place of the gradients."""
        return self._result is None

    @property
    def rows(self) -> list[Any]:
        """The memory of partial sums, in use or not."""
        return [*self._free, *(p for p in self.fold.partials.values() if p is not None)]

    def push(self, shard: int, weight: float | None) -> None:
        """Take the leaf of a shard that is not the last owned one: the gradients as they stand, times ``weight``."""
        leaf = None
        if weight is not None:
            leaf = self._free.pop() if self._free else self.store.new_buffer(self.leaf_dtype)
            for bucket in self.buckets:
                self.mark_unused(bucket)
            self._write_leaf(leaf, weight)
        self.fold.push(shard, leaf)

    def _write_leaf(self, out: Any, weight: float) -> None:
        np.multiply(self.store.gradient, self.leaf_dtype.type(weight), out=out, dtype=self.leaf_dtype)

    def terms(self, bucket: Bucket, shards: range, weight: float) -> dict[Node, Term | None]:
        """What this rank brings for one bucket: partial sums, and of the first of ``shards`` the gradient times ``weight``.

        Nothing is written but the slots of unused parameters, so that the sum can be done again (after an unforeseen
        backward pass somewhere). The other ``shards`` are absent; with a weight of 0 the first one is, too. The same object as the
        last time where it says the same.
        """
        if weight:
            self.mark_unused(bucket)
        asked = None if self.fold.partials else (bucket, shards, weight)
        if asked is not None and asked == self._asked[0] and self._asked[1] is self.store.gradient:
            return self._terms
        part = slice(bucket.lo, bucket.hi)
        found: dict[Node, Term | None] = {
            node: None if held is None else Term(held[part]) for node, held in self.fold.partials.items()
        }
        found.update({(shard, shard + 1): None for shard in shards})
        if weight:
            found[shards[0], shards[0] + 1] = Term(self.store.gradient[part], weight)
        self._asked, self._terms = (asked, self.store.gradient), found
        return found

    def sum_alone(self, terms: Mapping[Node, Term | None], out: Any) -> None:
        """The sum over all shards, where all of them are this rank's; -0.0 where there was none."""
        present = {node: term for node, term in terms.items() if term is not None}
        order = expression((0, self.shards), present)
        if order is None:
            out.fill(-0.0)
        else:
            self._evaluator.evaluate(order, present, [out])

    def mark_unused(self, bucket: Bucket) -> None:
        """-0.0, which adds nothing to any number, where a parameter was not used."""
        store = self.store
        for index in range(bucket.first, bucket.last + 1):
            if store.parameters[index]._grad is None:
                lo, hi = store.extent(index)
                store.gradient[lo:hi] = -0.0

    def _add(self, left: Any, right: Any) -> Any:
        np.add(left, right, out=left)
        self._free.append(right)
        return left
