"""ZeRO in jobs as a user starts them: the ledger and the files of a single process, over ZeroMQ and MPI, also after a kill."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.jobs import ledger, run_job, tensor_bytes, train
from tests.ranks.test_mpi import pytestmark as needs_mpi

ARGUMENTS = [
    "--model",
    "mlp",
    "--shards",
    "8",
    "--samples",
    "197",
    "--test-samples",
    "50",
    "--epochs",
    "2",
    "--checkpoint-every",
    "3",
]
LAUNCHES = [
    pytest.param("run 4", "gradients", marks=pytest.mark.whole),
    pytest.param("mpirun 3", "optimizer", marks=[needs_mpi, pytest.mark.whole]),
    pytest.param("run 3", "optimizer", marks=pytest.mark.whole),
    pytest.param("mpirun 4", "gradients", marks=[needs_mpi, pytest.mark.whole]),
    pytest.param("threads 2", "gradients", marks=pytest.mark.whole),
]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("alone")
    train("alone", folder, *ARGUMENTS)
    return folder


@pytest.mark.parametrize(("how", "zero"), LAUNCHES)
def test_same_bits(how: str, zero: str, alone: Path, tmp_path: Path) -> None:
    train(how, tmp_path, *ARGUMENTS, "--zero", zero)
    assert ledger(tmp_path) == ledger(alone)
    assert tensor_bytes(tmp_path) == tensor_bytes(alone)


def test_killed_between_the_update_and_its_gathering(alone: Path, tmp_path: Path) -> None:
    """One rank dies with its part of the new parameters: the launcher starts anew from the last checkpoint, same bits."""
    folders = ["--ledger", str(tmp_path / "ledger"), "--checkpoint-dir", str(tmp_path / "checkpoints")]
    code, output = run_job(
        "run 3", *ARGUMENTS, "--zero", "gradients", *folders, "--resume", "auto",
        launcher=["--restarts", "1"], extra={"PHALANX_FAULT": "before-gather@rank1@step5@restart0:kill"},
    )  # fmt: skip
    assert code == 0, output
    assert "rank 1" in output and "resumed from step 3" in output, output
    assert ledger(tmp_path) == ledger(alone)
    assert tensor_bytes(tmp_path) == tensor_bytes(alone)
