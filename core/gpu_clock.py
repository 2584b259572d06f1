"""How long things take on a GPU: an event before and one after, read when all is over, so that nothing is waited for meanwhile."""

from __future__ import annotations

import time
from collections import deque
from typing import Any

from . import own_gpu
from .backend import cupy

_READ_EVERY = 1024
"""So many spans may wait for being read; then those that are done are, without waiting for others."""


class GpuClock:
    """Marks in the stream of one rank; its times are those of ``time.monotonic``."""

    def __init__(self) -> None:
        self._base: Any = None
        self._base_s = 0.0
        self._waiting: deque[tuple[str, Any, Any, Any]] = deque()
        self.spans: list[tuple[str, float, float, Any]] = []
        """(name, began, ended, about) of what is done."""

    def mark(self) -> Any:
        """An event behind all that the current stream has been given; None where no GPU is in use, and while a graph is captured."""
        if not own_gpu.in_use():
            return None
        stream = cupy().cuda.get_current_stream()
        if stream.is_capturing():
            return None
        if self._base is None:
            self._base = self._event(stream)
            self._base.synchronize()
            self._base_s = time.monotonic()
        return self._event(stream)

    def _event(self, stream: Any) -> Any:
        event = cupy().cuda.Event()
        event.record(stream)
        return event

    def keep(self, name: str, first: Any, about: Any = None) -> None:
        """What was given to the stream since ``first`` (a mark) is called ``name``."""
        last = None if first is None else self.mark()
        if last is None:
            return
        self._waiting.append((name, first, last, about))
        if len(self._waiting) >= _READ_EVERY:
            while self._waiting and self._waiting[0][2].done:
                self._read()

    def finish(self) -> None:
        """Wait for the last mark and read all."""
        if self._waiting:
            self._waiting[-1][2].synchronize()
        while self._waiting:
            self._read()

    def _read(self) -> None:
        name, first, last, about = self._waiting.popleft()
        began = self._base_s + self._seconds(first)
        self.spans.append((name, began, max(began, self._base_s + self._seconds(last)), about))

    def _seconds(self, event: Any) -> float:
        return float(cupy().cuda.get_elapsed_time(self._base, event)) / 1e3
