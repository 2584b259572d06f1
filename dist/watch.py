"""Who waits for whom: the words for lost peers, and one line when an operation makes no progress."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .rendezvous import Member
from .whereabouts import communicators

if TYPE_CHECKING:
    from .communicators.base import Communicator

STALL_S = 20.0


def begin(communicator: Communicator) -> None:
    """From now on ``communicator`` is looked after, until :func:`end`."""
    communicators.add(communicator)


def end(communicator: Communicator) -> None:
    communicators.discard(communicator)


def _to_stderr(line: str) -> None:
    print(f"phalanx: {line}", file=sys.stderr, flush=True)


@dataclass(frozen=True, slots=True)
class Wait:
    """What a rank waits for at the moment."""

    operation: str
    began: float
    """When the operation began (``time.monotonic`` seconds)."""
    progress: int
    """Any number that grows with everything that arrives."""
    sources: tuple[Member, ...]
    """Whose message it waits for."""


class StallWatch:
    """Says once for each operation that nothing moves in it, then again each time the wait has doubled.

    ``write`` gets the line; ``look`` is called every second or so by whichever thread has the time.
    """

    def __init__(self, rank: int, stall_s: float = STALL_S, write: Callable[[str], None] = _to_stderr) -> None:
        self.rank, self.stall_s, self.write = rank, stall_s, write
        self._seen: tuple[str, float, int] | None = None
        self._moved = 0.0
        self._told_s = 0.0

    def look(self, wait: Wait | None, now: float) -> None:
        if wait is None:
            self._seen = None
            return
        seen = (wait.operation, wait.began, wait.progress)
        if seen != self._seen:
            self._seen, self._moved, self._told_s = seen, now, 0.0
        still_s = now - self._moved
        if still_s >= max(self.stall_s, 2 * self._told_s):
            self._told_s = still_s
            missing = ", ".join(map(str, wait.sources)) or "its own messages to leave"
            self.write(
                f"rank {self.rank} waits for {missing} in {wait.operation}: begun {now - wait.began:.0f} s ago, "
                f"nothing has come for {still_s:.0f} s"
            )


def lost_message(rank: int, peer: Member, current: tuple[str, float] | None, left: bool) -> str:
    """Why an operation cannot go on: the peer died, or left in good order while this rank still needs it."""
    where = "between two operations"
    if current is not None:
        where = f"while in {current[0]}, {time.monotonic() - current[1]:.1f} s after it began"
    if left:
        return (
            f"rank {rank} needs {peer}, which has closed its communicator, {where}. Every rank must do the same operations; "
            "that one finished earlier"
        )
    return (
        f"rank {rank} lost {peer} {where}. That process died without a goodbye: look at its own last output, and at the "
        "kernel's log if memory may have run out"
    )
