"""The exact sum: a fixed balanced binary tree over shard numbers.

IEEE addition commutes but does not associate, so the bits of a sum depend on the tree's shape alone. The shape here
depends on V, the number of shards, and on nothing else: the node over shards [a, b) splits at a plus the largest power
of two below b - a. Each rank folds the whole subtrees that it owns; the rest of the tree is summed over ranks, each
rank doing it for one slice of the elements. A shard without samples is an absent leaf (None): its sibling passes through.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Generic, TypeVar

from ...core.data.shards import owned_range

T = TypeVar("T")
Node = tuple[int, int]
"""A subtree: the shards [a, b)."""

RANK_ORDER_SUM = False
"""Negative control of the tests: sum in the order of ranks instead of by the tree. Equality tests must then fail."""


def split_point(node: Node) -> int:
    """Where the node over [a, b) splits: a + the largest power of two below b - a.

    >>> split_point((0, 8)), split_point((0, 5)), split_point((4, 7))
    (4, 4, 6)
    """
    a, b = node
    return a + (1 << ((b - a - 1).bit_length() - 1))


def whole_subtrees(lo: int, hi: int, shards: int) -> list[Node]:
    """The largest subtrees of the tree over ``shards`` that lie within [lo, hi), in order.

    >>> whole_subtrees(0, 3, 8), whole_subtrees(3, 6, 8)
    ([(0, 2), (2, 3)], [(3, 4), (4, 6)])
    """
    return list(_whole_subtrees(lo, hi, shards))


@functools.lru_cache(maxsize=4096)
def _whole_subtrees(lo: int, hi: int, shards: int) -> tuple[Node, ...]:
    found: list[Node] = []

    def visit(node: Node) -> None:
        a, b = node
        if b <= lo or hi <= a:
            return
        if lo <= a and b <= hi:
            found.append(node)
            return
        middle = split_point(node)
        visit((a, middle))
        visit((middle, b))

    if shards and lo < hi:
        visit((0, shards))
    return tuple(found)


def fold(node: Node, partials: Mapping[Node, T | None], add: Callable[[T, T], T]) -> T | None:
    """The value of ``node`` from the partial values of subtrees below it; None where all leaves are absent.

    ``add(left, right)`` may write into ``left``. Every leaf under ``node`` must lie under a key of ``partials``.
    """
    if node in partials:
        return partials[node]
    a, b = node
    if b - a <= 1:
        raise KeyError(f"shard {a} is in none of the partial sums")
    middle = split_point(node)
    left, right = fold((a, middle), partials, add), fold((middle, b), partials, add)
    if left is None or right is None:
        return right if left is None else left
    return add(left, right)


class Accumulator(Generic[T]):
    """Folds leaves that arrive in shard order as far as the tree allows, holding about log2 of them.

    ``push(shard, value)``; then ``partials`` maps each whole subtree to its value. ``add`` may write into its left
    argument; ``value`` None is an absent leaf.
    """

    def __init__(self, shards: int, add: Callable[[T, T], T]) -> None:
        self.shards, self._add = shards, add
        self._parents = _parents(shards)
        self.partials: dict[Node, T | None] = {}

    def push(self, shard: int, value: T | None) -> None:
        node: Node = (shard, shard + 1)
        while node in self._parents:
            parent, sibling = self._parents[node]
            if sibling not in self.partials or sibling[0] > node[0]:
                break
            left = self.partials.pop(sibling)
            value = left if value is None else value if left is None else self._add(left, value)
            node = parent
        self.partials[node] = value


def pending_limit(lo: int, hi: int, shards: int) -> int:
    """How many partial sums the owner of [lo, hi) holds at once while it folds all but its last shard.

    >>> [pending_limit(0, k, 8) for k in (1, 2, 3, 4, 8)]
    [0, 1, 2, 2, 3]
    """
    held = most = 0

    def add(left: int, right: int) -> int:
        nonlocal held
        held -= 1
        return left

    fold: Accumulator[int] = Accumulator(shards, add)
    for shard in range(lo, hi - 1):
        held += 1
        most = max(most, held)
        fold.push(shard, 0)
    return most


@functools.lru_cache(maxsize=64)
def _parents(shards: int) -> Mapping[Node, tuple[Node, Node]]:
    """Node -> (parent, sibling) for the tree over ``shards``; the same object for all who ask."""
    table: dict[Node, tuple[Node, Node]] = {}

    def visit(node: Node) -> None:
        a, b = node
        if b - a > 1:
            left, right = (a, split_point(node)), (split_point(node), b)
            table[left], table[right] = (node, right), (node, left)
            visit(left)
            visit(right)

    if shards:
        visit((0, shards))
    return table


def slices(length: int, parts: int) -> list[tuple[int, int]]:
    """The even cut of ``length`` elements into ``parts`` slices (lo, hi); the first ones are longer by one.

    >>> slices(7, 3), slices(1, 2)
    ([(0, 3), (3, 5), (5, 7)], [(0, 1), (1, 1)])
    """
    return [owned_range(part, parts, length) for part in range(parts)]
