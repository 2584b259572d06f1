"""The main example in halves: the same ledger on two ranks and under mpirun, and as good as float32."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.jobs import EXAMPLE, run_job

SHORT = "--samples 512 --test-samples 256 --epochs 1 --batch-size 64 --shards 4"


def run(how: str, *arguments: str, timeout_s: float = 120.0) -> str:
    """The output of the example, which must succeed."""
    code, output = run_job(how, *arguments, script=EXAMPLE, timeout_s=timeout_s)
    assert code == 0, output[-4000:]
    return output


def ledger(how: str, precision: str, path: Path) -> bytes:
    run(how, *SHORT.split(), "--precision", precision, "--ledger", str(path))
    return path.read_bytes()


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_equal_ledgers_on_two_ranks(precision: str, tmp_path: Path) -> None:
    alone = ledger("alone", precision, tmp_path / "alone")
    assert ledger("run 2", precision, tmp_path / "two") == alone


@pytest.mark.whole
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_equal_ledgers_on_four_ranks_and_under_mpirun(precision: str, tmp_path: Path) -> None:
    alone = ledger("alone", precision, tmp_path / "alone")
    for how in ("run 4", "mpirun 2"):
        assert ledger(how, precision, tmp_path / how) == alone, how


@pytest.mark.whole
@pytest.mark.timeout(1200)
def test_as_good_as_float32() -> None:
    """Within half a point of test accuracy, over three passes through a third of the images."""
    reached = {}
    for precision in ("float32", "bf16", "fp16"):
        words = f"--samples 20000 --epochs 3 --precision {precision}".split()
        (reached[precision],) = re.findall(
            r"^test accuracy ([\d.]+)$", run("alone", *words, timeout_s=600), re.MULTILINE
        )
    exact = float(reached["float32"])
    assert exact > 0.86, reached
    assert all(float(value) > exact - 0.005 for value in reached.values()), reached
