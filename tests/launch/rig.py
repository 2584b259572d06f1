"""Starting launchers in tests: each with a deadline, each found again by a mark, none left behind."""

from __future__ import annotations

import contextlib
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from phalanx.launch import guardian
from tests.jobs import train

ROOT = Path(__file__).resolve().parents[2]
PHALANX = (sys.executable, "-m", "phalanx")
DEADLINE_S = 20.0
MARK = "PHALANX_TEST_MARK"


NOT_ON_HOSTS = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")
"""What OpenBLAS is told about the processor: other hosts would not hear of it, and give other bits."""


def environment(**added: str) -> dict[str, str]:
    """This process's environment without launchers' variables, with the package on the path."""
    left_out = ("PHALANX_", "OMPI_", "PMI", *NOT_ON_HOSTS)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(left_out)}
    kept["PHALANX_FLIGHT"] = os.environ["PHALANX_TESTS_FLIGHT"]
    return kept | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"} | added


def train_as_a_host_would(folder: Path, *options: str) -> None:
    """The example in one process that hears of the processor what other hosts hear of it."""
    with pytest.MonkeyPatch.context() as patch:
        for name in NOT_ON_HOSTS:
            patch.delenv(name, raising=False)
        train("alone", folder, *options)


def phalanx(*arguments: str, **added: str) -> subprocess.CompletedProcess[str]:
    """Run ``phalanx arguments...`` to its end."""
    with started(*PHALANX, *arguments, **added) as job:
        out, err = job.popen.communicate(timeout=DEADLINE_S)
    return subprocess.CompletedProcess(arguments, job.popen.returncode, out, err)


class Started:
    """A launcher and everything that it started."""

    def __init__(self, command: Sequence[str], added: dict[str, str]) -> None:
        mark = secrets.token_hex(8)
        self.mark = f"{MARK}={mark}"
        self.popen = subprocess.Popen(
            command,
            env=environment(**{MARK: mark}, **added),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        self._guardians: set[int] = set()

    def until(self, word: str, times: int) -> str:
        """Wait until the job has printed ``word`` so often; what it has printed."""
        assert self.popen.stdout is not None
        watchdog = time.monotonic() + DEADLINE_S
        seen = ""
        os.set_blocking(self.popen.stdout.fileno(), False)
        while seen.count(word) < times:
            assert time.monotonic() < watchdog and self.popen.poll() is None, (seen, self.popen.poll())
            with contextlib.suppress(BlockingIOError):
                seen += os.read(self.popen.stdout.fileno(), 4096).decode()
            time.sleep(0.01)
        os.set_blocking(self.popen.stdout.fileno(), True)
        self._guardians = {pid for pid in children(self.popen.pid) if "guardian.py" in command_line(pid)}
        return seen

    def left(self) -> list[str]:
        """Command lines of processes of the job that still run, the guardian included."""
        pids = {*guardian.marked(self.mark), *(pid for pid in self._guardians if "guardian.py" in command_line(pid))}
        return [line for pid in pids if (line := command_line(pid))]

    def left_after(self, seconds: float) -> list[str]:
        """What is still there after at most so many seconds."""
        end = time.monotonic() + seconds
        while (left := self.left()) and time.monotonic() < end:
            time.sleep(0.02)
        return left


@contextlib.contextmanager
def started(*command: str, **added: str) -> Iterator[Started]:
    """Start a command; at the end nothing of it is left, whatever the test did."""
    job = Started(command, added)
    try:
        yield job
    finally:
        job.popen.kill()
        job.popen.communicate()
        guardian.sweep(job.mark)


def command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def stop(job: Started, number: int) -> tuple[int, str, float]:
    """Send a signal to the launcher and wait for its end: exit code, stderr, seconds."""
    began = time.monotonic()
    os.kill(job.popen.pid, number)
    _, err = job.popen.communicate(timeout=DEADLINE_S)
    return job.popen.returncode, err, time.monotonic() - began
