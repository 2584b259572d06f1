"""How members of a group sum over the tree by messages: each sums its range of the elements, in segments, and hands them out.

All segments of all partial sums are posted at once. As soon as a segment of its own range has come from everybody a member
adds it up and posts the sum, while later segments are still on their way: the link never idles between the two phases.
What is small takes one round: everybody sends all it has to all, and adds it all up by itself, in the same order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..messages import Messages
from .expression import Expression, expression
from .tree import Node

Add = Callable[..., Any]
"""``add(left, right, out=...)`` for arrays, as ``numpy.add``."""

SEGMENT_NBYTES = 1 << 20
LEAST_SEGMENT_NBYTES = 1 << 17
"""Shorter segments would cost more for each message than the overlap of the phases saves."""
SEGMENTS = 4
"""A short range is still cut into so many, so that its phases overlap."""
AHEAD = 3
"""Segments of one source that the wire may receive at a time: with all at once the first one would come last."""


@dataclass(frozen=True, slots=True)
class Exchange:
    """One sum over the tree among ``members`` (ranks of the group, equal on all of them)."""

    messages: Messages
    members: Sequence[int]
    nodes: Sequence[Sequence[Node]]
    """For each member the tree nodes whose sums it brings; together they make up all shards."""
    shards: int
    cut: Sequence[tuple[int, int]]
    """For each member the range of the elements that it adds up."""
    add: Add

    @property
    def me(self) -> int:
        return self.members.index(self.messages.rank)

    def others(self) -> list[int]:
        """Indices of the other members, beginning after this one, so that not all talk to the same one at once."""
        me, count = self.me, len(self.members)
        return [(me + step) % count for step in range(1, count)]

    # -- one round ---------------------------------------------------------------------------------------------------

    def in_one_round(self, own: Sequence[np.ndarray | None], out: np.ndarray, gather: bool) -> bool:
        """Everybody sends, beside which partial sums are there, all elements (``gather``), or those of the receiver's range."""
        me, flags = self.me, bytes(partial is not None for partial in own)
        here = [partial for partial in own if partial is not None]
        parts = [slice(0, out.size) if gather else slice(*bounds) for bounds in self.cut]
        for other in self.others():
            data = b"".join([*(partial[parts[other]].tobytes() for partial in here), flags])
            self.messages.post(self.members[other], data, "partial sums")
        target = out[parts[me]]
        leaves = {n: p[parts[me]] for n, p in zip(self.nodes[me], own, strict=True) if p is not None}
        rows = iter(self.messages.scratch((sum(map(len, self.nodes)), target.size), out.dtype))
        for other in self.others():
            data = self.messages.take(self.members[other], part="partial sums")
            start = len(data) - len(self.nodes[other])
            present = [node for node, flag in zip(self.nodes[other], data[start:], strict=True) if flag]
            arrived = np.frombuffer(data, out.dtype, len(present) * target.size).reshape(len(present), target.size)
            for node, values in zip(present, arrived, strict=True):
                leaves[node] = next(rows)
                np.copyto(leaves[node], values)
        return self._store(expression((0, self.shards), leaves) if self.shards else None, leaves, target)

    # -- in segments -------------------------------------------------------------------------------------------------

    def in_segments(self, own: Sequence[np.ndarray | None], out: np.ndarray, gather: bool) -> bool:
        """Each member gets the partial sums of its range from all others; with ``gather`` its sums go to all of them."""
        grid, here = self._grid(out), [partial for partial in own if partial is not None]
        for other in self.others():
            self.messages.post(self.members[other], bytes(partial is not None for partial in own), "present")
        for other, part in self._in_turn(grid):
            for partial in here:
                self.messages.post(self.members[other], partial[part], "partial sum")
        senders = self._senders()
        mine = dict(zip(self.nodes[self.me], own, strict=True))
        present = [node for node, partial in mine.items() if partial is not None] + [node for _, node in senders]
        order = expression((0, self.shards), present) if self.shards else None
        if order is None:
            out[slice(None) if gather else slice(*self.cut[self.me])] = 0
            return False
        self._sum_own_range(grid, order, senders, mine, out, gather)
        if gather:
            for other, part in self._in_turn(grid):
                self.messages.take(self.members[other], out[part], "sum")
        return True

    def _sum_own_range(
        self,
        grid: Sequence[Sequence[slice]],
        order: Expression,
        senders: Sequence[tuple[int, Node]],
        mine: Mapping[Node, np.ndarray | None],
        out: np.ndarray,
        gather: bool,
    ) -> None:
        messages, segments = self.messages, grid[self.me]
        longest = max((part.stop - part.start for part in segments), default=0)
        room = messages.scratch((AHEAD, len(senders), longest), out.dtype)

        def rows(number: int) -> np.ndarray:
            return room[number % AHEAD, :, : segments[number].stop - segments[number].start]

        def announce(number: int) -> None:
            if number < len(segments):
                for (rank, _), row in zip(senders, rows(number), strict=True):
                    messages.expect(rank, row)
            elif number == len(segments) and gather:  # behind the last one the sums of others come
                for other, part in self._in_turn(grid):
                    messages.expect(self.members[other], out[part])

        for number in range(AHEAD):
            announce(number)
        for number, part in enumerate(segments):
            leaves = {node: partial[part] for node, partial in mine.items() if partial is not None}
            for (rank, node), row in zip(senders, rows(number), strict=True):
                leaves[node] = messages.borrow(rank, row, "partial sum")
            self._store(order, leaves, out[part])
            announce(number + AHEAD)
            if gather:
                for other in self.others():
                    messages.post(self.members[other], out[part], "sum")

    def _senders(self) -> list[tuple[int, Node]]:
        """(rank, node) of each partial sum that comes from others, in the order in which it comes."""
        found = []
        for other in self.others():
            flags = self.messages.take(self.members[other], part="present")
            found += [(self.members[other], n) for n, flag in zip(self.nodes[other], flags, strict=True) if flag]
        return found

    def _grid(self, out: np.ndarray) -> list[list[slice]]:
        """The segments of each member's range; equal on all members."""
        longest = max(hi - lo for lo, hi in self.cut) * out.itemsize
        nbytes = max(min(SEGMENT_NBYTES, longest // SEGMENTS), min(LEAST_SEGMENT_NBYTES, SEGMENT_NBYTES))
        step = max(1, nbytes // out.itemsize)
        return [[slice(at, min(at + step, hi)) for at in range(lo, hi, step)] for lo, hi in self.cut]

    def _in_turn(self, grid: Sequence[Sequence[slice]]) -> Iterator[tuple[int, slice]]:
        """(member, segment) of all others, their first segments first."""
        for number in range(max(map(len, grid), default=0)):
            for other in self.others():
                if number < len(grid[other]):
                    yield other, grid[other][number]

    def _store(self, order: Expression | None, leaves: Mapping[Node, np.ndarray], target: np.ndarray) -> bool:
        """The value of ``order`` into ``target``, which may be the memory of a leaf; zero where there is none."""
        if order is None:
            target.fill(0)
            return False
        value = self._value(order, leaves, target)
        if value.ctypes.data != target.ctypes.data:
            np.copyto(target, value)
        return True

    def _value(self, order: Expression, leaves: Mapping[Node, np.ndarray], out: np.ndarray | None) -> np.ndarray:
        if isinstance(order[0], int):
            return leaves[order]
        left, right = (self._value(half, leaves, None) for half in order)
        target = left if out is None else out
        self.add(left, right, out=target)
        return target
