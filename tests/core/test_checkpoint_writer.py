"""Writing past the page cache, by this process and by one of its own: the same bytes, and nothing left when one of the two dies."""

from __future__ import annotations

import contextlib
import errno
import importlib.util
import os
import re
import signal
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from phalanx.core.checkpoint import snapshot, writer, writer_process
from phalanx.core.checkpoint.format import plan, share
from phalanx.core.checkpoint.manifest import Manifest
from phalanx.core.checkpoint.parts import Part, Portion, complete, portion, verify, write_portion
from phalanx.core.checkpoint.snapshot import Snapshot
from phalanx.core.checkpoint.store import Store
from phalanx.core.errors import CheckpointError
from tests.core.small_checkpoint import arrays_of

ROOT = Path(__file__).resolve().parents[2]
MIB = 1 << 20


@pytest.fixture(autouse=True)
def always_a_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshot, "PROCESS_NBYTES", 1)


def arrays(seed: int = 0) -> dict[str, np.ndarray]:
    """Small ones, and 3 MiB that begin and end at odd places."""
    numbers = np.random.default_rng(seed)
    large = {f"model/w{i}": numbers.integers(0, 256, 3 * MIB + 7 * i, dtype=np.uint8) for i in range(2)}
    return arrays_of(seed) | large


class Saving:
    """One rank's share of a save."""

    def __init__(self, directory: Path, step: int = 1, *, rank: int = 0, ranks: int = 1) -> None:
        self.arrays, self.step = arrays(), step
        self.layout = plan(self.arrays)
        self.store = Store(directory)
        self.folder = self.store.begin(step, self.layout)
        self.own = portion(self.layout, share(self.layout.files, ranks, 1000)[rank], self.arrays)

    def commit(self, parts: list[Part]) -> Path:
        files, tensors = complete(self.layout, parts)
        return self.store.commit(self.folder, Manifest(self.step, files=files, tensors=tensors))


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def shared_memory() -> list[str]:
    """What this process has of it: descriptors and mappings."""
    found = []
    for path in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            found.append(os.readlink(path))
    found += Path("/proc/self/maps").read_text().splitlines()
    return [line for line in found if "phalanx-checkpoint" in line]


def soon(condition: Callable[[], bool], seconds: float = 5.0) -> bool:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.005)
    return condition()


# -- past the page cache -----------------------------------------------------------------------------------------------


@pytest.fixture
def past(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """How many bytes each write past the page cache has."""
    direct: set[int] = set()
    lengths: list[int] = []
    real_open, real_write = os.open, os.pwrite

    def opened(path: Any, flags: int, *more: Any, **options: Any) -> int:
        descriptor = real_open(path, flags, *more, **options)
        (direct.add if flags & os.O_DIRECT else direct.discard)(descriptor)
        return descriptor

    def write(descriptor: int, data: Any, offset: int) -> int:
        if descriptor in direct:
            lengths.append(len(data))
        return real_write(descriptor, data, offset)

    monkeypatch.setattr(os, "open", opened)
    monkeypatch.setattr(os, "pwrite", write)
    yield lengths


def test_what_is_long_goes_past_the_page_cache(tmp_path: Path, past: list[int]) -> None:
    saving = Saving(tmp_path)
    path = saving.commit(write_portion(saving.folder, saving.own))
    assert verify(path).step == 1
    assert sum(past) > 5.9 * MIB and all(length % writer.ALIGNMENT_NBYTES == 0 for length in past)


@pytest.mark.parametrize("where", ["open", "pwrite"])
def test_a_file_system_that_does_not_do_that(tmp_path: Path, where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real = getattr(os, where)
    refused: list[str] = []

    def refuse(first: Any, second: Any, *more: Any, **options: Any) -> Any:
        # one asks for other alignment when it is written to, one refuses to open
        if second & os.O_DIRECT if where == "open" else len(second) >= writer.DIRECT_NBYTES and not refused:
            refused.append(where)
            raise OSError(errno.EINVAL, "Invalid argument")
        return real(first, second, *more, **options)

    monkeypatch.setattr(os, where, refuse)
    saving = Saving(tmp_path)
    verify(saving.commit(write_portion(saving.folder, saving.own)))
    assert refused


def test_a_disk_that_is_full_is_not_taken_for_that(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.pwrite

    def full(descriptor: int, data: Any, offset: int) -> int:
        if len(data) >= writer.DIRECT_NBYTES:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(descriptor, data, offset)

    monkeypatch.setattr(os, "pwrite", full)
    saving = Saving(tmp_path)
    with pytest.raises(CheckpointError, match="No space left on device; free some space"):
        write_portion(saving.folder, saving.own)


@pytest.mark.parametrize("there", [True, False])
def test_checksums_with_and_without_isal(monkeypatch: pytest.MonkeyPatch, there: bool) -> None:
    """Where it is installed it is used, and gives what zlib gives."""
    if not there:
        monkeypatch.setitem(sys.modules, "isal.isal_zlib", None)
    writer.fast_crc32.cache_clear()
    try:
        crc32 = writer.fast_crc32()
        installed = importlib.util.find_spec("isal") is not None if there else False
        assert (crc32 is zlib.crc32) == (not installed)
        data = np.random.default_rng(0).bytes(100_003)
        for lo in (0, 1, 77, 100_003):
            assert crc32(data[lo:], crc32(data[:lo], 0)) == zlib.crc32(data)
    finally:
        writer.fast_crc32.cache_clear()


# -- a process of its own ----------------------------------------------------------------------------------------------


def test_the_process_writes_the_same(tmp_path: Path) -> None:
    """... as this process would, of three ranks' odd shares, again and again from the same memory."""
    parts: list[Part] = []
    savings = [Saving(tmp_path / "all", rank=rank, ranks=3) for rank in range(3)]
    folder = savings[-1].folder
    memories = [Snapshot() for _ in range(3)]
    for saving, memory in zip(savings, memories, strict=True):
        taken = memory.take(saving.own)
        for place, (piece, data) in zip(taken, saving.own, strict=True):
            address = np.frombuffer(place[1], np.uint8).ctypes.data
            assert place[0] == piece and (address - piece.offset) % writer.ALIGNMENT_NBYTES == 0
            assert bytes(place[1]) == bytes(data)
        found = memory.write(folder, taken)
        assert found == write_portion(folder, saving.own)
        assert memory.write(folder, memory.take(saving.own)) == found
        parts += found
    assert len({memory.writer.pid for memory in memories if memory.writer}) == 3
    assert verify(savings[-1].commit(parts)).step == 1


def test_it_sleeps_between_saves_has_low_priority_and_the_same_memory(tmp_path: Path) -> None:
    memory = Snapshot()
    saving = Saving(tmp_path)
    addresses, pids = set(), set()
    for _ in range(3):
        taken = memory.take(saving.own)
        memory.write(saving.folder, taken)
        addresses.add(np.frombuffer(taken[0][1], np.uint8).ctypes.data)
        assert memory.writer is not None
        pids.add(memory.writer.pid)
    assert len(addresses) == 1
    (pid,) = pids
    assert os.getpriority(os.PRIO_PROCESS, pid) == os.getpriority(os.PRIO_PROCESS, 0) + writer.NICE
    assert soon(lambda: Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "S")


def test_a_larger_copy_gets_more_room_in_the_same_process(tmp_path: Path) -> None:
    memory = Snapshot()
    saving = Saving(tmp_path)
    first, rest = saving.own[:1], saving.own
    memory.write(saving.folder, memory.take(first))
    assert memory.writer is not None
    pid, nbytes = memory.writer.pid, memory.nbytes
    verify(saving.commit(memory.write(saving.folder, memory.take(rest))))
    assert memory.nbytes > nbytes and memory.writer.pid == pid


@pytest.mark.parametrize("number", writer.IGNORED)
def test_signals_to_the_whole_job_do_not_end_it(tmp_path: Path, number: signal.Signals) -> None:
    """The training process answers them, and may wait for this save."""
    memory, saving = Snapshot(), Saving(tmp_path)
    memory.prepare(1)
    assert memory.writer is not None
    os.kill(memory.writer.pid, number)
    pid = memory.writer.pid
    verify(saving.commit(memory.write(saving.folder, memory.take(saving.own))))
    assert memory.writer.pid == pid


def test_it_leaves_with_the_snapshot() -> None:
    memory = Snapshot()
    memory.prepare(1)
    assert memory.writer is not None
    pid = memory.writer.pid
    assert alive(pid) and shared_memory()
    del memory
    assert not Path(f"/proc/{pid}").exists(), "not even a zombie"
    assert not shared_memory()


def test_a_full_disk_there_is_told_here(tmp_path: Path) -> None:
    memory, saving = Snapshot(), Saving(tmp_path)
    (saving.folder / "model.safetensors").unlink()
    (saving.folder / "model.safetensors").symlink_to("/dev/full")
    taken = memory.take([item for item in saving.own if item[0].nbytes < MIB])
    with pytest.raises(CheckpointError, match=r"cannot write to .*No space left on device; free some space"):
        memory.write(saving.folder, taken)
    (saving.folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="No such file or directory"):
        memory.write(saving.folder, taken)


def test_a_mistake_there_is_told_here(tmp_path: Path) -> None:
    memory, saving = Snapshot(), Saving(tmp_path)
    taken = memory.take(saving.own)
    assert memory.writer is not None
    with pytest.raises(CheckpointError, match=r"writer process failed: Traceback (.|\n)*ValueError"):
        memory.writer.write(saving.folder, taken, 1, 0)


# -- one of the two dies -----------------------------------------------------------------------------------------------


OTHER = """
import os, runpy, signal, time
calls = 0
def wrapped(name, real):
    def call(*args, **options):
        global calls
        if calls == {at}:
            if {midway} and name == "pwrite":
                real(args[0], args[1][: len(args[1]) // 2], args[2])
            {action}
        calls += 1
        with open({log!r}, "a") as file:
            file.write(name + " ")
        return real(*args, **options)
    return call
for name in ("open", "pwrite", "fsync", "close"):
    setattr(os, name, wrapped(name, getattr(os, name)))
runpy.run_path({script!r}, run_name="__main__")
"""


def writer_that(action: str, tmp_path: Path, at: int = 0, midway: bool = False) -> Path:
    """A script that does ``action`` at call number ``at`` into the file system, else as the writer does."""
    path = tmp_path / "other_writer.py"
    script, log = Path(writer.__file__).resolve(), tmp_path / "calls"
    path.write_text(OTHER.format(at=at, action=action, midway=midway, script=str(script), log=str(log)))
    return path


KILL = "os.kill(os.getpid(), signal.SIGKILL)"


@pytest.mark.parametrize(
    "step", [4, pytest.param(1, marks=pytest.mark.whole)], ids=["killed at some calls", "killed at every call"]
)
def test_a_writer_that_is_killed_is_stood_in_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """At every call into the file system, and in the midst of writes: the checkpoint is there, and one line says so."""
    real = writer_process.SCRIPT
    deaths = 0
    for midway in (False, True):
        for at in range(0, 40, step):
            said: list[str] = []
            monkeypatch.setattr(writer_process, "SCRIPT", writer_that(KILL, tmp_path, at, midway))
            memory, saving = Snapshot(said.append), Saving(tmp_path / f"{at}-{midway}")
            taken = memory.take(saving.own)
            monkeypatch.setattr(writer_process, "SCRIPT", real)
            verify(saving.commit(memory.write(saving.folder, taken)))
            if not said:
                break
            assert said == ["the process that writes checkpoints was killed by signal 9: a thread writes instead"]
            deaths += 1
            again = Saving(tmp_path / f"{at}-{midway}", 2)
            verify(again.commit(memory.write(again.folder, memory.take(again.own))))
            assert len(said) == 1 and memory.writer is not None and alive(memory.writer.pid), (
                "the next save has a new one"
            )
        else:
            pytest.fail("a save has fewer calls")
    assert deaths >= 20 // step


KILLED = """
import os, sys, threading, time
from pathlib import Path
from phalanx.core.checkpoint import snapshot, writer_process
from tests.core.test_checkpoint_writer import Saving
snapshot.PROCESS_NBYTES = 1
writer_process.SCRIPT = Path({script!r})
memory, saving = snapshot.Snapshot(), Saving(Path({directory!r}))
taken = memory.take(saving.own[::2])  # nothing follows another
print(memory.writer.pid, flush=True)
memory.write(saving.folder, taken)
"""


def test_nothing_is_left_when_the_training_process_is_killed(tmp_path: Path) -> None:
    """The writer is in the midst of a save; it ends at the next block, its shared memory with it, and the next save sweeps its folder."""
    waits = f"open({str(tmp_path / 'in')!r}, 'w').close(); p = os.getppid()\n"
    waits += "            while os.getppid() == p: time.sleep(0.01)"
    slow = writer_that(waits, tmp_path, at=2)
    code = KILLED.format(script=str(slow), directory=str(tmp_path / "run"))
    training = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert training.stdout is not None
        pid = int(training.stdout.readline())
        assert soon((tmp_path / "in").exists) and alive(pid)
    finally:
        training.kill()
        training.communicate(timeout=20)
    assert soon(lambda: not alive(pid)), "the writer stays"
    assert "fsync" not in (tmp_path / "calls").read_text(), "it went on to the end"
    assert [path.name[:5] for path in (tmp_path / "run").iterdir()] == [".tmp-"]
    saving = Saving(tmp_path / "run", 3)
    saving.commit(write_portion(saving.folder, saving.own))
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["step-00000003"]


def test_without_memory_to_share_a_thread_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any) -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(os, "memfd_create", refuse)
    said: list[str] = []
    memory, saving = Snapshot(said.append), Saving(tmp_path)
    verify(saving.commit(memory.write(saving.folder, memory.take(saving.own))))
    assert memory.writer is None and len(said) == 1 and re.search("a thread writes .*Too many open files", said[0])


# -- what has not changed ----------------------------------------------------------------------------------------------


def test_every_changed_byte_is_seen() -> None:
    """A watched file is unchanged if each of its bytes is; the copy is right in any case."""
    numbers = arrays()
    layout = plan(numbers, {"model/w0", "model/w1"})
    watched = ["model.frozen.safetensors"]
    own = portion(layout, share(layout.files, 1)[0], numbers)
    memory = Snapshot()

    def changed() -> bool:
        taken: Portion = memory.take(own, watched)
        assert [bytes(data) for _, data in taken] == [bytes(data) for _, data in own]
        return watched != sorted(memory.unchanged)

    assert changed() and not changed() and not changed()
    for name, place in (("model/w0", 0), ("model/w0", -1), ("model/w1", MIB), ("model/w1", MIB - 1)):
        numbers[name][place] ^= 1
        assert changed() and not changed()
    numbers["model/fc.weight"] += 1
    assert not changed(), "it lies in another file"


def test_copies_by_several_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshot, "threads", lambda: 3)
    monkeypatch.setattr(snapshot, "PART_NBYTES", 1 << 18)
    threads: set[str] = set()
    real = np.copyto

    def copyto(*arrays: Any) -> None:
        threads.add(threading.current_thread().name)
        real(*arrays)

    monkeypatch.setattr(np, "copyto", copyto)
    numbers = arrays()
    layout = plan(numbers)
    own = portion(layout, share(layout.files, 1)[0], numbers)
    taken = Snapshot().take(own)
    assert [bytes(data) for _, data in taken] == [bytes(data) for _, data in own]
    assert len(threads) == 3
