"""Shared libraries compiled by g++ from texts, kept by digest: a fresh clone compiles each once, two workers do not collide."""

from __future__ import annotations

import fcntl
import hashlib
import os
import subprocess
import tempfile
from pathlib import Path

FOLDER = Path(os.environ.get("STANDIN_CACHE") or Path(__file__).parents[2] / "build" / "standin")
FLAGS = ("-shared", "-fPIC", "-O1", "-g0", "-std=c++17", "-fno-strict-aliasing", "-w")


class CompileError(Exception):
    """What the compiler said."""


def preprocessed(text: str, flags: tuple[str, ...]) -> str:
    """``text`` after g++'s preprocessor."""
    done = subprocess.run(
        ["g++", "-E", "-P", "-x", "c++", "-std=c++17", *flags, "-"],
        input=text,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise CompileError(done.stderr)
    return done.stdout


def library(text: str, flags: tuple[str, ...] = ()) -> Path:
    """The library compiled from ``text``; from the cache if the same text was compiled with the same flags before."""
    digest = hashlib.sha256("\0".join((text, *FLAGS, *flags)).encode()).hexdigest()[:24]
    path = FOLDER / f"{digest}.so"
    if path.exists():
        return path
    FOLDER.mkdir(parents=True, exist_ok=True)
    with (FOLDER / f"{digest}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return path if path.exists() else _compile(text, flags, path)


def _compile(text: str, flags: tuple[str, ...], path: Path) -> Path:
    handle, temporary = tempfile.mkstemp(suffix=".so", dir=FOLDER)
    os.close(handle)
    done = subprocess.run(
        ["g++", *FLAGS, "-x", "c++", "-", "-o", temporary, *flags],
        input=text,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        os.unlink(temporary)
        raise CompileError(done.stderr)
    os.replace(temporary, path)
    return path
