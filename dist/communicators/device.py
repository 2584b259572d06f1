"""Collectives on arrays of GPUs: what both ways, NCCL and through the host's memory, have in common.

Each verb is a program of the host's communicator, in which the ranks meet before a GPU is given anything to do: order, names,
deadlines, stall lines and deaths are those of every other operation. The data itself goes over streams of its own, so that neither the
host nor the training stream waits: an event tells the streams what is ready and what is done.
"""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ...core.backend import cupy
from ...core.errors import ShapeError
from ..messages import Messages
from ..reduction.expression import Term
from ..reduction.tree import Node
from .work import Work

if TYPE_CHECKING:
    from .base import Communicator

Ranges = Sequence[tuple[int, int]]
Program = Callable[[Messages], Any]
"""Gives the event of its end, or that and an outcome."""


_held: dict[int, Any] = {}
"""Arrays of operations that are under way, by the operation's number. Those of aborted ones stay here: NCCL may still be at them."""
_numbers = itertools.count()


class DeviceWork(Work):
    """A running operation on arrays of a GPU. After ``wait()`` the caller's stream has its result, the host need not."""

    __slots__ = ("_inner", "_number", "_read", "_value", "_verbs")

    def __init__(self, inner: Work, verbs: DeviceVerbs, value: Any, kept: Any, read: Any) -> None:
        super().__init__(inner.name)
        self._inner, self._verbs, self._value, self._read = inner, verbs, value, read
        self._number = next(_numbers)
        _held[self._number] = kept

    def wait(self, timeout_s: float | None = None) -> Any:
        """The result. Raises the operation's own error (deadline, mismatch, lost peer) or TimeoutError."""
        event, outcome = self._inner.wait(timeout_s)
        self._verbs.complete(event, self.name)
        cupy().cuda.get_current_stream().wait_event(event)
        self.done = True
        _held.pop(self._number, None)
        return outcome if self._value is None else self._value

    def __del__(self) -> None:
        """Not waited for, or failed: what it has from the caller is let go when no copy reads it any more."""
        if self._read is not None and not self.done:
            self._read.synchronize()
            _held.pop(self._number, None)


class DeviceVerbs(ABC):
    """The verbs of ``comm`` for arrays on GPU ``index``. Every method is collective (``send`` and ``recv``: by two)."""

    kind: str

    def __init__(self, comm: Communicator, index: int) -> None:
        self.comm, self.index = comm, index
        self.api = cupy()
        with self.api.cuda.Device(index):
            self.stream = self.api.cuda.Stream(non_blocking=True, priority=-1)

    # -- what a way implements -------------------------------------------------------------------------------------------

    @abstractmethod
    def all_reduce(self, array: Any, *, name: str) -> Work:
        """As :meth:`.verbs.Verbs.all_reduce`, and so the others."""

    @abstractmethod
    def tree_all_reduce(
        self,
        terms: Mapping[Node, Term | None],
        ranges: Ranges,
        shards: int,
        out: Any,
        *,
        name: str,
        cut: Ranges | None = None,
        gather: bool = True,
        start: str = "now",
        exact: bool = True,
    ) -> Work: ...

    @abstractmethod
    def reduce_scatter(self, array: Any, *, name: str) -> Work: ...

    @abstractmethod
    def all_gather(self, array: Any, out: Any, *, name: str) -> Work: ...

    @abstractmethod
    def all_gather_slices(self, array: Any, cut: Ranges, *, name: str) -> Work: ...

    @abstractmethod
    def broadcast(self, array: Any, root: int, *, name: str) -> Work: ...

    def empty(self, length: int, dtype: Any, *, name: str, nodes: int = 0) -> Any:
        """A 1-D array of zeros on this GPU, of which :meth:`expect_sums` was told."""
        with self.api.cuda.Device(self.index):
            array = self.api.zeros(length, dtype)
        self.expect_sums(array, name=name, nodes=nodes)
        return array

    @abstractmethod
    def expect_sums(self, array: Any, *, name: str, nodes: int = 0) -> None:
        """``array`` will take part again and again: prepare what that needs.

        ``nodes``: as ``out`` of :meth:`tree_all_reduce`, to which a rank brings at most so many partial sums.
        """

    @abstractmethod
    def complete(self, event: Any, name: str) -> None:
        """Return when what ``event`` stands for cannot fail any more: no step is committed before."""

    @abstractmethod
    def abort(self) -> None:
        """The job is over: nothing may wait for other ranks any more. Any thread."""

    @abstractmethod
    def close(self) -> None:
        """Release what is held."""

    def send(self, array: Any, dest: int, *, name: str) -> Work:
        """Through the host in any case: NCCL's ``send`` waits for the receiver, ours may come before both receive."""
        words = fingerprint("send", name, array)
        host = array.get()  # a copy, as the verb promises

        def program(messages: Messages) -> Any:
            messages.post(dest, host)
            return self._record(self.stream)

        return self._run(program, words, kept=host, pair=(self.comm.rank, dest))

    def recv(self, array: Any, source: int, *, name: str) -> Work:
        words, ready = fingerprint("send", name, array), self._ready()

        def program(messages: Messages) -> Any:
            host = messages.take(source, np.empty(array.shape, array.dtype))
            self.stream.wait_event(ready)
            array.set(host, stream=self.stream)
            done = self._record(self.stream)
            done.synchronize()
            return done

        return self._run(program, words, value=array, kept=array, pair=(source, self.comm.rank))

    # -- parts -----------------------------------------------------------------------------------------------------------

    def _run(
        self,
        program: Program,
        name: str,
        *,
        value: Any = None,
        kept: Any = None,
        read: Any = None,
        start: str = "now",
        pair: tuple[int, int] | None = None,
    ) -> Work:
        """Submit ``program``; the work's result is ``value``, or the program's outcome. ``kept`` lives until it was waited for.

        ``read``: the event after which nothing reads ``kept`` that was begun before the program.
        """

        def run(messages: Messages) -> Any:
            with self.api.cuda.Device(self.index):
                done = program(messages)
            return done if isinstance(done, tuple) else (done, None)

        if pair is not None:
            inner = self.comm._pair(pair[0], pair[1], run, name)
        else:
            inner = (self.comm.queue if start == "when waited for" else self.comm.run)(run, name=name)
        return DeviceWork(inner, self, value, kept, read)

    def _ready(self) -> Any:
        """An event for all that the caller's stream has been given so far."""
        return self._record(self.api.cuda.get_current_stream())

    def _record(self, stream: Any) -> Any:
        event = self.api.cuda.Event(disable_timing=True)
        event.record(stream)
        return event


def fingerprint(verb: str, name: str, array: Any) -> str:
    """What must be equal on all ranks. Raises ShapeError for an array that is not contiguous."""
    if not array.flags.c_contiguous:
        raise ShapeError(f"expected a C-contiguous array, got shape {array.shape} with strides {array.strides}")
    return f"{verb} {name!r} {array.dtype}{list(array.shape)} on GPUs"
