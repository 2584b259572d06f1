"""With fast kernels and shards=8 the bits of a CNN, an LSTM and a GPT depend neither on ranks and wires nor on deaths and resumptions.

Three epochs of 69 samples in batches of 32: the last batch has five samples and leaves three of eight shards empty.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from phalanx.core.kernels.cpu import onednn, provide_numba
from phalanx.core.kernels.table import VARIABLE
from tests.core.onednn_cases import needs_onednn
from tests.jobs import ROOT, last_checkpoint, ledger, tensor_bytes, train

SCRIPT = str(ROOT / "tests" / "ranks" / "fast_bits_script.py")
MODELS = ("cnn", "lstm", "gpt")
LAUNCHES = ("run 2", "run 3", "run 5", "run 7", "run 8", "mpirun 3", "threads 4")
STEPS = 9
QUICK = {("lstm", "run 3"), ("gpt", "threads 4")}

pytestmark = needs_onednn


def job(how: str, folder: Path, model: str, *arguments: str, kernels: str = "fast", **options) -> str:
    extra = {VARIABLE: kernels, **options.pop("extra", {})}
    return train(how, folder, "--model", model, *arguments, script=SCRIPT, extra=extra, **options)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """Each model trained by one process, with no limits to threads in its environment."""
    folders: dict[str, Path] = {}

    def get(model: str) -> Path:
        if model not in folders:
            folders[model] = tmp_path_factory.mktemp(model)
            job("alone", folders[model], model, limits=False)
            assert len(ledger(folders[model])) == STEPS
        return folders[model]

    return get


@pytest.mark.parametrize(
    ("model", "how"),
    [
        pytest.param(model, how, marks=() if (model, how) in QUICK else pytest.mark.whole, id=f"{model}-{how}".replace(" ", ""))
        for model in MODELS
        for how in LAUNCHES
    ],
)  # fmt: skip
def test_ranks_and_wires(model, how, alone, tmp_path):
    job(how, tmp_path, model)
    assert ledger(tmp_path) == ledger(alone(model))
    assert tensor_bytes(tmp_path) == tensor_bytes(alone(model))


@pytest.mark.whole
@pytest.mark.parametrize("model", MODELS)
def test_resumed_on_other_ranks(model, alone, tmp_path):
    """Five steps on three ranks, two on five, the rest alone."""
    for how, last in (("run 3", 5), ("run 5", 7), ("alone", STEPS)):
        output = job(how, tmp_path, model, "--max-steps", str(last), "--resume", "auto")
    assert "resumed from step 7" in output
    assert ledger(tmp_path) == ledger(alone(model))
    assert last_checkpoint(tmp_path, STEPS) == last_checkpoint(alone(model), STEPS)


@pytest.mark.whole
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("fault", ["before-reduce@rank1@step5@restart0:kill", "after-reduce@rank0@step5@restart0:kill"])
def test_killed_and_restarted(model, fault, alone, tmp_path):
    output = job("run 2", tmp_path, model, launcher=("--restarts", "1"), extra={"PHALANX_FAULT": fault})
    assert "restart 1 of 1" in output and "resumed from step 4" in output, output
    assert ledger(tmp_path) == ledger(alone(model))
    assert last_checkpoint(tmp_path, STEPS) == last_checkpoint(alone(model), STEPS)


@pytest.mark.whole
@pytest.mark.parametrize("model", MODELS)
def test_it_is_the_fast_kernels_that_computed(model, alone, tmp_path):
    """The manifests say so, and the reference's bits are others."""
    manifests = [json.loads(path.read_text()) for path in (alone(model) / "checkpoints").rglob("manifest.json")]
    described = f"fast: {onednn.describe()}, {provide_numba.describe()}"
    assert {manifest["fingerprint"]["kernels"] for manifest in manifests} == {described}
    job("alone", tmp_path, model, kernels="reference")
    assert ledger(tmp_path) != ledger(alone(model))
