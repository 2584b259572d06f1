"""Where ``phalanx join`` and ``phalanx ps`` speak to the launcher of an elastic job: a port of the loopback and a key.

The key stands in the job's record, which only its user can read. It is never said, only proved over a number that is new for
each visitor.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..dist.errors import LaunchError
from ..dist.member import address_of, address_text, listen
from ..dist.secret import nonce, proof, proves

STRANGER_S = 5.0
"""How long a visitor may take to say what it wants."""
MOST_VISITORS = 32
LONGEST_NBYTES = 1 << 16
ANSWER_S = 45.0
"""For the launcher to answer; a host that joins is reached first."""


@dataclass(eq=False, slots=True)
class Visitor:
    """A connection to the launcher."""

    connection: socket.socket
    came: float
    number: str = field(default_factory=nonce)
    said: bytearray = field(default_factory=bytearray)

    def answer(self, words: Mapping[str, Any]) -> None:
        """The one answer; a visitor that has left does not get it."""
        with contextlib.suppress(OSError):
            self.connection.sendall(json.dumps(words).encode() + b"\n")
        self.connection.close()


class Door:
    """The launcher's side; ``serve`` gets every wish of a visitor who knows the key."""

    def __init__(self, serve: Callable[[Visitor, dict[str, Any]], None]) -> None:
        self.key = secrets.token_hex(16)
        self._listening = listen()
        self._listening.setblocking(False)
        self.address = address_text(*self._listening.getsockname()[:2])
        self._serve = serve
        self._visitors: dict[int, Visitor] = {}

    @property
    def descriptors(self) -> list[int]:
        return [self._listening.fileno(), *self._visitors] if self._listening.fileno() >= 0 else []

    def turn(self, ready: set[int], now: float) -> None:
        """Let in who stands there, hear who speaks, and send away who does not."""
        if self._listening.fileno() in ready:
            self._let_in(now)
        for descriptor in ready & self._visitors.keys():
            self._hear(self._visitors[descriptor])
        for visitor in [each for each in self._visitors.values() if now - each.came > STRANGER_S]:
            self._leave(visitor)
            visitor.connection.close()

    def _let_in(self, now: float) -> None:
        with contextlib.suppress(OSError):
            connection, _ = self._listening.accept()
            if len(self._visitors) >= MOST_VISITORS:
                connection.close()
                return
            connection.settimeout(0.5)  # a visitor that does not read holds nobody up
            visitor = Visitor(connection, now)
            connection.sendall(visitor.number.encode() + b"\n")
            self._visitors[connection.fileno()] = visitor

    def _hear(self, visitor: Visitor) -> None:
        try:
            data = visitor.connection.recv(4096)
        except OSError:
            data = b""
        visitor.said += data
        line, newline, _ = bytes(visitor.said).partition(b"\n")
        if newline:
            self._leave(visitor)
            self._open(visitor, line)
        elif not data or len(visitor.said) > LONGEST_NBYTES:
            self._leave(visitor)
            visitor.connection.close()

    def _open(self, visitor: Visitor, line: bytes) -> None:
        try:
            said = json.loads(line)
            known = proves(said["proof"], self.key, visitor.number, said["text"])
            wish = json.loads(said["text"]) if known else None
        except (ValueError, TypeError, KeyError, RecursionError):
            wish = None
        if isinstance(wish, dict):
            self._serve(visitor, wish)
        else:
            visitor.answer({"error": "this is the launcher of a phalanx job; the key is another job's"})

    def _leave(self, visitor: Visitor) -> None:
        self._visitors.pop(visitor.connection.fileno(), None)

    def close(self) -> None:
        for visitor in self._visitors.values():
            visitor.connection.close()
        self._visitors = {}
        self._listening.close()


def ask(address: str, key: str, wish: Mapping[str, Any], patience_s: float = ANSWER_S) -> dict[str, Any]:
    """What the launcher answers. Raises LaunchError when it is not there, or does not answer."""
    end = time.monotonic() + patience_s
    try:
        with socket.create_connection(address_of(address), timeout=patience_s) as connection:
            number = _line(connection, end)
            text = json.dumps(wish)
            said = {"text": text, "proof": proof(key, number, text)}
            connection.sendall(json.dumps(said).encode() + b"\n")
            answer = json.loads(_line(connection, end))
    except TimeoutError:
        raise LaunchError(f"the job's launcher did not answer within {patience_s:g} s") from None
    except (OSError, ValueError) as error:
        raise LaunchError(f"the job's launcher does not answer any more ({error}): it has ended, or ends now") from None
    return dict(answer)


def _line(connection: socket.socket, end: float) -> str:
    said = bytearray()
    while not said.endswith(b"\n"):
        connection.settimeout(max(0.01, end - time.monotonic()))
        data = connection.recv(4096)
        if not data:
            raise ConnectionResetError("the connection was closed")
        said += data
    return said.decode(errors="replace").strip()
