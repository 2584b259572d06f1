"""Where the batch statistics of a forward go: to the running statistics at once, or to whoever collects them.

Alone, a batch norm moves its running statistics in forward, as in PyTorch. Inside a DataParallel forward writes no
lasting state: it leaves (layer, call number, n, mean, M2) in the thread's sink, the reduction merges these over shards,
and ``layer.commit(n, mean, M2)`` moves the running statistics once per call and step.
"""

from __future__ import annotations

import threading
from typing import Any, NamedTuple, Protocol

from ..live import live
from ..op import Array
from ..rank_local import of_rank


class Statistical(Protocol):
    """A layer whose running statistics move by ``commit``."""

    def commit(self, n: float, mean: Array, m2: Array) -> None: ...


class Entry(NamedTuple):
    """What one forward of one layer saw: ``m2`` is the sum of squared differences from ``mean``, per channel."""

    layer: Any
    call_number: int
    n: int
    mean: Array
    m2: Array


_NOWHERE: list[Entry] = []
"""The entries of forwards that leave nothing: nobody adds to it."""


class _Sink(threading.local):
    entries: list[Entry] | None = None
    """None: to the layers at once."""


_sink = of_rank(_Sink())


@live
def record(layer: Statistical, n: int, mean: Array, m2: Array) -> None:
    """Hand over the statistics of one forward: to the sink where there is one, else to the layer at once."""
    entries = _sink.entries
    if n == 0 or entries is _NOWHERE:
        return
    if entries is None:
        layer.commit(n, mean, m2)
        return
    call_number = sum([entry.layer is layer for entry in entries])
    entries.append(Entry(layer, call_number, n, mean, m2))


def collecting() -> bool:
    """Whether this thread's forwards are part of a larger batch, whose statistics are merged elsewhere."""
    return _sink.entries is not None


def silenced() -> bool:
    """Whether this thread's forwards leave nothing now: recomputation, and forwards outside of a shard."""
    return _sink.entries is _NOWHERE


class collect:  # not of a generator, which would cost 10 us in each forward
    """Within this block (on this thread) forwards append to ``entries``. Entering again with the same list goes on counting."""

    __slots__ = ("_before", "_entries")

    def __init__(self, entries: list[Entry]) -> None:
        self._entries = entries

    def __enter__(self) -> list[Entry]:
        self._before, _sink.entries = _sink.entries, self._entries
        return self._entries

    def __exit__(self, *error: object) -> None:
        _sink.entries = self._before


def discard() -> collect:
    """Within this block (on this thread) forwards leave nothing: recomputation, and forwards outside of a shard."""
    return collect(_NOWHERE)
