"""Who gets which samples: the epoch cut into global batches, a batch into shards, the shards dealt to ranks. Pure.

Everything is cut by position in the epoch's order, contiguously and evenly; the first parts are one longer when it
does not divide. Nothing here depends on who asks.
"""

from __future__ import annotations

from collections.abc import Iterator


def owned_range(rank: int, size: int, shards: int) -> tuple[int, int]:
    """The contiguous shards [lo, hi) that ``rank`` owns; the first ranks own one more when it does not divide.

    >>> [owned_range(r, 3, 8) for r in range(3)], owned_range(3, 4, 2)
    ([(0, 3), (3, 6), (6, 8)], (2, 2))
    """
    base, extra = divmod(shards, size)
    lo = rank * base + min(rank, extra)
    return lo, lo + base + (rank < extra)


def shard_slices(batch_length: int, shards: int) -> list[tuple[int, int]]:
    """Where each of ``shards`` shards lies in a global batch of ``batch_length`` samples; empty ones come last.

    >>> shard_slices(10, 4), shard_slices(2, 3)
    ([(0, 3), (3, 6), (6, 8), (8, 10)], [(0, 1), (1, 2), (2, 2)])
    """
    return [owned_range(shard, shards, batch_length) for shard in range(shards)]


def count_batches(length: int, batch_size: int, drop_last: bool = False) -> int:
    """How many global batches ``length`` samples make.

    >>> count_batches(10, 4), count_batches(10, 4, drop_last=True)
    (3, 2)
    """
    return length // batch_size if drop_last else -(-length // batch_size)


def global_batches(length: int, batch_size: int, drop_last: bool = False, start: int = 0) -> Iterator[tuple[int, int]]:
    """The global batches [lo, hi) of an epoch of ``length`` samples, from the sample at ``start`` on.

    >>> list(global_batches(10, 4)), list(global_batches(10, 4, drop_last=True, start=4))
    ([(0, 4), (4, 8), (8, 10)], [(4, 8)])
    """
    for lo in range(start, length, batch_size):
        if drop_last and length - lo < batch_size:
            return
        yield lo, min(lo + batch_size, length)
