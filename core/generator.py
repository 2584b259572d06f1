"""Generator: PyTorch's way to hand a seed to ``random_split``, a DataLoader, or a function that draws."""

from __future__ import annotations

from typing import Any

import numpy as np

from . import rng
from .errors import RangeError


class Generator:
    """A seed of its own. Splits, samplers and loaders take its seed only, so that two users of one generator agree.

    Functions that draw (``randn(3, generator=g)``) count their calls on it; inside of a shard's scope they count in that
    (step, shard), so that what a shard draws does not depend on who owns it.

    >>> g = phalanx.Generator().manual_seed(42)
    >>> a, b = phalanx.rand(2, generator=g), phalanx.rand(2, generator=g)
    >>> phalanx.equal(a, b), phalanx.equal(a, phalanx.rand(2, generator=g.manual_seed(42)))
    (False, True)
    """

    def __init__(self, device: Any = "cpu") -> None:
        self.device = device
        self._seed = 0
        self._calls: dict[tuple[int, int] | None, int] = {}

    def manual_seed(self, seed: int) -> Generator:
        """Set the seed and begin anew; returns self."""
        if not isinstance(seed, int | np.integer) or isinstance(seed, bool):
            raise RangeError(f"Generator.manual_seed expects an integer, got {seed!r}")
        self._seed = int(seed) & 0xFFFFFFFFFFFFFFFF
        self._calls = {}
        return self

    def initial_seed(self) -> int:
        """The seed."""
        return self._seed

    def next_key(self) -> rng.Key:
        """The key of the next draw."""
        step, shard = rng.scope()
        place = None if step is None or shard is None else (step, shard)
        call = self._calls.get(place, 0)
        # what earlier steps counted is not asked for again
        self._calls = {k: n for k, n in self._calls.items() if k is None or place is None or k[0] == place[0]}
        self._calls[place] = call + 1
        return rng.user_key(self._seed, place, call)
