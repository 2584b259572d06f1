"""Buckets: slices of the flat store, cut at parameter boundaries, reduced in layout order. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

FIRST_BUCKET_BYTES = 1 << 20
BUCKET_BYTES = 4 << 20


@dataclass(frozen=True, slots=True)
class Bucket:
    """Elements [lo, hi) of a store: parameters ``first`` to ``last``, both included."""

    number: int
    lo: int
    hi: int
    first: int
    last: int


def plan_buckets(
    offsets: Sequence[int],
    length: int,
    itemsize: int,
    bucket_bytes: int | None = None,
    first_bytes: int = FIRST_BUCKET_BYTES,
) -> list[Bucket]:
    """Cut a layout into buckets of at most ``bucket_bytes`` (a larger parameter is a bucket of its own).

    The first bucket is small, so that reduction starts early in backward.

    >>> [(b.lo, b.hi) for b in plan_buckets([0, 64, 128, 1024], 1088, 4, bucket_bytes=4096, first_bytes=256)]
    [(0, 64), (64, 1024), (1024, 1088)]
    """
    buckets: list[Bucket] = []
    bucket_bytes = bucket_bytes or BUCKET_BYTES
    limit = min(first_bytes, bucket_bytes)
    ends = [*offsets[1:], length]
    lo = first = 0
    for index, end in enumerate(ends):
        following = ends[index + 1] if index + 1 < len(ends) else None
        if following is None or (following - lo) * itemsize > limit:
            buckets.append(Bucket(len(buckets), lo, end, first, index))
            lo, first, limit = end, index + 1, bucket_bytes
    return buckets
