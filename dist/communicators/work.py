"""What a caller holds of an operation that runs."""

from __future__ import annotations

import threading
import time
from typing import Any, Protocol

from ..flight import FlightRecorder


class Helper(Protocol):
    """Who can run an operation in the thread that waits for it."""

    flight: FlightRecorder

    def _help(self, work: Work) -> None: ...


class Work:
    """A running operation. ``wait()`` blocks until it is done and returns its result, or raises its error."""

    __slots__ = ("_comm", "_done", "_error", "_result", "name")

    def __init__(self, name: str, comm: Helper | None = None) -> None:
        self.name = name
        self._comm = comm
        self._done = threading.Event()
        self._error: BaseException | None = None
        self._result: Any = None

    def wait(self, timeout_s: float | None = None) -> Any:
        """The result. Raises the operation's own error (deadline, mismatch, lost peer) or TimeoutError."""
        comm, began = self._comm, time.monotonic()
        if timeout_s is None and comm is not None:
            comm._help(self)
        if not self._done.wait(timeout_s):
            raise TimeoutError(f"{self.name} is not done after {timeout_s} s")
        if comm is not None:
            comm.flight.waited(self.name, began)
        if self._error is not None:
            raise self._error
        return self._result

    @classmethod
    def done_with(cls, result: Any, name: str) -> Work:
        """The work of an operation that has ended."""
        work = cls(name)
        work._finish(result)
        return work

    @property
    def done(self) -> bool:
        return self._done.is_set()

    def _finish(self, result: Any = None, error: BaseException | None = None) -> None:
        self._result, self._error, self._comm = result, error, None
        self._done.set()
