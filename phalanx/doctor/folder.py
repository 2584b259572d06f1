"""How long after rank 0 has renamed a file into a folder the other ranks see it."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
import time
from pathlib import Path

from .finding import Finding

TOPIC = "checkpoint folder"
DEADLINE_S = 20.0
PAUSE_S = 0.0005


def not_writable(folder: Path, problem: str) -> Finding:
    return Finding(
        TOPIC,
        "folder-write",
        "error",
        f"rank 0 cannot write into {folder}: {problem}",
        "no checkpoint can be made there",
        f"mkdir -p {folder} && chown {os.geteuid()} {folder}, or give another --checkpoint-dir",
    )


def prepare(folder: Path) -> str:
    """Rank 0: make it and write into it; what went wrong, or nothing."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".phalanx-doctor-"):
            return ""
    except OSError as error:
        return error.strerror or str(error)


def write(folder: Path, name: str) -> float:
    """Rank 0: as a checkpoint is written, under a temporary name, then renamed. When that was, in seconds since 1970."""
    temporary = folder / f".{name}.tmp"
    with open(temporary, "w", encoding="utf-8") as file:
        json.dump({"name": name}, file)
        file.flush()
        os.fsync(file.fileno())
    now = time.time()
    os.rename(temporary, folder / name)
    return now


def look(folder: Path, name: str) -> float | None:
    """The other ranks: when the whole file is seen, by this rank's clock; None when it is not within the deadline."""
    end = time.monotonic() + DEADLINE_S
    while time.monotonic() < end:
        try:
            if json.loads((folder / name).read_text(encoding="utf-8"))["name"] == name:
                return time.time()
        except (OSError, ValueError, KeyError):
            time.sleep(PAUSE_S)
    return None


def remove(folder: Path, name: str, made: bool) -> None:
    """Rank 0: leave the folder as it was; ``made``: it was not there before."""
    for each in (name, f".{name}.tmp") if name else ():
        with contextlib.suppress(OSError):
            (folder / each).unlink()
    if made:
        with contextlib.suppress(OSError):
            folder.rmdir()
