"""What killed MPI jobs leave in /dev/shm and the folder for temporary files, and how to sweep it.

Each start over MPI sweeps; ``phalanx doctor`` lists. Only what looks exactly like a job's, belongs to this user, and is used
by no living process is swept: the process in its name is gone, or no process maps it or has it open, and it is not brand new.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

YOUNG_S = 10.0
"""A job makes its file a moment before it maps it."""
SHM_NAMES = (
    re.compile(r"sm_segment\.(?P<host>.+)\.(?P<uid>\d+)\.[0-9a-f]+\.\d+"),  # Open MPI 5
    re.compile(r"vader_segment\.(?P<host>.+)\.(?P<uid>\d+)\.[0-9a-f]+\.\d+"),  # Open MPI 4
    re.compile(r"mpich_shm_\w+"),
)
TEMPORARY_NAMES = (
    re.compile(r"ompi\.(?P<pid>\d+)"),  # Open MPI 5
    re.compile(r"(?:ompi|prte)\.(?P<host>.+)\.(?P<uid>\d+)"),  # Open MPI 4, PRRTE
    re.compile(r"prterun\.(?P<host>.+)\.(?P<pid>\d+)\.(?P<uid>\d+)"),
)
OWN_NAME = re.compile(r"phalanx-(?:doctor-)?[a-z0-9_]{8}")
"""A folder that ``phalanx run --mpi`` makes for one job; the guardian removes it unless it is killed, too."""


@dataclass(frozen=True, slots=True)
class Leftover:
    path: Path
    nbytes: int
    """What it takes of memory or disk."""
    kept_because: str = ""
    """Why it must stay; empty: it is safe to remove."""


def sweep() -> tuple[list[Leftover], list[str]]:
    """Remove what is safe to remove; (what is gone, what could not be removed and why)."""
    gone, failed = [], []
    for each in find():
        if each.kept_because:
            continue
        try:
            shutil.rmtree(each.path) if each.path.is_dir() else each.path.unlink()
        except FileNotFoundError:
            continue
        except OSError as error:
            failed.append(f"{each.path}: {error.strerror}")
        else:
            gone.append(each)
    return gone, failed


def places() -> Mapping[Path, Sequence[re.Pattern[str]]]:
    """Where they lie (shared memory, TMPDIR, /tmp) and how they are called there."""
    return {Path("/dev/shm"): SHM_NAMES} | dict.fromkeys(map(Path, (tempfile.gettempdir(), "/tmp")), TEMPORARY_NAMES)


def find() -> Iterator[Leftover]:
    """Everything that looks like an MPI job's."""
    rows = [
        (path, match) for place, names in places().items() for path in _entries(place) if (match := _match(path, names))
    ]
    if not rows:
        return
    used = _used_paths()
    for path, match in rows:
        with contextlib.suppress(OSError):  # a job that ends, or another sweep, removes it under our eyes
            yield Leftover(path, _size(path), _keep(path, match, path.lstat(), used))


def _entries(place: Path) -> list[Path]:
    try:
        return sorted(place.iterdir())
    except OSError:
        return []


def _match(path: Path, patterns: Sequence[re.Pattern[str]]) -> re.Match[str] | None:
    found = next((match for pattern in patterns if (match := pattern.fullmatch(path.name))), None)
    if found is None and (own := OWN_NAME.fullmatch(path.name)) and path.is_dir() and not path.is_symlink():
        inside = [entry.name for entry in _entries(path)]
        known = (*SHM_NAMES, *TEMPORARY_NAMES)
        return own if all(any(pattern.fullmatch(name) for pattern in known) for name in inside) else None
    return found


def _keep(path: Path, match: re.Match[str], status: os.stat_result, used: Sequence[str]) -> str:
    named = match.groupdict()
    if path.is_symlink():
        return "a link"
    if status.st_uid != os.geteuid():
        return f"of user {status.st_uid}"
    if named.get("host") and named["host"] not in _host_names():
        return f"made on host {named['host']}"
    if named.get("pid"):
        if os.path.exists(f"/proc/{named['pid']}"):
            return f"process {named['pid']} lives"
    elif time.time() - _newest(path) < YOUNG_S:
        return f"younger than {YOUNG_S:g} s"
    below = f"{path}/"
    return "in use" if any(each == str(path) or each.startswith(below) for each in used) else ""


def _host_names() -> set[str]:
    return {socket.gethostname(), socket.gethostname().partition(".")[0]}


def _newest(path: Path) -> float:
    inside = [entry.lstat().st_mtime for entry in path.rglob("*")] if path.is_dir() else []
    return max([path.lstat().st_mtime, *inside])


def _size(path: Path) -> int:
    files = [path, *path.rglob("*")] if path.is_dir() and not path.is_symlink() else [path]
    return sum(file.lstat().st_blocks * 512 for file in files if not file.is_dir())


def _used_paths() -> list[str]:
    """Files that a living process maps, has open or stands in, and folders that its environment names."""
    found: set[str] = set()
    for pid in filter(str.isdigit, os.listdir("/proc")):
        for reader in (_mapped, _opened, _named):
            try:
                found.update(reader(f"/proc/{pid}"))
            except OSError:  # it has ended, or is another user's
                continue
    roots = tuple(f"{place}/" for place in places())
    return [path for path in found if path.startswith(roots)]


def _mapped(process: str) -> Iterator[str]:
    with open(f"{process}/maps", encoding="utf-8", errors="replace") as file:
        yield from (line[line.index("/") :].rstrip("\n").removesuffix(" (deleted)") for line in file if "/" in line)


def _opened(process: str) -> Iterator[str]:
    yield os.readlink(f"{process}/cwd")
    for descriptor in os.listdir(f"{process}/fd"):
        yield os.readlink(f"{process}/fd/{descriptor}").removesuffix(" (deleted)")


def _named(process: str) -> Iterator[str]:
    """Folders that a job was given (``PRTE_MCA_prte_tmpdir_base`` and its like); a guardian gets them as arguments."""
    for file in ("environ", "cmdline"):
        with open(f"{process}/{file}", "rb") as content:
            words = content.read().decode(errors="replace").split("\0")
        for word in words:
            if "/phalanx-" in word:
                yield word.partition("=")[2] if "=" in word else word
