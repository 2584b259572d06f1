"""The rendezvous: where the ranks of a ZeroMQ job learn each other's addresses.

Rank 0 serves it in a thread, on a listening socket that the launcher hands down (so that no port is ever guessed) or
on the address of the environment. Every rank, rank 0 too, says hello in one line of JSON. Once the last one has come all
learn which hosts there are, say where they listen (beyond the loopback only if there are several), and get the table of all
ranks. The job's secret is never said, only proved over a number that the server makes for each connection. Strangers and
garbage on that port are refused and never disturb the others.
"""

from __future__ import annotations

import contextlib
import json
import selectors
import socket
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from .env import RankEnvironment
from .errors import DeadlineError, LaunchError, PeerLostError
from .member import Member, address_of, address_text, is_loopback, listen
from .secret import NONCE_CHARACTERS, job_of, nonce, proof, proves

__all__ = ["Member", "RendezvousServer", "address_of", "job_of", "join", "listen", "serve"]

REPORT_EVERY_S = 5.0
LINE_LIMIT_BYTES = 4096
STRANGER_S = 5.0
"""How long a connection may stay silent before it is closed."""
STRANGERS_LIMIT = 256
_RETRY_S = 0.05
_ANSWER_GRACE_S = 2.0
_BACKLOG = 1024


Place = Callable[[list[str], str, bool], tuple[str, str]]
"""``place(identities of all ranks' hosts, this rank's address towards the rendezvous, whether all can seal)`` -> addresses
(data, control)."""


@dataclass(eq=False, slots=True)
class _Visitor:
    """A connection to the server: a rank once it has said hello."""

    connection: socket.socket
    came: float
    nonce: str = field(default_factory=nonce)
    line: bytearray = field(default_factory=bytearray)
    member: Member | None = None
    placed: bool = False
    """Whether it has said where it listens since the hosts were told last."""


class RendezvousServer:
    """Collects ``size`` ranks of ``job`` and gives each of them the table.

    Args:
        size: how many ranks to wait for.
        job: name of this run; whoever says another one is refused.
        timeout_s: by when all must have come.
        listener: a listening socket, otherwise one is bound to 127.0.0.1 and a port of the system's choice.
        report: gets a line like ``7 of 8 ranks joined, waiting for rank 5 (host c)`` every 5 s.
        host_of: the host on which a rank was started, where it is known.
    """

    def __init__(
        self,
        size: int,
        job: str,
        timeout_s: float,
        *,
        listener: socket.socket | None = None,
        report: Callable[[str], None] | None = None,
        host_of: Callable[[int], str | None] = lambda _: None,
    ) -> None:
        self.size, self.job, self.timeout_s = size, job, timeout_s
        self._listener = listener or listen()
        self._listener.setblocking(False)
        host, port = self._listener.getsockname()[:2]
        self.address = address_text(host, port)
        self._report = report or (lambda line: print(f"phalanx: {line}", file=sys.stderr, flush=True))
        self._host_of = host_of
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

    def interrupt(self) -> None:
        """Stop, soon; those who wait hear that it closed."""
        with contextlib.suppress(OSError):
            self._wake_writer.close()

    def close(self) -> None:
        """Stop. Safe to call twice."""
        self.interrupt()
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
            connection.send(visitor.nonce.encode() + b"\n")
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
        if not data:
            if visitor.member is not None and not self._complete:
                del self._members[visitor.member.rank]  # died while waiting; its restart may come
            self._drop(visitor)
            return
        visitor.line += data
        line, newline, rest = bytes(visitor.line).partition(b"\n")
        if newline:
            visitor.line[:] = rest
            (self._hello if visitor.member is None else self._place)(visitor, line)
        elif len(visitor.line) > LINE_LIMIT_BYTES:
            self._refuse(visitor, "the line is too long")

    def _hello(self, visitor: _Visitor, line: bytes) -> None:
        try:
            said, words = _open(line)
            size, fields = words["size"], words["member"]
            member = Member(**{name: kind(fields[name]) for name, kind in _FIELDS.items()}, data="", control="")
        except (ValueError, TypeError, KeyError, RecursionError):
            return self._refuse(visitor, "this is the rendezvous of a phalanx job; the hello was not understood")
        if not proves(said["proof"], self.job, visitor.nonce, said["text"]):
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
            for other in self._visitors():
                other.placed = False
            members = [self._members[rank] for rank in range(self.size)]
            self._answer_all(
                {"hosts": [each.identity for each in members], "seals": all(each.seals for each in members)}
            )

    def _place(self, visitor: _Visitor, line: bytes) -> None:
        """A rank says where it listens; the last one that does completes the table."""
        member = visitor.member
        assert member is not None
        with contextlib.suppress(ValueError, TypeError, KeyError, RecursionError):
            said, words = _open(line)
            if proves(said["proof"], self.job, visitor.nonce, said["text"]) and not self._complete:
                self._members[member.rank] = replace(member, data=str(words["data"]), control=str(words["control"]))
                visitor.placed = True
        if len(self._members) == self.size and sum(other.placed for other in self._visitors()) == self.size:
            self._complete = True
            self._answer_all({"table": [asdict(self._members[rank]) for rank in range(self.size)]})

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
            visitor.connection.sendall(_seal(self.job, "server " + visitor.nonce, answer))
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
        shown = ", ".join(map(self._named, missing[:16])) + (", ..." if len(missing) > 16 else "")
        return f"{len(self._members)} of {self.size} ranks joined, waiting for rank{'s' * (len(missing) > 1)} {shown}"

    def _named(self, rank: int) -> str:
        host = self._host_of(rank)
        return f"{rank} (host {host})" if host else str(rank)


_FIELDS: dict[str, Callable[[Any], Any]] = {"rank": int, "host": str, "pid": int, "identity": str, "seals": bool}


def _seal(secret: str, number: str, words: dict[str, Any]) -> bytes:
    """One line that holds ``words`` and the proof of who says them."""
    text = json.dumps(words)
    return json.dumps({"text": text, "proof": proof(secret, number, text)}).encode() + b"\n"


def _open(line: bytes) -> tuple[dict[str, Any], dict[str, Any]]:
    """What :func:`_seal` made: the envelope, whose proof is still to be checked, and the words in it."""
    said = json.loads(line)
    return said, json.loads(said["text"])


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
        _check_reachable(environment)
        listener = listen(address_of(_rendezvous(environment)))
    job, host_of = job_of(environment), environment.host_of
    return RendezvousServer(environment.size, job, timeout_s, listener=listener, host_of=host_of).start()


def _check_reachable(environment: RankEnvironment) -> None:
    """Raises LaunchError when rank 0 would listen where other hosts cannot come, as with a name that /etc/hosts twists."""
    host = address_of(_rendezvous(environment))[0]
    with contextlib.suppress(OSError):  # binding will say what is wrong with it
        address = socket.gethostbyname(host)
        if environment.local_size < environment.size and is_loopback(address) and not is_loopback(host):
            raise LaunchError(
                f"rank 0 of {environment.size}: the rendezvous {environment.rendezvous} is {address} on this host, which ranks "
                "on other hosts cannot reach: give rank 0's address in the network, or mend /etc/hosts"
            )


def join(
    environment: RankEnvironment,
    member: Member,
    timeout_s: float,
    place: Place | None = None,
    hold: Callable[[socket.socket], None] = lambda connection: None,
) -> list[Member]:
    """Say hello and wait for the table: one Member per rank, in order. ``hold`` gets the connection that is waited at.

    ``place`` is called once all have come, to listen where the others reach this rank; without it the member's own
    addresses are told. Raises LaunchError when refused, DeadlineError that names who did not come.
    """
    deadline = time.monotonic() + timeout_s + _ANSWER_GRACE_S  # the server's word, which names the missing, comes first
    who, secret = f"rank {environment.rank} of {environment.size}", job_of(environment)
    me = {name: getattr(member, name) for name in _FIELDS}
    words: dict[str, Any] = {"size": environment.size, "member": me}
    addresses: tuple[str, str] | None = None if place else (member.data, member.control)
    with _connected(environment, who, deadline) as connection:
        hold(connection)
        number = _line(connection, environment, who, deadline).decode(errors="replace")
        if len(number) != NONCE_CHARACTERS:
            raise LaunchError(f"{who}: what listens at {environment.rendezvous} is not a phalanx rendezvous")
        while True:
            with contextlib.suppress(OSError):  # the answer, or its absence, says more
                connection.sendall(_seal(secret, number, words))
            answer = _answer(connection, environment, who, deadline, number)
            if "deadline" in answer:
                raise DeadlineError(f"{who}: rendezvous at {environment.rendezvous}: {answer['deadline']}")
            if "error" in answer:
                raise LaunchError(
                    f"{who}: rendezvous at {environment.rendezvous} refused this process: {answer['error']}"
                )
            if "table" in answer:
                return [Member(**row) for row in answer["table"]]
            if place is not None and addresses is None:
                addresses = place(answer["hosts"], connection.getsockname()[0], answer["seals"])
            assert addresses is not None
            words = {"data": addresses[0], "control": addresses[1]}


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


def _line(connection: socket.socket, environment: RankEnvironment, who: str, deadline: float) -> bytes:
    data = bytearray()
    try:
        while not data.endswith(b"\n"):
            connection.settimeout(max(0.01, deadline - time.monotonic()))
            there, newline, _ = connection.recv(65536, socket.MSG_PEEK).partition(b"\n")
            more = connection.recv(len(there) + len(newline))
            if not more:
                raise PeerLostError(
                    f"{who}: the rendezvous at {environment.rendezvous} closed before all ranks had come: rank 0 ended"
                )
            data += more
    except TimeoutError:
        raise DeadlineError(
            f"{who}: the rendezvous at {environment.rendezvous} does not answer: rank 0 has not come to phalanx.init(), "
            "or hangs"
        ) from None
    except OSError as error:
        raise PeerLostError(f"{who}: lost the rendezvous at {environment.rendezvous}: {error}") from None
    return bytes(data[:-1])


def _answer(
    connection: socket.socket, environment: RankEnvironment, who: str, deadline: float, number: str
) -> dict[str, Any]:
    """What the server says; only a refusal may come from one that does not know the job's secret."""
    try:
        said, words = _open(_line(connection, environment, who, deadline))
    except (ValueError, TypeError, KeyError, RecursionError):
        raise LaunchError(f"{who}: what listens at {environment.rendezvous} is not a phalanx rendezvous") from None
    if "error" not in words and not proves(said["proof"], job_of(environment), "server " + number, said["text"]):
        raise LaunchError(f"{who}: what listens at {environment.rendezvous} does not know this job's secret")
    return words
