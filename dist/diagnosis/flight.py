"""The flight recorder: what a rank did last, kept in memory at all times and written when the job fails.

Each communicator owns one. It holds the last operations (number, name, when they were submitted, begun and ended, how much
they sent, their error) and the last stretches in which the caller waited for one. :mod:`.flight_file` writes it down.
"""

from __future__ import annotations

import struct
import time
from dataclasses import dataclass
from typing import Any

from ...core import spans

CAPACITY = 2000
_DONE = struct.Struct("<qqqqqqdd")
"""Of an operation that was done at once: which one and which wait it was, both from 1; sequence, number, name, bytes, began, ended.

A line of a cache: it is written between large products, when nothing else of this object is in one.
"""


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

    __slots__ = (
        "_done",
        "_names",
        "_rows",
        "_waits",
        "begun",
        "capacity",
        "clock_offset_s",
        "group",
        "waited_s",
        "waits",
    )

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
        self._done = bytearray(capacity * _DONE.size)
        self._names: list[str] = []

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

    def name(self, operation: str) -> int:
        """By which :meth:`done` knows operations that are called so, with a number behind it."""
        if operation not in self._names:
            self._names.append(operation)
        return self._names.index(operation)

    def done(self, sequence: int, name: int, number: int, began: float, nbytes: int) -> None:
        """An operation that began then is over, and the caller has waited for it. ``name``: of :meth:`name`."""
        now, begun, waits = time.monotonic(), self.begun, self.waits
        at = begun % self.capacity * _DONE.size
        _DONE.pack_into(self._done, at, begun + 1, waits + 1, sequence, number, name, nbytes, began, now)
        self.begun, self.waits = begun + 1, waits + 1
        self.waited_s += now - began

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
        return [self._operation(number) for number in _last(self.begun, self.capacity)]

    def waitings(self) -> list[Waiting]:
        """The last stretches of waiting, oldest first."""
        done = {row[1] - 1: row for row in _DONE.iter_unpack(self._done)}
        found = []
        for number in _last(self.waits, self.capacity):
            if (row := done.get(number)) is not None:
                found.append(Waiting(self._name_of(row), *row[6:]))
            else:
                found.append(Waiting(*self._waits[number % self.capacity]))
        return found

    def last(self) -> Operation | None:
        """The operation that began last."""
        return self._operation(self.begun - 1) if self.begun else None

    def _operation(self, index: int) -> Operation:
        slot = index % self.capacity
        row = _DONE.unpack_from(self._done, slot * _DONE.size)
        if row[0] != index + 1:
            return Operation(*self._rows[slot])
        return Operation(row[2], self._name_of(row), row[6], row[6], row[7], row[5])

    def _name_of(self, row: tuple[Any, ...]) -> str:
        return f"{self._names[row[4]]} {row[3]}"


def _last(count: int, capacity: int) -> range:
    return range(max(0, count - capacity), count)
