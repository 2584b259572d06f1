"""A damaged newest checkpoint is named and passed over, and the run still ends in the bits of the undisturbed one."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.jobs import last_checkpoint, ledger, run_job, train

EVERY, SAVED, STEPS = 5, 20, 30
ARGUMENTS = f"--model mlp --shards 8 --samples 500 --test-samples 100 --epochs 4 --checkpoint-every {EVERY}".split()
CRC = "crc32:[0-9a-f]{8}"


def flip(name: str, at: float) -> Callable[[Path], None]:
    """Change one bit of the byte that stands ``at`` (0 to 1) of the way through the file."""

    def damage(checkpoint: Path) -> None:
        data = bytearray((checkpoint / name).read_bytes())
        data[int(at * len(data))] ^= 4
        (checkpoint / name).write_bytes(data)

    return damage


def resize(name: str, by: int) -> Callable[[Path], None]:
    return lambda checkpoint: os.truncate(checkpoint / name, (checkpoint / name).stat().st_size + by)


def delete(name: str) -> Callable[[Path], None]:
    return lambda checkpoint: (checkpoint / name).unlink()


def change_blank(checkpoint: Path) -> None:
    text = (checkpoint / "manifest.json").read_text()
    (checkpoint / "manifest.json").write_text(text.replace(": ", ":  ", 1))


@dataclass(frozen=True)
class Damage:
    how: str
    """How the run goes on."""
    inflict: Callable[[Path], None]
    words: str
    """What must be said of it, a regular expression."""


DAMAGES = {
    "byte of a weight": Damage(
        "run 2", flip("model.safetensors", 0.5), rf"model\.safetensors: the checksum of tensor model/1\.weight differs: {CRC} "
        rf"in the manifest, {CRC} on disk",
    ),
    "byte of a file's header": Damage(
        "alone", flip("optimizer.safetensors", 0.0001), r"optimizer\.safetensors: the header's checksum differs",
    ),
    "byte of the manifest": Damage("mpirun 2", flip("manifest.json", 0.5), r"manifest\.json: the manifest('s checksum differs| cannot be read)"),
    "truncated": Damage("run 3", resize("model.safetensors", -1), r"model\.safetensors is truncated: \d+ of \d+ bytes"),
    "file missing": Damage("threads 2", delete("optimizer.safetensors"), r"optimizer\.safetensors is missing"),
    "byte of the optimizer's state": Damage(
        "mpirun 3", flip("optimizer.safetensors", 0.9), r"optimizer\.safetensors: the checksum of tensor optimizer/\S+ differs"
    ),
    "truncated to nothing": Damage(
        "run 2", lambda checkpoint: os.truncate(checkpoint / "model.safetensors", 0), r"model\.safetensors is truncated: 0 of"
    ),
    "manifest truncated": Damage("alone", resize("manifest.json", -9), r"manifest\.json: the manifest cannot be read"),
    "manifest missing": Damage("run 2", delete("manifest.json"), r"manifest\.json is missing"),
    "manifest, a blank": Damage("run 2", change_blank, r"manifest\.json: the manifest was changed outside of its content"),
    "too long": Damage("run 2", resize("optimizer.safetensors", 1), r"optimizer\.safetensors is too long"),
}  # fmt: skip
COVERING = ("byte of a weight", "byte of the manifest", "truncated", "file missing")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    train("alone", folder, *ARGUMENTS, "--max-steps", str(STEPS))
    return folder


@pytest.fixture(scope="module")
def stopped(tmp_path_factory) -> Path:
    """A run that ended after step 20; it keeps its last three checkpoints."""
    folder = tmp_path_factory.mktemp("stopped")
    train("run 2", folder, *ARGUMENTS, "--max-steps", str(SAVED))
    assert steps_in(folder) == [10, 15, 20]
    return folder


def steps_in(folder: Path) -> list[int]:
    return sorted(int(path.name.removeprefix("step-")) for path in (folder / "checkpoints").glob("step-*"))


def of_step(folder: Path, step: int) -> Path:
    return folder / "checkpoints" / f"step-{step:08d}"


@pytest.mark.parametrize(
    "damage",
    [pytest.param(d, id=name, marks=() if name in COVERING else pytest.mark.whole) for name, d in DAMAGES.items()],
)
def test_the_one_before_it_is_resumed(damage: Damage, undisturbed: Path, stopped: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(stopped, tmp_path / "run")
    damage.inflict(of_step(folder, 20))
    output = train(damage.how, folder, *ARGUMENTS, "--max-steps", str(STEPS), "--resume", "auto")
    said = f"checkpoint {of_step(folder, 20)} is damaged: "
    assert len(lines := [line for line in output.splitlines() if said in line]) == 1, output
    assert re.search(damage.words, lines[0]) and lines[0].endswith("; going back to the one before it"), lines[0]
    assert f"resumed from step 15 ({of_step(folder, 15)})" in output, output
    assert ledger(folder) == ledger(undisturbed)
    assert last_checkpoint(folder, STEPS) == last_checkpoint(undisturbed, STEPS)
    assert steps_in(folder) == [20, 25, 30]
    assert last_checkpoint(folder, 20) == last_checkpoint(undisturbed, 20), "the damaged one was not replaced"


@pytest.mark.whole
def test_two_damaged_ones(undisturbed: Path, stopped: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(stopped, tmp_path / "run")
    flip("model.safetensors", 0.7)(of_step(folder, 20))
    delete("model.safetensors")(of_step(folder, 15))
    output = train("run 3", folder, *ARGUMENTS, "--max-steps", str(STEPS), "--resume", "auto")
    assert output.count("is damaged: ") == output.count("; going back to the one before it") == 2, output
    assert "resumed from step 10" in output, output
    assert ledger(folder) == ledger(undisturbed)
    assert last_checkpoint(folder, STEPS) == last_checkpoint(undisturbed, STEPS)


@pytest.mark.whole
def test_all_damaged(undisturbed: Path, stopped: Path, tmp_path: Path) -> None:
    """Then training begins anew, which is said; what was there stays, under other names."""
    folder = shutil.copytree(stopped, tmp_path / "run")
    for step in (10, 15, 20):
        flip("model.safetensors", 0.7)(of_step(folder, step))
    output = train("run 2", folder, *ARGUMENTS, "--max-steps", str(STEPS), "--resume", "auto")
    assert output.count("is damaged: ") == 3 and output.count("; no valid one remains") == 1, output
    assert "resumed" not in output
    assert ledger(folder) == ledger(undisturbed)


@pytest.mark.parametrize("how", ["alone", pytest.param("run 2", marks=pytest.mark.whole)])
def test_a_damaged_one_that_was_asked_for_is_an_error(how: str, stopped: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(stopped, tmp_path / "run")
    flip("model.safetensors", 0.7)(of_step(folder, 20))
    before = everything(folder)
    code, output = run_job(how, *ARGUMENTS, "--resume", str(of_step(folder, 20)))
    assert code != 0
    assert output.count("Traceback") == 1, output
    assert (
        f"CheckpointError: cannot resume from {of_step(folder, 20)}: checkpoint {of_step(folder, 20)} is damaged"
        in output
    )
    assert "model.safetensors: the checksum of tensor model/" in output, output
    assert everything(folder) == before


# -- a checkpoint of another model ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["alone", "run 2", pytest.param("mpirun 2", marks=pytest.mark.whole)])
def test_another_model_is_one_error_and_changes_nothing(how: str, stopped: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(stopped, tmp_path / "run")
    before = everything(folder)
    arguments = ["--model", "cnn", *ARGUMENTS[2:], "--resume", "auto", "--ledger", str(folder / "ledger")]
    code, output = run_job(how, *arguments, "--checkpoint-dir", str(folder / "checkpoints"))
    assert code != 0
    assert output.count("Traceback") == 1, output
    lines = [re.sub(r"^\[[\d,-]+\] ", "", line) for line in output.splitlines()]
    begin = next(number for number, line in enumerate(lines) if "StateError: " in line)
    assert lines[begin].endswith(f"checkpoint {of_step(folder, 20)} is of another model (nothing was changed):")
    assert lines[begin + 1 : begin + 4] == expected_lines(folder)
    assert everything(folder) == before


def expected_lines(folder: Path) -> list[str]:
    """All names at once, from the manifest and the other model itself."""
    from examples.fashion_mnist import CNN

    manifest = json.loads((of_step(folder, 20) / "manifest.json").read_text())
    there = {t["name"]: f"{t['dtype']}{t['shape']}" for t in manifest["tensors"] if t["name"].startswith("model/")}
    here = {f"model/{name}": f"{t.array.dtype}{list(t.array.shape)}" for name, t in CNN().state_dict().items()}
    missing, extra = sorted(here.keys() - there.keys()), sorted(there.keys() - here.keys())
    both = sorted(name for name in here.keys() & there.keys() if here[name] != there[name])
    assert missing and extra and both
    return [
        f"  missing in the checkpoint ({len(missing)}): {', '.join(missing)}",
        f"  extra in the checkpoint ({len(extra)}): {', '.join(extra)}",
        f"  mismatched ({len(both)}): "
        + "; ".join(f"{name} is {there[name]} in the checkpoint, {here[name]} here" for name in both),
    ]


def everything(folder: Path) -> dict[str, tuple[bytes | None, int]]:
    """Every path below ``folder``: its bytes and when it was changed."""
    return {
        str(path.relative_to(folder)): (path.read_bytes() if path.is_file() else None, path.stat().st_mtime_ns)
        for path in sorted(folder.rglob("*"))
    }
