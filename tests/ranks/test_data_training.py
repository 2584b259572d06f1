"""With shards, what is trained on random transforms, drawn samples, streams and token files is equal on any ranks."""

from __future__ import annotations

import contextlib
import os
import signal
import time
import uuid
from pathlib import Path

import pytest

import phalanx
from phalanx.dist.communicators.threads import run_threads
from tests.jobs import ROOT, Job, launch_command, run_job
from tests.ranks import data_training


def on_ranks(size, *args, **options):
    def rank():
        phalanx.init(shards=4, seed=5)
        try:
            return data_training.train(*args, **options)
        finally:
            phalanx.shutdown()

    return [rank()] if size == 1 else run_threads(rank, size, timeout_s=60.0)


@pytest.mark.parametrize("kind", data_training.KINDS)
def test_equal_bits_and_resumed_elsewhere(kind, tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    (whole,) = on_ranks(1, kind, folder)
    for size in (2, 3):
        assert on_ranks(size, kind, folder) == [whole] * size
    for stop, sizes in ((2, (2, 1)), (6, (3, 2))):  # within the first epoch, and within the second
        saved = tmp_path / f"saved{stop}"
        on_ranks(sizes[0], kind, folder, saved=saved, stop=stop)
        assert on_ranks(sizes[1], kind, folder, saved=saved) == [whole] * sizes[1]


SCRIPT = str(ROOT / "tests" / "ranks" / "data_training.py")


@pytest.mark.parametrize("how", ["run 2", "mpirun 2"])
def test_worker_processes_of_ranks_are_no_ranks(how, tmp_path):
    """Their samples refuse to be read where MPI or a launcher can be seen; the result is the one without workers."""
    code, output = run_job(how, "pictures", str(tmp_path), "1", script=SCRIPT)
    assert code == 0, output
    code, alone = run_job("alone", "pictures", str(tmp_path), "0", script=SCRIPT)
    assert code == 0, alone
    (result,) = [line.partition("result ")[2] for line in output.splitlines() if "result " in line]
    assert alone.strip().splitlines()[-1].endswith(result) and result.strip()


def alive(mark):
    """Living processes with the mark in their environment, worker processes among them."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            state = (entry / "stat").read_text().rpartition(")")[2].split()[0] if entry.name.isdigit() else "Z"
            if state != "Z" and f"DATA_MARK={mark}".encode() in (entry / "environ").read_bytes():
                found.append((entry / "cmdline").read_bytes())
    return found


def wait_until(true, seconds):
    deadline = time.monotonic() + seconds
    while not true() and time.monotonic() < deadline:
        time.sleep(0.05)
    return true()


@pytest.mark.parametrize("how, number", [("run 2", signal.SIGKILL), ("mpirun 2", signal.SIGTERM)])
def test_no_worker_outlives_its_job(how, number, tmp_path):
    mark = uuid.uuid4().hex
    job = Job(
        [*launch_command(how), SCRIPT, "pictures", str(tmp_path), "1", "100000"], extra={"DATA_MARK": mark}
    ).start()
    try:
        assert wait_until(lambda: sum(b"worker_main" in line for line in alive(mark)) == 2, 60)
        os.kill(job.process.pid, number)
        assert wait_until(lambda: not alive(mark), 20), alive(mark)
    finally:
        job.end()
        job.process.communicate(timeout=20)


def test_a_rank_that_reads_itself_is_seen(monkeypatch):
    """The check above can fail."""
    monkeypatch.setenv("PHALANX_RANK", "0")
    with pytest.raises(RuntimeError, match="a rank reads sample 0"):
        data_training.OnlyInWorkers()[0]
