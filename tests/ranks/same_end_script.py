"""Two ranks: steps that end as the one before, and one of each kind that must not. Prints what was not as it should be."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np

import phalanx
from phalanx import nn, optim
from phalanx.core import faults, spans
from phalanx.core.kernels.reference_meeting import BEGIN, DONE
from phalanx.core.void import set_void
from phalanx.dist.same_end import SameEnd
from phalanx.dist.shard_state import decode

CLASSES, FEATURES = 4, 20
phalanx.kernels.choose("fast")
phalanx.init()
rank = phalanx.rank()
stages: list[int] = []
begin = SameEnd.begin


def counted(self: SameEnd, reducer: Any) -> Any:
    begun = begin(self, reducer)
    stages.append(begun.stage)
    return begun


SameEnd.begin = counted  # type: ignore[method-assign]


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.second = nn.Linear(FEATURES, 300), nn.BatchNorm1d(300), nn.Linear(300, CLASSES)
        self.other, self.spare = nn.BatchNorm1d(300), nn.Linear(FEATURES, CLASSES)
        self.again = self.swapped = False

    def forward(self, x: Any) -> Any:
        one, other = (self.other, self.norm) if self.swapped else (self.norm, self.other)
        hidden = other(one(self.first(x)))
        if self.again:
            hidden = self.norm(hidden)
        return self.second(nn.functional.relu(hidden)) + self.spare(x)


class Training:
    """One model that steps as usual or in parts; batches depend on the number of the step alone."""

    def __init__(self, in_parts: bool) -> None:
        phalanx.manual_seed(3)
        self.in_parts, self.steps = in_parts, 0
        self.net: Any = Net()
        self.model = phalanx.DataParallel(self.net)
        self.reducer, self.group = self.model.reducer, self.model.group
        self.optimizer = optim.Adam(self.model.parameters(), lr=0.01)
        self.losses: list[float | None] = []

    def step(
        self,
        samples: int = 16,
        passes: int = 1,
        before_update: Callable[[], Any] = lambda: None,
        between: Callable[[], Any] = lambda: None,
        weight: float | None = None,
    ) -> int:
        """How far it got at once. ``between``: called after each backward pass; ``weight``: of each loss."""
        stages.clear()
        random = np.random.default_rng([self.steps, rank])
        self.optimizer.zero_grad()
        for _ in range(passes):
            x = phalanx.tensor(random.standard_normal((samples, FEATURES)).astype(np.float32))
            labels = phalanx.tensor(random.integers(0, CLASSES, samples))
            loss = nn.functional.cross_entropy(self.model(x), labels)
            loss.weight = weight or loss.weight
            loss.backward()
            between()
        before_update()
        self.optimizer.step()
        if self.in_parts:
            assert self.reducer.fold.both is not None
            self.reducer._same, self.reducer.fold.both._compiled, self.reducer.fold.both.known = None, False, None
        self.steps += 1
        self.losses.append(self.model.step_loss)
        return stages[-1] if stages else BEGIN


def drop_first(t: Training) -> Callable[[], None]:
    """Forgets the first backward pass."""
    calls: list[int] = []

    def between() -> None:
        calls.append(1)
        if len(calls) == 1:
            t.optimizer.zero_grad()
            t.model.train()

    return between


Case = tuple[str, Callable[[Training], int], Callable[[Training], Any]]
"""What is other than before, a step with it, and what makes it as before again."""


def cases() -> list[Case]:
    """All at which a step is not as the one before, on this rank at least."""

    def elsewhere(t: Training) -> int:
        weight: Any = t.net.second.weight
        return t.step(before_update=lambda: setattr(weight._grad, "array", weight._grad.array.copy()))

    def unused(t: Training) -> int:
        return t.step(before_update=lambda: setattr(t.net.spare.weight, "grad", None))

    def set_on(owner: Any, name: str, value: Any) -> Callable[[Training], int]:
        def step(t: Training) -> int:
            target = owner(t)
            before = getattr(target, name)
            setattr(target, name, value)
            try:
                return t.step()
            finally:
                setattr(target, name, before)

        return step

    def moved_statistics(t: Training) -> int:
        buffer = t.net.norm.running_mean
        buffer.array = buffer.array.copy()
        return t.step()

    def other_momentum(t: Training) -> int:
        t.net.norm.momentum = 0.5
        return t.step()

    def frozen_norm(t: Training) -> int:
        t.net.norm.eval()
        return t.step()

    def vote(t: Training) -> int:
        phalanx.vote("now", rank == 1)
        reached = t.step()
        assert phalanx.agreed("now")
        return reached if rank == 1 else BEGIN

    def asked_to_stop(t: Training) -> int:
        t.group.stop_heard = "SIGUSR1" if rank == 0 else None
        reached = t.step()
        assert t.group.stop_requested == "SIGUSR1"
        t.group.stop_heard = t.group.stop_requested = None
        return reached if rank == 0 else BEGIN

    def told(t: Training) -> int:
        t.group.notes.append("a note")
        reached = t.step()
        assert t.group.noted == ("a note",) * 2
        t.group.notes.clear()
        return reached

    def another_unit(t: Training) -> int:
        t.reducer._weight_before = 32.0
        return t.step(weight=32.0)

    def second_without_statistics(t: Training) -> int:
        return t.step(passes=2, between=t.model.eval, weight=8.0)

    def dropped(t: Training) -> int:
        t.model.eval()
        return t.step(passes=2, between=drop_first(t))

    def planned_anew(t: Training) -> int:
        t.reducer.plan()
        return t.step()

    def another_view(t: Training) -> int:
        store = t.reducer.fold.lanes[0].store
        return t.step(before_update=lambda: setattr(store, "gradient", store.gradient[:]))

    def void(t: Training) -> int:
        values = [p.detach().numpy().tobytes() for p in t.model.parameters()]
        reached = t.step(before_update=lambda: set_void(True))
        set_void(False)
        assert values == [p.detach().numpy().tobytes() for p in t.model.parameters()]
        return reached

    def by_hand(t: Training) -> int:
        return t.step(before_update=lambda: t.group.communicator.queue(lambda messages: None, name="beside"))

    same = lambda t: None  # noqa: E731
    as_it_was = lambda t: setattr(t.net.norm, "momentum", 0.1)  # noqa: E731
    return [
        ("a gradient elsewhere", elsewhere, same),
        ("a parameter without gradient", unused, same),
        ("other samples", lambda t: t.step(samples=8), same),
        ("a layer that is called twice", set_on(lambda t: t.net, "again", True), same),
        ("layers in another order", set_on(lambda t: t.net, "swapped", True), same),
        ("statistics elsewhere", moved_statistics, same),
        ("another momentum", other_momentum, as_it_was),
        ("no statistics", frozen_norm, lambda t: t.net.norm.train()),
        ("a vote", vote, same),
        ("an end that is asked for", asked_to_stop, same),
        ("a note", told, same),
        ("a profiler", set_on(lambda t: spans, "on", True), same),
        ("a fault", set_on(lambda t: faults, "plan", faults.parse("before-reduce@step999999:raise")), same),
        ("an operation under way", by_hand, same),
        ("a step that does not count", void, same),
        ("layers that meet", set_on(lambda t: t.group.meeting, "expected", True), same),
        ("other ranks", set_on(lambda t: t.reducer.fold.both, "known", None), same),
        ("another weight", lambda t: t.step(weight=5.0), same),
        ("other samples of equal weight", lambda t: t.step(samples=8, weight=16.0), same),
        ("another unit of weight", another_unit, lambda t: setattr(t.reducer, "_weight_before", 16.0)),
        ("two passes, one record", second_without_statistics, lambda t: t.model.train()),
        ("a pass that is dropped", dropped, same),
        ("buckets planned anew", planned_anew, same),
        ("gradients seen otherwise", another_view, same),
        ("a pass too many", lambda t: t.step(passes=2), same),
    ]


def train(in_parts: bool) -> tuple[Any, ...]:
    """All cases one after another, each between steps that are as before; what must be equal however steps end."""
    training, wrong = Training(in_parts), []
    kept, done = [], 0
    for name, step, undo in cases():
        reached = [training.step() for _ in range(4)]
        done += reached.count(DONE)
        if not in_parts and reached[-1] == BEGIN:
            wrong.append(f"before {name!r} no step was done at once")
        if (stage := step(training)) != BEGIN:
            wrong.append(f"{name}: stage {stage}")
        undo(training)
        number, message = training.group.held
        (state,), _ = decode(message)
        assert state is not None
        kept.append((number, state.weight, state.loss, state.moments.tobytes()))
    flight = training.group.communicator.flight
    last = flight.operations()[-1]
    if f"commit of step {training.group.steps_committed}" not in last.name or flight.waitings()[-1].name != last.name:
        wrong.append(f"the flight recorder ends with {last}")
    if not in_parts and not done:
        wrong.append("no step was done at once")
    for line in wrong:
        print(f"rank {rank}: {line}", flush=True)
    values = [t.detach().numpy().tobytes() for t in (*training.model.parameters(), *training.model.buffers())]
    return training.losses, values, [row[1:] for row in kept], len(wrong)


at_once, in_parts = train(False), train(True)
for what, one, other in zip(("losses", "values", "what is kept", "mistakes"), at_once, in_parts, strict=True):
    if one != other:
        print(f"rank {rank}: {what} differ", flush=True)
print(f"rank {rank} is through", flush=True)
sys.exit(at_once != in_parts or at_once[-1])
