"""Ranks are lost while they evaluate, save, meet in a forward, or hold the only copy of optimizer state: the run ends as a quiet one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.launch.rig import PHALANX, environment, started
from tests.launch.test_elastic_training import Training

SCRIPT = str(Path(__file__).with_name("elastic_parts.py"))
PAUSE_S = "0.05"


def quiet(folder: Path, mode: str) -> None:
    """The same training on one process."""
    folder.mkdir()
    command = [sys.executable, SCRIPT, str(folder), "0", mode]
    subprocess.run(command, env=environment(), check=True, timeout=60, capture_output=True)


@contextmanager
def training(folder: Path, mode: str, ranks: int, limits: str) -> Iterator[Training]:
    folder.mkdir()
    added = {"XDG_CACHE_HOME": str(folder / "cache"), "TMPDIR": str(folder)}
    command = (*PHALANX, "run", "-n", str(ranks), "--elastic", limits, SCRIPT, str(folder), PAUSE_S, mode)
    with started(*command, **added) as job:
        yield Training(job, folder, added)


def same(folder: Path, other: Path, name: str) -> None:
    assert (folder / name).read_text() == (other / name).read_text(), name


def losing(job: Training, at_step: int, rank: int) -> None:
    job.until_step(at_step)
    os.kill(job.pids(rank)[-1], signal.SIGKILL)


def joining(job: Training, what: str) -> None:
    """One more rank, until the launcher has said ``what``."""
    (job.folder / "slow").touch()
    job.join("-n", "1")
    job.until(what)
    (job.folder / "slow").unlink()


@pytest.mark.parametrize("mode", ["talk", "trainer"])
def test_two_ranks_are_lost_and_one_joins(tmp_path: Path, mode: str) -> None:
    quiet(tmp_path / "quiet", mode)
    with training(tmp_path / "job", mode, 3, "1:4") as job:
        losing(job, 5, 1)
        job.until("generation 1: 2 ranks")
        losing(job, 9, 0)
        job.until("generation 2: 1 rank")
        joining(job, "generation 3: 2 ranks; .*joined")
        assert job.job.popen.wait(30) == 0, job.read()
        for name in ("ledger.jsonl", "told") + (("log.csv",) if mode == "trainer" else ()):
            same(tmp_path / "quiet", tmp_path / "job", name)
    if mode == "talk":
        saved = sorted(path.name for path in (tmp_path / "job" / "checkpoints").iterdir())
        assert saved == [f"step-{step:08d}" for step in (22, 23, 24)]


@pytest.mark.whole
@pytest.mark.parametrize("mode", ["optimizer", "gradients"])
def test_state_that_died_with_a_rank_comes_from_the_newest_checkpoint(tmp_path: Path, mode: str) -> None:
    quiet(tmp_path / "quiet", mode)
    with training(tmp_path / "job", mode, 3, "1:4") as job:
        losing(job, 7, 1)
        job.until("optimizer state died with ranks that were lost: all ranks go back to step 6")
        joining(job, "joined")
        assert job.job.popen.wait(30) == 0, job.read()
        for name in ("ledger.jsonl", "told"):
            same(tmp_path / "quiet", tmp_path / "job", name)


def test_too_few_ranks_save_and_wait(tmp_path: Path) -> None:
    quiet(tmp_path / "quiet", "optimizer")
    with training(tmp_path / "job", "optimizer", 2, "2:3") as job:
        losing(job, 5, 1)
        job.until("saved at step")
        steps = job.steps
        assert json.loads((job.folder / "ledger.jsonl").read_text().splitlines()[-1])["step"] == steps
        joining(job, "joined")
        assert job.job.popen.wait(30) == 0, job.read()
        for name in ("ledger.jsonl", "told"):
            same(tmp_path / "quiet", tmp_path / "job", name)
