"""Ranks as MPI processes, through mpi4py, which is imported here alone and only when an MPI launcher started us.

Every wait polls with a deadline: a blocking MPI call could never tell who is missing. A message is a frame (header,
and the payload when it is small), then the pieces of a large payload. MPI keeps the order of messages of one tag, so
that the next frame of a rank is its next message, right or wrong: a difference is seen, not waited for.

When this rank fails it tells the others why, leaves its main thread a moment to print the traceback, and then calls
``MPI_Abort``, upon which mpirun kills all ranks.
"""

from __future__ import annotations

import contextlib
import os
import struct
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn, TypeVar

import numpy as np

from .. import env
from ..errors import LaunchError, PeerLostError
from ..messages import Header
from .base import DEFAULT_TIMEOUT_S, Communicator, check, consequence

T = TypeVar("T")

INLINE_NBYTES = 3072
"""Up to here the payload rides on the frame; with its header it stays below Open MPI's eager limit of 4096 bytes."""
PIECE_NBYTES = 8 << 20
"""Largest single transfer: above 16 MB Open MPI needs temporary memory that is page-faulted in on each call (measured)."""
ABORT_GRACE_S = 2.0
"""How long the main thread of the failing rank may take to print its traceback."""
_YIELDS = 64
_AWAKE_YIELDS = 2000  # some milliseconds: longer than a transfer stands still
_SLEEP_S = 0.001
_TAG_ABORT = 1
_FIRST_TAG = 2
_GOODBYE = "goodbye"
_ENVIRONMENT = {
    "OMPI_MCA_btl": "^ofi",  # its start sleeps for a second (measured, Open MPI 5.0)
    "OMPI_MCA_osc": "^ucx",  # prints a warning
    "OMPI_MCA_mpi_yield_when_idle": "1",  # ranks may share a core
}


class World:
    """This process among all MPI processes: shared by the groups that it is a member of."""

    def __init__(self, mpi: Any) -> None:
        self.mpi = mpi
        self.comm = mpi.COMM_WORLD.Dup()
        self.rank, self.size = self.comm.rank, self.comm.size
        self.reasons: dict[int, str] = {}
        self.own_reason: str | None = None
        self.next_tag = _FIRST_TAG
        self._ending = threading.Lock()
        self.kept: list[Any] = []  # requests and buffers of what nobody waits for

    def told(self) -> dict[int, str]:
        """The ranks that have ended the job, and why, in the order in which they were heard."""
        status = self.mpi.Status()
        while (message := self.comm.Improbe(self.mpi.ANY_SOURCE, _TAG_ABORT, status)) is not None:
            data = bytearray(status.Get_count(self.mpi.BYTE))
            message.Recv([data, self.mpi.BYTE])
            self.reasons[status.Get_source()] = data.decode(errors="replace")
        return self.reasons

    def tell(self, reason: str) -> None:
        """Tell the others why the job is over unless one has told us, and end it soon, whatever the main thread does."""
        if not self.told():
            self.own_reason = reason
            data = reason.encode()[:INLINE_NBYTES]
            for other in range(self.size):
                if other != self.rank:
                    self.kept.append((self.comm.Isend([data, self.mpi.BYTE], other, _TAG_ABORT), data))
        threading.Thread(target=self._end_later, args=(reason,), name="mpi-abort", daemon=True).start()

    def _end_later(self, reason: str) -> None:
        time.sleep(ABORT_GRACE_S)
        if not self._ending.locked():
            print(f"rank {self.rank} of {self.size} ends the job: {reason}", file=sys.stderr, flush=True)
        self.end(1)

    def end(self, code: int) -> NoReturn:
        """MPI_Abort, after what was printed has left. Does not return."""
        if self._ending.acquire(blocking=False):
            with contextlib.suppress(OSError, ValueError):
                sys.stdout.flush()
                sys.stderr.flush()
            self.comm.Abort(code)
        while True:  # another thread is ending the process
            time.sleep(1.0)


class MpiCommunicator(Communicator):
    """A group of MPI processes. ``from_world`` gives the group of all; the others come from ``split``."""

    backend = "mpi"

    def __init__(self, world: World, members: list[int], tag: int, *, timeout_s: float) -> None:
        super().__init__(members.index(world.rank), len(members), timeout_s=timeout_s)
        self._world, self._members_of_world, self._tag = world, members, tag
        self.job_ranks = members
        self._sending: list[tuple[Any, int, Any]] = []  # request, receiver, memory
        world.next_tag = max(world.next_tag, tag + 2)

    @classmethod
    def from_world(cls, *, expected_size: int | None = None, timeout_s: float = DEFAULT_TIMEOUT_S) -> MpiCommunicator:
        """All processes that mpirun (or srun) started. Imports mpi4py, which starts MPI.

        ``expected_size``: what the launcher said (default: read from the environment); LaunchError where MPI sees
        another number, which happens when mpirun and the MPI library of this process are of two kinds.
        """
        mpi = _import_mpi()
        if expected_size is None and (found := env.read(os.environ)) is not None:
            expected_size = found.size
        if expected_size is not None and mpi.COMM_WORLD.size != expected_size:
            raise LaunchError(_two_kinds(expected_size, mpi.COMM_WORLD.size, mpi.Get_library_version(), os.environ))
        if mpi.Query_thread() < mpi.THREAD_MULTIPLE:
            raise LaunchError(
                "MPI was started without MPI_THREAD_MULTIPLE, which the communication thread needs: do not start MPI "
                "before phalanx.init(), or leave mpi4py.rc.thread_level at 'multiple'"
            )
        world = World(mpi)
        return cls(world, list(range(world.size)), _FIRST_TAG, timeout_s=timeout_s)

    # -- sending -------------------------------------------------------------------------------------------------------

    def _post(self, dest: int, header: Header, view: memoryview) -> None:
        head = header.encode()
        inline = view.nbytes <= INLINE_NBYTES
        self._isend(dest, b"".join((struct.pack("<I", len(head)), head, view if inline else b"")), self._tag)
        if not inline:
            for lo in range(0, view.nbytes, PIECE_NBYTES):
                self._isend(dest, view[lo : lo + PIECE_NBYTES], self._tag + 1)

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

    def _take(self, source: int, expected: Header, out: np.ndarray | None, deadline: float) -> Any:
        came, inline = self._frame(source, deadline)
        if came.part == _GOODBYE:
            raise PeerLostError(f"rank {self.rank} of {self.size} in {expected.operation}: rank {source} has ended")
        check(expected, came, self.rank)
        data = np.empty(came.nbytes, np.uint8) if out is None else out
        if came.nbytes <= INLINE_NBYTES:
            data[:] = np.frombuffer(inline, np.uint8)
        else:
            self._pieces(source, data, deadline)
        return data.tobytes() if out is None else data

    def _frame(self, source: int, deadline: float) -> tuple[Header, memoryview]:
        world, peer = self._world, self._members_of_world[source]
        status = world.mpi.Status()
        message = self._poll(lambda: world.comm.Improbe(peer, self._tag, status), deadline)
        frame = memoryview(bytearray(status.Get_count(world.mpi.BYTE)))
        request = message.Irecv([frame, world.mpi.BYTE])
        self._poll(request.Test, deadline)
        length = struct.unpack_from("<I", frame)[0]
        return Header.decode(bytes(frame[4 : 4 + length])), frame[4 + length :]

    def _pieces(self, source: int, data: np.ndarray, deadline: float) -> None:
        world, peer = self._world, self._members_of_world[source]
        requests = [
            world.comm.Irecv([data[lo : lo + PIECE_NBYTES], world.mpi.BYTE], peer, self._tag + 1)
            for lo in range(0, data.nbytes, PIECE_NBYTES)
        ]
        self._poll(lambda: world.mpi.Request.Testall(requests), deadline)

    def _look(self, ranks: Sequence[int]) -> None:
        for reason in self._world.told().values():
            raise consequence(reason)

    def _has_come(self, source: int) -> bool:
        return bool(self._world.comm.Iprobe(self._members_of_world[source], self._tag))

    def _poll(self, ready: Callable[[], T], deadline: float) -> T:
        """The first true value of ``ready()``. Yields at first, then sleeps longer and longer: others need the core."""
        tries = 0
        while not (value := ready()):
            tries += 1
            if tries % _YIELDS:
                os.sched_yield()
                continue
            for reason in self._world.told().values():
                raise consequence(reason)
            self._look_for_mismatch()
            if time.monotonic() >= deadline:
                raise TimeoutError
            if tries > _AWAKE_YIELDS:
                time.sleep(_SLEEP_S)
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
        self._world.tell(reason)

    def _ended_by(self) -> dict[int, str]:
        own = {} if self._world.own_reason is None else {self.rank: self._world.own_reason}
        return {**self._world.told(), **own}

    def end_job(self, reason: str, code: int = 1, *, is_consequence: bool = False) -> None:
        """MPI_Abort with ``code``; does not return. Where another rank failed it is left the time to say why first."""
        self.abort(reason)
        if is_consequence:
            time.sleep(ABORT_GRACE_S + 1.0)
        self._world.end(code)

    def _close(self) -> None:
        if self._broken is not None:
            return
        for dest in range(self.size):
            if dest != self.rank:
                self._post(dest, Header(self.rank, 0, "", _GOODBYE, 0), memoryview(b""))
        self._world.kept += self._sending


def _import_mpi() -> Any:
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    try:
        from mpi4py import MPI  # noqa: PLC0415
    except ImportError as error:
        raise LaunchError(
            f"launched by an MPI launcher, but mpi4py cannot be imported ({error}): pip install 'phalanx[mpi]'"
        ) from error
    except RuntimeError as error:
        raise LaunchError(
            f"mpi4py found no MPI library that it can load ({error}): pip install 'phalanx[mpi]'"
        ) from error
    return MPI


def _two_kinds(expected: int, seen: int, library: str, environ: Mapping[str, str]) -> str:
    launcher = (
        "Open MPI's mpirun"
        if "OMPI_COMM_WORLD_SIZE" in environ
        else "MPICH's mpirun (PMI)"
        if "PMI_SIZE" in environ
        else "the launcher"
    )
    return (
        f"{launcher} started {expected} ranks, but the MPI library of this process sees a world of {seen}. That library "
        f"is {library.splitlines()[0].strip(', ')}: mpirun and library are of two kinds. Start the job with the mpirun "
        f"of that library (for the one from PyPI: {os.path.join(sys.prefix, 'bin', 'mpirun')}), or let mpi4py load the "
        "launcher's library (MPI4PY_LIBMPI=/path/to/libmpi.so)."
    )
