"""The fold of one rank's shards when gradients travel compressed: leaves are encoded as shards close, and sums by an exchange."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ...core.errors import RangeError
from ...core.flat import FlatStore
from ...core.tensor import Tensor
from ..fold import Fold
from ..group import Group
from ..reduction.bucket import Bucket, plan_buckets
from ..shard_state import ShardState
from .carry import Restoring, arrays
from .compressor import Compressor
from .schemes import Scheme

if TYPE_CHECKING:
    from ...core.nn.parameter import Parameter


class CompressedFold(Fold):
    """The sums of one cycle on this rank. Nothing lies in shared memory: codes always travel in messages."""

    def __init__(self, group: Group, bucket_bytes: int | None, scheme: Scheme) -> None:
        self.compressor = Compressor(scheme, group)
        self.places: list[tuple[FlatStore, Bucket]] = []
        super().__init__(group, bucket_bytes)

    def lay_out(self, stores: Sequence[FlatStore], names: Mapping[Parameter, str]) -> None:
        """Cut the stores into buckets; after a structural change, between two cycles."""
        if any(store.device != "cpu" for store in stores):
            raise RangeError(
                "DataParallel: compression is computed on the host, and these parameters are on a GPU: leave compression out (NCCL and "
                'shared memory carry whole gradients), or train on "cpu"'
            )
        buckets = [plan_buckets(s.offsets, s.length, s.dtype.itemsize, self.bucket_bytes) for s in stores]
        self.compressor.lay_out(stores, names, buckets)
        self.places = [(store, bucket) for store, plan in zip(stores, buckets, strict=True) for bucket in plan]
        self._number(self.places, names)
        self.result = stores[0].new_buffer() if stores else np.zeros(0, np.float32)
        self.reset()

    def reset(self) -> None:
        super().reset()
        self.compressor.rollback()

    def push(self, shard: int, state: ShardState | None) -> None:
        self.skip_to(shard)
        if state is not None:
            for number in range(len(self.places)):
                self.compressor.take(number, shard, state.weight)
        self._states.push(shard, state)
        self.next_shard = shard + 1

    def _submit(self, number: int, weight: float) -> None:
        _, bucket = self.places[number]
        program = self.compressor.program(number, self.next_shard, weight, self.result)
        name = f"{self.labels[number]} as {self.compressor.scheme} float32[{bucket.hi - bucket.lo}]"
        self._works.append(self.group.communicator.run(program, name=name))

    def write_means(self, parameters: Sequence[Parameter], state: ShardState) -> None:
        """Divide the sums by the total weight, once; the residuals of this step become valid."""
        used = dict(zip(parameters, map(bool, state.layout.used_by_some), strict=True))
        self.compressor.commit(used)
        number = np.float32(state.weight)
        for parameter, is_used in used.items():
            parameter._grad = None
            if is_used:
                part = slice(*parameter._store.extent(parameter._index))
                np.divide(self.result[part], number, out=parameter._store.gradient[part])
                parameter._grad = Tensor(parameter._slot)

    def memory(self) -> tuple[str, int, int]:
        """(formula, bytes on paper, measured) of the sum and of what is left out of the gradients."""
        if self.compressor.exchange is None:
            return "0", 0, 0
        formula, paper, measured = self.compressor.exchange.memory()
        return f"L + {formula}", paper + self.result.nbytes, measured + self.result.nbytes

    # -- checkpoints ---------------------------------------------------------------------------------------------------

    def state_arrays(self) -> dict[str, Any]:
        """Residuals and what else the next step depends on, by name."""
        return {} if self.compressor.exchange is None else arrays(self.compressor.exchange)

    def restoring(self, saved: Mapping[str, tuple[int, ...]]) -> Restoring | None:
        """Where to read what a checkpoint has of it: ``saved`` are the names there and their shapes."""
        exchange = self.compressor.exchange
        return None if exchange is None or not saved else Restoring(exchange, saved)
