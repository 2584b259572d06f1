"""How many threads one kernel may use: one number for every library that computes here."""

from __future__ import annotations

from collections.abc import Callable

_count = 1
_listeners: list[Callable[[int], None]] = []


def threads() -> int:
    """How many threads one kernel may use; one at first."""
    return _count


def set_threads(count: int) -> None:
    """Let kernels use ``count`` threads from now on. Sums of oneDNN change with it."""
    global _count
    _count = count
    for listener in _listeners:
        listener(count)


def when_changed(listener: Callable[[int], None]) -> None:
    """Tell ``listener`` the number whenever it is set."""
    _listeners.append(listener)
