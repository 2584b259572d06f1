"""The headline: with shards=8 the trained bits do not depend on how many ranks trained them, or over which wire.

Each run: dropout and batch norm, Adam and clipping, two epochs of 197 images in batches of 64 whose last batch has five
samples and leaves three of eight shards empty. Ledgers and checkpoint bytes must be identical.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from phalanx.dist.processor import fingerprint
from tests.jobs import ROOT, launch_command, ledger, run_job, tensor_bytes, train

ARGUMENTS = ["--shards", "8", "--samples", "197", "--test-samples", "300", "--epochs", "2", "--checkpoint-every", "3"]
GOLDEN = ROOT / "tests" / "golden"
MODELS = ("mlp", "cnn", "transformer")
LAUNCHES = (
    "run 2", "run 3", "run 5", "run 7", "run 8", "mpirun 2", "mpirun 3", "mpirun 4", "threads 4",
)  # fmt: skip
SUBSET = {
    "mlp": ("run 8", "mpirun 3"),
    "cnn": ("run 3", "threads 4"),
    "transformer": ("run 5", "mpirun 4"),
}
"""Covers every wire and every model; `make test-all` runs all pairs."""
PAIRS = [
    pytest.param(
        model, how, marks=() if how in SUBSET[model] else pytest.mark.whole, id=f"{model}-{how}".replace(" ", "")
    )
    for model in MODELS
    for how in LAUNCHES
]


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """Each model trained by a single process, started without any thread limits in its environment."""
    folders: dict[str, Path] = {}

    def get(model: str) -> Path:
        if model not in folders:
            folders[model] = tmp_path_factory.mktemp(model)
            train("alone", folders[model], "--model", model, *ARGUMENTS, limits=False)
            assert len(ledger(folders[model])) == 8
        return folders[model]

    return get


@pytest.mark.parametrize(("model", "how"), PAIRS)
def test_same_bits(model, how, reference, tmp_path):
    expected = reference(model)
    train(how, tmp_path, "--model", model, *ARGUMENTS)
    assert ledger(tmp_path) == ledger(expected)
    assert tensor_bytes(tmp_path) == tensor_bytes(expected)


@pytest.mark.parametrize("breakage", ["rank-order", "dropout-by-rank"])
def test_negative_controls(breakage, reference, tmp_path):
    """With a sum in rank order, or dropout keyed by rank, the same comparison must fail."""
    expected = reference("mlp")
    code, output = run_job(
        "run 3", breakage, "--model", "mlp", *ARGUMENTS, "--ledger", str(tmp_path / "ledger"),
        script=str(ROOT / "tests" / "ranks" / "broken.py"),
    )  # fmt: skip
    assert code == 0, output
    assert len(ledger(tmp_path)) == 8
    assert ledger(tmp_path) != ledger(expected)


@pytest.mark.parametrize("model", MODELS)
def test_golden(model, reference):
    """A change that alters all ranks alike is noticed too, on processors whose ledgers are kept."""
    path = golden_path(model)
    if not path.exists():
        pytest.skip(
            f"no golden ledger for this processor and these libraries ({path.name}); write it with tests/golden/write.py"
        )
    assert ledger(reference(model)) == path.read_text().splitlines()


def golden_path(model: str) -> Path:
    """Where the golden ledger for this processor fingerprint lies."""
    digest = hashlib.sha256(json.dumps(fingerprint(), sort_keys=True).encode()).hexdigest()[:12]
    return GOLDEN / f"{model}-{digest}.jsonl"


def test_launch_commands_differ():
    assert len({tuple(launch_command(how)) for how in (*LAUNCHES, "alone")}) == len(LAUNCHES) + 1
