"""ZeroMQ: each rank takes from one PULL socket for its host and one for all others, and pushes to one PUSH socket per peer.

A message is one frame ``prefix + header + payload`` while it is small, otherwise frames of at most ``SEGMENT_BYTES`` that are
sent without a copy. The prefix holds a token of the job and group, so that strangers' and other jobs' messages are
dropped, and a count, so that what was lost with a broken connection is missed at once. Deaths, aborts and goodbyes come
over :mod:`..control`, which wakes a rank that waits here for data.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
import struct
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ..agreement import Agreement
from ..control import ControlMesh
from ..diagnosis.watch import STALL_S
from ..env import RankEnvironment
from ..errors import CommunicatorError
from ..host import host_identity
from ..member import LOOPBACK, Member, address_text, listen
from ..messages import Header, check
from ..rendezvous import RendezvousServer, join, serve
from ..secret import job_of, require_secret
from .base import DEFAULT_TIMEOUT_S
from .peers import PeeredCommunicator, Peers
from .sealing import BrokenSealError, Seal, can_seal
from .sockets import IO_THREADS, Inlet, Outlet, Outside, doorkeeper, load_zmq

INLINE_BYTES = 1 << 15
"""Up to here a payload is copied into the frame of its header."""
COPY_BYTES = 1 << 16
"""Up to here a payload is copied at the send, which costs less than to wait for news that its memory is free again."""
SEGMENT_BYTES = 1 << 20
"""Larger payloads travel in pieces, so that the receiver copies one while the next is on its way."""
BROKEN_GRACE_S = 1.0
"""How long after its data connection a peer's death or goodbye may be heard of."""
LINGER_MS = 1000
_SLICE_MS = 500
_GRACE_SLICE_MS = 50
_ALIGNMENT_BYTES = 8
_PREFIX = struct.Struct("<16sIIQ")  # token, source, length of the header (0: a further segment), count


class _Job(Peers):
    """What all groups of one job share in this process: one per :meth:`ZeroMQCommunicator.connect`."""

    def __init__(self, stall_s: float, silence_s: float) -> None:
        super().__init__(stall_s)
        self._silence_s = silence_s
        self.context = load_zmq().Context()
        self.server: RendezvousServer | None = None
        self.outside: Outside | None = None
        """How ranks of other hosts are reached; None when there are none."""
        self.doorkeeper: Any = None
        self._given_up = False
        self._meeting: socket.socket | None = None
        """The connection to the rendezvous, as long as it is waited at."""

    def give_up(self) -> None:
        """There is no use in waiting for the others any more: :meth:`meet` raises. Any thread."""
        self._given_up = True
        if self.server is not None:
            self.server.interrupt()
        if (meeting := self._meeting) is not None:
            with contextlib.suppress(OSError):
                meeting.shutdown(socket.SHUT_RDWR)
        if (mesh := self.mesh) is not None:
            for rank in mesh.peers:
                mesh.declare_lost(rank, "the ranks that go on are others by now")

    def _hold(self, meeting: socket.socket) -> None:
        self._meeting = meeting
        if self._given_up:
            self.give_up()

    def meet(self, environment: RankEnvironment, timeout_s: float) -> Inlet:
        """Learn of all other ranks and connect the control channel; where the group of all ranks receives."""
        deadline = time.monotonic() + timeout_s
        if environment.rank == 0:
            self.server = serve(environment, timeout_s)
        inlets: list[Inlet] = []
        listeners: list[socket.socket] = []

        def place(hosts: list[str], interface: str, seals: bool) -> tuple[str, str]:
            if len(set(hosts)) > 1:
                require_secret(environment)
                self.outside = Outside.of(job_of(environment), interface, seals)
                self.context.set(load_zmq().IO_THREADS, IO_THREADS)
                if seals:
                    self.doorkeeper = doorkeeper(self.context, self.outside)
            listeners.append(listen((LOOPBACK if self.outside is None else interface, 0)))
            inlets.append(Inlet(self.context, self.outside))
            return inlets[0].address, address_text(*listeners[0].getsockname()[:2])

        try:
            me = Member(environment.rank, socket.gethostname(), os.getpid(), "", "", host_identity(), can_seal())
            members = join(environment, me, timeout_s, place, self._hold)
            self._meeting = None
            secret = job_of(environment)
            mesh = ControlMesh(environment.rank, members, listeners[0], secret, self._silence_s)
        except BaseException:
            for listener in listeners:
                listener.close()
            for inlet in inlets:
                inlet.close()
            raise
        self.agreement = Agreement(mesh)
        self.connect(mesh, members, deadline)
        return inlets[0]

    def close(self) -> None:
        super().close()
        if self.server is not None:
            self.server.close()
        if self.doorkeeper is not None:
            self.doorkeeper.stop()
        self.context.destroy()


class ZeroMQCommunicator(PeeredCommunicator):
    """One rank of a group over ZeroMQ; :meth:`connect` makes the group of all ranks."""

    backend = "zmq"

    def __init__(
        self, job: _Job, ranks: Sequence[int], inlet: Inlet, addresses: Sequence[str], token: bytes, *, timeout_s: float
    ) -> None:
        super().__init__(job, ranks, token.hex(), timeout_s=timeout_s)
        self._job, self._token, self._inlet = job, token, inlet
        self._far = [self._is_remote(rank) for rank in range(self.size)]
        self._outlets = {
            rank: Outlet(job.context, address, job.outside, self._far[rank])
            for rank, address in enumerate(addresses)
            if rank != self.rank
        }
        self._seals: dict[int, tuple[Seal | None, Seal | None]] = defaultdict(lambda: (None, None))  # (to, from) a rank
        for rank, theirs in enumerate(addresses):
            if self._far[rank] and job.outside is not None:
                to, back = (
                    job.outside.seal(inlet.address, theirs, theirs),
                    job.outside.seal(theirs, inlet.address, theirs),
                )
                self._seals[rank] = to, back
        self._inbox: dict[int, deque[tuple[bytes, Any, int]]] = defaultdict(deque)
        """Source -> (header or b"", piece, the number under which the piece is sealed, or -1)."""
        self._sent = [0] * self.size
        self._counted = [0] * self.size
        self._trackers: list[tuple[int, Any]] = []
        self._released = False
        self._waking = threading.Lock()

    @classmethod
    def connect(
        cls,
        environment: RankEnvironment,
        timeout_s: float | None = None,
        *,
        stall_s: float = STALL_S,
        silence_s: float = 0.0,
        began: Callable[[Callable[[], None]], None] = lambda give_up: None,
    ) -> ZeroMQCommunicator:
        """Meet the other ranks of the job at ``environment.rendezvous`` and connect to each of them.

        Args:
            timeout_s: deadline for the meeting and for every operation later (default: the environment's, else 600).
            stall_s: after how many seconds without progress one line is printed.
            silence_s: how long the host of another rank may acknowledge nothing before it counts as gone; 0: the default.
            began: gets what ends the waiting for the others, from any thread, with a PeerLostError or a CommunicatorError here.

        Raises LaunchError when this process does not belong to the job, or when ranks are on several hosts and the job has no
        secret; DeadlineError naming the ranks that did not come.
        """
        timeout_s = timeout_s or environment.timeout_s or DEFAULT_TIMEOUT_S
        environment = _meeting_place(environment)
        job = _Job(stall_s, silence_s)
        began(job.give_up)
        try:
            inlet = job.meet(environment, timeout_s)
        except BaseException:
            job.close()
            raise
        ranks = list(range(environment.size))
        addresses = [member.data for member in job.members]
        return cls(job, ranks, inlet, addresses, _token(job_of(environment), "world", ranks), timeout_s=timeout_s)

    def split(self, color: int, key: int | None = None) -> ZeroMQCommunicator:
        token = _token(self._token.hex(), f"split {self._sequence} {color}", self._ranks)
        inlet = Inlet(self._job.context, self._job.outside)
        mine = [color, self.rank if key is None else key, inlet.address]
        rows = self.all_gather_object(mine, name="split").wait()
        order = [rank for _, rank in sorted((k, rank) for rank, (c, k, _) in enumerate(rows) if c == color)]
        ranks, addresses = [self._ranks[rank] for rank in order], [rows[rank][2] for rank in order]
        return type(self)(self._job, ranks, inlet, addresses, token, timeout_s=self.timeout_s)

    def resolve(self, step: int, payload: bytes | None, timeout_s: float = 1.0) -> bytes | None:
        """After a PeerLostError: the commit message of ``step`` if any survivor has it, else None; the same on all of them.

        Args:
            step: the step whose commit message this rank holds, or is waiting for.
            payload: that message, or None when it has not come.
            timeout_s: by then a survivor that does not call this counts as dead.

        Every survivor must call it once. It works after errors and aborts, until ``close``. Survivors that a cut link keeps
        apart decide each for their own side.
        """
        return self._job.agreement.resolve(step, payload, timeout_s)

    # -- messages -----------------------------------------------------------------------------------------------------

    def _front(self, dest: int, text: bytes, payload: Any = b"") -> bytes:
        """The first frame of a message."""
        self._sent[dest] += 1
        prefix = _PREFIX.pack(self._token, self.rank, len(text), self._sent[dest])
        seal = self._seals[dest][0]
        if seal is None:
            return b"".join((prefix, text, payload))
        return prefix + seal.close(2 * self._sent[dest], b"".join((text, payload)), prefix)

    def _post(self, dest: int, header: Header, view: memoryview) -> None:
        zmq, push, text = load_zmq(), self._outlets[dest].push, header.encode()
        view = view.cast("B") if view.nbytes else memoryview(b"")
        if view.nbytes <= INLINE_BYTES:
            push.send(self._front(dest, text, view), zmq.DONTWAIT)
            return
        seal = self._seals[dest][0]
        for start in range(0, view.nbytes, SEGMENT_BYTES):
            push.send(self._front(dest, text), zmq.DONTWAIT | zmq.SNDMORE)
            piece = view[start : start + SEGMENT_BYTES]
            if seal is not None:
                push.send(seal.close(2 * self._sent[dest] + 1, piece), zmq.DONTWAIT, copy=False)
            elif view.nbytes <= COPY_BYTES:
                push.send(piece, zmq.DONTWAIT)
            else:
                self._trackers.append((dest, push.send(piece, zmq.DONTWAIT, copy=False, track=True)))
            text = b""

    def _flush(self, deadline: float) -> None:
        # small messages were copied: they leave within microseconds, but nothing tells when
        if not self._trackers:
            return
        zmq = load_zmq()
        while self._trackers:
            dest, tracker = self._trackers[0]
            left_s = deadline - time.monotonic()
            try:
                tracker.wait(max(0.0, min(left_s, _GRACE_SLICE_MS / 1000)))
            except zmq.NotDone:
                self._raise_if_ended(dest)
                if left_s <= 0:
                    raise TimeoutError from None
            else:
                self._trackers.pop(0)

    def _unread(self) -> list[int]:
        return sorted({dest for dest, tracker in self._trackers if not tracker.done})

    def _take(self, source: int, expected: Header, out: np.ndarray | None, deadline: float) -> Any:
        text, piece, number = self._next(source, deadline)
        came = Header.decode(text, source, self.rank)
        check(expected, came, self.rank)
        if out is None and number < 0 and len(piece) == came.nbytes:
            return bytes(piece)
        target = np.empty(came.nbytes, np.uint8) if out is None else out
        at = 0
        while at < came.nbytes:
            if number < 0:
                target[at : at + len(piece)] = np.frombuffer(piece, np.uint8)
                at += len(piece)
            else:
                at += self._open(source, number, piece, out=target[at : at + Seal.size(piece)])
            if at < came.nbytes:
                _, piece, number = self._next(source, deadline)
        return target.tobytes() if out is None else out

    def _next(self, source: int, deadline: float) -> tuple[bytes, Any, int]:
        waiting, far = self._inbox[source], self._far[source]
        while not waiting:
            self._raise_if_ended(source)
            self._look_for_mismatch()
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                raise TimeoutError
            slice_ms = _SLICE_MS if self._gone(source) is None else _GRACE_SLICE_MS
            self._receive(far, max(0.001, min(left_s, slice_ms / 1000)))
        return waiting.popleft()

    def _receive(self, far: bool, timeout_s: float) -> bool:
        """One message into the inbox of its source; strangers' are dropped, the control channel's wake-ups are empty."""
        frames = self._inlet.receive(far, timeout_s)
        if not frames:
            return False
        data = frames[0].buffer
        if len(data) < _PREFIX.size or len(frames) > 2:
            return True
        token, source, length, count = _PREFIX.unpack_from(data)
        if token != self._token or source not in self._outlets or self._far[source] != far:
            return True
        self._counted[source] += 1
        if count != self._counted[source]:
            raise CommunicatorError(
                f"rank {self.rank} of {self.size}: expected message {self._counted[source]} of {self._member(source)}, got "
                f"message {count}: {_BROKEN}"
            )
        body, sealed = data[_PREFIX.size :], self._seals[source][1] is not None
        if sealed:
            body = memoryview(self._open(source, 2 * count, body, data[: _PREFIX.size]))
        piece, number = (body[length:], -1) if len(frames) == 1 else (frames[1].buffer, 2 * count + 1 if sealed else -1)
        self._inbox[source].append((bytes(body[:length]), piece, number))
        self.arrived += 1
        return True

    def _open(self, source: int, number: int, data: Any, beside: Any = b"", out: Any = None) -> Any:
        """What ``source`` sealed."""
        seal = self._seals[source][1]
        assert seal is not None
        try:
            return seal.open(number, data, beside, out)
        except BrokenSealError:
            raise CommunicatorError(
                f"rank {self.rank} of {self.size}: a message of {self._member(source)} is not what it sent: {_BROKEN}"
            ) from None

    def _has_come(self, source: int) -> bool:
        while not self._inbox[source] and self._receive(self._far[source], 0.0):
            pass
        return bool(self._inbox[source])

    # -- the control channel ------------------------------------------------------------------------------------------

    def wake(self) -> None:
        with self._waking:
            if not self._released:
                self._inlet.wake()

    def look_at_links(self, now: float) -> None:
        """End the job when a connection to a living rank broke: what was under way in it is lost."""
        for rank, outlet in self._outlets.items():
            since = outlet.look()
            if since is not None and now - since > BROKEN_GRACE_S and self._gone(rank) is None and not self._closing:
                self._mesh.abort(
                    f"rank {self.rank} of {self.size}: the data connection to {self._member(rank)} broke: {_BROKEN}"
                )

    def _release(self) -> None:
        clean = not self._trackers and self._mesh.ended is None
        with self._waking:
            self._released = True
            self._inlet.close_wakers()
        for rank, outlet in self._outlets.items():
            outlet.close(LINGER_MS if clean and self._gone(rank) is None else 0)
        if self._thread is None or not self._thread.is_alive():  # a thread that hangs may still read it
            self._inlet.close()


_BROKEN = (
    "bytes were changed on the way, or something between the hosts resets connections. No sum was made of them; look at the "
    "network's hardware and at what filters it, then start again from the last checkpoint"
)


def _meeting_place(environment: RankEnvironment) -> RankEnvironment:
    """Ranks of one host meet on the loopback, whatever name the launcher gave this machine; others need a secret first."""
    if environment.local_size != environment.size:
        require_secret(environment)
        return environment
    address = environment.address
    return environment if address is None else replace(environment, rendezvous=f"{LOOPBACK}:{address[1]}")


def _token(secret: str, group: str, ranks: Sequence[int]) -> bytes:
    return hashlib.sha256(f"{secret}|{group}|{list(ranks)}".encode()).digest()[:16]
