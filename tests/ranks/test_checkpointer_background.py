"""Saves while training goes on: the bits of the step that was copied, a commit only when all ranks have written, no step that waits."""

from __future__ import annotations

import gc
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from phalanx.core import faults
from phalanx.core.checkpoint.parts import verify
from phalanx.dist.checkpoint import Checkpointer
from tests.ranks.small_run import Group, Model, Run, on_ranks, resumed, steps_in, tensor_bytes, trained


@pytest.fixture(autouse=True)
def no_faults() -> Iterable[None]:
    yield
    faults.arm("")


class Gate:
    """Writers stand before it until it is opened; training must not."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, only: str = "phalanx-checkpoint") -> None:
        self.open = threading.Event()
        self.waiting = threading.Event()
        real = os.pwrite

        def pwrite(descriptor: int, data: Any, offset: int) -> int:
            if threading.current_thread().name == only:
                self.waiting.set()
                assert self.open.wait(20)
            return real(descriptor, data, offset)

        monkeypatch.setattr(os, "pwrite", pwrite)


def steps_until(run: Run, step: int, limit: int = 2000) -> None:
    """Train until ``step`` is the last one saved; the state is that of the same number of steps on all ranks."""
    for _ in range(limit):
        run.train(1)
        if run.checkpointer._saved is not None and run.checkpointer._saved[0] == step:
            return
        threading.Event().wait(0.001)
    raise AssertionError(f"step {step} was never committed")


@pytest.mark.parametrize("size", [1, 2, 3])
def test_the_same_bytes_as_in_the_foreground(tmp_path: Path, size: int) -> None:
    """... of the step at which it was copied, though the arrays change while threads write."""
    trained(tmp_path / "front", 4, every=4)

    def main() -> Path | None:
        run = Run(tmp_path / "behind", every=4, background=True)
        run.train(7)
        return run.checkpointer.wait()

    assert on_ranks(size, main) == [tmp_path / "behind" / "step-00000004"] * size
    assert tensor_bytes(tmp_path / "behind" / "step-00000004") == tensor_bytes(tmp_path / "front" / "step-00000004")
    assert os.listdir(tmp_path / "behind") == ["step-00000004"]


def test_training_goes_on_while_one_rank_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing is committed before all have written, a save that is due meanwhile is left out, the next one is not."""
    trained(tmp_path / "front", 4, every=4)
    gate = Gate(monkeypatch)

    def main() -> int:
        run = Run(tmp_path, every=4, background=True)
        run.train(9)
        assert gate.waiting.wait(20)
        assert steps_in(tmp_path) == []
        run.group.communicator.barrier().wait()
        gate.open.set()
        steps_until(run, 4)
        at = run.loader.step
        run.train(-at % 4)
        run.checkpointer.wait()
        return run.loader.step

    (last,) = set(on_ranks(3, main))
    assert steps_in(tmp_path) == [4, last]
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "phalanx: no checkpoint after step 8: that of step 4 is still being written; training goes on"
    assert verify(tmp_path / f"step-{last:08d}").step == last
    assert tensor_bytes(tmp_path / "step-00000004") == tensor_bytes(tmp_path / "front" / "step-00000004")


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("checkpoint-after-write@rank1@step4:full", "no checkpoint after step 4: rank 1: No space left on device"),
        ("checkpoint-before-rename@step4:full", "no checkpoint after step 4: cannot commit .*No space left"),
    ],
)
def test_a_disk_that_is_full_behind_is_one_line(
    tmp_path: Path, fault: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    faults.arm(fault)

    def main() -> Path | None:
        run = Run(tmp_path, every=2, background=True)
        for _ in range(7):
            run.train(1)
            run.checkpointer.wait()
        return run.checkpointer.wait()

    assert on_ranks(3, main) == [tmp_path / "step-00000006"] * 3
    assert steps_in(tmp_path) == [2, 6]
    assert len(list(tmp_path.iterdir())) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert re.search(words, line), line
    assert line.endswith("; training goes on")


def test_a_stop_waits_for_what_is_under_way_and_saves(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def main() -> None:
        run = Run(tmp_path, every=4, background=True)
        run.train(4)
        run.group.stop_requested = "SIGTERM"
        run.train(1)

    errors = on_ranks(2, main)
    assert [getattr(error, "code", error) for error in errors] == [0, 0]
    assert steps_in(tmp_path) == [4, 5]
    assert "stopped by SIGTERM after step 5, saved in" in capsys.readouterr().err


def test_an_explicit_save_and_a_resume_come_after_it(tmp_path: Path) -> None:
    def main() -> tuple[Any, ...]:
        run = Run(tmp_path, every=3, background=True)
        run.train(3)
        state = run.state()
        run.train(1)
        path = run.checkpointer.save()
        run.train(2)
        step = run.checkpointer.resume(tmp_path / "step-00000003")
        return path.name, step, run.state() == state

    assert on_ranks(2, main) == [("step-00000004", 3, True)] * 2
    assert steps_in(tmp_path) == [3, 4, 6]


def test_one_that_is_forgotten_is_dropped_and_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    gate = Gate(monkeypatch)
    run = Run(tmp_path, every=2, background=True)
    run.train(2)
    assert gate.waiting.wait(20)
    del run
    gc.collect()
    assert capsys.readouterr().err.count("the save after step 2 was not finished, so it is dropped: call wait()") == 1
    assert list(tmp_path.iterdir()) == []
    gate.open.set()


def test_nobody_waits_at_the_end_of_the_process(tmp_path: Path) -> None:
    """A disk that answers no more does not keep the process from ending."""
    script = f"""
import os, threading
from pathlib import Path
from tests.ranks.small_run import trained
real = os.pwrite
os.pwrite = lambda *a: threading.Event().wait(100) if threading.current_thread().name == "phalanx-checkpoint" else real(*a)
run = trained(Path({str(tmp_path)!r}), 3, every=2, background=True)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=30
    )
    assert done.returncode == 0 and "the save after step 2 was not finished" in done.stderr, done.stderr
    assert list(tmp_path.iterdir()) == []


def test_the_copy_uses_the_same_memory_again(tmp_path: Path) -> None:
    run = Run(tmp_path, every=2, background=True)
    run.train(1)
    assert run.checkpointer._behind.room is not None
    run.checkpointer._behind.room.result()
    room = run.checkpointer._behind.snapshot._memory
    assert room.nbytes > 0
    for _ in range(3):
        run.train(2)
        run.checkpointer.wait()
        assert run.checkpointer._behind.snapshot._memory is room
    assert steps_in(tmp_path) == [2, 4, 6]


def test_without_a_period_nothing_is_reserved(tmp_path: Path) -> None:
    checkpointer = Checkpointer(tmp_path, model=Model(), background=True, group=Group())
    checkpointer.after_step()
    assert checkpointer._behind.snapshot.nbytes == 0 and checkpointer.wait() is None


KILLED = """
from pathlib import Path
from tests.ranks.small_run import Run, on_ranks
def main():
    run = Run(Path({directory!r}), every=2, background=True)
    for _ in range(7):
        run.train(1)
        run.checkpointer.wait()
on_ranks(3, main)
"""


@pytest.mark.parametrize(
    ("point", "rank", "newest"),
    [("checkpoint-after-write", 2, 2), ("checkpoint-before-rename", 0, 2), ("checkpoint-after-rename", 0, 4)],
)
def test_killed_while_a_thread_saves(tmp_path: Path, point: str, rank: int, newest: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", KILLED.format(directory=str(tmp_path))],
        env=os.environ | {"PHALANX_FAULT": f"{point}@rank{rank}@step4:kill"},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    (uninterrupted,) = on_ranks(1, lambda: trained(None, 8).state())

    def go_on() -> tuple[int | None, dict[str, bytes]]:
        step, run = resumed(tmp_path, every=2, background=True)
        while run.loader.step < 8:
            run.train(1)
            run.checkpointer.wait()
        return step, run.state()

    assert on_ranks(2, go_on) == [(newest, uninterrupted)] * 2
    assert steps_in(tmp_path) == [4, 6, 8]
    assert len(list(tmp_path.iterdir())) == 3, "what the killed save left is swept"


# -- policies: rank 0's score counts, whatever others believe --------------------------------------------------------------


@pytest.mark.parametrize("background", [False, True])
def test_the_best_stays(tmp_path: Path, background: bool) -> None:
    def main() -> Path | None:
        run = Run(tmp_path, every=None, keep=1, keep_every=8, keep_best=1, background=background)
        run.checkpointer.every = 2
        for loss in (0.9, 0.5, 0.2, 0.4, 0.3, 0.7):
            for _ in range(2):
                run.optimizer.step()
                run.loader.step += 1
                run.checkpointer.after_step(loss + run.group.rank)
            run.checkpointer.wait()
        return run.checkpointer.save(score=0.6)

    assert on_ranks(3, main) == [tmp_path / "step-00000012"] * 3
    assert steps_in(tmp_path) == [6, 8, 12]


# -- a real file system that fills up, becomes read-only, goes away -------------------------------------------------------------


def mount(*words: str) -> bool:
    return subprocess.run(["mount", *words], capture_output=True, timeout=20).returncode == 0


@pytest.mark.parametrize("background", [False, True])
def test_a_disk_that_fills_up_becomes_read_only_and_goes_away(
    tmp_path: Path, background: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    """Training goes on, each time with one line, and the old checkpoints stay. Without the right to mount, folders stand in."""
    place = tmp_path / "disk"
    place.mkdir()
    real = mount("-t", "tmpfs", "-o", "size=100k", "tmpfs", str(place))
    outside = real and os.stat(place).st_dev
    try:
        run = Run(place / "run", every=1, keep=None, background=background)

        def step() -> list[str]:
            run.train(1)
            run.checkpointer.wait()
            return capsys.readouterr().err.splitlines()

        assert step() == []
        if real:
            (place / "filler").write_bytes(b"x" * os.statvfs(place).f_bavail * os.statvfs(place).f_frsize)
            (line,) = step()
            assert re.search("no checkpoint after step 2: .*No space left on device.*; training goes on", line), line
            (place / "filler").unlink()
            assert step() == [] and mount("-o", "remount,ro", str(place))
            (line,) = step()
            assert re.search("after step 4: .*Read-only file system.*; choose a folder that is not read-only", line), (
                line
            )
            assert mount("-o", "remount,rw", str(place)) and steps_in(place / "run") == [1, 3]
            assert [verify(path).step for path in sorted((place / "run").iterdir())] == [1, 3]
            subprocess.run(["umount", str(place)], check=True, timeout=20)
            assert os.stat(place).st_dev != outside
        shutil.rmtree(place)
        place.write_text("")
        (line,) = step()
        assert line.endswith("training goes on")
        assert run.loader.step == (5 if real else 2)
    finally:
        if os.path.ismount(place):
            subprocess.run(["umount", str(place)], check=True, timeout=20)
