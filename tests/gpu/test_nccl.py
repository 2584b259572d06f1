"""The contract of communicators on arrays of GPUs, over NCCL and through the host's memory, and what is only theirs."""

from __future__ import annotations

import time
from collections import Counter

import numpy as np
import pytest

from phalanx.core import own_gpu
from phalanx.core.backend import cupy, to_device
from phalanx.dist.communicators.base import Communicator
from phalanx.dist.communicators.gpus import _why_not_nccl
from phalanx.dist.communicators.threads import current_communicator, run_threads
from phalanx.dist.errors import CommunicatorError, DeadlineError
from phalanx.dist.reduction import on_device
from tests.gpu import wire
from tests.gpu.conftest import REAL
from tests.ranks import contract

DEADLINE_S = 2.0
WAYS = ["nccl", "host"]


@pytest.fixture(autouse=True)
def _enough_gpus(monkeypatch: pytest.MonkeyPatch, device: str) -> None:
    """NCCL wants one for each rank."""
    if REAL:
        pytest.skip("ranks as threads need as many GPUs: test_device_ranks.py has ranks that share one")
    monkeypatch.setenv("STANDIN_DEVICES", "5")


def on_ranks(function: object, size: int, timeout_s: float = 30.0) -> list[object]:
    """``function(communicator)`` on ranks that are threads, each with a GPU of its own."""

    def rank_main() -> object:
        comm = current_communicator()
        own_gpu.assign(comm.rank)
        return function(comm)  # type: ignore[operator]

    return run_threads(rank_main, size, timeout_s=timeout_s)


@pytest.mark.parametrize("size", [2, 3, pytest.param(5, marks=pytest.mark.whole)])
@pytest.mark.parametrize("way", WAYS)
def test_contract(monkeypatch: pytest.MonkeyPatch, way: str, size: int) -> None:
    monkeypatch.setenv("PHALANX_GPU_SUMS", way)
    found = on_ranks(lambda comm: wire.checks(comm, way), size)
    assert all(list(seconds) == wire.CHECKS for seconds in found)


QUICK = ("one_rank_raises", "one_rank_never_arrives", "different_shapes")
FAULTS = [
    pytest.param(name, way, marks=[] if way == "nccl" or name in QUICK else pytest.mark.whole)
    for name in contract.FAULTS
    for way in WAYS
]


@pytest.mark.parametrize(("name", "way"), FAULTS)
def test_fault(monkeypatch: pytest.MonkeyPatch, name: str, way: str) -> None:
    monkeypatch.setenv("PHALANX_GPU_SUMS", way)
    began = time.monotonic()
    with pytest.raises(Exception) as caught:
        on_ranks(lambda comm: wire.fault(comm, way, name), 3, timeout_s=DEADLINE_S)
    assert time.monotonic() - began < DEADLINE_S + 5
    text = f"{caught.type.__name__}: {caught.value} {' '.join(caught.value.__notes__)}"
    for word in contract.FAULTS[name].words:
        assert word in text


@pytest.mark.parametrize("way", WAYS)
def test_who_is_missing_is_said(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], way: str) -> None:
    """The line of a stall, for sums of GPUs as for all others."""
    monkeypatch.setenv("PHALANX_GPU_SUMS", way)

    def late(comm: Communicator) -> None:
        comm.on_gpu()
        comm.stall_s = 1.0
        if comm.rank == 1:
            time.sleep(3.0)
        comm.all_reduce(to_device(np.ones(10), "cuda"), name="bucket 4").wait()

    on_ranks(late, 3)
    lines = [line for line in capfd.readouterr().err.splitlines() if "waits for" in line]
    assert any("rank 1" in line and "all_reduce 'bucket 4' float64[10] on GPUs" in line for line in lines), lines


def test_ranks_may_find_their_gpus_done_or_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who has to wait for its GPU does so alone: the others' operations keep their numbers."""
    monkeypatch.setenv("PHALANX_GPU_SUMS", "nccl")
    asked: Counter[int] = Counter()

    def done(event: object) -> bool:
        asked[id(event)] += 1
        return asked[id(event)] > (0 if own_gpu.index_of(cupy()) != 1 else 700)

    def many(comm: Communicator) -> None:
        comm.on_gpu()
        monkeypatch.setattr("cupy.cuda.Event.done", property(done))
        wire.checks(comm, "nccl", ["many_in_flight", "all_reduce_shapes", "tree_of_terms"])

    on_ranks(many, 3)
    assert max(asked.values()) > 700


def test_a_gpu_that_does_not_come_through_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """NCCL waits for ever: all ranks have begun, and nothing happens."""
    monkeypatch.setenv("PHALANX_GPU_SUMS", "nccl")

    def never(comm: Communicator) -> None:
        verbs = comm.on_gpu()
        monkeypatch.setattr(type(verbs), "_is_done", lambda self, event: False)
        monkeypatch.setattr("cupy.cuda.Event.done", False)
        comm.all_reduce(to_device(np.ones(10), "cuda"), name="bucket 5").wait()

    with pytest.raises(DeadlineError, match=r"all ranks have begun it, but the GPUs are not through"):
        on_ranks(never, 2, timeout_s=DEADLINE_S)


def test_an_error_of_nccl_ends_the_job(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PHALANX_GPU_SUMS", "nccl")

    def broken(comm: Communicator) -> None:
        verbs = comm.on_gpu()
        if comm.rank == 1:
            verbs._ncclcomm.abort()  # a link that breaks
        comm.all_reduce(to_device(np.ones(10), "cuda"), name="bucket 6").wait()

    with pytest.raises(CommunicatorError, match=r"NCCL failed|NCCL was ended"):
        on_ranks(broken, 3, timeout_s=DEADLINE_S)


def test_ways_must_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("phalanx.dist.env.gpu_sums", lambda environ: ("nccl", "host")[current_communicator().rank])
    with pytest.raises(CommunicatorError, match=r"must be equal on all ranks, got nccl on rank 0, host on rank 1"):
        on_ranks(lambda comm: comm.on_gpu(), 2)


def test_why_not_nccl(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _why_not_nccl([["a", "0", 22809, None], ["a", "1", 22809, None], ["b", "0", 22800, None]]) == ""
    assert (
        _why_not_nccl([["a", "0", 22809, None], ["a", "0", 22809, None]])
        == "ranks 0, 1 share a GPU, which NCCL does not do"
    )
    assert "different versions" in _why_not_nccl([["a", "0", 22809, None], ["a", "1", 23000, None]])
    assert _why_not_nccl([["a", "0", None, None], ["a", "1", 22809, None]]) == "rank 0 cannot load NCCL"
    monkeypatch.setenv("PHALANX_GPU_SUMS", "nccl")
    monkeypatch.setenv("STANDIN_DEVICES", "1")
    with pytest.raises(CommunicatorError, match=r"PHALANX_GPU_SUMS=nccl: ranks 0, 1 share a GPU"):
        on_ranks(lambda comm: comm.on_gpu(), 2)


def test_subnormal_sums_are_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """What CuPy's own kernels would flush to zero."""
    tiny = np.array([1e-45, 3e-42, -1e-40, 1.1754944e-38], np.float32)
    out, there = to_device(np.zeros(4, np.float32), "cuda"), to_device(tiny, "cuda")
    on_device.add(there, there, out)
    assert out.get().tobytes() == (tiny + tiny).tobytes()
    on_device.write_leaf(out, there, 0.5)
    assert out.get().tobytes() == (tiny * np.float32(0.5)).tobytes()
