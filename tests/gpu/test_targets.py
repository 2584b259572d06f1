"""`make test-gpu` and `make bench-gpu` run as far as a machine without a GPU lets them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.jobs import ROOT


def script(*words: str, timeout_s: float = 200.0) -> tuple[int, str]:
    command = [sys.executable, *words]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=timeout_s, stdin=subprocess.DEVNULL, check=False
    )
    return done.returncode, done.stdout + done.stderr


def test_the_tests_are_rehearsed(tmp_path: Path) -> None:
    code, output = script("tests/gpu/on_device.py", "--rehearse", "--only", "kernels", "--output", str(tmp_path))
    assert code == 0, output
    found = json.loads((tmp_path / "summary.json").read_text())
    assert found["rehearsal"] and found["parts"]["kernels"]["code"] == 0
    assert "passed" in (tmp_path / "kernels.log").read_text()


def test_a_part_that_does_not_end_is_ended(tmp_path: Path) -> None:
    code, output = script(
        "tests/gpu/on_device.py", "--rehearse", "--only", "kernels", "--part-seconds", "0.2", "--output", str(tmp_path)
    )
    assert code == 1 and "did not end within 0.2 s" in (tmp_path / "summary.json").read_text(), output


def test_the_benchmark_is_rehearsed(tmp_path: Path) -> None:
    code, output = script(
        "benchmarks/gpu.py", "--rehearse", "--only", "gpt2", "mlp", "--rounds", "2", "--sides", "phalanx", "phalanx.capture",
        "--budget", "90", "--output", str(tmp_path),
    )  # fmt: skip
    assert code == 0, output
    found = json.loads((tmp_path / "gpu.json").read_text())
    for row in found["results"].values():
        assert set(row["ms"]) == {"phalanx", "phalanx.capture"} and not row["said"], row["said"]
    assert "these figures mean nothing" in (tmp_path / "gpu.md").read_text() and (tmp_path / "gpu.md").exists()


def test_the_benchmark_ends_by_itself(tmp_path: Path) -> None:
    code, output = script(
        "benchmarks/gpu.py", "--rehearse", "--budget", "12", "--sides", "phalanx", "--output", str(tmp_path)
    )
    assert "no time was left" in output and code in (0, 1)
