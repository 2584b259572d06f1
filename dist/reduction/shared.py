"""Collectives in memory that all ranks of the group share: nothing is sent, everybody reads where the others' data lies.

Each rank sums one slice of the elements over all ranks, straight from their memory, in the order of the tree. Data of up
to 64 KB goes with the meeting itself and every rank sums all of it: one meeting instead of two. Arrays that lie in no
shared block are taken through a small one, piece by piece.

The same functions as :mod:`.collectives`, with equal bits.
"""

from __future__ import annotations

import functools
import json
import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from ...core.bfloat16 import of_word
from ..communicators.shared_memory import INLINE_NBYTES, NOTE_NBYTES, LocalSpace
from ..messages import Messages, flat_bytes
from . import over_wire
from .collectives import others
from .expression import InPlace, Term, expression, partial_sums
from .tree import Node, slices, whole_subtrees

Cut = Sequence[tuple[int, int]]
Place = tuple[int, int, int]

_PLACE = struct.Struct("<iiq")
_TERM = struct.Struct("<iiiiqcd")  # node, block, part, offset, dtype, scale (NaN: none)
_NOWHERE: Place = (-1, 0, 0)
TERMS_LIMIT = (NOTE_NBYTES - _PLACE.size) // _TERM.size


def all_reduce(messages: Messages, array: np.ndarray) -> np.ndarray:
    """Sum over ranks in place, by the tree with one leaf per rank."""
    flat = array.reshape(-1)
    if flat.nbytes <= INLINE_NBYTES:
        _sum_inline(messages, flat)
    else:
        _sum_arrays(messages, flat, slices(flat.size, messages.size), everywhere=True)
    messages.count_sent(2 * (flat.nbytes - flat.nbytes // messages.size))
    return array


def reduce_scatter(messages: Messages, array: np.ndarray) -> np.ndarray:
    """This rank's slice of the sum over ranks, in place in the 1-D ``array``."""
    cut = slices(array.size, messages.size)
    _sum_arrays(messages, array, cut, everywhere=False)
    mine = array[slice(*cut[messages.rank])]
    messages.count_sent(array.nbytes - mine.nbytes)
    return mine


def all_gather(messages: Messages, array: np.ndarray, out: np.ndarray) -> np.ndarray:
    """``out[r]`` is rank r's ``array``."""
    flat, rows = array.reshape(-1), out.reshape(messages.size, -1)
    messages.count_sent((messages.size - 1) * flat.nbytes)
    for lo, hi, local in _pieces(messages, flat, all_bring=True):
        for rank in range(messages.size):
            _copy(rows[rank, lo:hi], _as(local.inline(rank), flat.dtype))
    return out


def broadcast(messages: Messages, array: np.ndarray, root: int) -> np.ndarray:
    """``array`` of ``root`` everywhere."""
    flat = array.reshape(-1)
    if messages.rank == root:
        messages.count_sent((messages.size - 1) * flat.nbytes)
    for lo, hi, local in _pieces(messages, flat, all_bring=messages.rank == root):
        if messages.rank != root:
            _copy(flat[lo:hi], _as(local.inline(root), flat.dtype))
    return array


def all_gather_bytes(messages: Messages, data: bytes) -> list[bytes]:
    """Every rank's bytes, in the order of ranks; sizes may differ."""
    messages.count_sent((messages.size - 1) * len(data))
    local = messages.meet("bytes", struct.pack("<q", len(data)), [data[:INLINE_NBYTES]])
    totals = [struct.unpack("<q", local.note(rank))[0] for rank in range(messages.size)]
    rows = [bytearray(local.inline(rank)) for rank in range(messages.size)]
    for start in range(INLINE_NBYTES, max(totals), INLINE_NBYTES):
        local = messages.meet("more bytes", b"", [data[start : start + INLINE_NBYTES]])
        for rank, row in enumerate(rows):
            row += local.inline(rank)
    return [bytes(row) for row in rows]


def all_gather_object(messages: Messages, data: bytes) -> list[Any]:
    """Every rank's JSON text ``data``, decoded."""
    return [json.loads(row) for row in all_gather_bytes(messages, data)]


def broadcast_object(messages: Messages, data: bytes, root: int) -> Any:
    """The JSON text of ``root``, decoded."""
    return json.loads(all_gather_bytes(messages, data)[root])


def barrier(messages: Messages) -> None:
    """All have come."""
    messages.meet("barrier")


def all_gather_slices(messages: Messages, array: np.ndarray, cut: Cut) -> None:
    """Each rank's own range of the 1-D ``array`` to all, in place."""
    local = _local(messages)
    lo, hi = cut[messages.rank]
    local = messages.meet("slices", _PLACE.pack(*(local.find(array) or _NOWHERE)))
    places = [_PLACE.unpack(local.note(rank)) for rank in range(messages.size)]
    if _NOWHERE in places:
        over_wire.all_gather_slices(messages, array, cut)
        return
    messages.count_sent((messages.size - 1) * (hi - lo) * array.itemsize)
    for other in others(messages):
        a, b = cut[other]
        np.copyto(array[a:b], local.at(places[other], array.dtype, array.size)[a:b])
    messages.meet("slices read")


def tree_all_reduce(
    messages: Messages,
    terms: Mapping[Node, Term | None],
    ranges: Sequence[tuple[int, int]],
    shards: int,
    out: np.ndarray,
    cut: Cut | None = None,
    gather: bool = True,
) -> bool:
    """Sum the terms of all ranks into ``out`` (1-D), in the order of the tree over ``shards``.

    ``terms``: for nodes of the tree that make up this rank's range, what it has of them (None: no shard of it had
    samples); their arrays stay as they are, but for one that is ``out`` itself. ``cut``: the range of ``out`` that each
    rank sums, by default even; with ``gather=False`` only the own one is complete afterwards. Returns whether any shard
    was present; if none was, ``out`` is set to zero.
    """
    nodes = _nodes_of(tuple(ranges), shards)
    if out.nbytes * max(map(len, nodes)) <= INLINE_NBYTES:
        return _tree_inline(messages, terms, nodes, shards, out)
    cut = cut or slices(out.size, messages.size)
    lo, hi = cut[messages.rank]
    local = messages.meet("terms", note_of(_local(messages), terms, out))
    notes = [local.note(rank) for rank in range(messages.size)]
    outs = places_of(notes)
    found = terms_of_all(local, notes, out.size)
    if found is None or len({place[0] for place in outs}) > 1:
        return over_wire.tree_all_reduce(messages, terms, ranges, shards, out, cut, gather)
    messages.count_sent(out.nbytes - (hi - lo) * out.itemsize + (messages.size - 1) * (hi - lo) * out.itemsize * gather)
    order = expression((0, shards), found.keys())
    everywhere = gather and not same_place(outs)
    targets = [local.at(place, out.dtype, out.size) for place in outs] if everywhere else [out]
    if order is None:
        for target in targets:
            target[lo:hi] = 0
    elif everywhere and are_the_terms(targets, found):
        InPlace(order, {n: term.array for n, term in found.items()}, slice(lo, hi)).run()
    elif hi > lo:
        local.evaluator.evaluate(order, found, [target[lo:hi] for target in targets], lo)
    messages.meet("sums")
    return order is not None


# -- parts -------------------------------------------------------------------------------------------------------------


def _local(messages: Messages) -> LocalSpace:
    assert messages.local is not None
    return messages.local


def _as(raw: memoryview, dtype: np.dtype) -> np.ndarray:
    return np.frombuffer(raw, dtype)


def _copy(target: np.ndarray, source: np.ndarray) -> None:
    if target.ctypes.data != source.ctypes.data:
        np.copyto(target, source)


def _pieces(messages: Messages, flat: np.ndarray, *, all_bring: bool) -> Iterator[tuple[int, int, LocalSpace]]:
    """Meetings that carry an array through the inline areas: (lo, hi, where to read it); at least one."""
    step = INLINE_NBYTES // flat.itemsize
    for lo in range(0, max(flat.size, 1), step):
        hi = min(lo + step, flat.size)
        yield lo, hi, messages.meet("piece", b"", [flat_bytes(flat[lo:hi])] if all_bring else ())


def _sum_inline(messages: Messages, flat: np.ndarray) -> None:
    local = messages.meet("small", b"", [flat_bytes(flat)])
    terms = {(rank, rank + 1): Term(_as(local.inline(rank), flat.dtype)) for rank in range(messages.size)}
    local.evaluator.evaluate(expression((0, messages.size), terms.keys()), terms, [flat])


def _sum_arrays(messages: Messages, flat: np.ndarray, cut: Cut, *, everywhere: bool) -> None:
    """Sum where the arrays lie; where some lie in no block, piece by piece through the staging block."""
    local = _local(messages)
    local = messages.meet("arrays", _PLACE.pack(*(local.find(flat) or _NOWHERE)))
    places = [_PLACE.unpack(local.note(rank)) for rank in range(messages.size)]
    order = expression((0, messages.size), {(rank, rank + 1) for rank in range(messages.size)})
    lo, hi = cut[messages.rank]
    if _NOWHERE not in places:
        arrays = {(rank, rank + 1): local.at(place, flat.dtype, flat.size) for rank, place in enumerate(places)}
        if everywhere:
            InPlace(order, arrays, slice(lo, hi)).run()
        else:
            terms = {node: Term(array) for node, array in arrays.items()}
            local.evaluator.evaluate(order, terms, [flat[lo:hi]], lo)
        messages.meet("sums")
        return
    step = local.staging[0].nbytes // flat.itemsize
    for start in range(0, flat.size, step):
        piece = flat[start : start + step]
        _sum_piece(
            messages, local, order, piece, [(max(a - start, 0), min(b - start, piece.size)) for a, b in cut], everywhere
        )


def _sum_piece(
    messages: Messages, local: LocalSpace, order: Any, piece: np.ndarray, cut: Cut, everywhere: bool
) -> None:
    """Through the staging block; ``everywhere``: in even slices, else each rank its part of the piece."""
    staged = [part[: piece.nbytes].view(piece.dtype) for part in local.staging]
    np.copyto(staged[messages.rank], piece)
    messages.meet("staged")
    terms = {(rank, rank + 1): Term(array) for rank, array in enumerate(staged)}
    result = local.staged_result[: piece.nbytes].view(piece.dtype)
    lo, hi = slices(piece.size, messages.size)[messages.rank] if everywhere else cut[messages.rank]
    if hi > lo:
        target = result if everywhere else piece
        local.evaluator.evaluate(order, terms, [target[lo:hi]], lo)
    messages.meet("staged sums")
    if everywhere:
        np.copyto(piece, result)


def note_of(local: LocalSpace, terms: Mapping[Node, Term | None], out: np.ndarray) -> bytes:
    """Where this rank's result and terms lie. A rank that cannot say it names no place; then all take messages."""
    rows = [_PLACE.pack(*(local.find(out) or _NOWHERE))]
    for (a, b), term in terms.items():
        if term is None:
            continue
        place = local.find(term.array)
        if place is None or len(terms) > TERMS_LIMIT:
            return _PLACE.pack(*_NOWHERE)
        scale = float("nan") if term.scale is None else term.scale
        rows.append(_TERM.pack(a, b, place[0], place[1], place[2], term.array.dtype.char.encode(), scale))
    return b"".join(rows)


def places_of(notes: Sequence[bytes]) -> list[Place]:
    """Where each rank's result lies."""
    return [_PLACE.unpack_from(note) for note in notes]


def terms_of_all(local: LocalSpace, notes: Sequence[bytes], count: int) -> dict[Node, Term] | None:
    """All ranks' terms, as arrays of this process; None when some lie in no block."""
    found: dict[Node, Term] = {}
    for note in notes:
        if _PLACE.unpack_from(note) == _NOWHERE:
            return None
        for a, b, block, part, offset, char, scale in _TERM.iter_unpack(note[_PLACE.size :]):
            array = local.at((block, part, offset), of_word(char.decode()), count)
            found[a, b] = Term(array, None if scale != scale else scale)
    return found


def are_the_terms(targets: Sequence[np.ndarray], terms: Mapping[Node, Term]) -> bool:
    """Whether the sum of ``terms``, as they stand, is to take the place of just these."""
    dtype = targets[0].dtype
    if len(terms) != len(targets) or any(t.scale not in (None, 1.0) or t.array.dtype != dtype for t in terms.values()):
        return False
    return {_address(term.array) for term in terms.values()} == {_address(target) for target in targets}


def _address(array: np.ndarray) -> int:
    return int(array.__array_interface__["data"][0])


def same_place(outs: Sequence[Place]) -> bool:
    return all(place == outs[0] for place in outs)


@functools.lru_cache(maxsize=64)
def _nodes_of(ranges: tuple[tuple[int, int], ...], shards: int) -> tuple[list[Node], ...]:
    """The whole subtrees of each rank's range."""
    return tuple(whole_subtrees(a, b, shards) for a, b in ranges)


def _own_sums(
    terms: Mapping[Node, Term | None], nodes: Sequence[Node], out: np.ndarray, local: LocalSpace
) -> list[np.ndarray | None]:
    """This rank's sums of ``nodes``; a term that is one as it stands is not copied."""
    found = [terms.get(node) for node in nodes]
    if len(terms) == len(nodes) and all(
        t is None or (t.scale in (None, 1.0) and t.array.dtype == out.dtype) for t in found
    ):
        return [None if term is None else term.array for term in found]
    return partial_sums(terms, nodes, out, local.evaluator)


def _tree_inline(
    messages: Messages,
    terms: Mapping[Node, Term | None],
    nodes: Sequence[Sequence[Node]],
    shards: int,
    out: np.ndarray,
) -> bool:
    local = _local(messages)
    own = _own_sums(terms, nodes[messages.rank], out, local)
    flags = bytes(partial is not None for partial in own)
    local = messages.meet("small", flags, [flat_bytes(partial) for partial in own if partial is not None])
    found: dict[Node, Term] = {}
    for rank, owned in enumerate(nodes):
        values = _as(local.inline(rank), out.dtype)
        row = 0
        for node, flag in zip(owned, local.note(rank), strict=True):
            if flag:
                found[node] = Term(values[row * out.size : (row + 1) * out.size])
                row += 1
    order = expression((0, shards), found.keys())
    if order is None:
        out.fill(0)
    else:
        local.evaluator.evaluate(order, found, [out])
    return order is not None
