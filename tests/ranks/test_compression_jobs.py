"""Compressed gradients in whole jobs: over ZeroMQ and MPI, killed and resumed, the bits of one process."""

from __future__ import annotations

import pytest

from tests.jobs import last_checkpoint, ledger, run_job, tensor_bytes, train

ARGUMENTS = ["--model", "mlp", "--shards", "6", "--samples", "197", "--test-samples", "300", "--checkpoint-every", "2"]
FAULT = "after-reduce@rank1@step3:kill"
WHOLE = pytest.mark.whole
CASES = [
    ("topk", "run 3"), ("powersgd", "mpirun 2"),
    *(pytest.param(name, how, marks=WHOLE) for name in ("fp16", "bf16", "int8", "1bit") for how in ("run 5", "mpirun 3")),
]  # fmt: skip


@pytest.mark.parametrize(("scheme", "how"), CASES)
def test_same_bits_and_resumed_elsewhere(scheme, how, tmp_path):
    """One process, some ranks, and some ranks that are killed in step 4 and go on as others from step 2 on."""
    arguments = [*ARGUMENTS, "--epochs", "1", "--compression", scheme]
    for name, way in (("alone", "alone"), ("ranks", how)):
        (tmp_path / name).mkdir()
        train(way, tmp_path / name, *arguments)
    expected = tmp_path / "alone"
    assert len(ledger(expected)) == 4
    assert ledger(tmp_path / "ranks") == ledger(expected)
    assert tensor_bytes(tmp_path / "ranks") == tensor_bytes(expected)
    assert any("compression" in name for name in tensor_bytes(expected))

    folder = tmp_path / "killed"
    folder.mkdir()
    code, output = run_job(
        how, *arguments, "--checkpoint-dir", str(folder / "checkpoints"), extra={"PHALANX_FAULT": FAULT}
    )
    assert code != 0, output
    output = train("threads 4", folder, *arguments, "--resume", "auto")
    assert "resumed from step 2" in output
    assert last_checkpoint(folder, 4) == last_checkpoint(expected, 4)
