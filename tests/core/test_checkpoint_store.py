"""The store on disk: round trips, atomic commit, leftovers, pruning, full and forbidden disks."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from phalanx.core import faults
from phalanx.core.checkpoint import parts
from phalanx.core.checkpoint.parts import read, verify
from phalanx.core.checkpoint.store import Store, step_name, step_of
from phalanx.core.errors import CheckpointError
from tests.core.small_checkpoint import (
    MANIFEST,
    MODEL,
    OPTIMIZER,
    arrays_of,
    change_tensor,
    names,
    save,
    saved,
    skipped_by,
)


@pytest.fixture
def three(tmp_path: Path) -> Store:
    return saved(tmp_path / "run", 10, 20, 30)


# -- the good way ------------------------------------------------------------------------------------------------------


def test_round_trip_in_place_and_by_the_library(three: Store) -> None:
    found = three.newest_valid()
    assert found is not None
    path, manifest = found
    assert (path.name, manifest.step, manifest.cursor) == ("step-00000030", 30, {"step": 30})
    expected = arrays_of(30)
    strided = {name: np.zeros(a.shape[::-1], a.dtype).T for name, a in expected.items()}
    for into in ({name: np.zeros_like(a) for name, a in expected.items()}, strided):
        memory = {name: a.ctypes.data for name, a in into.items()}
        read(path, manifest, into)
        assert all(into[name].tobytes() == a.tobytes() for name, a in expected.items())
        assert memory == {name: a.ctypes.data for name, a in into.items()}
    loaded = load_file(path / MODEL)
    assert all(loaded[name].tobytes() == a.tobytes() for name, a in expected.items() if name.startswith("model/"))
    assert names(three) == ["step-00000010", "step-00000020", "step-00000030"]
    assert sorted(os.listdir(path)) == [MANIFEST, MODEL, OPTIMIZER]


def test_the_number_of_writers_leaves_no_trace(tmp_path: Path) -> None:
    folders = [save(Store(tmp_path / str(writers)), 5, writers=writers) for writers in (1, 2, 3, 8)]
    for name in (MANIFEST, MODEL, OPTIMIZER):
        assert len({(folder / name).read_bytes() for folder in folders}) == 1


def test_names_and_an_empty_place(tmp_path: Path) -> None:
    assert (step_name(123), step_of("x/step-00000123"), step_of(step_name(10**9))) == ("step-00000123", 123, 10**9)
    assert [
        step_of(name) for name in (".tmp-step-00000123", "step-123", "step-00000123.bak", "superseded-step-00000001")
    ] == [None] * 4
    store = Store(tmp_path / "none")
    assert (store.list(), store.newest_valid()) == ([], None)
    assert not store.directory.exists()


def test_a_model_without_tensors(tmp_path: Path) -> None:
    path = save(Store(tmp_path), 1, arrays={})
    assert verify(path).tensors == ()


# -- commit ------------------------------------------------------------------------------------------------------------

KILLED = """
from phalanx.core import faults
from tests.core.small_checkpoint import Store, save
store = Store({directory!r})
save(store, 10)
faults.set_position(0, 20)
save(store, 20)
print("not killed")
"""


@pytest.mark.parametrize(
    ("point", "newest", "leftovers"),
    [("checkpoint-before-manifest", 10, 1), ("checkpoint-before-rename", 10, 1), ("checkpoint-after-rename", 20, 0)],
)
def test_killed_within_a_save(tmp_path: Path, point: str, newest: int, leftovers: int) -> None:
    script = KILLED.format(directory=str(tmp_path))
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=os.environ | {"PHALANX_FAULT": f"{point}@rank0@step20:kill"},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (-signal.SIGKILL, ""), done.stderr
    store = Store(tmp_path)
    assert skipped_by(store) == (newest, [])
    assert sum(name.startswith(".tmp-step-00000020") for name in names(store)) == leftovers
    store.list(), store.newest_valid()
    assert sum(name.startswith(".tmp-") for name in names(store)) == leftovers, "readers leave everything where it is"
    save(store, 30)
    assert names(store) == sorted(["step-00000010", *(["step-00000020"] if newest == 20 else []), "step-00000030"])


def system_calls_of_a_save(monkeypatch: pytest.MonkeyPatch, fail_at: int | None) -> list[str]:
    """Count what a save asks of the file system; fail with EIO at call ``fail_at``, and at all after it."""
    calls: list[str] = []

    def counted(name: str, real: Callable[..., object]) -> Callable[..., object]:
        def call(*args: object, **options: object) -> object:
            calls.append(name)
            if fail_at is not None and len(calls) > fail_at:
                raise KeyboardInterrupt  # as a kill: nothing after it happens
            return real(*args, **options)

        return call

    monkeypatch.setattr(shutil, "rmtree", lambda *args, **options: None)  # dies at its first call
    for name in ("mkdir", "pwrite", "fsync", "rename", "open"):
        monkeypatch.setattr(os, name, counted(name, getattr(os, name)))
    return calls


def test_death_at_every_system_call_of_a_save_leaves_a_valid_one(tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        calls = system_calls_of_a_save(patch, None)
        store = Store(tmp_path / "count", keep=1)
        save(store, 10)
        first = len(calls)
        save(store, 20)
        total = len(calls) - first
    assert total > 10
    seen = set()
    for fail_at in range(total):
        directory = tmp_path / str(fail_at)
        store = Store(directory, keep=1)
        save(store, 10)
        with pytest.MonkeyPatch.context() as patch:
            system_calls_of_a_save(patch, fail_at)
            with pytest.raises(KeyboardInterrupt):
                save(store, 20)
        step, told = skipped_by(store)
        assert step in (10, 20) and told == []
        seen.add(step)
        save(store, 30)
        assert names(store) == ["step-00000030"]
    assert seen == {10, 20}


def test_a_checkpoint_appears_only_complete(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path)
    states: list[list[Path]] = []
    for name in ("pwrite", "fsync"):
        real = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *args, real=real: (states.append(store.list()), real(*args))[1])
    save(store, 7)
    assert all(state == [] or (len(state) == 1 and verify(state[0])) for state in states)
    assert states[-1] != [], "the folder's name is made durable after the rename"


def test_the_same_step_again(three: Store) -> None:
    """Equal content stays untouched; other or damaged content is replaced."""
    path = three.list()[-1]
    before = path.stat().st_ino
    save(three, 30)
    assert path.stat().st_ino == before
    change_tensor(path)
    save(three, 30)
    assert path.stat().st_ino != before
    save(three, 30, arrays=arrays_of(31))
    assert verify(path).tensors[0].checksum == verify(save(Store(three.directory.parent / "b"), 31)).tensors[0].checksum
    assert names(three) == ["step-00000010", "step-00000020", "step-00000030"]


def test_going_back_sets_the_given_up_future_aside(three: Store) -> None:
    told: list[str] = []
    store = Store(three.directory, keep=3, say=told.append)
    save(store, 15)
    assert [step_of(path) for path in store.list()] == [10, 15]
    assert sorted(name[:24] for name in names(store) if name.startswith("superseded")) == [
        "superseded-step-00000020",
        "superseded-step-00000030",
    ]
    assert len(told) == 2 and "step-00000020 is of a run that was given up" in told[0]


@pytest.mark.parametrize(("keep", "left"), [(None, [10, 20, 30, 40]), (1, [40]), (2, [30, 40]), (9, [10, 20, 30, 40])])
def test_keep(three: Store, keep: int | None, left: list[int]) -> None:
    save(Store(three.directory, keep=keep), 40)
    assert [step_of(path) for path in three.list()] == left
    assert names(three) == [step_name(step) for step in left]


@pytest.mark.parametrize("keep", [0, -1, 1.5, True])
def test_keep_must_keep_something(tmp_path: Path, keep: object) -> None:
    with pytest.raises(CheckpointError, match="keep"):
        Store(tmp_path, keep=keep)  # type: ignore[arg-type]


def test_a_failed_save_with_keep_1_removes_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path, keep=1)
    save(store, 10)
    try:
        faults.arm("checkpoint-before-rename:full")
        with pytest.raises(CheckpointError, match="No space left"):
            save(store, 20)
    finally:
        faults.arm("")
    assert skipped_by(store) == (10, [])


# -- what the system refuses -------------------------------------------------------------------------------------------


def refuse(name: str, monkeypatch: pytest.MonkeyPatch, error: OSError) -> None:
    def fail(*args: object, **options: object) -> None:
        raise error

    monkeypatch.setattr(os, name, fail)


@pytest.mark.parametrize("call", ["pwrite", "fsync", "rename", "mkdir"])
def test_a_refused_call_is_one_clear_error_and_old_checkpoints_stay(
    three: Store, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    with monkeypatch.context() as patch:
        refuse(call, patch, OSError(28, "No space left on device"))
        with pytest.raises(CheckpointError, match=r"No space left on device.*; free some space"):
            save(three, 40)
    assert skipped_by(three) == (30, [])
    save(three, 40)
    assert names(three) == [step_name(step) for step in (10, 20, 30, 40)]


FULL = """
import resource, signal
import numpy as np
from phalanx.core.errors import CheckpointError
from tests.core.small_checkpoint import Store, save, skipped_by
store = Store({directory!r})
save(store, 10)
if {limit}:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
try:
    save(store, 20, arrays={{"model/w": np.ones(1_000_000)}})
except CheckpointError as error:
    print(error)
print(skipped_by(store))
"""


def run_full(directory: Path, limit: bool) -> str:
    script = FULL.format(directory=str(directory), limit=limit)
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_file_size_limit(tmp_path: Path) -> None:
    words = run_full(tmp_path, True)
    assert "File too large" in words and "a limit forbids" in words and words.endswith("(10, [])\n")


def test_a_disk_that_is_really_full(tmp_path: Path) -> None:
    """A file system of 1 MB; where it cannot be mounted, a limit on the size of files stands in."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)], capture_output=True, timeout=20
    ).returncode
    try:
        words = run_full(place / "run", limit=mounted != 0)
    finally:
        if mounted == 0:
            subprocess.run(["umount", str(place)], check=True, timeout=20)
    assert words.endswith("(10, [])\n")
    assert ("No space left on device" in words and "; free some space" in words) or mounted != 0


def test_the_directory_is_a_file(tmp_path: Path) -> None:
    place = tmp_path / "file"
    place.write_text("keep me")
    for path in (place, place / "below"):
        with pytest.raises(CheckpointError, match="is a file; choose a folder"):
            save(Store(path), 1)
    assert place.read_text() == "keep me"
    with pytest.raises(CheckpointError, match="cannot list"):
        Store(place).list()


def test_a_folder_that_must_not_be_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root may write anywhere, so the refusal comes from a stand-in there, else from the real system."""
    store = Store(tmp_path)
    save(store, 10)
    if os.geteuid() == 0:
        refuse("mkdir", monkeypatch, PermissionError(13, "Permission denied"))
    else:
        tmp_path.chmod(0o500)
    try:
        with pytest.raises(CheckpointError, match=r"Permission denied.*choose a folder that this user may write to"):
            save(store, 20)
    finally:
        tmp_path.chmod(0o700)
    assert skipped_by(store) == (10, [])


def test_a_write_that_is_cut_short_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, offset: real(fd, data[:37], offset))
    monkeypatch.setattr(parts, "_CHUNK_NBYTES", 100)
    verify(save(Store(tmp_path), 1))


def test_names_are_made_durable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Data before the manifest, both before the rename, the parent folder after it."""
    order: list[str] = []
    real_sync, real_rename = os.fsync, os.rename

    def sync(descriptor: int) -> None:
        order.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")).name)
        real_sync(descriptor)

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(os, "rename", lambda a, b: (order.append("rename"), real_rename(a, b))[1])
    store = Store(tmp_path / "run")
    save(store, 1, writers=1)
    folder = next(name for name in order if name.startswith(".tmp-"))
    assert order == [tmp_path.name, MODEL, OPTIMIZER, MANIFEST, folder, "rename", "run"]
