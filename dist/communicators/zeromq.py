"""ZeroMQ: each rank takes from one PULL socket and pushes to one PUSH socket per peer.

A message is one frame ``prefix + header + payload`` while it is small, otherwise frames of at most ``SEGMENT_BYTES`` that are
sent without a copy. The prefix holds a token of the job and group, so that strangers' and other jobs' messages are
dropped. Deaths, aborts and goodbyes come over :mod:`..control`, which wakes a rank that waits here for data.
"""

from __future__ import annotations

import hashlib
import os
import socket
import struct
import sys
import threading
import time
from collections import defaultdict, deque
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ..agreement import Agreement
from ..control import LEFT, LOST, ControlMesh
from ..env import RankEnvironment
from ..errors import AbortedError, LaunchError, PeerLostError
from ..messages import Header, check, consequence
from ..rendezvous import Member, RendezvousServer, job_of, join, listen, serve
from ..watch import STALL_S, lost_message
from .base import DEFAULT_TIMEOUT_S, Communicator

INLINE_BYTES = 1 << 15
"""Up to here a payload is copied into the frame of its header."""
COPY_BYTES = 1 << 18
"""Up to here a payload is copied at the send, which costs less than to wait for news that its memory is free again."""
SEGMENT_BYTES = 1 << 20
"""Larger payloads travel in pieces, so that the receiver copies one while the next is on its way."""
LOST_GRACE_S = 0.3
"""After a death, how long what was sent before it may still arrive."""
LEFT_GRACE_S = 1.0
LINGER_MS = 1000
_SLICE_MS = 500
_GRACE_SLICE_MS = 50
_PREFIX = struct.Struct("<16sII")  # token, source, length of the header (0: a further segment)
_MAX_FRAME_BYTES = 1 << 26


class _Job:
    """What all groups of one job share in this process: one per :meth:`ZeroMQCommunicator.connect`."""

    def __init__(self, context: Any, stall_s: float) -> None:
        self.context, self.stall_s = context, stall_s
        self.server: RendezvousServer | None = None
        self.mesh: ControlMesh | None = None
        self.members: list[Member] = []
        self.left: dict[tuple[str, int], float] = {}
        """(group, rank of the job) -> when we heard that it closed that group."""
        self.groups: list[ZeroMQCommunicator] = []

    def meet(self, environment: RankEnvironment, data: str, timeout_s: float) -> None:
        """Learn of all other ranks and connect the control channel."""
        deadline = time.monotonic() + timeout_s
        if environment.rank == 0:
            self.server = serve(environment, timeout_s)
        listener = listen()
        try:
            control = f"127.0.0.1:{listener.getsockname()[1]}"
            me = Member(environment.rank, socket.gethostname(), os.getpid(), data, control)
            self.members = join(environment, me, timeout_s)
        except BaseException:
            listener.close()
            raise
        self.mesh = ControlMesh(environment.rank, self.members, listener, job_of(environment))
        self.agreement = Agreement(self.mesh)
        self.mesh.listeners.append(self)
        self.mesh.join(deadline)

    def close(self) -> None:
        if self.mesh is not None:
            self.mesh.close()
        if self.server is not None:
            self.server.close()
        self.context.destroy()

    def control_message(self, source: int, message: dict[str, Any], payload: bytes) -> None:
        if message["kind"] == "left":
            self.left[message["group"], source] = time.monotonic()
            self.control_changed()

    def control_changed(self) -> None:
        for group in list(self.groups):
            group.wake()

    def control_tick(self, now: float) -> None:
        """Stalls are seen by the watch thread."""


class ZeroMQCommunicator(Communicator):
    """One rank of a group over ZeroMQ; :meth:`connect` makes the group of all ranks."""

    backend = "zmq"

    def __init__(self, job: _Job, ranks: Sequence[int], pull: Any, token: bytes, *, timeout_s: float) -> None:
        assert job.mesh is not None
        super().__init__(ranks.index(job.mesh.rank), len(ranks), timeout_s=timeout_s)
        self._job, self._mesh, self._ranks, self._token = job, job.mesh, list(ranks), token
        self._pull, self._wait_ms = pull, -1
        self._push: dict[int, Any] = {}
        self._inbox: dict[int, deque[tuple[bytes, Any]]] = defaultdict(deque)  # source -> (header or b"", piece)
        self._trackers: list[tuple[int, Any]] = []
        self._released = False
        zmq = _zmq()
        self._waker = job.context.socket(zmq.PUSH)
        self._waker.linger = 0
        self._waker.connect(f"inproc://{token.hex()}")
        self._waking = threading.Lock()
        self.job_ranks, self.stall_s = self._ranks, job.stall_s
        job.groups.append(self)

    @classmethod
    def connect(
        cls, environment: RankEnvironment, timeout_s: float | None = None, *, stall_s: float = STALL_S
    ) -> ZeroMQCommunicator:
        """Meet the other ranks of the job at ``environment.rendezvous`` and connect to each of them.

        Args:
            timeout_s: deadline for the meeting and for every operation later (default: the environment's, else 600).
            stall_s: after how many seconds without progress one line is printed.

        Raises LaunchError when this process does not belong to the job, DeadlineError naming the ranks that did not come.
        """
        timeout_s = timeout_s or environment.timeout_s or DEFAULT_TIMEOUT_S
        environment = _on_this_host(environment)
        job = _Job(_zmq().Context(), stall_s)
        ranks = list(range(environment.size))
        token = _token(job_of(environment), "world", ranks)
        try:
            pull, data = _bind(job.context, token)
            job.meet(environment, data, timeout_s)
        except BaseException:
            job.close()
            raise
        communicator = cls(job, ranks, pull, token, timeout_s=timeout_s)
        communicator._connect_to([member.data for member in job.members])
        return communicator

    def split(self, color: int, key: int | None = None) -> ZeroMQCommunicator:
        token = _token(self._token.hex(), f"split {self._sequence} {color}", self._ranks)
        pull, address = _bind(self._job.context, token)
        mine = [color, self.rank if key is None else key, address]
        rows = self.all_gather_object(mine, name="split").wait()
        order = [rank for _, rank in sorted((k, rank) for rank, (c, k, _) in enumerate(rows) if c == color)]
        group = type(self)(self._job, [self._ranks[r] for r in order], pull, token, timeout_s=self.timeout_s)
        group._connect_to([rows[rank][2] for rank in order])
        return group

    def resolve(self, step: int, payload: bytes | None, timeout_s: float = 1.0) -> bytes | None:
        """After a PeerLostError: the commit message of ``step`` if any survivor has it, else None; the same on all of them.

        Args:
            step: the step whose commit message this rank holds, or is waiting for.
            payload: that message, or None when it has not come.
            timeout_s: by then a survivor that does not call this counts as dead.

        Every survivor must call it once. It works after errors and aborts, until ``close``.
        """
        return self._job.agreement.resolve(step, payload, timeout_s)

    # -- messages -----------------------------------------------------------------------------------------------------

    def _connect_to(self, addresses: Sequence[str]) -> None:
        zmq = _zmq()
        for rank, address in enumerate(addresses):
            if rank != self.rank:
                push = self._push[rank] = self._job.context.socket(zmq.PUSH)
                push.set_hwm(0)  # every rank posts to all before it takes: a limit would be a deadlock
                push.linger = 0
                push.copy_threshold = 0
                push.connect(address)

    def _post(self, dest: int, header: Header, view: memoryview) -> None:
        zmq, push, text = _zmq(), self._push[dest], header.encode()
        prefix = _PREFIX.pack(self._token, self.rank, len(text)) + text
        view = view.cast("B") if view.nbytes else memoryview(b"")
        if view.nbytes <= INLINE_BYTES:
            push.send(b"".join((prefix, view)), zmq.DONTWAIT)
            return
        for start in range(0, view.nbytes, SEGMENT_BYTES):
            push.send(prefix, zmq.DONTWAIT | zmq.SNDMORE)
            piece = view[start : start + SEGMENT_BYTES]
            if view.nbytes <= COPY_BYTES:
                push.send(piece, zmq.DONTWAIT)
            else:
                self._trackers.append((dest, push.send(piece, zmq.DONTWAIT, copy=False, track=True)))
            prefix = _PREFIX.pack(self._token, self.rank, 0)

    def _flush(self, deadline: float) -> None:
        # small messages were copied: they leave within microseconds, but nothing tells when
        zmq = _zmq()
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

    def _take(self, source: int, expected: Header, out: np.ndarray | None, deadline: float) -> Any:
        text, piece = self._next(source, deadline)
        came = Header.decode(text)
        check(expected, came, self.rank)
        if out is None and len(piece) == came.nbytes:
            return bytes(piece)
        target = np.empty(came.nbytes, np.uint8) if out is None else out
        at = 0
        while at < came.nbytes:
            target[at : at + len(piece)] = np.frombuffer(piece, np.uint8)
            at += len(piece)
            if at < came.nbytes:
                _, piece = self._next(source, deadline)
        return target.tobytes() if out is None else out

    def _next(self, source: int, deadline: float) -> tuple[bytes, Any]:
        waiting = self._inbox[source]
        while not waiting:
            self._raise_if_ended(source)
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                raise TimeoutError
            self._receive(min(left_s, self._slice_s(source)))
        return waiting.popleft()

    def _slice_s(self, source: int) -> float:
        whole = self._gone(source) is None
        return (_SLICE_MS if whole else _GRACE_SLICE_MS) / 1000

    def _receive(self, timeout_s: float) -> None:
        """One message into the inbox of its source; strangers' are dropped, the control channel's wake-ups are empty."""
        zmq, pull = _zmq(), self._pull
        wait_ms = max(1, int(timeout_s * 1000))
        if wait_ms != self._wait_ms:
            pull.rcvtimeo = self._wait_ms = wait_ms
        try:
            frames = [pull.recv(copy=False)]
        except zmq.Again:
            return
        while frames[-1].more:
            frames.append(pull.recv(copy=False))
        data = frames[0].buffer
        if len(data) < _PREFIX.size or len(frames) > 2:
            return
        token, source, length = _PREFIX.unpack_from(data)
        if token != self._token or source not in self._push:
            return
        body = _PREFIX.size + length
        piece = data[body:] if len(frames) == 1 else frames[1].buffer
        self._inbox[source].append((bytes(data[_PREFIX.size : body]), piece))
        self.arrived += 1

    def _look(self, ranks: Sequence[int]) -> None:
        for rank in ranks:
            self._raise_if_ended(rank)

    def _has_come(self, source: int) -> bool:
        return bool(self._inbox[source])

    # -- the control channel ------------------------------------------------------------------------------------------

    def _raise_if_ended(self, source: int) -> None:
        end = self._mesh.ended
        if end is not None:
            if end.lost and end.lost[0] != self._mesh.rank:
                raise self._lost_error(self._job.members[end.lost[0]], False)
            raise AbortedError(end.reason) if end.told_by == self._mesh.rank else consequence(end.reason)
        gone = self._gone(source)
        if gone is not None:
            left, since = gone
            if time.monotonic() - since > (LEFT_GRACE_S if left else LOST_GRACE_S):
                raise self._lost_error(self._job.members[self._ranks[source]], left)

    def _gone(self, source: int) -> tuple[bool, float] | None:
        """(left in good order, since when) for a rank of this group that is not there any more."""
        peer = self._mesh.peers[self._ranks[source]]
        if peer.state == LOST:
            return False, peer.since
        left = self._job.left.get((self._token.hex(), self._ranks[source]))
        if left is None and peer.state == LEFT:
            left = peer.since
        return None if left is None else (True, left)

    def _lost_error(self, member: Member, left: bool) -> PeerLostError:
        return PeerLostError(lost_message(self._mesh.rank, member, self.current, left))

    def _abort(self, reason: str) -> None:
        self._mesh.abort(reason)

    def _ended_by(self) -> dict[int, str]:
        return {self._ranks.index(rank): why for rank, why in list(self._mesh.ended_by.items()) if rank in self._ranks}

    def wake(self) -> None:
        """Let whoever waits here for data look at the control channel's news. Any thread."""
        with self._waking:
            if not self._released:
                self._waker.send(b"")

    def _close(self) -> None:
        job = self._job
        if self is job.groups[0]:  # the group of all ranks: the others cannot live without it
            for group in job.groups[:0:-1]:
                group.close()
        clean = not self._trackers and self._mesh.ended is None
        with self._waking:
            self._released = True
            self._waker.close()
        for rank, push in self._push.items():
            self._mesh.send(self._ranks[rank], {"kind": "left", "group": self._token.hex()})
            push.close(linger=LINGER_MS if clean and self._gone(rank) is None else 0)
        if self._thread is None or not self._thread.is_alive():  # a thread that hangs may still read it
            self._pull.close(linger=0)
        if self is job.groups[0]:
            job.close()
        else:
            job.groups.remove(self)


def _bind(context: Any, token: bytes) -> tuple[Any, str]:
    """A PULL socket where other processes of this user reach it, and inside this process at the token's name.

    Linux: a socket in the abstract namespace, which is faster than TCP and leaves no file behind; elsewhere the loopback.
    """
    zmq = _zmq()
    pull = context.socket(zmq.PULL)
    pull.set_hwm(0)
    pull.linger = 0
    pull.maxmsgsize = _MAX_FRAME_BYTES
    try:
        if sys.platform == "linux":
            pull.setsockopt(zmq.IPC_FILTER_UID, os.getuid())
            address = f"ipc://@phalanx-{os.urandom(16).hex()}"
            pull.bind(address)
        else:
            address = f"tcp://127.0.0.1:{pull.bind_to_random_port('tcp://127.0.0.1')}"
        pull.bind(f"inproc://{token.hex()}")
    except BaseException:
        pull.close()
        raise
    return pull, address


def _on_this_host(environment: RankEnvironment) -> RankEnvironment:
    """All ranks meet on the loopback, whatever name the launcher gave this machine."""
    if environment.local_size != environment.size:
        raise LaunchError(
            f"rank {environment.rank}: {environment.local_size} of {environment.size} ranks are on this host (from {environment.source}): "
            "the zmq backend connects ranks of one host only, its traffic is not encrypted; use mpirun for several hosts"
        )
    port = environment.address
    return environment if port is None else replace(environment, rendezvous=f"127.0.0.1:{port[1]}")


def _token(secret: str, group: str, ranks: Sequence[int]) -> bytes:
    return hashlib.sha256(f"{secret}|{group}|{list(ranks)}".encode()).digest()[:16]


def _zmq() -> Any:
    """pyzmq, loaded by the first communicator and not by ``import phalanx``."""
    try:
        import zmq  # noqa: PLC0415
    except ImportError as error:
        raise LaunchError(
            f"the zmq backend needs pyzmq, which cannot be imported ({error}): pip install pyzmq"
        ) from None
    return zmq
