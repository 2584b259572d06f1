"""What a reducer knows of the shard that the loop is inside of; one such record for each shard that is under way."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from ..core.backend import array_module, device_kind, to_host
from ..core.nn.statistics import Entry
from .losses import Later, Loss
from .shard_state import ShardState

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

    def state(self, names: Mapping[Module, str], used: Sequence[bool]) -> ShardState | None:
        """Its leaf but for the gradients; ``used``: which parameters have one. None: nothing was computed."""
        if not self.weight:
            return None
        moments = _on_host([array for e in self.records for array in (e.mean, e.m2)])
        statistics = {
            f"{names[e.layer]}#{e.call_number}": (float(e.n), mean, m2)
            for e, mean, m2 in zip(self.records, moments[::2], moments[1::2], strict=True)
        }
        flags = np.array(used, bool)
        loss = sum(map(float, self.losses), 0.0)
        return ShardState(self.weight, loss * self.weight, flags, flags.copy(), statistics)

    def check(self, check_finite: Callable[[float], None]) -> None:
        """Look at the losses that a GPU was still computing when backward began."""
        for loss in self.losses:
            if isinstance(loss, Later):
                check_finite(float(loss))


def _on_host(arrays: Sequence[Any]) -> list[np.ndarray]:
    """``arrays`` as float64 on the host; those of a GPU in one transfer."""
    if not any(device_kind(array) != "cpu" for array in arrays):
        return [np.asarray(array, np.float64) for array in arrays]
    flat = array_module(*arrays).concatenate([array.reshape(-1) for array in arrays])
    ends = np.cumsum([array.size for array in arrays])
    parts = np.split(to_host(flat).astype(np.float64), ends[:-1])
    return [part.reshape(array.shape) for part, array in zip(parts, arrays, strict=True)]
