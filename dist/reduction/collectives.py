"""Collectives as programs over messages: direct exchange, sums by a fixed tree, equal bits on all ranks and in all runs.

Each rank sends its slice j to rank j, which sums slice j in the order of the tree; then everybody gathers the sums: a
volume of 2 (P - 1) / P of the array per rank, as in a ring, with P - 1 messages at once instead of in a row. Both phases
overlap (:mod:`.exchange`). Arrays of up to ``SMALL_NBYTES`` go whole to everybody, in one round. All ranks talk to all at
the beginning, so that a deadline can name who is missing.

``members``: the ranks that take part, in order, this one among them; default all. What is given for each rank (``ranges``,
``nodes``, ``cut``) is then given for each of them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from ...core.errors import ShapeError
from ..messages import Messages
from . import tree
from .exchange import Add, Exchange
from .tree import Node, fold, slices, whole_subtrees

T = TypeVar("T")
Cut = Sequence[tuple[int, int]]

SMALL_NBYTES = 1 << 16
"""Up to this size everybody sends all it has to all: one round instead of two."""
SMALL_MEMBERS = 8
"""With more ranks one round would send too much."""


def others(messages: Messages) -> Iterator[int]:
    """The other ranks, beginning after this one, so that not all talk to the same rank at once."""
    return (other % messages.size for other in range(messages.rank + 1, messages.rank + messages.size))


# -- arrays --------------------------------------------------------------------------------------------------------


def all_reduce(messages: Messages, array: np.ndarray, *, members: Sequence[int] | None = None) -> np.ndarray:
    """Sum over ranks in place, by the tree with one leaf per rank."""
    flat = array.reshape(-1)
    _sum_over_ranks(messages, flat, _all(messages, members), gather=True)
    return array


def reduce_scatter(messages: Messages, array: np.ndarray, *, members: Sequence[int] | None = None) -> np.ndarray:
    """This rank's slice of the sum over ranks, in place in the 1-D ``array``."""
    members = _all(messages, members)
    _sum_over_ranks(messages, array, members, gather=False)
    return array[slice(*slices(array.size, len(members))[members.index(messages.rank)])]


def all_gather(
    messages: Messages, array: np.ndarray, out: np.ndarray, *, members: Sequence[int] | None = None
) -> np.ndarray:
    """``out[i]`` is the ``array`` of the i-th member."""
    members = _all(messages, members)
    for other in _beside(messages, members):
        messages.post(members[other], array)
    me = members.index(messages.rank)
    if not np.shares_memory(out[me : me + 1], array):
        out[me] = array
    for other in _beside(messages, members):
        messages.expect(members[other], out[other : other + 1])
    for other in _beside(messages, members):
        messages.take(members[other], out[other : other + 1])
    return out


def all_gather_slices(messages: Messages, array: np.ndarray, cut: Cut, *, members: Sequence[int] | None = None) -> None:
    """Each rank's own range ``cut[rank]`` of the 1-D ``array`` to all, in place; empty ranges are not sent."""
    members = _all(messages, members)
    parts = [array[slice(*bounds)] for bounds in cut]
    mine, beside = parts[members.index(messages.rank)], list(_beside(messages, members))
    for other in beside:
        if mine.size:
            messages.post(members[other], mine, "range")
    theirs = [(members[other], parts[other]) for other in beside if parts[other].size]
    for rank, part in theirs:
        messages.expect(rank, part)
    for rank, part in theirs:
        messages.take(rank, part, "range")


def broadcast(messages: Messages, array: np.ndarray, root: int) -> np.ndarray:
    """``array`` of ``root`` everywhere."""
    if messages.rank != root:
        return messages.take(root, array)
    for other in others(messages):
        messages.post(other, array)
    return array


# -- objects -------------------------------------------------------------------------------------------------------


def all_gather_bytes(messages: Messages, data: bytes) -> list[bytes]:
    """Every rank's bytes, in the order of ranks; sizes may differ."""
    for other in others(messages):
        messages.post(other, data)
    rows = {messages.rank: data}
    for other in others(messages):
        rows[other] = messages.take(other)
    return [rows[rank] for rank in range(messages.size)]


def all_gather_object(messages: Messages, data: bytes) -> list[Any]:
    """Every rank's JSON text ``data``, decoded."""
    return [json.loads(row) for row in all_gather_bytes(messages, data)]


def broadcast_object(messages: Messages, data: bytes, root: int) -> Any:
    """The JSON text of ``root``, decoded."""
    if messages.rank == root:
        for other in others(messages):
            messages.post(other, data)
        return json.loads(data)
    return json.loads(messages.take(root))


def barrier(messages: Messages) -> None:
    """All have come."""
    all_gather_bytes(messages, b"")


# -- the exact tree over shards --------------------------------------------------------------------------------------


def tree_all_reduce(
    messages: Messages,
    partials: Mapping[Node, np.ndarray | None],
    ranges: Sequence[tuple[int, int]],
    shards: int,
    out: np.ndarray,
    add: Add = np.add,
    *,
    cut: Cut | None = None,
    gather: bool = True,
    nodes: Sequence[Sequence[Node]] | None = None,
    members: Sequence[int] | None = None,
) -> bool:
    """Sum over all shards into ``out`` (1-D) on every rank, in the order of the tree over ``shards``.

    Args:
        partials: for each node that this rank brings its sum, 1-D of ``out``'s length and dtype, or None where none of its
            shards had samples. They may be overwritten, and one of them may be ``out`` itself.
        ranges: the shards [lo, hi) of each rank, which then brings the whole subtrees in it (``tree.whole_subtrees``).
        add: ``add(left, right, out=...)`` for elements.
        cut: the range [lo, hi) of ``out`` that each rank adds up (default: even slices).
        gather: False leaves only this rank's own range of ``out`` complete, and sends nothing else.
        nodes: instead of ``ranges``, the nodes that each rank brings; together they must make up all shards.

    Returns whether any shard was present; if none was, ``out`` (its own range without ``gather``) is set to zero.
    """
    members = _all(messages, members)
    nodes = nodes if nodes is not None else [whole_subtrees(lo, hi, shards) for lo, hi in ranges]
    own = _checked(partials, nodes[members.index(messages.rank)], out, messages)
    cut = cut if cut is not None else slices(out.size, len(members))
    return _sum(Exchange(messages, members, nodes, shards, cut, add), own, out, gather)


def tree_merge(
    messages: Messages,
    partials: Mapping[Node, T | None],
    ranges: Sequence[tuple[int, int]],
    shards: int,
    merge: Callable[[T, T], T],
    codec: tuple[Callable[[T], bytes], Callable[[bytes], T]],
) -> T | None:
    """The root of the tree over ``shards`` under any ``merge(left, right)``: for small states (statistics, votes).

    ``partials`` as in :func:`tree_all_reduce`, with any values; ``codec`` is their (encode, decode). Every rank gets all
    values as bytes and folds alike, its own ones through the codec too. None where no shard was present.
    """
    encode, decode = codec
    nodes = [whole_subtrees(lo, hi, shards) for lo, hi in ranges]
    own = [partials.get(node) for node in nodes[messages.rank]]
    rows = all_gather_bytes(messages, _pack([None if value is None else encode(value) for value in own]))
    leaves: dict[Node, T | None] = {}
    for row, owned in zip(rows, nodes, strict=True):
        values = _unpack(row, len(owned))
        leaves.update((n, None if v is None else decode(v)) for n, v in zip(owned, values, strict=True))
    return _reduce(leaves, shards, merge)


# -- parts ---------------------------------------------------------------------------------------------------------


def _all(messages: Messages, members: Sequence[int] | None) -> Sequence[int]:
    return range(messages.size) if members is None else members


def _beside(messages: Messages, members: Sequence[int]) -> Iterator[int]:
    """Indices of the other members, beginning after this one."""
    me = members.index(messages.rank)
    return ((me + step) % len(members) for step in range(1, len(members)))


def _sum_over_ranks(messages: Messages, array: np.ndarray, members: Sequence[int], *, gather: bool) -> None:
    count = len(members)
    nodes = [[(index, index + 1)] for index in range(count)]
    _sum(Exchange(messages, members, nodes, count, slices(array.size, count), np.add), [array], array, gather)


def _sum(exchange: Exchange, own: Sequence[np.ndarray | None], out: np.ndarray, gather: bool) -> bool:
    small = out.nbytes <= SMALL_NBYTES and (len(exchange.members) <= SMALL_MEMBERS or not gather)
    return (exchange.in_one_round if small else exchange.in_segments)(own, out, gather)


def _reduce(leaves: Mapping[Node, T | None], shards: int, merge: Callable[[T, T], T]) -> T | None:
    if not tree.RANK_ORDER_SUM:
        return fold((0, shards), leaves, merge) if shards else None
    total: T | None = None
    for node in sorted(leaves):
        value = leaves[node]
        total = value if total is None else total if value is None else merge(total, value)
    return total


def _checked(
    partials: Mapping[Node, np.ndarray | None], nodes: Sequence[Node], out: np.ndarray, messages: Messages
) -> list[np.ndarray | None]:
    if set(partials) != set(nodes):
        raise ShapeError(
            f"{messages.operation}: rank {messages.rank} must bring the partial sums of {list(nodes)}, got {sorted(partials)}"
        )
    for node, partial in partials.items():
        if partial is not None and (partial.shape != out.shape or partial.dtype != out.dtype or out.ndim != 1):
            raise ShapeError(
                f"{messages.operation}: the partial sum of shards {node} must be 1-D like out, {out.dtype}"
                f"{list(out.shape)}, got {partial.dtype}{list(partial.shape)}"
            )
    return [partials[node] for node in nodes]


def _pack(values: list[bytes | None]) -> bytes:
    sizes = np.array([-1 if value is None else len(value) for value in values], "<i8")
    return b"".join([sizes.tobytes(), *(value for value in values if value is not None)])


def _unpack(data: bytes, count: int) -> list[bytes | None]:
    at = 8 * count
    found: list[bytes | None] = []
    for size in np.frombuffer(data, "<i8", count).tolist():
        found.append(None if size < 0 else bytes(data[at : at + size]))
        at += max(size, 0)
    return found
