"""One step of an RNN, LSTM or GRU, forward and back, after its product of matrices: compiled loops.

All arrays hold rows: those of a step begin at ``lo`` in what spans all steps, and at 0 in what is made anew for each. A row is
worked on in stages, few arrays in each, or LLVM would not vectorise them.
"""

from __future__ import annotations

import numpy as np

from .compiled import inline, loop, prange
from .mathematics import ONE, ZERO, sigmoid, tanh
from .products import multiply_at


@loop("f4[:,:], f4[:,:] out, f4[:,:] out, i8, i8, b1")
def rnn_step(share, gates, y, lo, count, squash):  # type: ignore[no-untyped-def]
    for r in prange(count):
        added, part, out = share[r], gates[lo + r], y[lo + r]
        if squash:
            for j in range(part.size):
                out[j] = tanh(part[j] + added[j])
        else:
            for j in range(part.size):
                v = part[j] + added[j]
                out[j] = ZERO if v <= ZERO else v


@loop("f4[:,:], f4[:,:], f4[:,:], f4[:,:] out, i8, i8, b1, b1")
def rnn_step_back(dy, state, y, gates, lo, count, squash, adding):  # type: ignore[no-untyped-def]
    for r in prange(count):
        now, out, part = state[r], y[lo + r], gates[lo + r]
        for j in range(part.size):
            part[j] = now[j]
        if adding:
            more = dy[lo + r]
            for j in range(part.size):
                part[j] += more[j]
        if squash:
            for j in range(part.size):
                part[j] *= ONE - out[j] * out[j]
        else:
            for j in range(part.size):
                part[j] *= ONE if out[j] > ZERO else ZERO


@inline
def _lstm_row(added, part, c, new, small, out):  # type: ignore[no-untyped-def]
    units = c.size
    i, f, g, o = part[:units], part[units : 2 * units], part[2 * units : 3 * units], part[3 * units :]
    more_g, more_o = added[2 * units : 3 * units], added[3 * units :]
    for j in range(2 * units):
        part[j] = sigmoid(part[j] + added[j])
    for j in range(units):
        g[j] = tanh(g[j] + more_g[j])
    for j in range(units):
        o[j] = sigmoid(o[j] + more_o[j])
    for j in range(units):
        new[j] = c[j] * f[j] + i[j] * g[j]
    for j in range(units):
        small[j] = tanh(new[j])
    for j in range(units):
        out[j] = o[j] * small[j]


@loop("f4[:,:], f4[:,:] out, f4[:,:], f4[:,:] out, f4[:,:] out, f4[:,:] out, i8, i8")
def lstm_step(share, gates, before, after, squashed, y, lo, count):  # type: ignore[no-untyped-def]
    for r in prange(count):
        _lstm_row(share[r], gates[lo + r], before[lo + r], after[lo + r], squashed[lo + r], y[lo + r])


@loop("i8[:,:], f4[:,:], f4[:,:], f4[:,:] out, f4[:,:], f4[:,:] out, f4[:,:] out, f4[:,:] out, i8[:] out, b1")
def lstm_walk(places, states, share, gates, before, after, squashed, y, failed, reverse):  # type: ignore[no-untyped-def]
    parts, count = places.shape[0], share.shape[0]
    for p in prange(parts):
        first, end, at = p * count // parts, (p + 1) * count // parts, places[p]
        steps, size = gates.shape[0] // count, 4 * states.shape[1]
        for t in range(steps):
            lo = (steps - 1 - t if reverse else t) * count
            failed[p] |= multiply_at(
                at[0], at[1], at[2], at[3], at[4], at[5], at[6], states.ctypes.data + (lo + first) * size
            )
            for s in range(first, end):
                r = lo + s
                _lstm_row(share[s], gates[r], before[r], after[r], squashed[r], y[r])


@inline
def _lstm_row_back(through, carried, part, c, small, back, more, adding):  # type: ignore[no-untyped-def]
    units = c.size
    i, f, g, o = part[:units], part[units : 2 * units], part[2 * units : 3 * units], part[3 * units :]
    di, df, dg, do = back[:units], back[units : 2 * units], back[2 * units : 3 * units], back[3 * units :]
    if adding:
        for j in range(units):
            through[j] += more[j]
    for j in range(units):
        carried[j] += through[j] * o[j] * (ONE - small[j] * small[j])
    for j in range(units):
        do[j] = through[j] * small[j] * o[j] * (ONE - o[j])
    for j in range(units):
        di[j] = carried[j] * g[j] * i[j] * (ONE - i[j])
    for j in range(units):
        dg[j] = carried[j] * i[j] * (ONE - g[j] * g[j])
    for j in range(units):
        df[j] = carried[j] * c[j] * f[j] * (ONE - f[j])
    for j in range(units):
        carried[j] *= f[j]


@loop("f4[:,:], f4[:,:] out, f4[:,:] out, f4[:,:], f4[:,:], f4[:,:], f4[:,:] out, i8, i8, b1")
def lstm_step_back(dy, state, memory, gates, before, squashed, turned, lo, count, adding):  # type: ignore[no-untyped-def]
    for r in prange(count):
        at = lo + r
        more = dy[at if adding else 0]
        _lstm_row_back(state[r], memory[r], gates[at], before[at], squashed[at], turned[at], more, adding)


@loop(
    "i8[:,:], f4[:,:], f4[:,:] out, f4[:,:] out, f4[:,:], f4[:,:], f4[:,:], f4[:,:] out, i8[:] out, b1, b1, i8, i8, b1, b1"
)
def lstm_walk_back(  # type: ignore[no-untyped-def]
    places, dy, state, memory, gates, before, squashed, turned, failed, reverse, adding, down, along, last, spend
):
    parts, count = places.shape[0], state.shape[0]
    for p in prange(parts):
        first, end, at = p * count // parts, (p + 1) * count // parts, places[p]
        steps, size = gates.shape[0] // count, 4 * gates.shape[1]
        row = np.empty(gates.shape[1], np.float32)
        for t in range(steps):
            step = t if reverse else steps - 1 - t
            lo = step * count
            for s in range(first, end):
                r = lo + s
                more, to = dy[step * down + s * along if adding else 0], turned[r]
                if spend:  # turned is gates: the row is read to its end before it is written over
                    _lstm_row_back(state[s], memory[s], gates[r], before[r], squashed[r], row, more, adding)
                    for j in range(row.size):
                        to[j] = row[j]
                else:
                    _lstm_row_back(state[s], memory[s], gates[r], before[r], squashed[r], to, more, adding)
            if last or t + 1 < steps:
                failed[p] |= multiply_at(
                    at[0], at[1], at[2], at[3], at[4], at[5], at[6], turned.ctypes.data + (lo + first) * size
                )


@loop("f4[:,:], f4[:], f4[:,:] out, f4[:,:], f4[:,:] out, f4[:,:] out, i8, i8")
def gru_step(share, bias, gates, before, shares, y, lo, count):  # type: ignore[no-untyped-def]
    units = before.shape[1]
    bias_n = bias[2 * units :]
    for r in prange(count):
        added, part = share[r], gates[lo + r]
        for j in range(2 * units):
            part[j] = sigmoid(part[j] + (added[j] + bias[j]))
        h, out, own, more = before[lo + r], y[lo + r], shares[lo + r], added[2 * units :]
        reset, z, n = part[:units], part[units : 2 * units], part[2 * units :]
        for j in range(units):
            own[j] = more[j] + bias_n[j]
        for j in range(units):
            n[j] = tanh(n[j] + reset[j] * own[j])
        for j in range(units):
            out[j] = (h[j] - n[j]) * z[j] + n[j]


@loop("f4[:,:], f4[:,:] out, f4[:,:], f4[:,:], f4[:,:], f4[:,:] out, f4[:,:] out, i8, i8, b1")
def gru_step_back(dy, state, gates, before, shares, inputs, hidden, lo, count, adding):  # type: ignore[no-untyped-def]
    units = before.shape[1]
    for r in prange(count):
        now, part, h, own = state[r], gates[lo + r], before[lo + r], shares[lo + r]
        one, other = inputs[lo + r], hidden[lo + r]
        reset, z, n = part[:units], part[units : 2 * units], part[2 * units :]
        dr, dz, dn, dn_hidden = one[:units], one[units : 2 * units], one[2 * units :], other[2 * units :]
        if adding:
            more = dy[lo + r]
            for j in range(units):
                now[j] += more[j]
        for j in range(units):
            dn[j] = now[j] * (ONE - z[j]) * (ONE - n[j] * n[j])
        for j in range(units):
            dr[j] = dn[j] * own[j] * reset[j] * (ONE - reset[j])
        for j in range(units):
            dz[j] = now[j] * (h[j] - n[j]) * z[j] * (ONE - z[j])
        for j in range(units):
            dn_hidden[j] = dn[j] * reset[j]
        for j in range(2 * units):
            other[j] = one[j]
        for j in range(units):
            now[j] *= z[j]
