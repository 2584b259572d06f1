"""One store on a GPU whose gradients are spread over ranks: as :class:`.lane.ZeroLane`, with ring, partial sums and sums on the GPU."""

from __future__ import annotations

from typing import Any

from ...core import gpu_memory
from ...core.backend import device_of
from ..reduction import on_device
from ..reduction.tree import whole_subtrees
from .lane import IN_FLIGHT, ZeroLane


class ZeroDeviceLane(ZeroLane):
    """See :class:`.lane.ZeroLane`."""

    def _find_memory(self, longest: int, limit: int, name: str) -> None:
        gpu, store = self.communicator.on_gpu(), self.store
        nodes = max(len(whole_subtrees(lo, hi, self.shards)) for lo, hi in self.ranges)
        self.slots = [store.new_buffer(self.leaf_dtype, longest) for _ in range(IN_FLIGHT)]
        self.sums = [
            gpu.empty(longest, self.leaf_dtype, name=f"{name} sum of piece {i}", nodes=nodes) for i in range(IN_FLIGHT)
        ]
        self._one_host = False
        self.rows = [store.new_buffer(self.leaf_dtype) for _ in range(limit)]
        gpu_memory.holds(self)

    def held(self) -> list[tuple[str, int, int]]:
        """What this lane holds of the GPU, for its memory report."""
        index = device_of(self.store.data).index or 0
        own = [*self.slots, *self.sums, *self.rows]
        if self.result is not self.store.gradient:
            own.append(self.result)
        return [("sums over shards", index, sum(int(buffer.nbytes) for buffer in own))]

    def _sum(self, left: Any, right: Any) -> None:
        on_device.add(left, right, left)

    def _scale(self, gradient: Any, factor: Any, out: Any) -> None:
        on_device.write_leaf(out, gradient, float(factor))
