"""A flat store on a GPU on its way through the reduction: as :class:`.lane.Lane`, with its memory and its sums on the GPU.

What must be computed before ranks meet runs on the training stream, behind the backward pass that made the gradients.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..core import gpu_memory
from ..core.backend import device_kind, device_of
from ..core.nn.module import Module
from .communicators.base import Communicator
from .lane import Lane
from .reduction import on_device
from .reduction.expression import Term, expression
from .reduction.tree import Node, whole_subtrees


def on_gpu(module: Module) -> bool:
    """Whether any parameter of ``module`` lies on a GPU."""
    return any(device_kind(parameter.array) != "cpu" for parameter in module.parameters())


class DeviceLane(Lane):
    """See :class:`.lane.Lane`."""

    def _find_memory(
        self, communicator: Communicator, ranges: list[tuple[int, int]], limit: int, name: str, in_place: bool
    ) -> None:
        store = self.store
        nodes = max(len(whole_subtrees(lo, hi, self.shards)) for lo, hi in ranges)
        self._result = None
        if communicator.size == 1:
            self._result = None if in_place else store.new_buffer(self.leaf_dtype)
        elif in_place:
            communicator.on_gpu().expect_sums(store.gradient, name=f"{name} gradient", nodes=nodes)
        else:
            gpu = communicator.on_gpu()
            self._result = gpu.empty(store.length, self.leaf_dtype, name=f"{name} result", nodes=nodes)
        self._free = [store.new_buffer(self.leaf_dtype) for _ in range(limit)]
        gpu_memory.holds(self)

    @property
    def is_in_place(self) -> bool:
        """Never: GPUs sum in an operation of their own, the commit follows on the host."""
        return False

    def held(self) -> list[tuple[str, int, int]]:
        """What this lane holds of the GPU, for its memory report."""
        index = device_of(self.store.gradient).index or 0
        own = self.rows if self._result is None else [*self.rows, self._result]
        return [("sums over shards", index, sum(int(buffer.nbytes) for buffer in own))]

    def sum_alone(self, terms: Mapping[Node, Term | None], out: Any) -> None:
        present = {node: term for node, term in terms.items() if term is not None}
        on_device.evaluate(expression((0, self.shards), present), present, out, empty=-0.0)

    def _write_leaf(self, out: Any, weight: float) -> None:
        on_device.write_leaf(out, self.store.gradient, weight)

    def _add(self, left: Any, right: Any) -> Any:
        on_device.add(left, right, left)
        self._free.append(right)
        return left
