"""With fast kernels too the trained bits do not depend on the number of ranks, or on what a rank is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from phalanx.core.kernels.cpu import onednn, provide_numba
from phalanx.core.kernels.table import VARIABLE
from tests.core.onednn_cases import needs_onednn
from tests.jobs import ledger, tensor_bytes, train

ARGUMENTS = [
    "--shards", "8", "--samples", "133", "--test-samples", "100", "--epochs", "1", "--checkpoint-every", "2",
]  # fmt: skip
FAST = {VARIABLE: "fast"}

pytestmark = needs_onednn


def kernels_of(folder: Path) -> set[str | None]:
    """What the manifests say that computed."""
    found = [json.loads(path.read_text()) for path in (folder / "checkpoints").rglob("manifest.json")]
    assert found
    return {manifest["fingerprint"].get("kernels") for manifest in found}


@pytest.mark.parametrize("model", ["cnn", pytest.param("transformer", marks=pytest.mark.whole)])
def test_equal_bits(model: str, tmp_path: Path) -> None:
    """Alone, without thread limits in its environment; ranks that are threads of one process; ranks that are processes."""
    alone = tmp_path / "alone"
    train("alone", alone, "--model", model, *ARGUMENTS, extra=FAST, limits=False)
    assert kernels_of(alone) == {f"fast: {onednn.describe()}, {provide_numba.describe()}"}
    for how in ("threads 4", "run 3"):
        folder = tmp_path / how
        train(how, folder, "--model", model, *ARGUMENTS, extra=FAST)
        assert ledger(folder) == ledger(alone)
        assert tensor_bytes(folder) == tensor_bytes(alone)
