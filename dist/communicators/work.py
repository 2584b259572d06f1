"""What a caller holds of an operation that runs."""

from __future__ import annotations

import threading
import time
from typing import Any, Protocol

from ..diagnosis.flight import FlightRecorder


class Helper(Protocol):
    """Who can run an operation in the thread that waits for it."""

    flight: FlightRecorder

    def _help(self, work: Work) -> None: ...


class Work:
    """A running operation. ``wait()`` blocks until it is done and returns its result, or raises its error."""

    __slots__ = ("_comm", "_error", "_event", "_result", "done", "name")

    _making = threading.Lock()

    def __init__(self, name: str, comm: Helper | None = None) -> None:
        self.name = name
        self.done = False
        self._comm = comm
        self._event: threading.Event | None = None  # made by the first who has to wait: most operations need none
        self._error: BaseException | None = None
        self._result: Any = None

    def wait(self, timeout_s: float | None = None) -> Any:
        """The result. Raises the operation's own error (deadline, mismatch, lost peer) or TimeoutError."""
        if not self.done:
            self._wait(timeout_s)
        if self._error is not None:
            raise self._error
        return self._result

    def _wait(self, timeout_s: float | None) -> None:
        comm, began = self._comm, time.monotonic()
        if timeout_s is None and comm is not None:
            comm._help(self)
        with self._making:
            event = self._event = self._event or threading.Event()
        if not self.done and not event.wait(timeout_s):
            raise TimeoutError(f"{self.name} is not done after {timeout_s} s")
        if comm is not None:
            comm.flight.waited(self.name, began)

    def _finish(self, result: Any = None, error: BaseException | None = None) -> None:
        self._result, self._error, self._comm = result, error, None
        self.done = True
        if (event := self._event) is not None:
            event.set()
