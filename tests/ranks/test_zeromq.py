"""The contract over ZeroMQ between processes, and faults that only processes have: kill -9, a stopped rank, garbage."""

from __future__ import annotations

import contextlib
import functools
import json
import multiprocessing
import os
import socket
import struct
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from phalanx.dist import env
from phalanx.dist.env import RankEnvironment
from phalanx.dist.messages import Header
from tests.ranks import contract, zeromq_worker

DEADLINE_S = 2.0
GARBAGE = (b"", b"\n", b"GET / HTTP/1.1\r\n\r\n", b"[1, 2]\n{}\n", b"[" * 100_000 + b"\n", os.urandom(20_000))


FORKS = multiprocessing.get_context("forkserver")  # a clean process that has imported everything forks the ranks
FORKS.set_forkserver_preload(["pytest", "zmq", "tests.ranks.zeromq_worker"])


class Job:
    """Ranks as processes, with the environment that the launcher sets.

    ``timeout_s``: deadline of their meeting and operations.  Among ``arguments`` may be ``deadline_s``: that of operations
    once all are there.
    """

    def __init__(self, folder: Path, scenario: str, size: int, *, timeout_s: float = 30.0, **arguments: Any) -> None:
        self.size, self.timeout_s, self.folder = size, timeout_s, folder
        with socket.create_server(("127.0.0.1", 0)) as listener:
            meet = f"127.0.0.1:{listener.getsockname()[1]}"
            name = os.urandom(8).hex()
            self.processes = []
            for rank in range(size):
                told = RankEnvironment(rank, size, rank, size, rendezvous=meet, job=name, timeout_s=timeout_s)
                handed = listener if rank == 0 else None
                given = (scenario, arguments, env.write(told), handed, folder)
                self.processes.append(FORKS.Process(target=zeromq_worker.rank_main, args=given, daemon=True))
                self.processes[-1].start()

    def reports(self, *, within_s: float = 60.0) -> dict[int, dict[str, Any]]:
        """Rank -> its report; a rank that was killed has none."""
        deadline = time.monotonic() + within_s
        for process in self.processes:
            process.join(max(0.1, deadline - time.monotonic()))
        late = [rank for rank, process in enumerate(self.processes) if process.is_alive()]
        self.kill()
        assert not late, f"ranks {late} did not end within {within_s} s"
        files = {rank: self.folder / f"{rank}.json" for rank in range(self.size)}
        return {rank: json.loads(file.read_text()) for rank, file in files.items() if file.exists()}

    def standard_error(self, rank: int) -> str:
        return (self.folder / f"{rank}.err").read_text()

    def kill(self) -> None:
        for process in self.processes:
            process.kill()
            process.join()


@pytest.fixture
def jobs(tmp_path: Path) -> Iterator[Any]:
    """``jobs(scenario, size, ...)`` starts a Job that ends with the test."""
    started: list[Job] = []

    def start(*arguments: Any, **options: Any) -> Job:
        folder = tmp_path / f"job{len(started)}"
        folder.mkdir()
        started.append(Job(folder, *arguments, **options))
        return started[-1]

    yield start
    for job in started:
        job.kill()


@functools.cache
def contract_reports(size: int) -> dict[int, dict[str, Any]]:
    with tempfile.TemporaryDirectory() as folder:
        return Job(Path(folder), "checks", size).reports()


@pytest.mark.parametrize("size", [1, 2, 3, 4])
@pytest.mark.parametrize("name", contract.CHECKS)
def test_contract(name: str, size: int) -> None:
    reports = contract_reports(size)
    assert len(reports) == size
    for report in reports.values():
        assert report["result"][name] is None, report["result"][name]
        assert report["threads"] == []


@pytest.mark.parametrize("name", contract.FAULTS)
def test_fault(jobs: Any, name: str) -> None:
    began = time.monotonic()
    job = jobs("fault", 3, deadline_s=DEADLINE_S, name=name)
    if name == "one_rank_never_arrives":
        job.processes[0].join(DEADLINE_S + 5)
        job.processes[2].join(DEADLINE_S + 5)
        job.processes[1].kill()
    reports = job.reports(within_s=DEADLINE_S + 8)
    assert time.monotonic() - began < DEADLINE_S + 8
    texts = [f"rank {r['rank']}: {r.get('error')}: {r.get('text')}" for r in reports.values()]
    assert any(all(word in text for word in contract.FAULTS[name].words) for text in texts), texts
    assert all("error" in reports[rank] for rank in (0, 2)), texts


@pytest.mark.parametrize("moment", ["before", "middle", "long before"])
@pytest.mark.parametrize("victim", [0, 2])
def test_a_killed_rank_is_named_within_a_second(jobs: Any, victim: int, moment: str) -> None:
    job = jobs("killed", 3, victim=victim, moment=moment)
    reports = job.reports()
    assert set(reports) == {0, 1, 2} - {victim}
    for rank, report in reports.items():
        assert report["error"] == "PeerLostError", report
        assert (
            f"rank {rank} lost rank {victim} (host {socket.gethostname()}, pid {job.processes[victim].pid})"
            in report["text"]
        )
        assert "while in all_reduce 'bucket 3' float32[500000]" in report["text"]
        assert report["seconds"] < 1.5


def test_a_stopped_rank_is_named_at_the_deadline(jobs: Any, tmp_path: Path) -> None:
    job = jobs("stopped", 3, deadline_s=DEADLINE_S, signs=str(tmp_path))
    for rank in (0, 2):
        job.processes[rank].join(DEADLINE_S + 6)
    job.processes[1].kill()
    reports = job.reports()
    assert {reports[rank]["error"] for rank in (0, 2)} <= {"DeadlineError", "AbortedError"}
    late = [report["text"] for report in reports.values() if report["error"] == "DeadlineError"]
    assert late
    assert "all_reduce 'bucket 5' float32[300000]: nothing came from rank 1" in late[0]


def test_a_rank_that_left_in_good_order_is_not_called_lost(jobs: Any) -> None:
    reports = jobs("left_early", 3).reports()
    assert "error" not in reports[1]
    errors = {report["error"] for rank, report in reports.items() if rank != 1}
    assert "PeerLostError" in errors
    texts = [report["text"] for rank, report in reports.items() if rank != 1]
    assert any("closed its communicator" in text and "barrier 'without rank 1'" in text for text in texts), texts
    assert all(report["seconds"] < 3 for report in reports.values())


def test_one_line_tells_who_is_waited_for(jobs: Any) -> None:
    job = jobs("mute", 2, stall_s=0.5)
    assert all("error" not in report for report in job.reports().values())
    lines = [line for line in job.standard_error(0).splitlines() if "waits for rank 1" in line]
    assert 1 <= len(lines) <= 2, job.standard_error(0)
    assert f"pid {job.processes[1].pid}" in lines[0]
    assert "in barrier 'late'" in lines[0]
    assert job.standard_error(1) == ""


@pytest.mark.parametrize("told", [[], [0], [1, 2]])
def test_survivors_stand_on_one_side_of_a_half_told_commit(jobs: Any, told: list[int]) -> None:
    reports = jobs("half_committed", 4, told=told).reports()
    words = [reports[rank]["result"] for rank in range(3)]
    assert words == (["after 7"] * 3 if told else ["before 7"] * 3)


@pytest.mark.parametrize("seed", range(6))
def test_survivors_of_a_kill_at_any_moment_stand_at_the_same_step(jobs: Any, seed: int) -> None:
    reports = jobs("train", 3, seed=seed).reports()
    assert len(reports) == 2
    assert len({report["result"] for report in reports.values()}) == 1, reports


def connection_to(address: str) -> socket.socket:
    if address.startswith("ipc://@"):
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(5)
        connection.connect("\0" + address.removeprefix("ipc://@"))
        return connection
    host, _, port = address.removeprefix("tcp://").rpartition(":")
    return socket.create_connection((host, int(port)), timeout=5)


def test_garbage_on_every_port_changes_nothing(jobs: Any, tmp_path: Path) -> None:
    zmq = pytest.importorskip("zmq")
    table, until = tmp_path / "table", tmp_path / "until"
    job = jobs("disturbed", 2, table=str(table), until=str(until))
    deadline = time.monotonic() + 20
    while not table.exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    rendezvous, rows = json.loads(table.read_text())
    kept = []
    for address in [rendezvous, *(address for row in rows for address in row)]:
        for garbage in GARBAGE:
            with contextlib.suppress(OSError):  # control ports are closed once all ranks have connected
                kept.append(stranger := connection_to(address))
                stranger.sendall(garbage)
    assert len(kept) >= 3 * len(GARBAGE)
    context = zmq.Context()
    for data, _ in rows:
        with context.socket(zmq.PUSH) as push:  # speaks the protocol, but is not of this job
            push.connect(data)
            header = Header(0, 3, "all_reduce 'numbers' float64[100000]", "slice", 400_000).encode()
            other_job = struct.pack("<16sIIQ", b"x" * 16, 0, len(header), 1) + header
            for frames in ([b""], [b"x" * 32], [other_job + b"z" * 400_000], [b"a", b"b", b"c"], [b"z" * 1_000_000]):
                push.send_multipart(frames)
            push.close(linger=2000)
    context.term()
    time.sleep(0.3)
    until.touch()
    reports = job.reports()
    assert [reports[rank].get("error") for rank in (0, 1)] == [None, None], reports
    assert reports[0]["result"] > 0
    for stranger in kept:
        stranger.close()


def test_two_jobs_at_once(jobs: Any) -> None:
    both = [jobs("killed", 2, victim=1, moment="before"), jobs("checks", 2)]
    killed, fine = (job.reports() for job in both)
    assert killed[0]["error"] == "PeerLostError"
    assert all(result is None for report in fine.values() for result in report["result"].values())
