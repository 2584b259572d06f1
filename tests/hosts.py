"""Hosts on one machine: network namespaces with their own host names, joined by a bridge in a namespace of its own.

    with Hosts(2) as hosts:
        job = hosts.start_zmq(folder, "checks", per_host=2)
        hosts.limit("1gbit")

The root namespace and its interfaces are not touched. Names hold the pid of the process that made them: two test runs do not
collide, and what a killed run left is removed by the next one. ``tc netem`` is in few kernels; rates are held by tbf.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from phalanx.dist import env
from phalanx.dist.env import RankEnvironment
from tests.ranks.launching import MPIRUN, OPEN_MPI, ROOT, Outcome, environment, launch, rank_command

needs_hosts = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("ip") is None, reason="network namespaces need root and the ip command"
)
SUBNET = "10.77.0"
PORT = 29500
_PREFIX = "phalanx-"
_COUNTER = iter(range(1000))


def _ip(*words: str) -> None:
    done = subprocess.run(["ip", *words], capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == 0, f"ip {' '.join(words)}: {done.stderr}"


class Hosts:
    """``count`` hosts named h0, h1, ...; their addresses are 10.77.0.1, 10.77.0.2, ...; use as a context manager."""

    def __init__(self, count: int) -> None:
        self.names = [f"h{number}" for number in range(count)]
        self.tag = f"{_PREFIX}{os.getpid()}-{next(_COUNTER)}-"
        self.switch = self.tag + "switch"
        self._started: list[subprocess.Popen[bytes]] = []

    def namespace(self, host: int) -> str:
        return self.tag + self.names[host]

    def address(self, host: int) -> str:
        return f"{SUBNET}.{host + 1}"

    def __enter__(self) -> Hosts:
        _sweep()
        try:
            _ip("netns", "add", self.switch)
            _ip("-n", self.switch, "link", "add", "bridge", "type", "bridge")
            _ip("-n", self.switch, "link", "set", "bridge", "up")
            for host in range(len(self.names)):
                self._add(host)
        except BaseException:
            self.close()
            raise
        return self

    def _add(self, host: int) -> None:
        space, port = self.namespace(host), f"port{host}"
        _ip("netns", "add", space)
        _ip("link", "add", "wire", "netns", space, "type", "veth", "peer", "name", port, "netns", self.switch)
        _ip("-n", self.switch, "link", "set", port, "master", "bridge", "up")
        _ip("-n", space, "addr", "add", f"{self.address(host)}/24", "dev", "wire")
        _ip("-n", space, "link", "set", "wire", "up")
        _ip("-n", space, "link", "set", "lo", "up")
        folder = Path("/etc/netns", space)
        folder.mkdir(parents=True)
        lines = [f"{self.address(number)} {name}" for number, name in enumerate(self.names)]
        (folder / "hosts").write_text("\n".join(["127.0.0.1 localhost", *lines, ""]))

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End every process of these hosts and remove them."""
        for name in [self.switch, *map(self.namespace, range(len(self.names)))]:
            _remove(name)
        for process in self._started:
            process.kill()
            process.wait()

    # -- what can happen to them -------------------------------------------------------------------------------------

    def limit(self, rate: str) -> None:
        """Hold what each host sends to ``rate``, for example ``1gbit``."""
        for host in range(len(self.names)):
            words = f"qdisc replace dev wire root tbf rate {rate} burst 256kb latency 50ms".split()
            done = subprocess.run(
                ["tc", "-n", self.namespace(host), *words], capture_output=True, text=True, timeout=20
            )
            assert done.returncode == 0, done.stderr

    def cut(self, host: int) -> None:
        """Pull the plug of one host: nothing arrives any more, in either direction, and nobody is told."""
        _ip("-n", self.switch, "link", "set", f"port{host}", "down")

    def kill(self, host: int) -> None:
        """End every process of one host at once."""
        _kill_all(self.namespace(host))

    # -- what runs on them -------------------------------------------------------------------------------------------

    def command(self, host: int, command: Sequence[str]) -> list[str]:
        """``command`` as it runs on a host; the process keeps its pid."""
        inside = 'hostname "$0" && exec "$@"'
        space = self.namespace(host)
        return ["ip", "netns", "exec", space, "unshare", "--uts", "sh", "-c", inside, self.names[host], *command]

    def start(self, host: int, command: Sequence[str], environ: dict[str, str], log: Path) -> subprocess.Popen[bytes]:
        """Start a process on a host, its output in the file ``log``."""
        with log.open("wb") as sink:
            process = subprocess.Popen(
                self.command(host, command), env=environ, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=sink,
                stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
        self._started.append(process)
        return process

    def start_zmq(
        self,
        folder: Path,
        scenario: str,
        per_host: int = 1,
        *,
        timeout_s: float = 30.0,
        job: str | None = None,
        **arguments: Any,
    ) -> ZmqJob:
        """Ranks of ``tests.ranks.zeromq_worker`` with the environment that a launcher sets."""
        folder.mkdir(exist_ok=True)
        size = per_host * len(self.names)
        name = os.urandom(16).hex() if job is None else job
        processes = []
        for rank in range(size):
            host, local = divmod(rank, per_host)
            meet = f"{self.address(0)}:{PORT}"
            told = RankEnvironment(
                rank, size, local, per_host, host, rendezvous=meet, job=name or None, timeout_s=timeout_s
            )
            words = [sys.executable, "-m", "tests.ranks.zeromq_worker", scenario, str(folder), json.dumps(arguments)]
            environ = environment(folder, **env.write(told))
            processes.append(self.start(host, words, environ, folder / f"{rank}.log"))
        return ZmqJob(folder, processes, name)

    def mpirun(
        self,
        folder: Path,
        module: str,
        function: str,
        per_host: int = 1,
        *,
        deadline_s: float = 30.0,
        limit_s: float = 60.0,
        **arguments: Any,
    ) -> Outcome:
        """Call ``module.function(communicator, **arguments)`` on all hosts under mpirun, which runs on the first one."""
        places = ",".join(f"{name}:{per_host}" for name in self.names)
        forwarded = [
            word for name in ("PYTHONPATH", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS") for word in ("-x", name)
        ]
        spread = ["--host", places, "--map-by", f"ppr:{per_host}:node:oversubscribe", "--bind-to", "none"]
        command = [str(MPIRUN), *spread, "-n", str(per_host * len(self.names)), *forwarded]
        command += rank_command(folder, module, function, deadline_s, arguments)
        temporary = folder / self.names[0]
        temporary.mkdir()
        agent = {"PRTE_MCA_plm_ssh_agent": str(self._agent(folder))}
        environ = environment(folder, **OPEN_MPI, **agent, OMPI_MCA_btl="^ofi") | {"TMPDIR": str(temporary)}
        return launch(folder, self.command(0, command), environ, limit_s)

    def _agent(self, folder: Path) -> Path:
        """A stand-in for ssh: ``agent [options] HOST COMMAND...``."""
        agent = folder / "agent"
        agent.write_text(
            "#!/bin/bash\n"
            'while [[ $1 == -* ]]; do shift; done\nhost=$1; shift\nmkdir -p "' + str(folder) + '/$host"\n'
            f"exec ip netns exec {self.tag}$host unshare --uts "
            f'sh -c "hostname $host; export TMPDIR={folder}/$host; $*"\n'
        )
        agent.chmod(0o755)
        return agent


class ZmqJob:
    """Running ranks of a ZeroMQ job; ``processes[rank]`` is the process of a rank."""

    def __init__(self, folder: Path, processes: list[subprocess.Popen[bytes]], name: str) -> None:
        self.folder, self.processes, self.name = folder, processes, name

    def reports(self, *, within_s: float = 60.0) -> dict[int, dict[str, Any]]:
        """Rank -> its report, once all have ended; a rank that was killed has none. A rank that is late is an error."""
        deadline = time.monotonic() + within_s
        late = []
        for rank, process in enumerate(self.processes):
            try:
                process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                late.append(rank)
                process.kill()
                process.wait()
        assert not late, f"ranks {late} did not end within {within_s} s: {self.output()}"
        files = {rank: self.folder / f"{rank}.json" for rank in range(len(self.processes))}
        return {rank: json.loads(file.read_text()) for rank, file in files.items() if file.exists()}

    def output(self) -> str:
        """What the ranks printed."""
        names = [f"{rank}.{kind}" for rank in range(len(self.processes)) for kind in ("log", "err")]
        files = [self.folder / name for name in names]
        return "\n".join(file.read_text(errors="replace") for file in files if file.exists())


# -- taking down -----------------------------------------------------------------------------------------------------


def _kill_all(space: str) -> None:
    for _ in range(50):
        found = subprocess.run(["ip", "netns", "pids", space], capture_output=True, text=True, timeout=20, check=False)
        if not found.stdout.split():
            return
        for pid in map(int, found.stdout.split()):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)


def _remove(space: str) -> None:
    if Path("/run/netns", space).exists():
        _kill_all(space)
        subprocess.run(["ip", "netns", "del", space], capture_output=True, timeout=20, check=False)
    shutil.rmtree(Path("/etc/netns", space), ignore_errors=True)


def _sweep() -> None:
    """Remove what test processes left that are not there any more."""
    for folder in (Path("/run/netns"), Path("/etc/netns")):
        for path in folder.glob(_PREFIX + "*") if folder.is_dir() else ():
            found = re.fullmatch(rf"{_PREFIX}(\d+)-\d+-\w+", path.name)
            if found and not Path("/proc", found[1]).exists():
                _remove(path.name)
