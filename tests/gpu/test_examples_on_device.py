"""The examples that are made for GPUs, on the device: with and without capture, on one rank and two, killed and resumed: equal ledgers."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from tests.gpu.conftest import REAL, STANDIN
from tests.jobs import ROOT, Job, launch_command, run_job

GPT2 = "--layers 2 --dim 32 --heads 2 --context 16 --vocab 64 --batch-size 8 --limit 8 --lr 1e-2 --accumulate 2"
FASHION = "--model cnn --epochs 1 --batch-size 32 --test-samples 20"
RESNET = "--layers 1 1 1 1 --width 4 --size 32 --classes 4 --batch-size 16"


def words(name: str, steps: int, folder: Path) -> list[str]:
    """Options of an example for so many steps on the device."""
    given = ["--device", "cuda", "--shards", "4", "--ledger", str(folder / "ledger")]
    if name == "gpt2.py":
        return [*GPT2.split(), "--steps", str(steps), "--folder", str(folder.parent / "gpt2"), *given]
    if name == "fashion_mnist.py":
        return [*FASHION.split(), "--samples", str(32 * steps), *given]
    return [*RESNET.split(), "--epochs", "1", "--count", str(16 * steps), *given]


def variables() -> dict[str, str]:
    """What the jobs need to find the stand-ins, if these are needed."""
    path = [str(ROOT)] if REAL else [str(ROOT), str(STANDIN)]
    found = {"PYTHONPATH": os.pathsep.join(path)}
    return found | ({"PHALANX_CUBLASLT": os.environ["PHALANX_CUBLASLT"]} if "PHALANX_CUBLASLT" in os.environ else {})


def ledger(how: str, name: str, steps: int, folder: Path, *further: str) -> list[str]:
    """The lines of the ledger of a run that must succeed."""
    folder.mkdir()
    code, output = run_job(
        how,
        *words(name, steps, folder),
        *further,
        script=str(ROOT / "examples" / name),
        extra=variables(),
        timeout_s=280,
    )
    assert code == 0, f"{name}, {how} {further}:\n{output[-4000:]}"
    assert "stays eager" not in output and "without CUDA graphs" not in output, output
    lines = (folder / "ledger").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == list(range(1, steps + 1))
    return lines


@pytest.mark.parametrize("name", ["gpt2.py", "resnet50.py"])
def test_equal_ledgers(device: str, name: str, tmp_path: Path) -> None:
    eager = ledger("alone", name, 3, tmp_path / "eager")
    assert ledger("threads 2", name, 3, tmp_path / "two", "--capture") == eager


@pytest.mark.skipif(REAL, reason="its pictures come over the network")
def test_the_main_example(device: str, tmp_path: Path) -> None:
    eager = ledger("alone", "fashion_mnist.py", 3, tmp_path / "alone")
    assert ledger("threads 2", "fashion_mnist.py", 3, tmp_path / "two") == eager


@pytest.mark.whole
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", ["gpt2.py", "resnet50.py"])
def test_fifty_steps(device: str, name: str, tmp_path: Path) -> None:
    eager = ledger("alone", name, 50, tmp_path / "eager")
    assert ledger("alone", name, 50, tmp_path / "captured", "--capture") == eager
    assert ledger("run 2", name, 50, tmp_path / "two") == eager
    assert ledger("run 2", name, 50, tmp_path / "two, captured", "--capture") == eager


@pytest.mark.whole
@pytest.mark.timeout(900)
def test_killed_and_resumed(device: str, tmp_path: Path) -> None:
    """Killed on two ranks with graphs, resumed alone without them: the last step is that of a run that nobody disturbed."""
    expected = ledger("alone", "gpt2.py", 50, tmp_path / "whole")
    folder = tmp_path / "killed"
    folder.mkdir()
    given = [*words("gpt2.py", 50, folder), "--checkpoint-dir", str(folder / "saved"), "--checkpoint-every", "5"]
    script = str(ROOT / "examples" / "gpt2.py")
    job = Job([*launch_command("run 2"), script, *given, "--capture"], extra=variables()).start()
    ends = time.monotonic() + 280
    while not (folder / "ledger").exists() or len((folder / "ledger").read_text().splitlines()) < 20:
        assert time.monotonic() < ends and job.process is not None and job.process.poll() is None
        time.sleep(0.02)
    job.end()
    job.finish()
    reached = len((folder / "ledger").read_text().splitlines())
    assert 20 <= reached < 50
    code, output = run_job("alone", *given, "--resume", "auto", script=script, extra=variables(), timeout_s=280)
    assert code == 0, output[-4000:]
    assert (folder / "ledger").read_text().splitlines()[-1] == expected[-1]
