"""Ranks as MPI processes, through mpi4py.

Every wait polls with a deadline: a blocking MPI call could never tell who is missing. A message is a frame (header,
and the payload when it is small), then the pieces of a large payload. MPI keeps the order of messages of one tag, so
that the next frame of a rank is its next message, right or wrong: a difference is seen, not waited for. Between hosts
the frame also tells the payload's sum, since TCP's own checksum lets some damage pass. What a program
announces is received before its frame is looked at, so that the wire does not stand still between two messages.

When this rank fails it tells the others why over the control connections, leaves its main thread a moment to print the
traceback, and then calls ``MPI_Abort``, upon which mpirun kills all ranks.
"""

from __future__ import annotations

import os
import struct
import time
from collections import defaultdict, deque
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np

from .. import env
from ..errors import LaunchError, PeerLostError
from ..messages import Header, damaged, payload_sum
from .base import DEFAULT_TIMEOUT_S, check
from .mpi_world import ABORT_GRACE_S, FAR_PIECE_NBYTES, FIRST_TAG, World, load_mpi, two_kinds
from .peers import PeeredCommunicator

T = TypeVar("T")

INLINE_NBYTES = 3072
"""Up to here the payload rides on the frame; with its header it stays below Open MPI's eager limit of 4096 bytes."""
PIECE_NBYTES = 8 << 20
"""Largest single transfer within a host: above 16 MB Open MPI needs temporary memory that is page-faulted in on each call (measured)."""
_PREFIX = struct.Struct("<IQ")  # length of the header, sum of the payload
_LOOK_EVERY = 64
_AWAKE_YIELDS = 2000  # some milliseconds: longer than a transfer within a host stands still
_FAR_YIELDS = 40  # another host's answer takes longer than the core may be kept from computing
_FAR_SLEEP_S, _SLEEP_S = 0.0001, 0.001
_FAR_PATIENCE_S = 1.0
_GOODBYE = "goodbye"


class MpiCommunicator(PeeredCommunicator):
    """A group of MPI processes. ``from_world`` gives the group of all; the others come from ``split``."""

    backend = "mpi"

    def __init__(self, world: World, members: list[int], tag: int, *, timeout_s: float) -> None:
        super().__init__(world, members, str(tag), timeout_s=timeout_s)
        self._world, self._members_of_world, self._tag = world, members, tag
        self._sending: list[tuple[Any, int, Any]] = []  # request, receiver, memory
        self._announced: dict[int, deque[tuple[np.ndarray, list[Any]]]] = defaultdict(deque)
        self._several_hosts = len(set(self._hosts())) > 1
        self._piece_nbytes = [FAR_PIECE_NBYTES if self._is_remote(r) else PIECE_NBYTES for r in range(self.size)]
        world.next_tag = max(world.next_tag, tag + 2)

    @classmethod
    def from_world(cls, *, expected_size: int | None = None, timeout_s: float = DEFAULT_TIMEOUT_S) -> MpiCommunicator:
        """All processes that mpirun (or srun) started. Imports mpi4py, which starts MPI.

        ``expected_size``: what the launcher said (default: read from the environment); LaunchError where MPI sees
        another number, which happens when mpirun and the MPI library of this process are of two kinds.
        """
        mpi = load_mpi()
        if expected_size is None and (found := env.read(os.environ)) is not None:
            expected_size = found.size
        if expected_size is not None and mpi.COMM_WORLD.size != expected_size:
            raise LaunchError(two_kinds(expected_size, mpi.COMM_WORLD.size, mpi.Get_library_version(), os.environ))
        if mpi.Query_thread() < mpi.THREAD_MULTIPLE:
            raise LaunchError(
                "MPI was started without MPI_THREAD_MULTIPLE, which the communication thread needs: do not start MPI "
                "before phalanx.init(), or leave mpi4py.rc.thread_level at 'multiple'"
            )
        world = World(mpi, timeout_s)
        return cls(world, list(range(world.size)), FIRST_TAG, timeout_s=timeout_s)

    # -- sending -------------------------------------------------------------------------------------------------------

    def _post(self, dest: int, header: Header, view: memoryview) -> None:
        head = header.encode()
        inline = view.nbytes <= INLINE_NBYTES
        prefix = _PREFIX.pack(len(head), payload_sum(view) if self._is_remote(dest) else 0)
        self._isend(dest, b"".join((prefix, head, view if inline else b"")), self._tag)
        if not inline:
            step = self._piece_nbytes[dest]
            for lo in range(0, view.nbytes, step):
                self._isend(dest, view[lo : lo + step], self._tag + 1)

    def _isend(self, dest: int, data: Any, tag: int) -> None:
        world = self._world
        request = world.comm.Isend([data, world.mpi.BYTE], self._members_of_world[dest], tag)
        self._sending.append((request, dest, data))

    def _flush(self, deadline: float) -> None:
        self._poll(self._all_sent, deadline)

    def _all_sent(self) -> bool:
        self._sending = [entry for entry in self._sending if not entry[0].Test()]
        return not self._sending

    def _unread(self) -> list[int]:
        return sorted({dest for _, dest, _ in self._sending})

    # -- receiving -----------------------------------------------------------------------------------------------------

    def _expect(self, source: int, out: np.ndarray) -> None:
        if out.nbytes > INLINE_NBYTES:
            self._announced[source].append((out, self._receive(source, out)))

    def _receive(self, source: int, data: np.ndarray) -> list[Any]:
        world, peer, step = self._world, self._members_of_world[source], self._piece_nbytes[source]
        return [
            world.comm.Irecv([data[lo : lo + step], world.mpi.BYTE], peer, self._tag + 1)
            for lo in range(0, data.nbytes, step)
        ]

    def _take(self, source: int, expected: Header, out: np.ndarray | None, deadline: float) -> Any:
        came, total, inline = self._frame(source, deadline)
        if came.part == _GOODBYE:
            raise PeerLostError(f"rank {self.rank} of {self.size} in {expected.operation}: rank {source} has ended")
        check(expected, came, self.rank)
        data = np.empty(came.nbytes, np.uint8) if out is None else out
        if came.nbytes <= INLINE_NBYTES:
            data[:] = np.frombuffer(inline, np.uint8)
        else:
            requests = self._requests_for(source, data)
            self._poll(lambda: self._world.mpi.Request.Testall(requests), deadline, source)
        if self._is_remote(source) and payload_sum(data) != total:
            raise damaged(f"rank {self.rank} in {expected.operation}: what came from {self._member(source)}")
        return data.tobytes() if out is None else data

    def _requests_for(self, source: int, data: np.ndarray) -> list[Any]:
        announced = self._announced[source]
        if not announced:
            return self._receive(source, data)
        memory, requests = announced.popleft()
        assert memory.ctypes.data == data.ctypes.data, "messages are taken in the order in which they were announced"
        return requests

    def _frame(self, source: int, deadline: float) -> tuple[Header, int, memoryview]:
        """The header of the next message, the sum of its payload, and the payload if it is small."""
        world, peer = self._world, self._members_of_world[source]
        status = world.mpi.Status()
        message = self._poll(lambda: world.comm.Improbe(peer, self._tag, status), deadline, source)
        frame = memoryview(bytearray(status.Get_count(world.mpi.BYTE)))
        request = message.Irecv([frame, world.mpi.BYTE])
        self._poll(request.Test, deadline)
        length, total = _PREFIX.unpack_from(frame)
        end = _PREFIX.size + length
        return Header.decode(bytes(frame[_PREFIX.size : end]), source, self.rank), total, frame[end:]

    def _has_come(self, source: int) -> bool:
        return bool(self._world.comm.Iprobe(self._members_of_world[source], self._tag))

    def _poll(self, ready: Callable[[], T], deadline: float, source: int | None = None) -> T:
        """The first true value of ``ready()``. Yields at first, then sleeps: others need the core.

        Within a host a transfer stands still for microseconds. Between hosts the wire sets the pace, and a thread that
        polled all the time would take the core from who computes; MPI moves the data in the polls between short sleeps.
        """
        tries, yields = 0, _FAR_YIELDS if self._several_hosts else _AWAKE_YIELDS
        began = time.monotonic()
        while not (value := ready()):
            tries += 1
            asleep = tries > yields
            if not asleep and tries % _LOOK_EVERY:
                os.sched_yield()
                continue
            self._raise_if_over()
            if source is not None:
                self._raise_if_ended(source)
            self._look_for_mismatch()
            now = time.monotonic()
            if now >= deadline:
                raise TimeoutError
            if asleep:
                patient = self._several_hosts and now - began < _FAR_PATIENCE_S
                time.sleep(_FAR_SLEEP_S if patient else _SLEEP_S)
        return value

    # -- groups and the end --------------------------------------------------------------------------------------------

    def split(self, color: int, key: int | None = None) -> MpiCommunicator:
        row = [color, self.rank if key is None else key, self.rank, self._world.next_tag]
        rows = self.all_gather_object(row, name="split").wait()
        group = sorted(r for r in rows if r[0] == color)
        tag = max(next_tag for *_, next_tag in group)  # no member has used it in any group
        members = [self._members_of_world[rank] for _, _, rank, _ in group]
        return MpiCommunicator(self._world, members, tag, timeout_s=self.timeout_s)

    def _abort(self, reason: str) -> None:
        self._mesh.abort(reason)
        self._world.end_soon(reason)

    def end_job(self, reason: str, code: int = 1, *, is_consequence: bool = False) -> None:
        """MPI_Abort with ``code``; does not return. Where another rank failed it is left the time to say why first."""
        self.abort(reason)
        if is_consequence:
            time.sleep(ABORT_GRACE_S + 1.0)
        self._world.end(code)

    def _release(self) -> None:
        if self._broken is None:
            for dest in range(self.size):
                if dest != self.rank:
                    self._post(dest, Header(self.rank, 0, "", _GOODBYE, 0), memoryview(b""))
        self._world.kept += [*self._sending, self._announced]
