"""Reference kernels: the walk through time of one direction of one layer of an RNN, LSTM or GRU.

The loop stands here so that a sequence is one node of the graph and one entry that a faster provider replaces. The rows of
all steps lie one after another, ``sizes[t]`` of them for step t, never more than for the step before: a packed batch of
sequences, longest first, of which the rectangular one (all sizes equal) is a case. What does not wait for the step before is done
for all rows at once by whoever calls: the input's share of the gates, and the gradients of the weights.

Everything is float32 or float64. Dimensions: N sequences, S = sum(sizes) rows, H hidden units, R = H or the projection's width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..backend import array_module
from ..op import Array


def spans(sizes: Sequence[int], reverse: bool) -> list[tuple[int, int]]:
    """The rows [lo, hi) of each step, in the order in which a direction reads them.

    >>> spans((3, 2), reverse=True)
    [(3, 5), (0, 3)]
    """
    found, end = [], 0
    for size in sizes:
        found.append((end, end + size))
        end += size
    return found[::-1] if reverse else found


def _sigmoid_(x: Array) -> None:
    """1 / (1 + exp(-x)) in place; exp may overflow to infinity, whose reciprocal is the right 0."""
    xp = array_module(x)
    xp.negative(x, out=x)
    with np.errstate(over="ignore"):
        xp.exp(x, out=x)
    x += 1
    xp.divide(1, x, out=x)


# ---- Elman's network ---------------------------------------------------------------------------------------------------


def rnn_forward(
    gates: Array, h: Array, w_hh: Array, sizes: Sequence[int], reverse: bool, nonlinearity: str
) -> tuple[Array, Array, Array]:
    """``h_t = f(gates_t + h_{t-1} W_hh^T)``, f tanh or relu: gates (S, H), h (N, H) -> outputs (S, H), last h, the h before each row.

    ``gates`` holds the input's share and all biases, and becomes the outputs.
    """
    xp = array_module(gates)
    before, turned, state = xp.empty_like(gates), w_hh.T, h.copy()
    for lo, hi in spans(sizes, reverse):
        now, part = state[: hi - lo], gates[lo:hi]
        before[lo:hi] = now
        part += xp.matmul(now, turned)
        if nonlinearity == "tanh":
            xp.tanh(part, out=part)
        else:
            xp.maximum(part, 0, out=part)
        now[...] = part
    return gates, state, before


def rnn_backward(
    dy: Array | None, dh: Array, y: Array, w_hh: Array, sizes: Sequence[int], reverse: bool, nonlinearity: str
) -> tuple[Array, Array]:
    """Gradients of the gates (S, H) and of the first h from those of the outputs (None: zeros) and of the last h."""
    xp = array_module(y)
    gates = 1 - y * y if nonlinearity == "tanh" else (y > 0).astype(y.dtype)
    state = dh.copy()
    for lo, hi in reversed(spans(sizes, reverse)):
        now, part = state[: hi - lo], gates[lo:hi]
        if dy is not None:
            now += dy[lo:hi]
        part *= now
        xp.matmul(part, w_hh, out=now)
    return gates, state


# ---- LSTM --------------------------------------------------------------------------------------------------------------


def lstm_forward(
    gates: Array, h: Array, c: Array, w_hh: Array, w_hr: Array | None, sizes: Sequence[int], reverse: bool
) -> tuple[Array, ...]:
    """``c_t = f c_{t-1} + i g``, ``h_t = o tanh(c_t)`` (times W_hr^T if there is one): gates (S, 4 H), h (N, R), c (N, H).

    i, f, o are sigmoids and g a tanh of ``gates_t + h_{t-1} W_hh^T``, whose columns hold them as i, f, g, o. Returns outputs (S, R),
    last h, last c, and for the way back: h before each row (S, R), c before each row (S, H), tanh of c (S, H). ``gates`` becomes
    i, f, g, o.

    Hochreiter and Schmidhuber, "Long Short-Term Memory", 1997; the projection: Sak et al., 2014 (arXiv 1402.1128).
    """
    xp = array_module(gates)
    units, turned = c.shape[1], w_hh.T
    before_h = xp.empty((len(gates), h.shape[1]), gates.dtype)
    before_c = xp.empty((len(gates), units), gates.dtype)
    y, squashed = xp.empty_like(before_h), xp.empty_like(before_c)
    state, cell = h.copy(), c.copy()
    for lo, hi in spans(sizes, reverse):
        now, memory, part = state[: hi - lo], cell[: hi - lo], gates[lo:hi]
        before_h[lo:hi], before_c[lo:hi] = now, memory
        part += xp.matmul(now, turned)
        i, f, g, o = (part[:, k * units : (k + 1) * units] for k in range(4))
        _sigmoid_(part[:, : 2 * units])
        xp.tanh(g, out=g)
        _sigmoid_(o)
        memory *= f
        memory += i * g
        tanh = xp.tanh(memory, out=squashed[lo:hi])
        if w_hr is None:
            xp.multiply(o, tanh, out=now)
        else:
            xp.matmul(o * tanh, w_hr.T, out=now)
        y[lo:hi] = now
    return y, state, cell, before_h, before_c, squashed


def lstm_backward(
    dy: Array | None, dh: Array, dc: Array, gates: Array, before_c: Array, squashed: Array, w_hh: Array, w_hr: Array | None,
    sizes: Sequence[int], reverse: bool, first: bool = True, spend: bool = False,
) -> tuple[Any, ...]:  # fmt: skip
    """Gradients of the gates (S, 4 H), of the first h and the first c, and of each output (S, R) if there is a projection.

    dy is (S, R), or (T, N, R) as it lies. Nobody wants the first h's without ``first``; with ``spend`` the gates may be written
    over: then they are the first result.
    """
    xp, dy = array_module(gates), None if dy is None else dy.reshape(len(gates), dh.shape[1])
    units, turned = squashed.shape[1], xp.empty_like(gates)
    state, memory = dh.copy(), dc.copy()
    hidden = xp.empty((len(gates), dh.shape[1]), gates.dtype) if w_hr is not None else None
    for lo, hi in reversed(spans(sizes, reverse)):
        now, carried, out, tanh = state[: hi - lo], memory[: hi - lo], turned[lo:hi], squashed[lo:hi]
        i, f, g, o = (gates[lo:hi, k * units : (k + 1) * units] for k in range(4))
        if dy is not None:
            now += dy[lo:hi]
        through = now
        if hidden is not None:
            hidden[lo:hi] = now
            through = xp.matmul(now, w_hr)
        carried += through * o * (1 - tanh * tanh)
        out[:, :units] = carried * g * i * (1 - i)
        out[:, units : 2 * units] = carried * before_c[lo:hi] * f * (1 - f)
        out[:, 2 * units : 3 * units] = carried * i * (1 - g * g)
        out[:, 3 * units :] = through * tanh * o * (1 - o)
        carried *= f
        xp.matmul(out, w_hh, out=now)
    return turned, state, memory, hidden


# ---- GRU ---------------------------------------------------------------------------------------------------------------


def gru_forward(
    gates: Array, h: Array, w_hh: Array, b_hh: Array | None, sizes: Sequence[int], reverse: bool
) -> tuple[Array, ...]:
    """``h_t = (1 - z) n + z h_{t-1}``: gates (S, 3 H), h (N, H), columns r, z, n.

    r and z are sigmoids of ``gates_t + h W_hh^T + b_hh``, ``n = tanh(gates_n + r (h W_hn^T + b_hn))``. Returns outputs (S, H), last h,
    and for the way back: h before each row (S, H) and its share of n (S, H). ``gates``, which holds the input's share, becomes r, z, n.

    Cho et al., 2014 (arXiv 1406.1078), with the reset gate behind the product, as PyTorch and cuDNN have it.
    """
    xp = array_module(gates)
    units, turned = h.shape[1], w_hh.T
    before = xp.empty((len(gates), units), gates.dtype)
    shares, y = xp.empty_like(before), xp.empty_like(before)
    state = h.copy()
    for lo, hi in spans(sizes, reverse):
        now, part = state[: hi - lo], gates[lo:hi]
        r, z, n = (part[:, k * units : (k + 1) * units] for k in range(3))
        before[lo:hi] = now
        share = xp.matmul(now, turned)
        if b_hh is not None:
            share += b_hh
        part[:, : 2 * units] += share[:, : 2 * units]
        _sigmoid_(part[:, : 2 * units])
        shares[lo:hi] = share[:, 2 * units :]
        n += r * shares[lo:hi]
        xp.tanh(n, out=n)
        now -= n
        now *= z
        now += n
        y[lo:hi] = now
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
    """Gradients of the gates' two shares, the input's and the state's (S, 3 H each; they differ in n), and of the first h."""
    xp = array_module(gates)
    units, inputs, hidden = before.shape[1], xp.empty_like(gates), xp.empty_like(gates)
    state = dh.copy()
    for lo, hi in reversed(spans(sizes, reverse)):
        now, out = state[: hi - lo], inputs[lo:hi]
        r, z, n = (gates[lo:hi, k * units : (k + 1) * units] for k in range(3))
        if dy is not None:
            now += dy[lo:hi]
        new = now * (1 - z) * (1 - n * n)
        out[:, 2 * units :] = new
        out[:, :units] = new * shares[lo:hi] * r * (1 - r)
        out[:, units : 2 * units] = now * (before[lo:hi] - n) * z * (1 - z)
        hidden[lo:hi, : 2 * units] = out[:, : 2 * units]
        hidden[lo:hi, 2 * units :] = new * r
        now *= z
        now += xp.matmul(hidden[lo:hi], w_hh)
    return inputs, hidden, state


KERNELS: dict[str, Callable[..., Any]] = {
    "rnn_forward": rnn_forward,
    "rnn_backward": rnn_backward,
    "lstm_forward": lstm_forward,
    "lstm_backward": lstm_backward,
    "gru_forward": gru_forward,
    "gru_backward": gru_backward,
}
