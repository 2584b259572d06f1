"""``phalanx warmup``, and the cache of compiled loops: compiled once, whatever happens to the files and to the lock."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("numba")

from phalanx.core.kernels.cpu import compile_once

LINE = "phalanx: compiling fast kernels, once for this machine"
LOOPS = """
import errno, json, os, sys
import numpy as np
from phalanx.core.kernels.cpu import compiled, threads
from phalanx.core.kernels.cpu.compiled import loop, prange
from phalanx.core.kernels.cpu.mathematics import exp, f4

@loop("f4[:], f4[:] out", exact=True)
def first(x, y):
    for i in prange(x.size):
        y[i] = exp(x[i])

@loop("f4[:], f4[:] out", exact=True)
def second(x, y):
    for i in prange(x.size):
        y[i] = x[i] + f4(1.0)

x, y = np.arange(4, dtype=np.float32), np.empty(4, np.float32)
compiled.SMALLEST_SHARE = 1
if "full" in sys.argv:
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")
    compiled.numba.core.caching.IndexDataCacheFile.save = full
results = {}
for each in (first, second):
    each(x.size, x, y)
    results[each.name.rpartition(".")[2]] = sum(each._serial.stats.cache_misses.values())
    results["value"] = [float(v) for v in y]
if "fork" in sys.argv:
    threads.set_threads(2)
    second(x.size, x, y)
    process = os.fork()
    if not process:
        y[:] = 0
        second(x.size, x, y)
        threads.set_threads(3)
        second(x.size, x, y)
        os._exit(0 if [float(v) for v in y] == results["value"] and second._parallel is second._serial else 1)
    results["child"] = os.waitpid(process, 0)[1]
print(json.dumps(results))
"""


class Place:
    """A folder with the program above and a cache of its own."""

    def __init__(self, folder: Path) -> None:
        self.script, self.cache, self.temporary = folder / "two_loops.py", folder / "cache", folder / "tmp"
        self.script.write_text(LOOPS)
        self.temporary.mkdir()

    def start(self, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        settings = {"NUMBA_CACHE_DIR": str(self.cache), "TMPDIR": str(self.temporary), "NUMBA_NUM_THREADS": "3"}
        return subprocess.Popen(
            [sys.executable, *(arguments if "-m" in arguments else (str(self.script), *arguments))],
            env={**os.environ, **settings, **environment}, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def run(self, *arguments: str, **environment: str) -> tuple[Any, str]:
        return finished(self.start(*arguments, **environment))

    def files(self, ending: str) -> list[Path]:
        return sorted(self.cache.rglob(f"*{ending}"))


def finished(process: subprocess.Popen[str]) -> tuple[Any, str]:
    """What it printed, as JSON where it is; and what it said on stderr."""
    out, error = process.communicate(timeout=120)
    assert process.returncode == 0, error
    return json.loads(out) if out.startswith("{") else out, error


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def test_warmup_compiles_and_then_has_nothing_to_do(place: Place) -> None:
    out, _ = place.run("-m", "phalanx", "warmup", "--threads", "2", "apply_mask", "relu_backward")
    lines = out.splitlines()
    assert lines[0] == "phalanx warmup: compiling 6 forms of 3 loops"
    assert "3 loops, each for one thread and for several: 6 forms compiled" in lines[-1]
    assert lines[-1].endswith(f"kept in {place.files('.nbi')[0].parent}")
    out, error = place.run("-m", "phalanx", "warmup", "--threads", "2", "apply_mask", "relu_backward")
    assert "nothing was to be done" in out and len(out.splitlines()) == 1 and LINE not in error
    place.files(".nbc")[0].unlink()
    assert (
        "1 forms compiled" in place.run("-m", "phalanx", "warmup", "apply_mask", "relu_backward", "--threads", "2")[0]
    )


def test_warmup_knows_its_loops(place: Place) -> None:
    process = place.start("-m", "phalanx", "warmup", "no_such_loop")
    assert "no loop's name contains 'no_such_loop'" in process.communicate(timeout=60)[1]
    assert process.returncode == 2


def test_ranks_that_start_together_compile_each_loop_once(place: Place) -> None:
    ranks = [place.start(PHALANX_LOCAL_RANK=str(rank)) for rank in range(3)]
    results = [finished(rank) for rank in ranks]
    for name in ("first", "second"):
        assert sum(result[name] for result, _ in results) == 1, results
    assert all(result["value"] == [1.0, 2.0, 3.0, 4.0] for result, _ in results)
    assert results[0][1].count(LINE) <= 1 and not any(LINE in said for _, said in results[1:])
    again, said = place.run()
    assert (again["first"], again["second"], said) == (0, 0, "")


def test_the_first_rank_says_it_whoever_compiles(place: Place) -> None:
    """The lock is held by somebody else for a while."""
    holder = place.start(
        "-c",
        "import sys, time\nfrom phalanx.core.kernels.cpu.compile_once import alone_on_this_machine\n"
        "with alone_on_this_machine():\n    print(flush=True)\n    sys.stdin.read()\n    time.sleep(1)\n    print(time.time())",
        "-m",
    )
    assert holder.stdout is not None and holder.stdin is not None and holder.stdout.readline()
    waiter = place.start()
    assert waiter.stderr is not None and waiter.stderr.readline().startswith(LINE)
    assert holder.poll() is None and not place.files(".nbc")
    released = float(holder.communicate(timeout=60)[0])
    assert finished(waiter)[0]["first"] == 1
    assert all(path.stat().st_mtime > released - 0.1 for path in place.files(".nbc"))


@pytest.mark.parametrize(
    ("index", "code"), [(b"", b""), (b"\x80abc", None), (None, None)], ids=["empty", "odd", "half"]
)
def test_a_damaged_cache_is_made_anew(place: Place, index: bytes | None, code: bytes | None) -> None:
    """The index of the one loop, the code of the other; None: the first half of the file."""
    place.run()
    for path, content in ((place.files(".nbi")[0], index), (place.files(".nbc")[1], code)):
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) // 2] if content is None else content)
    result, said = place.run()
    assert result["value"] == [1.0, 2.0, 3.0, 4.0] and (result["first"], result["second"]) == (1, 1)
    assert said.startswith(LINE) and len(said.splitlines()) == 1
    again, said = place.run()
    assert (again["first"], again["second"], said) == (0, 0, "")


def test_without_a_place_to_keep_them_they_are_compiled_and_one_line_says_so(place: Place) -> None:
    nowhere = {"NUMBA_CACHE_DIR": "/proc/nowhere", "NUMBA_CACHE_LOCATOR_CLASSES": "UserProvidedCacheLocator"}
    result, said = place.run(**nowhere)
    assert result["value"] == [1.0, 2.0, 3.0, 4.0]
    lines = said.splitlines()
    assert len(lines) == 3 and all("cannot be kept" in line for line in (lines[0], lines[2])), said
    assert "kept nowhere" in place.run("-m", "phalanx", "warmup", "apply_mask", "--threads", "1", **nowhere)[0]


def test_a_full_disk_costs_the_cache_only(place: Place) -> None:
    result, said = place.run("full")
    assert result["value"] == [1.0, 2.0, 3.0, 4.0]
    assert "cannot be kept ([Errno 28] No space left on device)" in said and len(said.splitlines()) == 2


def test_a_lock_that_cannot_be_had_is_done_without(place: Place) -> None:
    (place.temporary / f"phalanx-compiling-{os.getuid()}").mkdir()
    assert place.run()[0]["first"] == 1


def test_whoever_is_forked_goes_on_with_the_serial_forms(place: Place) -> None:
    assert place.run("fork")[0]["child"] == 0
    forms = {path.name.rpartition("_")[0] for path in place.files(".nbi")}  # one form is not taken for the other
    assert forms == {"two_loops.first_serial", "two_loops.second_serial", "two_loops.second_parallel"}


def test_a_loop_is_told_apart_by_all_that_it_consists_of() -> None:
    def program(constant: float, operation: str) -> Any:
        names: dict[str, Any] = {"__name__": "phalanx.core.somewhere"}
        exec(f"C = {constant}\ndef inner(x):\n    return x {operation} C\ndef outer(x):\n    return inner(x)", names)
        return names["outer"]

    digests = {compile_once.digest(program(*each), {"contract"}) for each in ((1.0, "+"), (2.0, "+"), (1.0, "-"))}
    assert len(digests) == 3
    assert compile_once.digest(program(1.0, "+"), {"contract"}) in digests
    assert compile_once.digest(program(1.0, "+"), None) not in digests
