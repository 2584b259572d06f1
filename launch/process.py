"""Starting one process: its own session, ended by the kernel when the launcher dies, found again by the job's mark."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from ..dist import interrupt
from . import guardian
from .channel import Channel
from .finish import FinishMarks
from .logs import RankLogs

HERE = Path(__file__).resolve().parent


class Runs(Protocol):
    """What the supervisor watches and ends."""

    name: str

    def send(self, number: int) -> None: ...

    def poll(self) -> int | None: ...


class Relay(Runs, Protocol):
    """The connection to a host, which carries the output of several ranks and the word of how each ended."""

    @property
    def descriptor(self) -> int: ...

    @property
    def ranks(self) -> Sequence[int]: ...

    @property
    def open(self) -> bool: ...

    @property
    def lost(self) -> str:
        """Why the connection ended before its ranks did; empty while it stands and after a good end."""

    def read(self) -> list[tuple[int, int, bytes]]:
        """What came: rank, stream, bytes."""


@dataclass(slots=True)
class Process:
    """A started rank, or the mpirun that carries them all."""

    name: str
    popen: subprocess.Popen[bytes]

    def send(self, number: int) -> None:
        """Signal the whole group; nothing where it has ended. A rank that cannot answer SIGINT yet gets SIGTERM instead."""
        if self.popen.returncode is None:
            if self.name.startswith("rank"):
                number = _understood(self.popen.pid, number)
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.popen.pid, number)

    def poll(self) -> int | None:
        return self.popen.poll()


TAGGED = -2
"""In place of a rank: each line says whose it is."""


@dataclass(frozen=True, slots=True)
class Source:
    """A pipe to be read: whose it is (-1: no rank's) and which stream (0 stdout, 1 stderr)."""

    descriptor: int
    rank: int
    stream: int


@dataclass(slots=True)
class Job:
    """What was started and what must be ended, read and closed."""

    mark: str
    """``NAME=value`` that all processes of the job carry in their environment."""
    processes: list[Runs] = field(default_factory=list)
    relays: list[Relay] = field(default_factory=list)
    """Over hosts; they are among ``processes`` as well."""
    sources: list[Source] = field(default_factory=list)
    kept: list[int] = field(default_factory=list)
    """Write ends that stay open until mpirun has ended, for its ranks to find."""
    logs: RankLogs | None = None
    far: bool = False
    """Are the ranks where their processes cannot be found, behind mpirun's daemons?"""
    channels: dict[int, Channel] = field(default_factory=dict)
    """Of an elastic job: the membership channel of each rank that runs here."""
    finish: FinishMarks | None = None
    rank_names: tuple[str, ...] = ()
    """Under mpirun: the variables by which its ranks are told from itself."""

    def close(self) -> None:
        for descriptor in [*self.kept, *(source.descriptor for source in self.sources)]:
            with contextlib.suppress(OSError):
                os.close(descriptor)
        for channel in self.channels.values():
            channel.close()
        self.kept, self.sources, self.channels = [], [], {}
        if self.logs is not None:
            self.logs.close()


def child_command(
    parent: int, death_signal: int, command: Sequence[str], pipes: str = "-", rank_names: Sequence[str] = ()
) -> list[str]:
    """``command`` behind launch/child.py."""
    shim = str(HERE / "child.py")
    names = ",".join(rank_names) or "-"
    return [sys.executable, "-I", "-S", shim, str(parent), str(int(death_signal)), pipes, names, *command]


def spawn(
    name: str,
    command: Sequence[str],
    environment: Mapping[str, str],
    death_signal: int = signal.SIGKILL,
    cores: Sequence[int] = (),
    **streams: Any,
) -> Process:
    """Start ``command`` in a session of its own. Only the main thread may call it: the kernel's signal at the parent's
    death looks at the thread that started the process. ``cores``: the only ones that it may use.
    """
    popen = subprocess.Popen(
        child_command(os.getpid(), death_signal, command), env=environment, start_new_session=True, **streams
    )
    if cores and hasattr(os, "sched_setaffinity"):
        with contextlib.suppress(OSError):  # it has ended; the shim starts no thread, so this comes before the first
            os.sched_setaffinity(popen.pid, cores)
    return Process(name, popen)


class Guardian:
    """The process that ends the job when this one is killed with -9. Started before the first rank."""

    def __init__(self, mark: str, grace_s: float = 0.0, folders: Sequence[str] = ()) -> None:
        self._mark = mark
        self._popen = subprocess.Popen(
            [sys.executable, "-I", "-S", str(HERE / "guardian.py"), str(grace_s), *folders],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={},
            start_new_session=True,
            cwd="/",
        )
        assert self._popen.stdin is not None
        self._popen.stdin.write(mark.encode(errors="surrogateescape") + b"\n")
        self._popen.stdin.flush()

    def close(self) -> None:
        """End what is left of the job, and the guardian."""
        guardian.sweep(self._mark)
        assert self._popen.stdin is not None
        self._popen.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._popen.wait(timeout=10)


def signal_ranks(job: Job, number: int) -> None:
    """Signal the ranks themselves; under mpirun those of its processes that have a rank and whose parent has none.

    Over hosts mpirun hands SIGUSR1 on, which asks ranks to save and leave as SIGTERM does; SIGTERM would end them.
    """
    if job.far:
        for process in job.processes:
            if isinstance(process, Process) and number in (signal.SIGTERM, signal.SIGUSR1):
                guardian.signal_process(process.popen.pid, signal.SIGUSR1)
            else:
                process.send(number)
        return
    if not job.rank_names:
        for process in job.processes:
            process.send(number)
        return
    needles = [b"\0" + name.encode() + b"=" for name in job.rank_names]
    mark = b"\0" + job.mark.encode() + b"\0"
    ranks = {
        pid
        for pid, environment in guardian.environments()
        if mark in environment and any(n in environment for n in needles)
    }
    for pid in ranks:
        if _parent(pid) not in ranks:
            guardian.signal_process(pid, _understood(pid, number))


def _understood(pid: int, number: int) -> int:
    """What to send so that the process ends without a traceback: SIGINT only to one that answers it."""
    if number != signal.SIGINT:
        return number
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8", errors="replace")
    except OSError:  # it has ended, or the system has no /proc
        return number
    return number if interrupt.answers(status) else signal.SIGTERM


def is_stopped(pid: int) -> bool:
    """Has a signal stopped the process? A debugger's hold does not count."""
    return _stat(pid)[:1] == ["T"]


def _parent(pid: int) -> int:
    words = _stat(pid)
    return int(words[1]) if words else 0


def _stat(pid: int) -> list[str]:
    """What /proc says of a process from its state on; nothing where it does not."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    return text[text.rindex(")") + 1 :].split()
