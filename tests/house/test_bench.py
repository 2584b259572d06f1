"""``phalanx bench all-reduce`` in small: everybody takes part, the sums are checked, the figures are written."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from phalanx.bench import main, plot, table
from phalanx.bench.contestants import Contestant
from phalanx.bench.job import BenchError, Job, environment
from phalanx.core.errors import RangeError
from tests import jobs

BENCH = [sys.executable, "-m", "phalanx", "bench", "all-reduce"]
TITLES = [
    "shared-memory limit", "memcpy", "exact tree, zmq", "exact tree, kept, zmq", "exact tree, divided, zmq", "fast mode, zmq", "exact tree, mpi",
    "exact tree, kept, mpi", "exact tree, divided, mpi", "fast mode, mpi", "MPI Allreduce", "MPI Allreduce, 2 MB",
    *(["PyTorch gloo"] if importlib.util.find_spec("torch") else []),
]  # fmt: skip


def test_all_take_part(tmp_path: Path) -> None:
    command = [*BENCH, "--sizes", "4K,5M", "--ranks", "2", "--rounds", "1", "--output", str(tmp_path)]
    job = jobs.Job(command, limits=False).start()
    code, output = job.finish(200)
    assert code == 0, output
    for title in TITLES:
        lines = [line for line in output.splitlines() if re.match(rf"  {re.escape(title)}  +[\d.]+ [um]?s ", line)]
        assert len(lines) == 2, f"{title}:\n{output}"
    assert "OMP_NUM_THREADS=1" in output and "unset OPENBLAS_CORETYPE, OPENBLAS_L2_SIZE" in output
    assert re.search(r"^2 ranks, 5 MB: exact tree, zmq [\d.]+ [mu]s, [\d.]+ of the limit", output, re.MULTILINE), output
    written = json.loads((tmp_path / "all_reduce.json").read_text())
    assert [(row["ranks"], row["nbytes"]) for row in written["series"]] == [(2, 4096), (2, 5 << 20)]
    assert all(list(row["seconds"]) == TITLES and all(len(t) == 1 and min(t) > 0 for t in row["seconds"].values())
               for row in written["series"])  # fmt: skip
    if importlib.util.find_spec("matplotlib"):
        assert (tmp_path / "all_reduce.png").read_bytes().startswith(b"\x89PNG")
    else:
        assert plot.MISSING in output
    assert not job.left_after(5)


def test_without_peers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Who cannot take part is named, with what to install."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    found, missing = main.contestants(("zmq", "mpi"))
    assert [each.title for each in found] == TITLES[:6]
    assert len(missing) == 3 and "phalanx[mpi]" in missing[0] and "pip install torch" in missing[2]
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert plot.draw(tmp_path / "plot.png", {}, []) == plot.MISSING


class Wrong(Contestant):
    """Sums all but the last number."""

    def prepare(self, algorithm: str, count: int) -> tuple[np.ndarray, Callable[[], None], np.ndarray]:
        array = np.zeros(count, np.float32)

        def reduce() -> None:
            array[: -1 if algorithm == "wrong" else None] *= 3

        return array, reduce, array

    def barrier(self) -> None:
        pass


def test_a_wrong_sum_is_no_result() -> None:
    assert Wrong(0, 2).run("right", 4096, 2) > 0
    with pytest.raises(AssertionError, match=r"the sum is 3\.0 \.\.\. 1\.0, expected 3\.0"):
        Wrong(0, 2).run("wrong", 4096, 2)


def test_a_job_that_fails_says_why() -> None:
    with pytest.raises(BenchError, match=r"(?s)2 ranks of 'nobody'.*KeyError: 'nobody'"):
        with contextlib.closing(Job("nobody", 2, False, 4096)) as job:
            job.wait()


def test_ratios_are_of_rounds() -> None:
    series = main.Series(2, 4 << 20, {"shared-memory limit": [1e-3, 4e-3, 1e-3], "fast mode, zmq": [2e-3, 8e-3, 4e-3]})
    assert series.ratio("shared-memory limit", "fast mode, zmq") == 0.5
    assert series.ratio("PyTorch gloo", "fast mode, zmq") is None
    rows = table.block(series, "shared-memory limit", "PyTorch gloo")
    assert rows[0] == "2 ranks, 4 MB" and rows[3].split()[3:] == [
        "4.00",
        "ms",
        "2.00",
        "ms",
        "8.00",
        "ms",
        "1.05",
        "1.05",
        "0.50",
    ]


def test_the_environment_of_workers() -> None:
    given = {"OPENBLAS_CORETYPE": "Haswell", "OPENBLAS_L2_SIZE": "512", "OMP_NUM_THREADS": "8", "HOME": "/root"}
    one = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    assert environment(given) == {"HOME": "/root", **one}


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"sizes": "4K,big"}, "--sizes big: expected bytes"),
        ({"sizes": "6"}, "--sizes 6: expected bytes, a multiple of 4"),
        ({"ranks": "1"}, "--ranks 1: expected numbers of at least 2"),
        ({"backends": "zmq,nccl"}, "--backends zmq,nccl: expected some of zmq, mpi"),
        ({"rounds": 0}, "--rounds 0: expected at least 1"),
    ],
)
def test_wrong_options(wrong: dict[str, object], words: str) -> None:
    options = {"sizes": "4K", "ranks": "2", "backends": "zmq", "rounds": 1, "output": None} | wrong
    with pytest.raises(RangeError, match=re.escape(words)):
        main.parse(**options)  # type: ignore[arg-type]
