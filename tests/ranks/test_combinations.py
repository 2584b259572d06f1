"""100 random combinations of rank count, shard count, bucket size, backend, overlap, shared memory, hosts and ZeRO: equal bits.

What is trained (shards, backward passes, model) is trained once by a single process for comparison. The combinations are
drawn from a fixed seed; each launch runs those of its backend and rank count.
"""

from __future__ import annotations

import dataclasses
import functools
import random
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from phalanx.dist.communicators.alone import AloneCommunicator
from phalanx.dist.communicators.threads import current_communicator, run_threads
from tests.hosts import Hosts, needs_hosts
from tests.ranks import combinations
from tests.ranks.combinations import Choice
from tests.ranks.launching import mpirun
from tests.ranks.test_mpi import pytestmark as needs_mpi
from tests.ranks.test_zeromq import Job

COUNT = 100
BACKENDS = {
    "zmq with shared memory": (2, 3, 4, 5),
    "zmq": (2, 3),
    "mpi with shared memory": (2, 3, 4),
    "mpi": (2, 3),
    "threads": (2, 3, 5),
    "two zmq hosts": (2, 4),
    "two zmq hosts with shared memory": (4, 6),
    "two mpi hosts with shared memory": (4,),
}


def draw(count: int, seed: int = 0) -> dict[tuple[str, int], list[Choice]]:
    """(backend, ranks) -> the choices to run there."""
    numbers = random.Random(seed)
    places = [(backend, ranks) for backend, counts in BACKENDS.items() for ranks in counts]
    found: dict[tuple[str, int], list[Choice]] = defaultdict(list)
    for number in range(count):
        place = places[number % len(places)]
        choice = Choice(
            shards=numbers.choice([1, 2, 3, 4, 5, 8]),
            passes=numbers.choice(["one", "one", "three", "surprising"]),
            model=numbers.choice(["small", "cut"]),
            bucket_bytes=numbers.choice([1, 256, 5000, 40000, 4 << 20]),
            overlap=numbers.random() < 0.75,
            zero=numbers.choice([None, None, "optimizer", "gradients"]),
        )
        if choice.zero == "gradients" and choice.passes == "surprising":  # refused: summed gradients are freed
            choice = dataclasses.replace(choice, overlap=False)
        found[place].append(choice)
    return found


QUICK = [("zmq with shared memory", 3), ("mpi with shared memory", 2), ("two zmq hosts with shared memory", 4)]
DRAWN = draw(COUNT)
PLACES = [
    pytest.param(backend, ranks, marks=() if (backend, ranks) in QUICK else pytest.mark.whole, id=f"{backend}, {ranks}")
    for backend, ranks in DRAWN
]


@functools.cache
def alone(choice: Choice) -> dict[str, Any]:
    return combinations.run(AloneCommunicator(), [dataclasses.asdict(choice)])[0]


def on(backend: str, ranks: int, choices: list[dict[str, Any]], folder: Path) -> list[dict[str, Any]]:
    """What rank 0 of each run ends with."""
    shared = "shared memory" in backend
    if backend == "threads":
        return run_threads(lambda: combinations.run(current_communicator(), choices), ranks, timeout_s=60)[0]
    if backend.startswith("two"):
        with Hosts(2) as hosts:
            if "mpi" in backend:
                arguments = ("tests.ranks.combinations", "run", ranks // 2)
                return hosts.mpirun(folder, *arguments, choices=choices, shared=shared).values()[0]
            return ended(hosts.start_zmq(folder, "combinations", ranks // 2, choices=choices, shared=shared))
    if backend.startswith("mpi"):
        return mpirun(folder, ranks, "tests.ranks.combinations", "run", choices=choices, shared=shared).values()[0]
    return ended(Job(folder, "combinations", ranks, choices=choices, shared=shared))


def ended(job: Any) -> list[dict[str, Any]]:
    reports = job.reports(within_s=120)
    assert all("result" in report for report in reports.values()), [r.get("text") for r in reports.values()]
    return reports[0]["result"]


def test_the_draw_covers_everything() -> None:
    choices = [choice for drawn in DRAWN.values() for choice in drawn]
    assert len(choices) == COUNT
    assert len(set(DRAWN)) == sum(map(len, BACKENDS.values()))
    assert {c.zero for c in choices} == {None, "optimizer", "gradients"}


@needs_hosts
@pytest.mark.skipif(*needs_mpi.args, **needs_mpi.kwargs)
@pytest.mark.parametrize(("backend", "ranks"), PLACES)
def test_no_choice_changes_a_bit(backend: str, ranks: int, tmp_path: Path, record_property: Any) -> None:
    drawn = DRAWN[backend, ranks]
    found = on(backend, ranks, [dataclasses.asdict(choice) for choice in drawn], tmp_path)
    for choice, bits in zip(drawn, found, strict=True):
        expected = alone(choice.trained())
        assert bits == expected, f"{choice} on {ranks} ranks, {backend}: {[k for k in bits if bits[k] != expected[k]]}"
    record_property("told", f"{len(drawn)} combinations on {ranks} ranks over {backend}: the bits of a single process")
