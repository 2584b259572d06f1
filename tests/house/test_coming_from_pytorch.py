"""docs/coming_from_pytorch.md keeps its word: its blocks run, its counts are right."""

from __future__ import annotations

import difflib
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import phalanx
from tests.jobs import ROOT, run_job

PAGE = (ROOT / "docs" / "coming_from_pytorch.md").read_text()
DDP, PORT, *OTHERS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


def lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.strip() and not line.startswith("#")]


def folder_with(tmp_path: Path, **scripts: str) -> None:
    """The scripts, started in ``tmp_path``, and three classes to tell apart."""
    draw = np.random.default_rng(0)
    y = draw.integers(0, 3, 1000)
    x = draw.normal(size=(1000, 20)).astype(np.float32) + 1.5 * np.eye(20, dtype=np.float32)[y]
    np.savez(tmp_path / "data.npz", x=x, y=y)
    for name, text in scripts.items():
        (tmp_path / f"{name}.py").write_text(f"import os\nos.chdir({str(tmp_path)!r})\n{text}")


def result(output: str) -> str:
    (found,) = re.findall(r"accuracy ([\d.]+)", output)
    return found


def test_the_counts_of_lines() -> None:
    left, right = lines(DDP), lines(PORT)
    kept = sum(block.size for block in difflib.SequenceMatcher(None, left, right, autojunk=False).get_matching_blocks())
    (said,) = re.findall(
        r"Of DDP's (\d+) lines of code (\d+) .*?, (\d+) are changed or gone, (\d+) .*?; the port has (\d+)\.", PAGE
    )
    assert tuple(map(int, said)) == (len(left), kept, len(left) - kept, len(right) - kept, len(right))


def test_the_port_gives_the_same_on_two_ranks(tmp_path: Path) -> None:
    folder_with(tmp_path, train=PORT)
    results = []
    for how in ("alone", "run 2"):
        code, output = run_job(how, script=str(tmp_path / "train.py"))
        assert code == 0, output
        results.append((result(output), (tmp_path / "model.safetensors").read_bytes()))
    assert results[0] == results[1] and float(results[0][0]) > 0.7


def test_the_other_blocks_run(tmp_path: Path) -> None:
    folder_with(tmp_path, blocks="\n".join(OTHERS))
    for how in ("alone", "run 2"):
        code, output = run_job(how, script=str(tmp_path / "blocks.py"))
        assert code == 0, output


@pytest.mark.whole
def test_pytorchs_script_does_as_well(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    folder_with(tmp_path, train=PORT, train_ddp=DDP)
    code, output = run_job("alone", script=str(tmp_path / "train.py"))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "train_ddp.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert code == done.returncode == 0, output + done.stdout + done.stderr
    assert abs(float(result(output)) - float(result(done.stdout))) < 0.08


def test_every_name_in_the_table_exists() -> None:
    for path in re.findall(r"`phalanx\.([\w.]+)", PAGE):
        value = phalanx
        for part in path.rstrip(".").split("."):
            value = getattr(value, part)
    for page in re.findall(r"`(docs/\w+\.md)`", PAGE):
        assert (ROOT / page).exists()
