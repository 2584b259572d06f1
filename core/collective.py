"""Where the forward of one shard needs those of the others: an interface that knows no network.

A layer whose output depends on the whole global batch gives a *leaf* (arrays) of its own shard and gets what the leaves of
all shards merge to, in the order of the tree over shards; the same on all of them. ``dist`` says who the others are. Without
others, outside of a shard, and where nothing is to be left behind, a shard is all there is.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from .live import refuse
from .rank_local import of_rank

Leaf = tuple[Any, ...]
"""Arrays on the host."""
Merge = Callable[[Leaf, Leaf], Leaf]


class Meeting(Protocol):
    """How the shards of this rank meet those of the others."""

    def wanted(self, place: str) -> bool:
        """Whether shards meet here; raises GraphError where they ought to and cannot."""
        ...

    def meet(self, place: str, leaf: Leaf | None, merge: Merge) -> Leaf | None:
        """The merged leaves of all shards, of which None is one without samples. Every shard must come to ``place``."""
        ...

    def shard(self) -> int:
        """The number of the shard that is open."""
        ...


class _Provider:
    meeting: Callable[[], Meeting | None] = staticmethod(lambda: None)


class _Local(threading.local):
    pass_weight: float = 1.0
    heard: list[Leaf | None] | None = None
    told: Iterator[Leaf | None] | None = None


_provider = _Provider()
_local = of_rank(_Local())


def provide(meeting: Callable[[], Meeting | None]) -> None:
    """Enter the function that says how the shards of the calling thread's rank meet; None: it is alone."""
    _provider.meeting = meeting  # type: ignore[method-assign]


def meeting(place: str, *, silenced: bool = False) -> Meeting | None:
    """How the open shard meets the others at ``place``; None: it is alone. ``silenced``: this forward leaves nothing behind."""
    if silenced and _local.told is None:
        return None
    found = _provider.meeting()
    return found if found is not None and found.wanted(place) else None


def merged(where: Meeting, place: str, leaf: Leaf | None, merge: Merge) -> Leaf | None:
    """What the leaves of all shards merge to; a forward that is computed again gets what it got the first time."""
    refuse("a layer in which shards meet")
    result = where.meet(place, leaf, merge) if _local.told is None else next(_local.told)
    if _local.heard is not None:
        _local.heard.append(result)
    return result


@contextmanager
def remember(heard: list[Leaf | None]) -> Iterator[None]:
    """Within, what shards merge to is also kept in ``heard``, for a forward that will be computed again."""
    before, _local.heard = _local.heard, heard
    try:
        yield
    finally:
        _local.heard = before
        if before is not None:
            before.extend(heard)


@contextmanager
def recall(heard: list[Leaf | None]) -> Iterator[None]:
    """Within, a forward is computed again: nobody is asked, it gets ``heard`` in the same order."""
    before, _local.told = _local.told, iter(heard)
    try:
        yield
    finally:
        _local.told = before


def pass_weight() -> float:
    """The weight of the loss whose backward pass runs: the gradients of different shards add up in these shares."""
    return _local.pass_weight


def set_pass_weight(weight: float) -> None:
    """Called by whoever weights the shards, at the beginning of a backward pass."""
    _local.pass_weight = weight


def add(left: Leaf, right: Leaf) -> Leaf:
    """The merge of sums."""
    return tuple(a + b for a, b in zip(left, right, strict=True))
