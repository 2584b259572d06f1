"""Count what a process asks of the file system, and kill it at a chosen call: in children that are forked for it."""

from __future__ import annotations

import builtins
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

CALLS = (
    "mkdir",
    "open",
    "pwrite",
    "fsync",
    "close",
    "link",
    "rename",
    "replace",
    "unlink",
    "rmdir",
    "listdir",
    "scandir",
    "truncate",
)
"""Of the module os; files from the built-in open() and their methods are counted, too."""


class Counted:
    """Every call into the file system of this process has a number from 0; it dies at number ``at``, before or in the midst of it."""

    def __init__(self, below: Path, at: int | None, midway: bool) -> None:
        self._below, self._at, self._midway = str(below), at, midway
        self.calls: list[str] = []
        self._lock = threading.Lock()
        self._real_open, self._real_kill = builtins.open, os.kill

    def install(self) -> None:
        for name in CALLS:
            setattr(os, name, self._wrapped(name, getattr(os, name)))
        builtins.open = self._open  # type: ignore[assignment]

    def _wrapped(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            self._count(
                name, (lambda: real(args[0], args[1][: len(args[1]) // 2], args[2])) if name == "pwrite" else None
            )
            return real(*args, **options)

        return call

    def _open(self, file: Any, *args: Any, **options: Any) -> Any:
        if not str(file).startswith(self._below):
            return self._real_open(file, *args, **options)
        self._count("open", None)
        return _File(self._real_open(file, *args, **options), self._count)

    def _count(self, name: str, half: Callable[[], Any] | None) -> None:
        with self._lock:
            number = len(self.calls)
            self.calls.append(name)
            if number != self._at:
                return
            if self._midway and half is not None:
                half()
            self._real_kill(os.getpid(), signal.SIGKILL)


class _File:
    """A file whose calls are counted."""

    def __init__(self, file: Any, count: Callable[..., None]) -> None:
        self._file, self._count = file, count

    def __enter__(self) -> _File:
        return self

    def __exit__(self, *error: Any) -> None:
        self.close()

    def close(self) -> None:
        self._count("close", None)
        self._file.close()

    def write(self, data: bytes) -> int:
        def half() -> None:
            self._file.write(data[: len(data) // 2])
            self._file.flush()

        self._count("write", half)
        written = self._file.write(data)
        self._file.flush()  # so that the call is a call
        return written

    def truncate(self, size: int) -> int:
        self._count("truncate", None)
        return self._file.truncate(size)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def killed_at(action: Callable[[], Any], below: Path, at: int | None, *, midway: bool = False) -> list[str] | None:
    """Run ``action`` in a forked child that is killed at call ``at`` (None: not); its calls, or None when it was killed."""
    report = below.parent / f"{below.name}.calls"
    child = os.fork()
    if child == 0:
        code = 1
        try:
            counted = Counted(below, at, midway)
            real_open = builtins.open
            counted.install()
            action()
            with real_open(report, "w") as file:
                file.write(" ".join(counted.calls))
            code = 0
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return None
    assert os.waitstatus_to_exitcode(status) == 0
    return report.read_text().split()
