"""Memory that the ranks of one host share, and how they meet in it.

Every block is an anonymous file (memfd): one rank makes it, the others open it through ``/proc`` while it does; it has no
name that a death could leave behind, and it is reserved when it is made, so that full memory is an error then and not a
crash later.

A *meeting* is all that ranks need to agree on where data lies: each writes a text (which operation this is) and a few
bytes into its own area and then advances its phase word; once all words have advanced, everybody may read all areas.
Areas alternate, so that nobody overwrites what a slower rank still reads: who starts the next but one meeting knows that
all have passed the one between, and so have read this one.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import mmap
import os
import platform
import struct
import sys
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ...core.backend import ALIGNMENT_BYTES
from ...core.kernels.cpu.threads import cores
from ..messages import TEXT_NBYTES, checksum
from ..reduction.expression import Evaluator

INLINE_NBYTES = 1 << 16
"""Data up to this size travels in the meeting itself."""
NOTE_NBYTES = 3072
"""Where a rank says in which blocks its data lies."""
STAGING_NBYTES = 1 << 20
_AREA = TEXT_NBYTES + NOTE_NBYTES + INLINE_NBYTES
PAGE_NBYTES = 4096
_HEAD = PAGE_NBYTES  # phase word, sleepers word
_ROW = _HEAD + 2 * _AREA
_PHASE, _LENGTHS, _SLEEPERS = 0, 64, 1024  # bytes; each on cache lines of its own
_SAID = struct.Struct("<IIII")
"""At ``_LENGTHS``, for each of the two areas: bytes of text, note and data, and the sum of the first two."""
_PLACES = (_ROW, _HEAD, _AREA, TEXT_NBYTES, NOTE_NBYTES, _PHASE, _LENGTHS, _SLEEPERS)
RANKS_LIMIT = _HEAD - _SLEEPERS
"""A byte of each row tells whether a certain other rank sleeps until this one arrives."""
_MASK, _HALF = 0xFFFFFFFF, 0x80000000
_SLICE_S = 0.05
"""A sleeping rank looks this often whether the one that it waits for still lives."""
_FUTEX = {"x86_64": 202, "aarch64": 98}.get(platform.machine())
_FUTEX_WAIT, _FUTEX_WAKE = 0, 1
_EVERYBODY = 0x7FFFFFFF
SPINS_ALONE, SPINS_BESIDE = 2000, 30
"""How often to yield before sleeping: in a thread that has nothing else to do, and beside one that computes."""
POLLS_ALONE, POLLS_CROWDED = (16_000, 100), (600, 0)
"""How often compiled code looks without yielding, some 16 ns each, and how often it yields then, a thousand looks apart: with a core for
each rank, and with fewer."""


def supported() -> bool:
    """Whether this system has anonymous shared files and a futex."""
    return sys.platform == "linux" and _FUTEX is not None and hasattr(os, "memfd_create")


class Block:
    """One mapping that all local ranks share, cut into equal ``parts`` of ``nbytes``: one for each of them, or a single one."""

    def __init__(self, number: int, root: np.ndarray, nbytes: int, parts: int) -> None:
        self.number, self.nbytes, self.parts = number, nbytes, parts
        self.address = int(root.__array_interface__["data"][0])
        self.stride = root.nbytes // parts
        self._root = weakref.ref(root)

    @property
    def root(self) -> np.ndarray | None:
        """All of it; None once nobody holds it."""
        return self._root()

    def part(self, index: int) -> np.ndarray:
        """The bytes of local rank ``index`` (of the single part where there is only one)."""
        root = self._root()
        assert root is not None, "this block was let go of"
        start = (index if self.parts > 1 else 0) * self.stride
        return root[start : start + self.nbytes]


class LocalSpace:
    """The shared memory of one group's ranks on one host.

    Args:
        hosts: the ranks of the group on each host, in order.
        rank: this one.
        control: the mapping of ``control_nbytes`` bytes that :func:`create` made or :func:`attach` opened.
        look: raises when one of the given ranks cannot come any more.
    """

    def __init__(
        self, hosts: Sequence[Sequence[int]], rank: int, control: mmap.mmap, look: Callable[[Sequence[int]], None]
    ) -> None:
        self.hosts = [list(host) for host in hosts]
        self.members = next(host for host in self.hosts if rank in host)
        self.index, self.size = self.members.index(rank), len(self.members)
        self.evaluator = Evaluator()
        self.blocks: dict[int, Block] = {}
        self.serving: threading.Thread | None = None
        """The thread that works beside another one that computes; it goes to sleep early."""
        self.is_full = False
        """Whether a block could not be made, and that was said."""
        self._look = look
        self._bytes = memoryview(control)
        self._words = self._bytes.cast("I")
        self._base = ctypes.addressof(ctypes.c_char.from_buffer(control))
        self._fence = threading.Lock()
        self._number = 0
        self._made = 0
        self._others = [i for i in range(self.size) if i != self.index]
        self.bytes = root = np.frombuffer(control, np.uint8)
        self.place = np.array(
            [*_PLACES, self.index, self.size, *(POLLS_ALONE if self.size <= cores() else POLLS_CROWDED)]
        )
        """Where the areas lie in ``bytes``: sizes of a row, its head, an area, text and note; phase, lengths, sleepers. Then who this
        rank is among how many, and how often compiled code looks whether another one has come."""
        start = self.size * _ROW
        rows = [root[start + i * STAGING_NBYTES : start + (i + 1) * STAGING_NBYTES] for i in range(self.size + 1)]
        self.staging, self.staged_result = rows[:-1], rows[-1]
        """Where arrays that lie in no block are taken through: a piece of each rank's, and of the result."""
        self._nobody = bytes(self.size)
        self._notes = [b""] * self.size

    # -- meeting -------------------------------------------------------------------------------------------------------

    def arrive(self, text: bytes, note: bytes = b"", inline: Sequence[Any] = ()) -> None:
        """Write this rank's area and let the others read it. ``inline``: bytes or 1-D byte views, at most INLINE_NBYTES together."""
        number = self._number = self.next_number()
        at = self._area(self.index, number)
        buffer, words = self._bytes, self._words
        buffer[at : at + len(text)] = text
        start = at + TEXT_NBYTES
        buffer[start : start + len(note)] = note
        start = end = start + NOTE_NBYTES
        for piece in inline:
            nbytes = len(piece)
            buffer[end : end + nbytes] = piece
            end += nbytes
        row = self.index * _ROW
        inside = end - start
        whole = checksum(note, checksum(text, inside))
        _SAID.pack_into(buffer, row + _LENGTHS + 16 * (number & 1), len(text), len(note), inside, whole)
        self._notes[self.index] = note
        with self._fence:  # a full barrier: what was written is visible before the phase is
            pass
        words[(row + _PHASE) // 4] = number
        with self._fence:  # and the phase before we look who sleeps
            pass
        if buffer[row + _SLEEPERS : row + _SLEEPERS + self.size] != self._nobody:
            _futex(self._base + row + _PHASE, _FUTEX_WAKE, _EVERYBODY)

    def next_number(self) -> int:
        """Of the meeting that this rank has not come to."""
        return (self._number + 1) & _MASK

    def has_arrived(self, note: bytes = b"") -> None:
        """Somebody else has written this rank's area, as :meth:`arrive` does."""
        self._number = (self._number + 1) & _MASK
        self._notes[self.index] = note

    def passed(self, meetings: int) -> None:
        """Somebody else has come to so many meetings for this rank, and all others have, too."""
        self._number = (self._number + meetings) & _MASK

    def wake_sleepers(self) -> None:
        """Those who sleep until this rank arrives."""
        _futex(self._base + self.index * _ROW + _PHASE, _FUTEX_WAKE, _EVERYBODY)

    def wait_for(self, index: int, deadline: float) -> None:
        """Until local rank ``index`` has arrived at the meeting that this rank is at. TimeoutError at the deadline."""
        if not self._spin(index):
            self._sleep_until_there(index, (index * _ROW + _PHASE) // 4, deadline)
        with self._fence:  # what is read now was written before the phase
            pass

    def _spin(self, index: int) -> bool:
        word = (index * _ROW + _PHASE) // 4
        words, number = self._words, self._number
        spins = SPINS_BESIDE if threading.current_thread() is self.serving else SPINS_ALONE
        for _ in range(spins):
            if (words[word] - number) & _MASK < _HALF:
                return True
            os.sched_yield()
        return False

    def has_come(self, index: int) -> bool:
        """Whether local rank ``index`` is at, or past, the meeting that this rank is at."""
        return (self._words[(index * _ROW + _PHASE) // 4] - self._number) & _MASK < _HALF

    def _sleep_until_there(self, index: int, word: int, deadline: float) -> None:
        asleep = index * _ROW + _SLEEPERS + self.index
        try:
            while True:
                self._bytes[asleep] = 1
                with self._fence:
                    pass
                seen = self._words[word]
                if (seen - self._number) & _MASK < _HALF:
                    return
                left_s = deadline - time.monotonic()
                if left_s <= 0:
                    raise TimeoutError
                _futex(self._base + 4 * word, _FUTEX_WAIT, seen, min(left_s, _SLICE_S))
                if not self.has_come(index):
                    self._look_after(index)
        finally:
            self._bytes[asleep] = 0

    def _look_after(self, index: int) -> None:
        """Raises when local rank ``index`` cannot come any more; what it said before its end counts."""
        try:
            self._look((self.members[index],))
        except Exception:
            if not self.has_come(index):
                raise

    def others(self) -> list[int]:
        """The other local ranks' indices."""
        return self._others

    def hear(self, index: int) -> tuple[bytes, bool]:
        """What local rank ``index`` says of the present meeting; whether that, its note and their lengths are as it wrote them.

        The data is not checked.
        """
        at, buffer = self._area(index, self._number), self._bytes
        text_nbytes, note_nbytes, inside, whole = _SAID.unpack_from(
            buffer, index * _ROW + _LENGTHS + 16 * (self._number & 1)
        )
        text = bytes(buffer[at : at + text_nbytes])
        at += TEXT_NBYTES
        note = self._notes[index] = bytes(buffer[at : at + note_nbytes])
        return text, checksum(note, checksum(text, inside)) == whole

    def said_ahead(self, index: int) -> bytes:
        """What local rank ``index`` said of a meeting that this rank has not come to; empty when it is not there either."""
        ahead = (self._number + 1) & _MASK
        if self._words[(index * _ROW + _PHASE) // 4] != ahead:
            return b""
        at = self._area(index, ahead)
        return bytes(self._bytes[at : at + self._words[(index * _ROW + _LENGTHS) // 4 + 4 * (ahead & 1)]])

    def note(self, index: int) -> bytes:
        """Where local rank ``index`` said that its data lies, at the present meeting."""
        return self._notes[index]

    def inline(self, index: int) -> memoryview:
        """A view of what local rank ``index`` brought; valid until this rank arrives at its next meeting."""
        at = self._area(index, self._number) + TEXT_NBYTES + NOTE_NBYTES
        return self._bytes[at : at + self._length(index, 2)]

    def _length(self, index: int, which: int) -> int:
        return self._words[(index * _ROW + _LENGTHS) // 4 + 4 * (self._number & 1) + which]

    @staticmethod
    def _area(index: int, number: int) -> int:
        return index * _ROW + _HEAD + (number & 1) * _AREA

    def wake(self) -> None:
        """Let every local rank that sleeps look around; for news that came another way."""
        for index in range(self.size):
            _futex(self._base + index * _ROW + _PHASE, _FUTEX_WAKE, _EVERYBODY)

    # -- blocks --------------------------------------------------------------------------------------------------------

    def adopt(self, mapping: mmap.mmap, nbytes: int, parts: int) -> np.ndarray:
        """Register a mapping that all local ranks hold under the same number; the array keeps it."""
        self._made += 1
        root = np.frombuffer(mapping, np.uint8, offset=lead(self._made))
        block = Block(self._made, root, nbytes, parts)
        self.blocks[block.number] = block
        gone = weakref.finalize(root, self.blocks.pop, block.number, None)
        gone.atexit = False  # others may still sum in it while this process says goodbye
        return block.part(self.index)

    def next_lead(self) -> int:
        """:func:`lead` of the block that is made next."""
        return lead(self._made + 1)

    def skip(self) -> None:
        """Count a block that could not be made, so that numbers stay equal on all ranks."""
        self._made += 1

    def roots(self) -> list[np.ndarray | None]:
        """What keeps all present blocks."""
        return [block.root for block in list(self.blocks.values())]

    def find(self, array: np.ndarray) -> tuple[int, int, int] | None:
        """(block, part, offset in bytes) of a C-contiguous array, or None when it lies in no block."""
        address = int(array.__array_interface__["data"][0])
        for block in self.blocks.values():
            offset = address - block.address
            if 0 <= offset < block.parts * block.stride:
                return block.number, offset // block.stride, offset % block.stride
        return None

    def at(self, place: tuple[int, int, int], dtype: np.dtype, count: int) -> np.ndarray:
        """The 1-D array that another rank's :meth:`find` described."""
        number, part, offset = place
        raw = self.blocks[number].part(part)
        return raw[offset : offset + count * dtype.itemsize].view(dtype)


def lead(number: int) -> int:
    """How many bytes of block ``number`` are left free at its start, so that blocks do not lie alike within a page.

    Processors take a load for one of what they have just stored where the two addresses agree in their last 12 bits: the sum
    of two blocks into a third was 1.05 to 1.3 times, a quotient 1.6 times as fast without that. Private arrays of this size
    begin where a page does, so no block does.
    """
    return (1 + number % 3) * (PAGE_NBYTES // 4)


# -- making and opening ------------------------------------------------------------------------------------------------


def control_nbytes(size: int) -> int:
    """Size of the control mapping of ``size`` local ranks."""
    return size * _ROW + (size + 1) * STAGING_NBYTES


def create(nbytes: int, name: str) -> tuple[int, mmap.mmap]:
    """A new anonymous file of ``nbytes`` zeros, reserved and mapped. Raises OSError when memory does not suffice."""
    descriptor = os.memfd_create(f"phalanx-{name}", os.MFD_CLOEXEC)
    try:
        os.ftruncate(descriptor, nbytes)
        os.posix_fallocate(descriptor, 0, nbytes)
        return descriptor, _map(descriptor, nbytes)
    except BaseException:
        os.close(descriptor)
        raise


def attach(pid: int, descriptor: int, nbytes: int) -> mmap.mmap:
    """Map the file that another process of this host made and still holds open. Raises OSError when it cannot be reached."""
    opened = os.open(f"/proc/{pid}/fd/{descriptor}", os.O_RDWR | os.O_CLOEXEC)
    try:
        if os.fstat(opened).st_size < nbytes:
            raise OSError(errno.EINVAL, f"pid {pid} holds another file there")
        return _map(opened, nbytes)
    finally:
        os.close(opened)


def aligned(nbytes: int) -> int:
    """``nbytes``, rounded up so that parts of a block begin on the boundary of every buffer."""
    return -(-nbytes // ALIGNMENT_BYTES) * ALIGNMENT_BYTES


def _map(descriptor: int, nbytes: int) -> mmap.mmap:
    return mmap.mmap(descriptor, nbytes, mmap.MAP_SHARED | mmap.MAP_POPULATE, mmap.PROT_READ | mmap.PROT_WRITE)


class _Timespec(ctypes.Structure):
    _fields_ = [("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long)]


def _load_syscall() -> Any:
    with contextlib.suppress(OSError, AttributeError):
        call = ctypes.CDLL(None).syscall
        call.restype = ctypes.c_long
        call.argtypes = [
            ctypes.c_long, ctypes.c_void_p, ctypes.c_int, ctypes.c_uint32, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint32,
        ]  # fmt: skip
        return call
    return None


_syscall = _load_syscall()


def _futex(address: int, operation: int, value: int, timeout_s: float | None = None) -> None:
    """futex(2) between processes; spurious returns are fine for every caller here."""
    limit = None
    if timeout_s is not None:
        limit = ctypes.byref(_Timespec(int(timeout_s), int(timeout_s % 1 * 1e9)))
    _syscall(_FUTEX, address, operation, value, limit, None, 0)
