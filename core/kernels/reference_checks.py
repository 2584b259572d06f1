"""Reference kernel: whether all indices are within range."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..errors import RangeError
from ..op import Array


def check_within(op: str, name: str, values: Array, count: int, hint: str, skip: int | None) -> None:
    """Raise RangeError unless every value is in [0, count) or equals ``skip``; the message names the first that is not and its place."""
    if values.size == 0 or (values.min() >= 0 and values.max() < count):
        return
    bad = (values < 0) | (values >= count)
    if skip is not None:
        bad &= values != skip
    if not bad.any():
        return
    place = tuple(int(axis[0]) for axis in bad.nonzero())
    raise RangeError(out_of_range(op, name, int(values[place]), place, count, hint))


def out_of_range(op: str, name: str, value: int, place: tuple[int, ...], count: int, hint: str) -> str:
    """What is said of it.

    >>> out_of_range("embedding", "index", 7, (1,), 5, "")
    'embedding: index 7 at position 1 is out of range [0, 5)'
    """
    where = place[0] if len(place) == 1 else place
    return f"{op}: {name} {value} at position {where} is out of range [0, {count}){hint}"


KERNELS: dict[str, Callable[..., Any]] = {"check_within": check_within}
