"""The membership channel of a rank: a socketpair whose other end the rank inherits, with lines of JSON both ways."""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Mapping
from typing import Any

LONGEST_NBYTES = 1 << 20
"""Of one line; a rank that says more is not understood any further."""


class Channel:
    """The launcher's (or its agent's) end. Never blocks: what a rank does not read waits here.

    >>> channel = Channel(); given = channel.give()
    >>> channel.send(b"{}\\n"); os.read(given, 10)
    b'{}\\n'
    >>> os.write(given, b'{"kind": "ready"}\\n{"ki') and channel.read()
    [b'{"kind": "ready"}']
    >>> channel.close()
    """

    def __init__(self) -> None:
        self._own, self._other = socket.socketpair()
        self._own.setblocking(False)
        self.descriptor = self._own.fileno()
        self.open = True
        self._coming, self._going = bytearray(), bytearray()

    def give(self) -> int:
        """The descriptor for the rank; :meth:`given` once its process has been started."""
        return self._other.fileno()

    def given(self) -> None:
        self._other.close()

    @property
    def waiting(self) -> bool:
        """Is there something that the rank has not taken yet?"""
        return bool(self._going) and self.open

    def send(self, line: bytes = b"") -> None:
        """Send a line, after those that still wait."""
        self._going += line
        try:
            while self._going:
                del self._going[: self._own.send(self._going)]
        except BlockingIOError:
            return
        except OSError:
            self._going.clear()  # it has ended; its end is told by itself

    def read(self) -> list[bytes]:
        """The whole lines that came."""
        try:
            data = self._own.recv(1 << 16)
        except BlockingIOError:
            return []
        except OSError:
            data = b""
        if not data or len(self._coming) > LONGEST_NBYTES:
            self.open = False
            return []
        *lines, rest = bytes(self._coming + data).split(b"\n")
        self._coming = bytearray(rest)
        return lines

    def close(self) -> None:
        for end in (self._own, self._other):
            with contextlib.suppress(OSError):
                end.close()
        self.open = False


def line(message: Mapping[str, Any]) -> bytes:
    """A message as it goes through a channel."""
    return json.dumps(message).encode() + b"\n"


def message(text: bytes) -> dict[str, Any]:
    """The message of a line; an empty one where it is none.

    >>> message(b'{"kind": "ready"}'), message(b"?")
    ({'kind': 'ready'}, {})
    """
    with contextlib.suppress(ValueError, RecursionError):
        said = json.loads(text)
        if isinstance(said, dict):
            return said
    return {}
