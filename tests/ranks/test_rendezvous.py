"""The rendezvous: who is missing, who is refused, and strangers on its port."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from phalanx.dist import rendezvous
from phalanx.dist.control import ALIVE, LEFT, LOST, ControlMesh
from phalanx.dist.diagnosis.watch import StallWatch, Wait
from phalanx.dist.env import RankEnvironment
from phalanx.dist.errors import CommunicatorError, DeadlineError, LaunchError
from phalanx.dist.rendezvous import Member, RendezvousServer, address_of, join, listen, serve

JOB = "secret"


def member(rank: int, control: str = "127.0.0.1:2") -> Member:
    return Member(rank, f"host{rank}", 1000 + rank, "127.0.0.1:1", control)


def environment(server: RendezvousServer | str, rank: int, size: int, job: str = JOB) -> RankEnvironment:
    address = server if isinstance(server, str) else server.address
    return RankEnvironment(rank, size, rank, size, rendezvous=address, job=job)


class Joining(threading.Thread):
    """A rank that joins in a thread; ``outcome()`` is the table or raises the error."""

    def __init__(self, environment: RankEnvironment, timeout_s: float = 5.0, me: Member | None = None) -> None:
        super().__init__(daemon=True)
        self.told, self.timeout_s, self.me = environment, timeout_s, me or member(environment.rank)
        self.table: list[Member] | None = None
        self.error: BaseException | None = None
        self.start()

    def run(self) -> None:
        try:
            self.table = join(self.told, self.me, self.timeout_s)
        except BaseException as error:
            self.error = error

    def outcome(self) -> list[Member]:
        self.join(20)
        if self.error is not None:
            raise self.error
        assert self.table is not None
        return self.table


@pytest.fixture
def start() -> Iterator[Callable[..., RendezvousServer]]:
    servers = []

    def make(size: int, timeout_s: float = 5.0, **options: Any) -> RendezvousServer:
        servers.append(RendezvousServer(size, f"{JOB}/0", timeout_s, **options).start())
        return servers[-1]

    yield make
    for server in servers:
        server.close()
        assert not server._thread.is_alive()


def test_all_get_the_same_table_in_the_order_of_ranks(start: Any) -> None:
    server = start(4)
    ranks = [Joining(environment(server, rank, 4)) for rank in (2, 0, 3, 1)]
    tables = [rank.outcome() for rank in ranks]
    assert tables == [[member(rank) for rank in range(4)]] * 4


def test_missing_ranks_are_reported_and_named_at_the_deadline(start: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rendezvous, "REPORT_EVERY_S", 0.3)
    lines: list[str] = []
    server = start(4, 1.2, report=lines.append)
    ranks = [Joining(environment(server, rank, 4), 1.2) for rank in (0, 3)]
    for rank in ranks:
        with pytest.raises(DeadlineError, match=r"2 of 4 ranks joined, waiting for ranks 1, 2: not started, or ended"):
            rank.outcome()
    assert lines[0] == "2 of 4 ranks joined, waiting for ranks 1, 2"
    assert len(lines) <= 3


def test_a_rank_without_rendezvous_gives_up_at_its_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rendezvous, "_ANSWER_GRACE_S", 0.1)
    with listen() as silent:  # the launcher holds the port, but rank 0 never comes
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(DeadlineError, match="does not answer: rank 0 has not come"):
            join(environment(address, 1, 2), member(1), 0.2)
    with pytest.raises(DeadlineError, match=rf"no rendezvous at {address}: .*refused.*Rank 0 serves it"):
        join(environment(address, 1, 2), member(1), 0.2)


def test_rank_0_ends_before_all_have_come(start: Any) -> None:
    server = start(3)
    rank = Joining(environment(server, 1, 3))
    time.sleep(0.2)
    server.close()
    with pytest.raises(CommunicatorError, match=r"rank 1 of 3.*closed before all ranks had come"):
        rank.outcome()


def test_who_does_not_belong_is_refused_and_the_others_meet(start: Any) -> None:
    server = start(2)
    first = Joining(environment(server, 1, 2))
    time.sleep(0.2)
    with pytest.raises(LaunchError, match=r"rank 1 \(host host1, pid 1001\) has joined already; pid 77 on elsewhere"):
        Joining(environment(server, 1, 2), me=Member(1, "elsewhere", 77, "127.0.0.1:1", "127.0.0.1:2")).outcome()
    with pytest.raises(LaunchError, match="rank 2 says that the job has 3 ranks, rank 0 says 2"):
        Joining(environment(server, 2, 3)).outcome()
    with pytest.raises(LaunchError, match="another job"):
        Joining(environment(server, 0, 2, job="other")).outcome()
    Joining(environment(server, 0, 2)).outcome()
    assert len(first.outcome()) == 2
    with pytest.raises(LaunchError, match="has joined already"):  # it still answers when the job runs
        Joining(environment(server, 0, 2)).outcome()


def test_a_rank_that_died_while_waiting_may_come_again(start: Any) -> None:
    server = start(2)
    words = {"size": 2, "member": {"rank": 1, "host": "h", "pid": 1, "identity": "h"}}
    with socket.create_connection(address_of(server.address)) as dying:
        number = dying.recv(100).decode().strip()
        dying.sendall(rendezvous._seal(f"{JOB}/0", number, words))
        time.sleep(0.2)
    again, other = Joining(environment(server, 1, 2)), Joining(environment(server, 0, 2))
    assert again.outcome() == other.outcome() == [member(0), member(1)]


def test_strangers_do_not_disturb(start: Any) -> None:
    server = start(2)
    kept = []
    words = [b"", b"\n", b"{}\n", b"GET / HTTP/1.1\r\n\r\n", b"[" * 3000 + b"\n", os.urandom(50_000), b"x" * 100_000]
    for garbage in words * 3:
        stranger = socket.create_connection(address_of(server.address), timeout=5)
        with contextlib.suppress(OSError):
            stranger.sendall(garbage)
        kept.append(stranger)
    ranks = [Joining(environment(server, rank, 2)) for rank in range(2)]
    assert [len(rank.outcome()) for rank in ranks] == [2, 2]
    for stranger in kept:
        stranger.close()


def test_rank_0_serves_on_the_socket_handed_down_or_at_the_address() -> None:
    handed = listen()
    address = f"127.0.0.1:{handed.getsockname()[1]}"
    told = RankEnvironment(0, 1, rendezvous=address, job=JOB, rendezvous_fd=os.dup(handed.fileno()))
    handed.close()
    server = serve(told, 5.0)
    assert server.address == address
    assert join(told, member(0), 5.0) == [member(0)]
    server.close()
    bound = serve(RankEnvironment(0, 1, rendezvous=address, job=JOB), 5.0)  # as with MASTER_ADDR and MASTER_PORT
    assert bound.address == address
    with pytest.raises(
        LaunchError, match=rf"cannot listen at {address}: Address already in use by pid {os.getpid()} \("
    ):
        serve(RankEnvironment(0, 1, rendezvous=address, job=JOB), 5.0)
    bound.close()
    with pytest.raises(LaunchError, match="PHALANX_RENDEZVOUS_FD=9999 is not a listening socket"):
        serve(RankEnvironment(0, 1, rendezvous=address, job=JOB, rendezvous_fd=9999), 5.0)


def test_a_name_that_is_the_loopback_here_is_refused_for_several_hosts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostbyname", {"node0": "127.0.1.1", "127.0.0.1": "127.0.0.1"}.__getitem__)
    with pytest.raises(
        LaunchError, match=r"the rendezvous node0:4000 is 127\.0\.1\.1 on this host, which ranks on other hosts"
    ):
        serve(RankEnvironment(0, 2, 0, 1, rendezvous="node0:4000", job=JOB), 1.0)
    serve(RankEnvironment(0, 2, 0, 1, rendezvous="127.0.0.1:0", job=JOB), 1.0).close()  # containers may share one


def test_the_secret_is_proved_and_never_said(start: Any) -> None:
    """Whoever listens at the rendezvous or passes the bytes on learns no secret, and cannot play a proof again."""
    server = start(1)
    heard: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as between:
        passing = threading.Thread(target=_pass_on, args=(between, address_of(server.address), heard), daemon=True)
        passing.start()
        told = environment(f"127.0.0.1:{between.getsockname()[1]}", 0, 1)
        assert Joining(told).outcome() == [member(0)]
        passing.join(5)
    said = b"".join(heard)
    assert b"proof" in said
    assert f"{JOB}/0".encode() not in said
    hello = next(line for line in heard if b"member" in line).partition(b"\n")[0] + b"\n"
    with socket.create_connection(address_of(server.address), timeout=5) as replay:
        replay.recv(100)
        replay.sendall(hello)
        assert b"another job" in replay.recv(4096)


def test_a_rendezvous_that_does_not_know_the_secret_is_not_believed() -> None:
    impostor = RendezvousServer(1, "guess/0", 5.0).start()
    try:
        impostor.job = f"{JOB}/0"  # it lets the rank in, as if it had recognised it ...
        impostor_seal = rendezvous._seal
        rendezvous._seal = lambda secret, number, words: impostor_seal(  # type: ignore[assignment]
            "guess/0" if number.startswith("server") else secret, number, words
        )
        with pytest.raises(LaunchError, match="does not know this job's secret"):
            join(environment(impostor, 0, 1), member(0), 5.0)
    finally:
        rendezvous._seal = impostor_seal
        impostor.close()


def _pass_on(between: socket.socket, target: tuple[str, int], heard: list[bytes]) -> None:
    near, _ = between.accept()
    with near, socket.create_connection(target) as far:
        pairs = {near: far, far: near}
        while True:
            for source in select.select(list(pairs), [], [], 5.0)[0]:
                data = source.recv(65536)
                if not data:
                    return
                heard.append(data)
                pairs[source].sendall(data)


# -- the control channel ---------------------------------------------------------------------------------------------


def control_meshes(size: int, garbage: bytes = b"") -> list[ControlMesh]:
    """Connected meshes; strangers send ``garbage`` to each before the ranks connect."""
    listeners = [listen() for _ in range(size)]
    members = [member(rank, "{}:{}".format(*listener.getsockname())) for rank, listener in enumerate(listeners)]
    strangers = [socket.create_connection(listener.getsockname()) for listener in listeners]
    for stranger in strangers:
        stranger.sendall(garbage)
    meshes = [ControlMesh(rank, members, listeners[rank], JOB) for rank in range(size)]
    threads = [threading.Thread(target=mesh.join, args=(time.monotonic() + 5,)) for mesh in meshes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    for stranger in strangers:
        stranger.close()
    assert all(peer.connection is not None for mesh in meshes for peer in mesh.peers.values())
    return meshes


class Heard:
    """Notes whose messages came."""

    def __init__(self, mesh: ControlMesh) -> None:
        self.sources: set[int] = set()
        mesh.listeners.append(self)

    def control_message(self, source: int, message: dict[str, Any], payload: bytes) -> None:
        assert (message, payload) == ({"kind": "greeting"}, b"x" * 300_000)
        self.sources.add(source)

    def control_changed(self) -> None: ...

    def control_tick(self, now: float) -> None: ...


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 3
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize(
    "garbage", [b"", b"\n", b"[0, 1]\n", b'[2, "00"]\n', b'["0"]\n{}\n', b"[" * 900 + b"\n", b"x" * 5000]
)
def test_strangers_do_not_become_ranks(garbage: bytes) -> None:
    meshes = control_meshes(3, garbage)
    heard = [Heard(mesh) for mesh in meshes]
    for mesh in meshes:
        mesh.send_all({"kind": "greeting"}, b"x" * 300_000)
    wait_for(lambda: all(len(ear.sources) == 2 for ear in heard))
    for mesh in meshes:
        mesh.close()
        assert not mesh._thread.is_alive()


def test_a_goodbye_a_death_and_an_abort_are_told_apart() -> None:
    first, second, third, fourth = control_meshes(4)
    second.close()
    wait_for(lambda: first.peers[1].state == LEFT)
    third.peers[0].connection.shutdown(socket.SHUT_RDWR)  # what the kernel does for the dead
    wait_for(lambda: first.peers[2].state == LOST)
    alive = [rank for rank, peer in first.peers.items() if peer.state == ALIVE]
    assert (first.lost(), alive) == ([2], [3])
    fourth.abort("rank 3: boom")
    first.abort("too late to be the reason")
    wait_for(lambda: first.ended is not None)
    assert fourth.ended.told_by == 3
    for mesh in (first, third, fourth):
        mesh.close()


def test_a_rank_that_never_connects_is_named() -> None:
    with listen() as one, listen() as two:
        members = [member(rank, "{}:{}".format(*listener.getsockname())) for rank, listener in enumerate((one, two))]
        mesh = ControlMesh(0, members, one, JOB)
        with pytest.raises(DeadlineError, match=r"rank 0: no control connection from rank 1 \(host host1, pid 1001\)"):
            mesh.join(time.monotonic() + 0.3)
        mesh.close()


# -- the stall line --------------------------------------------------------------------------------------------------


def test_a_stall_is_told_once_and_again_when_it_has_doubled() -> None:
    lines: list[str] = []
    watch = StallWatch(0, 20.0, lines.append)
    waiting = Wait("all_reduce 'bucket 3'", 100.0, 7, (member(5),))
    for now in range(101, 150):
        watch.look(waiting, float(now))
    assert lines == [
        "rank 0 waits for rank 5 (host host5, pid 1005) in all_reduce 'bucket 3': begun 21 s ago, nothing has come for 20 s",
        "rank 0 waits for rank 5 (host host5, pid 1005) in all_reduce 'bucket 3': begun 41 s ago, nothing has come for 40 s",
    ]
    watch.look(Wait("all_reduce 'bucket 3'", 100.0, 8, ()), 150.0)  # something came
    watch.look(None, 200.0)
    watch.look(waiting, 300.0)
    assert len(lines) == 2
