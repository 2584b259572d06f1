"""What makes ranks that start together compile once, says what they wait for, and tells apart what looks alike to a cache."""

from __future__ import annotations

import contextlib
import hashlib
import os
import sys
import tempfile
import time
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

try:
    import fcntl
except ImportError:  # not a Unix
    fcntl = None  # type: ignore[assignment]

_PATIENCE_S = 0.3
"""A wait that is shorter is not worth a line."""
_COMPILING = "compiling fast kernels, once for this machine: some seconds (`phalanx warmup` does it ahead)"
_said: set[str] = set()
_apart = False


def say(line: str) -> None:
    """Print a line once, from the first rank of this machine."""
    if line not in _said and os.environ.get("PHALANX_LOCAL_RANK", "0") == "0":
        _said.add(line)
        print(f"phalanx: {line}", file=sys.stderr, flush=True)


def say_compiling() -> None:
    """What the first step waits for."""
    say(_COMPILING)


def stand_apart() -> None:
    """For a program that says by itself what it compiles, and that holds the lock for all its processes."""
    global _apart
    _apart = True
    _said.add(_COMPILING)


@contextlib.contextmanager
def alone_on_this_machine() -> Iterator[None]:
    """One process of this user at a time is inside. Whoever finds the door closed says what he waits for.

    The lock is the kernel's and ends with its holder, so that a file that was left behind locks nothing. Where there can be no
    lock (another user owns the file, no place to write) nobody waits: then some work is done more than once.
    """
    descriptor = _opened()
    try:
        if descriptor is not None:
            _lock(descriptor)
        yield
    finally:
        if descriptor is not None:
            os.close(descriptor)


def _opened() -> int | None:
    if fcntl is None or _apart:
        return None
    path = Path(tempfile.gettempdir(), f"phalanx-compiling-{os.getuid()}")
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError:
        return None


def _lock(descriptor: int) -> None:
    deadline = time.monotonic() + _PATIENCE_S
    try:
        while time.monotonic() < deadline:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                time.sleep(0.01)
            else:
                return
        say_compiling()
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    except OSError:  # a file system without locks
        pass


def digest(function: Any, options: Any) -> str:
    """Names what a function is compiled from: its code and that of everything of ours that it calls, constants and options.

    numba's cache looks at the function's own file only, and would go on with what others contributed to it yesterday.
    """
    total = hashlib.sha256(repr(sorted(options or ())).encode())
    _add(function, total, set())
    return total.hexdigest()[:12]


def _add(function: Any, total: Any, seen: set[int]) -> None:
    if id(function.__code__) in seen:
        return
    seen.add(id(function.__code__))
    names = _add_code(function.__code__, total)
    cells = (cell.cell_contents for cell in function.__closure__ or ())
    for value in [*(function.__globals__[name] for name in names if name in function.__globals__), *cells]:
        inner = getattr(value, "py_func", None) or getattr(value, "_defn", None) or value
        if isinstance(inner, types.FunctionType):
            if inner.__module__.startswith(__name__.partition(".kernels")[0]):
                _add(inner, total, seen)
        elif isinstance(inner, np.generic | int | float | str | tuple):
            total.update(repr(inner).encode())


def _add_code(code: types.CodeType, total: Any) -> list[str]:
    """Adds the code and those within it; returns the names that they use."""
    total.update(code.co_code)
    names = list(code.co_names)
    total.update(repr(names).encode())
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            names += _add_code(constant, total)
        else:
            total.update(repr(constant).encode())
    return names
