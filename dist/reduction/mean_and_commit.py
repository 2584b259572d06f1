"""The mean of one bucket and what the ranks agree on at the end of a step, in one operation of two meetings in shared memory.

It comes once a step between large products, when no cache holds anything of it. So all that is the same from step to step is
made once and recognised: where this rank's terms lie by the object that holds them, where the others' do by what they say.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ...core.kernels.table import kernel
from ..communicators.shared_memory import INLINE_NBYTES, LocalSpace
from ..messages import Messages
from .expression import InPlace, Term, expression
from .shared import are_the_terms, note_of, places_of, terms_of_all, tree_all_reduce
from .tree import Node, slices

_SIZE = struct.Struct("<q")
_ROOM = INLINE_NBYTES - _SIZE.size


class MeanAndCommit:
    """As ``tree_all_reduce`` into one array, with what every rank brings to the end of a step on the way.

    In the program of one operation: :meth:`gather`, then :meth:`divide` on all ranks or on none.
    """

    def __init__(self, ranges: Sequence[tuple[int, int]], shards: int) -> None:
        self.ranges, self.shards = ranges, shards
        self._own: tuple[Any, Any, Any, bytes] = (None, None, None, b"")
        """The shared memory, terms and result of the step before, and the note that says where they lie."""
        self._said: tuple[LocalSpace | None, list[bytes]] = None, []
        """Where all terms lay in the step before, and what follows from that:"""
        self._sum: InPlace | None = None
        """The sum of this rank's slice; None where it must be made as any other sum."""
        nothing = np.zeros(0, np.float32)
        kernel("mean_of_two", "cpu")(nothing, nothing, 1.0)  # compiled before anybody waits for it

    def gather(
        self, messages: Messages, terms: Mapping[Node, Term | None], out: np.ndarray, brought: bytes
    ) -> list[bytes]:
        """What every rank brought, in the order of ranks. Every rank's terms are complete when this returns, and none has changed."""
        here, own = messages.local, self._own
        assert here is not None
        if own[0] is not here or own[1] is not terms or own[2] is not out:
            own = self._own = (here, terms, out, note_of(here, terms, out))
        local = messages.meet("terms and state", own[3], (_SIZE.pack(len(brought)), brought[:_ROOM]))
        everybody = range(messages.size)
        notes = [local.note(rank) for rank in everybody]
        if self._said[0] is not local or self._said[1] != notes:
            self._said, self._sum = (local, notes), self._prepare(local, messages.rank, notes, out)
        parts = [bytes(local.inline(rank)) for rank in everybody]
        rows = [part[_SIZE.size :] for part in parts]
        full = [_SIZE.unpack_from(part)[0] for part in parts if len(part) == INLINE_NBYTES]
        for start in range(_ROOM, max(full, default=0), INLINE_NBYTES):
            local = messages.meet("more state", b"", (brought[start : start + INLINE_NBYTES],))
            rows = [row + local.inline(rank) for rank, row in enumerate(rows)]
        messages.count_sent((messages.size - 1) * len(brought))
        return rows

    def divide(self, messages: Messages, terms: Mapping[Node, Term | None], out: np.ndarray, divisor: float) -> None:
        """The sum over ``divisor`` in ``out``. When this returns all ranks have all of it."""
        if self._sum is None:
            tree_all_reduce(messages, terms, self.ranges, self.shards, out)
            if divisor != 1.0:
                np.divide(out, out.dtype.type(divisor), out=out)
            return
        self._sum.run(divisor)
        lo, hi = slices(out.size, messages.size)[messages.rank]
        messages.count_sent(out.nbytes + (messages.size - 2) * (hi - lo) * out.itemsize)
        messages.meet("means")

    def _prepare(self, local: LocalSpace, rank: int, notes: Sequence[bytes], out: np.ndarray) -> InPlace | None:
        found = terms_of_all(local, notes, out.size)
        if not found or not are_the_terms([local.at(p, out.dtype, out.size) for p in places_of(notes)], found):
            return None  # elsewhere than was laid out
        part = slice(*slices(out.size, local.size)[rank])
        arrays = {node: term.array for node, term in found.items()}
        return InPlace(expression((0, self.shards), found.keys()), arrays, part)
