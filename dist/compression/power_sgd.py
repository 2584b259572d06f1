"""Low-rank approximation of gradient matrices: the numerics of PowerSGD; the exchange is in :mod:`.low_rank`."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...core.errors import RangeError
from ...core.rng import Key, normal
from .codec import sum_by_halves

_NOISE = 1e-5
"""A column that keeps less than this of its length beside the earlier ones holds rounding errors of float32 alone."""


@dataclass(frozen=True, slots=True)
class PowerSGD:
    """Matrices M (rows, columns) as P Q^T with P of (rows, rank) and Q of (columns, rank); what is left out comes back.

    One power iteration a step from the last Q: P = sum of M Q, orthonormal; Q = sum of M^T P. Both sums go over all shards by
    the exact tree. Vectors, and matrices for which it would not pay, go uncompressed. Parameters of more than two dimensions
    are viewed as (first, rest). The residual of a shard is M - P (M^T P)^T, so that nothing is lost over all shards (the
    paper's code takes the mean's P Q^T from each worker's M: the same in the sum). Memory: two copies of the gradients of
    each owned shard. Steps before ``start_step`` go uncompressed. Vogels, Karimireddy, Jaggi, "PowerSGD", NeurIPS 2019.

    >>> phalanx.compression.PowerSGD(rank=2).pays((256, 784)), phalanx.compression.PowerSGD(rank=2).pays((256,)), phalanx.compression.PowerSGD(rank=4).pays((4, 100))
    (True, False, False)
    """

    rank: int = 4
    """Columns of the factors."""
    start_step: int = 0
    """Steps before it send everything uncompressed."""

    def __post_init__(self) -> None:
        for name, least in (("rank", 1), ("start_step", 0)):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise RangeError(f"PowerSGD expects {name} to be an integer of at least {least}, got {value!r}")

    def pays(self, shape: tuple[int, ...]) -> bool:
        """Whether a parameter of ``shape`` is sent as factors."""
        if len(shape) < 2:
            return False
        height, width = as_matrix(shape)
        return (height + width) * self.rank < height * width


def as_matrix(shape: tuple[int, ...]) -> tuple[int, int]:
    """Rows and columns of a parameter seen as a matrix.

    >>> as_matrix((64, 32, 3, 3))
    (64, 288)
    """
    return shape[0], int(np.prod(shape[1:]))


def start(columns: int, rank: int, key: Key) -> np.ndarray:
    """The first Q: normal numbers of (columns, rank)."""
    return normal((columns, rank), key)


def refill(q: np.ndarray, key: Key) -> np.ndarray:
    """``q`` with the columns that are zero or not finite drawn anew: from zero no iteration comes back."""
    lost = ~(np.isfinite(q).all(axis=0) & (q != 0).any(axis=0))
    return np.where(lost, start(q.shape[0], q.shape[1], key), q) if lost.any() else q


def orthonormal(p: np.ndarray) -> np.ndarray:
    """Columns of ``p`` (rows, rank) made orthonormal by Gram and Schmidt, in order, twice each; in float64, rounded once.

    Elementwise operations and sums by halves alone: equal bits on every rank. A column that depends on earlier ones is zero.
    """
    with np.errstate(all="ignore"):
        columns = np.ascontiguousarray(p.T, np.float64)
        columns /= np.maximum(np.abs(columns).max(axis=1, initial=0), np.finfo(np.float64).tiny)[:, None]
        for number, column in enumerate(columns):
            before = _dot(column, column)
            for _ in range(2):  # "twice is enough" (Kahan and Parlett)
                for earlier in columns[:number]:
                    column -= _dot(earlier, column) * earlier
            after = _dot(column, column)
            if after <= _NOISE**2 * before:
                column[...] = 0
            else:
                column /= np.sqrt(after)
    return np.ascontiguousarray(columns.T, np.float32)


def _dot(a: np.ndarray, b: np.ndarray) -> float:
    return float(sum_by_halves((a * b)[None])[0])


def product(p: np.ndarray, q: np.ndarray, out: np.ndarray, scratch: np.ndarray) -> np.ndarray:
    """``p @ q.T`` into ``out`` (rows, columns), column by column: elementwise, so equal bits whatever BLAS there is."""
    np.multiply(p[:, :1], q[:, 0], out=out)
    for column in range(1, p.shape[1]):
        np.multiply(p[:, column, None], q[:, column], out=scratch)
        out += scratch
    return out
