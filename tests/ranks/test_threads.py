"""The contract over threads, and what only ranks as threads have."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest
from threadpoolctl import threadpool_info

from phalanx.dist import processor
from phalanx.dist.communicators.alone import AloneCommunicator
from phalanx.dist.communicators.threads import current_communicator, run_threads
from phalanx.dist.errors import AbortedError, DeadlineError, MismatchError, PeerLostError
from phalanx.dist.messages import Messages
from tests.ranks import contract

DEADLINE_S = 2.0


@pytest.mark.parametrize("size", [1, 2, 3, 5, 8])
@pytest.mark.parametrize("name", contract.CHECKS)
def test_contract(name: str, size: int) -> None:
    run_threads(lambda: contract.CHECKS[name](current_communicator()), size, timeout_s=30)


@pytest.mark.parametrize("name", contract.CHECKS)
def test_contract_alone(name: str) -> None:
    before = set(threading.enumerate())
    contract.CHECKS[name](AloneCommunicator())
    assert not [t for t in threading.enumerate() if t.name.startswith("phalanx-comm") and t not in before]


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("name", contract.FAULTS)
def test_fault(name: str, size: int) -> None:
    fault = contract.FAULTS[name]
    began = time.monotonic()
    with pytest.raises(Exception) as caught:
        run_threads(lambda: fault.function(current_communicator()), size, timeout_s=DEADLINE_S)
    assert time.monotonic() - began < DEADLINE_S + 5
    text = f"{caught.type.__name__}: {caught.value} {' '.join(caught.value.__notes__)}"
    for word in fault.words:
        assert word in text


def test_every_rank_learns_of_a_fault_and_later_operations_raise_it_again() -> None:
    kinds: dict[int, list[type]] = {0: [], 1: [], 2: []}

    def rank_main() -> None:
        comm = current_communicator()
        for _ in range(2):
            try:
                comm.all_reduce(np.ones(4 if comm.rank == 1 else 3), name="w").wait()
            except Exception as error:
                assert "float64[3]" in str(error)
                assert "float64[4]" in str(error)
                kinds[comm.rank].append(type(error))

    run_threads(rank_main, 3, timeout_s=DEADLINE_S)
    assert kinds == {rank: [MismatchError] * 2 for rank in range(3)}


def test_an_operation_that_fails_on_one_rank_ends_the_others() -> None:
    """Also when the rank itself catches the error and goes on."""
    errors: dict[int, BaseException] = {}

    def fail(messages: Messages) -> None:
        raise ValueError("no memory for the sum")

    def rank_main() -> None:
        comm = current_communicator()
        try:
            if comm.rank == 1:
                comm.run(fail, name="all_reduce 'w' float64[3]").wait()
            comm.all_reduce(np.ones(3), name="w").wait()
        except Exception as error:
            errors[comm.rank] = error
        time.sleep(0.3)

    began = time.monotonic()
    run_threads(rank_main, 3, timeout_s=5)
    assert time.monotonic() - began < 3
    assert [type(errors[rank]) for rank in range(3)] == [AbortedError, ValueError, AbortedError]
    assert "rank 1: ValueError: no memory for the sum" in str(errors[0])


def test_abort_ends_an_operation_that_others_wait_in() -> None:
    def rank_main() -> str:
        comm = current_communicator()
        if comm.rank == 1:
            time.sleep(0.2)
            comm.abort("rank 1: enough")
        with pytest.raises(AbortedError) as caught:
            comm.barrier().wait()
        return str(caught.value)

    assert run_threads(rank_main, 3, timeout_s=5) == ["rank 1: enough"] * 3


def test_kinds_of_errors() -> None:
    def kinds_of(fault: str) -> dict[int, type]:
        kinds: dict[int, type] = {}

        def rank_main() -> None:
            comm = current_communicator()
            try:
                contract.FAULTS[fault].function(comm)
            except Exception as error:
                kinds[comm.rank] = type(error)
                raise

        with pytest.raises(Exception):
            run_threads(rank_main, 3, timeout_s=0.5)
        return kinds

    assert kinds_of("one_rank_raises") == {0: AbortedError, 1: ValueError, 2: AbortedError}
    assert set(kinds_of("one_rank_leaves_early").values()) <= {PeerLostError, AbortedError}
    never = kinds_of("one_rank_never_arrives")
    assert DeadlineError in never.values()
    assert 1 not in never


def test_the_caller_runs_what_nobody_began() -> None:
    """A blocking operation needs no way to the communication thread and back."""

    def who() -> str:
        comm = current_communicator()
        with comm._running:  # the communication thread cannot begin
            work = comm.run(lambda messages: threading.current_thread().name, name="who")
        return work.wait()

    assert all(name.startswith(("rank-", "phalanx-comm-")) for name in run_threads(who, 2))


def test_results_come_in_the_order_of_ranks_and_state_is_per_thread() -> None:
    assert current_communicator() is None
    assert run_threads(lambda: current_communicator().rank, 4) == [0, 1, 2, 3]
    assert current_communicator() is None


def test_scratch_is_kept() -> None:
    def rank_main() -> bool:
        comm = current_communicator()
        array = np.ones(10000)
        comm.all_reduce(array, name="a").wait()
        before = comm._scratch_bytes
        comm.all_reduce(array, name="b").wait()
        return comm._scratch_bytes is before and before.ctypes.data % 256 == 0

    assert run_threads(rank_main, 3) == [True] * 3


def test_whichever_thread_set_them_first_another_one_can_fix_the_threads() -> None:
    """Ranks are threads: threadpoolctl alone would ignore all but the first without a word."""
    began, end = threading.Event(), threading.Event()

    def first() -> None:
        processor.fix_threads(2)
        began.set()
        end.wait(30)

    other = threading.Thread(target=first)
    other.start()
    try:
        assert began.wait(30)
        processor.fix_threads(1)
        with processor.held_threads(1):
            pass
        assert {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"} == {1}
    finally:
        end.set()
        other.join()


def test_a_library_that_is_loaded_while_threads_are_fixed_is_held_too(monkeypatch):
    held, infos = [], []

    def info():
        infos.append(1)
        late = [
            {
                "internal_api": "openmp",
                "user_api": "openmp",
                "filepath": "late.so",
                "num_threads": 1 if len(held) > 1 else 2,
            }
        ]
        return [{"internal_api": "openmp", "user_api": "openmp", "filepath": "early.so", "num_threads": 1}] + late * (
            len(infos) > 1
        )

    monkeypatch.setattr(processor, "threadpool_info", info)
    monkeypatch.setattr(processor.threads, "limit_libraries", held.append)
    processor.fix_threads(1)
    assert len(held) == 2
