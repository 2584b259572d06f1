"""``phalanx ps`` and ``phalanx stop``: the jobs of this user, started on this machine, with all their hosts.

A job over hosts leaves a record in the user's cache folder while it runs; one whose launcher was killed leaves it for good,
so that what is left on its hosts can still be found. Jobs of one machine are found by their processes alone.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path

from ..dist import env
from ..dist.errors import LaunchError
from . import census, guardian
from .census import Found
from .door import ask
from .hosts import Host, mark_of
from .link import Remote

ASK_S = 20.0
"""For a host to answer."""


@dataclass(slots=True)
class Listed:
    """A job and what is there of it."""

    mark: str
    launcher: int
    """Process id; 0 when it is gone."""
    command: str = ""
    hosts: tuple[Host, ...] = ()
    remote: Remote | None = None
    door: tuple[str, ...] | None = None
    """Of an elastic job: where its launcher can be asked, and the key to it."""
    found: dict[str, list[Found]] = field(default_factory=dict)
    """Host -> its processes."""
    silent: dict[str, str] = field(default_factory=dict)
    """Host -> why it cannot be asked."""

    @property
    def count(self) -> int:
        return sum(map(len, self.found.values()))


# --- records ------------------------------------------------------------------------------------------------------


def records_folder(environ: Mapping[str, str] = os.environ) -> Path:
    cache = environ.get("XDG_CACHE_HOME") or os.path.join(environ.get("HOME") or "/tmp", ".cache")
    return Path(cache, "phalanx", "jobs")


@dataclass(slots=True)
class Record:
    """What is written down of a job that runs."""

    mark: str
    command: str
    hosts: tuple[Host, ...] = ()
    remote: Remote | None = None
    door: tuple[str, str] | None = None
    """Of an elastic job: where its launcher can be asked, and the key to it."""

    @property
    def path(self) -> Path:
        return records_folder() / f"{self.mark}.json"

    def add_host(self, host: Host) -> None:
        """A host has joined."""
        self.hosts = (*self.hosts, host)
        self.write()

    def open(self, address: str, key: str) -> None:
        """The launcher can be asked."""
        self.door = address, key
        self.write()

    def write(self) -> None:
        remote = asdict(self.remote) if self.remote is not None else {"mark": self.mark}
        row = {
            "pid": os.getpid(),
            "command": self.command,
            "hosts": [[host.name, host.slots] for host in self.hosts],
            "door": self.door,
            **remote,
        }
        new = self.path.with_suffix(".new")
        with contextlib.suppress(OSError):  # a job that cannot be listed runs all the same
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
                json.dump(row, file)
            new.replace(self.path)


@contextlib.contextmanager
def recorded(record: Record) -> Iterator[Record]:
    """While this runs the job can be found by ``phalanx ps``, and afterwards when this process was killed."""
    record.write()
    try:
        yield record
    finally:
        with contextlib.suppress(OSError):
            record.path.unlink()


def _records() -> Iterator[Listed]:
    folder = records_folder()
    for path in sorted(folder.glob("*.json")) if folder.is_dir() else ():
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            row = json.loads(path.read_text(encoding="utf-8"))
            hosts = tuple(Host(name, slots) for name, slots in row["hosts"])
            remote = None
            if "ssh" in row:
                remote = Remote(tuple(row["ssh"]), row["python"], row["folder"], row["path"], row["mark"])
            door = tuple(row["door"]) if row.get("door") else None
            yield Listed(row["mark"], _launcher(row["pid"]), row["command"], hosts, remote, door)


# --- looking ------------------------------------------------------------------------------------------------------


def jobs() -> list[Listed]:
    """All jobs of this user that this machine knows of."""
    listed = {job.mark: job for job in _records()}
    for pid, text in guardian.environments():
        values = census.variables(text)
        name = values.get(env.NAMES["job"], "")
        if not name or not values.get(env.LAUNCHED) or (mark := mark_of(name)) in listed:
            continue
        prefix = name.partition("-")[0]
        launcher = _launcher(int(prefix, 16)) if prefix and not prefix.strip("0123456789abcdef") else 0
        listed[mark] = Listed(mark, launcher, _command(launcher or pid))
    for job in listed.values():
        _look(job, end=False)
    return [job for job in listed.values() if job.count or job.launcher or job.silent or _forget(job)]


def _look(job: Listed, end: bool) -> None:
    """Fill in what there is of a job; ``end``: kill it first."""
    remote = job.remote
    if remote is None:
        job.found = {"this machine": census.end(lambda: _here(job.mark)) if end else _here(job.mark)}
        return
    job.found, job.silent = {}, {}
    with ThreadPoolExecutor(max_workers=16) as pool:
        asked = [pool.submit(_ask, remote, node, host, end) for node, host in enumerate(job.hosts)]
    for host, answer in zip(job.hosts, (each.result() for each in asked), strict=True):
        if isinstance(answer, str):
            job.silent[host.name] = answer
        else:
            job.found[host.name] = answer


def _here(mark: str) -> list[Found]:
    return census.find(lambda values: mark_of(values.get(env.NAMES["job"], "")) == mark)


def _ask(remote: Remote, node: int, host: Host, end: bool) -> list[Found] | str:
    command = remote.call(host, "phalanx.launch.census", f"{remote.mark}.{node}", *(["end"] if end else []))
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=ASK_S, check=False
        )
    except subprocess.TimeoutExpired:
        return "it does not answer"
    _, begin, rest = done.stdout.partition(census.BEGIN)
    if not begin:
        return (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
    return [Found(pid, rank) for pid, rank in json.loads(rest)]


def _forget(job: Listed) -> bool:
    with contextlib.suppress(OSError):
        (records_folder() / f"{job.mark}.json").unlink()
    return False


def _launcher(pid: int) -> int:
    """``pid`` if a launcher of ours runs there, else 0: numbers are used again."""
    words = _command(pid).split()
    return pid if "run" in words and any("phalanx" in word for word in words) else 0


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return ""


# --- the two commands ---------------------------------------------------------------------------------------------


def print_jobs() -> int:
    """``phalanx ps``."""
    listed = jobs()
    if not listed:
        print("no jobs")
    for job in listed:
        state = "running" if job.launcher else "left behind: its launcher is gone"
        print(f"{job.mark}  {state}  {job.command}")
        if job.door is not None and job.launcher:
            with contextlib.suppress(LaunchError):
                print(f"  {ask(job.door[0], job.door[1], {'kind': 'state'}, ASK_S)['state']}")
        for host, found in job.found.items():
            elastic = job.door is not None  # the rank that a process was started as is not the one that it has
            ranks = [
                f"pid {one.pid}" if elastic else f"rank {one.rank} (pid {one.pid})"
                for one in sorted(found, key=_order)
                if one.rank is not None
            ]
            others = sum(one.rank is None for one in found)
            ranks += [f"{others} other{'s' * (others > 1)}"] if others else []
            print(f"  {host}: {', '.join(ranks) or 'nothing'}")
        for host, why in job.silent.items():
            print(f"  {host}: cannot be asked: {why}")
        if not job.launcher:
            print(f"  phalanx stop {job.mark} ends it")
    return 0


def _order(found: Found) -> tuple[int, int]:
    return (-1 if found.rank is None else found.rank, found.pid)


def join_job(name: str, ranks: int | None, hosts: str | None) -> int:
    """``phalanx join``: more ranks for an elastic job that runs."""
    if ranks is not None and ranks < 1:
        raise LaunchError(f"-n {ranks}: expected at least 1 rank")
    known = list(_records())
    matching = [job for job in known if job.mark.startswith(name)]
    if len(matching) != 1:
        names = ", ".join(job.mark for job in matching or known if job.door and job.launcher) or "none"
        what = "several jobs begin so" if matching else "no such elastic job runs here"
        raise LaunchError(f"{name}: {what}; there are: {names}")
    job = matching[0]
    if job.door is None:
        raise LaunchError(f"{job.mark} was not started with --elastic: its number of ranks stays")
    if not job.launcher:
        raise LaunchError(f"{job.mark} has ended; phalanx stop {job.mark} ends what is left of it")
    answer = ask(job.door[0], job.door[1], {"kind": "join", "ranks": ranks, "hosts": hosts})
    if "error" in answer:
        raise LaunchError(f"{job.mark}: {answer['error']}")
    print(f"{job.mark}: started {answer['started']}; they join when they are ready, between two steps")
    return 0


def stop_job(name: str, grace_s: float) -> int:
    """``phalanx stop``: ask the launcher, which lets the ranks save and leave; then end what is left on all hosts."""
    known = jobs()
    matching = [job for job in known if job.mark.startswith(name)]
    if len(matching) != 1:
        names = ", ".join(job.mark for job in matching or known) or "none"
        raise LaunchError(f"{name}: {'several jobs begin so' if matching else 'no such job'}; there are: {names}")
    job = matching[0]
    if job.launcher:
        guardian.signal_process(job.launcher, signal.SIGTERM)
        end = time.monotonic() + grace_s
        while _launcher(job.launcher) and time.monotonic() < end:
            time.sleep(0.05)
        if _launcher(job.launcher):
            guardian.signal_process(job.launcher, signal.SIGKILL)
    _look(job, end=True)
    for host, found in job.found.items():
        if found:
            print(f"{host}: {len(found)} processes cannot be ended: {', '.join(str(one.pid) for one in found)}")
    for host, why in job.silent.items():
        print(f"{host}: cannot be asked: {why}")
    if job.count or job.silent:
        return 1
    _forget(job)
    print(f"{job.mark} has ended")
    return 0
