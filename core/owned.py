"""What a rank keeps when optimizer state or gradients are spread over ranks: its part of a tensor, and whom it asks for more.

Nothing here communicates: a :class:`Keeper` does, and ``dist/zero.py`` provides it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from .backend import to_host
from .errors import RangeError

if TYPE_CHECKING:
    from .flat import FlatStore

GRAINS = ("element", "parameter", "matrix")
"""From fine to coarse: where an update may be cut (at the chunk grid, at parameters, at whole matrices)."""


@dataclass(frozen=True, slots=True, eq=False)
class OwnPart:
    """This rank's part of a tensor of ``shape``: the elements [lo, lo + array.size) in C order, as a 1-D live view.

    >>> part = OwnPart(np.zeros(4, np.float32), 2, (3, 5))
    >>> part.dtype, part.hi, part.count
    (dtype('float32'), 6, 15)
    """

    array: Any
    lo: int
    shape: tuple[int, ...]

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(self.array.dtype)

    @property
    def hi(self) -> int:
        return self.lo + int(self.array.size)

    @property
    def count(self) -> int:
        """Elements of the whole tensor."""
        return math.prod(self.shape)


class Keeper(Protocol):
    """The other ranks, as far as a store asks for them. Every call is collective: all ranks make the same ones in order."""

    def gather_parameters(self, spans: list[tuple[FlatStore, int, int]]) -> None:
        """Each rank's own part of the parameter elements [lo, hi) of each store, to all ranks."""

    def whole(self, store: FlatStore, part: Any, name: str) -> Any:
        """A new buffer of the whole layout from every rank's ``part`` of it."""

    def gather_values(self, values: np.ndarray, own: np.ndarray) -> None:
        """Complete the float64 ``values`` in place: number i is that of the rank whose ``own[i]`` is true."""

    def release(self, store: FlatStore) -> None:
        """Make everything whole on every rank, before a structural change."""

    def recut(self, store: FlatStore) -> None:
        """Cut anew: the grain of the store has become coarser."""


def on_host(array: Any) -> np.ndarray | OwnPart:
    """An array, or a rank's part of one, in host memory; itself if it is there already."""
    if isinstance(array, OwnPart):
        return array if isinstance(array.array, np.ndarray) else replace(array, array=to_host(array.array))
    return to_host(array)


def coarser(first: str, second: str) -> str:
    """The coarser of two grains.

    >>> coarser("parameter", "element")
    'parameter'
    """
    for grain in (first, second):
        if grain not in GRAINS:
            raise RangeError(f"a grain is one of {', '.join(GRAINS)}, got {grain!r}")
    return max(first, second, key=GRAINS.index)


def absent(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """Stands for a gradient that lies with other ranks: of its shape, without memory, read-only, not a number."""
    return np.broadcast_to(np.array(np.nan, dtype), shape)


def is_absent(array: Any) -> bool:
    """Whether ``array`` only stands for a gradient that lies with other ranks.

    >>> is_absent(absent((2, 3), np.float32)), is_absent(np.zeros(2))
    (True, False)
    """
    return isinstance(array, np.ndarray) and not array.flags.writeable
