"""A contestant's job: N worker processes that live for the whole run and work only when they are told to."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..core.errors import PhalanxError

START_S = 90.0
ANSWER_S = 180.0
END_S = 20.0
SETTINGS = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
UNSET = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")


class BenchError(PhalanxError, RuntimeError):
    """A contestant's job failed; carries what it printed."""


class Job:
    """Started in the constructor; :meth:`wait` returns when all ranks are ready, :meth:`close` ends it.

    Args:
        kind: of :data:`.contestants.KINDS`.
        ranks: how many processes.
        mpi: started by mpirun.
        most_bytes: the largest array that will be asked for.
    """

    def __init__(self, kind: str, ranks: int, mpi: bool, most_bytes: int) -> None:
        self.kind, self.ranks = kind, ranks
        self.idle_cpu_s = 0.0
        """Processor time that its ranks used while others were measured."""
        self._stack = contextlib.ExitStack()
        self._streams: list[Any] = []
        try:
            self._start(mpi, most_bytes)
        except BaseException:
            self.close()
            raise

    def _start(self, mpi: bool, most_bytes: int) -> None:
        self._folder = self._stack.enter_context(tempfile.TemporaryDirectory(prefix="phalanx-bench-"))
        self._listening = self._stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
        self._listening.bind(os.path.join(self._folder, "socket"))
        self._listening.listen(self.ranks)
        self._log = self._stack.enter_context(Path(self._folder, "output").open("w+b"))  # noqa: SIM115
        command = [sys.executable, "-m", "phalanx", "run", "--no-prefix", "-n", str(self.ranks)]
        command += [*(["--mpi"] if mpi else []), "-m", "phalanx.bench.worker", self.kind]
        self._process = subprocess.Popen(
            command,
            env={**environment(os.environ), **self._memory(most_bytes), "PHALANX_BENCH_FOLDER": self._folder},
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
        )
        self._stack.callback(self._end)

    def _memory(self, most_bytes: int) -> dict[str, str]:
        """What the shared-memory limit lives in; it goes with the last process that has it open."""
        if self.kind != "shared":
            return {}
        descriptor = os.memfd_create("phalanx-bench")
        self._stack.callback(os.close, descriptor)
        os.ftruncate(descriptor, self.ranks * (64 + most_bytes))
        return {"PHALANX_BENCH_MEMORY": f"/proc/{os.getpid()}/fd/{descriptor}", "PHALANX_BENCH_MOST": str(most_bytes)}

    def wait(self) -> None:
        """Until every rank has begun its conversation (in no order) and is ready."""
        end = time.monotonic() + START_S
        self._listening.settimeout(0.2)
        while len(self._streams) < self.ranks:
            with contextlib.suppress(TimeoutError):
                connection, _ = self._listening.accept()
                self._stack.enter_context(connection)
                connection.settimeout(ANSWER_S)
                self._streams.append(connection.makefile("rw", encoding="utf-8"))
            if self._process.poll() is not None or time.monotonic() > end:
                self._process.terminate()
                raise self._failed("did not start")
        for stream in self._streams:
            self._answer(stream)

    def measure(self, algorithm: str, nbytes: int, repeats: int) -> float:
        """Seconds of one all-reduce of ``nbytes``: the slowest rank's mean of ``repeats``."""
        for stream in self._streams:
            stream.write(json.dumps([algorithm, nbytes, repeats]) + "\n")
            stream.flush()
        answers = [self._answer(stream) for stream in self._streams]
        self.idle_cpu_s += sum(answer["idle_cpu_s"] for answer in answers)
        return max(float(answer["seconds"]) for answer in answers)

    def _answer(self, stream: Any) -> dict[str, Any]:
        try:
            line = stream.readline()
        except TimeoutError:
            raise self._failed(f"did not answer within {ANSWER_S:g} s") from None
        if not line:
            raise self._failed("ended")
        return dict(json.loads(line))

    def _failed(self, what: str) -> BenchError:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(2.0)
        self._log.flush()
        words = Path(self._log.name).read_text(errors="replace")[-1500:]
        return BenchError(f"the job of {self.ranks} ranks of {self.kind!r} {what}; it printed:\n{words}")

    def _end(self) -> None:
        try:
            self._process.wait(END_S)
        except subprocess.TimeoutExpired:
            self._process.send_signal(signal.SIGTERM)  # the launcher leaves no rank behind
            try:
                self._process.wait(END_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()

    def close(self) -> None:
        """The ranks see the end of their conversations and leave."""
        for stream in self._streams:
            with contextlib.suppress(OSError):
                stream.close()
        self._stack.close()


def environment(environ: Mapping[str, str]) -> dict[str, str]:
    """The workers' environment: one thread each, and BLAS as the processor wants it."""
    return {name: value for name, value in environ.items() if name not in UNSET} | SETTINGS
