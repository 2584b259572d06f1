"""Worker processes that make batches: fresh interpreters, never forks, that know nothing of ranks, launchers or MPI.

A worker gets the data set once, in the form in which Python hands objects to processes of its own making
(``multiprocessing``'s), then tasks (epoch, sample indices), and answers with batches. What it does follows from its task
alone. It notes the sample that it is at in memory shared with its parent, so that a death has a name; it ends when its
parent does, however that ends.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import queue
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from multiprocessing.reduction import ForkingPickler
from typing import Any

import numpy as np

from ..errors import DataError, StateError
from . import handover
from .options import Options
from .prefetch import Prefetcher

SCRUBBED = ("OMPI_", "PMI_", "PMIX_", "PRTE_", "MPI", "HYDRA_", "SLURM_", "PHALANX_", "TORCHELASTIC_")
"""Beginnings of variables by which a process would take itself for a rank."""
SCRUBBED_NAMES = {"RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "GROUP_RANK"}
KEPT = {"PHALANX_DATA", "PHALANX_DATA_MIRROR"}
ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")
IGNORED = {signal.SIGINT, signal.SIGTERM, signal.SIGUSR1}
"""Signals that a terminal or a launcher sends to all processes of a job: the parent decides what they mean."""
END_DEADLINE_S = 5.0
SAMPLE = struct.Struct("<q")
NO_SAMPLE = -1

_START = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from {module} import main; main(sys.argv[2:])"


@dataclass(frozen=True)
class WorkerInfo:
    """Which worker process this is, as PyTorch's: ``id`` of ``num_workers``, with its ``seed`` and its ``dataset``.

    >>> from phalanx.data import get_worker_info
    >>> get_worker_info() is None
    True
    """

    id: int
    num_workers: int
    seed: int
    dataset: Any


class _Here:
    """Set in a worker process by its main function."""

    info: WorkerInfo | None = None
    inside = False


def get_worker_info() -> WorkerInfo | None:
    """What a worker process is told about itself; None anywhere else, also on worker threads.

    >>> from phalanx.data import get_worker_info
    >>> get_worker_info() is None
    True
    """
    return _Here.info


def worker_environment(environment: dict[str, str]) -> dict[str, str]:
    """``environment`` without what makes a process a rank, with one thread for numeric libraries and no GPU.

    >>> worker_environment({"OMPI_COMM_WORLD_RANK": "1", "HOME": "/root", "PHALANX_DATA": "/data"})["HOME"]
    '/root'
    """
    kept = {
        name: value
        for name, value in environment.items()
        if name in KEPT or not (name.startswith(SCRUBBED) or name in SCRUBBED_NAMES)
    }
    return {**kept, **dict.fromkeys(ONE_THREAD, "1"), "CUDA_VISIBLE_DEVICES": ""}


class Worker:
    """One process and the way to it."""

    def __init__(self, number: int, count: int, seed: int, payload: bytes, main: str | None) -> None:
        self.number, self._payload = number, payload
        self._cell_file = tempfile.TemporaryFile()  # noqa: SIM115
        self._cell_file.write(SAMPLE.pack(NO_SAMPLE))
        self._cell_file.flush()
        self._cell = mmap.mmap(self._cell_file.fileno(), SAMPLE.size)
        self.connection, theirs = socket.socketpair()
        life, self._alive = os.pipe()  # closes with this process, however it ends
        passed = (theirs.fileno(), life, self._cell_file.fileno())
        module = f"{__name__.rpartition('.')[0]}.worker_main"
        told = {"passed": passed, "number": number, "count": count, "seed": seed, "main": main}
        command = [sys.executable, "-c", _START.format(module=module), json.dumps(sys.path), json.dumps(told)]
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, IGNORED)  # the child begins with them blocked
        try:
            self.process = subprocess.Popen(
                command, env=worker_environment(dict(os.environ)), stdin=subprocess.DEVNULL, pass_fds=passed
            )
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
            theirs.close()
            os.close(life)

    def make(self, epoch: int, indices: np.ndarray, timeout_s: float) -> Any:
        """The batch of ``indices``. Raises DataError that says what went wrong at which sample."""
        try:
            self._begin()
            handover.send(self.connection, (epoch, indices))
            self.connection.settimeout(timeout_s or None)
            answer = handover.receive(self.connection)
        except TimeoutError:
            raise DataError(
                f"worker process {self.number} gave no batch within timeout={timeout_s:g} s{self._at(indices)}"
            ) from None
        except (handover.Closed, OSError) as error:
            raise DataError(f"worker process {self.number} {self._end()}{self._at(indices)}") from error
        self._check(answer, f"batch of samples {_shown(indices)}")
        return answer["batch"]

    def _begin(self) -> None:
        """Hand over the data set, once; starting does not count as time of a batch."""
        self.connection.settimeout(None)
        if self._payload:
            handover.send(self.connection, self._payload)
            self._check(handover.receive(self.connection), "at its start")
            self._payload = b""

    def _check(self, answer: dict[str, Any], when: str) -> None:
        if "error" in answer:
            failure = DataError(f"in worker process {self.number}, {when}: {answer['error']}")
            failure.add_note(answer["traceback"])
            raise failure

    def _end(self) -> str:
        try:
            code = self.process.wait(END_DEADLINE_S)
        except subprocess.TimeoutExpired:
            return "cannot be heard any more"
        return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"

    def _at(self, indices: np.ndarray) -> str:
        (sample,) = SAMPLE.unpack_from(self._cell)
        at = f" at sample {sample}" if sample != NO_SAMPLE else " before its first sample" if self._payload else ""
        return f"{at}, in the batch of samples {_shown(indices)}"

    def kill(self) -> None:
        """End it now."""
        self.process.kill()
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)  # wakes who waits for its answer

    def release(self) -> None:
        """After :meth:`kill`, when nobody uses it any more."""
        self.process.wait()
        self.connection.close()
        os.close(self._alive)
        self._cell.close()
        self._cell_file.close()


class Workers:
    """``count`` worker processes, which end with this object, :meth:`close`, or the process."""

    def __init__(
        self, dataset: Any, collate_fn: Callable[[list[Any]], Any] | None, seed: int, count: int, options: Options
    ) -> None:
        if _Here.inside:
            raise StateError(
                "a worker process is starting worker processes: it imports the script to find its classes; put what the "
                'script does under `if __name__ == "__main__":`'
            )
        payload = _packed(dataset, collate_fn, options.worker_init_fn)
        main = _main_path() if b"__main__" in payload else None
        self.closed, self.busy, self._options = False, False, options
        self._workers: list[Worker] = []
        self._finalize = weakref.finalize(self, _end, self._workers)  # also of those that had begun when one cannot
        for number in range(count):
            self._workers.append(Worker(number, count, seed, payload, main))
        self._idle: queue.SimpleQueue[Worker | None] = queue.SimpleQueue()
        """None: no more, for every thread that asks."""
        for worker in self._workers:
            self._idle.put(worker)

    def prefetch(
        self, epoch: int, tasks: Iterator[np.ndarray], ahead: int, send: Callable[[Any], Any] | None = None
    ) -> Prefetcher[np.ndarray]:
        """The batches of ``tasks`` in order, ``ahead`` for each worker made beforehand; ``send`` is done to each."""
        count, self.busy = len(self._workers), True
        make = partial(self._make, epoch)
        work = make if send is None else lambda indices: send(make(indices))
        return _FromProcesses(self, work, tasks, ahead=max(1, ahead) * count, threads=count)

    def _make(self, epoch: int, indices: np.ndarray) -> Any:
        worker = self._idle.get()
        if worker is None:
            self._idle.put(None)
            raise DataError("the worker processes have ended")
        try:
            batch = worker.make(epoch, indices, self._options.timeout)
        except BaseException:
            self._idle.put(None)  # tasks after this one are not done any more: the loop ends with this error
            raise
        self._idle.put(worker)
        return batch

    def kill(self) -> None:
        self.closed = True
        self._idle.put(None)
        for worker in self._workers:
            worker.kill()

    def close(self) -> None:
        """End the processes."""
        self.closed = True
        self._finalize()


class _FromProcesses(Prefetcher[np.ndarray]):
    """A thread waits for each process, so that order, limits and errors are those of threads."""

    def __init__(self, workers: Workers, work: Callable[[np.ndarray], Any], tasks: Iterator[np.ndarray], **how: int):
        self._workers, self._failed = workers, False
        super().__init__(work, tasks, **how)

    def take(self) -> Any:
        try:
            return super().take()
        except Exception:
            self._failed = True
            raise

    def close(self) -> None:
        if self._failed or not self._workers._options.persistent_workers:
            self._workers.kill()  # first: threads wait for them
            super().close()
            self._workers.close()
        else:
            super().close()
            self._workers.busy = False


def _end(workers: list[Worker]) -> None:
    for worker in workers:
        worker.kill()
    for worker in workers:
        worker.release()


def _shown(indices: np.ndarray) -> str:
    return ", ".join(str(index) for index in indices[:4].tolist()) + (", ..." if len(indices) > 4 else "")


def _packed(dataset: Any, collate_fn: Any, worker_init_fn: Any) -> bytes:
    try:
        return bytes(ForkingPickler.dumps((dataset, collate_fn, worker_init_fn)))
    except Exception as error:  # whatever objects raise that cannot be taken apart
        raise DataError(
            f"{type(dataset).__name__}, its transforms or collate_fn cannot be handed to a worker process: {error}. Define "
            "classes and functions at the top of a module (no lambda), or use threads (no multiprocessing_context)"
        ) from error


def _main_path() -> str | None:
    path = getattr(sys.modules.get("__main__"), "__file__", None)
    return None if path is None else os.path.abspath(path)
