"""RNN, LSTM and GRU on the device: a product of matrices and one kernel for each step. float32; the rest goes to the reference."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ...backend import Array, array_module
from .. import reference_recurrent as reference
from ..reference_recurrent import spans
from ..table import kernel
from .dense import FLOAT32, blocks_for, contiguous
from .launch import launch


def _served(*arrays: Array) -> bool:
    return all(a.dtype == FLOAT32 and a.size and a.flags.c_contiguous for a in arrays)


def _step(name: str, lo: int, count: int, units: int, *arguments: Any, last: tuple[Any, ...] = ()) -> None:
    launch("recurrent", name, blocks_for(count * units), 256, *arguments, lo, count, units, *last)


def _given(dy: Array | None) -> Array | None:
    return None if dy is None else contiguous(dy)


# ---- Elman's network ---------------------------------------------------------------------------------------------------


def rnn_forward(
    gates: Array, h: Array, w_hh: Array, sizes: Sequence[int], reverse: bool, nonlinearity: str
) -> tuple[Array, Array, Array]:
    """As ``reference_recurrent.rnn_forward``."""
    if not _served(gates, h):
        return reference.rnn_forward(gates, h, w_hh, sizes, reverse, nonlinearity)
    xp, multiply, squash = array_module(gates), kernel("matmul", "cuda"), nonlinearity == "tanh"
    before, turned, state = xp.empty_like(gates), w_hh.T, h.copy()
    share = xp.empty_like(h)
    for lo, hi in spans(sizes, reverse):
        multiply(state[: hi - lo], turned, out=share[: hi - lo])
        _step("rnn_step", lo, hi - lo, gates.shape[1], share, gates, state, before, last=(squash,))
    return gates, state, before


def rnn_backward(
    dy: Array | None, dh: Array, y: Array, w_hh: Array, sizes: Sequence[int], reverse: bool, nonlinearity: str
) -> tuple[Array, Array]:
    """As ``reference_recurrent.rnn_backward``."""
    if not _served(y, dh):
        return reference.rnn_backward(dy, dh, y, w_hh, sizes, reverse, nonlinearity)
    xp, multiply, squash = array_module(y), kernel("matmul", "cuda"), nonlinearity == "tanh"
    gates, state, dy = xp.empty_like(y), dh.copy(), _given(dy)
    for lo, hi in reversed(spans(sizes, reverse)):
        _step("rnn_step_back", lo, hi - lo, y.shape[1], dy, state, y, gates, last=(squash,))
        multiply(gates[lo:hi], w_hh, out=state[: hi - lo])
    return gates, state


# ---- LSTM --------------------------------------------------------------------------------------------------------------


def lstm_forward(
    gates: Array, h: Array, c: Array, w_hh: Array, w_hr: Array | None, sizes: Sequence[int], reverse: bool
) -> tuple[Array, ...]:
    """As ``reference_recurrent.lstm_forward``."""
    if not _served(gates, h, c):
        return reference.lstm_forward(gates, h, c, w_hh, w_hr, sizes, reverse)
    xp, multiply, units, turned = array_module(gates), kernel("matmul", "cuda"), c.shape[1], w_hh.T
    before_h, before_c = xp.empty((len(gates), h.shape[1]), FLOAT32), xp.empty((len(gates), units), FLOAT32)
    y, squashed = xp.empty_like(before_h), xp.empty_like(before_c)
    state, cell, share = h.copy(), c.copy(), xp.empty((len(h), 4 * units), FLOAT32)
    wide = None if w_hr is None else xp.empty_like(c)
    for lo, hi in spans(sizes, reverse):
        now = state[: hi - lo]
        multiply(now, turned, out=share[: hi - lo])
        hidden = (state, y, before_h) if wide is None else (wide, None, None)
        _step("lstm_step", lo, hi - lo, units, share, gates, cell, before_c, squashed, *hidden)
        if wide is not None and w_hr is not None:
            before_h[lo:hi] = now
            multiply(wide[: hi - lo], w_hr.T, out=now)
            y[lo:hi] = now
    return y, state, cell, before_h, before_c, squashed


def lstm_backward(
    dy: Array | None, dh: Array, dc: Array, gates: Array, before_c: Array, squashed: Array, w_hh: Array, w_hr: Array | None,
    sizes: Sequence[int], reverse: bool, first: bool = True, spend: bool = False,
) -> tuple[Any, ...]:  # fmt: skip
    """As ``reference_recurrent.lstm_backward``."""
    dy = None if dy is None else dy.reshape(len(gates), dh.shape[1])
    if not _served(gates, before_c, squashed, dh, dc):
        return reference.lstm_backward(dy, dh, dc, gates, before_c, squashed, w_hh, w_hr, sizes, reverse)
    xp, multiply, units = array_module(gates), kernel("matmul", "cuda"), squashed.shape[1]
    turned, state, memory, dy = xp.empty_like(gates), dh.copy(), dc.copy(), _given(dy)
    hidden = None if w_hr is None else xp.empty((len(gates), dh.shape[1]), FLOAT32)
    through = state if w_hr is None else xp.empty_like(memory)
    for lo, hi in reversed(spans(sizes, reverse)):
        now = state[: hi - lo]
        if hidden is not None:
            if dy is not None:
                now += dy[lo:hi]
            hidden[lo:hi] = now
            multiply(now, w_hr, out=through[: hi - lo])
        more = dy if hidden is None else None
        _step("lstm_step_back", lo, hi - lo, units, more, through, memory, gates, before_c, squashed, turned)
        multiply(turned[lo:hi], w_hh, out=now)
    return turned, state, memory, hidden


# ---- GRU ---------------------------------------------------------------------------------------------------------------


def gru_forward(
    gates: Array, h: Array, w_hh: Array, b_hh: Array | None, sizes: Sequence[int], reverse: bool
) -> tuple[Array, ...]:
    """As ``reference_recurrent.gru_forward``."""
    if not _served(gates, h):
        return reference.gru_forward(gates, h, w_hh, b_hh, sizes, reverse)
    xp, multiply, units, turned = array_module(gates), kernel("matmul", "cuda"), h.shape[1], w_hh.T
    before = xp.empty((len(gates), units), FLOAT32)
    shares, y = xp.empty_like(before), xp.empty_like(before)
    state, share, bias = h.copy(), xp.empty((len(h), 3 * units), FLOAT32), _given(b_hh)
    for lo, hi in spans(sizes, reverse):
        multiply(state[: hi - lo], turned, out=share[: hi - lo])
        _step("gru_step", lo, hi - lo, units, share, bias, gates, state, before, shares, y)
    return y, state, before, shares


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
    if not _served(gates, before, shares, dh):
        return reference.gru_backward(dy, dh, gates, before, shares, w_hh, sizes, reverse)
    xp, multiply, units = array_module(gates), kernel("matmul", "cuda"), before.shape[1]
    inputs, hidden, state, dy = xp.empty_like(gates), xp.empty_like(gates), dh.copy(), _given(dy)
    share = xp.empty_like(state)
    for lo, hi in reversed(spans(sizes, reverse)):
        _step("gru_step_back", lo, hi - lo, units, dy, state, gates, before, shares, inputs, hidden)
        multiply(hidden[lo:hi], w_hh, out=share[: hi - lo])
        now = state[: hi - lo]
        now += share[: hi - lo]
    return inputs, hidden, state


KERNELS: dict[str, Callable[..., Any]] = {
    "rnn_forward": rnn_forward,
    "rnn_backward": rnn_backward,
    "lstm_forward": lstm_forward,
    "lstm_backward": lstm_backward,
    "gru_forward": gru_forward,
    "gru_backward": gru_backward,
}
