"""Numbers that change from step to step (learning rates, step counts, words of a random key), on their way to kernels.

A kernel reads them from device memory and never takes them as arguments: a graph keeps its arguments for ever. ``on_device`` is the
only way. Usually it copies through a ring of pinned memory, in the order of the stream. While a graph is captured each call
gets a place of its own in :class:`Slots`; before each launch the same calls are made again, with kernels switched off, and
fill those places anew.
"""

from __future__ import annotations

import threading
from typing import Any

import numpy as np

from ...backend import cupy
from ...errors import GraphError

RING_BYTES = 1 << 18
SLOTS_BYTES = 1 << 15
"""What one graph may take; the numbers of a step with a hundred dropouts are a few KiB."""
_ALIGNMENT = 16
_MIRRORS = 4
"""So many launches of a graph may wait for the device before the host waits for the first of them."""


class _Now(threading.local):
    slots: Slots | None = None
    """Where numbers go while this thread captures a graph or feeds one."""
    feeding: bool = False
    """Whether kernels are not launched: only the numbers that they would be given are wanted."""
    rings: dict[tuple[int, int], _Ring] | None = None


now = _Now()


def on_device(values: np.ndarray) -> Any:
    """``values`` as an array on the current device, in stream order. For kernels that are launched at once: later the place is used again.

    Raises GraphError where a captured step gives other numbers than it did when it was recorded (their count or size).
    """
    values = np.ascontiguousarray(values)
    if now.slots is not None:
        return now.slots.take(values)
    api = cupy()
    rings = now.rings
    if rings is None:
        rings = now.rings = {}
    stream = api.cuda.get_current_stream()
    key = (api.cuda.runtime.getDevice(), stream.ptr)
    ring = rings.get(key)
    if ring is None:
        ring = rings[key] = _Ring()
    return ring.put(values, stream)


class _Ring:
    """Pinned memory and as much on the device, gone through in turns by one thread and one stream.

    The device's half needs no care, since copies and kernels follow each other; the host may write to a place only when the
    copy out of it is done, which an event for each half says.
    """

    def __init__(self) -> None:
        self._host = pinned(RING_BYTES)
        self._device = cupy().empty(RING_BYTES, np.uint8)
        self._at = 0
        self._copied: list[Any] = [None, None]

    def put(self, values: np.ndarray, stream: Any) -> Any:
        nbytes = values.nbytes
        if nbytes > RING_BYTES // 4:
            return cupy().asarray(values)
        half, at = self._at // (RING_BYTES // 2), self._at
        if at + nbytes > (half + 1) * (RING_BYTES // 2):
            event = cupy().cuda.Event(disable_timing=True)
            event.record(stream)
            self._copied[half] = event
            half = 1 - half
            if self._copied[half] is not None:
                self._copied[half].synchronize()
            at = half * (RING_BYTES // 2)
        self._at = _next(at + nbytes)
        self._host[at : at + nbytes] = values.view(np.uint8).reshape(-1)
        place = self._device[at : at + nbytes]
        place.set(self._host[at : at + nbytes])
        return place.view(values.dtype).reshape(values.shape)


class Slots:
    """The numbers of one graph: filled in order while it is captured, and again before each launch."""

    def __init__(self) -> None:
        self._device = cupy().empty(SLOTS_BYTES, np.uint8)
        self._mirrors = [pinned(SLOTS_BYTES) for _ in range(_MIRRORS)]
        self._copied: list[Any] = [None] * _MIRRORS
        self._turn = 0
        self._places: list[tuple[int, int]] = []
        self._end = 0
        self._count = 0
        self._complete = False

    def begin(self) -> None:
        """What follows gives the numbers anew."""
        self._complete = True
        self._count = 0
        self._turn = (self._turn + 1) % _MIRRORS
        if self._copied[self._turn] is not None:
            self._copied[self._turn].synchronize()

    def take(self, values: np.ndarray) -> Any:
        """The next place, which now has ``values``."""
        nbytes, count = values.nbytes, self._count
        if not self._complete:
            if self._end + nbytes > SLOTS_BYTES:
                raise GraphError(
                    f"a captured step has more than {SLOTS_BYTES} bytes of numbers that change: capture less of it"
                )
            self._places.append((self._end, nbytes))
            self._end = _next(self._end + nbytes)
        elif count >= len(self._places) or self._places[count][1] != nbytes:
            raise GraphError(
                "a captured step gives other numbers to the device than when it was recorded: number "
                f"{count} has {nbytes} bytes, {self._places[count][1] if count < len(self._places) else 'none'} expected"
            )
        at = self._places[count][0]
        self._count += 1
        self._mirrors[self._turn][at : at + nbytes] = values.view(np.uint8).reshape(-1)
        return self._device[at : at + nbytes].view(values.dtype).reshape(values.shape)

    def send(self, stream: Any) -> None:
        """Copy all numbers to the device on ``stream``, ahead of the launch that reads them."""
        if self._complete and self._count != len(self._places):
            raise GraphError(
                f"a captured step gave {self._count} numbers to the device where it gave {len(self._places)} when it was recorded"
            )
        if self._end == 0:
            return
        self._device[: self._end].set(self._mirrors[self._turn][: self._end], stream=stream)
        event = cupy().cuda.Event(disable_timing=True)
        event.record(stream)
        self._copied[self._turn] = event


def pinned(nbytes: int) -> np.ndarray:
    """Host memory that the device copies from without the host waiting."""
    memory = cupy().cuda.alloc_pinned_memory(nbytes)
    return np.frombuffer(memory, np.uint8, nbytes)


def _next(at: int) -> int:
    return -(-at // _ALIGNMENT) * _ALIGNMENT
