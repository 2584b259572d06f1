"""Worker processes that take turns: started once, driven over a local socket, asleep while another one works.

The parent holds a :class:`Crew`; each worker calls :func:`serve`. Requests and answers are JSON, one a line. A worker that
waits sits in a blocking read, so that it costs the others nothing, and ends when its parent does.
"""

from __future__ import annotations

import json
import os
import platform
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

SETTINGS = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "NUMBA_NUM_THREADS": "1",
}
UNSET = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")
"""What some machines export to choose an older kernel; the libraries choose by themselves here."""
LEAVE_S = 30.0
"""What workers may take to leave after their socket was closed."""


def environment() -> dict[str, str]:
    """This process's environment with one thread for each library, and no choice of kernels made for NumPy."""
    return {name: value for name, value in os.environ.items() if name not in UNSET} | SETTINGS


def describe_machine() -> dict[str, Any]:
    """What a number depends on: processor, cores, versions, settings."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    processor = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "?")
    return {
        "processor": processor,
        "cores": len(os.sched_getaffinity(0)),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "environment": SETTINGS,
        "unset": UNSET,
        "load": os.getloadavg()[0],
    }


def commit() -> str:
    """The commit that is measured; with a star if files differ from it."""
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty=*", "--exclude=*"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
        )
    except FileNotFoundError:
        return "?"
    return done.stdout.strip() or "?"


class Crew:
    """All workers of one benchmark, in teams of one or more ranks; a context manager that leaves no process behind."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="phalanx-benchmark-")
        self.folder = self._folder.name
        self.address = f"{self.folder}/crew"
        self._listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listening.bind(self.address)
        self._listening.listen(64)
        self._processes: dict[str, list[subprocess.Popen[bytes]]] = {}
        self._teams: dict[str, dict[int, Any]] = {}

    def spawn(self, team: str, command: Sequence[str], env: Mapping[str, str]) -> None:
        """Start one command of a team; what it prints goes to this process's stderr."""
        processes = self._processes.setdefault(team, [])
        env = {**env, "RANK_OF_TEAM": str(len(processes))}
        processes.append(subprocess.Popen(command, env=env, stdin=subprocess.DEVNULL, stdout=sys.stderr))

    def gather(self, team: str, ranks: int, *, timeout_s: float = 120.0) -> None:
        """Wait until so many workers of the team have called :func:`serve`.

        Raises RuntimeError if a process of the team ends before, TimeoutError at the deadline.
        """
        deadline = time.monotonic() + timeout_s
        members = self._teams.setdefault(team, {})
        self._listening.settimeout(0.2)
        while len(members) < ranks:
            try:
                connection, _ = self._listening.accept()
            except TimeoutError:
                self._check(team, deadline)
                continue
            connection.settimeout(timeout_s)
            stream = connection.makefile("rw")
            who = json.loads(stream.readline())
            self._teams.setdefault(who["team"], {})[who["rank"]] = (connection, stream)

    def _check(self, team: str, deadline: float) -> None:
        for process in self._processes[team]:
            if process.poll() is not None:
                raise RuntimeError(f"{team}: {' '.join(map(str, process.args))} ended with {process.returncode}")  # type: ignore[arg-type]
        if time.monotonic() > deadline:
            raise TimeoutError(f"{team}: only ranks {sorted(self._teams[team])} came in time")

    def ask(
        self, team: str, request: Mapping[str, Any], *, ranks: Sequence[int] | None = None, timeout_s: float = 600
    ) -> list[dict[str, Any]]:
        """Hand ``request`` to the team (or some ranks of it); the answers in the order of ranks, when all are there."""
        members = self._teams[team]
        asked = sorted(members) if ranks is None else ranks
        for rank in asked:
            _, stream = members[rank]
            stream.write(json.dumps(request) + "\n")
            stream.flush()
        answers = []
        for rank in asked:
            connection, stream = members[rank]
            connection.settimeout(timeout_s)
            try:
                line = stream.readline()
            except TimeoutError:
                raise TimeoutError(f"{team}: rank {rank} gave no answer to {request} within {timeout_s:g} s") from None
            if not line:
                raise RuntimeError(f"{team}: rank {rank} ended while it worked on {request}; its own words stand above")
            answers.append(json.loads(line))
        return answers

    def dismiss(self) -> None:
        """Let all workers end and wait for them; whoever stays is ended."""
        for members in self._teams.values():
            for connection, stream in members.values():
                stream.close()
                connection.close()
        deadline = time.monotonic() + LEAVE_S
        for process in (p for team in self._processes.values() for p in team):
            for end in (lambda: None, process.terminate, process.kill):
                end()
                try:
                    process.wait(timeout=max(3.0, deadline - time.monotonic()))
                    break
                except subprocess.TimeoutExpired:
                    continue
        self._teams.clear()
        self._processes.clear()

    def close(self) -> None:
        self.dismiss()
        self._listening.close()
        self._folder.cleanup()

    def __enter__(self) -> Crew:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def serve(address: str, team: str, rank: int, answer: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Worker: answer requests until the parent closes the socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.connect(address)
        stream = connection.makefile("rw")
        stream.write(json.dumps({"team": team, "rank": rank}) + "\n")
        stream.flush()
        for line in stream:
            stream.write(json.dumps(answer(json.loads(line))) + "\n")
            stream.flush()
