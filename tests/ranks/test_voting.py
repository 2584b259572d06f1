"""Decisions of all ranks: whoever votes, all see it after the same step. A rank that decided alone would leave the others waiting."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import phalanx
from phalanx import nn, optim
from phalanx.data import DataLoader
from phalanx.dist.communicators.threads import run_threads
from tests.ranks.test_data_parallel import data, net


@pytest.fixture(autouse=True)
def no_thread_stays() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    assert not [t for t in threading.enumerate() if t.name.startswith("phalanx-comm") and t not in before]


def on_ranks(size: int, function: Callable[[], Any]) -> list[Any]:
    """``function`` on ranks that leave in order."""

    def main() -> Any:
        try:
            return function()
        finally:
            phalanx.shutdown()

    return run_threads(main, size, timeout_s=20.0)


def train_until_somebody_votes(voter: int, at_step: int) -> tuple[int, bool]:
    """The step after which this rank left its loop, and whether an immediate question agreed at its end."""
    phalanx.init(shards=4)
    model = phalanx.DataParallel(net())
    optimizer = optim.SGD(model.parameters(), lr=0.01)
    loader = DataLoader(data(), batch_size=12, shuffle=True)
    for _ in range(5):
        for step in loader.steps():
            optimizer.zero_grad()
            for x, y in step:
                nn.CrossEntropyLoss()(model(x), y).backward()
            phalanx.vote("enough", phalanx.rank() == voter and step.index == at_step)
            optimizer.step()
            if phalanx.agreed("enough"):
                return step.index, phalanx.agree(phalanx.rank() == voter, name="the last question")
    return -1, False


@pytest.mark.parametrize("size", [1, 2, 3])
def test_all_ranks_leave_at_the_voters_step(size: int) -> None:
    for voter in range(size):
        assert on_ranks(size, lambda v=voter: train_until_somebody_votes(v, 3)) == [(3, True)] * size


def test_a_vote_counts_for_one_step() -> None:
    def main() -> list[bool]:
        phalanx.init()
        model = phalanx.DataParallel(nn.Linear(2, 1))
        optimizer = optim.SGD(model.parameters(), lr=0.1)
        seen = []
        for step in range(4):
            phalanx.vote("odd", phalanx.rank() == 0 and step % 2 == 1)
            optimizer.zero_grad()
            model(phalanx.ones(3, 2)).mean().backward()
            optimizer.step()
            seen.append(phalanx.agreed("odd"))
        return seen

    assert on_ranks(2, main) == [[False, True, False, True]] * 2


def test_a_stop_can_be_asked_for_by_the_script(tmp_path) -> None:
    def main() -> int:
        phalanx.init(shards=2)
        model = phalanx.DataParallel(nn.Linear(12, 4))
        optimizer = optim.SGD(model.parameters(), lr=0.1)
        loader = DataLoader(data(), batch_size=12)
        checkpoint = phalanx.Checkpointer(tmp_path, model=model, optimizer=optimizer, loader=loader)
        try:
            for step in loader.steps():
                optimizer.zero_grad()
                for x, y in step:
                    nn.CrossEntropyLoss()(model(x), y).backward()
                if step.index == 2 and phalanx.rank() == 1:
                    phalanx.request_stop("the budget is spent")
                optimizer.step()
                checkpoint.after_step()
        except SystemExit as end:
            assert end.code == 0
        return loader.step

    assert on_ranks(2, main) == [3, 3]
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000003"]


def test_wrong_names() -> None:
    with pytest.raises(TypeError, match="expects a name"):
        phalanx.vote("")
