"""Kill -9 at many moments, resume at another number of ranks, end in the bits of the run that was never killed."""

from __future__ import annotations

import os
import random
import re
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.jobs import EXAMPLE, Job, launch_command, ledger, tensor_bytes, train

STEPS = 40
ARGUMENTS = f"--model mlp --shards 8 --samples 500 --test-samples 100 --epochs 5 --max-steps {STEPS} --checkpoint-every 5".split()


@dataclass(frozen=True)
class Kill:
    """Who dies when. ``fault``: a point in the program, ``launcher``/``rank``: from outside once ``step`` is in the ledger."""

    victim: str
    step: int
    first: str
    then: str
    fault: str | None = None

    def __str__(self) -> str:
        return f"{self.victim}-{self.fault or 'outside'}-at{self.step}-{self.first}-then-{self.then}".replace(" ", "")


MOMENTS = [
    # between a checkpoint's temporary name and its rename
    Kill("rank0", 10, "run 2", "run 3", "checkpoint-before-rename"),
    Kill("rank0", 20, "run 3", "alone", "checkpoint-before-rename"),
    Kill("rank0", 15, "run 5", "mpirun 2", "checkpoint-before-manifest"),
    Kill("rank1", 25, "run 2", "run 4", "checkpoint-after-write"),
    Kill("rank0", 20, "mpirun 3", "run 2", "checkpoint-before-rename"),
    Kill("rank0", 25, "alone", "run 3", "checkpoint-before-rename"),
    # between reduction and update
    Kill("rank1", 17, "run 3", "run 2", "after-reduce"),
    Kill("rank0", 23, "run 2", "threads 3", "after-reduce"),
    Kill("rank2", 12, "mpirun 3", "alone", "after-reduce"),
    Kill("rank1", 8, "run 4", "run 7", "before-reduce"),
    # a random rank from outside
    Kill("rank", 7, "run 3", "run 2"),
    Kill("rank", 11, "run 2", "mpirun 3"),
    Kill("rank", 19, "mpirun 2", "run 3"),
    Kill("rank", 26, "run 5", "alone"),
    Kill("rank", 14, "run 8", "run 2"),
    # the launcher
    Kill("launcher", 6, "run 2", "run 3"),
    Kill("launcher", 13, "run 3", "run 2"),
    Kill("launcher", 18, "mpirun 2", "run 2"),
    Kill("launcher", 22, "run 5", "threads 2"),
    Kill("launcher", 24, "mpi 2", "alone"),
]
SUBSET = (4, 6, 10, 15)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    train("run 2", folder, *ARGUMENTS)
    assert len(ledger(folder)) == STEPS
    return folder


@pytest.mark.parametrize(
    "kill", [pytest.param(k, id=str(k), marks=() if i in SUBSET else pytest.mark.whole) for i, k in enumerate(MOMENTS)]
)
def test_killed_and_resumed(kill, undisturbed, tmp_path, record_property):
    options = ["--ledger", str(tmp_path / "ledger"), "--checkpoint-dir", str(tmp_path / "checkpoints"), *ARGUMENTS]
    faults = {"PHALANX_FAULT": f"{kill.fault}@{kill.victim}@step{kill.step}:kill"} if kill.fault else {}
    job = Job([*launch_command(kill.first), EXAMPLE, *options], extra=faults).start()
    try:
        if not kill.fault:
            wait_for_step(tmp_path, kill.step)
            os.kill(victim_of(job, kill), signal.SIGKILL)
        code, output = job.finish(60)
        left = job.left_after(3.0)
    finally:
        job.end()
    assert code != 0, f"the job survived its kill:\n{output[-3000:]}"
    assert not left, f"processes {left} are left 3 s after the kill"
    killed_at = len(ledger(tmp_path))
    assert killed_at < STEPS
    resumed = train(kill.then, tmp_path, "--resume", "auto", *ARGUMENTS)
    match = re.search(r"resumed from step (\d+)", resumed)
    resumed_from = int(match.group(1)) if match else 0
    record_property("told", f"{kill}: killed at step {killed_at}, resumed from step {resumed_from}")
    assert resumed_from > 0 or killed_at < 6, resumed
    assert ledger(tmp_path) == ledger(undisturbed)
    mine, theirs = tensor_bytes(tmp_path), tensor_bytes(undisturbed)
    last = f"checkpoints/step-{STEPS:08d}"
    assert {k: v for k, v in mine.items() if last in k} == {k: v for k, v in theirs.items() if last in k} != {}


def wait_for_step(folder: Path, step: int, timeout_s: float = 60.0) -> None:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        try:
            if len(ledger(folder)) >= step:
                return
        except FileNotFoundError:
            pass
        time.sleep(0.01)
    raise AssertionError(f"step {step} was not reached in {timeout_s} s")


def victim_of(job: Job, kill: Kill) -> int:
    """The launcher, or one of the processes that execute the script."""
    assert job.process is not None
    if kill.victim == "launcher":
        return job.process.pid
    ranks = []
    for pid in job.pids():
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        if words[1:2] == [EXAMPLE.encode()]:
            ranks.append(pid)
    assert ranks, [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in job.pids()]
    return random.Random(kill.step).choice(sorted(ranks))


@pytest.mark.parametrize("how", ["run 3", pytest.param("run 5", marks=pytest.mark.whole)])
@pytest.mark.parametrize("point", ["after-reduce", "before-reduce"])
def test_survivors_stand_together(how, point, tmp_path):
    """Ranks that outlive one that died around the reduction are all before or all after that step."""
    step = 9
    options = ["--ledger", str(tmp_path / "ledger"), *ARGUMENTS]
    faults = {"PHALANX_FAULT": f"{point}@rank1@step{step}:kill"}
    job = Job([*launch_command(how), EXAMPLE, *options], extra=faults).start()
    try:
        code, output = job.finish(60)
    finally:
        job.end()
    assert code != 0
    words = {int(r): int(n) for r, n in re.findall(r"rank (\d+) of \d+: last completed step (\d+)", output)}
    assert len(words) == int(how.split()[1]) - 1, output[-3000:]
    assert len(set(words.values())) == 1, words
    assert set(words.values()) <= {step, step + 1}
