"""The end of a step in which every rank says of itself what it said in the step before: one compiled call does all of it."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from ...core.kernels.bound import bound
from ...core.kernels.reference_meeting import (
    ALL_HERE,
    ARRIVED,
    ARRIVED_AGAIN,
    BEGIN,
    JOINED,
    LENGTH,
    RUNNING,
    SHARES,
    WAKE,
    end_of_step,
)
from ...core.kernels.table import kernel
from ..communicators.shared_memory import LocalSpace
from ..messages import Messages
from ..shard_state import NO_MOMENTS, Layout, ShardState, Votes, constant_nbytes

FIRST, SECOND = "terms and state", "means"
"""The two meetings."""
_SIZE = struct.Struct("<q")
_MIDDLE_NBYTES = 512
"""Longest name of an operation that is told in pieces: with the numbers around it, it goes into a meeting's text."""


class Begun(NamedTuple):
    """How far the end of a step has got at once, and when it began (``time.monotonic``)."""

    stage: int
    at: float


NOT_BEGUN = Begun(BEGIN, 0.0)
"""Nobody has tried."""


class AsBefore:
    """What is known of a step's end beforehand, and the memory that it takes.

    Args:
        name: of the operation without the number of the step, which is its last word.
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
        name: str,
        notes: Sequence[bytes],
        rows: Sequence[bytes],
        pairs: Sequence[tuple[int, int]],
        shares: Sequence[tuple[np.ndarray, np.ndarray]],
        own: Layout,
        layout: Layout,
        two: tuple[np.ndarray, np.ndarray, int, int] | None,
    ) -> None:
        self.local, self._own, self._layout = local, own, layout
        self._go_on = bound("end_of_step")
        self.sums = two is not None
        """Whether the mean is made on the way."""
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
        data = np.frombuffer(bytearray(_SIZE.pack(len(rows[local.index])) + rows[local.index]), np.uint8)
        constant_until = len(said[local.index])
        self.own_moments = data[constant_until + 16 :].view(np.float64)
        """Where this rank's are taken from: means and behind them M2, of all channels."""
        self._totals = np.zeros((2, local.size, 2))
        self._per_turn = 2 * local.size
        self._numbers: Any = self._totals.reshape(-1).data
        moments = np.zeros((2, local.size, 2, layout.channels))
        self._merged = [moments[turn, 0] if layout.channels else NO_MOMENTS for turn in (0, 1)]
        share, product = (np.array([pair[i] for pair in shares], np.float64).reshape(-1) for i in (0, 1))
        one, other, start, stop = two or _NO_SUM
        middles = [f"\n{part}\n{name} ".encode() for part in (FIRST, SECOND)]
        arrays = [np.frombuffer(text, np.uint8) for text in (self._note, *middles)]
        table = [np.array(rows, np.int64).reshape(-1) for rows in (sizes, pairs)]
        self._kept = (arrays, table, data, expected, share, product, moments, one, other)
        at, middle, again = ((_address(array), array.size) for array in arrays)
        self._told = np.array([
            *local.place, _address(local.bytes), *at, _address(data), data.size, constant_until, *middle, *again,
            _address(expected), expected.shape[1], _address(table[0]), _address(table[1]), len(pairs), _address(share),
            _address(product), layout.channels, _address(self._totals), _address(moments), _address(one), _address(other), start, stop,
            0, 0,
        ])  # fmt: skip

    def serves(self, local: LocalSpace | None, note: bytes, state: ShardState | None, votes: Votes) -> bool:
        """Whether this rank says what it said before, too."""
        if state is None or state.layout is not self._own or local is not self.local or note != self._note:
            return False
        return not (votes.again or votes.stop or votes.named or votes.notes)

    def run(
        self, messages: Messages, state: ShardState, number: int, begun: int = BEGIN
    ) -> tuple[int, ShardState | None]:
        """How far it got: ALL_HERE where somebody says something else; JOINED where the sum is left to do; else all is done.

        And the state of all ranks from JOINED on. ``number``: of the step. ``begun``: how far :meth:`begin` has got, where it was called.
        """
        meeting = self.local.next_number()
        if begun == BEGIN:
            self.own_moments[:] = state.moments.reshape(-1)
            begun = self.begin(messages.sequence, number, state.weight, state.loss)
        stage = self._arrived(begun, self._note)
        if stage == ARRIVED:
            messages.hear_all(messages.text(FIRST), FIRST)
            stage = self._arrived(self._go_on(ARRIVED, self._told, meeting, messages.sequence, number, 0.0, 0.0, 0))
        if stage == ALL_HERE:
            return stage, None
        if stage == ARRIVED_AGAIN:
            messages.hear_all(messages.text(SECOND), SECOND)
        return stage, self.state(number)

    def begin(self, operation: int, number: int, weight: float, loss: float, layers: int = 0) -> int:
        """Come to the end of step ``number``, with ``own_moments``: how far it is without waiting. ``layers``: of :meth:`let_move`, so many."""
        return self._go_on(BEGIN, self._told, self.local.next_number(), operation, number, weight, loss, layers)

    def let_move(self, running: np.ndarray, shares: np.ndarray) -> None:
        """The running statistics of layers, which :meth:`begin` moves, too: addresses and channels, and how far they move."""
        self._running = running, shares
        self._told[RUNNING], self._told[SHARES] = _address(running), _address(shares)

    def mean_loss(self, number: int) -> float:
        """Of all ranks together, after step ``number``."""
        at = (number & 1) * self._per_turn
        return float(self._numbers[at + 1] / self._numbers[at])

    def state(self, number: int) -> ShardState:
        """Of all ranks together, after step ``number``; its moments are overwritten in the next step but one."""
        weight, loss = self._totals[number & 1, 0].tolist()
        return ShardState(weight, loss, self._layout, self._merged[number & 1])

    def _arrived(self, stage: int, note: bytes | None = None) -> int:
        local = self.local
        if note is not None:
            local.has_arrived(note)
        if stage & ~WAKE > JOINED:
            local.has_arrived()
        if stage & WAKE:
            local.wake_sleepers()
        return stage & ~WAKE


def can_be_told(name: str) -> bool:
    """Whether an operation's name is short enough."""
    return len(name.encode()) <= _MIDDLE_NBYTES


def is_compiled() -> bool:
    """Whether the kernels that were chosen can do it; then it is compiled, before anybody waits for it."""
    go_on = kernel("end_of_step", "cpu")
    if go_on is end_of_step:
        return False
    go_on(ALL_HERE, np.zeros(LENGTH, np.int64), 0, 0, 0, 0.0, 0.0, 0)
    return True


def _address(array: np.ndarray) -> int:
    return int(array.__array_interface__["data"][0])


_NO_SUM = (np.zeros(0, np.float32), np.zeros(0, np.float32), 0, 0)
