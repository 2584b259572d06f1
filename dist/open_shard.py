"""What a reducer knows of the shard that the loop is inside of; one such record for each shard that is under way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from ..core.nn.statistics import Entry
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
    loss: float = 0.0
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
        statistics = {
            f"{names[e.layer]}#{e.call_number}": (
                float(e.n),
                np.asarray(e.mean, np.float64),
                np.asarray(e.m2, np.float64),
            )
            for e in self.records
        }
        flags = np.array(used, bool)
        return ShardState(self.weight, self.loss * self.weight, flags, flags.copy(), statistics)
