"""SIGTERM or SIGUSR1 to one rank or to the launcher: all agree on a step, save, end with 0, and go on at another number."""

from __future__ import annotations

import os
import re
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.jobs import EXAMPLE, Job, last_checkpoint, launch_command, ledger, train

STEPS, AT_STEP = 30, 5
ARGUMENTS = f"--model mlp --shards 8 --samples 500 --test-samples 100 --epochs 4 --max-steps {STEPS}".split()


@dataclass(frozen=True)
class Stop:
    how: str
    to: str
    """``rank`` (the last one) or ``launcher``."""
    number: signal.Signals
    then: str
    whole: bool = False

    def __str__(self) -> str:
        return f"{self.number.name}-to-{self.to}-of-{self.how}-then-{self.then}".replace(" ", "")


STOPS = [
    Stop("run 3", "rank", signal.SIGUSR1, "alone"),
    Stop("run 2", "launcher", signal.SIGTERM, "mpirun 2"),
    Stop("mpirun 2", "rank", signal.SIGTERM, "threads 3"),
    Stop("threads 3", "launcher", signal.SIGUSR1, "run 2"),
    Stop("alone", "rank", signal.SIGTERM, "run 3", whole=True),
    Stop("alone", "rank", signal.SIGUSR1, "mpirun 2", whole=True),
    Stop("run 3", "rank", signal.SIGTERM, "run 5", whole=True),
    Stop("run 3", "launcher", signal.SIGUSR1, "alone", whole=True),
    Stop("mpirun 2", "rank", signal.SIGUSR1, "alone", whole=True),
    Stop("mpirun 2", "launcher", signal.SIGUSR1, "alone", whole=True),
    Stop("mpi 2", "launcher", signal.SIGTERM, "run 3", whole=True),
    Stop("mpi 2", "rank", signal.SIGUSR1, "threads 2", whole=True),
    Stop("threads 3", "launcher", signal.SIGTERM, "alone", whole=True),
]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    train("alone", folder, *ARGUMENTS, "--checkpoint-every", str(STEPS))
    assert len(ledger(folder)) == STEPS
    return folder


@pytest.mark.parametrize(
    "stop", [pytest.param(s, id=str(s), marks=pytest.mark.whole if s.whole else ()) for s in STOPS]
)
def test_all_ranks_stop_after_the_same_step(stop: Stop, undisturbed: Path, tmp_path: Path, record_property) -> None:
    options = ["--ledger", str(tmp_path / "ledger"), "--checkpoint-dir", str(tmp_path / "checkpoints"), *ARGUMENTS]
    job = Job([*launch_command(stop.how), EXAMPLE, *options]).start()
    try:
        wait_for_step(tmp_path, AT_STEP)
        os.kill(target(job, stop), stop.number)
        code, output = job.finish(60)
        left = job.left_after(3.0)
    finally:
        job.end()
    assert code == 0, f"ended with {code}:\n{output[-3000:]}"
    assert not left, f"processes {left} are left"
    assert "Traceback" not in output, output
    said = re.findall(rf"phalanx: stopped by {stop.number.name} after step (\d+), saved in (\S+)", output)
    assert len(said) == 1, output
    step = int(said[0][0])
    assert AT_STEP <= step < STEPS, "it came too late to stop anything"
    assert len(ledger(tmp_path)) == step
    assert (
        [path.name for path in (tmp_path / "checkpoints").iterdir()] == [f"step-{step:08d}"] == [Path(said[0][1]).name]
    )
    resumed = train(stop.then, tmp_path, *ARGUMENTS, "--resume", "auto", "--checkpoint-every", str(STEPS))
    assert f"resumed from step {step} " in resumed, resumed
    assert ledger(tmp_path) == ledger(undisturbed)
    assert last_checkpoint(tmp_path, STEPS) == last_checkpoint(undisturbed, STEPS)
    record_property("told", f"{stop}: stopped after step {step}")


@pytest.mark.parametrize("how", ["run 2", pytest.param("mpirun 2", marks=pytest.mark.whole)])
def test_a_file_stops_the_job_with_the_code_that_a_scheduler_wants(how: str, tmp_path: Path) -> None:
    """Where no signal reaches the ranks; the file goes away, so that the job that goes on is not stopped by it."""
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    many = f"--model mlp --shards 8 --samples 500 --test-samples 100 --epochs 999 --ledger {tmp_path}/ledger".split()
    options = [*many, "--checkpoint-dir", str(folder)]
    job = Job([*launch_command(how), EXAMPLE, *options], extra={"PHALANX_STOP_CODE": "75"}).start()
    try:
        wait_for_step(tmp_path, AT_STEP)
        (folder / "STOP").touch()
        code, output = job.finish(60)
        left = job.left_after(3.0)
    finally:
        job.end()
    said = re.findall(r"phalanx: stopped by the file STOP after step (\d+), saved in (\S+)", output)
    assert code == 75 and len(said) == 1 and not left, output
    step = int(said[0][0])
    assert [path.name for path in folder.iterdir()] == [f"step-{step:08d}"]
    train(
        "run 3", tmp_path, *many[:-2], "--max-steps", str(step + 200), "--resume", "auto", "--checkpoint-every", "200"
    )
    assert len(ledger(tmp_path)) == step + 200


def wait_for_step(folder: Path, step: int, timeout_s: float = 60.0) -> None:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if (folder / "ledger").exists() and len(ledger(folder)) >= step:
            return
        time.sleep(0.01)
    raise AssertionError(f"step {step} was not reached in {timeout_s} s")


def target(job: Job, stop: Stop) -> int:
    """The launcher's process, or the one of the highest rank."""
    assert job.process is not None
    if stop.to == "launcher":
        return job.process.pid
    ranks = {}
    for pid in job.pids():
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        if words[1:2] == [EXAMPLE.encode()]:
            environment = Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace")
            found = re.search(r"\0(?:PHALANX_RANK|OMPI_COMM_WORLD_RANK)=(\d+)", environment)
            ranks[int(found.group(1)) if found else 0] = pid
    return ranks[max(ranks)]
