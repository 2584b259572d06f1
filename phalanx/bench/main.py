"""``phalanx bench all-reduce``: all contestants in one run, taking turns; medians, spreads, ratios."""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..core.errors import RangeError
from ..dist.env import BACKENDS
from ..dist.errors import LaunchError
from ..launch.mpirun import find_mpirun
from . import plot, table
from .job import SETTINGS, UNSET, Job

TURN_S = 0.05
"""About how long a contestant's turn takes: the number of repeats follows from it."""
MOST_REPEATS = 400
LIMIT, MEMCPY, GLOO = "shared-memory limit", "memcpy", "PyTorch gloo"
IDLE_SHARE = 0.02
"""Ranks that wait for their turn and use more of a processor than this disturb the others: it is said."""


@dataclass(frozen=True, slots=True)
class Contestant:
    """A row of the table: an algorithm of a job."""

    title: str
    kind: str
    algorithm: str
    mpi: bool = False


@dataclass(frozen=True, slots=True)
class Options:
    sizes: tuple[int, ...]
    """In bytes."""
    ranks: tuple[int, ...] = (2, 4)
    backends: tuple[str, ...] = BACKENDS
    rounds: int = 7
    output: str | None = None
    """Folder for the figures and the plot."""


@dataclass(slots=True)
class Series:
    """The turns of all contestants at one number of ranks and one size."""

    ranks: int
    nbytes: int
    seconds: dict[str, list[float]] = field(default_factory=dict)
    """Contestant -> one number for each round."""

    def median(self, title: str) -> float:
        return statistics.median(self.seconds[title])

    def ratio(self, slow: str, fast: str) -> float | None:
        """The median over rounds of ``slow``'s time over ``fast``'s in the same round; None where one is missing."""
        if slow not in self.seconds or fast not in self.seconds:
            return None
        return statistics.median(a / b for a, b in zip(self.seconds[slow], self.seconds[fast], strict=True))


def parse(sizes: str, ranks: str, backends: str, rounds: int, output: str | None) -> Options:
    """From the command line's words; RangeError says which is wrong."""
    chosen = tuple(part.strip() for part in backends.split(","))
    if not set(chosen) <= set(BACKENDS):
        raise RangeError(f"--backends {backends}: expected some of {', '.join(BACKENDS)}")
    counts = [int(part) if part.strip().isdigit() else 0 for part in ranks.split(",")]
    if min(counts) < 2:
        raise RangeError(f"--ranks {ranks}: expected numbers of at least 2, for example 2,4")
    if rounds < 1:
        raise RangeError(f"--rounds {rounds}: expected at least 1")
    return Options(tuple(map(_nbytes, sizes.split(","))), tuple(counts), chosen, rounds, output)


def _nbytes(text: str) -> int:
    """
    >>> _nbytes("64K"), _nbytes("4M")
    (65536, 4194304)
    """
    word = text.strip().upper().removesuffix("B")
    scale = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}.get(word[-1:], 1)
    number = word if scale == 1 else word[:-1]
    nbytes = int(number) * scale if number.isdigit() else 0
    if nbytes < 4 or nbytes % 4:
        raise RangeError(f"--sizes {text}: expected bytes, a multiple of 4, for example 4K,64K,4M")
    return nbytes


def contestants(backends: Sequence[str]) -> tuple[list[Contestant], list[str]]:
    """Who takes part on this machine, and a line for each who cannot and why."""
    found = [Contestant(LIMIT, "shared", "sum"), Contestant(MEMCPY, "shared", "memcpy")]
    missing: list[str] = []
    no_mpi = _no_mpi()
    for backend in backends:
        if backend == "mpi" and no_mpi:
            missing.append(f"phalanx over mpi takes no part: {no_mpi}")
            continue
        names = {
            "tree": "exact tree",
            "kept": "exact tree, kept",
            "divided": "exact tree, divided",
            "fast": "fast mode",
        }
        found += [Contestant(f"{words}, {backend}", "phalanx", key, backend == "mpi") for key, words in names.items()]
    if no_mpi:
        missing.append(f"MPI's own Allreduce takes no part: {no_mpi}")
    else:
        found.append(Contestant("MPI Allreduce", "openmpi", "call", True))
        found.append(Contestant("MPI Allreduce, 2 MB", "openmpi", "pieces", True))
    if importlib.util.find_spec("torch") is None:
        missing.append("gloo takes no part: PyTorch is not installed (pip install torch)")
    else:
        found.append(Contestant(GLOO, "gloo", "gloo"))
    return found, missing


def _no_mpi() -> str:
    if importlib.util.find_spec("mpi4py") is None:
        return "mpi4py is not installed (pip install 'phalanx[mpi]')"
    try:
        find_mpirun(sys.executable, os.environ)
    except LaunchError as error:
        return str(error).removeprefix("--mpi: ")
    return ""


# --- the run ----------------------------------------------------------------------------------------------------------


def all_reduce(options: Options) -> int:
    """Measure, print, write; the exit code."""
    taking_part, missing = contestants(options.backends)
    about = describe(options)
    print("\n".join(table.heading(about, missing)), flush=True)
    found: list[Series] = []
    for ranks in options.ranks:
        for series in _measure(options, ranks, taking_part):
            found.append(series)
            print("\n".join(table.block(series, LIMIT, GLOO)), flush=True)
    for ranks in options.ranks:
        print(table.summary([series for series in found if series.ranks == ranks], LIMIT, GLOO), flush=True)
    if options.output is not None:
        for line in _write(Path(options.output), about, found):
            print(line)
    return 0


def _measure(options: Options, ranks: int, taking_part: list[Contestant]) -> Iterator[Series]:
    """All sizes at one number of ranks: the jobs are started once, and one of them works at a time."""
    most = max(options.sizes)
    began = time.monotonic()
    with contextlib.ExitStack() as stack:
        jobs: dict[tuple[str, bool], Job] = {}
        for each in taking_part:
            if (each.kind, each.mpi) not in jobs:
                job = jobs[each.kind, each.mpi] = Job(each.kind, ranks, each.mpi, most)
                stack.callback(job.close)
        for job in jobs.values():
            job.wait()
        for nbytes in options.sizes:
            yield _turns(options, Series(ranks, nbytes), taking_part, jobs)
        idle = sum(job.idle_cpu_s for job in jobs.values()) / (time.monotonic() - began)
    if idle > IDLE_SHARE:
        print(f"note: ranks that waited for their turn used {idle:.0%} of a processor", flush=True)


def _turns(
    options: Options, series: Series, taking_part: list[Contestant], jobs: dict[tuple[str, bool], Job]
) -> Series:
    """The rounds of one size; each begins with another contestant."""
    repeats = {}
    for each in taking_part:
        once = jobs[each.kind, each.mpi].measure(each.algorithm, series.nbytes, 3)
        repeats[each.title] = max(1, min(MOST_REPEATS, int(TURN_S / max(once, 1e-7))))
        series.seconds[each.title] = []
    for turn in range(options.rounds):
        first = turn % len(taking_part)
        for each in [*taking_part[first:], *taking_part[:first]]:
            job = jobs[each.kind, each.mpi]
            series.seconds[each.title].append(job.measure(each.algorithm, series.nbytes, repeats[each.title]))
    return series


def describe(options: Options) -> dict[str, Any]:
    """Machine, versions, settings: a figure without these is no figure."""
    names = ("numpy", "pyzmq", "mpi4py", "openmpi", "mpich", "torch")
    return {
        "command": " ".join(["phalanx", *sys.argv[1:]]),
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "system": platform.platform(),
        "python": platform.python_version(),
        "packages": {name: version for name in names if (version := _version(name))},
        "commit": _commit(),
        "settings": SETTINGS,
        "unset": list(UNSET),
        "rounds": options.rounds,
        "load_before": os.getloadavg()[0],
        "when_s": time.time(),
    }


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _commit() -> str | None:
    """Of the checkout that runs, where it is one."""
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        folder = Path(__file__).absolute().parents[2]
        answer = subprocess.run(
            ["git", "-C", str(folder), "rev-parse", "--short", "HEAD"],
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
        return answer.stdout.strip() or None
    return None


def _write(folder: Path, about: dict[str, Any], found: list[Series]) -> list[str]:
    """Figures and plot; what to tell of them."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [{"ranks": s.ranks, "nbytes": s.nbytes, "seconds": s.seconds} for s in found]
    file = folder / "all_reduce.json"
    file.write_text(json.dumps({"about": about, "series": rows}, indent=1) + "\n")
    return [f"figures: {file}", plot.draw(folder / "all_reduce.png", about, rows)]
