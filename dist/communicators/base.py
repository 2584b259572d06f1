"""The communicator: what every wire offers, and the order in which operations run.

A backend implements five methods (``_post``, ``_flush``, ``_take``, ``_abort``, ``_close``); everything else is here. Operations are
*programs* over messages, pure in what they send and receive, so that tree, ring or broadcast are written once. All
programs of a communicator run one after another on its communication thread, in the order of submission, which
must be the same on all ranks: each message carries the operation's number and fingerprint, and a difference is an
error on both sides, never a hang and never a wrong sum.
"""

from __future__ import annotations

import json
import queue
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import AbortedError, CommunicatorError, MismatchError

DEFAULT_TIMEOUT_S = 600.0


@dataclass(frozen=True, slots=True)
class Header:
    """What travels before each message: who sends which part of which operation."""

    source: int
    sequence: int
    operation: str
    """Fingerprint in words, for example ``all_reduce 'bucket 3' float32[1000]``; equal on all ranks."""
    part: str
    nbytes: int

    def encode(self) -> bytes:
        return json.dumps([self.source, self.sequence, self.operation, self.part, self.nbytes]).encode()

    @classmethod
    def decode(cls, data: bytes) -> Header:
        return cls(*json.loads(data))


class Work:
    """A running operation. ``wait()`` blocks until it is done and returns its result, or raises its error."""

    __slots__ = ("_done", "_error", "_result", "name")

    def __init__(self, name: str) -> None:
        self.name = name
        self._done = threading.Event()
        self._error: BaseException | None = None
        self._result: Any = None

    def wait(self, timeout_s: float | None = None) -> Any:
        """The result. Raises the operation's own error (deadline, mismatch, lost peer) or TimeoutError."""
        if not self._done.wait(timeout_s):
            raise TimeoutError(f"{self.name} is not done after {timeout_s} s")
        if self._error is not None:
            raise self._error
        return self._result

    @property
    def done(self) -> bool:
        return self._done.is_set()

    def _finish(self, result: Any = None, error: BaseException | None = None) -> None:
        self._result, self._error = result, error
        self._done.set()


class Messages:
    """What a program sees: numbered, fingerprinted messages with a deadline.

    ``post`` never blocks on the receiver; the buffer must stay unchanged until ``flush`` or the program's end.
    """

    __slots__ = ("_comm", "_deadline", "operation", "rank", "sequence", "size")

    def __init__(self, comm: Communicator, sequence: int, operation: str, deadline: float) -> None:
        self._comm, self.sequence, self.operation, self._deadline = comm, sequence, operation, deadline
        self.rank, self.size = comm.rank, comm.size

    def post(self, dest: int, buffer: Any, part: str = "") -> None:
        """Start to send a C-contiguous array or bytes to ``dest``."""
        view = memoryview(buffer).cast("B") if len(memoryview(buffer)) else memoryview(b"")
        self._comm._post(dest, Header(self.rank, self.sequence, self.operation, part, view.nbytes), view)

    def take(self, source: int, out: np.ndarray | None = None, part: str = "") -> Any:
        """Receive from ``source``: into ``out`` (C-contiguous, of equal size) or as bytes."""
        return self._comm._take(source, Header(source, self.sequence, self.operation, part, -1 if out is None else out.nbytes), out, self._deadline)

    def flush(self) -> None:
        """Wait until everything posted has left this process, so that our death can no longer take it back."""
        self._comm._flush(self._deadline)


Program = Callable[[Messages], Any]


class Communicator(ABC):
    """A group of ranks. Every method must be called by all ranks of it in the same order (``send``/``recv``: by two)."""

    backend: str = "?"

    def __init__(self, rank: int, size: int, *, timeout_s: float = DEFAULT_TIMEOUT_S) -> None:
        self.rank, self.size, self.timeout_s = rank, size, timeout_s
        self._sequence = 0
        self._pair_sequences: dict[tuple[int, int], int] = {}
        self._broken: BaseException | None = None
        self._queue: queue.SimpleQueue[tuple[Program, Work, int, str] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self.current: tuple[str, float] | None = None
        """Operation in progress and the time it began (``time.monotonic``), for stall reports."""

    # -- what a backend implements: called on the communication thread only, except _abort -------------------------

    @abstractmethod
    def _post(self, dest: int, header: Header, view: memoryview) -> None:
        """Start a send; must not wait for the receiver."""

    @abstractmethod
    def _flush(self, deadline: float) -> None:
        """Wait until every posted message has left (``deadline`` in ``time.monotonic`` seconds)."""

    @abstractmethod
    def _take(self, source: int, expected: Header, out: np.ndarray | None, deadline: float) -> Any:
        """The next message of ``source``; :func:`check` it against ``expected``; raise by the deadline."""

    @abstractmethod
    def _abort(self, reason: str) -> None:
        """Tell every other rank that the job is over, and why. Any thread may call it; must return at once."""

    def _close(self) -> None:
        """Release what the wire holds."""

    # -- running programs -------------------------------------------------------------------------------------------

    def run(self, program: Program, *, name: str, timeout_s: float | None = None) -> Work:
        """Run ``program`` on the communication thread after all earlier ones. ``name`` is the full fingerprint."""
        self._sequence += 1
        return self._submit(program, name, self._sequence, timeout_s)

    def _submit(self, program: Program, name: str, sequence: int, timeout_s: float | None) -> Work:
        work = Work(name)
        if self._broken is not None:
            work._finish(error=self._broken)
            return work
        if self._thread is None:
            self._thread = threading.Thread(target=self._serve, name=f"phalanx-comm-{self.rank}", daemon=True)
            self._thread.start()
        self._queue.put((program, work, sequence, name) if timeout_s is None else (_limited(program, timeout_s), work, sequence, name))
        return work

    def _serve(self) -> None:
        while (entry := self._queue.get()) is not None:
            program, work, sequence, name = entry
            if self._broken is not None:
                work._finish(error=self._broken)
                continue
            self.current = (name, time.monotonic())
            messages = Messages(self, sequence, name, time.monotonic() + self.timeout_s)
            try:
                result = program(messages)
                messages.flush()
            except BaseException as error:  # carried to whoever waits
                self._fail(error)
                work._finish(error=error)
            else:
                self.current = None
                work._finish(result)

    def _fail(self, error: BaseException) -> None:
        """Later operations give the same error; the other ranks learn of it unless they told us."""
        self._broken = error
        if not isinstance(error, AbortedError):
            self._abort(f"rank {self.rank}: {error}")

    # -- verbs -----------------------------------------------------------------------------------------------------

    def all_reduce(self, array: np.ndarray, *, name: str) -> Work:
        """Sum ``array`` (C-contiguous) over ranks, in place, by the fixed tree over ranks: equal bits everywhere."""
        from_tree = _algorithms()
        return self.run(lambda m: from_tree.all_reduce(m, array), name=_fingerprint("all_reduce", name, array))

    def reduce_scatter(self, array: np.ndarray, *, name: str) -> Work:
        """Sum over ranks; the result is this rank's slice ``array[lo:hi]`` of the even cut of ``array`` (1-D), in place."""
        from_tree = _algorithms()
        return self.run(lambda m: from_tree.reduce_scatter(m, array), name=_fingerprint("reduce_scatter", name, array))

    def all_gather(self, array: np.ndarray, out: np.ndarray, *, name: str) -> Work:
        """``out[r]`` becomes rank r's ``array`` on all ranks; ``out`` has shape ``(size, *array.shape)``."""
        from_tree = _algorithms()
        return self.run(lambda m: from_tree.all_gather(m, array, out), name=_fingerprint("all_gather", name, array))

    def broadcast(self, array: np.ndarray, *, root: int = 0, name: str) -> Work:
        """``array`` of rank ``root`` on all ranks, in place."""
        from_tree = _algorithms()
        return self.run(lambda m: from_tree.broadcast(m, array, root), name=_fingerprint(f"broadcast from {root}", name, array))

    def all_gather_object(self, value: Any, *, name: str) -> Work:
        """A list of every rank's ``value``, which must be JSON: nothing is ever pickled."""
        from_tree = _algorithms()
        return self.run(lambda m: from_tree.all_gather_object(m, value), name=f"all_gather_object {name!r}")

    def broadcast_object(self, value: Any, *, root: int = 0, name: str) -> Work:
        """Rank ``root``'s ``value`` (JSON) on all ranks."""
        from_tree = _algorithms()
        return self.run(lambda m: from_tree.broadcast_object(m, value, root), name=f"broadcast_object from {root} {name!r}")

    def barrier(self, *, name: str = "barrier") -> Work:
        """Done when all ranks have come here."""
        from_tree = _algorithms()
        return self.run(lambda m: from_tree.all_gather_object(m, None), name=f"barrier {name!r}")

    def send(self, array: np.ndarray, dest: int, *, name: str) -> Work:
        """Send ``array`` to ``dest``, which calls ``recv`` with the same name, shape and dtype."""
        return self._pair(self.rank, dest, lambda m: m.post(dest, array), _fingerprint("send", name, array))

    def recv(self, array: np.ndarray, source: int, *, name: str) -> Work:
        """Receive into ``array`` what ``source`` sends."""
        return self._pair(source, self.rank, lambda m: m.take(source, array), _fingerprint("send", name, array))

    def _pair(self, source: int, dest: int, program: Program, name: str) -> Work:
        # pairs count for themselves, below zero: they must not shift the numbers of the operations of all ranks
        number = self._pair_sequences[source, dest] = self._pair_sequences.get((source, dest), 0) - 1
        return self._submit(program, name, number, None)

    def split(self, color: int, key: int | None = None) -> Communicator:
        """The group of all ranks that gave the same ``color``, ordered by ``key`` (default: rank). Collective."""
        raise CommunicatorError(f"backend {self.backend!r} cannot split a group")

    def close(self) -> None:
        """Finish what runs and release the wire. Later operations are an error. Safe to call twice."""
        if self._thread is not None and self._thread is not threading.current_thread():
            self._queue.put(None)
            self._thread.join(timeout=5.0 if self._broken else self.timeout_s)
            self._thread = None
        if self._broken is None:
            self._broken = CommunicatorError("this communicator is closed")
            self._close()

    def abort(self, reason: str) -> None:
        """End the job for all ranks: their operations raise AbortedError with ``reason``. Any thread may call it."""
        if self._broken is None:
            self._broken = AbortedError(reason)
            self._abort(reason)


def check(expected: Header, came: Header, rank: int) -> None:
    """Compare what came with what this rank waits for; both sides are named in the error."""
    if (came.sequence, came.operation, came.part) != (expected.sequence, expected.operation, expected.part) or (
        expected.nbytes >= 0 and came.nbytes != expected.nbytes
    ):
        raise MismatchError(
            f"ranks issued different operations: rank {rank} is in operation {expected.sequence}: {expected.operation}"
            f"{_part(expected)}, rank {came.source} in operation {came.sequence}: {came.operation}{_part(came)}. Every rank must call the "
            "same operations in the same order with equal shapes and dtypes."
        )


def _part(header: Header) -> str:
    return (f" part {header.part}" if header.part else "") + (f" ({header.nbytes} bytes)" if header.nbytes >= 0 else "")


def _fingerprint(verb: str, name: str, array: np.ndarray) -> str:
    return f"{verb} {name!r} {array.dtype}{list(array.shape)}"


def _limited(program: Program, timeout_s: float) -> Program:
    def limited(messages: Messages) -> Any:
        messages._deadline = time.monotonic() + timeout_s
        return program(messages)

    return limited


def _algorithms() -> Any:
    raise NotImplementedError


def slices(length: int, parts: int) -> Sequence[tuple[int, int]]:
    """The even cut of ``length`` elements into ``parts`` slices ``(lo, hi)``; the first ones are longer by one."""
    base, extra = divmod(length, parts)
    bounds = [0]
    for index in range(parts):
        bounds.append(bounds[-1] + base + (index < extra))
    return list(zip(bounds[:-1], bounds[1:], strict=True))
