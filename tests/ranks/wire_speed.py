"""How much of a link between two hosts an all-reduce fills: ``python -m tests.ranks.wire_speed [zmq|mpi ...]``.

Two ranks on two simulated hosts (:mod:`tests.hosts`), what each host sends held to a rate. In an all-reduce of two ranks
each sends the array's size in total, so that nbytes * 8 / rate seconds are the limit; the share of the link is that over the
median of the times. Both directions are used at once.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from phalanx.dist.communicators.base import Communicator
from tests.hosts import Hosts

RATES = {"1gbit": 1e9, "3gbit": 3e9}
NBYTES = 64 << 20


def all_reduce_seconds(comm: Communicator, nbytes: int = NBYTES, rounds: int = 5) -> dict[str, float]:
    """Run on every rank: median seconds of an all-reduce of float32, and the CPU seconds that one took on this rank."""
    array = np.ones(nbytes // 4, np.float32)
    comm.all_reduce(array, name="warm").wait()
    seconds, spent = [], time.process_time()
    for _ in range(rounds):
        array.fill(comm.rank + 1)
        comm.barrier().wait()
        began = time.perf_counter()
        comm.all_reduce(array, name="timed").wait()
        seconds.append(time.perf_counter() - began)
        assert (array == sum(range(1, comm.size + 1))).all()
    return {"seconds": float(np.median(seconds)), "cpu_seconds": (time.process_time() - spent) / rounds}


def measure(backend: str, rate: str, nbytes: int = NBYTES, rounds: int = 5) -> dict[str, float]:
    """``backend`` zmq or mpi, ``rate`` a key of RATES -> seconds, share of the link, CPU seconds per all-reduce."""
    with Hosts(2) as hosts, tempfile.TemporaryDirectory() as text:
        hosts.limit(rate)
        folder, options = Path(text), {"nbytes": nbytes, "rounds": rounds}
        if backend == "zmq":
            reports = hosts.start_zmq(folder / "zmq", "all_reduce_seconds", **options).reports()
            rows = [reports[rank]["result"] for rank in sorted(reports)]
        else:
            rows = hosts.mpirun(folder, "tests.ranks.wire_speed", "all_reduce_seconds", **options).values()
    seconds = max(row["seconds"] for row in rows)
    return {
        "seconds": seconds,
        "share": nbytes * 8 / RATES[rate] / seconds,
        "cpu_seconds": max(row["cpu_seconds"] for row in rows),
    }


if __name__ == "__main__":
    for backend in sys.argv[1:] or ("zmq", "mpi"):
        for rate in RATES:
            found = measure(backend, rate)
            print(
                f"{backend} {rate}: {found['seconds'] * 1e3:.0f} ms for {NBYTES >> 20} MiB, "
                f"{found['share']:.3f} of the link, {found['cpu_seconds'] * 1e3:.0f} ms CPU per rank",
                flush=True,
            )
