"""The process that writes checkpoints for another one, from memory that both have; the way to it."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import weakref
from io import BufferedRWPair
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import CheckpointError
from .parts import Part, Portion, runs_of, telling
from .writer import IGNORED

SCRIPT = Path(__file__).with_name("writer.py")
LEAVE_S = 1.0
"""How long one that has nobody to write for may take to leave; a disk that answers no more keeps it, and nobody waits for that."""


class WriterDied(Exception):
    """The process is gone; what it was to write is still in memory."""


class WriterProcess:
    """Started once, it sleeps between saves. ``memory_file``: a descriptor of the memory that it shares."""

    def __init__(self, memory_file: int) -> None:
        ours, theirs = socket.socketpair()
        command = [sys.executable, "-I", "-S", str(SCRIPT), str(theirs.fileno()), str(memory_file), *_folder_of_isal()]
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, IGNORED)  # the child begins with them blocked
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,  # whoever reads what a job says must not wait for this process, too
                stderr=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(), memory_file),
            )
        except OSError:
            ours.close()
            raise
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
            theirs.close()
        self._stream = ours.makefile("rwb")
        self.close = weakref.finalize(self, _leave, ours, self._stream, self._process)

    @property
    def pid(self) -> int:
        return self._process.pid

    def write(self, folder: Path, taken: Portion, nbytes: int, start: int) -> list[Part]:
        """Write pieces that lie in the shared memory, which has ``nbytes`` and begins at the address ``start`` here.

        Waits until they are on the disk. Raises CheckpointError for what the system refuses, WriterDied.
        """
        runs = [
            (
                run[0][0].file,
                run[0][0].offset,
                [piece.nbytes for piece, _ in run],
                int(np.frombuffer(run[0][1], np.uint8).ctypes.data) - start,
            )
            for run in runs_of(taken)
        ]
        answer = self._ask({"folder": str(folder), "nbytes": nbytes, "runs": runs})
        if "error" in answer:
            raise CheckpointError(f"cannot write to {folder}: the writer process failed: {answer['error']}")
        with telling("write to", folder):
            if "errno" in answer:
                raise OSError(answer["errno"], answer["strerror"] or os.strerror(answer["errno"]), answer["filename"])
        return [
            Part(piece.file, piece.tensor, piece.lo, piece.nbytes, crc)
            for (piece, _), crc in zip(taken, answer["crcs"], strict=True)
        ]

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        try:
            self._stream.write(json.dumps(request).encode() + b"\n")
            self._stream.flush()
            line = self._stream.readline()
        except OSError:
            line = b""
        if not line.endswith(b"\n"):
            self.close()
            raise WriterDied(f"the process that writes checkpoints {self._end()}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _end(self) -> str:
        code = self._process.poll()
        if code is None:
            return "does not answer"
        return f"was killed by signal {-code}" if code < 0 else f"ended with {code}"


def _folder_of_isal() -> list[str]:
    """The process starts without the paths of installed packages: to look through them takes longer than all the rest."""
    spec = importlib.util.find_spec("isal")
    return [] if spec is None or spec.origin is None else [str(Path(spec.origin).parents[1])]


def _leave(connection: socket.socket, stream: BufferedRWPair, process: subprocess.Popen[bytes]) -> None:
    """The process leaves when its connection is closed; it is waited for, so that nothing of it is left."""
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
    with contextlib.suppress(OSError):
        stream.close()
    connection.close()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(LEAVE_S)
