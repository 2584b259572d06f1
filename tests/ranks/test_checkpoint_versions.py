"""Checkpoints that earlier versions wrote are read; those of later ones are refused with a word."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from phalanx.cli import main
from phalanx.core.checkpoint import checksum
from phalanx.core.checkpoint.manifest import VERSION, _canonical
from phalanx.core.checkpoint.parts import read_manifest, verify
from phalanx.core.checkpoint.store import Store
from phalanx.core.errors import CheckpointError
from phalanx.dist.communicators.threads import run_threads
from tests.golden.write_checkpoint import GOLDEN, STEPS, checkpointer, train

VERSIONS = sorted(GOLDEN.parent.glob("checkpoint-version-*"))


def test_there_is_one_of_each_version() -> None:
    assert [path.name for path in VERSIONS] == [f"checkpoint-version-{number}" for number in range(1, VERSION + 1)]


@pytest.mark.parametrize("kept", VERSIONS, ids=lambda path: path.name)
def test_resumed_and_saved_again_it_is_the_same(kept: Path, tmp_path: Path) -> None:
    """On two ranks, though one wrote it: the same bytes of tensors, and all that the manifest says but for the machine."""
    (path,) = Store(kept).list()
    before = verify(path)

    def resumed() -> str:
        saving, built = checkpointer(tmp_path / "run")
        assert saving.resume(path) == STEPS == built[2].step
        odd = saving._state["odd"].loaded
        assert odd["best"] == float("inf") and odd["by number"] == {1: [True, None, 0.1]}
        assert odd["mean"].tobytes() == np.arange(3, dtype=np.float16).tobytes()
        assert built[3].last_epoch == STEPS and len(built[1].param_groups) == 2
        again = saving.save()
        train(saving, built, 2)
        return again.name

    assert set(run_threads(resumed, 2, timeout_s=20.0)) == {path.name}
    again = tmp_path / "run" / path.name
    for entry in before.files:
        assert (again / entry.name).read_bytes() == (path / entry.name).read_bytes()
    machine = {"fingerprint": None}
    assert asdict(read_manifest(again)) | machine == asdict(before) | machine


@pytest.mark.parametrize("kept", VERSIONS, ids=lambda path: path.name)
def test_the_command_reads_it(kept: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ckpt", "verify", str(kept)]) == 0 and main(["ckpt", "show", str(kept)]) == 0
    assert "model/1.num_batches_tracked" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"version": VERSION + 1},
            f"this is 'phalanx checkpoint' version {VERSION + 1}; read it with the phalanx that",
        ),
        ({"format": "another"}, "this is 'another' version"),
        ({"more": 1}, f"the manifest is not of version {VERSION}"),
    ],
)
def test_what_is_refused(tmp_path: Path, change: dict[str, object], words: str) -> None:
    path = tmp_path / "step-00000005"
    shutil.copytree(GOLDEN / path.name, path)
    content = json.loads((path / "manifest.json").read_text()) | change
    content.pop("checksum")
    content["checksum"] = checksum.text(checksum.crc32(_canonical(content).encode()))
    (path / "manifest.json").write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match=words):
        read_manifest(path)
