"""Collectives as programs over messages: direct exchange, sums by a fixed tree, equal bits on all ranks and in all runs.

Each rank sends its slice j to rank j, which sums slice j in the order of the tree; then everybody gathers the sums: a
volume of 2 (P - 1) / P of the array per rank, as in a ring, with P - 1 messages at once instead of in a row. All ranks
talk to all at the beginning, so that a deadline can name who is missing.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from ...core.errors import ShapeError
from ..messages import Messages
from . import tree
from .tree import Node, fold, slices, whole_subtrees

T = TypeVar("T")
Add = Callable[..., Any]
"""``add(left, right, out=left)`` for arrays, as ``numpy.add``."""


SMALL_NBYTES = 32768
"""Up to this size the partial sums for one rank travel as one copied message; above it each by itself, not copied."""


def others(messages: Messages) -> Iterator[int]:
    """The other ranks, beginning after this one, so that not all talk to the same rank at once."""
    return (other % messages.size for other in range(messages.rank + 1, messages.rank + messages.size))


# -- arrays --------------------------------------------------------------------------------------------------------


def all_reduce(messages: Messages, array: np.ndarray) -> np.ndarray:
    """Sum over ranks in place, by the tree with one leaf per rank."""
    flat = array.reshape(-1)
    reduce_scatter(messages, flat)
    all_gather_slices(messages, flat, slices(flat.size, messages.size))
    return array


def reduce_scatter(messages: Messages, array: np.ndarray) -> np.ndarray:
    """This rank's slice of the sum over ranks, in place in the 1-D ``array``."""
    cut = slices(array.size, messages.size)
    for other in others(messages):
        messages.post(other, array[slice(*cut[other])], "slice")
    mine = array[slice(*cut[messages.rank])]
    arrived = messages.scratch((messages.size, mine.size), array.dtype)
    leaves: dict[Node, np.ndarray | None] = {(messages.rank, messages.rank + 1): mine}
    for other in others(messages):
        leaves[other, other + 1] = messages.take(other, arrived[other], "slice")
    _store(_fold(leaves, messages.size, np.add), mine)
    return mine


def all_gather(messages: Messages, array: np.ndarray, out: np.ndarray) -> np.ndarray:
    """``out[r]`` is rank r's ``array``."""
    for other in others(messages):
        messages.post(other, array)
    if not np.shares_memory(out[messages.rank : messages.rank + 1], array):
        out[messages.rank] = array
    for other in others(messages):
        messages.take(other, out[other : other + 1])
    return out


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
    cut: Sequence[tuple[int, int]] | None = None,
    gather: bool = True,
    nodes: list[list[Node]] | None = None,
    members: Sequence[int] | None = None,
) -> bool:
    """Sum over all shards into ``out`` (1-D) on every rank, in the order of the tree over ``shards``.

    ``partials``: for each whole subtree of this rank's range of ``ranges`` (``tree.whole_subtrees``) its sum, 1-D of
    ``out``'s length and dtype, or None where none of its shards had samples. They may be overwritten, and one of them
    may be ``out`` itself. ``add(left, right, out=...)`` works on elements. Returns whether any shard was present; if none
    was, ``out`` is set to zero.
    """
    nodes = nodes or [whole_subtrees(lo, hi, shards) for lo, hi in ranges]
    own = _checked(partials, nodes[messages.rank], out, messages)
    cut = cut or slices(out.size, messages.size)
    for other in others(messages):
        _post_partials(messages, other, [None if p is None else p[slice(*cut[other])] for p in own])
    mine = out[slice(*cut[messages.rank])]
    leaves = {
        n: None if p is None else p[slice(*cut[messages.rank])] for n, p in zip(nodes[messages.rank], own, strict=True)
    }
    arrived = messages.scratch((sum(map(len, nodes)), mine.size), out.dtype)
    row = 0
    for other in others(messages):
        rows = arrived[row : row + len(nodes[other])]
        row += len(nodes[other])
        leaves.update(zip(nodes[other], _take_partials(messages, other, rows), strict=True))
    present = any(leaf is not None for leaf in leaves.values())
    _store(_fold(leaves, shards, add), mine)
    if gather:
        all_gather_slices(messages, out, cut)
    return present


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


def all_gather_slices(messages: Messages, array: np.ndarray, cut: Sequence[tuple[int, int]]) -> None:
    """Each rank's own range of the 1-D ``array``, to all; empty ranges are not sent."""
    mine = array[slice(*cut[messages.rank])]
    for other in others(messages):
        if mine.size:
            messages.post(other, mine, "sum")
    for other in others(messages):
        theirs = array[slice(*cut[other])]
        if theirs.size:
            messages.take(other, theirs, "sum")


def _fold(leaves: dict[Node, np.ndarray | None], shards: int, add: Add) -> np.ndarray | None:
    return _reduce(leaves, shards, lambda left, right: add(left, right, out=left))


def _reduce(leaves: Mapping[Node, T | None], shards: int, merge: Callable[[T, T], T]) -> T | None:
    if not tree.RANK_ORDER_SUM:
        return fold((0, shards), leaves, merge) if shards else None
    total: T | None = None
    for node in sorted(leaves):
        value = leaves[node]
        total = value if total is None else total if value is None else merge(total, value)
    return total


def _store(value: np.ndarray | None, out: np.ndarray) -> None:
    if value is None:
        out.fill(0)
    elif value.ctypes.data != out.ctypes.data:
        np.copyto(out, value)


def _checked(
    partials: Mapping[Node, np.ndarray | None], nodes: list[Node], out: np.ndarray, messages: Messages
) -> list[np.ndarray | None]:
    if set(partials) != set(nodes):
        raise ShapeError(
            f"{messages.operation}: rank {messages.rank} must bring the partial sums of {nodes}, got {sorted(partials)}"
        )
    for node, partial in partials.items():
        if partial is not None and (partial.shape != out.shape or partial.dtype != out.dtype or out.ndim != 1):
            raise ShapeError(
                f"{messages.operation}: the partial sum of shards {node} must be 1-D like out, {out.dtype}"
                f"{list(out.shape)}, got {partial.dtype}{list(partial.shape)}"
            )
    return [partials[node] for node in nodes]


def _post_partials(messages: Messages, dest: int, pieces: list[np.ndarray | None]) -> None:
    """One message that says which are present; small ones ride on it, large ones follow, each by itself."""
    present = [piece for piece in pieces if piece is not None]
    flags = bytes(piece is not None for piece in pieces)
    if not present or len(present) * present[0].nbytes <= SMALL_NBYTES:
        messages.post(dest, b"".join([flags, *(piece.tobytes() for piece in present)]), "partial sums")
        return
    messages.post(dest, flags, "partial sums")
    for piece in present:
        messages.post(dest, piece, "partial sum")


def _take_partials(messages: Messages, source: int, rows: np.ndarray) -> list[np.ndarray | None]:
    data = messages.take(source, part="partial sums")
    flags = data[: len(rows)]
    nbytes = rows.shape[1] * rows.itemsize
    ride = sum(flags) * nbytes <= SMALL_NBYTES
    at = len(rows)
    found: list[np.ndarray | None] = []
    for flag, row in zip(flags, rows, strict=True):
        if not flag:
            found.append(None)
        elif ride:
            row.view(np.uint8)[:] = np.frombuffer(data, np.uint8, nbytes, at)
            at += nbytes
            found.append(row)
        else:
            found.append(messages.take(source, row, "partial sum"))
    return found


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
