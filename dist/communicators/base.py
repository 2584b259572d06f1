"""The communicator: what every wire offers, and the order in which operations run.

A backend implements the methods from ``_post`` to ``_close``; everything else is here. Operations are *programs* over
messages (:mod:`..messages`). All programs of a communicator run one after another, in the order of submission, which
must be the same on all ranks: each message carries the operation's number and fingerprint, and a difference is an
error on both sides, never a hang and never a wrong sum. A communication thread runs them while the caller computes; a
caller that waits runs what has not begun yet by itself, which saves the way to the thread and back.
"""

from __future__ import annotations

import contextlib
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...core import spans
from ...core.errors import PhalanxError, RangeError
from ..diagnosis import flight_file, watch, whereabouts
from ..diagnosis.flight import FlightRecorder
from ..errors import AbortedError, CommunicatorError
from ..messages import Header, Messages, Program, aligned_bytes, check, consequence, said
from ..reduction import over_wire
from ..reduction.programs import Programs
from ..reduction.tree import slices
from .device import DeviceVerbs
from .shared_memory import LocalSpace
from .verbs import Verbs
from .work import Work

__all__ = ["Communicator", "Header", "Messages", "Program", "Work", "check", "consequence", "slices"]

DEFAULT_TIMEOUT_S = 600.0
_ABORT_GRACE_S = 5.0
SUSPICION_S = 1.0
"""So long what a rank sent before it came to a meeting may still be under way."""


@dataclass(slots=True)  # not frozen: that costs a microsecond for each field
class _Entry:
    program: Program
    work: Work
    sequence: int
    timeout_s: float
    flush: bool
    submitted: float = 0.0
    kept: Any = None


class Communicator(Verbs, ABC):
    """A group of ranks. Every method must be called by all ranks of it in the same order (``send``/``recv``: by two).

    ``timeout_s``: deadline of every operation, from the moment that this rank begins it.
    """

    backend: str = "?"
    keeps_to_host: bool = False
    """Whether arrays of GPUs go through the host's memory in any case: not worth connections of their own."""
    _mesh: Any = None
    """The connections (a ControlMesh) by which ranks ask each other where they stand; None where there are none."""

    def __init__(self, rank: int, size: int, *, timeout_s: float = DEFAULT_TIMEOUT_S) -> None:
        if not 0 <= rank < size:
            raise RangeError(f"rank must be in 0..{size - 1}, got {rank}")
        self.rank, self.size, self.timeout_s = rank, size, timeout_s
        self.current: tuple[str, float] | None = None
        """Operation in progress and the time it began (``time.monotonic``), for stall reports."""
        self.waiting_for: tuple[int, ...] = ()
        """The ranks whose message the operation in progress waits for now."""
        self.arrived = 0
        """Grows with everything that comes from other ranks."""
        self.sent_bytes = 0
        """Payload bytes that this rank sent to others."""
        self.flight = FlightRecorder()
        self.local: LocalSpace | None = None
        """The memory that this rank shares with others of its host, after :meth:`share_memory`."""
        self.programs: Programs = over_wire
        self._on_gpu: DeviceVerbs | None = None
        self.expected: Header | None = None
        """The message that this rank waits for now."""
        self._suspicion: tuple[int, bytes, float] = (-1, b"", 0.0)
        self.job_ranks: Sequence[int] = range(size)
        """Each rank's number among all ranks of the job: another one in groups that came from ``split``."""
        self.owner = threading.get_ident()
        """The thread of the training loop, whose Python line is shown when others wait for this rank."""
        self.family: object = self
        """What all ranks of this group share that are in this process: themselves alone, unless ranks are threads."""
        self.stall_s = watch.STALL_S
        self._sequence = 0
        self._pair_sequences: dict[tuple[int, int], int] = {}
        self._broken: BaseException | None = None
        self._closing = False
        self._entries: deque[_Entry] = deque()
        self._waiting = threading.Condition()
        self._running = threading.Lock()  # held while a program runs, by whichever thread runs it
        self._thread: threading.Thread | None = None
        self._scratch_bytes = aligned_bytes(0)
        if size > 1:
            watch.begin(self)

    # -- what a backend implements: called by one thread at a time (not always the same), except _abort -------------

    @abstractmethod
    def _post(self, dest: int, header: Header, view: memoryview) -> None:
        """Start a send; must not wait for the receiver. ``view`` stays unchanged until ``_flush``."""

    @abstractmethod
    def _flush(self, deadline: float) -> None:
        """Wait until every posted message has left (``deadline`` in ``time.monotonic`` seconds), else TimeoutError."""

    @abstractmethod
    def _take(self, source: int, expected: Header, out: np.ndarray | None, deadline: float) -> Any:
        """The next message of ``source``, after :func:`check` of its header against ``expected``.

        ``out``: 1-D uint8 of the expected size (may be empty) to receive into, or None: return the bytes. Raises
        TimeoutError at the deadline, ``consequence(reason)`` once another rank has aborted, PeerLostError when the peer
        is gone.
        """

    @abstractmethod
    def _abort(self, reason: str) -> None:
        """Tell every other rank that the job is over, and why. Any thread may call it; must return at once."""

    def _look(self, ranks: Sequence[int]) -> None:
        """Raise what ``_take`` would raise of ``ranks`` when the job is over or one of them cannot come any more."""

    def _expect(self, source: int, out: np.ndarray) -> None:
        """``out`` (1-D uint8) will be taken into from ``source``, after what was announced before: may begin to receive."""

    def _look_for_mismatch(self) -> None:
        """Raise when the rank whose message is awaited waits for us itself, in another operation. For a ``_take`` that waits."""
        local, expected, now = self.local, self.expected, time.monotonic()
        if local is None or expected is None or expected.source not in local.members:
            return
        seen = (expected.source, local.said_ahead(local.members.index(expected.source)))
        if seen != self._suspicion[:2]:
            self._suspicion = (*seen, now)
        elif seen[1] and now - self._suspicion[2] > SUSPICION_S:
            check(expected, said(seen[1], expected.source), self.rank)

    def _lend(self, source: int, expected: Header, out: np.ndarray, deadline: float) -> np.ndarray:
        """As ``_take``; the bytes may lie in memory of the wire's own, which their reader may overwrite, instead of in ``out``."""
        taken: np.ndarray = self._take(source, expected, out, deadline)
        return taken

    def _has_come(self, source: int) -> bool:
        """Is there a message of ``source`` that nobody took? Tells who is missing when a deadline passes."""
        return False

    def _where(self, ranks: Sequence[int]) -> str:
        """Where these ranks stand, in words, as far as they can be asked within a second; for the error of a deadline."""
        return whereabouts.describe(self, ranks)

    def _unread(self) -> list[int]:
        """The ranks that have not read what was posted to them, where the wire knows; told when a flush is late."""
        return []

    def _ended_by(self) -> dict[int, str]:
        """The ranks that ended the job by themselves and why, as far as this one has heard and the wire knows.

        Whoever hears of another's end first does not end the job by itself any more; this rank is there if it did.
        """
        return {}

    def _close(self) -> None:
        """Release what the wire holds. If ``_broken`` is None all is flushed, and a goodbye tells who still waits for us."""

    # -- running programs -------------------------------------------------------------------------------------------

    def run(self, program: Program, *, name: str, timeout_s: float | None = None) -> Work:
        """Run ``program`` after all earlier ones. ``name`` is the full fingerprint, equal on all ranks."""
        self._sequence += 1
        return self._submit(program, name, self._sequence, timeout_s)

    def queue(self, program: Program, *, name: str, timeout_s: float | None = None) -> Work:
        """As :meth:`run`, but the communication thread is not woken: whoever waits for the work runs it, so wait soon."""
        self._sequence += 1
        return self._submit(program, name, self._sequence, timeout_s, wake=False)

    def call(
        self, program: Program, *, name: str, timeout_s: float | None = None, flush: bool = True, began: float = 0.0
    ) -> Any:
        """As ``run(...).wait()``, in the caller's thread where possible: half the latency of a small operation.

        ``flush``: until all that it posted has left; a program that posts nothing can do without. ``began``: when it did, if not now.
        """
        if not self._running.acquire(blocking=False):
            return self.run(program, name=name, timeout_s=timeout_s).wait()
        try:
            while self._entries:
                self._execute_next()
            self._sequence += 1
            began = began or time.monotonic()
            limit_s = self.timeout_s if timeout_s is None else timeout_s
            result = self._perform(program, name, self._sequence, limit_s, flush, began)
            self.flight.waited(name, began)
        finally:
            self._running.release()
        return result

    def run_here(self, program: Program, *, name: str, timeout_s: float | None = None) -> Work:
        """As :meth:`run`, but in the caller's thread, and done when it returns, unless another thread runs one now."""
        if not self._running.acquire(blocking=False):
            return self.run(program, name=name, timeout_s=timeout_s)
        try:
            while self._entries:
                self._execute_next()
            self._sequence += 1
            work = Work(name)
            limit_s = self.timeout_s if timeout_s is None else timeout_s
            began = time.monotonic()
            self._execute(_Entry(program, work, self._sequence, limit_s, True, began))
            self.flight.waited(name, began)
        finally:
            self._running.release()
        return work

    def _submit(
        self,
        program: Program,
        name: str,
        sequence: int,
        timeout_s: float | None = None,
        flush: bool = True,
        wake: bool = True,
    ) -> Work:
        work = Work(name, self)
        limit_s = self.timeout_s if timeout_s is None else timeout_s
        kept = None if self.local is None else self.local.roots()  # others sum in it even if the model ends here
        entry = _Entry(program, work, sequence, limit_s, flush, time.monotonic(), kept)
        if self._broken is not None:
            work._finish(error=self._broken)
        elif self.size == 1:
            self._execute(entry)
        else:
            with self._waiting:
                self._entries.append(entry)
                if wake:
                    self._waiting.notify()
            if self._thread is None and wake:
                self._thread = threading.Thread(target=self._serve, name=f"phalanx-comm-{self.rank}", daemon=True)
                if self.local is not None:
                    self.local.serving = self._thread
                self._thread.start()
        return work

    def _serve(self) -> None:
        while True:
            with self._waiting:
                while not self._entries:
                    if self._closing:
                        return
                    self._waiting.wait()
            with self._running:
                self._execute_next()

    def _help(self, work: Work) -> None:
        """Run what has not begun in the caller's thread until ``work`` is done or another thread runs it."""
        while not work.done and self._running.acquire(blocking=False):
            try:
                if not self._execute_next():
                    return
            finally:
                self._running.release()

    def _execute_next(self) -> bool:
        try:
            entry = self._entries.popleft()
        except IndexError:
            return False
        self._execute(entry)
        return True

    def _execute(self, entry: _Entry) -> None:
        work = entry.work
        try:
            result = self._perform(
                entry.program, work.name, entry.sequence, entry.timeout_s, entry.flush, entry.submitted
            )
        except BaseException as error:  # carried to whoever waits
            work._finish(error=error)
        else:
            work._finish(result)

    def _perform(
        self, program: Program, name: str, sequence: int, timeout_s: float, flush: bool, submitted: float
    ) -> Any:
        """Run ``program`` now; its result. What it raises every later operation raises, too."""
        if self._broken is not None:
            raise self._broken
        began = time.monotonic()
        self.current = (name, began)
        flight, sent = self.flight, self.sent_bytes
        slot = flight.begin(sequence, name, submitted=submitted)
        messages = Messages(self, sequence, name, timeout_s)
        try:
            result = program(messages)
            if flush:
                messages.flush()
        except BaseException as error:
            flight.end(slot, error, self.sent_bytes - sent)
            failed = self._fail(error)
            if failed is error:
                raise
            raise failed from None
        self.current = None
        flight.end(slot, None, self.sent_bytes - sent)
        if spans.on:
            about = {"bytes": self.sent_bytes - sent, "group": flight.group}
            spans.tell("communication", name, began, time.monotonic(), about, self.owner)
        return result

    def _fail(self, error: BaseException) -> BaseException:
        """Later operations give the same error; the other ranks learn of it unless it came from them."""
        if self._broken is None:
            self._broken = error
            self._let_gpu_go()
            if not getattr(error, "from_peer", False):
                self._abort(reason_of(error, self.rank))
            flight_file.failed(self, error)
        return self._broken

    def _scratch(self, nbytes: int) -> np.ndarray:
        if nbytes > self._scratch_bytes.nbytes:
            self._scratch_bytes = aligned_bytes(nbytes)
        return self._scratch_bytes

    # -- the end ---------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Finish what runs and release the wire. Later operations are an error. Safe to call twice."""
        if self._closing:
            return
        if self._broken is None:
            with contextlib.suppress(PhalanxError):  # whoever waits for that work gets it
                self._drain()
        with self._waiting:
            self._closing = True
            self._waiting.notify_all()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(timeout=_ABORT_GRACE_S if self._broken else self.timeout_s)
        watch.end(self)
        if self._on_gpu is not None:
            self._on_gpu.close()
        self._close()
        if self._broken is None:
            self._broken = CommunicatorError(f"rank {self.rank}: this communicator is closed")

    def _drain(self) -> None:
        while self._entries:
            with self._running:
                self._execute_next()
        with self._running:
            if self._broken is None and self.size > 1:
                Messages(self, self._sequence, "close", self.timeout_s).flush()

    def abort(self, reason: str) -> None:
        """End the job for all ranks: their operations raise AbortedError with ``reason``. Any thread may call it."""
        if self._broken is None:
            self._broken = AbortedError(reason)
            self._let_gpu_go()
            self._abort(reason)

    def _let_gpu_go(self) -> None:
        """The job is over: what a GPU waits for will not come."""
        if self._on_gpu is not None:
            self._on_gpu.abort()

    def end_job(self, reason: str, code: int = 1, *, is_consequence: bool = False) -> None:
        """The last word of a process that fails with exit code ``code`` and has printed why; may not return."""
        self.abort(reason)

    def __enter__(self) -> Communicator:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        if error is not None:
            self.abort(reason_of(error, self.rank))
        self.close()

    def __repr__(self) -> str:
        return f"<{self.backend} communicator, rank {self.rank} of {self.size}>"


def reason_of(error: BaseException, rank: int) -> str:
    """One line for the other ranks: who failed and why."""
    text = str(error)
    if isinstance(error, CommunicatorError):
        return text if text.startswith(f"rank {rank} ") else f"rank {rank}: {text}"
    return f"rank {rank}: {type(error).__name__}: {text}" if text else f"rank {rank}: {type(error).__name__}"
