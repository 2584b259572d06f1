"""The mean of one bucket and what the ranks agree on at the end of a step, in one operation of two meetings in shared memory.

It comes once a step between large products, when no cache holds anything of it. So all that is the same from step to step is
made once and recognised: where this rank's terms lie by the object that holds them, all else by what every rank says. Where all
of them say what they said before, :mod:`.as_before` does it in one compiled call.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ...core.kernels.cpu.threads import threads
from ...core.kernels.reference_meeting import BEGIN, JOINED
from ...core.kernels.table import kernel
from ..communicators.shared_memory import INLINE_NBYTES, LocalSpace
from ..messages import Messages
from ..shard_state import NO_VOTES, ShardState, Votes, encode, join, order_of_merging
from .as_before import FIRST, SECOND, AsBefore, can_be_told, is_compiled
from .expression import InPlace, Term, expression
from .shared import are_the_terms, note_of, places_of, terms_of_all, tree_all_reduce
from .tree import Node, slices

_SIZE = struct.Struct("<q")
_ROOM = INLINE_NBYTES - _SIZE.size


class MeanAndCommit:
    """As ``tree_all_reduce`` into one array and a division, with what every rank brings to the end of a step on the way.

    The program of one operation, whose name is ``name`` and the number of the step.
    """

    def __init__(self, name: str, ranges: Sequence[tuple[int, int]], shards: int) -> None:
        self.name, self.ranges, self.shards = name, ranges, shards
        self._own: tuple[Any, Any, Any, bytes] = (None, None, None, b"")
        """The shared memory, terms and result of the step before, and the note that says where they lie."""
        self._said: tuple[LocalSpace | None, list[bytes]] = None, []
        """Where all terms lay in the step before, and what follows from that:"""
        self._sum: InPlace | None = None
        """The sum of this rank's slice; None where it must be made as any other sum."""
        self.known: AsBefore | None = None
        """None also where the next step cannot be as the one before."""
        self.sent_nbytes = 0
        self._compiled = is_compiled() and can_be_told(name)
        nothing = np.zeros(0, np.float32)
        kernel("mean_of_two", "cpu")(nothing, nothing, 1.0)  # compiled before anybody waits for it

    def __call__(
        self,
        messages: Messages,
        terms: Mapping[Node, Term | None],
        out: np.ndarray,
        states: Sequence[ShardState | None],
        votes: Votes,
        number: int,
        begun: int = BEGIN,
    ) -> tuple[ShardState | None, Votes]:
        """From this rank's the state of all shards and the votes of all ranks; and in ``out`` the mean, unless it is to be done again.

        When this returns all ranks have all of it. ``number``: of the step. ``begun``: how far ``known.begin`` has got already.
        """
        here, own, known = messages.local, self._own, self.known
        assert here is not None
        if own[0] is not here or own[1] is not terms or own[2] is not out:
            own = self._own = (here, terms, out, note_of(here, terms, out))
        have_come = False
        mine = states[0] if len(states) == 1 else None
        if known is not None and mine is not None and (begun != BEGIN or known.serves(here, own[3], mine, votes)):
            stage, state = known.run(messages, mine, number, begun)
            if state is not None:
                if stage == JOINED:
                    self._divide(messages, terms, out, state.weight or 1.0)
                messages.count_sent(self.sent_nbytes)
                return state, NO_VOTES
            have_come = True
        brought = encode(states, votes)
        rows = self._gather(messages, own[3], brought, out, have_come)
        state, votes = join(rows, self.ranges, self.shards)
        self.known = self._prepare_known(here, rows, mine, state)
        if not votes.again:
            self._divide(messages, terms, out, state.weight if state is not None and state.weight else 1.0)
            lo, hi = slices(out.size, messages.size)[messages.rank]
            sums_nbytes = out.nbytes + (messages.size - 2) * (hi - lo) * out.itemsize
            self.sent_nbytes = (messages.size - 1) * len(brought) + sums_nbytes
            messages.count_sent(self.sent_nbytes if self._sum is not None else (messages.size - 1) * len(brought))
        return state, votes

    def _gather(self, messages: Messages, note: bytes, brought: bytes, out: np.ndarray, have_come: bool) -> list[bytes]:
        """What every rank brought, in the order of ranks. Every rank's terms are complete when this returns, and none has changed."""
        local = messages.local
        assert local is not None
        if have_come:
            messages.hear_all(messages.text(FIRST), FIRST)
        else:
            messages.meet(FIRST, note, (_SIZE.pack(len(brought)), brought[:_ROOM]))
        everybody = range(messages.size)
        notes = [local.note(rank) for rank in everybody]
        if self._said[0] is not local or self._said[1] != notes:
            self._said, self._sum = (local, notes), self._prepare_sum(local, messages.rank, notes, out)
        parts = [bytes(local.inline(rank)) for rank in everybody]
        rows = [part[_SIZE.size :] for part in parts]
        full = [_SIZE.unpack_from(part)[0] for part in parts if len(part) == INLINE_NBYTES]
        for start in range(_ROOM, max(full, default=0), INLINE_NBYTES):
            local = messages.meet("more state", b"", (brought[start : start + INLINE_NBYTES],))
            rows = [row + local.inline(rank) for rank, row in enumerate(rows)]
        return rows

    def _divide(self, messages: Messages, terms: Mapping[Node, Term | None], out: np.ndarray, divisor: float) -> None:
        """The sum over ``divisor`` in ``out``. When this returns all ranks have all of it."""
        if self._sum is not None:
            self._sum.run(divisor)
            messages.meet(SECOND)
            return
        tree_all_reduce(messages, terms, self.ranges, self.shards, out)
        messages.flush()
        if divisor != 1.0:
            np.divide(out, out.dtype.type(divisor), out=out)

    def _prepare_sum(self, local: LocalSpace, rank: int, notes: Sequence[bytes], out: np.ndarray) -> InPlace | None:
        found = terms_of_all(local, notes, out.size)
        if not found or not are_the_terms([local.at(p, out.dtype, out.size) for p in places_of(notes)], found):
            return None  # elsewhere than was laid out
        part = slice(*slices(out.size, local.size)[rank])
        arrays = {node: term.array for node, term in found.items()}
        return InPlace(expression((0, self.shards), found.keys()), arrays, part)

    def _prepare_known(
        self, local: LocalSpace, rows: Sequence[bytes], mine: ShardState | None, state: ShardState | None
    ) -> AsBefore | None:
        if not self._compiled or self._sum is None or mine is None or state is None or max(map(len, rows)) > _ROOM:
            return None
        order = order_of_merging(rows, self.ranges, self.shards)
        if order is None:
            return None
        two = self._sum.of_two() if threads() == 1 else None
        return AsBefore(local, self.name, self._said[1], rows, *order, mine.layout, state.layout, two)
