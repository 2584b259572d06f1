"""What ranks on several hosts are asked to do, over ZeroMQ or MPI; :mod:`tests.ranks.test_hosts` calls these by name."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

from phalanx.dist.communicators import zeromq
from phalanx.dist.communicators.base import Communicator
from phalanx.dist.communicators.sockets import Outlet, Outside
from phalanx.dist.host import host_name
from phalanx.dist.member import address_of

CANARY = b"canary-of-the-tests-in-a-gradient"
"""What must not be readable on the wire."""


def hosts(comm: Communicator) -> list[str]:
    """The name of each rank's host."""
    return [host_name(identity) for identity in comm._hosts()]  # type: ignore[attr-defined]


def places(comm: Communicator) -> dict[str, list[str]]:
    """The name of each rank's host, and the TCP addresses at which this process listens while the job runs."""
    return {"hosts": hosts(comm), "listening": listening(comm)}


def listening(comm: Communicator) -> list[str]:
    """The TCP addresses at which this process listens while the job runs."""
    comm.barrier().wait()
    inodes = set()
    for link in Path("/proc/self/fd").iterdir():
        if link.exists() and os.readlink(link).startswith("socket:["):
            inodes.add(os.readlink(link)[8:-1])
    found = []
    for line in Path("/proc/self/net/tcp").read_text().splitlines()[1:]:
        columns = line.split()
        if columns[3] == "0A" and columns[9] in inodes:
            found.append(socket.inet_ntoa(bytes.fromhex(columns[1].partition(":")[0])[::-1]))
    comm.barrier(name="seen").wait()
    return sorted(found)


def control_hosts(comm: Communicator) -> list[str]:
    """Where the control connections were made."""
    return sorted({address_of(member.control)[0] for member in comm._peers.members})  # type: ignore[attr-defined]


def until_told(comm: Communicator, where: str) -> int:
    """All-reduces of a canary until WHERE/until exists; rank 0 writes the data addresses to WHERE/table first."""
    if comm.rank == 0:
        draft = Path(where, "draft")
        draft.write_text(json.dumps([member.data for member in comm._job.members]))  # type: ignore[attr-defined]
        draft.rename(Path(where, "table"))
    words = np.frombuffer(CANARY * 3000, np.uint8).astype(np.int64)
    raw = np.frombuffer(CANARY * 3000, np.uint8).copy()
    count = 0
    while comm.broadcast_object(not Path(where, "until").exists(), name="go on").wait():
        array = words * (comm.rank + 1)
        comm.all_reduce(array, name="numbers").wait()
        assert (array == words * sum(range(1, comm.size + 1))).all()
        comm.broadcast(raw, name="canary").wait()
        count += 1
    return count


def through_a_proxy(comm: Communicator, flip_at: int | None) -> bool:
    """An all-reduce whose data from rank 1 pass a proxy that flips one bit of the byte ``flip_at``."""

    def outlet(context: Any, address: str, outside: Outside | None, far: bool) -> Outlet:
        near, beyond, *keys = address.split()
        return Outlet(context, " ".join((near, f"tcp://127.0.0.1:{Proxy(beyond, flip_at).port}", *keys)), outside, far)

    if comm.rank == 1:
        zeromq.Outlet = outlet  # type: ignore[assignment, misc]
    group = comm.split(0)
    array = np.full(2_000_000, comm.rank + 1, np.float32)
    group.all_reduce(array, name="gradient").wait()
    comm.barrier(name="after").wait()
    return bool((array == 3).all())


class Proxy:
    """Passes bytes between a port of this host and ``address``, and flips a bit of the ``flip_at``-th byte, once."""

    def __init__(self, address: str, flip_at: int | None) -> None:
        host, _, port = address.removeprefix("tcp://").rpartition(":")
        self._target, self._flip_at, self._passed = (host, int(port)), flip_at, 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            near, _ = self._listener.accept()
            threading.Thread(
                target=self._pass, args=(near, socket.create_connection(self._target)), daemon=True
            ).start()

    def _pass(self, near: socket.socket, far: socket.socket) -> None:
        pairs = {near: far, far: near}
        while True:
            for source in select.select(list(pairs), [], [])[0]:
                try:
                    data = bytearray(source.recv(65536))
                    if source is near and self._flip_at is not None and self._passed + len(data) > self._flip_at:
                        data[self._flip_at - self._passed] ^= 4
                        self._flip_at = None
                    self._passed += len(data) if source is near else 0
                    pairs[source].sendall(data)
                except OSError:
                    data = bytearray()
                if not data:
                    near.close()
                    far.close()
                    return


def shorten_silence(comm: Communicator, seconds: float) -> None:
    """How long another host may acknowledge nothing, on the connections that there are."""
    comm._mesh.silence_s = seconds
    for peer in comm._mesh.peers.values():
        if peer.remote:
            assert peer.connection is not None
            before = peer.connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)
            assert before == 8000, before
            peer.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(seconds * 1000))


def train(comm: Communicator, where: str, silence_s: float | None = None) -> None:
    """Reduces for ever; WHERE/running appears when all ranks do."""
    if silence_s is not None:
        shorten_silence(comm, silence_s)
    array = np.ones(300_000, np.float32)
    for step in range(1_000_000):
        comm.all_reduce(array, name="gradient").wait()
        array.fill(1)
        if step == 3 and comm.rank == 0:
            Path(where, "running").touch()


def stand_still(comm: Communicator, silence_s: float, still_s: float) -> float:
    """The last rank stops (SIGSTOP) for longer than another host may be silent; the next operation waits for it."""
    shorten_silence(comm, silence_s)
    began = time.monotonic()
    comm.barrier().wait()
    if comm.rank == comm.size - 1:
        child = os.fork()
        if child == 0:
            time.sleep(still_s)
            os.kill(os.getppid(), signal.SIGCONT)
            os._exit(0)
        os.kill(os.getpid(), signal.SIGSTOP)
        os.waitpid(child, 0)
    comm.all_reduce(np.ones(10), name="after").wait()
    return time.monotonic() - began
