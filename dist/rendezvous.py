"""The rendezvous: where the ranks of a ZeroMQ job learn each other's addresses.

Rank 0 serves it in a thread, on a listening socket that the launcher hands down (so that no port is ever guessed) or
on the address of the environment. Every rank, rank 0 too, says hello in one line of JSON and gets the table of all
ranks once the last one has come. Strangers and garbage on that port are refused and never disturb the others.
"""

from __future__ import annotations

import contextlib
import errno
import hmac
import json
import selectors
import socket
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from .env import RankEnvironment
from .errors import CommunicatorError, DeadlineError, LaunchError

REPORT_EVERY_S = 5.0
LINE_LIMIT_BYTES = 4096
STRANGER_S = 5.0
"""How long a connection may stay silent before it is closed."""
STRANGERS_LIMIT = 256
_RETRY_S = 0.05
_ANSWER_GRACE_S = 2.0
_BACKLOG = 1024


@dataclass(frozen=True, slots=True)
class Member:
    """One rank of the job, as the others see it."""

    rank: int
    host: str
    pid: int
    data: str
    """Address of its data socket, in the words of its wire."""
    control: str
    """Address where it takes control connections, ``host:port``."""

    def __str__(self) -> str:
        return f"rank {self.rank} (host {self.host}, pid {self.pid})"


def address_of(text: str) -> tuple[str, int]:
    """``"127.0.0.1:4000"`` as a pair."""
    host, _, port = text.rpartition(":")
    return host.strip("[]"), int(port)


def listen(address: tuple[str, int] = ("127.0.0.1", 0)) -> socket.socket:
    """A listening socket. Raises LaunchError that names who holds the port."""
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        holder = f" by {port_holder(address[1])}" if error.errno == errno.EADDRINUSE else ""
        raise LaunchError(
            f"cannot listen at {address[0]}:{address[1]}: {error.strerror}{holder}. Choose another port, or end that "
            "process."
        ) from None
    return listener


def port_holder(port: int) -> str:
    """Who listens at a TCP port of this machine, in words; what /proc does not tell is "another process"."""
    inodes = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            for line in Path(table).read_text().splitlines()[1:]:
                columns = line.split()
                if columns[3] == "0A" and int(columns[1].rpartition(":")[2], 16) == port:  # 0A: LISTEN
                    inodes.add(f"socket:[{columns[9]}]")
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if any(str(link.readlink()) in inodes for link in (process / "fd").iterdir()):
                return f"pid {process.name} ({(process / 'comm').read_text().strip()})"
    return "another process"


@dataclass(eq=False, slots=True)
class _Visitor:
    """A connection to the server: a rank once it has said hello."""

    connection: socket.socket
    came: float
    line: bytearray = field(default_factory=bytearray)
    member: Member | None = None


class RendezvousServer:
    """Collects ``size`` ranks of ``job`` and gives each of them the table.

    Args:
        size: how many ranks to wait for.
        job: name of this run; whoever says another one is refused.
        timeout_s: by when all must have come.
        listener: a listening socket, otherwise one is bound to 127.0.0.1 and a port of the system's choice.
        report: gets a line like ``7 of 8 ranks joined, waiting for rank 5`` every 5 s.
    """

    def __init__(
        self,
        size: int,
        job: str,
        timeout_s: float,
        *,
        listener: socket.socket | None = None,
        report: Callable[[str], None] | None = None,
    ) -> None:
        self.size, self.job, self.timeout_s = size, job, timeout_s
        self._listener = listener or listen()
        self._listener.setblocking(False)
        host, port = self._listener.getsockname()[:2]
        self.address = f"{host}:{port}"
        self._report = report or (lambda line: print(f"phalanx: {line}", file=sys.stderr, flush=True))
        self._members: dict[int, Member] = {}
        self._complete = False
        self._failed = False
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ, None)
        self._wake_reader, self._wake_writer = socket.socketpair()
        self._selector.register(self._wake_reader, selectors.EVENT_READ, None)
        self._thread = threading.Thread(target=self._serve, name="phalanx-rendezvous", daemon=True)

    def start(self) -> RendezvousServer:
        self._thread.start()
        return self

    def close(self) -> None:
        """Stop. Safe to call twice."""
        with contextlib.suppress(OSError):
            self._wake_writer.close()
        if self._thread.is_alive():
            self._thread.join(timeout=5.0)

    # -- the thread ---------------------------------------------------------------------------------------------------

    def _serve(self) -> None:
        began = time.monotonic()
        next_report = began + REPORT_EVERY_S
        try:
            while True:
                for key, _ in self._selector.select(timeout=0.5):
                    if key.fileobj is self._wake_reader:
                        return
                    if key.fileobj is self._listener:
                        self._accept()
                    else:
                        self._read(key.data)
                now = time.monotonic()
                self._drop_silent(now)
                if not self._complete and not self._failed:
                    if now >= next_report:
                        next_report = now + REPORT_EVERY_S
                        self._report(self._progress())
                    if now - began > self.timeout_s:
                        self._give_up(now - began)
        finally:
            for key in list(self._selector.get_map().values()):
                key.fileobj.close()  # type: ignore[union-attr]
            self._selector.close()

    def _visitors(self) -> list[_Visitor]:
        return [key.data for key in self._selector.get_map().values() if key.data is not None]

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            connection, _ = self._listener.accept()
            connection.setblocking(False)
            visitor = _Visitor(connection, time.monotonic())
            self._selector.register(connection, selectors.EVENT_READ, visitor)
            strangers = [other for other in self._visitors() if other.member is None]
            if len(strangers) > STRANGERS_LIMIT:
                self._drop(min(strangers, key=lambda other: other.came))

    def _read(self, visitor: _Visitor) -> None:
        try:
            data = visitor.connection.recv(LINE_LIMIT_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data or visitor.member is not None:  # a rank that has joined says nothing more
            if visitor.member is not None and not self._complete:
                del self._members[visitor.member.rank]  # died while waiting; its restart may come
            self._drop(visitor)
            return
        visitor.line += data
        if b"\n" in visitor.line:
            self._hello(visitor, bytes(visitor.line.partition(b"\n")[0]))
        elif len(visitor.line) > LINE_LIMIT_BYTES:
            self._refuse(visitor, "the line is too long")

    def _hello(self, visitor: _Visitor, line: bytes) -> None:
        try:
            words = json.loads(line)
            job, size, fields = words["job"], words["size"], words["member"]
            member = Member(**{name: kind(fields[name]) for name, kind in _FIELDS.items()})
        except (ValueError, TypeError, KeyError, RecursionError):
            return self._refuse(visitor, "this is the rendezvous of a phalanx job; the hello was not understood")
        if not hmac.compare_digest(str(job).encode(), self.job.encode()):
            return self._refuse(visitor, "this is the rendezvous of another job (PHALANX_JOB differs)")
        if size != self.size or not 0 <= member.rank < self.size:
            return self._refuse(
                visitor,
                f"rank {member.rank} says that the job has {size} ranks, rank 0 says {self.size}: every rank needs the same "
                "PHALANX_SIZE",
            )
        if member.rank in self._members:
            first = self._members[member.rank]
            return self._refuse(
                visitor, f"{first} has joined already; pid {member.pid} on {member.host} says that it is it too"
            )
        self._members[member.rank], visitor.member = member, member
        if len(self._members) == self.size:
            self._complete = True
            table = [asdict(self._members[rank]) for rank in range(self.size)]
            self._answer_all({"table": table})

    def _refuse(self, visitor: _Visitor, why: str) -> None:
        self._answer(visitor, {"error": why})
        self._drop(visitor)

    def _give_up(self, waited_s: float) -> None:
        self._failed = True
        why = f"after {waited_s:.0f} s {self._progress()}: not started, or ended before phalanx.init()"
        self._answer_all({"deadline": why})

    def _answer_all(self, answer: dict[str, Any]) -> None:
        for visitor in self._visitors():
            if visitor.member is not None:
                self._answer(visitor, answer)

    def _answer(self, visitor: _Visitor, answer: dict[str, Any]) -> None:
        with contextlib.suppress(OSError):  # whoever does not read is gone, or stuck
            visitor.connection.settimeout(1.0)
            visitor.connection.sendall(json.dumps(answer).encode() + b"\n")
            visitor.connection.setblocking(False)

    def _drop(self, visitor: _Visitor) -> None:
        self._selector.unregister(visitor.connection)
        visitor.connection.close()

    def _drop_silent(self, now: float) -> None:
        for visitor in self._visitors():
            if visitor.member is None and now - visitor.came > STRANGER_S:
                self._drop(visitor)

    def _progress(self) -> str:
        missing = [rank for rank in range(self.size) if rank not in self._members]
        shown = ", ".join(map(str, missing[:16])) + (", ..." if len(missing) > 16 else "")
        return f"{len(self._members)} of {self.size} ranks joined, waiting for rank{'s' * (len(missing) > 1)} {shown}"


_FIELDS: dict[str, Callable[[Any], Any]] = {"rank": int, "host": str, "pid": int, "data": str, "control": str}


# -- the side of a rank ----------------------------------------------------------------------------------------------


def serve(environment: RankEnvironment, timeout_s: float) -> RendezvousServer:
    """Rank 0: the server, on the socket that was handed down or at the environment's address."""
    if environment.rendezvous_fd is not None:
        try:
            listener = socket.socket(fileno=environment.rendezvous_fd)
            listener.set_inheritable(False)
            listener.listen(_BACKLOG)
        except OSError as error:
            raise LaunchError(
                f"PHALANX_RENDEZVOUS_FD={environment.rendezvous_fd} is not a listening socket ({error.strerror}): it must "
                "stay open from the launcher to rank 0's phalanx.init()"
            ) from None
    else:
        listener = listen(address_of(_rendezvous(environment)))
    return RendezvousServer(environment.size, job_of(environment), timeout_s, listener=listener).start()


def join(environment: RankEnvironment, member: Member, timeout_s: float) -> list[Member]:
    """Say hello and wait for the table: one Member per rank, in order.

    Raises LaunchError when refused, DeadlineError that names who did not come.
    """
    deadline = time.monotonic() + timeout_s + _ANSWER_GRACE_S  # the server's word, which names the missing, comes first
    who = f"rank {environment.rank} of {environment.size}"
    hello = {"job": job_of(environment), "size": environment.size, "member": asdict(member)}
    with _connected(environment, who, deadline) as connection:
        connection.sendall(json.dumps(hello).encode() + b"\n")
        answer = _answer(connection, environment, who, deadline)
    if "deadline" in answer:
        raise DeadlineError(f"{who}: rendezvous at {environment.rendezvous}: {answer['deadline']}")
    if "error" in answer:
        raise LaunchError(f"{who}: rendezvous at {environment.rendezvous} refused this process: {answer['error']}")
    return [Member(**row) for row in answer["table"]]


def job_of(environment: RankEnvironment) -> str:
    """What all processes of this start of the job share; those of an earlier start do not."""
    return f"{environment.job or ''}/{environment.restart}"


def _rendezvous(environment: RankEnvironment) -> str:
    if environment.rendezvous is None:
        raise LaunchError(
            f"rank {environment.rank} of {environment.size}: no address to meet at: PHALANX_RENDEZVOUS is not set"
        )
    return environment.rendezvous


def _connected(environment: RankEnvironment, who: str, deadline: float) -> socket.socket:
    address = address_of(_rendezvous(environment))
    while True:
        try:
            return socket.create_connection(address, timeout=max(0.01, deadline - time.monotonic()))
        except OSError as error:  # rank 0 may not have begun to listen
            if time.monotonic() + _RETRY_S > deadline:
                raise DeadlineError(
                    f"{who}: no rendezvous at {environment.rendezvous}: {error}. Rank 0 serves it; it has not come."
                ) from None
            if isinstance(error, socket.gaierror):
                raise LaunchError(f"{who}: rendezvous at {environment.rendezvous}: {error.strerror}") from None
            time.sleep(_RETRY_S)


def _answer(connection: socket.socket, environment: RankEnvironment, who: str, deadline: float) -> dict[str, Any]:
    data = bytearray()
    try:
        while not data.endswith(b"\n"):
            connection.settimeout(max(0.01, deadline - time.monotonic()))
            more = connection.recv(65536)
            if not more:
                raise CommunicatorError(
                    f"{who}: the rendezvous at {environment.rendezvous} closed before all ranks had come: rank 0 ended"
                )
            data += more
    except TimeoutError:
        raise DeadlineError(
            f"{who}: the rendezvous at {environment.rendezvous} does not answer: rank 0 has not come to phalanx.init(), "
            "or hangs"
        ) from None
    except OSError as error:
        raise CommunicatorError(f"{who}: lost the rendezvous at {environment.rendezvous}: {error}") from None
    try:
        return json.loads(data)
    except ValueError:
        raise LaunchError(f"{who}: what listens at {environment.rendezvous} is not a phalanx rendezvous") from None
