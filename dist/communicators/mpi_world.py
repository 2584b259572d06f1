"""This process among all MPI processes: mpi4py is imported here alone, and only when an MPI launcher started us.

Beside MPI the ranks hold control connections to each other (:mod:`..control`), whose addresses and secret they exchange over
MPI: these bring the news of a failure or death, which MPI itself would not tell, to whoever waits in an MPI call.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Mapping
from typing import Any, NoReturn

from ..control import ControlMesh
from ..diagnosis.watch import STALL_S
from ..errors import LaunchError
from ..host import common_network, host_identity, networks
from ..lifeline import end_launcher_after
from ..member import LOOPBACK, Member, address_text, is_loopback, listen
from ..secret import nonce
from .peers import Peers

ABORT_GRACE_S = 2.0
"""How long the main thread of the failing rank may take to print its traceback."""
ABORT_LIMIT_S = 5
"""MPI_Abort itself may hang where mpirun cannot be reached: after so long the kernel ends this process."""
ABORT_APART_S = 0.1
"""Ranks that end the job by themselves do it one after the other: of two at once mpirun itself may crash (Open MPI 5.0)."""
FIRST_TAG = 1
FAR_PIECE_NBYTES = 1 << 20
"""Largest single transfer to another host, and what Open MPI sends there at once, without asking the receiver first: its
question and the answer would queue behind the data of the other direction, which halves the rate (measured)."""
_EAGER = str(FAR_PIECE_NBYTES + 4096)
_ENVIRONMENT = {
    "OMPI_MCA_btl": "^ofi",  # its start sleeps for a second (measured, Open MPI 5.0)
    "OMPI_MCA_osc": "^ucx",  # prints a warning
    "OMPI_MCA_mpi_yield_when_idle": "1",  # ranks may share a core
    "OMPI_MCA_btl_tcp_eager_limit": _EAGER,
    "OMPI_MCA_btl_tcp_rndv_eager_limit": _EAGER,
    "OMPI_MCA_btl_tcp_max_send_size": _EAGER,
    "UCX_LOG_LEVEL": "error",  # MPICH's warns at the end of messages that nobody wants any more
}


class World(Peers):
    """What all groups share in this process. Collective over all MPI processes.

    ``timeout_s``: deadline for the control connections.
    """

    def __init__(self, mpi: Any, timeout_s: float, stall_s: float = STALL_S) -> None:
        super().__init__(stall_s)
        self.mpi = mpi
        self.comm = mpi.COMM_WORLD.Dup()
        self.rank, self.size = self.comm.rank, self.comm.size
        self.next_tag = FIRST_TAG
        self.kept: list[Any] = []
        """Requests and buffers of what nobody waits for."""
        self._ending = threading.Lock()
        self._meet(time.monotonic() + timeout_s)

    # -- meeting -------------------------------------------------------------------------------------------------------

    def _meet(self, deadline: float) -> None:
        me = {
            "host": socket.gethostname(), "pid": os.getpid(), "identity": host_identity(), "networks": networks(),
            "secret": nonce() + nonce() if self.rank == 0 else "",
        }  # fmt: skip
        rows = [json.loads(text) for text in self._all_gather(json.dumps(me))]
        address, problem = "", ""
        listener: socket.socket | None = None
        try:
            listener = listen((_interface(rows, self.rank), 0))
            address = address_text(*listener.getsockname()[:2])
        except LaunchError as error:
            problem = f"rank {self.rank}: {error}"
        places = [json.loads(text) for text in self._all_gather(json.dumps([address, problem]))]
        problems = [words for _, words in places if words]
        if problems or listener is None:
            if listener is not None:
                listener.close()
            raise LaunchError(problems[0])
        members = [
            Member(rank, row["host"], row["pid"], "", place[0], row["identity"])
            for rank, (row, place) in enumerate(zip(rows, places, strict=True))
        ]
        self.connect(ControlMesh(self.rank, members, listener, rows[0]["secret"]), members, deadline)

    def _all_gather(self, text: str) -> list[str]:
        """Every rank's text, over MPI; nothing is pickled."""
        data = text.encode()
        sizes = bytearray(8 * self.size)
        self.comm.Allgather([len(data).to_bytes(8, sys.byteorder), self.mpi.BYTE], [sizes, 8, self.mpi.BYTE])
        counts = memoryview(sizes).cast("q").tolist()
        starts = [sum(counts[:rank]) for rank in range(self.size)]
        everything = bytearray(sum(counts))
        self.comm.Allgatherv([data, self.mpi.BYTE], [everything, counts, starts, self.mpi.BYTE])
        return [everything[at : at + size].decode() for at, size in zip(starts, counts, strict=True)]

    # -- the end -------------------------------------------------------------------------------------------------------

    def end_soon(self, reason: str) -> None:
        """End the job in a moment, whatever the main thread does: it may be printing why."""
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
            assert self.mesh is not None
            if any(peer.why for peer in self.mesh.peers.values()):  # mpirun cannot reach all of its daemons
                end_launcher_after(ABORT_GRACE_S)
            signal.alarm(ABORT_LIMIT_S)
            time.sleep(min(ABORT_APART_S * self.mesh.rank, 1.0))
            self.comm.Abort(code)
        while True:  # another thread is ending the process
            time.sleep(1.0)


def end_unmet(code: int) -> None:
    """The end of a rank that has started MPI and met nobody: MPI's own end would wait for the others, who wait for this rank."""
    mpi = sys.modules.get("mpi4py.MPI")
    if mpi is not None and mpi.Is_initialized() and not mpi.Is_finalized() and mpi.COMM_WORLD.size > 1:
        signal.alarm(ABORT_LIMIT_S)
        time.sleep(min(ABORT_APART_S * mpi.COMM_WORLD.rank, 1.0))
        mpi.COMM_WORLD.Abort(code)


def _interface(rows: list[dict[str, Any]], rank: int) -> str:
    """Where ``rank`` listens: the loopback on one host, otherwise its address in a network that all hosts are in."""
    hosts = {row["identity"]: row for row in rows}
    if len(hosts) == 1:
        return LOOPBACK
    network = common_network([row["networks"] for row in hosts.values()])
    own = rows[rank]["networks"]
    if network is not None:
        return str(own[network])
    with contextlib.suppress(OSError):  # hosts of different networks: what the name stands for
        address = socket.gethostbyname(socket.gethostname())
        if not is_loopback(address):
            return address
    if not own:
        raise LaunchError("ranks are on several hosts, but this one has no address that the others could reach")
    return str(next(iter(own.values())))


def load_mpi() -> Any:
    """mpi4py's MPI module. Importing it starts MPI."""
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


def two_kinds(expected: int, seen: int, library: str, environ: Mapping[str, str]) -> str:
    """The words for a launcher and a library that do not belong together."""
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
