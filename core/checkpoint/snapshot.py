"""A copy of what a process has to write, so that training can go on while it is written."""

from __future__ import annotations

import numpy as np

from .parts import Portion


class Snapshot:
    """Memory for one copy, kept from save to save: to fill pages that the process already has costs a tenth.

    >>> memory = Snapshot()
    >>> memory.prepare(100); memory.nbytes
    100
    """

    def __init__(self) -> None:
        self._memory = np.empty(0, np.uint8)

    @property
    def nbytes(self) -> int:
        return int(self._memory.nbytes)

    def prepare(self, nbytes: int) -> None:
        """Have room for ``nbytes``, and the system give the pages now."""
        if self.nbytes < nbytes:
            self._memory = np.empty(nbytes, np.uint8)
            self._memory.fill(0)

    def take(self, own: Portion) -> Portion:
        """The same pieces with copies of their bytes, which are good until the next call."""
        self.prepare(nbytes_of(own))
        taken: Portion = []
        lo = 0
        for piece, data in own:
            place = self._memory[lo : lo + piece.nbytes]
            place[...] = np.frombuffer(data, np.uint8)
            taken.append((piece, place.data))
            lo += piece.nbytes
        return taken


def nbytes_of(own: Portion) -> int:
    """All bytes of a portion."""
    return sum(piece.nbytes for piece, _ in own)
