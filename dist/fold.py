"""The fold of one rank's shards and its exchange with the other ranks: lanes, buckets, the last message of a step.

Shards arrive in order. All but the last owned one are pushed whole; the last is folded bucket by bucket, so that a bucket's
reduction can start within backward. Every rank submits the same operations in the same order: each bucket once, then
the commit; and all of it again if some rank votes so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..core.flat import FlatStore
from ..core.tensor import Tensor
from .commit import write_means
from .communicators.base import Work
from .communicators.verbs import Start
from .device_lane import DeviceLane
from .errors import CommunicatorError
from .group import Group
from .lane import Lane
from .messages import Messages, Program
from .reduction.as_before import NOT_BEGUN, Begun
from .reduction.bucket import Bucket
from .reduction.mean_and_commit import MeanAndCommit
from .reduction.tree import Accumulator, Node
from .shard_state import NO_VOTES, ShardState, Votes, decode, encode, exchange, merge, own_states

if TYPE_CHECKING:
    from ..core.nn.parameter import Parameter


class Fold:
    """The sums of one cycle on this rank."""

    def __init__(self, group: Group, bucket_bytes: int | None, overlap: bool = True) -> None:
        self.group, self.bucket_bytes, self.overlap = group, bucket_bytes, overlap
        self.shards, self.ranges = group.shard_count, group.ranges
        self.first, self.stop = self.ranges[group.rank]
        self.lanes: list[Lane] = []
        self.buckets: list[tuple[Lane, Bucket]] = []
        self._start: Start = "background"
        self._states: Accumulator[ShardState] = Accumulator(self.shards, merge)
        self.both: MeanAndCommit | None = None
        """Where one bucket is all there is, and its sum takes the place of the gradients: laid out so on all ranks."""
        self.reset()

    def lay_out(self, stores: Sequence[FlatStore], names: Mapping[Parameter, str]) -> None:
        """Cut the stores into buckets; after a structural change, between two cycles."""
        comm = self.group.communicator
        foreign = any(p not in names for store in stores for p in store.parameters)
        in_place = not (self.overlap or foreign)
        if self.group.size > 1:
            in_place = all(comm.all_gather_object(in_place and comm.shares_all_memory(), name="sums in place").wait())
        self.lanes = [
            (Lane if store.device == "cpu" else DeviceLane)(
                store, comm, self.shards, self.ranges, self.bucket_bytes, f"{store.dtype} store", in_place
            )
            for store in stores
        ]
        self.buckets = [(lane, bucket) for lane in self.lanes for bucket in lane.buckets]
        self._number([(lane.store, bucket) for lane, bucket in self.buckets], names)
        self.both = None
        if len(self.buckets) == 1 and self.group.size > 1 and self.lanes[0].is_in_place:
            result = self.lanes[0].result
            name = f"{self.labels[0]} {result.dtype}[{result.size}] and commit of step"
            self.both = MeanAndCommit(name, self.ranges, self.shards)
        self.reset()

    def _number(self, buckets: Sequence[tuple[FlatStore, Bucket]], names: Mapping[Parameter, str]) -> None:
        """Number all buckets in the order in which they are reduced."""
        self.bucket_of: dict[Parameter, int] = {}
        self.labels: list[str] = []
        for number, (store, bucket) in enumerate(buckets):
            members = store.parameters[bucket.first : bucket.last + 1]
            self.bucket_of.update(dict.fromkeys(members, number))
            ends = [names.get(p, "?") for p in (members[0], members[-1])]
            label = ends[0] if len(members) == 1 else f"{ends[0]} to {ends[1]}"
            self.labels.append(f"gradient bucket {number} ({label})")

    def reset(self) -> None:
        """Forget all sums."""
        self._works: list[Work] = []
        if self._states.partials:
            self._states = Accumulator(self.shards, merge)
        self.next_shard = self.first
        self.submitted = 0
        self._is_mean = False
        """Whether the sums have been divided."""
        self._carried: dict[Parameter, Any] = {}
        for lane in self.lanes:
            lane.reset()

    # -- gradients, where backward left them --------------------------------------------------------------------------

    def used(self, parameters: Sequence[Parameter]) -> bytes:
        """For each of ``parameters`` 1 if the open shard used it, else 0."""
        return bytes([parameter._grad is not None for parameter in parameters])

    def surprised(self) -> bool:
        """A backward pass begins: was the one before taken for the last? Then its sums are void, all ranks do them again."""
        if self.submitted:
            self.give_up()
        return self.submitted > 0

    def carry(self, parameters: Sequence[Parameter]) -> None:
        """Keep gradients that nobody cleared aside until the sum is complete; they are added to, as in PyTorch."""
        if self.group.shards is not None:
            self._carried = {p: p._grad.array.copy() for p in parameters if p._grad is not None}

    def add_carried(self) -> None:
        """The sum is complete: add what was carried."""
        for parameter, before in self._carried.items():
            slot: Any = parameter._slot
            if parameter._grad is None:
                slot[...] = before
                parameter._grad = Tensor(slot)
            else:
                slot += before

    def write_means(self, parameters: Sequence[Parameter], state: ShardState) -> None:
        """Divide the sums by the total weight, once, into the gradients."""
        write_means(() if self._is_mean else self.lanes, parameters, state)

    # -- shards -------------------------------------------------------------------------------------------------------

    def skip_to(self, shard: int) -> None:
        """Shards without samples or without a backward pass are absent leaves."""
        while self.next_shard < shard:
            for lane in self.lanes:
                lane.fold.push(self.next_shard, None)
            self._states.push(self.next_shard, None)
            self.next_shard += 1

    def push(self, shard: int, state: ShardState | None) -> None:
        """Take the leaf of a shard that is not the last owned one: the gradients as they stand, times the weight."""
        self.skip_to(shard)
        for lane in self.lanes:
            lane.push(shard, None if state is None else state.weight)
        self._states.push(shard, state)
        self.next_shard = shard + 1

    # -- the last owned shard, bucket by bucket -----------------------------------------------------------------------

    def submit_while(self, weight: float, ready: Callable[[int], bool]) -> None:
        """Start the reduction of the next buckets, in order, as long as they are ``ready``; ``weight`` of the last leaf."""
        while self.submitted < len(self.labels) and ready(self.submitted):
            self._submit(self.submitted, weight)
            self.submitted += 1

    def _submit(self, number: int, weight: float) -> None:
        (lane, bucket), label = self.buckets[number], self.labels[number]
        terms = lane.terms(bucket, range(self.next_shard, self.stop), weight)
        out, shards, ranges = lane.result[bucket.lo : bucket.hi], self.shards, self.ranges
        if self.group.size > 1:
            self._works.append(
                self.group.communicator.tree_all_reduce(
                    terms, ranges, shards, out, name=label, start=self._start, exact=self.group.shards is not None
                )
            )
        else:
            lane.sum_alone(terms, out)

    def wait(self) -> None:
        """Until every bucket that was submitted is complete."""
        works, self._works = self._works, []
        for work in reversed(works):  # they run in order: waiting for the last wakes this thread once
            work.wait()

    def give_up(self) -> None:
        """What was submitted is void: until nothing is under way any more. Ranks that are lost show at the end of the step."""
        try:
            self.wait()
        except CommunicatorError as error:
            self._works = []
            if self.group.elastic is None or not self.group.elastic.is_loss(error):
                raise

    @property
    def in_flight(self) -> int:
        """Buckets whose reduction was started and not waited for."""
        return len(self._works)

    # -- the end of the step ------------------------------------------------------------------------------------------

    def complete(self, last: ShardState | None, again: bool, begun: Begun = NOT_BEGUN) -> ShardState | None:
        """The merged state of all shards; when it returns, every rank is known to hold every bucket's sum.

        ``last``: state of the last owned shard with samples; ``again``: this rank's overlapped sums are void. ``begun``: what has been
        done of it already, by a rank that votes for nothing.
        """
        if self.both is not None and not self.submitted:
            votes = self.group.ballot(again) if begun is NOT_BEGUN else NO_VOTES
            state, votes = self._mean_and_commit(self.both, last, votes, begun)
            if not votes.again:
                self.group.agree(votes)
                return state
            again = False
        while True:
            self._start = "when waited for"  # nothing is left to compute: the way to another thread would cost more
            self.submit_while(last.weight if last is not None else 0.0, lambda number: True)
            self._start = "background"
            self.wait()
            state, votes = self._commit(last, self.group.ballot(again))
            if not votes.again:
                self.group.agree(votes)
                return state
            again, self.submitted = False, 0

    def _mean_and_commit(
        self, both: MeanAndCommit, last: ShardState | None, votes: Votes, begun: Begun
    ) -> tuple[ShardState | None, Votes]:
        """The only bucket's mean and the commit, in one operation."""
        lane, bucket = self.buckets[0]
        states = [last] if self.stop - self.first == 1 else self._own_states(last)
        terms = lane.terms(bucket, range(self.next_shard, self.stop), 0.0 if last is None else last.weight)

        def program(messages: Messages) -> tuple[ShardState | None, Votes]:
            return both(messages, terms, lane.result, states, votes, number, begun.stage)

        number = self.group.steps_committed + 1
        state, votes = self._agreed(program, both.name, flush=False, began=begun.at)
        self.submitted, self._is_mean = int(not votes.again), not votes.again
        return state, votes

    def _own_states(self, last: ShardState | None) -> list[ShardState | None]:
        """Of each whole subtree of this rank's shards what it brings."""
        return own_states(self.group.rank, self._states_of_all(last), self.ranges, self.shards)

    def _states_of_all(self, last: ShardState | None) -> dict[Node, ShardState | None]:
        """What this rank brings of its shards' states."""
        fold: Accumulator[ShardState] = Accumulator(self.shards, merge)
        fold.partials = dict(self._states.partials)
        for shard in range(self.next_shard, self.stop):
            fold.push(shard, last if shard == self.next_shard else None)
        return fold.partials

    def _commit(self, last: ShardState | None, votes: Votes) -> tuple[ShardState | None, Votes]:
        partials = self._states_of_all(last)
        if self.group.size == 1:
            # through the codec also when alone: the same values everywhere
            (state,), votes = decode(encode([partials.get((0, self.shards))], votes))
            return state, votes
        return self._agreed(lambda m: exchange(m, partials, votes, self.ranges, self.shards), "commit of step")

    def _agreed(
        self, program: Program, name: str, flush: bool = True, began: float = 0.0
    ) -> tuple[ShardState | None, Votes]:
        """What ``program``, the last operation of a step, gives; also where a rank is lost in it and another one knows."""
        number = self.group.steps_committed + 1
        try:
            state, votes = self.group.communicator.call(program, name=f"{name} {number}", flush=flush, began=began)
        except CommunicatorError as error:
            # some survivors may have heard from a lost rank and others not: all go on to the update, or none
            held = self.group.after_loss(error, number)
            if held is None:
                raise
            (state,), votes = decode(held)
        if not votes.again:
            self.group.last_commit = (number, state, votes)
        return state, votes
