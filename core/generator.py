"""Generator: PyTorch's way to hand a seed to ``random_split`` or a DataLoader."""

from __future__ import annotations

from typing import Any

import numpy as np

from .errors import RangeError


class Generator:
    """A seed. Randomness is keyed here, so that nothing advances: two users of one generator draw the same.

    >>> phalanx.Generator().manual_seed(42).initial_seed()
    42
    """

    def __init__(self, device: Any = "cpu") -> None:
        self.device = device
        self._seed = 0

    def manual_seed(self, seed: int) -> Generator:
        """Set the seed; returns self."""
        if not isinstance(seed, int | np.integer) or isinstance(seed, bool):
            raise RangeError(f"Generator.manual_seed expects an integer, got {seed!r}")
        self._seed = int(seed) & 0xFFFFFFFFFFFFFFFF
        return self

    def initial_seed(self) -> int:
        """The seed."""
        return self._seed
