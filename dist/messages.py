"""What programs see of a wire: numbered, fingerprinted messages with a deadline.

An operation between ranks is a *program*, a function of :class:`Messages`, pure in what it posts and takes, so that
tree or broadcast are written once for every wire. Between two ranks messages keep their order.
"""

from __future__ import annotations

import json
import os
import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from ..core.errors import ShapeError
from .errors import AbortedError, CommunicatorError, DeadlineError, MismatchError

if TYPE_CHECKING:
    from .communicators.shared_memory import LocalSpace
    from .reduction.programs import Programs

_MISMATCH = "ranks issued different operations"
_ALIGNMENT_BYTES = 256
_POLL_YIELDS = 500  # a fraction of a millisecond, then the core is others'
_POLL_SLEEP_S, _LOOK_EVERY_S = 0.0002, 0.05
TEXT_NBYTES = 1024
"""What a rank says of the operation that it is in, at a meeting in shared memory."""


@dataclass(frozen=True, slots=True)
class Header:
    """What travels before each message: who sends which part of which operation."""

    source: int
    sequence: int
    operation: str
    """Fingerprint in words, for example ``all_reduce 'bucket 3' float32[1000]``; equal on all ranks."""
    part: str
    nbytes: int
    """Size of what follows; -1 in an expectation means any size."""

    def encode(self) -> bytes:
        text = json.dumps([self.source, self.sequence, self.operation, self.part, self.nbytes]).encode()
        return checksum(text).to_bytes(4, "little") + text

    @classmethod
    def decode(cls, data: bytes, source: int, rank: int) -> Header:
        """What ``rank`` got from ``source``. Raises CommunicatorError when it is not what was sent."""
        if checksum(data[4:]) != int.from_bytes(data[:4], "little"):
            raise damaged(f"rank {rank} took a message of rank {source}: its header")
        return cls(*json.loads(data[4:]))


class Wire(Protocol):
    """The side of a communicator that :class:`Messages` uses; :mod:`.communicators.base` says what each must do."""

    rank: int
    size: int
    waiting_for: tuple[int, ...]
    arrived: int
    sent_bytes: int

    def _post(self, dest: int, header: Header, view: memoryview) -> None: ...
    def _flush(self, deadline: float) -> None: ...
    def _expect(self, source: int, out: np.ndarray) -> None: ...
    def _take(self, source: int, expected: Header, out: np.ndarray | None, deadline: float) -> Any: ...
    def _lend(self, source: int, expected: Header, out: np.ndarray, deadline: float) -> np.ndarray: ...
    def _has_come(self, source: int) -> bool: ...
    def _look(self, ranks: Sequence[int]) -> None: ...
    def _where(self, ranks: Sequence[int]) -> str: ...
    def _unread(self) -> list[int]: ...
    def _scratch(self, nbytes: int) -> np.ndarray: ...

    local: LocalSpace | None
    programs: Programs
    expected: Header | None


class Messages:
    """The messages of one operation on one rank.

    ``post`` never waits for the receiver; its buffer must stay unchanged until ``flush``, the program's end, or until
    something came back that the receiver could only have sent after reading it.
    """

    __slots__ = ("_began", "_deadline", "_heard", "_wire", "operation", "rank", "sequence", "size")

    def __init__(self, wire: Wire, sequence: int, operation: str, timeout_s: float) -> None:
        self._wire, self.sequence, self.operation = wire, sequence, operation
        self._began = time.monotonic()
        self._deadline = self._began + timeout_s
        self._heard: set[int] = set()
        self.rank, self.size = wire.rank, wire.size

    def post(self, dest: int, buffer: Any, part: str = "") -> None:
        """Start to send a C-contiguous array, or bytes, to ``dest``."""
        view = flat_bytes(buffer).data if isinstance(buffer, np.ndarray) else memoryview(buffer)
        self._wire.sent_bytes += view.nbytes
        self._wire._post(dest, Header(self.rank, self.sequence, self.operation, part, view.nbytes), view)

    def expect(self, source: int, out: np.ndarray) -> None:
        """Say that ``out`` will be taken into from ``source``, after what was announced before: the wire may begin at once."""
        self._wire._expect(source, flat_bytes(out))

    def take(self, source: int, out: np.ndarray | None = None, part: str = "") -> Any:
        """Receive from ``source``: into ``out`` (C-contiguous, of equal size), or as bytes of any size."""
        data = self._receive(source, out, part, self._wire._take)
        return data if out is None else out

    def borrow(self, source: int, out: np.ndarray, part: str = "") -> np.ndarray:
        """As ``take``, but the result may lie in the wire's own memory instead of in ``out``; its reader may overwrite it."""
        return self._receive(source, out, part, self._wire._lend).view(out.dtype).reshape(out.shape)

    def _receive(self, source: int, out: np.ndarray | None, part: str, how: Callable[..., Any]) -> Any:
        target = None if out is None else flat_bytes(out)
        expected = Header(source, self.sequence, self.operation, part, -1 if target is None else target.nbytes)
        wire = self._wire
        wire.waiting_for, wire.expected = (source,), expected
        try:
            data = how(source, expected, target, self._deadline)
        except TimeoutError:
            raise self._late(source, part) from None
        wire.waiting_for, wire.expected = (), None
        wire.arrived += 1
        self._heard.add(source)
        return data

    def meet(self, part: str, note: bytes = b"", inline: Sequence[Any] = ()) -> LocalSpace:
        """Wait until all ranks of this host have come to ``part`` of this operation; then their notes and data can be read."""
        local = self.local
        assert local is not None
        text = self.text(part)
        local.arrive(text, note, inline)
        self.hear_all(text, part)
        return local

    def text(self, part: str) -> bytes:
        """What every rank must say at the meeting ``part``."""
        return f"{self.sequence}\n{part}\n{self.operation}".encode()[:TEXT_NBYTES]

    def hear_all(self, text: bytes, part: str) -> None:
        """Having arrived at ``part``: wait until all ranks of this host have, and hear that all of them say ``text``."""
        wire, local = self._wire, self.local
        assert local is not None
        for index in local.others():
            wire.waiting_for = (local.members[index],)
            try:
                local.wait_for(index, self._deadline)
            except TimeoutError:
                raise self._late_meeting(local, part) from None
            wire.arrived += 1
            said_of_it, intact = local.hear(index)
            if not intact:
                raise damaged(
                    f"rank {self.rank} in {self.operation}: what rank {local.members[index]} said in shared memory"
                )
            if said_of_it != text:
                self._differs(local.members[index], said_of_it, part)
        wire.waiting_for = ()

    def poll(self, ready: Callable[[], bool], what: str) -> None:
        """Wait until ``ready()``, with an eye on the other ranks; ``what`` is not over yet, in the words of a deadline's error.

        For what no message tells: work of a GPU, a library's own connections.
        """
        wire, tries, looked = self._wire, 0, time.monotonic()
        others = tuple(rank for rank in range(self.size) if rank != self.rank)
        wire.waiting_for = others
        while not ready():
            tries += 1
            if tries < _POLL_YIELDS:
                os.sched_yield()
                continue
            time.sleep(_POLL_SLEEP_S)
            now = time.monotonic()
            if now - looked > _LOOK_EVERY_S:
                looked = now
                wire._look(others)
            if now > self._deadline:
                raise DeadlineError(
                    f"rank {self.rank} of {self.size} waited {now - self._began:.1f} s in {self.operation}: all ranks have begun it, but "
                    f"{what}. Look at the GPUs and their links (nvidia-smi, dmesg: Xid, NVLink), NCCL_DEBUG=INFO says what NCCL does. If only "
                    "slow, give a longer timeout_s."
                )
        wire.waiting_for = ()
        wire.arrived += 1

    @property
    def local(self) -> LocalSpace | None:
        """The memory that the ranks of this host share, if they do."""
        return self._wire.local

    @property
    def programs(self) -> Programs:
        """The collectives that suit where the ranks are, for programs that are made of others."""
        return self._wire.programs

    def count_sent(self, nbytes: int) -> None:
        """Count bytes that other ranks read from this one's memory."""
        self._wire.sent_bytes += nbytes

    def _differs(self, source: int, text: bytes, part: str) -> None:
        check(Header(source, self.sequence, self.operation, part, -1), said(text, source), self.rank)
        raise AssertionError(f"texts of a meeting differ in no field: {text!r}")

    def _late_meeting(self, local: LocalSpace, part: str) -> DeadlineError:
        missing = [local.members[i] for i in local.others() if not local.has_come(i)]
        self._heard.update(rank for rank in local.members if rank not in missing)
        return self._late(missing[0] if missing else None, part)

    def flush(self) -> None:
        """Wait until everything posted has left this process, so that our death can no longer take it back."""
        try:
            self._wire._flush(self._deadline)
        except TimeoutError:
            raise self._late(None, "") from None

    def scratch(self, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        """Memory for this program alone, kept for the next one: no pages are faulted in on each call. Not zeroed."""
        nbytes = int(np.prod(shape)) * dtype.itemsize
        return self._wire._scratch(nbytes)[:nbytes].view(dtype).reshape(shape)

    def _late(self, source: int | None, part: str) -> DeadlineError:
        others = [r for r in range(self.size) if r != self.rank]
        here = [r for r in others if r in self._heard or self._wire._has_come(r)]
        missing = [r for r in others if r not in here]
        if source is None:
            missing = self._wire._unread()
            what = f"{_ranks(missing) or 'another rank'} did not read what was sent"
        elif missing:
            what = f"nothing came from {_ranks(missing)}" + (f" ({_ranks(here)} came)" if here else "")
        else:
            missing = [source]
            what = f"rank {source} came but did not go on" + (f" to part {part!r}" if part else "")
        waited_s = time.monotonic() - self._began
        where = self._wire._where(missing)
        return DeadlineError(
            f"rank {self.rank} of {self.size} waited {waited_s:.1f} s in {self.operation}: {what}. "
            f"{where and where + '. '}Look at what {_ranks(missing) or 'the other ranks'} did last: a crash, a hang, or another branch. If only "
            "slow, give a longer timeout_s."
        )


Program = Callable[[Messages], Any]


def flat_bytes(array: np.ndarray) -> np.ndarray:
    """The bytes of a C-contiguous array as a 1-D uint8 view; works for 0-d and empty arrays and every dtype."""
    if not isinstance(array, np.ndarray):
        raise TypeError(f"expected a NumPy array, got {type(array).__name__}")
    if not array.flags.c_contiguous:
        raise ShapeError(f"expected a C-contiguous array, got shape {array.shape} with strides {array.strides}")
    return array.reshape(-1).view(np.uint8)


def aligned_bytes(nbytes: int) -> np.ndarray:
    """``nbytes`` bytes that start on a 256-byte address."""
    raw = np.empty(nbytes + _ALIGNMENT_BYTES, np.uint8)
    start = -raw.ctypes.data % _ALIGNMENT_BYTES
    return raw[start : start + nbytes]


def checksum(data: Any, start: int = 0) -> int:
    """CRC-32, by which a byte that was changed on the way is seen; 0.2 us for what is checked here."""
    return zlib.crc32(data, start)


def payload_sum(data: Any) -> int:
    """The sum of a payload's 64-bit words, and the CRC of what is left over: 20 GB/s, and no single change escapes it."""
    raw = np.frombuffer(data, np.uint8) if len(data) else np.empty(0, np.uint8)
    words = raw[: raw.nbytes & ~7].view(np.uint64)
    return (int(np.add.reduce(words)) + checksum(raw[words.nbytes :])) & 0xFFFF_FFFF_FFFF_FFFF


def damaged(what: str) -> CommunicatorError:
    """The error for something that did not arrive as it was written."""
    return CommunicatorError(
        f"{what} was changed on the way. No sum was made of it; test this host's memory and its network (a bit that flips "
        "once flips again), then start again from the last checkpoint"
    )


def check(expected: Header, came: Header, rank: int) -> None:
    """Compare what came with what this rank waits for; both sides are named in the error."""
    if (came.sequence, came.operation, came.part) != (expected.sequence, expected.operation, expected.part) or (
        expected.nbytes >= 0 and came.nbytes != expected.nbytes
    ):
        raise MismatchError(
            f"{_MISMATCH}: rank {rank} is in operation {expected.sequence}: {expected.operation}{_part(expected)}, "
            f"rank {came.source} in operation {came.sequence}: {came.operation}{_part(came)}. Every rank must call the "
            "same operations in the same order with equal names, shapes and dtypes."
        )


def said(text: bytes, source: int) -> Header:
    """What a rank said of itself at a meeting, as the header of a message."""
    sequence, part, operation = [*text.decode(errors="replace").split("\n", 2), "", ""][:3]
    return Header(source, int(sequence), operation, part, -1)


def consequence(reason: str) -> CommunicatorError:
    """The error that a rank raises because another one ended the job with ``reason`` (see ``Communicator._abort``)."""
    error = MismatchError(reason) if _MISMATCH in reason else AbortedError(reason)
    error.from_peer = True
    return error


def _part(header: Header) -> str:
    return (f" part {header.part!r}" if header.part else "") + (
        f" ({header.nbytes} bytes)" if header.nbytes >= 0 else ""
    )


def _ranks(ranks: list[int]) -> str:
    return ("rank " if len(ranks) == 1 else "ranks ") + ", ".join(map(str, ranks)) if ranks else ""
