"""Kill -9 at every call into the file system of a save, enumerated: a valid checkpoint remains, and the next save is clean.

Each call is tried twice: killed before it, and where it writes in the midst of it. A forked child saves, so that it is a real kill.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import pytest

from phalanx.core.checkpoint.parts import verify
from phalanx.core.checkpoint.store import Store
from tests.core.small_checkpoint import arrays_of, names, save, skipped_by
from tests.ranks.file_calls import killed_at
from tests.ranks.small_run import Run, on_ranks, resumed, steps_in, trained

QUICK = 9
"""Every so many calls in the quick form; all of them in the whole one."""
SOME_OR_ALL = pytest.mark.parametrize("every", [QUICK, pytest.param(1, marks=pytest.mark.whole)], ids=["some", "all"])


@pytest.fixture
def quiet(capfd: pytest.CaptureFixture[str]) -> Iterable[None]:
    yield
    capfd.readouterr()


def check(directory: Path, allowed: tuple[int, ...]) -> int:
    """The newest valid step; nothing that a reader sees is damaged."""
    store = Store(directory)
    step, told = skipped_by(store)
    assert told == [] and step in allowed, (step, told, names(store))
    for path in store.list():
        verify(path)
    assert step is not None
    return step


@SOME_OR_ALL
def test_of_a_store(tmp_path: Path, every: int) -> None:
    def second(directory: Path) -> None:
        save(Store(directory, keep=1), 20)

    save(Store(tmp_path / "count", keep=1), 10)
    calls = killed_at(lambda: second(tmp_path / "count"), tmp_path / "count", None)
    assert calls is not None
    assert {"mkdir", "open", "truncate", "pwrite", "fsync", "write", "rename", "unlink", "rmdir", "close"} <= set(calls)
    seen = []
    for midway in (False, True):
        chosen = [at for at, call in enumerate(calls) if not midway or call in ("write", "pwrite")]
        for at in chosen[:: 1 if every == 1 else QUICK // 2]:
            directory = tmp_path / f"{at}-{midway}"
            save(Store(directory, keep=1), 10)
            assert killed_at(lambda directory=directory: second(directory), directory, at, midway=midway) is None
            seen.append(check(directory, (10, 20)))
            save(Store(directory, keep=1), 30)
            assert names(Store(directory)) == ["step-00000030"], f"killed at {calls[at]} {at}"
    assert set(seen) == {10, 20}
    if every == 1:
        assert seen[: len(calls)] == sorted(seen[: len(calls)]), "once committed it stays"


@SOME_OR_ALL
def test_of_one_that_takes_the_place_of_another(tmp_path: Path, every: int) -> None:
    """The same step with another content: an older one stands in for the moment between two renames."""

    def again(directory: Path) -> None:
        save(Store(directory), 20, arrays=arrays_of(7))

    def before(directory: Path) -> None:
        save(Store(directory), 10)
        save(Store(directory), 20)

    before(tmp_path / "count")
    calls = killed_at(lambda: again(tmp_path / "count"), tmp_path / "count", None)
    assert calls is not None
    for at in range(0, len(calls), every):
        directory = tmp_path / str(at)
        before(directory)
        assert killed_at(lambda directory=directory: again(directory), directory, at) is None
        check(directory, (10, 20))


def ranks(directory: Path, size: int, background: bool) -> None:
    def main() -> None:
        step, run = resumed(directory, every=2, keep=2, background=background)
        assert step == 2
        run.train(2)
        run.checkpointer.wait()

    for outcome in on_ranks(size, main):
        if isinstance(outcome, BaseException):
            raise outcome


@pytest.mark.parametrize("background", [False, True], ids=["at once", "behind"])
@SOME_OR_ALL
def test_of_several_ranks(tmp_path: Path, background: bool, every: int, quiet: None) -> None:
    """... and training that goes on from what remains ends in the bits of the one that was never killed."""
    (undisturbed,) = on_ranks(1, lambda: trained(None, 6).state())

    def prepared(name: str) -> Path:
        trained(tmp_path / name, 2, every=2)
        return tmp_path / name

    def go_on(directory: Path) -> tuple[int | None, dict[str, bytes]]:
        step, run = resumed(directory, every=2)
        run.train(6 - run.loader.step)
        return step, run.state()

    calls = killed_at(lambda: ranks(tmp_path / "count", 3, background), prepared("count"), None)
    assert calls is not None and calls.count("pwrite") >= 4, "each rank writes"
    seen = set()
    for at in range(0, len(calls) - 1, every if every == 1 else 3 * QUICK):
        directory = prepared(str(at))
        killed_at(lambda directory=directory: ranks(directory, 3, background), directory, at)
        step = check(directory, (2, 4))
        assert on_ranks(2, lambda directory=directory: go_on(directory)) == [(step, undisturbed)] * 2
        assert steps_in(directory) == [2, 4, 6]
        assert len(os.listdir(directory)) == 3, "what the killed save left is swept"
        seen.add(step)
    assert seen == {2, 4} or every > 1


def test_a_run_is_what_is_tested(tmp_path: Path) -> None:
    """That the harness kills: at call 0 nothing at all has happened."""
    assert killed_at(lambda: Run(tmp_path / "x", every=1).train(1), tmp_path / "x", 0) is None
    assert not (tmp_path / "x").exists()
