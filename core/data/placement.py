"""Where this rank stands among the others, as far as the data is concerned. ``phalanx.init`` sets it.

Thread-local, because ranks can be threads of one process.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass

from ..errors import RangeError
from ..rank_local import of_rank
from .shards import owned_range


@dataclass(frozen=True, slots=True)
class Placement:
    """Rank ``rank`` of ``size``; ``shards`` is V of ``phalanx.init(shards=V)``, or None in the fast mode.

    >>> phalanx.data.Placement(rank=1, size=2, shards=4).owned
    range(2, 4)
    """

    rank: int = 0
    size: int = 1
    shards: int | None = None

    def __post_init__(self) -> None:
        if self.size < 1 or not 0 <= self.rank < self.size:
            raise RangeError(f"a placement needs 0 <= rank < size, got rank {self.rank} of {self.size}")
        if self.shards is not None and (not isinstance(self.shards, int) or self.shards < 1):
            raise RangeError(f"shards must be None or an integer of at least 1, got {self.shards!r}")

    @property
    def shard_count(self) -> int:
        """How many shards a global batch is cut into: V, or the number of ranks.

        >>> Placement(0, 2, 8).shard_count, Placement(0, 2).shard_count
        (8, 2)
        """
        return self.size if self.shards is None else self.shards

    @property
    def owned(self) -> range:
        """The shards that this rank computes.

        >>> Placement(1, 3, 8).owned, Placement(1, 3).owned
        (range(3, 6), range(1, 2))
        """
        return range(*owned_range(self.rank, self.size, self.shard_count))


_local = of_rank(threading.local())


def placement() -> Placement:
    """This rank's placement; rank 0 of 1 without shards until ``phalanx.init`` says otherwise.

    >>> phalanx.data.placement()
    Placement(rank=0, size=1, shards=None)
    """
    return getattr(_local, "placement", _ALONE)


def set_placement(new: Placement) -> Placement:
    """Set this thread's placement to ``new``; returns the one before. For ``phalanx.init`` and simulations.

    >>> before = phalanx.data.set_placement(phalanx.data.Placement(0, 1, 2))
    >>> batches = phalanx.data.DataLoader(phalanx.data.TensorDataset(np.arange(4)), batch_size=4).steps()
    >>> [x.tolist() for step in batches for (x,) in step]
    [[0, 1], [2, 3]]
    >>> _ = phalanx.data.set_placement(before)
    """
    before = placement()
    _local.placement = new
    return before


_ALONE = Placement()
