"""A wire that changes a byte: what the faulty rank sends to the others goes through a relay of its own."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from phalanx.dist.env import RankEnvironment
from phalanx.dist.member import Member, address_of

_QUIET_BYTES = 5000
"""After the word to do damage so many bytes still pass, so that it falls into the data of a message."""


def put_in_between(join: Callable[..., list[Member]], word: Path, damaged: Callable[[], None]) -> Callable[..., Any]:
    """``rendezvous.join`` that tells a relay's address instead of each far rank's own; it flips a bit once ``word`` exists."""

    def told(environment: RankEnvironment, me: Member, *more: Any) -> list[Member]:
        members = join(environment, me, *more)
        return [_behind_a_relay(m, word, damaged) if m.identity != me.identity else m for m in members]

    return told


def _behind_a_relay(member: Member, word: Path, damaged: Callable[[], None]) -> Member:
    near, _, far = member.data.partition(" ")
    listener = socket.create_server(("127.0.0.1", 0))
    relay = threading.Thread(target=_serve, args=(listener, address_of(far[6:]), word, damaged), daemon=True)
    relay.start()
    return replace(member, data=f"{near} tcp://127.0.0.1:{listener.getsockname()[1]}")


def _serve(listener: socket.socket, address: tuple[str, int], word: Path, damaged: Callable[[], None]) -> None:
    while True:
        here, _ = listener.accept()
        there = socket.create_connection(address)
        threading.Thread(target=_pass_on, args=(there, here), daemon=True).start()
        threading.Thread(target=_pass_on, args=(here, there, word, damaged), daemon=True).start()


def _pass_on(source: socket.socket, target: socket.socket, word: Path | None = None, damaged: Any = None) -> None:
    quiet = _QUIET_BYTES
    with contextlib.suppress(OSError), source, target:
        while data := bytearray(source.recv(1 << 16)):
            if word is not None and word.exists():
                quiet -= len(data)
                if quiet < 0 and len(data) > 1000:
                    data[len(data) // 2] ^= 1
                    damaged()
                    word = None
            target.sendall(data)
