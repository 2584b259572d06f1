"""Who takes part in ``phalanx bench all-reduce``, as each worker process sees it.

A contestant is made in every rank's process, has one array per size, sums it over the ranks as often as it is asked to, and
says how long that took. All arrays hold zeros while time is taken, so that sums in place stay finite.
"""

from __future__ import annotations

import importlib
import mmap
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import numpy as np

from ..dist.communicators.base import Communicator
from ..dist.communicators.shared_memory import INLINE_NBYTES
from ..dist.group import init
from ..dist.reduction.expression import Term

PIECE_BYTES = 2 << 20
"""Open MPI's Allreduce is fastest in pieces of about this size (measured, Open MPI 5.0)."""
CACHED = 1 << 18
"""Elements of all ranks' arrays that the shared-memory limit takes at once: 1 MB, which stays in the cache (the fastest of 16 KB to
all, measured)."""
LINE_BYTES = 64
"""A cache line: each rank's word of the barrier lies on one of its own."""


class Contestant(ABC):
    """One rank of a job that can be measured."""

    def __init__(self, rank: int, size: int) -> None:
        self.rank, self.size = rank, size

    @abstractmethod
    def prepare(self, algorithm: str, count: int) -> tuple[np.ndarray, Callable[[], None], np.ndarray]:
        """For ``count`` float32 numbers: (the array to be summed, what sums it over the ranks, where the sum is)."""

    @abstractmethod
    def barrier(self) -> None:
        """All ranks have come."""

    def run(self, algorithm: str, nbytes: int, repeats: int) -> float:
        """Seconds for one all-reduce, the mean of ``repeats`` in a row; the sum is checked first."""
        array, reduce, result = self.prepare(algorithm, nbytes // 4)
        self._verify(array, reduce, result)
        array.fill(0)
        self.barrier()
        reduce()
        self.barrier()
        began = time.perf_counter()
        for _ in range(repeats):
            reduce()
        return (time.perf_counter() - began) / repeats

    def _verify(self, array: np.ndarray, reduce: Callable[[], None], result: np.ndarray) -> None:
        array.fill(self.rank + 1)
        self.barrier()
        reduce()
        self.barrier()
        expected = self.size * (self.size + 1) / 2
        if not (result[0] == result[-1] == expected and bool((result == expected).all())):
            raise AssertionError(f"rank {self.rank}: the sum is {result[0]} ... {result[-1]}, expected {expected}")
        self.barrier()


class Phalanx(Contestant):
    """Our own communicator: ``fast`` is its all_reduce, ``tree`` what DataParallel does with one shard per rank and no core to
    spare; ``kept`` what it does where backward overlaps: the sum goes elsewhere and gradients stay as they are."""

    def __init__(self, rank: int, size: int) -> None:
        super().__init__(rank, size)
        self.comm: Communicator = init().communicator
        self._made: dict[tuple[str, int], tuple[np.ndarray, Callable[[], None], np.ndarray]] = {}

    def prepare(self, algorithm: str, count: int) -> tuple[np.ndarray, Callable[[], None], np.ndarray]:
        if (algorithm, count) not in self._made:
            self._made[algorithm, count] = self._make(algorithm, count)
        return self._made[algorithm, count]

    def _make(self, algorithm: str, count: int) -> tuple[np.ndarray, Callable[[], None], np.ndarray]:
        name = f"bench {algorithm} {count}"
        gradient = self.comm.shared_empty(count, np.float32, name=f"{name} gradient")
        if algorithm == "fast":
            return gradient, lambda: self.comm.all_reduce(gradient, name=name).wait(), gradient
        if algorithm == "kept":
            total = self.comm.shared_empty(count, np.float32, name=f"{name} result", common=True)
            return gradient, lambda: self._tree(gradient, total, name), total
        if algorithm == "tree":
            return gradient, lambda: self._tree(gradient, gradient, name), gradient
        one = np.float32(1.0)

        def divided() -> None:
            """As at the commit: every rank divides the sum by the weight."""
            self._tree(gradient, gradient, name)
            np.divide(gradient, one, out=gradient)

        return gradient, divided, gradient

    def _tree(self, gradient: np.ndarray, total: np.ndarray, name: str) -> None:
        ranges = [(rank, rank + 1) for rank in range(self.size)]
        step = self.comm.bucket_sizes().bytes // 4
        works = [
            self.comm.tree_all_reduce(
                {ranges[self.rank]: Term(gradient[lo : lo + step], 1.0)},
                ranges,
                self.size,
                total[lo : lo + step],
                name=f"{name} at {lo}",
                start="now" if gradient.nbytes <= INLINE_NBYTES else "when waited for",  # as DataParallel on all cores
            )
            for lo in range(0, gradient.size, step)
        ]
        for work in reversed(works):
            work.wait()

    def barrier(self) -> None:
        self.comm.barrier(name="bench").wait()


class OpenMpi(Contestant):
    """The MPI library's own Allreduce through mpi4py: ``call`` all at once, ``pieces`` in pieces of 2 MB."""

    def __init__(self, rank: int, size: int) -> None:
        super().__init__(rank, size)
        self._mpi: Any = importlib.import_module("mpi4py.MPI")
        self._comm = self._mpi.COMM_WORLD
        self._arrays: dict[int, np.ndarray] = {}

    def prepare(self, algorithm: str, count: int) -> tuple[np.ndarray, Callable[[], None], np.ndarray]:
        array = self._arrays.setdefault(count, np.zeros(count, np.float32))
        step = PIECE_BYTES // 4 if algorithm == "pieces" else count

        def reduce() -> None:
            for lo in range(0, count, step):
                self._comm.Allreduce(self._mpi.IN_PLACE, array[lo : lo + step])

        return array, reduce, array

    def barrier(self) -> None:
        self._comm.Barrier()


class Gloo(Contestant):
    """PyTorch's all_reduce over gloo."""

    def __init__(self, rank: int, size: int) -> None:
        super().__init__(rank, size)
        self._torch: Any = importlib.import_module("torch")
        self._dist: Any = importlib.import_module("torch.distributed")
        self._torch.set_num_threads(1)
        where = f"file://{os.environ['PHALANX_BENCH_FOLDER']}/gloo-{size}"
        self._dist.init_process_group("gloo", init_method=where, rank=rank, world_size=size)
        self._tensors: dict[int, Any] = {}

    def prepare(self, algorithm: str, count: int) -> tuple[np.ndarray, Callable[[], None], np.ndarray]:
        if count not in self._tensors:
            self._tensors[count] = self._torch.zeros(count)
        tensor = self._tensors[count]
        return tensor.numpy(), lambda: self._dist.all_reduce(tensor), tensor.numpy()

    def barrier(self) -> None:
        self._dist.barrier()


class SharedMemory(Contestant):
    """The limit: gradients live in shared memory, each rank sums its slice of all of them and writes it into all of them.

    No messages, no names, no deadlines: words that count, read again and again. ``memcpy`` is the machine's own limit:
    each rank copies its slice once.
    """

    def __init__(self, rank: int, size: int) -> None:
        super().__init__(rank, size)
        path, self._most = os.environ["PHALANX_BENCH_MEMORY"], int(os.environ["PHALANX_BENCH_MOST"])
        with open(path, "r+b") as file:
            memory = mmap.mmap(file.fileno(), size * (LINE_BYTES + self._most))
        self._words = memoryview(memory)[: size * LINE_BYTES].cast("q")
        start = size * LINE_BYTES
        self._arrays = [np.frombuffer(memory, np.float32, self._most // 4, start + r * self._most) for r in range(size)]
        self._turn = 0

    def prepare(self, algorithm: str, count: int) -> tuple[np.ndarray, Callable[[], None], np.ndarray]:
        arrays = [array[:count] for array in self._arrays]
        lo, hi = count * self.rank // self.size, count * (self.rank + 1) // self.size
        mine = arrays[self.rank]
        if algorithm == "memcpy":
            source = self._arrays[(self.rank + 1) % self.size][lo:hi]
            return mine, lambda: np.copyto(mine[lo:hi], source), mine

        step = CACHED // self.size

        def reduce() -> None:
            self.barrier()
            for at in range(lo, hi, step):
                parts = [array[at : min(at + step, hi)] for array in arrays]
                for part in parts[1:]:
                    np.add(parts[0], part, out=parts[0])
                for part in parts[1:]:
                    np.copyto(part, parts[0])
            self.barrier()

        return mine, reduce, mine

    def run(self, algorithm: str, nbytes: int, repeats: int) -> float:
        if algorithm != "memcpy":
            return super().run(algorithm, nbytes, repeats)
        _, copy, _ = self.prepare(algorithm, nbytes // 4)
        copy()
        self.barrier()
        began = time.perf_counter()
        for _ in range(repeats):
            copy()
        return (time.perf_counter() - began) / repeats

    def barrier(self) -> None:
        self._turn += 1
        words, step = self._words, LINE_BYTES // 8
        words[self.rank * step] = self._turn
        for other in range(self.size):
            while words[other * step] < self._turn:
                os.sched_yield()


KINDS: dict[str, Callable[[int, int], Contestant]] = {
    "phalanx": Phalanx,
    "openmpi": OpenMpi,
    "gloo": Gloo,
    "shared": SharedMemory,
}
