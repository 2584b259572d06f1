"""``phalanx doctor``: which checks run, in which order, and the exit code."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..dist import env
from ..dist.errors import LaunchError
from ..dist.leftovers import sweep
from . import blas, folder, gpu, leftovers, mpi, packages, report, system, wire
from .finding import EXIT_CODES, Finding, Surroundings, size_words, worst

Check = Callable[[Surroundings], list[Finding]]
CHECKS: tuple[Check, ...] = (
    packages.check,
    blas.check_onednn,
    gpu.check,
    mpi.check,
    wire.check,
    system.check_memory,
    system.check_limits,
    system.check_network,
)

TOPICS = (
    packages.TOPIC,
    blas.TOPIC,
    "oneDNN",
    gpu.TOPIC,
    mpi.TOPIC,
    wire.TOPIC,
    "shared memory",
    "limits",
    "network",
    leftovers.TOPIC,
    "doctor",
)
"""In the order of the report."""


@dataclass(frozen=True, slots=True)
class Options:
    as_json: bool = False
    sweep: bool = False
    checkpoint_dir: str | None = None
    pair_s: float = 15.0
    """Deadline of each message between two ranks, in seconds."""

    def __post_init__(self) -> None:
        if not self.pair_s > 0:
            raise LaunchError(f"--timeout {self.pair_s:g}: expected seconds above 0")


def doctor(options: Options) -> int:
    """Run it on this rank; the exit code (always 0 on ranks other than 0, which print nothing)."""
    if options.sweep:
        return _sweep(options)
    failed: list[Finding] = []
    try:
        place = _thread() or env.read(os.environ)
    except LaunchError as error:
        place, failed = None, [_cannot_meet(str(error))]
    if place is None or place.size == 1:
        return _print(options, [*check_all(surroundings(os.environ)), *_folder(options), *failed])
    return _on_ranks(options, place)


def _thread() -> env.RankEnvironment | None:
    """Where ranks are threads of this process: this one's place."""
    threads = sys.modules.get(f"{__package__.rpartition('.')[0]}.dist.communicators.threads")
    communicator = threads.current_communicator() if threads else None
    if communicator is None:
        return None
    rank, size = communicator.rank, communicator.size
    return env.RankEnvironment(rank, size, rank, size)


def _on_ranks(options: Options, place: env.RankEnvironment) -> int:
    """What needs NumPy and the wire is loaded only here: a machine without them is examined, too."""
    here = surroundings(os.environ, place.size, place.local_size)
    try:
        group = importlib.import_module("..dist.group", __package__).init()
    except Exception as error:  # whatever it is, it is what a job would end with
        if place.rank != 0:
            return 0
        return _print(options, [*check_all(here), _cannot_meet(f"{type(error).__name__}: {error}")])
    ranks = importlib.import_module(".ranks", __package__)
    found = ranks.examine(group, lambda: check_all(here), options.checkpoint_dir, options.pair_s)
    if found is None:
        return 0
    return _print(options, found.findings, ranks.tables(found), found.data())


def surroundings(environ: Mapping[str, str], ranks: int = 1, local_ranks: int = 1) -> Surroundings:
    return Surroundings(env.without_ranks(environ), sys.executable, ranks, local_ranks)


def check_all(here: Surroundings) -> list[Finding]:
    """Every check of one machine. A check that fails by itself is a finding, never the end of the others."""
    alone = [  # before the others start processes of their own, and while nothing else takes time
        *_safely(leftovers.check, here),
        *_safely(blas.check, here),
    ]
    with ThreadPoolExecutor(max_workers=4) as pool:
        found = [finding for findings in pool.map(lambda check: _safely(check, here), CHECKS) for finding in findings]
    return sorted([*alone, *found], key=lambda finding: TOPICS.index(finding.topic))


def _safely(check: Check, here: Surroundings) -> list[Finding]:
    try:
        return check(here)
    except Exception as error:
        name = f"{check.__module__.rpartition('.')[2]}.{check.__name__}"
        return [
            Finding(
                "doctor",
                "check-failed",
                "warning",
                f"the check {name} failed: {type(error).__name__}: {error}",
                "nothing is known of what it looks at",
                "report it to phalanx, with this line",
            )
        ]


def _folder(options: Options) -> list[Finding]:
    """The checkpoint folder as one rank sees it."""
    if options.checkpoint_dir is None:
        return []
    path = Path(options.checkpoint_dir).absolute()
    made, problem = not path.exists(), folder.prepare(path)
    if problem:
        return [folder.not_writable(path, problem)]
    free = shutil.disk_usage(path).free
    folder.remove(path, "", made)
    return [
        Finding(
            folder.TOPIC, "folder", "ok", f"{path} can be written, {size_words(free)} free", data={"free_bytes": free}
        )
    ]


def _cannot_meet(words: str) -> Finding:
    return Finding(
        "ranks",
        "ranks",
        "error",
        words,
        "a job started in this way ends with the same error",
        "see the findings about MPI and ZeroMQ above; start ranks with phalanx run, or with the mpirun beside this Python",
    )


def _print(
    options: Options, findings: list[Finding], tables: list[str] | None = None, data: dict[str, Any] | None = None
) -> int:
    code = EXIT_CODES[worst(findings)]
    if options.as_json:
        rows = [finding.as_json() for finding in findings]
        print(json.dumps({"exit_code": code, "worst": worst(findings), "findings": rows, "ranks": data}, indent=1))
        return code
    hosts = len({host for finding in findings for host in finding.hosts})
    columns = min(120, int(os.environ.get("COLUMNS") or shutil.get_terminal_size((110, 24)).columns))
    lines = report.lines(findings, hosts, columns, report.on_terminal())
    print("\n".join([*lines, *(tables or ()), report.summary(findings, code)]), flush=True)
    return code


def _sweep(options: Options) -> int:
    gone, failed = sweep()
    total = sum(each.nbytes for each in gone)
    if options.as_json:
        print(json.dumps({"swept": [str(each.path) for each in gone], "bytes": total, "failed": failed}, indent=1))
    else:
        print("".join(f"removed {each.path} ({size_words(each.nbytes)})\n" for each in gone), end="")
        print("".join(f"could not remove {line}\n" for line in failed), end="")
        print(f"phalanx doctor: {len(gone)} leftovers of killed MPI jobs removed, {size_words(total)}")
    return EXIT_CODES["warning" if failed else "ok"]
