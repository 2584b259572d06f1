"""Who sums what of a bucket: contiguous ranges of whole chunks for each rank, and where their bytes lie. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ...core.flat import CHUNK, chunk_grid

LONGEST_RUN = 8 * CHUNK
"""Elements: what codecs work with stays in the second-level cache."""


@dataclass(frozen=True, slots=True)
class Run:
    """Elements [lo, hi) of a store: those of one parameter from ``first`` on, a multiple of a chunk."""

    parameter: int
    first: int
    lo: int
    hi: int
    at: int
    """Where its bytes begin in the encoded bucket."""
    nbytes: int


@dataclass(frozen=True, slots=True)
class Share:
    """What one rank sums: its runs lie within [lo, hi) of the store and [begin, end) of the encoded bucket."""

    runs: tuple[Run, ...]
    lo: int
    hi: int
    begin: int
    end: int


def shares(parameters: Sequence[tuple[int, int, int]], parts: int, nbytes: Callable[[int], int]) -> list[Share]:
    """Cut ``parameters`` (index, lo, hi), in order of the store, into ``parts`` shares of about equal size.

    A chunk belongs to the part in which its middle lies. ``nbytes``: of an encoded run of so many elements.

    >>> [[(r.parameter, r.lo, r.hi) for r in share.runs] for share in shares([(0, 0, 20_000), (1, 20_032, 20_042)], 2, int)]
    [[(0, 0, 16384)], [(0, 16384, 20000), (1, 20032, 20042)]]
    """
    total = sum(hi - lo for _, lo, hi in parameters)
    pieces: list[list[tuple[int, int, int, int]]] = [[] for _ in range(parts)]
    before = 0
    for index, lo, hi in parameters:
        for first, last in chunk_grid(hi - lo):
            size = last - first
            owned = pieces[min((2 * before + size) * parts // (2 * total), parts - 1)]
            before += size
            if owned and owned[-1][0] == index and owned[-1][3] - owned[-1][2] < LONGEST_RUN:
                owned[-1] = (index, owned[-1][1], owned[-1][2], lo + last)
            else:
                owned.append((index, first, lo + first, lo + last))
    found, at = [], 0
    for owned in pieces:
        runs, begin = [], at
        for index, first, lo, hi in owned:
            runs.append(Run(index, first, lo, hi, at, nbytes(hi - lo)))
            at += runs[-1].nbytes
        found.append(Share(tuple(runs), runs[0].lo if runs else 0, runs[-1].hi if runs else 0, begin, at))
    return found
