"""What compression left out, kept for the next step; nothing moves before the step is committed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from ...core.flat import BOUNDARY_BYTES

SUM = -1
"""The owner of the residual of the sum over shards; other owners are shard numbers."""


class Residuals:
    """Buffers of one layout by owner: as they were after the last committed step, and as they will be after this one."""

    def __init__(self, length: int) -> None:
        self.length = length
        self._committed: dict[int, np.ndarray] = {}
        self._pending: dict[int, np.ndarray] = {}
        self._touched: set[int] = set()

    def committed(self, owner: int) -> np.ndarray:
        """The residual of ``owner``; zero at first. Written only between two steps."""
        return self._buffer(self._committed, owner)

    def pending(self, owner: int) -> np.ndarray:
        """What the residual of ``owner`` becomes when this step is committed; to be written whole."""
        self._touched.add(owner)
        return self._buffer(self._pending, owner)

    def _buffer(self, buffers: dict[int, np.ndarray], owner: int) -> np.ndarray:
        if owner not in buffers:
            buffers[owner] = _zeros(self.length)
        return buffers[owner]

    @property
    def nbytes(self) -> int:
        """Of all buffers."""
        return sum(buffer.nbytes for buffers in (self._committed, self._pending) for buffer in buffers.values())

    def owners(self) -> Iterator[int]:
        """Those that have a residual."""
        return iter(sorted(self._committed))

    def commit(self, unused: Iterable[tuple[int, int]]) -> None:
        """The step is done. ``unused``: elements [lo, hi) whose sum nobody uses: their residuals stay as they were."""
        for owner in self._touched:
            new, old = self._buffer(self._pending, owner), self.committed(owner)
            for lo, hi in unused:
                new[lo:hi] = old[lo:hi]
            self._committed[owner], self._pending[owner] = new, old
        self._touched.clear()

    def rollback(self) -> None:
        """The step is given up: nothing of it remains."""
        self._touched.clear()


def _zeros(length: int) -> np.ndarray:
    """Float32 zeros on an aligned address; pages that nobody writes (parts of the sum of other ranks) take no memory."""
    raw = np.zeros(4 * length + BOUNDARY_BYTES, np.uint8)
    start = -raw.ctypes.data % BOUNDARY_BYTES
    return raw[start : start + 4 * length].view(np.float32)


def drop_non_finite(residual: np.ndarray) -> None:
    """What is not finite was passed on and must not stay: it would never leave again."""
    finite = np.isfinite(residual)
    if not finite.all():
        residual[~finite] = 0
