"""Collectives for ranks that share no memory: everything travels in messages (:mod:`.collectives`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ..messages import Messages
from . import collectives
from .collectives import all_gather as all_gather
from .collectives import all_gather_bytes as all_gather_bytes
from .collectives import all_gather_object as all_gather_object
from .collectives import all_gather_slices as all_gather_slices
from .collectives import all_reduce as all_reduce
from .collectives import barrier as barrier
from .collectives import broadcast as broadcast
from .collectives import broadcast_object as broadcast_object
from .collectives import reduce_scatter as reduce_scatter
from .expression import Term, partial_sums
from .tree import Node, whole_subtrees


def tree_all_reduce(
    messages: Messages,
    terms: Mapping[Node, Term | None],
    ranges: Sequence[tuple[int, int]],
    shards: int,
    out: np.ndarray,
    cut: Sequence[tuple[int, int]] | None = None,
    gather: bool = True,
) -> bool:
    """As :func:`.shared.tree_all_reduce`: each rank folds its own terms as far as the tree allows and sends the sums."""
    nodes = whole_subtrees(*ranges[messages.rank], shards)
    partials = dict(zip(nodes, partial_sums(terms, nodes, out), strict=True))
    return collectives.tree_all_reduce(messages, partials, ranges, shards, out, cut=cut, gather=gather)
