"""Buckets: slices of the flat store, cut at parameter boundaries, reduced in layout order. Pure.

No bit depends on buckets. Their sizes come from a table (``buckets.json``) that was tuned for each kind of wire.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources

BUCKET_BYTES = 4 << 20
TABLE = "buckets.json"


@dataclass(frozen=True, slots=True)
class Bucket:
    """Elements [lo, hi) of a store: parameters ``first`` to ``last``, both included."""

    number: int
    lo: int
    hi: int
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class BucketSizes:
    """A bucket is closed as soon as it holds so many bytes."""

    first_bytes: int
    """The first one is small, so that reduction starts early in backward."""
    bytes: int
    last_bytes: int | None = None
    """With it the last buckets shrink, each half of what is left, down to this: what backward ends with is soon sent."""


@functools.cache
def tuned_sizes(wire: str) -> BucketSizes:
    """The tuned sizes for a kind of wire: ``shared memory`` (also ``..., no core to spare``), ``threads``, and, between hosts or
    without shared memory, ``zmq``, ``mpi``.

    >>> tuned_sizes("shared memory").first_bytes <= tuned_sizes("zmq").first_bytes
    True
    """
    table = json.loads(resources.files(__package__).joinpath(TABLE).read_text())
    return BucketSizes(**table["sizes"][wire])


def plan_buckets(
    offsets: Sequence[int],
    length: int,
    itemsize: int,
    bucket_bytes: int | None = None,
    first_bytes: int | None = None,
    last_bytes: int | None = None,
) -> list[Bucket]:
    """Cut a layout into buckets of at least ``bucket_bytes``; the first one of at least ``first_bytes`` (default: as the others).

    With ``last_bytes`` a bucket is full with half of what is left, though not with less than that.

    A bucket ends with the parameter that fills it, so that a large one, whose gradient is final early, need not wait for
    small ones behind it, and those before it cost no operation of their own.

    >>> [(b.lo, b.hi) for b in plan_buckets([0, 64, 128, 1024], 1088, 4, bucket_bytes=3000, first_bytes=256)]
    [(0, 64), (64, 1024), (1024, 1088)]
    """
    buckets: list[Bucket] = []
    bucket_bytes = bucket_bytes or BUCKET_BYTES
    limit = min(first_bytes or bucket_bytes, bucket_bytes)
    shortest = min(last_bytes or bucket_bytes, bucket_bytes)
    ends = [*offsets[1:], length]
    lo = first = 0
    for index, end in enumerate(ends):
        if (end - lo) * itemsize >= limit or index == len(ends) - 1:
            buckets.append(Bucket(len(buckets), lo, end, first, index))
            lo, first = end, index + 1
            limit = min(bucket_bytes, max(shortest, (length - lo) * itemsize // 2))
    return buckets
