"""What one rank of a ZeroMQ job does, in a process of its own with the environment that the launcher sets.

A scenario gets the communicator and returns something JSON; that, or the error that ended it, is the rank's report.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from phalanx.dist import env
from phalanx.dist.communicators import zeromq
from phalanx.dist.communicators.base import reason_of
from phalanx.dist.communicators.zeromq import ZeroMQCommunicator
from phalanx.dist.errors import CommunicatorError
from phalanx.dist.messages import Messages
from tests.ranks import across_hosts, combinations, contract, wire_speed

SCENARIOS: dict[str, Callable[..., Any]] = {}


def scenario(function: Callable[..., Any]) -> Callable[..., Any]:
    SCENARIOS[function.__name__] = function
    return function


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@scenario
def checks(comm: ZeroMQCommunicator, shared: bool = False) -> dict[str, str | None]:
    """Every check of the contract, perhaps with shared memory: name -> what went wrong."""
    assert not shared or comm.share_memory()
    results: dict[str, str | None] = {}
    for name, function in contract.CHECKS.items():
        try:
            function(comm)
        except Exception:
            results[name] = traceback.format_exc()
        else:
            results[name] = None
    return results


SCENARIOS["combinations"] = combinations.run


@scenario
def fault(comm: ZeroMQCommunicator, name: str, shared: bool = False) -> None:
    assert not shared or comm.share_memory()
    contract.FAULTS[name].function(comm)


@scenario
def killed(comm: ZeroMQCommunicator, victim: int, moment: str) -> None:
    """One rank dies by kill -9 before 'bucket 3', in the middle of it, or while the others compute."""
    array = np.ones(500_000, np.float32)
    comm.all_reduce(array, name="bucket 2").wait()

    def half_done(messages: Messages) -> None:
        dest = (comm.rank + 1) % comm.size
        messages.post(dest, b"\1", "present")
        messages.post((dest + 1) % comm.size, b"\1", "present")
        messages.flush()
        die()

    if comm.rank == victim:
        if moment == "middle":
            comm.run(half_done, name=f"all_reduce 'bucket 3' float32[{array.size}]").wait()
        die()
    if moment == "long before":
        time.sleep(0.5)
    comm.all_reduce(array, name="bucket 3").wait()


@scenario
def stopped(comm: ZeroMQCommunicator, signs: str) -> None:
    """Rank 1 stands still but lives, once the others have gone on: its last message may leave after its operation has ended."""
    went_on = [Path(signs, f"went-on-{rank}") for rank in (0, 2)]
    if comm.rank == 1:
        while not all(path.exists() for path in went_on):
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGSTOP)
    Path(signs, f"went-on-{comm.rank}").touch()
    comm.all_reduce(np.ones(300_000, np.float32), name="bucket 5").wait()


@scenario
def mute(comm: ZeroMQCommunicator) -> None:
    """Rank 1 comes late to a small operation, by more than the stall line waits."""
    comm.barrier().wait()
    if comm.rank == 1:
        time.sleep(1.6)
    comm.barrier(name="late").wait()


@scenario
def left_early(comm: ZeroMQCommunicator) -> None:
    """Rank 1 closes in good order; the others still want it."""
    if comm.rank == 1:
        return
    time.sleep(0.3)
    comm.barrier(name="without rank 1").wait()


@scenario
def half_committed(comm: ZeroMQCommunicator, told: list[int]) -> str:
    """The last rank dies after its commit message of step 7 has reached only ``told``."""
    last = comm.size - 1

    def commit(messages: Messages) -> bytes:
        if comm.rank != last:
            return messages.take(last)
        for rank in told:
            messages.post(rank, b"commit 7" * 50_000)  # large: flush knows when it has left
        messages.flush()
        die()
        return b""

    step, held = 7, None
    try:
        held = comm.run(commit, name="commit 7").wait()
        step = 8
        comm.barrier(name="step 8").wait()
    except CommunicatorError:
        pass
    found = comm.resolve(7, held)
    return f"after {step if found is None else 7}" if found else "before 7"


@scenario
def train(comm: ZeroMQCommunicator, seed: int) -> int:
    """Steps of a reduction and a vote until a rank dies at a moment of its own; the last step that this rank stands after."""
    random = np.random.default_rng(seed)
    victim, at_s = int(random.integers(comm.size)), float(random.uniform(0.0, 0.05))
    array = np.ones(20_000, np.float32)
    committed, in_vote = 0, False
    comm.barrier().wait()
    if comm.rank == victim:
        threading.Timer(at_s, die).start()
    try:
        while True:
            in_vote = False
            comm.all_reduce(array, name="gradient").wait()
            in_vote = True
            comm.all_gather_object([committed + 1], name="vote").wait()
            committed += 1
    except CommunicatorError:
        pass
    # from the reduction of step k on, all have the vote of step k - 1
    step = committed + 1 if in_vote else committed
    found = comm.resolve(step, None if in_vote else b"commit %d" % committed)
    return step if found else committed


@scenario
def disturbed(comm: ZeroMQCommunicator, table: str, until: str) -> int:
    """Operations until the file ``until`` exists; rank 0 writes all addresses to ``table`` first."""
    if comm.rank == 0:
        rows = [[member.data, member.control] for member in comm._job.members]
        Path(table + ".new").write_text(json.dumps([comm._job.server.address, rows]))
        Path(table + ".new").rename(table)
    count = 0
    while comm.broadcast_object(not Path(until).exists(), name="go on").wait():
        array = np.full(100_000, float(comm.rank))
        comm.all_reduce(array, name="numbers").wait()
        assert (array == sum(range(comm.size))).all()
        count += 1
    return count


@scenario
def timing(comm: ZeroMQCommunicator) -> dict[str, float]:
    """Median milliseconds of an all-reduce by its size in bytes."""
    medians = {}
    for nbytes, times in ((4 << 10, 200), (256 << 10, 100), (4 << 20, 40), (64 << 20, 10)):
        array = np.ones(nbytes // 4, np.float32)
        seconds = []
        for _ in range(times):
            comm.barrier().wait()
            began = time.perf_counter()
            comm.all_reduce(array, name="timed").wait()
            seconds.append(time.perf_counter() - began)
            array /= comm.size
        medians[str(nbytes)] = float(np.median(seconds)) * 1e3
    return medians


@scenario
def all_reduce_seconds(comm: ZeroMQCommunicator, **options: int) -> dict[str, float]:
    return wire_speed.all_reduce_seconds(comm, **options)


@scenario
def call(comm: ZeroMQCommunicator, function: str, **arguments: Any) -> Any:
    """A function of :mod:`.across_hosts`."""
    return getattr(across_hosts, function)(comm, **arguments)


def rank_main(
    scenario: str, arguments: dict[str, Any], environ: dict[str, str], listener: socket.socket | None, folder: Path
) -> None:
    """The process of one rank: its report goes to ``folder/RANK.json``, its standard error to ``folder/RANK.err``."""
    os.environ.update(environ)
    if listener is not None:
        os.environ[env.NAMES["rendezvous_fd"]] = str(listener.detach())
    environment = env.read(os.environ)
    assert environment is not None
    with open(folder / f"{environment.rank}.err", "w") as errors:
        os.dup2(errors.fileno(), 2)
    if arguments.pop("curve", False):
        zeromq.can_seal = lambda: False
    options = {"stall_s": arguments.pop("stall_s")} if "stall_s" in arguments else {}
    deadline_s = arguments.pop("deadline_s", None)
    report: dict[str, Any] = {"rank": environment.rank}
    began = time.monotonic()
    try:
        comm = ZeroMQCommunicator.connect(environment, **options)
        began = time.monotonic()
        try:
            if deadline_s is not None:
                comm.barrier(name="all are there").wait()
                comm.timeout_s = deadline_s
            report["result"] = SCENARIOS[scenario](comm, **arguments)
        except BaseException as error:
            comm.abort(reason_of(error, comm.rank))
            raise
        finally:
            comm.close()
    except BaseException as error:
        report |= {"error": type(error).__name__, "text": str(error)}
    report["seconds"] = time.monotonic() - began
    report["threads"] = [thread.name for thread in threading.enumerate() if thread.name.startswith("phalanx")]
    (folder / f"{environment.rank}.json").write_text(json.dumps(report))


if __name__ == "__main__":
    name, where, words = sys.argv[1:]
    rank_main(name, json.loads(words), {}, None, Path(where))
