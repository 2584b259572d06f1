"""The same fit as whole jobs: alone, under ``phalanx run`` and ``mpirun``; stopped, killed, and gone on elsewhere."""

from __future__ import annotations

import json
import os
import re
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.jobs import ROOT, Job, launch_command, ledger, run_job
from tests.ranks.test_stop import wait_for_step

SCRIPT = str(ROOT / "tests" / "ranks" / "trainer_runs.py")


def fit(how: str, folder: Path, *arguments: str, **options: Any) -> dict[str, Any]:
    """Run the script to its end; what rank 0 wrote."""
    code, output = run_job(how, str(folder), "--shards", "4", *arguments, script=SCRIPT, **options)
    assert code == 0, f"{how} ended with {code}:\n{output[-3000:]}"
    return json.loads((folder / "result.json").read_text())


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], list[str]]:
    folder = tmp_path_factory.mktemp("alone")
    return fit("alone", folder), ledger(folder)


@pytest.mark.parametrize(
    "how", ["mpirun 2", *(pytest.param(how, marks=pytest.mark.whole) for how in ("run 3", "mpirun 4", "mpi 2", "threads 3"))]
)  # fmt: skip
def test_same_bits_however_it_is_started(how: str, alone: tuple[dict[str, Any], list[str]], tmp_path: Path) -> None:
    assert (fit(how, tmp_path), ledger(tmp_path)) == alone


@pytest.mark.parametrize("how", ["run 2", pytest.param("mpirun 3", marks=pytest.mark.whole)])
@pytest.mark.parametrize(
    ("arguments", "step", "word"),
    [
        (["--enough", "1"], 8, "rank 1 has enough"),
        pytest.param(["--nan", "1"], 9, "rank 1 of .*: the loss is nan in step 8; .* parameter '0.weight'", marks=pytest.mark.whole),
    ],
)  # fmt: skip
def test_what_one_rank_meets_ends_all(how: str, arguments: list[str], step: int, word: str, tmp_path: Path) -> None:
    found = fit(how, tmp_path, "--epochs", "9", *arguments, timeout_s=60.0)
    assert found["step"] == step and re.match(word, found["stopped"]), found


@pytest.mark.parametrize(
    ("first", "number", "then"),
    [
        ("run 2", signal.SIGTERM, "alone"),
        ("mpirun 2", signal.SIGUSR1, "run 3"),
        ("alone", signal.SIGTERM, "mpirun 2"),
    ],
)
@pytest.mark.whole
def test_asked_to_stop_it_saves_and_another_goes_on(first: str, number: int, then: str, tmp_path: Path) -> None:
    long = ["--epochs", "40"]
    job = Job([*launch_command(first), SCRIPT, str(tmp_path), "--shards", "4", *long]).start()
    try:
        wait_for_step(tmp_path, 4)
        assert job.process is not None
        os.kill(job.process.pid, number)
        code, output = job.finish(60)
        left = job.left_after(3.0)
    finally:
        job.end()
    if (tmp_path / "result.json").exists():
        pytest.fail("it ended before it was asked to stop")
    assert code == 0 and not left, f"ended with {code}, left {left}:\n{output[-3000:]}"
    assert "stopped by" in output and "saved in" in output
    uninterrupted = tmp_path / "uninterrupted"
    uninterrupted.mkdir()
    assert fit(then, tmp_path, *long) == fit("alone", uninterrupted, *long)
    assert ledger(tmp_path) == ledger(uninterrupted)


def test_killed_in_the_middle_of_an_epoch_it_restarts(alone: tuple[dict[str, Any], list[str]], tmp_path: Path) -> None:
    """``--restarts``: a rank dies after step 8 of 18, checkpoints are made every 3 steps, epochs have 6."""
    fault = {"PHALANX_FAULT": "after-update@rank1@step8@restart0:kill"}
    found = fit("run 2", tmp_path, "--every", "3", launcher=["--restarts", "1"], extra=fault)
    assert (found, ledger(tmp_path)) == alone
