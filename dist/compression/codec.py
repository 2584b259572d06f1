"""What a codec of gradients is: a pure function from float32 numbers to bytes and back, on a grid of blocks.

Codecs see *runs*: neighbouring elements of one parameter that begin on its chunk grid (:data:`...core.flat.CHUNK`, which restarts
at each parameter). The blocks of a codec divide a chunk, so that what becomes of a number does not depend on how runs are
cut, on ranks or on buckets. Within a block only elementwise operations, maxima and sums by halves are used: equal bits on
every processor. The size of the bytes follows from the number of elements alone.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ...core.errors import RangeError
from ...core.flat import CHUNK
from ...core.rng import Key

ALIGNMENT_BYTES = 4
"""The bytes of every run are a multiple of it."""


@dataclass(frozen=True, slots=True)
class Draw:
    """Where the random numbers of a run come from: a key of (seed, step, shard, parameter), and the run's first element."""

    key: Key
    first: int = 0

    def random_bytes(self, count: int) -> np.ndarray:
        """``count`` uniform uint8; element i of a parameter has byte i % 4 of word i // 4."""
        words = self.key.bits(-(-count // 4), first=self.first // 4)
        return words.astype("<u4", copy=False).view(np.uint8)[:count]


class Codec(ABC):
    """Float32 numbers to bytes and back. NaN and infinity come out as numbers that are not finite."""

    feedback: ClassVar[bool]
    """Whether what the bytes leave out is added to the next step's numbers (error feedback)."""

    def for_sum(self, shards: int) -> Codec:
        """The codec of the sum over ``shards``: this one, unless the sum needs another."""
        return self

    @abstractmethod
    def nbytes(self, size: int) -> int:
        """Bytes of a run of ``size`` elements."""

    @abstractmethod
    def encode(self, values: np.ndarray, out: np.ndarray, draw: Draw) -> None:
        """Write the run ``values`` (1-D float32) into ``out`` (uint8, ``nbytes(values.size)`` of them)."""

    @abstractmethod
    def decode(self, data: np.ndarray, out: np.ndarray) -> None:
        """Write the numbers that ``data`` (uint8) stands for into ``out`` (1-D float32)."""


def aligned(nbytes: int) -> int:
    """The next multiple of the alignment.

    >>> aligned(5), aligned(8)
    (8, 8)
    """
    return -(-nbytes // ALIGNMENT_BYTES) * ALIGNMENT_BYTES


def blocks(size: int, block: int) -> int:
    """How many blocks hold ``size`` elements."""
    return -(-size // block)


def rows(block: int, *arrays: np.ndarray) -> Iterator[tuple[slice, list[np.ndarray]]]:
    """The 1-D ``arrays`` of equal size as matrices with one block a row: the whole blocks, then the shorter last one.

    Yields the numbers of the blocks and the views.

    >>> [(s.start, s.stop, m.shape) for s, (m,) in rows(4, np.zeros(10))]
    [(0, 2, (2, 4)), (2, 3, (1, 2))]
    """
    size = arrays[0].size
    whole = size // block
    if whole:
        yield slice(0, whole), [array[: whole * block].reshape(whole, block) for array in arrays]
    if size > whole * block:
        yield slice(whole, whole + 1), [array[whole * block :].reshape(1, -1) for array in arrays]


def sum_by_halves(matrix: np.ndarray) -> np.ndarray:
    """The sum of each row, by halves: elementwise additions in a fixed order. Overwrites ``matrix``.

    >>> sum_by_halves(np.arange(10.0).reshape(2, 5))
    array([10., 35.])
    """
    width = matrix.shape[1]
    while width > 1:
        half = width // 2
        matrix[:, :half] += matrix[:, width - half : width]
        width -= half
    return matrix[:, 0].copy()


def require_block(codec: str, block: int) -> None:
    """Raises RangeError unless ``block`` is a power of two from 8 to a chunk."""
    if not isinstance(block, int) or isinstance(block, bool) or not 8 <= block <= CHUNK or block & (block - 1):
        raise RangeError(f"{codec} expects block to be a power of two from 8 to {CHUNK}, got {block!r}")
