"""``phalanx.run_shards``: the shards that this rank owns under way together, so that they can meet inside of their forward.

Each owned shard has a thread and a *seat*: what the reducers know of it and its own gradient buffers. Exactly one thread
runs at a time, in shard order, until it comes to a meeting or is through; then the next one is handed the word. When all
stand at the meeting their leaves are exchanged with the other ranks, and each goes on with what all merged to. Nothing
depends on how threads are scheduled. The seats close in shard order at the end, as in a loop over the shards.
"""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from ..core.collective import Leaf, Merge
from ..core.data.scope import close_shard, open_shard
from ..core.data.step import Step
from ..core.errors import GraphError
from ..core.rank_local import Carried, carried, take_over
from .errors import CommunicatorError
from .group import Group, current
from .processor import share_of_cores
from .seats import Seat, close, seats_for, summing
from .side_by_side import replays_of, side_by_side


def run_shards(function: Callable[..., Any], step: Step) -> list[Any]:
    """Call ``function`` on the batch of each shard of ``step`` that this rank owns, all of them under way together.

    What stands inside of ``for x, y in step:`` becomes ``function(x, y)``: forward and backward. Layers that need the whole
    global batch (SyncBatchNorm, :func:`gather_over_shards`) meet there; without such layers the result is that of the loop. The
    graphs of all owned shards are in memory at once, and a gradient buffer for each. Call it on every rank, also on those whose
    shards hold no samples. Where ``function`` is a :func:`capture` the shards are computed side by side on the cores of this rank, to the
    same bits.

    Returns what ``function`` returned, in shard order; an empty list where ranks were lost, so that the step is void. Raises, on all ranks, what ``function`` raised on any, and GraphError when
    shards do not go through the same layers.

    >>> data = phalanx.data.TensorDataset(np.ones((8, 2), np.float32))
    >>> model = phalanx.DataParallel(nn.SyncBatchNorm(2))
    >>> for step in phalanx.data.DataLoader(data, batch_size=4).steps():
    ...     losses = phalanx.run_shards(lambda x: model(x).sum().backward(), step)
    """
    if not isinstance(step, Step):
        raise TypeError(f"run_shards expects a step of `for step in loader.steps():`, got {type(step).__name__}")
    group = current()
    meeting = group.meeting
    if meeting.running:
        raise GraphError("run_shards inside of run_shards: a shard is under way already")
    meeting.running = True
    try:
        with step.together() as parts:
            cores = share_of_cores(group.local_size)
            replays = replays_of(function, parts, cores) if parts else []
            if replays:
                results = side_by_side(step, parts, replays, cores)
            elif len(parts) > 1 and replays is None:
                results = _together(group, function, step, parts)
            else:
                results = _single(function, step, parts)
            meeting.finish()
            return results
    except CommunicatorError as error:
        if group.elastic is None:
            raise
        group.elastic.recover(error)
        return []
    except BaseException as error:
        meeting.fail(error)
        raise
    finally:
        meeting.running = False


def _single(function: Callable[..., Any], step: Step, parts: Sequence[tuple[int, Any, int]]) -> list[Any]:
    results = []
    for shard, batch, samples in parts:
        step.shard = shard
        try:
            open_shard(step, shard, samples)
            results.append(_call(function, batch))
        finally:
            step.shard = None
            close_shard(step)
    return results


def _call(function: Callable[..., Any], batch: Any) -> Any:
    return function(*batch) if isinstance(batch, list | tuple) else function(batch)


class _Cancelled(BaseException):
    """Raised in the threads of the other shards when one has failed."""


class _Shard:
    """One shard's thread."""

    def __init__(self, number: int, seat: Seat, work: Callable[[], Any], baton: _Baton) -> None:
        self.number, self.seat, self.work, self.baton = number, seat, work, baton
        self.go = threading.Semaphore(0)
        self.standing: tuple[str, Leaf | None, Merge] | None = None
        self.answer: Leaf | None = None
        self.through = self.cancelled = False
        self.result: Any = None
        self.error: BaseException | None = None
        context = contextvars.copy_context()  # NumPy's error states, for example
        target, name = partial(context.run, self._main, carried()), f"phalanx-shard-{number}"
        self.thread = threading.Thread(target=target, name=name, daemon=True)
        self.thread.start()

    def _main(self, rank: Carried) -> None:
        self.go.acquire()
        try:
            if not self.cancelled:
                take_over(rank)
                self.result = self.work()
        except BaseException as error:  # raised again where the shards were started
            self.error = None if isinstance(error, _Cancelled) else error
        self.through = True
        self.baton.back.release()

    def wait_at(self, place: str, leaf: Leaf | None, merge: Merge) -> Leaf | None:
        """Called in this thread: stand at a meeting until it has taken place."""
        self.standing = (place, leaf, merge)
        self.baton.back.release()
        self.go.acquire()
        if self.cancelled:
            raise _Cancelled
        self.standing = None
        return self.answer


class _Baton:
    """Who of the owned shards has the word."""

    def __init__(self, group: Group) -> None:
        self.group = group
        self.back = threading.Semaphore(0)
        self.running: _Shard | None = None

    def hand(self, shard: _Shard) -> None:
        """Let ``shard`` run until it stands at a meeting or is through."""
        communicators = (self.group.communicator, self.group.control)
        owner = communicators[0].owner
        for communicator in communicators:  # whose Python line is shown when others wait for this rank
            communicator.owner = shard.thread.ident or owner
        self.running = shard
        shard.seat.take()
        try:
            shard.go.release()
            self.back.acquire()
        finally:
            shard.seat.leave()
            for communicator in communicators:
                communicator.owner = owner
        if shard.error is not None:
            raise shard.error

    def stand(self, place: str, leaf: Leaf | None, merge: Merge) -> Leaf | None:
        """In a shard's thread: what :class:`Meeting` calls."""
        assert self.running is not None
        return self.running.wait_at(place, leaf, merge)


def _together(
    group: Group, function: Callable[..., Any], step: Step, parts: Sequence[tuple[int, Any, int]]
) -> list[Any]:
    reducers, baton = summing(), _Baton(group)
    seats = seats_for(reducers, len(parts))
    shards = [
        _Shard(number, seat, _work(function, step, *part), baton)
        for (number, *_), part, seat in zip(parts, parts, seats, strict=True)
    ]
    group.meeting.hand_over = baton.stand
    done = False
    try:
        for shard in shards:
            baton.hand(shard)
        while any(not shard.through for shard in shards):
            _meet(group, shards)
            for shard in shards:
                if not shard.through:
                    baton.hand(shard)
        done = True
    finally:
        group.meeting.hand_over = None
        if not done:
            _cancel(shards, baton.running)
        close(step, reducers, seats, done)
    return [shard.result for shard in shards]


def _work(function: Callable[..., Any], step: Step, shard: int, batch: Any, samples: int) -> Callable[[], Any]:
    def work() -> Any:
        open_shard(step, shard, samples)
        return _call(function, batch)

    return work


def _meet(group: Group, shards: Sequence[_Shard]) -> None:
    """All that are not through stand at a meeting: let it take place."""
    standing = {shard.number: shard.standing for shard in shards if shard.standing is not None}
    merge = next(iter(standing.values()))[2]
    places = {number: (place, leaf) for number, (place, leaf, _) in standing.items()}
    through = [shard.number for shard in shards if shard.through]
    answer, _ = group.meeting.exchange(places, merge, name=next(iter(places.values()))[0], through=through)
    for shard in shards:
        shard.answer = answer


def _cancel(shards: Sequence[_Shard], running: _Shard | None) -> None:
    """End all threads, one after another; one that computes still (this one was interrupted) ends by itself."""
    for shard in shards:
        shard.cancelled = True
        shard.go.release()
        if shard is not running or shard.through:
            shard.thread.join()
