"""A batch cut into micro-batches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ..core.data.shards import shard_slices
from ..core.tensor import Tensor


def count(batch: Any) -> int:
    """The samples of a batch: the length of its first Tensor."""
    if isinstance(batch, Mapping):
        return count(next(iter(batch.values())))
    if isinstance(batch, list | tuple):
        return count(batch[0])
    return len(batch)


def micro_batches(batch: Any, parts: int) -> Iterator[tuple[Any, float]]:
    """``batch`` in ``parts`` nearly equal pieces and the share of samples of each; fewer where there are fewer samples.

    >>> [(len(part[0]), share) for part, share in micro_batches([phalanx.ones(4)], 2)]
    [(2, 0.5), (2, 0.5)]
    """
    if parts == 1:
        yield batch, 1.0
        return
    samples = count(batch)
    for lo, hi in shard_slices(samples, parts):
        if lo < hi:
            yield _cut(batch, lo, hi), (hi - lo) / samples


def _cut(batch: Any, lo: int, hi: int) -> Any:
    if batch is None:
        return None
    if isinstance(batch, Mapping):
        return {key: _cut(value, lo, hi) for key, value in batch.items()}
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*(_cut(value, lo, hi) for value in batch))
    if isinstance(batch, list | tuple) and not isinstance(batch[0], str | bytes):
        return type(batch)(_cut(value, lo, hi) for value in batch)
    return Tensor(batch.array[lo:hi]) if isinstance(batch, Tensor) else batch[lo:hi]
