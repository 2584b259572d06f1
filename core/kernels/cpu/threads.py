"""How many threads one kernel may use: one number for every library that computes here."""

from __future__ import annotations

import os
from collections.abc import Callable

_count = 1
_said = False
_listeners: list[Callable[[int], None]] = []


def threads() -> int:
    """How many threads one kernel may use; one at first."""
    return _count


def set_threads(count: int) -> None:
    """Let kernels use ``count`` threads from now on. Sums of oneDNN change with it."""
    global _count, _said
    _said = True
    if count != _count:
        _count = count
        for listener in _listeners:
            listener(count)


def settle() -> None:
    """Unless somebody said it: as many threads as ``OMP_NUM_THREADS`` names, or as there are cores for this process."""
    if not _said:
        named = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0]
        set_threads(max(1, int(named)) if named.isdigit() else cores())


def cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def when_changed(listener: Callable[[int], None]) -> None:
    """Tell ``listener`` the number whenever it is set."""
    _listeners.append(listener)
