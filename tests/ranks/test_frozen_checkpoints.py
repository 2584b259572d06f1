"""What training does not change is one file on the disk, however many checkpoints have it; and a change of it is always seen."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from pathlib import Path

import pytest

from phalanx.core import faults
from phalanx.core.checkpoint.parts import read_manifest, verify
from tests.ranks.file_calls import killed_at
from tests.ranks.small_run import Group, Run, on_ranks, steps_in, tensor_bytes

FROZEN = "model.frozen.safetensors"


@pytest.fixture(autouse=True)
def no_faults() -> Iterable[None]:
    yield
    faults.arm("")


class FrozenRun(Run):
    """The optimizer was not given the first layer."""

    def __init__(self, directory: Path | None, **options: object) -> None:
        super().__init__(directory, **options)  # type: ignore[arg-type]
        self.weight = self.model.parameters["fc.weight"]
        self.optimizer.param_groups[0]["params"].remove(self.weight)  # type: ignore[attr-defined]

    def save(self) -> None:
        self.train(2)
        self.checkpointer.wait()


def place(directory: Path, step: int, name: str = FROZEN) -> int:
    return (directory / f"step-{step:08d}" / name).stat().st_ino


@pytest.mark.parametrize("size", [1, 3])
def test_one_file_in_all_checkpoints(tmp_path: Path, size: int) -> None:
    """... of the same bytes as if each had been written, by any number of ranks; it outlives the checkpoint that wrote it."""

    def main(background: bool) -> None:
        run = FrozenRun(tmp_path / str(background), every=2, background=background)
        for _ in range(3):
            run.save()

    for background in (False, True):
        assert on_ranks(size, main, background) == [None] * size
    behind, front = tmp_path / "True", tmp_path / "False"
    assert len({place(behind, step) for step in (2, 4, 6)}) == 1
    assert len({place(front, step) for step in (2, 4, 6)}) == 3
    assert len({place(behind, step, "model.safetensors") for step in (2, 4, 6)}) == 3
    for step in (2, 4, 6):
        name = f"step-{step:08d}"
        assert tensor_bytes(behind / name) == tensor_bytes(front / name)
        tensors = {entry.name: entry.file for entry in read_manifest(behind / name).tensors}
        assert [name for name, file in tensors.items() if file == FROZEN] == ["model/fc.weight"]
    shutil.rmtree(behind / "step-00000002")
    shutil.rmtree(behind / "step-00000004")
    assert verify(behind / "step-00000006").step == 6


def test_a_change_on_one_rank_is_written(tmp_path: Path) -> None:
    """Nothing but the bytes counts: a weight that somebody sets by hand is in the next checkpoint."""

    def main() -> bytes:
        run = FrozenRun(tmp_path, every=2, background=True, keep=None)
        run.save()
        run.save()
        run.weight.array[-1, -1] += 1  # the last rank's part
        run.save()
        run.save()
        return run.weight.array.tobytes()

    (changed,) = set(on_ranks(3, main))
    assert place(tmp_path, 2) == place(tmp_path, 4) != place(tmp_path, 6) == place(tmp_path, 8)
    for step in (2, 4, 6, 8):
        verify(tmp_path / f"step-{step:08d}")
    assert tensor_bytes(tmp_path / "step-00000008")[FROZEN].endswith(changed)


def test_a_copy_that_became_no_checkpoint_is_not_linked_to(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The weight changes, the save of it fails: the next one equals the copy, but no checkpoint that is there."""
    faults.arm("checkpoint-before-rename@step4:full")

    def main() -> bytes:
        run = FrozenRun(tmp_path, every=2, background=True)
        run.save()
        run.weight.array += 1
        run.save()
        run.save()
        return run.weight.array.tobytes()

    (changed,) = set(on_ranks(2, main))
    assert steps_in(tmp_path) == [2, 6]
    assert tensor_bytes(tmp_path / "step-00000006")[FROZEN].endswith(changed)
    assert "no checkpoint after step 4" in capsys.readouterr().err


@pytest.mark.parametrize("what", ["gone", "short"])
def test_a_file_that_is_not_there_any_more_is_written(tmp_path: Path, what: str) -> None:
    def main() -> None:
        run = FrozenRun(tmp_path, every=2, background=True)
        run.save()
        if run.group.rank == 0:
            file = tmp_path / "step-00000002" / FROZEN
            file.unlink() if what == "gone" else os.truncate(file, 100)
        run.save()

    assert on_ranks(2, main) == [None] * 2
    assert verify(tmp_path / "step-00000004").step == 4


def test_a_parameter_that_wants_no_gradient(tmp_path: Path) -> None:
    run = Run(tmp_path, every=2)
    run.model.parameters["fc.bias"].requires_grad = False  # type: ignore[attr-defined]
    run.train(2)
    tensors = {entry.name: entry.file for entry in read_manifest(tmp_path / "step-00000002").tensors}
    assert [name for name, file in tensors.items() if file == FROZEN] == ["model/fc.bias"]


@pytest.mark.parametrize("every", [6, pytest.param(1, marks=pytest.mark.whole)], ids=["some", "all"])
def test_kill_at_every_call(tmp_path: Path, every: int) -> None:
    """A valid checkpoint remains, and going on from it gives the bits of the run that was not killed."""

    def train(directory: Path, steps: int) -> bytes:
        run = FrozenRun(directory, model_seed=steps, every=2, keep=2, background=True, group=Group())
        run.checkpointer.resume("auto")
        while run.loader.step < steps:
            run.save()
        return b"".join(run.state().values())

    def prepared(name: str) -> Path:
        shutil.rmtree(tmp_path / name, ignore_errors=True)
        train(tmp_path / name, 2)
        return tmp_path / name

    start = FrozenRun(None, model_seed=2)
    undisturbed = start.state
    start.train(8)
    calls = killed_at(lambda: train(tmp_path / "count", 6), prepared("count"), None)
    assert calls is not None and "link" in calls
    for at in range(0, len(calls), every):
        assert killed_at(lambda: train(tmp_path / "run", 6), prepared("run"), at) is None
        steps = steps_in(tmp_path / "run")
        assert steps
        for step in steps:
            verify(tmp_path / "run" / f"step-{step:08d}")
        assert train(tmp_path / "run", 8) == b"".join(undisturbed().values())
        assert steps_in(tmp_path / "run") == [6, 8] and len(os.listdir(tmp_path / "run")) == 2
        assert set(steps) <= {2, 4, 6}
