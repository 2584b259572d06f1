"""What moves once a step stands still in a step that is void, which is given again; and exchanges of which some ranks had the result."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import phalanx
from phalanx import nn, optim
from phalanx.core.errors import StateError
from phalanx.core.void import set_void
from phalanx.dist import exchanges
from phalanx.dist.communicators.threads import run_threads
from phalanx.dist.errors import PeerLostError
from phalanx.dist.group import current


@pytest.fixture(autouse=True)
def counted_again() -> Iterator[None]:
    yield
    set_void(False)
    phalanx.shutdown()


def trained() -> tuple[Any, Any]:
    """A model with gradients, and its optimizer, which has taken one step."""
    phalanx.init(seed=1)
    model = nn.Linear(3, 2)
    optimizer = optim.Adam(model.parameters(), lr=0.1)
    for _ in range(2):
        model(phalanx.ones(4, 3)).sum().backward()
        if not optimizer.updates:
            optimizer.step()
    return model, optimizer


def test_optimizers_update_nothing() -> None:
    model, optimizer = trained()
    seen: list[str] = []
    optimizer.register_step_post_hook(lambda *_: seen.append("hook"))
    before, count = model.weight.detach().numpy().copy(), optimizer.updates
    set_void(True)
    optimizer.step()
    assert (model.weight.detach().numpy() == before).all() and optimizer.updates == count and not seen
    set_void(False)
    optimizer.step()
    assert (model.weight.detach().numpy() != before).all() and optimizer.updates == count + 1 and seen


def test_an_optimizer_with_a_step_of_its_own_updates_nothing() -> None:
    class ByHand(optim.Optimizer):
        def __init__(self, params: Any) -> None:
            super().__init__(params, {"lr": 1.0})

        def step(self, closure: Any = None) -> None:
            self.param_groups[0]["lr"] /= 2

    model, _ = trained()
    optimizer = ByHand(model.parameters())
    set_void(True)
    optimizer.step()
    assert optimizer.param_groups[0]["lr"] == 1.0 and not optimizer.updates
    set_void(False)
    optimizer.step()
    assert optimizer.param_groups[0]["lr"] == 0.5


SCHEDULES: dict[str, Callable[[Any], Any]] = {
    "ExponentialLR": lambda o: optim.lr_scheduler.ExponentialLR(o, 0.5),
    "SequentialLR": lambda o: optim.lr_scheduler.SequentialLR(
        o, [optim.lr_scheduler.ConstantLR(o, 0.5, 1), optim.lr_scheduler.ExponentialLR(o, 0.5)], [1]
    ),
    "ChainedScheduler": lambda o: optim.lr_scheduler.ChainedScheduler([optim.lr_scheduler.ExponentialLR(o, 0.5)]),
    "WarmupLR": lambda o: optim.lr_scheduler.WarmupLR(o, 3),
    "SWALR": lambda o: optim.swa_utils.SWALR(o, 0.01, 3),
    "ReduceLROnPlateau": lambda o: optim.lr_scheduler.ReduceLROnPlateau(o, factor=0.5, patience=0),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules_stand_still(name: str) -> None:
    _, optimizer = trained()
    schedule = SCHEDULES[name](optimizer)
    metric = (1.0,) if name == "ReduceLROnPlateau" else ()
    schedule.step(*metric)
    before, rate = schedule.state_dict(), optimizer.param_groups[0]["lr"]
    set_void(True)
    schedule.step(*metric)
    assert schedule.state_dict() == before and optimizer.param_groups[0]["lr"] == rate
    set_void(False)
    schedule.step(*metric)
    assert schedule.state_dict() != before and optimizer.param_groups[0]["lr"] != rate


def test_a_schedule_that_is_made_meanwhile_is_whole() -> None:
    _, optimizer = trained()
    set_void(True)
    schedule = optim.lr_scheduler.LinearLR(optimizer, 0.5)
    set_void(False)
    assert schedule.last_epoch == 0 and schedule.get_last_lr() == [0.05]


def test_averages_stand_still() -> None:
    model, _ = trained()
    ema, averaged = optim.EMA(model), optim.swa_utils.AveragedModel(model)
    for void, count in ((False, 1), (True, 1), (False, 2)):
        set_void(void)
        ema.update()
        averaged.update_parameters(model)
        assert (ema.updates, averaged.n_averaged.item()) == (count, count)


def test_the_scale_of_float16_stands_still() -> None:
    model, optimizer = trained()
    scaler = phalanx.amp.GradScaler("cpu", growth_interval=1)
    set_void(True)
    scaler.step(optimizer)
    scaler.update()
    assert scaler.get_scale() == 65536.0
    set_void(False)
    model(phalanx.ones(4, 3)).sum().backward()
    scaler.step(optimizer)  # the void one is forgotten: no "second time"
    scaler.update()
    assert scaler.get_scale() == 131072.0


def test_checkpoints_and_ledgers_leave_it_out(tmp_path: Path) -> None:
    model, optimizer = trained()
    parallel = phalanx.DataParallel(model)
    checkpointer = phalanx.Checkpointer(tmp_path / "run", model=parallel, optimizer=optimizer, every=1)
    ledger = phalanx.Ledger(tmp_path / "ledger", parallel, optimizer)
    set_void(True)
    checkpointer.after_step()
    ledger.record(1)
    assert checkpointer.step == 0 and not list(tmp_path.iterdir())
    set_void(False)
    checkpointer.after_step()
    ledger.record(1)
    assert checkpointer.step == 1 and len(list(tmp_path.iterdir())) == 2


def test_a_new_rank_0_writes_the_line_that_the_one_before_it_could_not(tmp_path: Path) -> None:
    model, optimizer = trained()
    parallel = phalanx.DataParallel(model)
    first, second = (phalanx.Ledger(tmp_path / "ledger", parallel, optimizer) for _ in range(2))
    for step in (1, 2, 3):
        first.record(step)
    whole = (tmp_path / "ledger").read_text()
    (tmp_path / "ledger").write_text("".join(whole.splitlines(keepends=True)[:2]) + '{"step": 3, "lo')
    second._last = first._last
    second.record(4)
    lines = (tmp_path / "ledger").read_text().splitlines(keepends=True)
    assert "".join(lines[:3]) == whole and len(lines) == 4
    second.record(2)  # gone back
    assert len((tmp_path / "ledger").read_text().splitlines()) == 2


def test_what_is_asked_of_all_ranks_is_answered_alike() -> None:
    model, _ = trained()
    phalanx.vote("stop")
    current().agree(current().ballot())
    x = np.ones((5, 3), np.float32)
    set_void(True)
    assert not phalanx.agreed("stop") and not phalanx.agree(True, name="stop") and phalanx.sum_over_ranks(3) == 0
    assert math.isnan(phalanx.evaluate(model, (x, x[:, :2]), "mae")["mae"])
    assert phalanx.predict(model, x).shape == (5, 2)
    set_void(False)
    assert phalanx.agreed("stop") and phalanx.agree(True, name="stop") and phalanx.sum_over_ranks(3) == 3
    assert not math.isnan(phalanx.evaluate(model, (x, x[:, :2]), "mae")["mae"])


class Losing:
    """A group's elastic side: the ranks become others when all have noticed that, here with the same ranks over the same wire."""

    newcomer = False

    def __init__(self, group: Any, meet: threading.Barrier) -> None:
        self.group, self.meet, self.generation = group, meet, 0

    def recover(self, error: BaseException) -> None:
        self.generation += 1
        self.meet.wait(10)
        exchanges.of(self.group).settle(self.group.control)


class Wire:
    """A control channel on which this rank notices a loss in the operations of some numbers, before or after they are complete."""

    def __init__(self, control: Any, before: set[int], after: set[int]) -> None:
        self.control, self.before, self.after, self.count = control, before, after, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.control, name)

    def call(self, program: Any, *, name: str) -> Any:
        self.count += 1
        if self.count in self.before:
            raise PeerLostError("somebody died")
        rows = self.control.call(program, name=name)
        if self.count in self.after:
            raise PeerLostError("somebody died after all had said it")
        return rows


def on_two_ranks(before: list[set[int]], after: list[set[int]], action: Any) -> list[Any]:
    meet = threading.Barrier(2)

    def main() -> Any:
        group = phalanx.init()
        wire = Wire(group.control, before[group.rank], after[group.rank])
        fake: Any = SimpleNamespaceGroup(rank=group.rank, size=2, control=wire, communicator=wire)
        fake.elastic = Losing(fake, meet)
        try:
            return action(fake), exchanges.of(fake).number
        finally:
            phalanx.shutdown()

    return run_threads(main, 2, timeout_s=20.0)


class SimpleNamespaceGroup(SimpleNamespace):
    __hash__ = object.__hash__  # type: ignore[assignment]


def three_questions(group: Any) -> list[Any]:
    return [exchanges.gather_object(group, [number, group.rank], name=str(number)) for number in range(3)]


ANSWERS = [[[number, 0], [number, 1]] for number in range(3)]


def test_a_rank_that_is_behind_takes_the_result_of_one_that_has_it() -> None:
    """Rank 1 does not get the answers to question 1; rank 0 has them, and notices the loss in question 2."""
    assert on_two_ranks([{3}, set()], [set(), {2}], three_questions) == [(ANSWERS, 3)] * 2


def test_what_nobody_has_is_asked_again() -> None:
    assert on_two_ranks([{2}, {2}], [set(), set()], three_questions) == [(ANSWERS, 3)] * 2


@pytest.mark.parametrize("by", [0, 1])
def test_an_action_begins_again_unless_somebody_is_through_with_it(by: int) -> None:
    """The last exchange has no result at rank ``by`` alone: it takes it. That of the second has none at all: both begin again."""
    begun: list[int] = []

    def action(group: Any) -> Any:
        begun.append(group.rank)
        return three_questions(group)

    def repeated(group: Any) -> Any:
        found = exchanges.repeated(group, lambda: action(group))
        return found, exchanges.gather_object(group, "after", name="after")

    late: list[set[int]] = [set(), set()]
    late[by] = {3}
    early: list[set[int]] = [set(), set()]
    early[1 - by] = {4}
    found = on_two_ranks(early, late, repeated)
    assert found == [((ANSWERS, ["after", "after"]), 4)] * 2 and sorted(begun) == [0, 1]
    begun.clear()
    found = on_two_ranks([{2}, {2}], [set(), set()], repeated)
    assert found == [((ANSWERS, ["after", "after"]), 5)] * 2 and sorted(begun) == [0, 0, 1, 1]


def test_a_rank_that_has_not_joined_is_told_so() -> None:
    phalanx.init()
    group: Any = SimpleNamespaceGroup(
        rank=1, size=2, control=None, communicator=None, elastic=SimpleNamespace(newcomer=True)
    )
    with pytest.raises(StateError, match="has not joined them"):
        exchanges.gather_object(group, 1, name="agree on x")
