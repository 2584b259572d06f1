"""What a reducer knows of the shard that the loop is inside of; one such record for each shard that is under way."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from ..core.backend import array_module, to_host
from ..core.nn.statistics import Entry
from ..core.op import Array
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
    weighted: bool = False
    """Whether the backward pass that runs has another weight than 1."""

    def state(self, layouts: Layouts, used: bytes, check_finite: Callable[[float], None]) -> ShardState | None:
        """Its leaf but for the gradients. None: nothing was computed.

        Args:
            used: 1 for each parameter that has one, else 0.
            check_finite: sees the losses that a GPU was still computing when backward began.
        """
        losses = self.losses
        for loss in losses:
            if isinstance(loss, Later):
                check_finite(float(loss))
        if not self.weight:
            return None
        total = float(losses[0]) if len(losses) == 1 else sum(map(float, losses), 0.0)
        about, means, deviations = [], [], []
        for layer, call, n, mean, m2 in self.records:
            about.append((layer, call, n, mean.size))
            means.append(mean)
            deviations.append(m2)
        moments = _on_host(means + deviations) if means else NO_MOMENTS
        return ShardState(self.weight, total * self.weight, layouts.of(about, used), moments)


class Layouts:
    """What the states of one rank consist of: the same object as the last time where it says the same.

    Args:
        names: of all modules.
    """

    def __init__(self, names: Mapping[Module, str]) -> None:
        self._names = names
        self._asked: tuple[Any, ...] = ()
        self._answer = Layout(b"", b"")

    def of(self, about: Sequence[tuple[Module, int, int, int]], used: bytes) -> Layout:
        """For what batch norms saw (layer, call, count, channels), and 1 for each parameter that was used, else 0."""
        asked = (used, about)
        if asked != self._asked:
            keys = tuple(f"{self._names[layer]}#{call}" for layer, call, _, _ in about)
            counts, sizes = tuple(float(n) for _, _, n, _ in about), tuple(size for *_, size in about)
            self._asked, self._answer = asked, Layout(used, used, keys, counts, sizes)
        return self._answer


def _on_host(arrays: Sequence[Array]) -> np.ndarray:
    """All means and behind them all M2, one row each, in float64 on the host; those of a GPU in one transfer."""
    if set(map(type, arrays)) == {np.ndarray}:
        flat = np.concatenate(arrays, dtype=np.float64)
    else:
        flat = to_host(array_module(*arrays).concatenate([array.reshape(-1) for array in arrays])).astype(np.float64)
    return flat.reshape(2, -1)
