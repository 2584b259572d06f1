"""Ranks as threads of one process: for tests, teaching and simulation. Messages are copies in a queue.

Everything that belongs to a rank is thread-local in phalanx, so that a training script runs unchanged in each thread.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..diagnosis import flight_file
from ..errors import CommunicatorError, DeadlineError, PeerLostError
from ..messages import Header
from .base import Communicator, check, consequence, reason_of

_GRACE_S = 1.0
_local = threading.local()


class Hub:
    """What the ranks of one group share: queues per receiver and sender, and the reason of an abort."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.changed = [threading.Condition() for _ in range(size)]
        self.queues: list[dict[int, deque[tuple[Header, bytes]]]] = [defaultdict(deque) for _ in range(size)]
        self.reason: str | None = None
        self.left: set[int] = set()
        self._groups: dict[tuple[int, int], Hub] = {}
        self._lock = threading.Lock()

    def tell_all(self) -> None:
        """Wake every rank, so that it looks at ``reason`` and ``left`` again."""
        for changed in self.changed:
            with changed:
                changed.notify_all()

    def abort(self, reason: str) -> None:
        with self._lock:
            first = self.reason is None
            if first:
                self.reason = reason
            groups = list(self._groups.values())
        if first:
            self.tell_all()
            for group in groups:
                group.abort(reason)

    def group(self, number: int, members: list[int]) -> Hub:
        """The hub that the members of one ``split`` share; whoever comes first makes it."""
        with self._lock:
            return self._groups.setdefault((number, members[0]), Hub(len(members)))


class ThreadsCommunicator(Communicator):
    """One rank of ``hub``. :func:`run_threads` makes them."""

    backend = "threads"

    def __init__(self, hub: Hub, rank: int, *, timeout_s: float) -> None:
        super().__init__(rank, hub.size, timeout_s=timeout_s)
        self._hub = self.family = hub

    def _post(self, dest: int, header: Header, view: memoryview) -> None:
        with self._hub.changed[dest]:
            self._hub.queues[dest][self.rank].append((header, bytes(view)))
            self._hub.changed[dest].notify_all()

    def _flush(self, deadline: float) -> None:
        """Posting copied everything."""

    def _take(self, source: int, expected: Header, out: np.ndarray | None, deadline: float) -> Any:
        came, data = self._next(source, expected.operation, deadline)
        check(expected, came, self.rank)
        if out is None:
            return data
        out[:] = np.frombuffer(data, np.uint8)
        return out

    def _next(self, source: int, operation: str, deadline: float) -> tuple[Header, bytes]:
        hub, changed = self._hub, self._hub.changed[self.rank]
        waiting = hub.queues[self.rank][source]
        with changed:
            while True:
                if hub.reason is not None:
                    raise consequence(hub.reason)
                if waiting:
                    return waiting.popleft()
                if source in hub.left:
                    raise PeerLostError(f"rank {self.rank} of {self.size} in {operation}: rank {source} has ended")
                if (left_s := deadline - time.monotonic()) <= 0:
                    raise TimeoutError
                changed.wait(left_s)

    def _look(self, ranks: Sequence[int]) -> None:
        if self._hub.reason is not None:
            raise consequence(self._hub.reason)
        if gone := [rank for rank in ranks if rank in self._hub.left]:
            raise PeerLostError(f"rank {self.rank} of {self.size}: rank {gone[0]} has ended")

    def _has_come(self, source: int) -> bool:
        return bool(self._hub.queues[self.rank][source])

    def _abort(self, reason: str) -> None:
        self._hub.abort(reason)

    def _close(self) -> None:
        self._hub.left.add(self.rank)
        self._hub.tell_all()

    def split(self, color: int, key: int | None = None) -> ThreadsCommunicator:
        number, members = self._members(color, key)
        hub = self._hub.group(number, members)
        group = ThreadsCommunicator(hub, members.index(self.rank), timeout_s=self.timeout_s)
        group.job_ranks, group.stall_s = [self.job_ranks[rank] for rank in members], self.stall_s
        return group


def current_communicator() -> ThreadsCommunicator | None:
    """The communicator of the rank that this thread is, or None outside of :func:`run_threads`."""
    return getattr(_local, "communicator", None)


def run_threads(function: Callable[..., Any], size: int, *args: Any, timeout_s: float = 60.0) -> list[Any]:
    """Run ``function(*args)`` in ``size`` threads, each of them one rank; the list of what they return.

    ``timeout_s``: deadline of each operation between them. The first rank's exception ends the others (their operations
    raise AbortedError) and is raised here with a note that names its rank; ranks that do not end then are left behind.

    >>> run_threads(lambda: current_communicator().all_gather_object("hi", name="greet").wait(), 2)
    [['hi', 'hi'], ['hi', 'hi']]
    """
    job = _Job(function, size, args, timeout_s)
    for thread in job.threads:
        thread.start()
    return job.results_when_done()


class _Job:
    """The threads of one :func:`run_threads`."""

    def __init__(self, function: Callable[..., Any], size: int, args: tuple[Any, ...], timeout_s: float) -> None:
        self.function, self.size, self.args, self.timeout_s = function, size, args, timeout_s
        self.hub = Hub(size)
        self.results: list[Any] = [None] * size
        self.errors: list[tuple[int, BaseException]] = []
        self.ended = threading.Semaphore(0)
        self.threads = [
            threading.Thread(target=self.rank_main, args=(r,), name=f"rank-{r}", daemon=True) for r in range(size)
        ]

    def rank_main(self, rank: int) -> None:
        _local.communicator = communicator = ThreadsCommunicator(self.hub, rank, timeout_s=self.timeout_s)
        try:
            self.results[rank] = self.function(*self.args)
        except BaseException as error:
            self.errors.append((rank, error))
            flight_file.failed(communicator, error)
            communicator.abort(reason_of(error, rank))
        finally:
            communicator.close()
            self.ended.release()

    def results_when_done(self) -> list[Any]:
        missing = self.size
        give_up = None
        while missing and (give_up is None or time.monotonic() < give_up):
            if self.ended.acquire(timeout=0.2):
                missing -= 1
            if self.errors and give_up is None:
                give_up = time.monotonic() + _GRACE_S
        if not self.errors:
            return self.results
        rank, error = min(self.errors, key=lambda e: (_is_consequence(e[1]), self.errors.index(e)))
        error.add_note(f"raised on rank {rank} of {self.size}")
        raise error


def _is_consequence(error: BaseException) -> int:
    """0 for a cause, 1 for what a rank met because another failed."""
    if isinstance(error, DeadlineError):
        return 0
    return int(isinstance(error, CommunicatorError) and (error.from_peer or isinstance(error, PeerLostError)))
