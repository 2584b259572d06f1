"""The control channel: one plain TCP connection between every two ranks, apart from the gradients.

It carries the end of a job (who aborted and why), goodbyes, and what survivors agree on. The kernel closes a dead process's
connections at once, so the end of a stream without a goodbye *is* the news of a death; a hub would take that news along
when it dies itself, hence the full mesh. A host that is gone closes nothing: ranks of other hosts get a heartbeat every second,
and a kernel that acknowledges none for 8 s is not there any more (a process that merely stands still has one that does).
One thread reads all of them; anybody may send.
"""

from __future__ import annotations

import contextlib
import errno
import json
import selectors
import socket
import struct
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Protocol

from .errors import DeadlineError, PeerLostError
from .member import Member, address_of
from .secret import NONCE_CHARACTERS, nonce, proof, proves

ALIVE, LEFT, LOST = "alive", "left", "lost"
TICK_S = 0.5
BEAT_S = 1.0
SILENCE_S = 8.0
_CUT = {errno.ETIMEDOUT, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EHOSTDOWN, errno.ENETDOWN}
HELLO_LIMIT_BYTES = 1024
STRANGER_S = 5.0
_LENGTHS = struct.Struct("<II")  # of the JSON text, of the payload
_TEXT_LIMIT_BYTES = 1 << 20
_PAYLOAD_LIMIT_BYTES = 1 << 28
_READ_BYTES = 1 << 16


class Listener(Protocol):
    """Who wants to hear of the control channel; called on its thread, must return at once."""

    def control_message(self, source: int, message: dict[str, Any], payload: bytes) -> None: ...
    def control_changed(self) -> None: ...
    def control_tick(self, now: float) -> None: ...


@dataclass(frozen=True, slots=True)
class End:
    """Why the job is over."""

    reason: str
    told_by: int
    lost: tuple[int, ...]
    """The ranks whose death is the reason; empty when a rank aborted for another one."""


@dataclass(eq=False, slots=True)
class Peer:
    """Another rank and the connection to it."""

    member: Member
    connection: socket.socket | None = None
    state: str = ALIVE
    since: float = 0.0
    """When it left or was lost (``time.monotonic``)."""
    why: str = ""
    """How it was lost, where that is not a plain death."""
    remote: bool = False
    """Whether it is on another host."""
    received: bytearray = field(default_factory=bytearray)
    unsent: bytearray = field(default_factory=bytearray)
    sending: threading.Lock = field(default_factory=threading.Lock)


@dataclass(eq=False, slots=True)
class _Stranger:
    """A connection that has not said which rank it is."""

    connection: socket.socket
    came: float
    nonce: str = field(default_factory=nonce)
    received: bytearray = field(default_factory=bytearray)


class ControlMesh:
    """This rank's control connections.

    Args:
        listener: listens at this rank's control address; closed as soon as all ranks have connected.
        secret: what only processes of this job know.
        silence_s: how long another host's kernel may acknowledge nothing; 0: ``SILENCE_S``.
    """

    def __init__(
        self, rank: int, members: Iterable[Member], listener: socket.socket, secret: str, silence_s: float = 0.0
    ) -> None:
        self.rank, self._secret, self.silence_s = rank, secret, silence_s or SILENCE_S
        self.me = me = next(member for member in members if member.rank == rank)
        self.peers = {m.rank: Peer(m, remote=m.identity != me.identity) for m in members if m.rank != rank}
        self.changed = threading.Condition()
        """Notified after every change of a peer's state."""
        self.ended: End | None = None
        """The first abort."""
        self.ended_by: dict[int, str] = {}
        """The ranks that ended the job before they heard of another's end, but for those that felt a death."""
        self.listeners: list[Listener] = []
        self._listening = listener
        self._closing = False
        self._selector = selectors.DefaultSelector()
        self._wake_reader, self._wake_writer = socket.socketpair()
        self._thread = threading.Thread(target=self._serve, name=f"phalanx-control-{rank}", daemon=True)

    # -- joining ------------------------------------------------------------------------------------------------------

    def join(self, deadline: float) -> None:
        """Connect to all ranks below this one and wait for those above. Raises DeadlineError, PeerLostError."""
        for socket_ in (self._listening, self._wake_reader, self._wake_writer):
            socket_.setblocking(False)
        self._selector.register(self._listening, selectors.EVENT_READ, None)
        self._selector.register(self._wake_reader, selectors.EVENT_READ, None)
        self._thread.start()
        for peer in self.peers.values():
            if peer.member.rank < self.rank:
                self._connect(peer, deadline)
        with self.changed:
            while missing := [peer.member for peer in self.peers.values() if peer.connection is None]:
                if lost := self.lost():
                    raise PeerLostError(f"rank {self.rank}: rank {lost[0]} died before all were connected")
                if not self.changed.wait(max(0.0, deadline - time.monotonic())):
                    raise DeadlineError(
                        f"rank {self.rank}: no control connection from {', '.join(map(str, missing))}: it died after the "
                        "rendezvous, or a firewall stands between"
                    )

    def _connect(self, peer: Peer, deadline: float) -> None:
        connection: socket.socket | None = None
        try:
            connection = socket.create_connection(
                address_of(peer.member.control), timeout=max(0.01, deadline - time.monotonic())
            )
            number = _exactly(connection, NONCE_CHARACTERS + 1).decode().strip()
            proven = proof(self._secret, number, f"{self.rank}>{peer.member.rank}")
            connection.sendall(json.dumps([self.rank, proven]).encode() + b"\n")
        except (OSError, ValueError) as error:
            if connection is not None:
                connection.close()
            raise PeerLostError(
                f"rank {self.rank} cannot reach {peer.member} at {peer.member.control}: {error}; it died after the "
                "rendezvous" + (", or a firewall stands between the hosts" if peer.remote else "")
            ) from None
        self._adopt(peer, connection)
        self._wake()

    def _adopt(self, peer: Peer, connection: socket.socket) -> None:
        connection.setblocking(False)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        if peer.remote and hasattr(socket, "TCP_USER_TIMEOUT"):
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(self.silence_s * 1000))
        with self.changed:
            peer.connection = connection  # the thread registers it
            self.changed.notify_all()

    # -- sending ------------------------------------------------------------------------------------------------------

    def send(self, dest: int, message: dict[str, Any], payload: bytes = b"") -> None:
        """Send to one rank; any thread, returns at once. What a peer that is gone does not get is dropped."""
        text = json.dumps(message).encode()
        peer = self.peers[dest]
        with peer.sending:
            peer.unsent += _LENGTHS.pack(len(text), len(payload)) + text + payload
        self._push(peer)
        if peer.unsent:
            self._wake()

    def send_all(self, message: dict[str, Any], payload: bytes = b"") -> None:
        for rank in self.peers:
            self.send(rank, message, payload)

    def abort(self, reason: str) -> None:
        """End the job for everybody; only the first reason counts. Any thread."""
        with self.changed:
            if self.ended is not None:
                return
            self.ended = End(reason, self.rank, tuple(self.lost()))
            if not self.ended.lost:
                self.ended_by[self.rank] = reason
        lost = self.lost()
        self.send_all({"kind": "abort", "reason": reason, "lost": lost, "why": [self.peers[r].why for r in lost]})
        self._tell("control_changed")

    def declare_lost(self, rank: int, why: str) -> None:
        """Somebody who knows says that ``rank`` is gone, though its connection may stand. Any thread."""
        self.peers[rank].why = self.peers[rank].why or why
        self._became(self.peers[rank], LOST)

    def lost(self) -> list[int]:
        """The ranks that died."""
        return [rank for rank, peer in self.peers.items() if peer.state == LOST]

    def close(self) -> None:
        """Say goodbye and close. Safe to call twice."""
        if self._closing:
            return
        self.send_all({"kind": "goodbye"})
        self._closing = True
        self._wake()
        if self._thread.ident is None:
            self._listening.close()
        elif self._thread is not threading.current_thread():
            self._thread.join(timeout=5.0)

    def _push(self, peer: Peer) -> None:
        with peer.sending:
            if peer.connection is None or peer.state == LOST:
                peer.unsent.clear()
            while peer.unsent:
                try:
                    sent = peer.connection.send(peer.unsent)  # type: ignore[union-attr]
                except BlockingIOError:
                    return
                except OSError:  # the reading side tells what happened
                    peer.unsent.clear()
                    return
                del peer.unsent[:sent]

    def _wake(self) -> None:
        with contextlib.suppress(OSError):
            self._wake_writer.send(b"!")

    # -- the thread ---------------------------------------------------------------------------------------------------

    def _serve(self) -> None:
        next_tick = next_beat = time.monotonic() + TICK_S
        while not self._closing:
            self._stop_listening_when_complete()
            self._watch_connections()
            for key, events in self._selector.select(timeout=max(0.0, next_tick - time.monotonic())):
                self._handle(key, events)
            if (now := time.monotonic()) >= next_tick:
                next_tick = now + TICK_S
                self._drop_silent(now)
                if now >= next_beat:
                    next_beat = now + min(BEAT_S, self.silence_s / 5)
                    for rank, peer in self.peers.items():
                        if peer.remote and peer.state == ALIVE and peer.connection is not None:
                            self.send(rank, {"kind": "beat"})
                for listener in list(self.listeners):
                    listener.control_tick(now)
        for key in list(self._selector.get_map().values()):
            key.fileobj.close()  # type: ignore[union-attr]
        self._wake_writer.close()
        self._selector.close()

    def _stop_listening_when_complete(self) -> None:
        if self._listening.fileno() >= 0 and all(peer.connection is not None for peer in self.peers.values()):
            self._selector.unregister(self._listening)
            self._listening.close()

    def _watch_connections(self) -> None:
        """Register what was connected since, and wait for room only where something is unsent."""
        for peer in self.peers.values():
            if peer.connection is None or peer.state == LOST or peer.connection.fileno() < 0:
                continue
            events = selectors.EVENT_READ | (selectors.EVENT_WRITE if peer.unsent else 0)
            try:
                if self._selector.get_key(peer.connection).events != events:
                    self._selector.modify(peer.connection, events, peer)
            except KeyError:
                self._selector.register(peer.connection, events, peer)

    def _handle(self, key: selectors.SelectorKey, events: int) -> None:
        if key.fileobj is self._listening:
            self._accept()
        elif key.fileobj is self._wake_reader:
            self._wake_reader.recv(_READ_BYTES)
        elif isinstance(key.data, _Stranger):
            self._greet(key.data)
        else:
            if events & selectors.EVENT_WRITE:
                self._push(key.data)
            if events & selectors.EVENT_READ:
                self._read(key.data)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            connection, _ = self._listening.accept()
            connection.setblocking(False)
            stranger = _Stranger(connection, time.monotonic())
            connection.send(stranger.nonce.encode() + b"\n")
            self._selector.register(connection, selectors.EVENT_READ, stranger)

    def _greet(self, stranger: _Stranger) -> None:
        """One line, read byte for byte up to its end: what follows belongs to the peer."""
        data, _ = _receive(stranger.connection, HELLO_LIMIT_BYTES)
        if data is None:
            return
        stranger.received += data
        line, newline, rest = bytes(stranger.received).partition(b"\n")
        if data and not newline and len(line) <= HELLO_LIMIT_BYTES:
            return
        self._selector.unregister(stranger.connection)
        peer = self._recognise(line, stranger.nonce) if newline else None
        if peer is None:
            stranger.connection.close()
            return
        peer.received += rest
        self._adopt(peer, stranger.connection)
        self._take_messages(peer)

    def _recognise(self, line: bytes, number: str) -> Peer | None:
        with contextlib.suppress(ValueError, TypeError, RecursionError):
            rank, claimed = json.loads(line)
            peer = self.peers.get(rank)
            if peer is not None and peer.connection is None:
                return peer if proves(claimed, self._secret, number, f"{rank}>{self.rank}") else None
        return None

    def _read(self, peer: Peer) -> None:
        assert peer.connection is not None
        data, error = _receive(peer.connection, _READ_BYTES)
        if data is None:
            return
        peer.received += data
        self._take_messages(peer)
        if not data:
            self._selector.unregister(peer.connection)
            peer.connection.close()
            if peer.state == ALIVE and error in _CUT:
                peer.why = f"nothing acknowledged for {self.silence_s:g} s: the link is cut or the host is gone"
            self._became(peer, LOST if peer.state == ALIVE else peer.state)

    def _take_messages(self, peer: Peer) -> None:
        while len(peer.received) >= _LENGTHS.size:
            text, payload = _LENGTHS.unpack_from(peer.received)
            if text > _TEXT_LIMIT_BYTES or payload > _PAYLOAD_LIMIT_BYTES:
                self._became(peer, LOST)
                return
            end = _LENGTHS.size + text + payload
            if len(peer.received) < end:
                return
            message = json.loads(peer.received[_LENGTHS.size : _LENGTHS.size + text])
            data = bytes(peer.received[_LENGTHS.size + text : end])
            del peer.received[:end]
            self._heard(peer, message, data)

    def _heard(self, peer: Peer, message: dict[str, Any], payload: bytes) -> None:
        if message["kind"] == "goodbye":
            self._became(peer, LEFT)
        elif message["kind"] == "abort":
            with self.changed:
                if self.ended is None:
                    self.ended = End(message["reason"], peer.member.rank, tuple(message["lost"]))
                if not message["lost"]:
                    self.ended_by[peer.member.rank] = message["reason"]
            for rank, why in zip(message["lost"], message["why"], strict=True):
                if rank in self.peers:
                    self.declare_lost(rank, why)
            self._tell("control_changed")
        elif message["kind"] != "beat":
            for listener in list(self.listeners):
                listener.control_message(peer.member.rank, message, payload)

    def _became(self, peer: Peer, state: str) -> None:
        with self.changed:
            if peer.state == ALIVE and state != ALIVE:
                peer.state, peer.since = state, time.monotonic()
            self.changed.notify_all()
        self._tell("control_changed")

    def _tell(self, what: str) -> None:
        for listener in list(self.listeners):
            getattr(listener, what)()

    def _drop_silent(self, now: float) -> None:
        for key in list(self._selector.get_map().values()):
            if isinstance(key.data, _Stranger) and now - key.data.came > STRANGER_S:
                self._selector.unregister(key.data.connection)
                key.data.connection.close()


def _receive(connection: socket.socket, limit: int) -> tuple[bytes | None, int | None]:
    """What has come, and the error; empty at the end of the stream or after an error; None when nothing has."""
    try:
        return connection.recv(limit), None
    except (BlockingIOError, InterruptedError):
        return None, None
    except OSError as error:
        return b"", error.errno


def _exactly(connection: socket.socket, nbytes: int) -> bytes:
    """The next ``nbytes`` bytes of a connection that blocks. Raises OSError at its end."""
    data = connection.recv(nbytes, socket.MSG_WAITALL)
    if len(data) < nbytes:
        raise ConnectionError("the connection was closed")
    return data
