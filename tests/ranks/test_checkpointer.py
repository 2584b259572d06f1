"""Who writes what: ranks as threads save, resume at another number, lose a disk, are killed, are asked to stop."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from phalanx.core import faults
from phalanx.core.checkpoint.parts import verify
from phalanx.core.errors import CheckpointError
from phalanx.dist.checkpoint import Checkpointer
from tests.ranks.small_run import Group, Model, Momentum, Run, on_ranks, resumed, steps_in, tensor_bytes, trained


@pytest.fixture(autouse=True)
def no_faults() -> Iterable[None]:
    yield
    faults.arm("")


# -- save and resume at any number of ranks ------------------------------------------------------------------------------


def test_bytes_do_not_tell_how_many_ranks_wrote(tmp_path: Path) -> None:
    for size in (1, 2, 3, 5):
        on_ranks(size, lambda size=size: trained(tmp_path / str(size), 4, every=4))
    reference = tensor_bytes(tmp_path / "1" / "step-00000004")
    assert sorted(reference) == ["manifest.json", "model.safetensors", "optimizer.safetensors"]
    for size in (2, 3, 5):
        assert tensor_bytes(tmp_path / str(size) / "step-00000004") == reference


@pytest.mark.parametrize(("writers", "readers"), [(1, 1), (1, 3), (3, 1), (2, 5), (5, 2)])
def test_resume_at_another_number_of_ranks_goes_on_exactly(tmp_path: Path, writers: int, readers: int) -> None:
    on_ranks(writers, lambda: trained(tmp_path, 7, every=5))
    (uninterrupted,) = on_ranks(1, lambda: trained(None, 11).state())

    def go_on() -> tuple[int | None, int, int, dict[str, bytes]]:
        step, run = resumed(tmp_path)
        at = run.loader.step
        run.train(6)
        return step, at, run.optimizer.steps, run.state()

    assert on_ranks(readers, go_on) == [(5, 5, 11, uninterrupted)] * readers


def test_all_ranks_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """... but rank 0 alone creates, renames, lists and removes."""
    writers: dict[str, int] = {}
    namers: list[str] = []
    lock = threading.Lock()
    real_write = os.pwrite

    def pwrite(descriptor: int, data: memoryview, offset: int) -> int:
        with lock:
            name = threading.current_thread().name
            writers[name] = writers.get(name, 0) + len(data)
        return real_write(descriptor, data, offset)

    monkeypatch.setattr(os, "pwrite", pwrite)
    for name in ("mkdir", "rename", "listdir", "rmdir"):
        real = getattr(os, name)
        monkeypatch.setattr(
            os, name, lambda *a, real=real, **k: (namers.append(threading.current_thread().name), real(*a, **k))[1]
        )
    on_ranks(3, lambda: trained(tmp_path / "run", 9, every=2, keep=2))
    on_ranks(3, lambda: resumed(tmp_path / "run"))
    assert set(namers) == {"rank-0"}
    assert set(writers) == {"rank-0", "rank-1", "rank-2"}
    assert max(writers.values()) < 1.3 * min(writers.values())


def test_every_and_keep(tmp_path: Path) -> None:
    on_ranks(2, lambda: trained(tmp_path, 11, every=2, keep=3))
    assert steps_in(tmp_path) == [6, 8, 10]
    assert len(list(tmp_path.iterdir())) == 3


def test_nothing_to_resume_and_no_directory(tmp_path: Path) -> None:
    assert [step for step, _ in on_ranks(2, lambda: resumed(tmp_path / "none"))] == [None, None]
    assert not (tmp_path / "none").exists()
    (run,) = on_ranks(1, lambda: trained(None, 3, every=1))
    assert run.checkpointer.resume("auto") is None
    with pytest.raises(CheckpointError, match="directory=None"):
        run.checkpointer.save()


def test_resume_none_starts_anew_and_its_saves_win(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trained(tmp_path, 20, every=10)
    run = Run(tmp_path, every=5)
    assert run.checkpointer.resume("none") is None
    run.train(5)
    assert steps_in(tmp_path) == [5]
    assert "step-00000010 is of a run that was given up" in capsys.readouterr().err
    assert resumed(tmp_path)[0] == 5


def test_resume_a_named_checkpoint_or_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trained(tmp_path / "run", 6, every=2)
    other = tmp_path / "other"
    assert resumed(other, tmp_path / "run" / "step-00000004")[0] == 4
    assert resumed(other, str(tmp_path / "run"))[0] == 6
    assert f"phalanx: resumed from step 4 ({tmp_path / 'run' / 'step-00000004'})\n" in capsys.readouterr().err
    for which in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(CheckpointError, match=str(which)):
            resumed(other, which)


def test_without_a_loader_steps_are_counted(tmp_path: Path) -> None:
    model = Model()
    checkpointer = Checkpointer(tmp_path, model=model, every=2, group=Group())
    for _ in range(5):
        checkpointer.after_step()
    assert (checkpointer.step, steps_in(tmp_path)) == (5, [2, 4])
    again = Checkpointer(tmp_path, model=Model(3), every=2, group=Group())
    assert (again.resume(), again.step) == (4, 4)


def test_several_models_and_optimizers(tmp_path: Path) -> None:
    """A GAN: equal names within, told apart by the given ones."""

    def parts(seed: int) -> tuple[dict[str, Model], dict[str, Momentum], Checkpointer]:
        models = {"g": Model(seed), "d": Model(seed + 1)}
        optimizers = {name: Momentum(model) for name, model in models.items()}
        return models, optimizers, Checkpointer(tmp_path, model=models, optimizer=optimizers, group=Group())

    models, optimizers, checkpointer = parts(0)
    optimizers["d"].step()
    path = checkpointer.save()
    names = [tensor.name for tensor in verify(path).tensors]
    assert "model/g.fc.weight" in names and "optimizer/d.momentum/d.fc.weight" in names
    assert not any(name.startswith("optimizer/g.") for name in names)
    others, others_optimizers, other = parts(50)
    assert other.resume() == 0
    for name, model in models.items():
        for key, value in model.state_dict().items():
            assert others[name].state_dict()[key].array.tobytes() == value.array.tobytes()
    assert (others_optimizers["g"].steps, others_optimizers["d"].steps) == (0, 1)


def test_evaluation_needs_no_optimizer(tmp_path: Path) -> None:
    run = trained(tmp_path, 2, every=2)
    model = Model(7)
    assert Checkpointer(tmp_path, model=model, group=Group()).resume() == 2
    assert model.parameters["fc.bias"].array.tobytes() == run.model.parameters["fc.bias"].array.tobytes()


# -- damage --------------------------------------------------------------------------------------------------------------


def flip_last_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))


@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda path: flip_last_byte(path / "model.safetensors"), "model.safetensors: the checksum of tensor model/"),
        (lambda path: os.truncate(path / "optimizer.safetensors", 99), "optimizer.safetensors is truncated: 99 of"),
        (lambda path: os.remove(path / "model.safetensors"), "model.safetensors is missing"),
        (lambda path: os.remove(path / "manifest.json"), "manifest.json is missing"),
    ],
    ids=["flipped byte", "truncated", "missing", "no manifest"],
)
def test_damage_is_named_and_the_one_before_is_taken(
    tmp_path: Path, size: int, damage: Callable[[Path], None], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    trained(tmp_path, 6, every=2)
    damage(tmp_path / "step-00000006")
    capsys.readouterr()
    outcomes = on_ranks(size, lambda: (resumed(tmp_path)[0], resumed(tmp_path)[1].loader.step))
    assert outcomes == [(4, 4)] * size
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 4, "rank 0 alone speaks, one line each"
    assert "step-00000006 is damaged: " in lines[0] and words in lines[0] and lines[0].endswith("the one before it")
    assert "resumed from step 4" in lines[1]


def test_damage_in_each_ranks_share_is_found(tmp_path: Path) -> None:
    trained(tmp_path, 2, every=2)
    path = tmp_path / "step-00000002" / "model.safetensors"
    data = path.read_bytes()
    for position in range(10, len(data), 701):
        path.write_bytes(data[:position] + bytes([data[position] ^ 4]) + data[position + 1 :])
        assert [step for step, _ in on_ranks(3, lambda: resumed(tmp_path))] == [None] * 3
    path.write_bytes(data)
    assert resumed(tmp_path)[0] == 2


def test_a_named_checkpoint_that_is_damaged_is_an_error(tmp_path: Path) -> None:
    trained(tmp_path, 4, every=2)
    flip_last_byte(tmp_path / "step-00000004" / "model.safetensors")
    for error in on_ranks(2, lambda: resumed(tmp_path, tmp_path / "step-00000004")):
        assert isinstance(error, CheckpointError) and "the checksum of tensor" in str(error)


def test_a_damaged_future_does_not_come_back(tmp_path: Path) -> None:
    """Resumed from 4 because 6 is damaged; the new 6 takes its place and is the newest."""
    trained(tmp_path, 6, every=2)
    flip_last_byte(tmp_path / "step-00000006" / "model.safetensors")
    on_ranks(2, lambda: resumed(tmp_path, every=2)[1].train(2))
    assert steps_in(tmp_path) == [2, 4, 6]
    assert resumed(tmp_path)[0] == 6


# -- faults --------------------------------------------------------------------------------------------------------------


def test_a_full_disk_on_one_rank_is_one_line_and_training_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    faults.arm("checkpoint-after-write@rank1@step4:full")
    runs = on_ranks(3, lambda: trained(tmp_path, 7, every=2))
    assert [run.loader.step for run in runs] == [7] * 3
    assert steps_in(tmp_path) == [2, 6]
    assert len(list(tmp_path.iterdir())) == 2, "nothing is left of the failed one"
    (line,) = capsys.readouterr().err.splitlines()
    assert line == "phalanx: no checkpoint after step 4: rank 1: No space left on device; training goes on"


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("checkpoint-after-write@rank2:full", "rank 2: No space"),
        ("checkpoint-after-write:full", "rank 0, 1, 2: No space"),
        ("checkpoint-before-manifest:full", "cannot commit .*No space left on device; free some space"),
        ("checkpoint-before-rename:full", "cannot commit .*No space"),
    ],
)
def test_an_explicit_save_that_fails_raises_on_all_ranks(tmp_path: Path, fault: str, words: str) -> None:
    trained(tmp_path, 2, every=2)
    faults.arm(fault)

    def save() -> None:
        _, run = resumed(tmp_path)
        run.train(1)
        run.checkpointer.save()

    for error in on_ranks(3, save):
        assert isinstance(error, CheckpointError)
        assert re.search(words, str(error)), error
    faults.arm("")
    assert steps_in(tmp_path) == [2]
    assert len(list(tmp_path.iterdir())) == 1
    assert on_ranks(2, lambda: resumed(tmp_path)[0]) == [2, 2]


def test_a_directory_that_cannot_be_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    runs = on_ranks(2, lambda: trained(tmp_path / "file", 2, every=1))
    for run in runs:
        assert isinstance(run, Run), run
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert all(
        "it is a file; choose a folder; training goes on" in line or "part of the path is a file" in line
        for line in lines
    )


def test_a_vanished_mount(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The folder goes away between two saves: it is made anew."""

    def train() -> None:
        run = trained(tmp_path / "run", 2, every=2)
        run.group.communicator.barrier().wait()
        if run.group.rank == 0:
            shutil.rmtree(tmp_path / "run")
        run.group.communicator.barrier().wait()
        run.train(2)

    on_ranks(2, train)
    assert steps_in(tmp_path / "run") == [4]


KILLED = """
from pathlib import Path
from tests.ranks.small_run import on_ranks, trained
on_ranks(3, lambda: trained(Path({directory!r}), 7, every=2))
"""


@pytest.mark.parametrize(
    ("point", "rank", "newest"),
    [
        ("checkpoint-begin", 1, 2),
        ("checkpoint-after-write", 2, 2),
        ("checkpoint-before-manifest", 0, 2),
        ("checkpoint-before-rename", 0, 2),
        ("checkpoint-after-rename", 0, 4),
    ],
)
def test_killed_while_saving(tmp_path: Path, point: str, rank: int, newest: int) -> None:
    script = KILLED.format(directory=str(tmp_path))
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=os.environ | {"PHALANX_FAULT": f"{point}@rank{rank}@step4:kill"},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    (uninterrupted,) = on_ranks(1, lambda: trained(None, 8).state())

    def go_on() -> tuple[int | None, dict[str, bytes]]:
        step, run = resumed(tmp_path, every=2)
        run.train(8 - run.loader.step)
        return step, run.state()

    assert on_ranks(2, go_on) == [(newest, uninterrupted)] * 2
    assert steps_in(tmp_path) == [4, 6, 8]
    assert len(list(tmp_path.iterdir())) == 3, "what the killed save left is swept"


# -- asked to stop ---------------------------------------------------------------------------------------------------------


def stop_after(directory: Path, steps: int, **options: Any) -> None:
    run = trained(directory, steps, **options)
    run.group.stop_requested = "SIGTERM"
    run.train(1)
    raise AssertionError("went on after it was asked to stop")


def test_stop_saves_and_ends_with_a_word(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    errors = on_ranks(3, lambda: stop_after(tmp_path, 40))
    assert [(type(error), getattr(error, "code", None)) for error in errors] == [(SystemExit, 0)] * 3
    place = tmp_path / "step-00000041"
    assert capsys.readouterr().err == f"phalanx: stopped by SIGTERM after step 41, saved in {place}\n"
    assert verify(place).step == 41


def test_stop_does_not_save_twice(tmp_path: Path) -> None:
    renames: list[Any] = []
    real = os.rename
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "rename", lambda *names: (renames.append(names), real(*names))[1])
        errors = on_ranks(2, lambda: stop_after(tmp_path, 3, every=4))
    assert [getattr(error, "code", error) for error in errors] == [0, 0]
    assert len(renames) == 1
    assert steps_in(tmp_path) == [4]


def test_a_step_that_was_saved_by_hand_is_not_saved_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(tmp_path, every=1)
    run.loader.step = 1
    run.checkpointer.save()
    monkeypatch.setattr(os, "pwrite", None)
    run.checkpointer.after_step()
    assert steps_in(tmp_path) == [1]


def test_stop_that_cannot_save_says_so_and_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    faults.arm("checkpoint-after-write@rank1:full")
    errors = on_ranks(2, lambda: stop_after(tmp_path, 40))
    assert [getattr(error, "code", error) for error in errors] == [1, 1]
    assert "stopped by SIGTERM after step 41, NOT saved: rank 1: No space left" in capsys.readouterr().err


def test_who_may_stop(tmp_path: Path) -> None:
    """A Checkpointer with a directory listens for the signals; one without has nothing to do at a stop."""

    class Listening(Group):
        listens = 0

        def listen_for_stop(self) -> None:
            self.listens += 1

    with_directory, without = Listening(), Listening()
    Run(tmp_path, group=with_directory)
    run = Run(None, group=without)
    assert (with_directory.listens, without.listens) == (1, 0)
    without.stop_requested = "SIGUSR1"
    run.train(1)
