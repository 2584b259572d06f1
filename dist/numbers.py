"""Small sums over ranks for scripts: counts of an evaluation, for example."""

from __future__ import annotations

from typing import TypeVar

from ..core.flat import tree_sum
from ..core.void import is_void
from . import exchanges
from .group import current

Number = TypeVar("Number", int, float)


def sum_over_ranks(value: Number, *, name: str = "sum over ranks") -> Number:
    """The sum of every rank's ``value``, equal on all of them; exact for integers. All ranks must call. 0 in a step that is void.

    >>> phalanx.sum_over_ranks(3)
    3
    """
    group = current()
    if is_void():
        return type(value)(0)
    if group.size == 1:
        return value
    rows = exchanges.gather_object(group, value, name=name) or []
    return sum(rows) if isinstance(value, int) else tree_sum(rows)
