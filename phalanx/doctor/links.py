"""Bandwidth and latency between ranks, clock offsets, and the file that keeps them for later use."""

from __future__ import annotations

import json
import os
import statistics
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..core.data.fetch import write_atomically
from ..dist.communicators.base import Communicator

FORMAT = 1
KEPT = 20
"""Measurements in the file; the oldest makes room."""
ALONE_UP_TO = 66
"""Pairs. Up to here (12 ranks) each is measured alone; beyond, pairs without a common rank are measured at once."""
WARM, PINGS = 10, 60
FIRST_BYTES, LEAST_BYTES, MOST_BYTES = 1 << 20, 1 << 16, 32 << 20
TRANSFER_S = 0.06
REPEATS = 3


@dataclass(frozen=True, slots=True)
class Link:
    """Between two ranks, measured with ``send`` and ``recv`` of the job's own communicator."""

    ranks: tuple[int, int]
    hosts: tuple[str, str]
    latency_s: float
    """Half of a round trip of 8 bytes, median."""
    there_bytes_s: float
    """Bandwidth from the first rank to the second, median."""
    back_bytes_s: float


@dataclass(frozen=True, slots=True)
class Measurement:
    """One run of ``phalanx doctor`` on several ranks."""

    measured_s: float
    """When, in seconds since 1970."""
    backend: str
    hosts: tuple[str, ...]
    """Host name of each rank."""
    links: tuple[Link, ...]


# --- the file ---------------------------------------------------------------------------------------------------------


def file() -> Path:
    """``phalanx/links.json`` in the user's cache folder."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "phalanx" / "links.json"


def read(backend: str | None = None, hosts: tuple[str, ...] | None = None) -> list[Measurement]:
    """What was measured on this machine, newest first; only that of one backend or of one set of hosts where given.

    A file that is not there or cannot be understood gives an empty list.
    """
    try:
        content = json.loads(file().read_text(encoding="utf-8"))
        found = [_measurement(row) for row in content["measurements"]] if content["format"] == FORMAT else []
    except (OSError, ValueError, KeyError, TypeError):
        return []
    kept = (m for m in found if backend in (None, m.backend) and (hosts is None or set(hosts) == set(m.hosts)))
    return sorted(kept, key=lambda m: -m.measured_s)


def keep(measurement: Measurement) -> Path:
    """Put it into the file, in place of an older one of the same backend and ranks. Raises OSError."""
    same = (measurement.backend, measurement.hosts)
    others = [m for m in read() if (m.backend, m.hosts) != same]
    rows = [asdict(m) for m in [measurement, *others][:KEPT]]
    write_atomically(file(), json.dumps({"format": FORMAT, "measurements": rows}, indent=1).encode())
    return file()


def _measurement(row: dict[str, Any]) -> Measurement:
    links = tuple(
        Link(**{**each, "ranks": tuple(each["ranks"]), "hosts": tuple(each["hosts"])}) for each in row["links"]
    )
    return Measurement(float(row["measured_s"]), str(row["backend"]), tuple(row["hosts"]), links)


# --- measuring --------------------------------------------------------------------------------------------------------


def rounds(size: int) -> list[list[tuple[int, int]]]:
    """All pairs of ranks, in steps of pairs that are measured at once: each rank is in at most one pair of a step.

    >>> rounds(4)
    [[(0, 3)], [(1, 2)], [(0, 2)], [(1, 3)], [(0, 1)], [(2, 3)]]
    """
    steps = list(_tournament(size))
    if sum(map(len, steps)) <= ALONE_UP_TO:
        return [[pair] for step in steps for pair in step]
    return steps


def _tournament(size: int) -> Iterator[list[tuple[int, int]]]:
    """The circle method: the last player stays, the others turn."""
    count = size + size % 2
    for turn in range(count - 1):
        circle = [0, *((1 + (i - turn) % (count - 1)) for i in range(count - 1))]
        pairs = ((circle[i], circle[-1 - i]) for i in range(count // 2))
        yield sorted((min(p), max(p)) for p in pairs if max(p) < size)


def measure(comm: Communicator, first: int, second: int) -> dict[str, float] | None:
    """Both ranks of a pair call it; the figures on ``first``, None on ``second``. Deadline: the communicator's."""
    if comm.rank == first:
        return _ask(comm, second)
    _answer(comm, first)
    return None


def _ask(comm: Communicator, peer: int) -> dict[str, float]:
    stamp, trips, offsets = np.zeros(1, np.int64), [], []
    for turn in range(WARM + PINGS):
        began_ns, began = time.time_ns(), time.perf_counter()
        comm.send(stamp, peer, name="ping").wait()
        comm.recv(stamp, peer, name="pong").wait()
        trip_s = time.perf_counter() - began
        if turn >= WARM:
            trips.append(trip_s)
            offsets.append((trip_s, int(stamp[0]) - began_ns - trip_s * 5e8))
    latency_s = statistics.median(trips) / 2
    nbytes = _Plan(comm, peer).agree(FIRST_BYTES)
    first_s = _transfer(comm, peer, nbytes, latency_s)
    nbytes = _Plan(comm, peer).agree(int(FIRST_BYTES * TRANSFER_S / max(first_s, 1e-9)))
    there = [nbytes / _transfer(comm, peer, nbytes, latency_s) for _ in range(REPEATS)]
    back = [nbytes / _fetch(comm, peer, nbytes, latency_s) for _ in range(REPEATS)]
    least, offset_ns = min(offsets)
    return {
        "latency_s": latency_s,
        "there_bytes_s": statistics.median(there),
        "back_bytes_s": statistics.median(back),
        "offset_s": offset_ns / 1e9,  # what the peer's clock shows more than this one's
        "offset_error_s": least / 2,
    }


def _answer(comm: Communicator, peer: int) -> None:
    stamp, one = np.zeros(1, np.int64), np.zeros(1, np.uint8)
    for _ in range(WARM + PINGS):
        comm.recv(stamp, peer, name="ping").wait()
        stamp[0] = time.time_ns()
        comm.send(stamp, peer, name="pong").wait()
    for count in (1, REPEATS):
        data = np.zeros(_Plan(comm, peer).hear(), np.uint8)
        for _ in range(count):
            comm.recv(data, peer, name="there").wait()
            comm.send(one, peer, name="there is").wait()
    for _ in range(REPEATS):
        comm.recv(one, peer, name="back please").wait()
        comm.send(data, peer, name="back").wait()


@dataclass(frozen=True, slots=True)
class _Plan:
    """How large the next transfers are."""

    comm: Communicator
    peer: int

    def agree(self, nbytes: int) -> int:
        chosen = np.array([min(MOST_BYTES, max(LEAST_BYTES, nbytes))], np.int64)
        self.comm.send(chosen, self.peer, name="bytes").wait()
        return int(chosen[0])

    def hear(self) -> int:
        chosen = np.zeros(1, np.int64)
        self.comm.recv(chosen, self.peer, name="bytes").wait()
        return int(chosen[0])


def _transfer(comm: Communicator, peer: int, nbytes: int, latency_s: float) -> float:
    """Seconds until the peer has it all."""
    data, one = np.ones(nbytes, np.uint8), np.zeros(1, np.uint8)
    began = time.perf_counter()
    comm.send(data, peer, name="there").wait()
    comm.recv(one, peer, name="there is").wait()
    return max(time.perf_counter() - began - latency_s, 1e-7)


def _fetch(comm: Communicator, peer: int, nbytes: int, latency_s: float) -> float:
    data, one = np.ones(nbytes, np.uint8), np.zeros(1, np.uint8)
    began = time.perf_counter()
    comm.send(one, peer, name="back please").wait()
    comm.recv(data, peer, name="back").wait()
    return max(time.perf_counter() - began - latency_s, 1e-7)
