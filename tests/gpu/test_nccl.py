"""The contract of communicators on arrays of GPUs, over NCCL and through the host's memory, and what is only theirs."""

from __future__ import annotations

import time

import pytest

from phalanx.core import own_gpu
from phalanx.dist.communicators.threads import current_communicator, run_threads
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


@pytest.mark.parametrize("size", [2, 3, 5])
@pytest.mark.parametrize("way", WAYS)
def test_contract(monkeypatch: pytest.MonkeyPatch, way: str, size: int) -> None:
    monkeypatch.setenv("PHALANX_GPU_SUMS", way)
    found = on_ranks(lambda comm: wire.checks(comm, way), size)
    assert all(list(seconds) == wire.CHECKS for seconds in found)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", contract.FAULTS)
def test_fault(monkeypatch: pytest.MonkeyPatch, name: str, way: str) -> None:
    monkeypatch.setenv("PHALANX_GPU_SUMS", way)
    began = time.monotonic()
    with pytest.raises(Exception) as caught:
        on_ranks(lambda comm: wire.fault(comm, way, name), 3, timeout_s=DEADLINE_S)
    assert time.monotonic() - began < DEADLINE_S + 5
    text = f"{caught.type.__name__}: {caught.value} {' '.join(caught.value.__notes__)}"
    for word in contract.FAULTS[name].words:
        assert word in text
