"""What a reducer knows of the shard that the loop is inside of; one such record for each shard that is under way."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from ..core.backend import array_module, to_host
from ..core.nn.statistics import Entry
from .losses import Later, Loss
from .shard_state import NO_MOMENTS, Layout, ShardState

if TYPE_CHECKING:
    from ..core.nn.module import Module


@dataclass(slots=True, eq=False)
class OpenShard:
    """In the fast mode: of this rank's part of the step."""

    number: int | None = None
    """None outside of a shard, and always in the fast mode."""
    samples: int = 0
    passes: int = 0
    """Backward passes so far."""
    weight: float = 0.0
    losses: list[Loss] = field(default_factory=list)
    """One for each backward pass."""
    records: list[Entry] = field(default_factory=list)
    """What batch norms saw."""
    remaining: list[int] | None = None
    """For each bucket how many gradients the running backward pass still owes; None without overlap."""
    takes: bool = False
    """ZeRO-2: a shard before the last owned one; what is final in its last pass is folded and freed."""

    def state(self, names: Mapping[Module, str], used: bytes) -> ShardState | None:
        """Its leaf but for the gradients; ``used``: 1 for each parameter that has one, else 0. None: nothing was computed."""
        if not self.weight:
            return None
        keys, counts, sizes = [], [], []
        for entry in self.records:
            keys.append(f"{names[entry.layer]}#{entry.call_number}")
            counts.append(float(entry.n))
            sizes.append(entry.mean.size)
        loss = sum(map(float, self.losses), 0.0)
        layout = Layout(used, used, tuple(keys), tuple(counts), tuple(sizes))
        if not keys:
            return ShardState(self.weight, loss * self.weight, layout, NO_MOMENTS)
        return ShardState(self.weight, loss * self.weight, layout, _on_host(self.records))

    def check(self, check_finite: Callable[[float], None]) -> None:
        """Look at the losses that a GPU was still computing when backward began."""
        for loss in self.losses:
            if isinstance(loss, Later):
                check_finite(float(loss))


def _on_host(records: Sequence[Entry]) -> np.ndarray:
    """All means and all M2, one row each, in float64 on the host; those of a GPU in one transfer."""
    arrays = [entry.mean for entry in records] + [entry.m2 for entry in records]
    if all(type(array) is np.ndarray for array in arrays):
        flat = np.concatenate(arrays, dtype=np.float64)
    else:
        flat = to_host(array_module(*arrays).concatenate([array.reshape(-1) for array in arrays])).astype(np.float64)
    return flat.reshape(2, -1)
