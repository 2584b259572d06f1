"""The order of a sum as an expression, and its value, block by block in the cache.

A *term* is an array and the number that it is multiplied with (None: taken as it is). The expression says in which order
terms are added: by the tree over shards, whatever of it each term covers.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...core.kernels.table import kernel
from . import tree
from .tree import Node, split_point

Expression = Any
"""A node (a leaf of the expression), or a pair of expressions."""

BLOCK_NBYTES = 1 << 18
"""Four to eight blocks of this size fit in a core's own cache."""


@dataclass(frozen=True, slots=True, eq=False)
class Term:
    """What one rank brings for one node of the tree over shards: ``array * scale``, rounded to the sum's dtype."""

    array: Any
    """Of NumPy, or on a GPU where the result is, too."""
    scale: float | None = None


def expression(root: Node, present: Collection[Node]) -> Expression | None:
    """How the tree below ``root`` adds the nodes that are ``present``; None when none is.

    >>> expression((0, 4), {(0, 1), (1, 2), (2, 4)})
    (((0, 1), (1, 2)), (2, 4))
    """
    return _expression(root, frozenset(present), tree.RANK_ORDER_SUM)


@functools.lru_cache(maxsize=4096)
def _expression(root: Node, present: frozenset[Node], in_rank_order: bool) -> Expression | None:
    if in_rank_order:
        return _in_order(present)
    if root in present:
        return root
    a, b = root
    if b - a <= 1:
        return None
    middle = split_point(root)
    left, right = _expression((a, middle), present, False), _expression((middle, b), present, False)
    if left is None or right is None:
        return right if left is None else left
    return left, right


def _in_order(present: Collection[Node]) -> Expression | None:
    total: Expression | None = None
    for node in sorted(present):
        total = node if total is None else (total, node)
    return total


def maximal(nodes: Collection[Node], shards: int) -> list[Node]:
    """The largest nodes of the tree over ``shards`` that the given ones make up, in order.

    >>> maximal([(0, 1), (1, 2), (2, 4), (5, 6)], 8)
    [(0, 4), (5, 6)]
    """
    given = set(nodes)
    found: list[Node] = []

    def whole(node: Node) -> bool:
        if node in given:
            return True
        a, b = node
        if b - a <= 1:
            return False
        middle = split_point(node)
        halves = [(a, middle), (middle, b)]
        covered = [whole(half) for half in halves]
        if not all(covered):
            found.extend(half for half, yes in zip(halves, covered, strict=True) if yes)
        return all(covered)

    if shards and given and whole((0, shards)):
        found.append((0, shards))
    return sorted(found)


class Evaluator:
    """Values of expressions over 1-D terms; keeps its work arrays for the next one. For one thread at a time."""

    def __init__(self) -> None:
        self._free: dict[np.dtype, list[np.ndarray]] = {}

    def evaluate(
        self, order: Expression, terms: Mapping[Node, Term], targets: Sequence[np.ndarray], lo: int = 0
    ) -> None:
        """Write the value of elements [lo, lo + len(targets[0])) of ``order`` into every target.

        A target may be the memory of a term: it is written after all terms of its elements were read.
        """
        first = targets[0]
        step = max(1, BLOCK_NBYTES // first.itemsize)
        with np.errstate(all="ignore"):  # a gradient that overflows shows as an infinite loss, with the layer's name
            for start in range(0, first.size, step):
                stop = min(start + step, first.size)
                out = first[start:stop]
                self._into(out, order, terms, slice(lo + start, lo + stop))
                for other in targets[1:]:
                    np.copyto(other[start:stop], out)

    def _into(self, out: np.ndarray, order: Expression, terms: Mapping[Node, Term], part: slice) -> None:
        if isinstance(order[0], int):
            _leaf(terms[order], part, out)
            return
        left, left_work = self._value(order[0], terms, part, out.dtype)
        right, right_work = self._value(order[1], terms, part, out.dtype)
        np.add(left, right, out=out)
        self._give(left_work)
        self._give(right_work)

    def _value(
        self, order: Expression, terms: Mapping[Node, Term], part: slice, dtype: np.dtype
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """The value and the work array that it lies in; a term's own memory (None) where nothing is to be computed."""
        if isinstance(order[0], int):
            term = terms[order]
            if term.scale in (None, 1.0) and term.array.dtype == dtype:
                return term.array[part], None
            work = self._take(dtype)
            out = work[: part.stop - part.start]
            _leaf(term, part, out)
            return out, work
        left, left_work = self._value(order[0], terms, part, dtype)
        right, right_work = self._value(order[1], terms, part, dtype)
        if left_work is None:
            left_work, right_work = right_work, None
        work = self._take(dtype) if left_work is None else left_work
        out = work[: left.size]
        np.add(left, right, out=out)
        self._give(right_work)
        return out, work

    def _take(self, dtype: np.dtype) -> np.ndarray:
        free = self._free.setdefault(dtype, [])
        return free.pop() if free else np.empty(max(1, BLOCK_NBYTES // dtype.itemsize), dtype)

    def _give(self, work: np.ndarray | None) -> None:
        if work is not None:
            self._free[work.dtype].append(work)


class InPlace:
    """The value of elements ``part`` of ``order``, over a divisor, in place of every one of the ``arrays`` that it is made of.

    The arrays are all of one dtype. Sums on the way lie in them too: no more memory passes through the cache than must. Made once,
    this can be run as often as there are new numbers in the arrays.
    """

    def __init__(self, order: Expression, arrays: Mapping[Node, np.ndarray], part: slice) -> None:
        self._dtype = next(iter(arrays.values())).dtype
        self._blocks: list[tuple[list[tuple[np.ndarray, np.ndarray]], np.ndarray, list[np.ndarray]]] = []
        """Of each block what is added to what, where the total lies then, and where it is copied to."""
        self._are_two = len(arrays) == 2 and self._dtype == np.float32
        first, second, *_ = [*arrays.values()] * 2
        self._two = (first, second, part.start, part.stop) if self._are_two else None
        step = max(1, BLOCK_NBYTES // self._dtype.itemsize)
        for start in range(part.start, part.stop, step):
            block = {node: array[start : min(start + step, part.stop)] for node, array in arrays.items()}
            sums: list[tuple[np.ndarray, np.ndarray]] = []
            total = _fold_in_place(order, block, sums)
            self._blocks.append((sums, total, [each for each in block.values() if each is not total]))

    def of_two(self) -> tuple[np.ndarray, np.ndarray, int, int] | None:
        """Both arrays, and from where to where they are summed, where there are two in float32."""
        return self._two

    def run(self, divisor: float = 1.0) -> None:
        """Sum, divide, and copy."""
        number = self._dtype.type(divisor)
        mantissa, exponent = math.frexp(divisor)
        # the inverse of a power of two is exact: the product is the quotient, and faster
        share = 1.0 / divisor if mantissa == 0.5 and -100 < exponent < 100 else None
        if share is not None and self._are_two:
            mean_of_two = kernel("mean_of_two", "cpu")
            with np.errstate(all="ignore"):
                for _, total, (other,) in self._blocks:
                    mean_of_two(total, other, share)
            return
        with np.errstate(all="ignore"):  # as in :meth:`Evaluator.evaluate`
            for sums, total, copies in self._blocks:
                for left, right in sums:
                    np.add(left, right, out=left)
                if share is None:
                    np.divide(total, number, out=total)
                elif share != 1.0:
                    np.multiply(total, self._dtype.type(share), out=total)
                for copy in copies:
                    np.copyto(copy, total)


def _fold_in_place(
    order: Expression, block: Mapping[Node, np.ndarray], sums: list[tuple[np.ndarray, np.ndarray]]
) -> np.ndarray:
    """Note what is added to what; the array in which the total lies then."""
    if isinstance(order[0], int):
        return block[order]
    left = _fold_in_place(order[0], block, sums)
    sums.append((left, _fold_in_place(order[1], block, sums)))
    return left


def partial_sums(
    terms: Mapping[Node, Term | None], nodes: Sequence[Node], like: np.ndarray, evaluator: Evaluator | None = None
) -> list[np.ndarray | None]:
    """The value of each of ``nodes`` from the terms below it, in memory of its own; None where none is present.

    ``like``: an array of the result's shape and dtype.
    """
    evaluator = evaluator or Evaluator()
    present = {node: term for node, term in terms.items() if term is not None}
    found: list[np.ndarray | None] = []
    for a, b in nodes:
        order = expression((a, b), [n for n in present if a <= n[0] and n[1] <= b])
        if order is None:
            found.append(None)
            continue
        value = np.empty_like(like)
        evaluator.evaluate(order, present, [value])
        found.append(value)
    return found


def _leaf(term: Term, part: slice, out: np.ndarray) -> None:
    if term.scale in (None, 1.0):
        np.copyto(out, term.array[part])
    else:
        np.multiply(term.array[part], out.dtype.type(term.scale), out=out, dtype=out.dtype)
