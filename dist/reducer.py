"""From gradients in their slots to the global mean: shard leaves, the fold, buckets, the vote, the commit.

The engine tells a :class:`Reducer` when a backward pass begins and when a gradient is final; the loader tells it when
shards open and close. A *cycle* is everything between two optimizer steps. When a shard closes, its leaf (gradient times
weight, float32) is folded into the pending partial sums; the last owned shard is folded bucket by bucket, within its
last backward pass if that can be foreseen. Nothing that outlives the step changes before :meth:`Reducer.synchronize` has
heard from every rank that its part is complete.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from ..core.collective import set_pass_weight
from ..core.errors import GraphError
from ..core.faults import fault_point, set_position
from ..core.graph import is_grad_enabled
from ..core.nn.module import Module
from ..core.void import is_void
from .arrangement import Arrangement
from .commit import commit_statistics, unused
from .compression import Scheme
from .errors import CommunicatorError
from .group import Group
from .losses import StepLoss, loss_of
from .open_shard import OpenShard
from .same_end import DONE, NOT_BEGUN, Begun, SameEnd, record
from .shard_state import ShardState

if TYPE_CHECKING:
    from ..core.data.step import Step

_backward = threading.local()
"""How many reducers that may overlap take part in the backward pass that runs: only a single one does (equal order on all ranks)."""


class Reducer(Arrangement):
    """The gradient listener and loader observer of one DataParallel."""

    def __init__(
        self, module: Module, group: Group, *, bucket_bytes: int | None = None, overlap: bool | None = None,
        shard: str | None = None, compression: Scheme | None = None,
    ) -> None:  # fmt: skip
        super().__init__(module, group, (bucket_bytes, overlap, shard, compression))
        self.paused = 0
        """Depth of ``no_sync()``."""
        self.step_loss = StepLoss()
        self.check_finite: Callable[[float], None] = lambda loss: None
        self._sizes: tuple[int, ...] | None = None
        """Of the shards of the step that was opened last. Not the step itself, which would keep its loader's workers."""
        self.now = OpenShard()
        """The shard that the loop is inside of."""
        self.together = False
        """Whether several owned shards are under way at once (:func:`run_shards`)."""
        self._watching = True
        self._passes_before: list[int] = []
        self._unit = 1.0
        self._weight_before = 0.0
        self._warned: set[str] = set()
        self._same: SameEnd | None = None
        """What the step before was, if it went as most do."""
        self.plan()
        self._new_cycle()

    # -- the cycle ------------------------------------------------------------------------------------------------

    def _new_cycle(self) -> None:
        self._open = self._cycle_counts = False
        self._expects = False  # the loader opened a step: this rank takes part even when it owns no samples
        self._again = False
        self._foreseeable = True
        self.fold.reset()
        self._pending: int | None = None
        """The last owned shard with samples, once it is closed: folded when the step ends."""
        self.now = OpenShard(self.now.number, weighted=self.now.weighted)

    # -- what the loader says ---------------------------------------------------------------------------------------

    def step_opens(self, step: Step) -> None:
        if not is_grad_enabled():  # an evaluation, perhaps in the middle of a training step
            return
        self._sizes = step.sizes
        self._expects = True
        if self.group.elastic is not None:
            self.group.elastic.commits_before_step = self.group.steps_committed
        set_position(self.group.rank, step.index)

    def shard_opens(self, step: Step, shard: int, samples: int) -> None:
        self._watching = is_grad_enabled()
        if not self._watching:
            return
        self._expects = True
        self.end.data_came(step)
        if not self.with_shards:
            self.now.samples += samples
            return
        self._sizes, self.now.number = step.sizes, shard
        if self._pending is None:
            self.now = OpenShard(self.now.number, samples)

    def shard_closes(self) -> None:
        if not self.with_shards or not self._watching:
            return
        shard, self.now.number = self.now.number, None
        if self.now.passes and shard is not None:
            if shard == self._last_with_samples():
                self._pending = shard
            else:
                self.fold.push(shard, self._shard_state())

    def _last_with_samples(self) -> int:
        sizes = self._sizes if self._sizes is not None else [1] * self.shards
        return max((s for s in range(*self.owned) if sizes[s]), default=-1)

    # -- what the engine says -----------------------------------------------------------------------------------------

    def backward_begins(self, leaves: Sequence[Any], root: Any) -> bool:
        """Whether :meth:`gradient_final` has anything to do in this pass."""
        loss = loss_of(root.array, self.check_finite)
        if is_void():
            return self.spread is not None
        now = self.now
        if self.with_shards and now.number is None:
            raise GraphError(
                f"with shards={self.shards}, backward() must run inside `for batch in step:` of `for step in loader.steps():`, "
                "so that it belongs to a shard"
            )
        if not self._open and not self._begin_cycle():
            return self.spread is not None
        if self.forgets():
            self._begin_shard()
        if self.fold.surprised():  # one more pass than foreseen: what is under way is void, all ranks must do it again
            self._again = True
        # alone nothing is weighed, and a GPU that has counted the weight is not waited for
        weight = 1.0 if self.trivial else self._weight_of(root) / self._unit or self.group.meeting.lightest()
        now.passes += 1
        now.weight += weight
        now.losses.append(loss)
        if weight != 1.0:
            now.weighted = True
            set_pass_weight(weight)
        now.takes = self.spread is not None and self._is_before_last() and not self.together
        if self.overlap:
            _backward.reducers = getattr(_backward, "reducers", 0) + 1
            now.remaining = self._still_owed(leaves) if self._may_overlap() else None
        return now.remaining is not None or self.spread is not None

    def _still_owed(self, leaves: Sequence[Any]) -> list[int]:
        """For each bucket how many of ``leaves`` are in it."""
        owed = [0] * len(self.fold.labels)
        for leaf in leaves:
            owed[self.fold.bucket_of[leaf]] += 1
        return owed

    def gradient_final(self, leaf: Any) -> None:
        now = self.now
        remaining = now.remaining
        if self.spread is not None:
            self.spread.arrived(leaf)
        if remaining is not None:
            number = self.fold.bucket_of[leaf]
            remaining[number] -= 1
            if now.takes:
                if self.spread is not None and not remaining[number]:
                    self.spread.take(number, now.number or 0, now.weight)
            elif getattr(_backward, "reducers", 0) == 1:
                self.fold.submit_while(now.weight, lambda number: not remaining[number])

    def forgets(self) -> bool:
        """Whether the next backward pass begins a shard, whose gradients are its own."""
        return self.with_shards and (self._pending is not None or not self.now.passes)

    def bucket(self, leaf: Any) -> int | None:
        """Which bucket's sum ``leaf`` is part of, where it may begin within backward: a captured step lets go of the device there."""
        return self.fold.bucket_of[leaf] if self.overlap and self.group.size > 1 else None

    def backward_ends(self) -> None:
        if self.overlap:
            _backward.reducers = max(0, getattr(_backward, "reducers", 0) - 1)  # a void pass was not counted
        if self.now.weighted:
            self.now.weighted = False
            set_pass_weight(1.0)

    def check_readable(self, parameter: Any) -> None:
        """Reading never communicates; before the sum over shards and ranks there is nothing right to read."""
        if self.zero is not None and not self._open:
            self.zero.check_readable(parameter, self.names)
        if self.trivial or not self._open:
            return
        where = self._where()
        raise GraphError(
            f"the gradient of {self.names.get(parameter, 'a parameter')!r} is not summed over shards and ranks yet ({where}); read it "
            "after optimizer.step(), clip_grad_norm_() or model.synchronize()"
        )

    def gradients_cleared(self) -> None:
        """``zero_grad()``: the cycle begins anew."""
        if self.trivial:
            self.now = OpenShard(self.now.number, self.now.samples)
        if self.trivial or not self._open:
            return
        if self.with_shards and self.now.number is not None and self.now.passes:
            raise GraphError(
                f"zero_grad() while {self._where()}: it would drop part of the step; call it before `for batch in step:`"
            )
        self.fold.give_up()
        self._learn(0)
        before, expects = self.now, self._expects
        self._new_cycle()
        self._expects = expects
        if not self.with_shards:
            # zero_grad between forward and backward is common: what forward left belongs to the backward to come
            self.now.records, self.now.samples = before.records, before.samples

    def _where(self) -> str:
        if not self.with_shards:
            return "the step is open"
        (lo, hi), now = self.owned, self.now.number
        shard = next((n for n in (now, self._pending) if n is not None), lo)
        return f"shard {shard - lo + 1} of {hi - lo} {'closed, not summed' if now is None else 'open'}"

    def _begin_shard(self) -> None:
        shard = self.now.number
        if (shard is not None and shard < self.fold.next_shard) or self._pending is not None:
            raise GraphError(
                "a second loop over the shards of one step without optimizer.step() or zero_grad() between: call backward() for "
                "all losses of a shard in one loop"
            )
        for parameter in self.parameters:
            parameter._grad = None

    def _begin_cycle(self) -> bool:
        """False: ranks were lost, and the step is void."""
        self.follow_structure()
        if is_void():
            return False
        self._open = True
        self._cycle_counts = not self.with_shards or self._all_have_samples()
        self._unit = self._unit_of_weight()
        self.fold.carry(self.parameters)
        return True

    def _unit_of_weight(self) -> float:
        """What weights are counted in, so that a whole shard's is 1 and nothing is multiplied; equal on all ranks.

        With a loader the samples of a whole shard; without one, where no bits are promised, what a rank brought last time.
        """
        return float(max(self._sizes)) if self._sizes is not None else self._weight_before or 1.0

    def _weight_of(self, root: Any) -> float:
        if (weight := root.weight) is not None:
            return float(weight)
        if not self.trivial:
            self._warn_once(
                "weight",
                "this loss does not say how many items it averages (a sum of losses of unequal weight, or a loss of your own): each "
                "shard counts with its number of samples. Set `loss.weight = ...` before backward() to say otherwise.",
            )
        return float(self.now.samples) if self.now.samples else 1.0

    def _warn_once(self, key: str, text: str) -> None:
        if key not in self._warned and self.group.rank == 0:
            warnings.warn(text, stacklevel=2)
        self._warned.add(key)

    @property
    def in_shard(self) -> bool:
        """Whether the loop is inside a shard now."""
        return self.now.number is not None and self._watching

    # -- leaves and buckets -----------------------------------------------------------------------------------------

    def _all_have_samples(self) -> bool:
        """Whether every rank has a backward pass of its own in this step with shards; the same answer on all ranks."""
        sizes = self._sizes or ()
        return all(any(sizes[lo:hi]) for lo, hi in self.ranges)

    def _may_overlap(self) -> bool:
        if self.trivial or self.group.size == 1 or self.paused or self._again:
            return False
        if not self._foreseeable or self.together or not self.now.weight:
            return False
        if len(self._passes_before) < 2 or set(self._passes_before) != {self.now.passes}:
            return False
        return not self.with_shards or self.now.takes or (not self._is_before_last() and self._all_have_samples())

    def _is_before_last(self) -> bool:
        """Whether the open shard is not the last owned one with samples."""
        return self.with_shards and self.now.number != self._last_with_samples()

    def _shard_state(self) -> ShardState | None:
        return self.now.state(self._layouts, self.fold.used(self.parameters), self.check_finite)

    # -- the end of a cycle -------------------------------------------------------------------------------------------

    def synchronize(self) -> None:
        """Complete the global mean gradient on every rank; all ranks must call. Does nothing when there is nothing to sum."""
        if self.trivial:
            if self.now.passes:
                self.step_loss.alone(self.now.losses, self.check_finite)
                self.group.agree(self.group.ballot())
                self.group.steps_committed += 1
            self._new_cycle()
            return
        if is_void():
            self.forget()
        if not self._open and not self._expects:
            return
        if (begun := self._same.begin(self) if self._same is not None else NOT_BEGUN).stage == DONE:
            return
        if self.with_shards and self.now.number is not None:
            lo, hi = self.owned
            raise GraphError(
                f"optimizer.step() (or clipping) while shard {self.now.number - lo + 1} of {hi - lo} is open: it belongs after the loop "
                "`for batch in step:`, not inside"
            )
        if not self._open and not self._begin_cycle():  # no samples here: what others do in their first backward
            return
        fault_point("before-reduce")
        passes, ranks = self.now.passes, self.group.communicator
        try:
            state = self._complete(begun)
        except CommunicatorError as error:
            if self.group.elastic is None:
                raise
            self.group.elastic.recover(error)  # without those who were lost; this step is done again
            return
        self._learn(passes)
        self._same = record(self, state)
        fault_point("after-reduce")
        self._commit(state)
        if ranks is not self.group.communicator:  # the others have ended this step without this rank
            self.end.leave_out()

    gradients_wanted = synchronize
    """``optimizer.step()`` or clipping: complete the sum."""

    def _complete(self, begun: Begun) -> ShardState | None:
        if self.group.meeting.expected:
            self.group.meeting.finish()
        last = None
        if not self.with_shards:
            last = self._shard_state()
        elif self._pending is not None:
            self.fold.skip_to(self._pending)
            last = self._shard_state()
        return self.fold.complete(last, self._again, begun)

    @property
    def is_under_way(self) -> bool:
        """Whether a step has begun that is not complete."""
        return self._open or self._expects

    def forget(self) -> None:
        """Nothing of the step under way counts."""
        for parameter in self.parameters:
            parameter._grad = None
        self._new_cycle()

    def updated(self, optimizer: Any) -> None:
        """An optimizer has moved the parameters."""
        if not self.trivial:
            try:
                self.end.updated(optimizer)
            except CommunicatorError as error:
                if self.group.elastic is None:
                    raise
                self.group.elastic.recover(error)

    def _learn(self, passes: int) -> None:
        """Remember how the cycle went, where all ranks went alike."""
        if self._cycle_counts:
            self._passes_before = [*self._passes_before[-1:], passes]

    def _commit(self, state: ShardState | None) -> None:
        """All ranks are known to hold the complete sum: from here on things change."""
        if state is not None and (weight := state.weight):
            self.fold.write_means(self.parameters, state)
            commit_statistics(self._layers, state)
            self.step_loss.set(state.loss / weight)
            self._weight_before = _nearly_whole(weight * self._unit / self.shards)
            if 0 in state.layout.used_by_all:
                for key, text in unused(self.parameters, self.names, state):
                    self._warn_once(key, text)
        else:
            for parameter in self.parameters:
                parameter._grad = None
        self.fold.add_carried()
        self.group.steps_committed += 1
        self.end.committed()
        self._new_cycle()


def _nearly_whole(number: float) -> float:
    """The whole number where rounding alone has led away from it, so that weights are 1 again once ranks bring equally much."""
    whole = round(number)
    return float(whole) if abs(number - whole) <= 1e-9 * number else number
