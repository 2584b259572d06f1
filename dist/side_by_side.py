"""Replays of a captured shard side by side on the cores of a rank: see ``core/capture/together.py``.

Equal bits need kernels that use one thread, so that one shard at a time would leave all cores but one idle. Here each core has some
of the shards: what a shard computes is what it computes alone. Gradients go to the parameters afterwards, in the order of shards.
"""

from __future__ import annotations

import contextvars
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import lru_cache
from itertools import pairwise
from typing import Any

from ..core.capture.step import CapturedStep
from ..core.capture.together import Place, Replay, answers
from ..core.data.scope import open_shard
from ..core.data.step import Step
from ..core.rank_local import Carried, carried, take_over
from ..core.rng import enter_shard
from .seats import close, seats_for, summing

Begin = Callable[[Place], Replay]
Parts = Sequence[tuple[int, Any, int]]


def replays_of(function: Callable[..., Any], parts: Parts, cores: int) -> list[Begin] | None:
    """Of each shard, if ``function`` is a captured step; an empty list if it gains nothing from going side by side."""
    if not isinstance(function, CapturedStep):
        return None
    batches = [tuple(batch) if isinstance(batch, list | tuple) else (batch,) for _, batch, _ in parts]
    return function.together(batches, cores)


def side_by_side(step: Step, parts: Parts, begin: Sequence[Begin], cores: int) -> list[Any]:
    """Forward and backward of all shards at once, then their gradients one after another. Returns what they returned, in shard order."""
    reducers = summing()
    seats = seats_for(reducers, len(parts))
    replays = [start(seat) for start, seat in zip(begin, seats, strict=True)]
    results, done = [], False
    try:
        for (shard, _, samples), seat in zip(parts, seats, strict=True):
            seat.record()
            open_shard(step, shard, samples)
            seat.records = [reducer.now for reducer in reducers]
        _on_all_cores(step.index, [(shard, replay) for (shard, *_), replay in zip(parts, replays, strict=True)], cores)
        for (shard, *_), seat, replay in zip(parts, seats, replays, strict=True):
            seat.take()
            enter_shard(step.index, shard)
            try:
                next(replay)
            except StopIteration as through:
                results.append(through.value)
            finally:
                seat.leave()
        done = True
    finally:
        for replay in replays:
            replay.close()
        close(step, reducers, seats, done)
    return results


def _on_all_cores(step: int, replays: Sequence[tuple[int, Replay]], cores: int) -> None:
    """Bring all replays to where the parameters must be theirs. Raises what the first shard raised that failed."""
    count = min(cores, len(replays))
    cuts = [len(replays) * k // count for k in range(count + 1)]
    own, *others = (replays[lo:hi] for lo, hi in pairwise(cuts))
    waiting = []
    if others:
        pool, rank = _pool(count - 1), carried()
        waiting = [pool.submit(contextvars.copy_context().run, _work_for, rank, step, part) for part in others]
    try:
        _compute(step, own)
    finally:
        _until_all_are_through(waiting)
    for future in waiting:
        future.result()


def _until_all_are_through(waiting: Sequence[Future[None]]) -> None:
    """Wait, also through an interrupt, which comes afterwards: until then they write gradients."""
    interrupt: BaseException | None = None
    while any(not future.done() for future in waiting):
        try:
            wait(waiting)
        except BaseException as error:
            interrupt = error
    if interrupt is not None:
        raise interrupt


def _work_for(rank: Carried, step: int, replays: Sequence[tuple[int, Replay]]) -> None:
    take_over(rank)
    _compute(step, replays)


def _compute(step: int, replays: Sequence[tuple[int, Replay]]) -> None:
    """All of them to their next call, what it gives to each, and so on."""
    given: list[Any] = [None] * len(replays)
    while True:
        calls = []
        for (shard, replay), answer in zip(replays, given, strict=True):
            enter_shard(step, shard)
            calls.append(replay.send(answer))
        if calls[0] is None:
            return
        given = answers([call for call in calls if call is not None])


@lru_cache(8)
def _pool(count: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(count, "phalanx-shards")
