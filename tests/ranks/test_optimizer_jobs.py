"""Killed and restarted, a job with schedules and averages ends as one that nobody disturbed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.jobs import ROOT, last_checkpoint, ledger, run_job

SCRIPT = str(ROOT / "tests" / "ranks" / "scheduled_training.py")
KILL = {"PHALANX_FAULT": "before-reduce@rank1@step11@restart0:kill"}
STEPS = 16


def scalars(folder: Path) -> object:
    return json.loads((folder / "checkpoints" / f"step-{STEPS:08d}" / "manifest.json").read_text())["scalars"]


@pytest.mark.whole
def test_a_killed_job_keeps_schedules_and_averages(tmp_path: Path) -> None:
    for name in ("alone", "killed"):
        (tmp_path / name).mkdir()
    assert run_job("alone", str(tmp_path / "alone"), script=SCRIPT)[0] == 0
    code, output = run_job("run 2", str(tmp_path / "killed"), script=SCRIPT, launcher=("--restarts", "1"), extra=KILL)
    assert code == 0 and "restart 1 of 1" in output and "resumed from step 8" in output, output
    assert ledger(tmp_path / "killed") == ledger(tmp_path / "alone")
    assert len(ledger(tmp_path / "alone")) == STEPS
    assert last_checkpoint(tmp_path / "killed", STEPS) == last_checkpoint(tmp_path / "alone", STEPS)
    assert scalars(tmp_path / "killed") == scalars(tmp_path / "alone")
