"""``phalanx run`` over network namespaces: each a host with its own name, address and environment, reached by a stand-in
for ssh."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.hosts import Hosts
from tests.launch.rig import DEADLINE_S, PHALANX, Started, started

SSH = """#!/bin/bash
# ssh [options] HOST COMMAND...: no environment of the caller's comes through, as with the real one
while [[ $1 == -* ]]; do shift; done
host=$1; shift
case $host in
    {names}) ;;
    refusing) echo "ssh: connect to host refusing port 22: Connection refused" >&2; exit 255 ;;
    locked) echo "root@locked: Permission denied (publickey)." >&2; exit 255 ;;
    *) echo "ssh: Could not resolve hostname $host: Name or service not known" >&2; exit 255 ;;
esac
echo "Welcome to $host"   # what a login shell may say
ip netns exec {tag}$host unshare --uts env -i PATH="$PATH" HOME="$HOME" SHELL_OF=$host \\
    sh -c 'hostname "$0" && eval "$1"' "$host" "$*"
"""


class Cluster:
    """Hosts h0, h1, ... with ``per_host`` slots each."""

    def __init__(self, hosts: Hosts, folder: Path, per_host: int) -> None:
        self.hosts, self.folder = hosts, folder
        self.ssh = folder / "ssh"
        self.ssh.write_text(SSH.format(names="|".join(hosts.names), tag=hosts.tag))
        self.ssh.chmod(0o755)
        self.list = ",".join(f"{name}:{per_host}" for name in hosts.names)
        self.added = {"XDG_CACHE_HOME": str(folder / "cache"), "TMPDIR": str(folder)}

    def options(self, hosts: str | None = None) -> tuple[str, ...]:
        return ("--hosts", hosts or self.list, "--ssh", str(self.ssh))

    def run(self, *arguments: str, hosts: str | None = None) -> subprocess.CompletedProcess[str]:
        """``phalanx run`` over the hosts, to its end."""
        return self.phalanx("run", *self.options(hosts), *arguments)

    def job(self) -> str:
        """Name of the job that runs, by the record that its launcher keeps."""
        records = Path(self.added["XDG_CACHE_HOME"], "phalanx", "jobs").glob("*.json")
        return max(records, key=lambda path: path.stat().st_mtime_ns).stem

    def phalanx(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        with started(*PHALANX, *arguments, **self.added) as job:
            out, err = job.popen.communicate(timeout=DEADLINE_S)
        return subprocess.CompletedProcess(arguments, job.popen.returncode, out, err)

    def start(self, *arguments: str, hosts: str | None = None) -> contextlib.AbstractContextManager[Started]:
        """The same, not waited for."""
        return started(*PHALANX, "run", *self.options(hosts), *arguments, **self.added)

    def pids(self, host: int) -> list[int]:
        words = ["ip", "netns", "pids", self.hosts.namespace(host)]
        return [int(pid) for pid in subprocess.run(words, capture_output=True, text=True, check=True).stdout.split()]

    def all_pids(self) -> list[int]:
        return [pid for host in range(len(self.hosts.names)) for pid in self.pids(host)]


@contextlib.contextmanager
def cluster(folder: Path, count: int, per_host: int = 1) -> Iterator[Cluster]:
    with Hosts(count) as hosts:
        yield Cluster(hosts, folder, per_host)


def script(folder: Path, text: str) -> str:
    path = folder / "script.py"
    path.write_text(text)
    return str(path)


PYTHON = sys.executable
