"""The fold of one rank's shards when gradients are spread over ranks (ZeRO-2): buckets are taken, summed and freed.

What was taken cannot be given back. A backward pass that was not foreseen, after which an unsharded step does its sums
again, is an error here that says what to do. Without overlap nothing is taken before the shard is known to be over.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ...core.errors import GraphError
from ...core.flat import FlatStore
from ...core.tensor import Tensor
from ..fold import Fold
from ..group import Group
from ..shard_state import ShardState
from .device_lane import ZeroDeviceLane
from .lane import ZeroLane
from .ownership import Zero

if TYPE_CHECKING:
    from ...core.nn.parameter import Parameter


@dataclass(slots=True)
class _Kept:
    """Gradients of the step before that nobody cleared: the own part of a store, and of which parameters."""

    gradient: np.ndarray
    parameters: list[int]


class ZeroFold(Fold):
    """The sums of one cycle on this rank, of which it keeps what it owns."""

    def __init__(self, group: Group, bucket_bytes: int | None, zero: Zero) -> None:
        self.zero = zero
        self.zero_lanes: list[ZeroLane] = []
        self._taken: set[int] = set()
        """Buckets of the open shard whose gradients were taken."""
        self._used: set[Parameter] = set()
        """Parameters of the open shard whose gradients were taken."""
        self._live: set[Parameter] = set()
        self._kept: list[tuple[ZeroLane, _Kept]] = []
        self.live_nbytes = self.peak_nbytes = self.last_peak_nbytes = 0
        """Gradients that backward made and nobody took yet: now, at most in this cycle, at most in the cycle before."""
        super().__init__(group, bucket_bytes)

    def lay_out(self, stores: Sequence[FlatStore], names: Mapping[Parameter, str]) -> None:
        """Cut the stores into buckets; after a structural change, between two cycles."""
        comm, own = self.group.communicator, set(names)
        self.zero_lanes = [
            (ZeroLane if s.device == "cpu" else ZeroDeviceLane)(
                s, comm, self.ranges, self.zero.cuts[s], self.bucket_bytes, own, f"{s.dtype} store"
            )
            for s in stores
        ]
        self.places = [(lane, bucket) for lane in self.zero_lanes for bucket in lane.buckets]
        self._number([(lane.store, bucket) for lane, bucket in self.places], names)
        self.reset()

    def reset(self) -> None:
        super().reset()
        self._kept = []
        for lane in self.zero_lanes:
            lane.forget()
            lane.reset()
        self._begin_shard()
        self.last_peak_nbytes, self.peak_nbytes = self.peak_nbytes, 0

    def _begin_shard(self) -> None:
        self._taken.clear()
        self._used.clear()
        self._live.clear()
        self.live_nbytes = 0

    # -- gradients on their way ---------------------------------------------------------------------------------------

    def arrived(self, parameter: Parameter) -> None:
        """Count the memory of a gradient that backward made."""
        if parameter._grad is not None and parameter not in self._live:
            self._live.add(parameter)
            self.live_nbytes += parameter._grad.array.nbytes
            self.peak_nbytes = max(self.peak_nbytes, self.live_nbytes)

    def used(self, parameters: Sequence[Parameter]) -> bytes:
        return bytes([parameter._grad is not None or parameter in self._used for parameter in parameters])

    def surprised(self) -> bool:
        if self.submitted or self._taken:
            raise GraphError(
                'DataParallel(shard="gradients"): one more backward pass in this shard than in the two steps before, but gradients of '
                "it were summed and freed already. Where the number of backward passes varies, give DataParallel overlap=False "
                '(all gradients are kept until the shard is over) or shard="optimizer"'
            )
        return False

    def take(self, number: int, shard: int, weight: float) -> None:
        """Within the last backward pass of a shard that is not the last owned one: a bucket's gradients are final."""
        self.skip_to(shard)
        lane, bucket = self.places[number]
        lane.push(bucket, shard, weight)
        self._free(number)

    def _free(self, number: int) -> None:
        lane, bucket = self.places[number]
        self._taken.add(number)
        for parameter in lane.store.parameters[bucket.first : bucket.last + 1]:
            if parameter._grad is not None and parameter in lane.own:
                self._used.add(parameter)
                if parameter in self._live:
                    self._live.remove(parameter)
                    self.live_nbytes -= parameter._grad.array.nbytes
                parameter._grad = None

    # -- shards -------------------------------------------------------------------------------------------------------

    def skip_to(self, shard: int) -> None:
        while self.next_shard < shard:
            for lane in self.zero_lanes:
                lane.skip(self.next_shard)
            self._states.push(self.next_shard, None)
            self.next_shard += 1

    def push(self, shard: int, state: ShardState | None) -> None:
        self.skip_to(shard)
        if state is None:
            for lane in self.zero_lanes:
                lane.skip(shard)
        else:
            for number in range(len(self.places)):
                if number not in self._taken:
                    self.take(number, shard, state.weight)
        self._states.push(shard, state)
        self.next_shard = shard + 1
        self._begin_shard()

    def _submit(self, number: int, weight: float) -> None:
        lane, bucket = self.places[number]
        lane.submit(bucket, range(self.next_shard, self.stop), weight, self.labels[number])
        self._free(number)

    def wait(self) -> None:
        for lane in self.zero_lanes:
            lane.wait()

    @property
    def in_flight(self) -> int:
        return sum(lane.in_flight for lane in self.zero_lanes)

    # -- the end of the step ------------------------------------------------------------------------------------------

    def carry(self, parameters: Sequence[Parameter]) -> None:
        """Keep gradients that nobody cleared aside until the sum is complete; they are added to, as in PyTorch."""
        for lane in self.zero_lanes:
            store = lane.store
            present = [index for index, p in enumerate(store.parameters) if p._grad is not None and p in lane.own]
            for index in present:
                store.take_gradient(index, store.parameters[index]._grad.array)
                store.parameters[index]._grad = None
            if present:
                self._kept.append((lane, _Kept(store.gradient.copy(), present)))

    def add_carried(self) -> None:
        """The sum is complete: add what was carried."""
        for lane, carried in self._kept:
            store = lane.store
            low = store.range[0]
            for index in carried.parameters:
                parameter, (lo, hi) = store.parameters[index], store.clip(*store.extent(index))
                before = carried.gradient[lo - low : hi - low]
                if parameter._grad is None:
                    store.gradient_part(lo, hi)[...] = before
                    parameter._grad = Tensor(store.own_gradient(index))
                else:
                    store.gradient_part(lo, hi)[...] += before

    def write_means(self, parameters: Sequence[Parameter], state: ShardState) -> None:
        """Divide the sums by the total weight, once; no gradient where no shard used a parameter."""
        for lane in self.zero_lanes:
            lane.write_means(state.weight)
        for parameter, used in zip(parameters, state.layout.used_by_some, strict=True):
            parameter._grad = Tensor(parameter._store.own_gradient(parameter._index)) if used else None
