"""What ranks that are processes are asked to do; ``rank_main`` calls these by name."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time

import numpy as np

from phalanx.dist.communicators.base import Communicator
from tests.ranks import contract


def checks(comm: Communicator, shared: bool = False) -> dict[str, float]:
    """The whole contract, up to the first failure, perhaps with shared memory: name -> seconds."""
    assert not shared or comm.share_memory()
    seconds = {}
    for name, function in contract.CHECKS.items():
        began = time.monotonic()
        try:
            function(comm)
        except AssertionError as error:
            error.add_note(f"in check {name}")
            raise AssertionError(f"check {name}: {error}") from error
        seconds[name] = time.monotonic() - began
    return seconds


def fault(comm: Communicator, name: str, shared: bool = False) -> None:
    assert not shared or comm.share_memory()
    contract.FAULTS[name].function(comm)


def exit_early(comm: Communicator, status: int, how: str) -> None:
    """Rank 1 leaves the others in the middle of the job."""
    comm.barrier().wait()
    if comm.rank == 1:
        if how == "sys.exit":
            sys.exit(status)
        raise SystemExit(status)
    comm.all_reduce(np.ones(10), name="bucket 2").wait()


def die(comm: Communicator) -> None:
    comm.barrier().wait()
    if comm.rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    comm.all_reduce(np.ones(10), name="bucket 2").wait()


def die_in_helper_thread(comm: Communicator) -> None:
    comm.barrier().wait()
    if comm.rank == 1:
        threading.Thread(target=lambda: 1 // 0, name="helper").start()
    comm.all_reduce(np.ones(10), name="bucket 2").wait()
    time.sleep(contract.SLEEP_S)


def fail_while_others_compute(comm: Communicator) -> None:
    """The error ends ranks that do not communicate at all."""
    comm.barrier().wait()
    if comm.rank == 1:
        raise ValueError("boom while others compute")
    time.sleep(contract.SLEEP_S)


def interrupt(comm: Communicator) -> None:
    comm.barrier().wait()
    if comm.rank == 1:
        os.kill(os.getpid(), signal.SIGINT)
    time.sleep(contract.SLEEP_S)


def latency(comm: Communicator, nbytes: int, rounds: int) -> float:
    """Microseconds per all-reduce of float32, on this rank."""
    array = np.ones(nbytes // 4, np.float32)
    for _ in range(3):
        comm.all_reduce(array, name="warm").wait()
    began = time.perf_counter()
    for _ in range(rounds):
        comm.all_reduce(array, name="timed").wait()
    return (time.perf_counter() - began) / rounds * 1e6
