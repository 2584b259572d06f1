"""The largest numbers of each chunk alone."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from ...core.errors import RangeError
from ...core.flat import CHUNK
from .codec import Codec, Draw, aligned, rows

_MAGNITUDE = np.uint32(0x7FFFFFFF)
_STRIDE = 16
_SUM_LIMIT = 4


@dataclass(frozen=True, slots=True)
class TopK(Codec):
    """Of each chunk of 16,384 elements the k = max(1, ceil(ratio * n)) largest by magnitude, ties to the lower index.

    6 bytes each: a float32 and its place in the chunk. What is left out comes back in the next step (error feedback), where
    it has grown. The sum over V shards has up to V * k numbers that are not zero: all of them up to four shards, above that the
    4 * k largest are sent, with a residual of the sum (Tang et al., "DoubleSqueeze", ICML 2019). Gathering all would cost more
    the more shards there are; k alone would make everything wait twice as long (measured: less accurate on Fashion-MNIST).
    Numbers arrive about 1 / ratio steps late, which wants short steps: on Fashion-MNIST (MLP, 5,600 steps) the default loses 0.25
    points of accuracy at lr / (1 - momentum) = 0.1, and 1.3 at 0.2, where ``ratio=0.05`` loses 0.3.
    ``times`` makes k so many times larger (the sum's own compression asks for it).
    Lin, Han, Mao, Wang, Dally, "Deep gradient compression", ICLR 2018 (without its momentum correction and warm-up);
    Stich, Cordonnier, Jaggi, "Sparsified SGD with memory", NeurIPS 2018.

    >>> phalanx.compression.TopK(ratio=0.01).nbytes(16384)
    984
    """

    feedback: ClassVar[bool] = True
    ratio: float = 0.01
    """Share of the elements that is sent."""
    times: int = field(default=1, repr=False)
    """For the sum: so many times k."""

    def __post_init__(self) -> None:
        if isinstance(self.ratio, bool) or not isinstance(self.ratio, int | float) or not 0 < self.ratio <= 1:
            raise RangeError(f"TopK expects ratio to be above 0 and at most 1, got {self.ratio!r}")

    def for_sum(self, shards: int) -> TopK:
        return TopK(self.ratio, min(shards, _SUM_LIMIT))

    def kept(self, size: int) -> int:
        """How many of a run of ``size`` elements are sent."""
        whole, rest = divmod(size, CHUNK)
        return whole * self._of(CHUNK) + (self._of(rest) if rest else 0)

    def _of(self, width: int) -> int:
        return min(width, self.times * max(1, math.ceil(self.ratio * width)))

    def nbytes(self, size: int) -> int:
        return aligned(6 * self.kept(size))

    def encode(self, values: np.ndarray, out: np.ndarray, draw: Draw) -> None:
        numbers, places = self._split(out, values.size)
        at = 0
        for _, (matrix,) in rows(CHUNK, values):
            chosen = largest(matrix, self._of(matrix.shape[1]))
            count = len(chosen[0])
            numbers[at : at + count] = matrix[chosen]
            places[at : at + count] = chosen[1]
            at += count

    def decode(self, data: np.ndarray, out: np.ndarray) -> None:
        numbers, places = self._split(data, out.size)
        out.fill(0)
        at = 0
        for _, (matrix,) in rows(CHUNK, out):
            k = self._of(matrix.shape[1])
            count = k * len(matrix)
            matrix[np.repeat(np.arange(len(matrix)), k), places[at : at + count]] = numbers[at : at + count]
            at += count

    def _split(self, data: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
        kept = self.kept(size)
        return data[: 4 * kept].view(np.float32), data[4 * kept : 6 * kept].view(np.uint16)


def largest(matrix: np.ndarray, k: int) -> tuple[np.ndarray, ...]:
    """(rows, columns) of the ``k`` largest magnitudes of each row, in order of place; of equal ones the first.

    Magnitudes are compared as integers: the order of float32's bits, in which infinity is above every number and NaN above
    infinity.

    >>> [index.tolist() for index in largest(np.array([[1, -3, 3, 2]], np.float32), 1)]
    [[0], [1]]
    """
    magnitude = matrix.view(np.uint32) & _MAGNITUDE
    limit = np.array([_limit(row, k) for row in magnitude])[:, None]
    chosen = magnitude >= limit
    for row in np.flatnonzero(np.count_nonzero(chosen, axis=1) > k):
        ties = np.flatnonzero(magnitude[row] == limit[row])
        above = int((magnitude[row] > limit[row]).sum())
        chosen[row, ties[k - above :]] = False
    return np.nonzero(chosen)


def _limit(row: np.ndarray, k: int) -> np.uint32:
    """The ``k``-th largest of ``row``: among those above a guess from a sample, if that leaves at least ``k``."""
    row = row[row > 0]  # partition is slow where many are equal
    if row.size < k:
        return np.uint32(0)
    if row.size > 8 * k:
        sample = np.sort(row[::_STRIDE])
        candidates = row[row >= sample[max(0, sample.size - 2 - 2 * k // _STRIDE)]]
        row = candidates if candidates.size >= k else row
    return np.partition(row, row.size - k)[row.size - k]  # type: ignore[no-any-return]
