"""Which work is ordered: two streams that touch the same bytes, one of them writing, with no event between them, are an error here.

On a device that is a race, which shows rarely and never at the same place. Each stream counts its work; who has waited for whom is a
vector of counts. What the host has waited for is known to all work that it asks for later. Freed memory goes back to the stream on which
it was allocated: if another stream may still be at it, that is an error too.

Nothing is tracked while only the null stream exists. Libraries that are given addresses tell of their work where they can.
"""

from __future__ import annotations

import threading
import weakref
from typing import Any

from . import _state

MOST = 128
"""Accesses remembered of one piece of memory."""

Key = tuple[int, int]


class _Line:
    """A stream's work so far, and what of the others' it comes after."""

    __slots__ = ("blocking", "seen", "time")

    def __init__(self, blocking: bool) -> None:
        self.time, self.blocking = 0, blocking
        self.seen: dict[Key, int] = {}


_lock = threading.RLock()
_lines: dict[Key, _Line] = {}
_host: dict[Key, int] = {}
_faults: list[str] = []
_memories: weakref.WeakSet[Any] = weakref.WeakSet()
_switch = {"on": False}


def begin() -> None:
    """There is more than one stream from now on."""
    _switch["on"] = True


def _key(stream: Any) -> Key:
    return (_state.thread.device, 0) if stream.ptr == 0 else (stream.device_id, stream.ptr)


def _line(stream: Any) -> tuple[Key, _Line]:
    key = _key(stream)
    line = _lines.get(key)
    if line is None:
        line = _lines[key] = _Line(blocking=not stream.is_non_blocking)
    if key[1] == 0:  # the null stream waits for all that are not "non-blocking", and they for it
        for other, known in _lines.items():
            if other[0] == key[0] and known.blocking and other != key:
                _join(line.seen, {**known.seen, other: known.time})
    elif line.blocking and (null := _lines.get((key[0], 0))) is not None:
        _join(line.seen, {**null.seen, (key[0], 0): null.time})
    return key, line


def _join(into: dict[Key, int], other: dict[Key, int]) -> None:
    for key, time in other.items():
        if into.get(key, 0) < time:
            into[key] = time


def _before(entry: Any, key: Key, line: _Line) -> bool:
    """Whether an access was over before what ``line`` does next."""
    _, _, other, time, _ = entry
    return other == key or max(line.seen.get(other, 0), _host.get(other, 0)) >= time


def track(memory: Any) -> None:
    """Memory that was just allocated, on the current stream."""
    if _switch["on"]:
        memory.home = _key(_state.current_stream())
        memory.log = []
        _memories.add(memory)


def access(memory: Any, lo: int, hi: int, write: bool, stream: Any = None) -> None:
    """Work on ``stream`` reads or writes the bytes [lo, hi) of ``memory``. Raises CUDARuntimeError for a race."""
    if not _switch["on"] or lo >= hi:
        return
    stream = _stream(stream)
    if stream.recording is not None:
        return
    with _lock:
        if _faults:
            raise _state.CUDARuntimeError("a race on the stand-in", _faults.pop())
        key, line = _line(stream)
        log = memory.__dict__.setdefault("log", [])
        kept = []
        for entry in log:
            other_lo, other_hi, other, _, wrote = entry
            ordered = _before(entry, key, line)
            if not ordered and (write or wrote) and lo < other_hi and other_lo < hi:
                verbs = ("reads", "writes")
                raise _state.CUDARuntimeError(
                    "a race on the stand-in",
                    f"stream {key} {verbs[write]} bytes {lo} to {hi} of {memory.size} that stream {other} {verbs[wrote]} "
                    f"({other_lo} to {other_hi}), and waits for no event of it",
                )
            if not (ordered and lo <= other_lo and other_hi <= hi and (write or not wrote)):
                kept.append(entry)
        line.time += 1
        kept.append((lo, hi, key, line.time, write))
        memory.log = kept[-MOST:]


def _stream(stream: Any) -> Any:
    if stream is None:
        return _state.current_stream()
    return _state.by_pointer.get(stream, _state.Stream.null) if isinstance(stream, int) else stream


def of_array(array: Any, write: bool, stream: Any = None) -> None:
    """:func:`access` of an array's bytes: from its first to its last."""
    if not _switch["on"] or not array.size:
        return
    a = array._array
    lo = hi = a.__array_interface__["data"][0] - array._memory.ptr
    for size, step in zip(a.shape, a.strides, strict=True):
        lo, hi = lo + min(0, (size - 1) * step), hi + max(0, (size - 1) * step)
    access(array._memory, lo, hi + a.itemsize, write, stream)


def at_address(pointer: int, nbytes: int, write: bool, stream: Any = None) -> None:
    """:func:`access` of bytes by their address; what is no device memory is left alone."""
    if not _switch["on"]:
        return
    with _lock:
        held = next((m for m in list(_memories) if m.ptr <= pointer < m.ptr + m.size), None)
    if held is not None:
        access(held, pointer - held.ptr, pointer - held.ptr + nbytes, write, stream)


def snapshot(stream: Any) -> dict[Key, int]:
    """What an event that is recorded now stands for."""
    if not _switch["on"]:
        return {}
    with _lock:
        key, line = _line(stream)
        return {**line.seen, key: line.time}


def wait(stream: Any, known: dict[Key, int]) -> None:
    """Further work on ``stream`` comes after an event."""
    if known:
        with _lock:
            _join(_line(stream)[1].seen, known)


def host_waits(known: dict[Key, int]) -> None:
    """The host waited for an event, and asks for all that follows later."""
    with _lock:
        _join(_host, known)


def host_waits_for(stream: Any = None) -> None:
    """The host waited for a stream."""
    if _switch["on"]:
        host_waits(snapshot(_stream(stream)))


def host_waits_for_all() -> None:
    """The host waited for the device."""
    with _lock:
        _join(_host, {key: line.time for key, line in _lines.items()})


def freed(memory: Any) -> None:
    """Nobody holds ``memory``: its stream may take it again at once."""
    log = memory.__dict__.get("log")
    home = memory.__dict__.get("home")
    if not log or home is None:
        return
    with _lock:
        line = _lines.get(home) or _Line(False)
        for entry in log:
            if not _before(entry, home, line):
                _faults.append(
                    f"{memory.size} bytes of stream {home} were freed while stream {entry[2]} may still be at them: hold them until it is "
                    "waited for"
                )
                return
