"""The walk through time of an RNN, LSTM or GRU: for each step one product of matrices and one compiled loop.

Served are float32 sequences of all kinds; everything else goes to the reference. What is saved for backward is what the reference saves.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ...op import Array
from .. import reference_recurrent as reference
from ..reference_recurrent import spans
from . import loops_recurrent as loops
from .step_products import lent, products

FLOAT32 = np.dtype(np.float32)
_dense = np.ascontiguousarray


def _served(gates: Array) -> bool:
    return gates.dtype == FLOAT32 and gates.flags.c_contiguous and gates.flags.aligned and gates.size > 0


def _at_once(sizes: Sequence[int], first: Array, w_hr: Array | None) -> bool:
    """Whether one compiled function may do all steps: a rectangle. The bits are those of single steps."""
    return sizes[0] == sizes[-1] == len(first) and w_hr is None


def _well(failed: Array) -> None:
    if failed.any():
        raise RuntimeError(f"oneDNN: the product of a step returned status {failed.max()}")


class _Carried:
    """What goes from step to step: its rows ``before`` and ``after`` each, (S, width) both.

    Where all steps have all rows, what is after one step is what is before the next: both are views of one array.
    """

    def __init__(self, first: Array, sizes: Sequence[int], reverse: bool) -> None:
        count, width = first.shape
        rows = sum(sizes)
        self._state: Array | None = None
        if sizes[0] == sizes[-1] == count:
            both = np.empty((rows + count, width), FLOAT32)
            head, tail = both[:rows], both[count:]
            self.before, self.after = (tail, head) if reverse else (head, tail)
            self._last = both[:count] if reverse else both[rows:]
            (both[rows:] if reverse else both[:count])[...] = first
        else:
            self.before, self.after = np.empty((rows, width), FLOAT32), np.empty((rows, width), FLOAT32)
            self._state = first.copy()

    def enter(self, lo: int, hi: int) -> Array:
        """The rows before a step."""
        if self._state is not None:
            self.before[lo:hi] = self._state[: hi - lo]
        return self.before[lo:hi]

    def leave(self, lo: int, hi: int) -> None:
        """The step has written its rows of ``after``."""
        if self._state is not None:
            self._state[: hi - lo] = self.after[lo:hi]

    def last(self) -> Array:
        """What each sequence ends with."""
        return self._last.copy() if self._state is None else self._state


# ---- Elman's network ---------------------------------------------------------------------------------------------------


def rnn_forward(
    gates: Array, h: Array, w_hh: Array, sizes: Sequence[int], reverse: bool, nonlinearity: str
) -> tuple[Array, Array, Array]:
    """As ``reference_recurrent.rnn_forward``."""
    if not _served(gates):
        return reference.rnn_forward(gates, h, w_hh, sizes, reverse, nonlinearity)
    states, share = _Carried(h, sizes, reverse), np.empty((sizes[0], gates.shape[1]), FLOAT32)
    squash = nonlinearity == "tanh"
    with products(w_hh.T, sizes[0], len(sizes)) as multiply:
        for lo, hi in spans(sizes, reverse):
            count = hi - lo
            multiply(states.enter(lo, hi), share[:count])
            loops.rnn_step(count * gates.shape[1], share, gates, states.after, lo, count, squash)
            states.leave(lo, hi)
    return states.after, states.last(), states.before


def rnn_backward(
    dy: Array | None, dh: Array, y: Array, w_hh: Array, sizes: Sequence[int], reverse: bool, nonlinearity: str
) -> tuple[Array, Array]:
    """As ``reference_recurrent.rnn_backward``."""
    if not _served(y):
        return reference.rnn_backward(dy, dh, y, w_hh, sizes, reverse, nonlinearity)
    gates, state, squash, adding = np.empty_like(y), dh.copy(), nonlinearity == "tanh", dy is not None
    more = _dense(dy) if adding else y
    with products(w_hh, sizes[0], len(sizes)) as multiply:
        for lo, hi in reversed(spans(sizes, reverse)):
            count = hi - lo
            loops.rnn_step_back(count * y.shape[1], more, state, y, gates, lo, count, squash, adding)
            multiply(gates[lo:hi], state[:count])
    return gates, state


# ---- LSTM --------------------------------------------------------------------------------------------------------------


def lstm_forward(
    gates: Array, h: Array, c: Array, w_hh: Array, w_hr: Array | None, sizes: Sequence[int], reverse: bool
) -> tuple[Array, ...]:
    """As ``reference_recurrent.lstm_forward``."""
    if not _served(gates):
        return reference.lstm_forward(gates, h, c, w_hh, w_hr, sizes, reverse)
    rows, steps = sizes[0], len(sizes)
    states, cells = _Carried(h, sizes, reverse), _Carried(c, sizes, reverse)
    share, squashed = np.empty((rows, gates.shape[1]), FLOAT32), np.empty_like(cells.before)
    y = states.after if w_hr is None else np.empty_like(squashed)
    if _at_once(sizes, h, w_hr):
        with lent(w_hh.T, steps, states.before, share) as places:
            if places is not None:
                failed = np.zeros(len(places), np.int64)
                loops.lstm_walk(
                    share.size,
                    places,
                    states.before,
                    share,
                    gates,
                    cells.before,
                    cells.after,
                    squashed,
                    y,
                    failed,
                    reverse,
                )
                _well(failed)
                return states.after, states.last(), cells.last(), states.before, cells.before, squashed
    with products(w_hh.T, rows, steps) as multiply:
        for lo, hi in spans(sizes, reverse):
            count = hi - lo
            multiply(states.enter(lo, hi), share[:count])
            cells.enter(lo, hi)
            loops.lstm_step(count * gates.shape[1], share, gates, cells.before, cells.after, squashed, y, lo, count)
            if w_hr is not None:
                np.matmul(y[lo:hi], w_hr.T, out=states.after[lo:hi])
            states.leave(lo, hi)
            cells.leave(lo, hi)
    return states.after, states.last(), cells.last(), states.before, cells.before, squashed


def lstm_backward(
    dy: Array | None, dh: Array, dc: Array, gates: Array, before_c: Array, squashed: Array, w_hh: Array, w_hr: Array | None,
    sizes: Sequence[int], reverse: bool, first: bool = True, spend: bool = False,
) -> tuple[Any, ...]:  # fmt: skip
    """As ``reference_recurrent.lstm_backward``."""
    if not _served(gates):
        return reference.lstm_backward(dy, dh, dc, gates, before_c, squashed, w_hh, w_hr, sizes, reverse)
    state, memory, steps = dh.copy(), dc.copy(), len(sizes)
    adding = dy is not None and w_hr is None
    if _at_once(sizes, dh, w_hr):
        turned = gates if spend else np.empty_like(gates)
        with lent(w_hh, steps, turned, state) as places:
            if places is not None:
                failed, elements = np.zeros(len(places), np.int64), sizes[0] * gates.shape[1]
                more, down, along = (squashed, 0, 0) if dy is None else _as_it_lies(dy, sizes[0])
                loops.lstm_walk_back(
                    elements, places, more, state, memory, gates, before_c, squashed, turned, failed, reverse, adding,
                    down, along, first, spend,
                )  # fmt: skip
                _well(failed)
                return turned, state if first else None, memory, None
    turned = np.empty_like(gates)
    dy = None if dy is None else _dense(dy).reshape(len(gates), dh.shape[1])
    more = dy if adding else squashed
    hidden = None if w_hr is None else np.empty((len(gates), dh.shape[1]), FLOAT32)
    through = state if w_hr is None else np.empty_like(memory)
    with products(w_hh, sizes[0], steps) as multiply:
        for lo, hi in reversed(spans(sizes, reverse)):
            count = hi - lo
            if hidden is not None and w_hr is not None:
                hidden[lo:hi] = state[:count]
                if dy is not None:
                    hidden[lo:hi] += dy[lo:hi]
                np.matmul(hidden[lo:hi], w_hr, out=through[:count])
            loops.lstm_step_back(
                count * gates.shape[1], more, through, memory, gates, before_c, squashed, turned, lo, count, adding
            )
            multiply(turned[lo:hi], state[:count])
    return turned, state, memory, hidden


def _as_it_lies(dy: Array, count: int) -> tuple[Array, int, int]:
    """Rows of dy, (S, R) or (T, N, R): and how many lie between those of two steps, and between those of two sequences of one."""
    if dy.ndim == 3 and dy.swapaxes(0, 1).flags.c_contiguous:  # the batch comes first
        return dy.swapaxes(0, 1).reshape(-1, dy.shape[2]), 1, len(dy)
    return _dense(dy).reshape(-1, dy.shape[-1]), count, 1


# ---- GRU ---------------------------------------------------------------------------------------------------------------


def gru_forward(
    gates: Array, h: Array, w_hh: Array, b_hh: Array | None, sizes: Sequence[int], reverse: bool
) -> tuple[Array, ...]:
    """As ``reference_recurrent.gru_forward``."""
    if not _served(gates):
        return reference.gru_forward(gates, h, w_hh, b_hh, sizes, reverse)
    width = gates.shape[1]
    states, share = _Carried(h, sizes, reverse), np.empty((sizes[0], width), FLOAT32)
    shares, bias = np.empty_like(states.before), np.zeros(width, FLOAT32) if b_hh is None else _dense(b_hh)
    with products(w_hh.T, sizes[0], len(sizes)) as multiply:
        for lo, hi in spans(sizes, reverse):
            count = hi - lo
            multiply(states.enter(lo, hi), share[:count])
            loops.gru_step(count * width, share, bias, gates, states.before, shares, states.after, lo, count)
            states.leave(lo, hi)
    return states.after, states.last(), states.before, shares


def gru_backward(
    dy: Array | None,
    dh: Array,
    gates: Array,
    before: Array,
    shares: Array,
    w_hh: Array,
    sizes: Sequence[int],
    reverse: bool,
) -> tuple[Array, ...]:
    """As ``reference_recurrent.gru_backward``."""
    if not _served(gates):
        return reference.gru_backward(dy, dh, gates, before, shares, w_hh, sizes, reverse)
    inputs, hidden, state, adding = np.empty_like(gates), np.empty_like(gates), dh.copy(), dy is not None
    more, share = _dense(dy) if adding else before, np.empty((sizes[0], before.shape[1]), FLOAT32)
    with products(w_hh, sizes[0], len(sizes)) as multiply:
        for lo, hi in reversed(spans(sizes, reverse)):
            count = hi - lo
            loops.gru_step_back(
                count * gates.shape[1], more, state, gates, before, shares, inputs, hidden, lo, count, adding
            )
            multiply(hidden[lo:hi], share[:count])
            now = state[:count]
            np.add(now, share[:count], out=now)
    return inputs, hidden, state


KERNELS: dict[str, Callable[..., Any]] = {
    "rnn_forward": rnn_forward,
    "rnn_backward": rnn_backward,
    "lstm_forward": lstm_forward,
    "lstm_backward": lstm_backward,
    "gru_forward": gru_forward,
    "gru_backward": gru_backward,
}
