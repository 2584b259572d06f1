"""What decides the bits on this machine beside the program: processor, instruction set, libraries, thread counts."""

from __future__ import annotations

import platform
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_info

from ..core.amp import precision
from ..core.cuda import get_device_name
from ..core.kernels.cpu import threads
from ..core.kernels.table import chosen, describe
from .errors import LaunchError


def fix_threads(count: int) -> None:
    """Hold every numeric library of this process to ``count`` threads, also when it was loaded before, and verify it.

    Sums change with the number of threads that share them, so the promise about bits needs a fixed number.
    """
    with _holders.lock:  # another rank of this process may be giving back what it held
        threads.set_threads(count)
        pools, held = threadpool_info(), None
        while held != (held := {pool["filepath"] for pool in pools}):  # another thread may load a library meanwhile
            threads.limit_libraries({"openmp": count, "blas": threads.blas_threads(count)})
            pools = threadpool_info()
    for pool in pools:
        if pool["num_threads"] not in (count, threads.blas_threads(count) if pool["user_api"] == "blas" else count):
            raise LaunchError(
                f"{pool['internal_api']} ({pool['filepath']}) runs {pool['num_threads']} threads and could not be held to "
                f"{count}, which shards need for equal bits; set OMP_NUM_THREADS={count} in the environment"
            )


def share_of_cores(ranks: int) -> int:
    """How many cores each of ``ranks`` ranks of this host may use: what ``OMP_NUM_THREADS`` says, or all, shared out."""
    return threads.named() or max(1, threads.cores() // ranks)


def count_threads() -> int:
    """The most threads that a numeric library of this process uses."""
    pools = [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"]
    return max([threads.threads() if chosen() == "fast" else 1, *pools])


class _Holders:
    """Who holds the libraries of this process to how many threads: ranks may be threads of it."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.inside = 0
        self.limits: Any = None
        self.kernels = 1


_holders = _Holders()


@contextmanager
def held_threads(count: int) -> Iterator[None]:
    """Within, every numeric library of this process is held to ``count`` threads; afterwards as before the first who entered."""
    with _holders.lock:
        if not _holders.inside:
            _holders.limits = threads.limit_libraries({"openmp": count, "blas": count})
            _holders.kernels = threads.threads()
            threads.set_threads(count)
        _holders.inside += 1
    try:
        yield
    finally:
        with _holders.lock:
            _holders.inside -= 1
            if not _holders.inside:
                threads.release_libraries(_holders.limits)
                threads.set_threads(_holders.kernels)


def fingerprint() -> dict[str, Any]:
    """Equal on two machines that give equal bits: compared between ranks at start and kept in each checkpoint."""
    pools = sorted(
        f"{pool['internal_api']} {pool.get('version')} {pool.get('architecture')}"
        for pool in threadpool_info()
        if pool["user_api"] == "blas"
    )
    found = {
        "processor": _model(),
        "features": " ".join(_features()),
        "numpy": np.__version__,
        "blas": pools,
        "denormals": bool(np.float32(1e-40) * np.float32(1.0) > 0),
        **precision.described(),
    }
    return found if chosen() == "reference" else found | {"kernels": describe()}


def of_gpu() -> dict[str, Any]:
    """The same for this rank's GPU: its model, and the kernels and libraries that compute on it."""
    return {"gpu": get_device_name(), "gpu kernels": describe("cuda")}


def _model() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _features() -> list[str]:
    found = np.show_config(mode="dicts").get("SIMD Extensions", {})
    return sorted(found.get("found", []))
