"""The end of a step in which every rank says of itself what it said in the step before: one compiled call does all of it."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from zlib import crc32

import numpy as np

from ...core.kernels.reference_meeting import ALL_HERE, ARRIVED, ARRIVED_AGAIN, BEGIN, JOINED, WAKE, end_of_step
from ...core.kernels.table import kernel
from ..communicators.shared_memory import LocalSpace
from ..messages import Messages
from ..shard_state import NO_MOMENTS, Layout, ShardState, Votes, constant_nbytes

FIRST, SECOND = "terms and state", "means"
"""The two meetings."""
_SIZE = struct.Struct("<q")
_NO_SUM = (np.zeros(0, np.float32), np.zeros(0, np.float32), 0, 0)


class AsBefore:
    """What is known of a step's end beforehand, and the memory that it takes.

    Args:
        notes: of every rank, where its gradients lie.
        rows: what every rank brought in the step before: one state each, and no votes.
        pairs: in which order the states are merged; (share, product) of :func:`..shard_state.merge` for each pair.
        own: what this rank's state consists of: its object, by which the next one is recognised.
        layout: of the states together.
        two: both ranks' gradients where there are two, float32, and from where to where this rank sums them. None: the sum is left to
            the caller.
    """

    def __init__(
        self,
        local: LocalSpace,
        notes: Sequence[bytes],
        rows: Sequence[bytes],
        pairs: Sequence[tuple[int, int]],
        shares: Sequence[tuple[np.ndarray, np.ndarray]],
        own: Layout,
        layout: Layout,
        two: tuple[np.ndarray, np.ndarray, int, int] | None,
    ) -> None:
        self.local, self._own, self._layout = local, own, layout
        self._go_on = kernel("end_of_step", "cpu")
        said = [_SIZE.pack(len(row)) + row[: constant_nbytes(row)] for row in rows]
        sizes = [
            (len(note), len(constant), _SIZE.size + len(row))
            for note, constant, row in zip(notes, said, rows, strict=True)
        ]
        expected = np.zeros((local.size, max(note + constant for note, constant, _ in sizes)), np.uint8)
        for rank, (note, constant) in enumerate(zip(notes, said, strict=True)):
            together = note + constant
            expected[rank, : len(together)] = np.frombuffer(together, np.uint8)
        self._note = notes[local.index]
        self._data = np.frombuffer(bytearray(_SIZE.pack(len(rows[local.index])) + rows[local.index]), np.uint8)
        at = len(said[local.index])
        self._numbers, self._own_moments = (
            self._data[at : at + 16].view(np.float64),
            self._data[at + 16 :].view(np.float64),
        )
        self._totals, self._moments = np.zeros((local.size, 2)), np.zeros((local.size, 2, layout.channels))
        shape = (len(pairs), layout.channels)
        share, product = (np.array([pair[i] for pair in shares]).reshape(shape) for i in (0, 1))
        raw = local.bytes
        self._memory = (raw, raw.view(np.uint32), raw.view(np.float64), local.place)
        self._note_bytes = np.frombuffer(self._note, np.uint8)
        self._rest = (
            expected, np.array(sizes), np.array(pairs).reshape(-1, 2), share, product, self._totals, self._moments,
            *(two or _NO_SUM),
        )  # fmt: skip

    def serves(self, local: LocalSpace | None, note: bytes, state: ShardState | None, votes: Votes) -> bool:
        """Whether this rank says what it said before, too."""
        if state is None or state.layout is not self._own or local is not self.local or note != self._note:
            return False
        return not (votes.again or votes.stop or votes.named or votes.notes)

    def run(self, messages: Messages, state: ShardState) -> tuple[int, ShardState | None]:
        """How far it got: ALL_HERE where somebody says something else; JOINED where the sum is left to do; else all is done.

        And the state of all ranks from JOINED on.
        """
        local, go_on = self.local, self._go_on
        self._numbers[:] = state.weight, state.loss
        self._own_moments[:] = state.moments.reshape(-1)
        texts = messages.text(FIRST), messages.text(SECOND)
        arguments = (
            *self._memory, local.next_number(), np.frombuffer(texts[0], np.uint8), self._note_bytes, self._data,
            np.frombuffer(texts[1], np.uint8), crc32(self._note, crc32(texts[0], self._data.size)), crc32(texts[1]), *self._rest,
        )  # fmt: skip
        stage = self._arrived(go_on(BEGIN, *arguments), self._note)
        if stage == ARRIVED:
            messages.hear_all(texts[0], FIRST)
            stage = self._arrived(go_on(ARRIVED, *arguments))
        if stage == ALL_HERE:
            return stage, None
        if stage == ARRIVED_AGAIN:
            messages.hear_all(texts[1], SECOND)
        (weight, loss), channels = self._totals[0].tolist(), self._layout.channels
        return stage, ShardState(weight, loss, self._layout, self._moments[0].copy() if channels else NO_MOMENTS)

    def _arrived(self, stage: int, note: bytes | None = None) -> int:
        local = self.local
        if note is not None:
            local.has_arrived(note)
        if stage & ~WAKE > JOINED:
            local.has_arrived()
        if stage & WAKE:
            local.wake_sleepers()
        return stage & ~WAKE


def is_compiled() -> bool:
    """Whether the kernels that were chosen can do it; then it is compiled, before anybody waits for it."""
    go_on = kernel("end_of_step", "cpu")
    if go_on is end_of_step:
        return False
    none, numbers, cut = np.zeros(0, np.uint8), np.zeros((0, 0)), np.zeros((0, 0), np.int64)
    memory = (none, np.zeros(0, np.uint32), np.zeros(0), np.zeros(0, np.int64))
    rest = (np.zeros((0, 0), np.uint8), cut, cut, numbers, numbers, numbers, np.zeros((0, 0, 0)), *_NO_SUM)
    go_on(ALL_HERE, *memory, 0, none, none, none, none, 0, 0, *rest)
    return True
