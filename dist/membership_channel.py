"""How a rank of an elastic job and its launcher speak: a socket that the rank inherits, by lines of JSON."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from .env import RankEnvironment
from .member import LOOPBACK, address_text, listen

Word = Mapping[str, Any]


class Channel:
    """The open socket to the launcher: lines of JSON both ways. A thread reads; any thread may :meth:`say`."""

    def __init__(self, descriptor: int, hear: Callable[[Word], None]) -> None:
        self._socket = socket.socket(fileno=descriptor)
        self._socket.set_inheritable(False)
        self._sending = threading.Lock()
        self._hear = hear
        threading.Thread(target=self._read, name="phalanx-membership", daemon=True).start()

    def say(self, kind: str, **words: Any) -> None:
        """Tell the launcher; nothing where it is gone, which ends this process in any case."""
        with self._sending, contextlib.suppress(OSError):
            self._socket.sendall(json.dumps({"kind": kind, **words}).encode() + b"\n")

    def _read(self) -> None:
        rest = b""
        while True:
            try:
                data = self._socket.recv(1 << 16)
            except OSError:
                data = b""
            if not data:
                self._hear({"kind": "gone"})
                return
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                self._hear(json.loads(line))


def meeting_place(word: Word, environment: RankEnvironment, channel: Channel) -> RankEnvironment:
    """This rank's place in the generation that ``word`` announces; rank 0 listens from now on, and tells the launcher where."""
    place = replace(
        environment,
        rank=word["rank"],
        size=word["size"],
        local_rank=word["local_rank"],
        local_size=word["local_size"],
        node=word.get("node"),
        rendezvous=word.get("rendezvous"),
        rendezvous_fd=None,
        hosts=word.get("hosts"),
        job=f"{environment.job}.{word['generation']}",
    )
    if place.rank or place.size == 1:
        return place
    listener = listen((LOOPBACK if place.local_size == place.size else word["bind"], 0))
    address = address_text(*listener.getsockname()[:2])
    channel.say("serving", generation=word["generation"], address=address)
    return replace(place, rendezvous=address, rendezvous_fd=listener.detach())
