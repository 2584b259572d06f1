"""Flight records on disk: one file of JSON lines for each rank, written when the job fails or when asked.

The first line tells the rank, its process, its clock, its errors and where it stood; then come the operations and the
stretches of waiting of each of its groups. ``phalanx flight DIR`` reads them (see ``phalanx/flight.py``).
"""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import env
from . import whereabouts

if TYPE_CHECKING:
    from ..communicators.base import Communicator

_KEPT = 8
"""So many errors of one rank are told."""

_writing = threading.Lock()
_errors: dict[Path, list[str]] = {}
_lines: dict[Path, str] = {}
"""File -> the errors and the Python line that it tells."""


def failed(communicator: Communicator, error: BaseException | None, words: str = "", *, again: bool = True) -> None:
    """The rank of ``communicator`` cannot go on: write its record where the environment says, if it says where.

    Any thread. Called again (the error of an operation, then the exception that ends the process) it writes anew, unless
    ``again`` is False: for news that is no news any more once this rank has failed by itself.
    """
    folder = env.flight_folder(os.environ)
    if folder is None or communicator.size == 1:
        return
    if not again and _errors.get(_path(folder, communicator)):
        return
    if error is not None:
        words = f"{type(error).__name__}: {error}"
    try:
        write(folder, communicator, words, whereabouts.line_of_error(error) if error is not None else "")
    except OSError as problem:
        print(f"phalanx: no flight record of rank {communicator.rank}: {problem}", file=sys.stderr, flush=True)


def write(folder: str | os.PathLike[str], communicator: Communicator, words: str = "", line: str = "") -> Path:
    """Write the record of the rank of ``communicator`` into ``folder``, which is made; the file's path."""
    rank, path = communicator.job_ranks[communicator.rank], _path(folder, communicator)
    with _writing:
        path.parent.mkdir(parents=True, exist_ok=True)
        errors = _errors.setdefault(path, [])
        if words and len(errors) < _KEPT:
            errors[:] = [told for told in errors if not words.endswith(told)] + [words]
        line = line or _lines.get(path) or whereabouts.line_of(communicator.owner)
        if errors:
            _lines[path] = line
        groups = whereabouts.of_one_rank(communicator) or [communicator]
        rows = [_head(communicator, rank, groups, errors, line), *_rows(groups)]
        new = path.with_suffix(".new")
        new.write_text("".join(json.dumps(row) + "\n" for row in rows))
        new.replace(path)
    return path


def _path(folder: str | os.PathLike[str], communicator: Communicator) -> Path:
    return Path(folder, f"rank-{communicator.job_ranks[communicator.rank]}.jsonl")


def _head(comm: Communicator, rank: int, groups: list[Communicator], errors: list[str], line: str) -> dict[str, Any]:
    return {
        "kind": "rank",
        "rank": rank,
        "size": max(len(group.job_ranks) for group in groups),
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "backend": comm.backend,
        "monotonic_s": time.monotonic(),
        "wall_s": time.time(),
        "clock_offset_s": comm.flight.clock_offset_s,
        "errors": errors,
        "line": line,
        "groups": [
            {"name": name, "ranks": list(group.job_ranks), "waited_s": group.flight.waited_s}
            for name, group in zip(_names(groups), groups, strict=True)
        ],
    }


def _names(groups: list[Communicator]) -> list[str]:
    """Each another one: groups of some ranks are called by these."""
    names: list[str] = []
    for group in groups:
        whole = len(group.job_ranks) == len(groups[0].job_ranks)
        name = group.flight.group if whole else whereabouts.ranks_in_words(group.job_ranks)
        count = sum(other.partition(" #")[0] == name for other in names)
        names.append(f"{name} #{count + 1}" if count else name)
    return names


def _rows(groups: list[Communicator]) -> Iterator[dict[str, Any]]:
    for number, group in enumerate(groups):
        for operation in group.flight.operations():
            yield {"kind": "operation", "group": number, **asdict(operation)}
        for waiting in group.flight.waitings():
            yield {"kind": "waiting", "group": number, **asdict(waiting)}
