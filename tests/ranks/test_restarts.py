"""``phalanx run --restarts K``: what the launcher starts anew goes on from its own newest checkpoint."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.jobs import last_checkpoint, ledger, train

STEPS = 20
ARGUMENTS = f"--model mlp --shards 8 --samples 500 --test-samples 100 --epochs 3 --max-steps {STEPS} --checkpoint-every 5".split()
KILL = {"PHALANX_FAULT": "before-reduce@rank1@step12@restart0:kill"}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    train("alone", folder, *ARGUMENTS)
    return folder


@pytest.mark.parametrize("how", ["run 2", pytest.param("mpi 2", marks=pytest.mark.whole)])
def test_a_restart_goes_on_from_the_newest_checkpoint(how: str, undisturbed: Path, tmp_path: Path) -> None:
    output = train(how, tmp_path, *ARGUMENTS, launcher=("--restarts", "1"), extra=KILL)
    assert "restart 1 of 1 in 0.5 s" in output, output
    assert "restarted by the launcher: going on from this run's newest checkpoint, not from 'none'" in output, output
    assert "resumed from step 10" in output, output
    assert ledger(tmp_path) == ledger(undisturbed)
    assert last_checkpoint(tmp_path, STEPS) == last_checkpoint(undisturbed, STEPS)


@pytest.mark.whole
def test_a_restart_does_not_go_on_from_an_older_run(undisturbed: Path, tmp_path: Path) -> None:
    """The folder holds checkpoints of another run, which was not to be resumed; this one dies before its first."""
    train("alone", tmp_path, *ARGUMENTS, "--lr", "0.1")
    kill = {"PHALANX_FAULT": "before-reduce@rank1@step2@restart0:kill"}
    output = train("run 2", tmp_path, *ARGUMENTS, launcher=("--restarts", "1"), extra=kill)
    assert "restart 1 of 1" in output and "resumed" not in output, output
    assert ledger(tmp_path) == ledger(undisturbed)
    assert last_checkpoint(tmp_path, STEPS) == last_checkpoint(undisturbed, STEPS)
