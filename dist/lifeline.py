"""No rank outlives who started it, even when mpirun is killed with -9 and cannot tell its ranks.

Under ``phalanx run`` the launcher sees to that itself (launch/child.py, launch/guardian.py). Under a plain ``mpirun``
each rank watches mpirun's daemon from a thread, since nobody else is left to end it together with its own children.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Mapping

from . import env

LAUNCHERS = ("prterun", "prted", "mpirun", "mpiexec", "mpiexec.hydra", "orterun", "orted", "hydra_pmi_proxy")
"""Names of the processes whose death ends their ranks."""
_NAMES = {name[:15] for name in LAUNCHERS}  # the kernel keeps 15 characters

_lock = threading.Lock()
_watching = False


def die_with_parent(environ: Mapping[str, str] = os.environ) -> None:
    """Called by ``phalanx.init()``: from now on this process and its children die when mpirun does.

    Does nothing in a single process, in a second call, under ``phalanx run`` (which has its own guardian), and where
    the system has no ``/proc`` and no pidfd. Any thread may call it.
    """
    global _watching
    if environ.get(env.LAUNCHED) or not sys.platform.startswith("linux") or not hasattr(os, "pidfd_open"):
        return
    environment = env.read(environ)
    if environment is None or environment.backend != "mpi":
        return
    with _lock:
        if _watching:
            return
        _watching = True
    daemon = _launching_ancestor()
    if daemon is None:
        if os.getppid() == 1 and not environment.source.startswith("srun"):
            _end()  # mpirun died before this process could look for it
        return
    try:
        watched = os.pidfd_open(daemon)
    except ProcessLookupError:
        _end()
    threading.Thread(target=_watch, args=(watched,), name="lifeline", daemon=True).start()


def end_launcher_after(seconds: float) -> None:
    """End mpirun's daemon on this host, if it is still there then, even though this process has ended by that time.

    For a cut link: mpirun would wait for ever for the daemon that it cannot reach, and so would the user.
    """
    daemon = _launching_ancestor() if sys.platform.startswith("linux") else None
    if daemon is None or os.fork():
        return
    try:  # a child that outlives the rank; it does nothing but wait
        os.setsid()
        time.sleep(seconds)
        if _status(daemon)[0] in _NAMES:
            _kill(daemon)
    finally:
        os._exit(0)


def _watch(process: int) -> None:
    poll = select.poll()
    poll.register(process, select.POLLIN)
    while not poll.poll():
        pass
    _end()


def _end() -> None:
    """Kill this process's descendants, then itself."""
    for pid in descendants(os.getpid()):
        _kill(pid)
    _kill(os.getpid())


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, signal.SIGKILL)


def _status(pid: int) -> tuple[str, int]:
    """Name and parent of a process; ("", 0) when it is gone."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            text = file.read()
    except OSError:
        return "", 0
    name = text[text.index("(") + 1 : text.rindex(")")]
    return name, int(text[text.rindex(")") + 1 :].split()[1])


def _launching_ancestor() -> int | None:
    """mpirun's daemon on this host: the nearest ancestor with one of the names, looking through shells and wrappers."""
    pid = os.getppid()
    while pid > 0:
        name, parent = _status(pid)
        if name in _NAMES:
            return pid
        pid = parent
    return None


def descendants(root: int) -> list[int]:
    """All processes below ``root``, children first."""
    parents = {int(entry): _status(int(entry))[1] for entry in os.listdir("/proc") if entry.isdigit()}
    found, below = [], {root}
    while below:
        below = {pid for pid, parent in parents.items() if parent in below}
        found += sorted(below)
    return found
