"""What the launcher and the agents of its hosts say to each other over ssh's stdin and stdout.

A frame is a kind, a number (a rank, where one is meant) and bytes. The agent's side begins with :data:`MAGIC`: what a
login shell prints before it is no part of the talk.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Iterator
from enum import IntEnum
from typing import Any

MAGIC = b"\0phalanx agent\0"
_HEAD = struct.Struct("!BiI")
LONGEST_NBYTES = 64 << 20


class Kind(IntEnum):
    """What a frame is about; the first group goes to the agent, the second comes from it."""

    LISTEN = 1
    """Listen at this address, for rank 0."""
    PROBE = 2
    """Can this address be reached?"""
    START = 3
    SIGNAL = 4
    """To the rank of this number."""
    END = 5
    """Kill what runs and leave."""
    TELL = 6
    """A line for the membership channel of the rank of this number."""
    BEAT = 7
    """The launcher is there; of elastic jobs."""
    LEAVE = 8
    """No more ranks will be started: leave when the last one has ended."""

    HELLO = 16
    ANSWER = 17
    OUT = 18
    ERR = 19
    EXIT = 20
    """The rank of this number has ended with this code."""
    SAID = 22
    """A line from the membership channel of the rank of this number."""
    HERE = 23
    """The agent is there, and which of its ranks are stopped; of elastic jobs."""
    DONE = 21
    """The last frame: all ranks have ended and all that they wrote has been sent."""


def frame(kind: Kind, number: int = 0, payload: bytes = b"") -> bytes:
    """
    >>> list(Frames().feed(frame(Kind.EXIT, 3, b"137")))
    [(<Kind.EXIT: 20>, 3, b'137')]
    """
    return _HEAD.pack(kind, number, len(payload)) + payload


def words(kind: Kind, value: Any, number: int = 0) -> bytes:
    """A frame that holds JSON."""
    return frame(kind, number, json.dumps(value).encode())


BEAT_S = 0.5
"""Between two signs of life of the launcher and of an agent of an elastic job."""
SILENCE_S = 3.0
"""Without a sign of life: the other side is lost."""


class Frames:
    """Cuts a stream of bytes into frames."""

    def __init__(self) -> None:
        self._rest = bytearray()

    def feed(self, data: bytes) -> Iterator[tuple[Kind, int, bytes]]:
        """The frames that ``data`` completes. Raises ValueError where the stream is no talk of ours."""
        self._rest += data
        while len(self._rest) >= _HEAD.size:
            kind, number, length = _HEAD.unpack_from(self._rest)
            if length > LONGEST_NBYTES:
                raise ValueError("a frame that is too long")
            end = _HEAD.size + length
            if len(self._rest) < end:
                return
            payload = bytes(self._rest[_HEAD.size : end])
            del self._rest[:end]
            yield Kind(kind), number, payload


def write_all(descriptor: int, data: bytes) -> None:
    """Write to a blocking descriptor until nothing is left."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
