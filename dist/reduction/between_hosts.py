"""Collectives where several hosts have several ranks each: a host's ranks sum in shared memory, then hosts exchange.

Ranks with the same number on their host talk to each other, each for one slice of the elements, so that every core helps
to fill the wire and each element crosses it as if hosts were ranks. What is small goes in messages between all ranks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np

from ..communicators.shared_memory import INLINE_NBYTES
from ..messages import Messages
from . import collectives, over_wire
from .collectives import all_gather as all_gather
from .collectives import all_gather_bytes as all_gather_bytes
from .collectives import all_gather_object as all_gather_object
from .collectives import all_gather_slices as all_gather_slices
from .collectives import all_reduce as all_reduce
from .collectives import barrier as barrier
from .collectives import broadcast as broadcast
from .collectives import broadcast_object as broadcast_object
from .collectives import reduce_scatter as reduce_scatter
from .expression import Term, maximal, partial_sums
from .shared import note_of, places_of, same_place, terms_of_all
from .tree import Node, slices, whole_subtrees

STREAMS: int | None = None
"""How many ranks of each host talk to the other hosts; None: as many as the host with the fewest ranks has."""


def tree_all_reduce(
    messages: Messages,
    terms: Mapping[Node, Term | None],
    ranges: Sequence[tuple[int, int]],
    shards: int,
    out: np.ndarray,
    cut: Sequence[tuple[int, int]] | None = None,
    gather: bool = True,
) -> bool:
    """As :func:`.shared.tree_all_reduce`; ``out`` and the terms lie in blocks that :meth:`Communicator.shared_empty` made."""
    local = messages.local
    assert local is not None
    if out.nbytes <= INLINE_NBYTES or local.find(out) is None:
        return over_wire.tree_all_reduce(messages, terms, ranges, shards, out, cut, gather)
    local = messages.meet("terms", note_of(local, terms, out))
    notes = [local.note(index) for index in range(local.size)]
    found = terms_of_all(local, notes, out.size)
    assert found is not None, "out lies in a block, so must the terms"
    streams = min(STREAMS or len(local.members), *(len(host) for host in local.hosts))
    present = False
    if local.index < streams:
        lo, hi = slices(out.size, streams)[local.index]
        slice_of = {node: Term(term.array[lo:hi], term.scale) for node, term in found.items()}
        present = _exchange(messages, slice_of, ranges, shards, out[lo:hi], _part_of(cut, local.hosts, lo, hi), gather)
    local = messages.meet("sums", bytes([present]))
    present, outs = local.note(0) == b"\1", places_of(notes)
    if not same_place(outs):  # each rank has a result of its own
        first, last = (0, out.size) if gather or cut is None else cut[messages.rank]
        for index in (index for index in local.others() if index < streams):
            lo, hi = slices(out.size, streams)[index]
            part = slice(max(lo, first), max(lo, first, min(hi, last)))
            np.copyto(out[part], local.at(outs[index], out.dtype, out.size)[part])
        messages.meet("sums read")
    return present


def _exchange(
    messages: Messages,
    terms: Mapping[Node, Term | None],
    ranges: Sequence[tuple[int, int]],
    shards: int,
    out: np.ndarray,
    cut: list[tuple[int, int]] | None,
    gather: bool,
) -> bool:
    """This host's sums of one slice, and those of the other hosts, by the ranks with this number on each."""
    local = messages.local
    assert local is not None
    nodes = [_nodes_of(host, ranges, shards) for host in local.hosts]
    mine = next(number for number, host in enumerate(local.hosts) if messages.rank in host)
    partials = dict(zip(nodes[mine], partial_sums(terms, nodes[mine], out, local.evaluator), strict=True))
    members = [host[local.index] for host in local.hosts]
    return collectives.tree_all_reduce(
        messages, partials, ranges, shards, out, cut=cut, gather=gather or cut is None, nodes=nodes, members=members
    )


def _nodes_of(host: Sequence[int], ranges: Sequence[tuple[int, int]], shards: int) -> list[Node]:
    """What the ranks of one host know the sums of, together."""
    return maximal([node for rank in host for node in whole_subtrees(*ranges[rank], shards)], shards)


def _part_of(
    cut: Sequence[tuple[int, int]] | None, hosts: Sequence[Sequence[int]], lo: int, hi: int
) -> list[tuple[int, int]] | None:
    """For each host what its ranks need of the slice [lo, hi), counted from lo; None where that is not one range each."""
    if cut is None:
        return None
    found = []
    for host in hosts:
        owned = sorted(cut[rank] for rank in host if cut[rank][0] < cut[rank][1])
        if any(left[1] != right[0] for left, right in pairwise(owned)):
            return None
        first, last = (owned[0][0], owned[-1][1]) if owned else (lo, lo)
        found.append((min(max(first, lo), hi) - lo, min(max(last, lo), hi) - lo))
    return found
