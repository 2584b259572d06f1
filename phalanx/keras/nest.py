"""Nested lists, tuples and dicts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any


def flat(value: Any) -> list[Any]:
    """The leaves, in order.

    >>> flat([1, (2, {"a": 3})])
    [1, 2, 3]
    """
    if isinstance(value, Mapping):
        return [leaf for part in value.values() for leaf in flat(part)]
    if isinstance(value, list | tuple):
        return [leaf for part in value for leaf in flat(part)]
    return [value]


def changed(value: Any, change: Callable[[Any], Any]) -> Any:
    """The same structure with ``change`` of each leaf.

    >>> changed([1, (2, None)], lambda leaf: leaf and 10 * leaf)
    [10, (20, None)]
    """
    if isinstance(value, Mapping):
        return {key: changed(part, change) for key, part in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(changed(part, change) for part in value))
    if isinstance(value, list | tuple):
        return type(value)(changed(part, change) for part in value)
    return change(value)
