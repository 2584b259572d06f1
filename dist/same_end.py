"""The end of a step that is as the one before: what must be so for that is compared in one place, and the rest is one call.

It comes once a step between large products, when no cache holds anything of it: what counts is how many functions and objects are
touched. So a step that ended the long way, through :class:`.fold.Fold` and the communicator, leaves a record of who took part with
what, and the next one compares. Whatever is not as before goes the long way, also what must wait for others for longer than a moment:
it goes on from where it has got to.
"""

from __future__ import annotations

import time
from operator import attrgetter, is_
from typing import TYPE_CHECKING, Any

import numpy as np

from ..core import faults, spans
from ..core.kernels.reference_meeting import DONE
from ..core.live import structure
from ..core.nn.norm import BatchNorm1d, BatchNorm2d, BatchNorm3d
from .commit import commit_statistics
from .fold import Fold
from .reduction.as_before import NOT_BEGUN, Begun
from .shard_state import NO_VOTES, Layout, ShardState

if TYPE_CHECKING:
    from .reducer import Reducer

_array, _grad, _slot = attrgetter("array"), attrgetter("_grad"), attrgetter("_slot")
_running = attrgetter("running_mean", "running_var", "num_batches_tracked", "momentum")
_NORMS = {BatchNorm1d, BatchNorm2d, BatchNorm3d}


class SameEnd:
    """The record of one reducer's step. Made by :func:`record`."""

    def __init__(self, reducer: Reducer, fold: Fold, layout: Layout) -> None:
        assert fold.both is not None and fold.both.known is not None
        now, group = reducer.now, reducer.group
        self._fold, self._both, self._known = fold, fold.both, fold.both.known
        self._comm, self._sent_nbytes = group.communicator, self._both.sent_nbytes
        self._name = self._comm.flight.name(self._both.name)
        self._store = fold.lanes[0].store
        self._gradient, self._slots = self._store.gradient, list(map(_slot, reducer.parameters))
        self._passes, self._pending, self._unit = reducer._passes_before, reducer._pending, reducer._unit
        self._weight = now.weight
        self._seen = [(entry.layer, entry.n) for entry in now.records]
        self._bind_running(reducer, layout)

    def _bind_running(self, reducer: Reducer, layout: Layout) -> None:
        """Find where the running statistics of all layers lie, so that they are moved within the call; none where one of them moves otherwise."""
        self._layers, self._stamp = 0, structure.stamp
        parts = [(reducer._layers[name], count, part) for name, count, part in layout.parts]
        self._moved: list[tuple[Any, tuple[Any, ...]]] = []
        self._buffers: list[Any] = []
        if any(type(layer) not in _NORMS for layer, _, _ in parts):
            return
        rows, shares = [], []
        for layer, count, part in parts:
            *tensors, momentum = moved = _running(layer)
            if momentum is None or not _are_compiled([tensor.array for tensor in tensors]):
                return
            self._moved.append((layer, moved))
            self._buffers += tensors
            rows.append([*(tensor.array.ctypes.data for tensor in tensors), part.start, part.stop - part.start])
            shares.append((momentum, max(count - 1, 1)))
        self._layers, self._arrays = len(rows), [tensor.array for tensor in self._buffers]
        self._known.let_move(np.array(rows, np.int64), np.array(shares, np.float64))

    def _moves_as_before(self) -> bool:
        """Whether the layers have their statistics where they had them, and the momentum that they had."""
        if structure.stamp is not self._stamp:
            if not all(all(map(is_, _running(layer), before)) for layer, before in self._moved):
                return False
            self._stamp = structure.stamp  # something else got another attribute
        return all(map(is_, map(_array, self._buffers), self._arrays))

    def begin(self, reducer: Reducer) -> Begun:
        """End the step of ``reducer``, if it is as before; how far that has got. DONE: nothing is left to do."""
        now, fold, group, comm, known = reducer.now, self._fold, reducer.group, self._comm, self._known
        losses, weight = now.losses, now.weight
        if (
            reducer._passes_before is not self._passes
            or reducer._pending != self._pending
            or reducer._unit != self._unit
            or now.number is not None
            or weight != self._weight
            or len(losses) != 1
            or reducer.fold is not fold
            or fold.submitted
            or fold._carried
            or fold.both is not self._both
            or self._both.known is not known
            or self._store.gradient is not self._gradient
            or group.communicator is not comm
            or group.stop_heard
            or group.votes
            or group.notes
            or group.meeting.expected
            or spans.on
            or faults.plan
        ):
            return NOT_BEGUN
        try:
            if not all(map(is_, map(_array, map(_grad, reducer.parameters)), self._slots)):
                return NOT_BEGUN
        except AttributeError:  # None has no array
            return NOT_BEGUN
        records, means, deviations = now.records, [], []
        if len(records) != len(self._seen):
            return NOT_BEGUN
        for (layer, _, n, mean, m2), seen in zip(records, self._seen):  # noqa: B905 - strict costs
            if layer is not seen[0] or n != seen[1]:
                return NOT_BEGUN
            means.append(mean)
            deviations.append(m2)
        if self._layers and not self._moves_as_before():
            return NOT_BEGUN
        if means:
            np.concatenate(means + deviations, out=known.own_moments)
        if not comm._running.acquire(blocking=False):
            return NOT_BEGUN
        try:
            if comm._entries or comm._broken is not None:
                return NOT_BEGUN
            began, number, operation = time.monotonic(), group.steps_committed + 1, comm._sequence + 1
            stage = known.begin(operation, number, weight, float(losses[0]) * weight, self._layers)
            if stage != DONE:
                return Begun(stage, began)
            comm._sequence = operation
            comm.sent_bytes += self._sent_nbytes
            known.local.passed(2)
            comm.flight.done(operation, self._name, number, began, self._sent_nbytes)
        except BaseException as error:  # an interrupt: what this rank has said already cannot be taken back
            raise comm._fail(error) from None
        finally:
            comm._running.release()
        group.last_commit, group.steps_committed = (number, known, NO_VOTES), number
        group.agreed, group.noted = NO_VOTES.named, NO_VOTES.notes
        if means and not self._layers:
            commit_statistics(reducer._layers, known.state(number))
        reducer.step_loss.set(known.mean_loss(number))
        reducer.end.committed()
        reducer._open = reducer._cycle_counts = reducer._expects = False
        reducer._foreseeable, reducer._pending = True, None
        now.samples, now.passes, now.weight, now.losses, now.records = 0, 0, 0.0, [], []
        now.remaining, now.takes = None, False
        return Begun(DONE, began)


def record(reducer: Reducer, state: ShardState | None) -> SameEnd | None:
    """Of a step whose sum is complete, in ``state``, before anything changes for it; None where the next one must go the long way.

    An elastic job goes it always, and a rank that owns several shards, or accumulates over several backward passes, or
    computes on a GPU.
    """
    fold, group, now = reducer.fold, reducer.group, reducer.now
    if type(fold) is not Fold or fold.both is None or fold.both.known is None or not fold.both.known.sums:
        return None
    if group.elastic is not None or fold.stop - fold.first != 1 or reducer._passes_before != [1, 1]:
        return None
    if state is None or 0 in state.layout.used_by_all or 0 in fold.used(reducer.parameters):
        return None
    if len(now.losses) != 1 or type(now.losses[0]) is not float or fold.lanes[0].store.device != "cpu":
        return None
    return SameEnd(reducer, fold, state.layout)


def _are_compiled(running: list[Any]) -> bool:
    """Whether these statistics of one layer are of the types that the compiled loop moves, and it is the one that was chosen."""
    mean, variance, batches = running
    kinds = (mean.dtype, variance.dtype, batches.dtype) == (np.float32, np.float32, np.int64)
    return kinds and all(type(a) is np.ndarray and a.flags.c_contiguous for a in running) and mean.size == variance.size
