"""The flight recorder: what a rank did last, kept in memory at all times and written when the job fails.

Each communicator owns one. It holds the last operations (number, name, when they were submitted, begun and ended, how much
they sent, their error) and the last stretches in which the caller waited for one. :mod:`.flight_file` writes it down.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from ...core import spans

CAPACITY = 2000


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation of one rank; times in ``time.monotonic`` seconds, 0 for what has not happened."""

    sequence: int
    name: str
    submitted: float
    began: float
    ended: float
    nbytes: int
    error: str = ""


@dataclass(frozen=True, slots=True)
class Waiting:
    """A stretch in which the caller had nothing else to do than to wait for an operation."""

    name: str
    began: float
    ended: float


class FlightRecorder:
    """A ring of the last ``capacity`` operations: less than two microseconds for each, no lock, no growing memory.

    One thread at a time begins and ends operations; :meth:`operations` may be called by any thread.

    >>> flight = FlightRecorder(capacity=2)
    >>> for number in (1, 2, 3):
    ...     flight.end(flight.begin(number, "barrier"))
    >>> [operation.sequence for operation in flight.operations()]
    [2, 3]
    """

    __slots__ = ("_rows", "_waits", "begun", "capacity", "clock_offset_s", "group", "waited_s", "waits")

    def __init__(self, capacity: int = CAPACITY) -> None:
        self.capacity = capacity
        self.group = "all ranks"
        """Which channel this is, in words; equal on all its ranks."""
        self.clock_offset_s: float | None = None
        """This process's ``time.monotonic`` minus rank 0's; None where nobody measured it."""
        self.begun = 0
        """How many operations ever began."""
        self.waits = 0
        self.waited_s = 0.0
        """Seconds that callers have waited for operations since the start: what computing could not hide."""
        self._rows: list[list[Any]] = [[0, "", 0.0, 0.0, 0.0, 0, ""] for _ in range(capacity)]
        self._waits: list[list[Any]] = [["", 0.0, 0.0] for _ in range(capacity)]

    def begin(self, sequence: int, operation: str, nbytes: int = 0, submitted: float = 0.0) -> int:
        """An operation begins; the slot for :meth:`end`. ``submitted``: when it was asked for (0: just now)."""
        now = time.monotonic()
        slot = self.begun % self.capacity
        self._rows[slot][:] = (sequence, operation, submitted or now, now, 0.0, nbytes, "")
        self.begun += 1
        return slot

    def end(self, slot: int, error: BaseException | None = None, nbytes: int = 0) -> None:
        """The operation of ``slot`` is over. ``nbytes``: what it sent to other ranks, where ``begin`` did not know."""
        row = self._rows[slot]
        row[4] = time.monotonic()
        if nbytes:
            row[5] = nbytes
        if error is not None:
            row[6] = f"{type(error).__name__}: {error}"

    def waited(self, operation: str, began: float) -> None:
        """The caller has waited for ``operation`` since ``began`` (``time.monotonic``) until now."""
        now = time.monotonic()
        self.waited_s += now - began
        self._waits[self.waits % self.capacity][:] = (operation, began, now)
        self.waits += 1
        if spans.on:
            spans.tell("wait", f"wait for {operation}", began, now)

    def operations(self) -> list[Operation]:
        """The last operations, oldest first."""
        return [Operation(*self._rows[number % self.capacity]) for number in _last(self.begun, self.capacity)]

    def waitings(self) -> list[Waiting]:
        """The last stretches of waiting, oldest first."""
        return [Waiting(*self._waits[number % self.capacity]) for number in _last(self.waits, self.capacity)]

    def last(self) -> Operation | None:
        """The operation that began last."""
        return Operation(*self._rows[(self.begun - 1) % self.capacity]) if self.begun else None


def _last(count: int, capacity: int) -> range:
    return range(max(0, count - capacity), count)
