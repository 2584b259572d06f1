"""One flat store on its way through the reduction: shard leaves, pending partial sums, buckets, results."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..core.flat import FlatStore
from .reduction.bucket import Bucket, plan_buckets
from .reduction.tree import Accumulator, Node


class Lane:
    """One flat store on its way through the reduction: its buckets, pending partial sums and results."""

    def __init__(self, store: FlatStore, shards: int, bucket_bytes: int) -> None:
        self.store = store
        self.leaf_dtype = np.dtype(np.float64 if store.dtype == np.float64 else np.float32)
        self.buckets = plan_buckets(store.offsets, store.length, store.dtype.itemsize, bucket_bytes)
        self.shards = shards
        self.result = store.new_buffer(self.leaf_dtype)
        self.last_leaf = store.new_buffer(self.leaf_dtype)
        """The leaf of the last owned shard, written bucket by bucket; never part of the fold, so that it can be redone."""
        self._free: list[np.ndarray] = []
        self.reset()

    def reset(self) -> None:
        """Forget all partial sums."""
        if hasattr(self, "fold"):
            self._free += [p for p in self.fold.partials.values() if p is not None]
        self.fold: Accumulator[np.ndarray] = Accumulator(self.shards, self._add)

    def leaf_buffer(self) -> np.ndarray:
        return self._free.pop() if self._free else self.store.new_buffer(self.leaf_dtype)

    def folded(self, bucket: Bucket, leaves: Sequence[tuple[int, np.ndarray | None]]) -> dict[Node, np.ndarray | None]:
        """The partial sums of one bucket after ``leaves`` (shard, leaf) of it; what the fold holds stays as it is.

        The sum may have to be done again (an unforeseen backward pass somewhere), so nothing of the fold is given away.
        """
        part = slice(bucket.lo, bucket.hi)
        fold: Accumulator[np.ndarray] = Accumulator(self.shards, lambda left, right: np.add(left, right, out=right))
        fold.partials = {node: None if held is None else held[part] for node, held in self.fold.partials.items()}
        for shard, leaf in leaves:
            fold.push(shard, leaf)
        own = [held for held in fold.partials.values() if held is not None and held.base is not self.last_leaf.base]
        copies = {id(held): held.copy() for held in own}
        return {node: copies.get(id(held), held) for node, held in fold.partials.items()}

    def _add(self, left: np.ndarray, right: np.ndarray) -> np.ndarray:
        np.add(left, right, out=left)
        self._free.append(right)
        return left

    def write_leaf(self, leaf: np.ndarray, bucket: Bucket, weight: float) -> None:
        """``leaf = gradient * weight``; -0.0, which adds nothing to any number, where a parameter was not used."""
        store = self.store
        np.multiply(
            store.gradient[bucket.lo : bucket.hi],
            leaf.dtype.type(weight),
            out=leaf[bucket.lo : bucket.hi],
            dtype=leaf.dtype,
        )
        for index in range(bucket.first, bucket.last + 1):
            if store.parameters[index]._grad is None:
                lo, hi = store.extent(index)
                leaf[lo:hi] = -0.0
