"""Ranks that train on GPUs: equal bits on any number of ranks, over NCCL and through the host, killed and resumed."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from phalanx.core.backend import nccl
from phalanx.dist.communicators.alone import AloneCommunicator
from phalanx.dist.communicators.threads import run_threads
from tests.gpu import wire
from tests.gpu.conftest import REAL
from tests.gpu.device_training import FORMS, train
from tests.ranks.launching import MPIRUN, OPEN_MPI, Outcome, environment, launch
from tests.ranks.test_mpi import pytestmark as needs_mpi

SCRIPT = str(Path(__file__).with_name("device_training.py"))
QUICK = ("plain", "zero-2", "batch norm")
MATRIX = [
    pytest.param(form, way, marks=[*needs, *([] if way == "nccl" or form in QUICK else [pytest.mark.whole])])
    for form in FORMS
    for way, needs in (("nccl", [pytest.mark.skipif(REAL, reason="needs a GPU for each rank")]), ("host", []))
]
_alone: dict[str, Any] = {}


def alone(form: str) -> Any:
    """What one rank gives, computed once."""
    if form not in _alone:
        _alone[form] = train("cuda", form)
    return _alone[form]


@pytest.mark.parametrize(("form", "way"), MATRIX)
def test_equal_bits_on_threads(device: str, monkeypatch: pytest.MonkeyPatch, form: str, way: str) -> None:
    monkeypatch.setenv("PHALANX_GPU_SUMS", way)
    monkeypatch.setenv("STANDIN_DEVICES", "4")
    expected = alone(form)
    assert run_threads(lambda: train(device, form), 3, timeout_s=30) == [expected] * 3


def test_fast_mode_agrees_on_all_ranks(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without shards NCCL sums in its own order: the same on all ranks, and close to the exact sum."""
    monkeypatch.setenv("STANDIN_DEVICES", "4")
    by_way = {}
    for way in ("host",) if REAL else ("nccl", "host"):
        monkeypatch.setenv("PHALANX_GPU_SUMS", way)
        found = run_threads(lambda: train(device, "plain", shards=None), 3, timeout_s=30)
        assert found[0] == found[1] == found[2]
        by_way[way] = found[0][1]
    if not REAL:
        assert by_way["nccl"] == pytest.approx(by_way["host"], rel=1e-5)


def job(
    folder: Path,
    way: str,
    form: str,
    size: int,
    *,
    steps: int = 0,
    mpi: bool = False,
    options: Sequence[str] = (),
    **more: str,
) -> Outcome:
    """``size`` ranks of the script, under mpirun or ``phalanx run``."""
    folder.mkdir(exist_ok=True)
    words = [SCRIPT, str(folder / "saved"), way, form, str(steps)]
    if mpi:
        command = [str(MPIRUN), "-n", str(size), sys.executable, *words]
        more = {**OPEN_MPI, **more}
    else:
        command = [sys.executable, "-m", "phalanx", "run", "-n", str(size), *options, *words]
    return launch(folder, command, environment(folder, **more), 90.0)


def result(outcome: Outcome) -> tuple[str, str]:
    assert outcome.code == 0, outcome.output
    found = re.search(r"result (-?\d+) after (\d+) steps", outcome.output)
    assert found is not None, outcome.output
    return found[1], found[2]


@pytest.mark.parametrize("way", ["host" if REAL else "nccl", pytest.param("host", marks=pytest.mark.whole)])
def test_killed_and_resumed_on_another_number_of_ranks(device: str, tmp_path: Path, way: str) -> None:
    """One of 2 ranks is killed within step 4 and the job started anew, then gone on with alone: the bits of a run that nothing befell."""
    whole = result(job(tmp_path / "whole", "any", "zero-1", 1))
    assert whole[1] == "8"
    fault = f"before-gather@rank1@step{3}@restart0:kill"
    cut = job(tmp_path / "cut", way, "zero-1", 2, steps=6, options=("--restarts", "1"), PHALANX_FAULT=fault)
    assert result(cut)[1] == "3", cut.output
    assert "lost rank 1" in cut.output
    assert result(job(tmp_path / "cut", "any", "zero-1", 1)) == (whole[0], "2")


@pytest.mark.skipif(*needs_mpi.args, **needs_mpi.kwargs)
@pytest.mark.parametrize("way", ["host"] if REAL else ["host", pytest.param("nccl", marks=pytest.mark.whole)])
def test_equal_bits_under_mpirun(device: str, tmp_path: Path, way: str) -> None:
    one = result(job(tmp_path / "one", "any", "plain", 1, steps=4))
    two = job(tmp_path / "two", way, "plain", 2, steps=4, mpi=True)
    assert result(two) == one
    assert f"gradients of GPUs are summed {'over NCCL' if way == 'nccl' else 'through'}" in two.output


def test_ranks_that_share_a_gpu_sum_through_the_host(device: str, tmp_path: Path) -> None:
    two = job(tmp_path, "any", "plain", 2, steps=2, STANDIN_DEVICES="1", CUDA_VISIBLE_DEVICES="0")
    result(two)
    assert "through the host's memory: ranks 0, 1 share a GPU" in two.output or "cannot load NCCL" in two.output


@pytest.mark.parametrize("way", ["nccl", "host"])
def test_the_contract_on_one_rank(device: str, monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    """What one GPU can show of NCCL itself: its begin, its calls, its streams."""
    if way == "nccl" and nccl() is None:
        pytest.skip("NCCL is not installed")
    monkeypatch.setenv("PHALANX_GPU_SUMS", way)
    comm = AloneCommunicator()
    assert list(wire.checks(comm, way)) == wire.CHECKS
    comm.close()
