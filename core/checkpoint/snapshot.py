"""A copy of what a process has to write, so that training can go on while it is written."""

from __future__ import annotations

import contextlib
import mmap
import os
import threading
import weakref
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

import numpy as np

from ..kernels.cpu.threads import threads
from .format import Piece
from .parts import Part, Portion, follows, write_portion
from .writer import ALIGNMENT_NBYTES
from .writer_process import WriterDied, WriterProcess

PROCESS_NBYTES = 1 << 26
"""A process of its own writes what is at least so much; a thread is through with less before a process would be there."""
COMPARED_NBYTES = 1 << 20
"""Comparing stops at the first difference, looked for in blocks that stay in the cache."""
PART_NBYTES = 1 << 24
"""A thread that copies has at least so much to do."""


class Snapshot:
    """Memory for one copy, kept from save to save: to fill pages that the process already has costs a tenth.

    Much is kept in memory that a writer process shares, which has no name that could be left over.

    >>> memory = Snapshot()
    >>> memory.prepare(100); memory.nbytes
    100
    """

    def __init__(self, say: Callable[[str], None] = lambda line: None) -> None:
        self._say = say
        self._memory = np.empty(0, np.uint8)
        self._file: int | None = None
        self._writer: WriterProcess | None = None
        self._held: dict[Piece, int] = {}
        """Where the pieces of the last copy are."""
        self.unchanged: frozenset[str] = frozenset()
        """The watched files of which this process's bytes were the same at the last two copies."""

    @property
    def nbytes(self) -> int:
        return int(self._memory.nbytes)

    @property
    def writer(self) -> WriterProcess | None:
        """The process that writes, if there is one."""
        return self._writer

    def prepare(self, nbytes: int) -> None:
        """Have room for ``nbytes``, and the system give the pages now."""
        if self.nbytes >= nbytes:
            return
        self._held = {}
        if nbytes < PROCESS_NBYTES or not self._share(nbytes):
            self._memory = np.empty(nbytes, np.uint8)
        self._memory.fill(0)

    def _share(self, nbytes: int) -> bool:
        """Memory for both; False where the system has none."""
        try:
            if self._file is None:
                self._file = os.memfd_create("phalanx-checkpoint")
                weakref.finalize(self, os.close, self._file)
            os.ftruncate(self._file, nbytes)
            self._memory = np.frombuffer(mmap.mmap(self._file, nbytes), np.uint8)
            self._writer = self._writer or WriterProcess(self._file)
        except (OSError, AttributeError) as error:
            self._say(f"a thread writes checkpoints, not a process: {error}")
            self._file = self._writer = None
            return False
        return True

    def take(self, own: Portion, watched: Collection[str] = ()) -> Portion:
        """The same pieces with copies of their bytes, which are good until the next call.

        What follows another piece in its file does so in memory, at an address that is congruent to the place in the file. Of the files
        in ``watched`` it finds those that have not changed since the last call.
        """
        places, end = _places([piece for piece, _ in own])
        self.prepare(end)
        changed: set[str] = set()
        copies: list[tuple[np.ndarray, np.ndarray]] = []
        taken: Portion = []
        for (piece, data), place in zip(own, places, strict=True):
            there, here = self._memory[place : place + piece.nbytes], np.frombuffer(data, np.uint8)
            if piece.file not in watched or self._held.get(piece) != place or not _equal(there, here):
                changed.add(piece.file)
                copies.append((there, here))
            taken.append((piece, there.data))
        _copy(copies)
        self._held = {piece: place for (piece, _), place in zip(own, places, strict=True)}
        self.unchanged = frozenset(watched) - changed
        return taken

    def write(self, folder: Path, taken: Portion) -> list[Part]:
        """Write what :meth:`take` gave; raises CheckpointError."""
        if self._writer is not None:
            try:
                start = self._memory.ctypes.data
                return self._writer.write(folder, taken, self.nbytes, start)
            except WriterDied as error:
                self._say(f"{error}: a thread writes instead")
                self._writer = None
                parts = write_portion(folder, taken)
                with contextlib.suppress(OSError):
                    assert self._file is not None
                    self._writer = WriterProcess(self._file)
                return parts
        return write_portion(folder, taken)


def room_for(own: Portion) -> int:
    """Bytes of memory that a copy takes.

    >>> room_for([])
    0
    """
    return _places([piece for piece, _ in own])[1]


def _places(pieces: Sequence[Piece]) -> tuple[list[int], int]:
    """Where each piece goes in memory, and where the last one ends."""
    places: list[int] = []
    end = 0
    for number, piece in enumerate(pieces):
        if not number or not follows(pieces[number - 1], piece):
            end += (piece.offset - end) % ALIGNMENT_NBYTES
        places.append(end)
        end += piece.nbytes
    return places, end


def _equal(a: np.ndarray, b: np.ndarray) -> bool:
    return all(
        np.array_equal(a[lo : lo + COMPARED_NBYTES], b[lo : lo + COMPARED_NBYTES])
        for lo in range(0, len(a), COMPARED_NBYTES)
    )


def _copy(copies: Sequence[tuple[np.ndarray, np.ndarray]]) -> None:
    """Copy each (to, from), by as many threads as the rank has for computing."""
    cut = [
        (there[lo : lo + PART_NBYTES], here[lo : lo + PART_NBYTES])
        for there, here in copies
        for lo in range(0, len(there), PART_NBYTES)
    ]
    total = sum(len(there) for there, _ in cut)
    count = max(1, min(threads(), total // PART_NBYTES))

    def work(number: int) -> None:
        for there, here in cut[number::count]:
            np.copyto(there, here)

    helpers = [threading.Thread(target=work, args=(number,)) for number in range(1, count)]
    for helper in helpers:
        helper.start()
    work(0)
    for helper in helpers:
        helper.join()
