"""Cases of the recurrent ops: the definitions step by step and sequence by sequence, and PyTorch's layers with given weights."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from tests.core.op_cases import Case

try:
    import torch
except ImportError:
    torch = None

_random = np.random.default_rng(77)
CASES: list[Case] = []


def draw(*shape: int) -> np.ndarray:
    return 0.8 * _random.normal(size=shape)


def sigmoid(x: Any) -> Any:
    return 1 / (1 + np.exp(-x))


def rnn_step(x, state, w_ih, w_hh, b_ih=0.0, b_hh=0.0, nonlinearity="tanh"):
    a = x @ w_ih.T + b_ih + state[0] @ w_hh.T + b_hh
    return (np.tanh(a) if nonlinearity == "tanh" else np.maximum(a, 0),)


def lstm_step(x, state, w_ih, w_hh, b_ih=0.0, b_hh=0.0, w_hr=None):
    i, f, g, o = np.split(x @ w_ih.T + b_ih + state[0] @ w_hh.T + b_hh, 4)
    c = sigmoid(f) * state[1] + sigmoid(i) * np.tanh(g)
    h = sigmoid(o) * np.tanh(c)
    return (h if w_hr is None else w_hr @ h, c)


def gru_step(x, state, w_ih, w_hh, b_ih=0.0, b_hh=0.0):
    (xr, xz, xn), (hr, hz, hn) = np.split(x @ w_ih.T + b_ih, 3), np.split(state[0] @ w_hh.T + b_hh, 3)
    z = sigmoid(xz + hz)
    return ((1 - z) * np.tanh(xn + sigmoid(xr + hr) * hn) + z * state[0],)


def defined(step: Any, parts: int, sizes: Any, reverse: bool, **options: Any) -> Any:
    """The op by its definition: one sequence after another, one step after another."""

    def function(x, *rest):
        first, weights = rest[:parts], [0.0 if w is None and k < 4 else w for k, w in enumerate(rest[parts:])]
        counts = [x.shape[1]] * x.shape[0] if sizes is None else sizes
        starts = np.cumsum([0, *counts])
        rows = x.reshape(sum(counts), x.shape[-1])
        y = np.zeros((len(rows), first[0].shape[1]), x.dtype)
        last = [np.array(s, copy=True) for s in first]
        for n in range(len(first[0])):
            state = tuple(s[n] for s in first)
            own = [starts[t] + n for t, count in enumerate(counts) if n < count]
            for row in own[::-1] if reverse else own:
                state = step(rows[row], state, *weights, **options)
                y[row] = state[0]
            for part, value in zip(last, state, strict=True):
                part[n] = value
        return (y.reshape(*x.shape[:-1], y.shape[1]), *last)

    return function


def by_torch(kind: str, parts: int, sizes: Any, reverse: bool, **options: Any) -> Any:
    """PyTorch's own layer with these tensors as its weights."""
    if torch is None:
        return None

    def function(x, *rest):
        first, weights = rest[:parts], rest[parts:]
        names = ["weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0", "weight_hr_l0"]
        given = {name: w for name, w in zip(names, weights, strict=False) if w is not None}
        units = weights[0].shape[0] // {"RNN": 1, "LSTM": 4, "GRU": 3}[kind]
        if "weight_hr_l0" in given:
            options["proj_size"] = given["weight_hr_l0"].shape[0]
        layer = getattr(torch.nn, kind)(x.shape[-1], units, bias="bias_ih_l0" in given, dtype=x.dtype, **options)
        order = _turned(x.shape[0] if sizes is None else sizes, reverse)
        packed = x if sizes is None else torch.nn.utils.rnn.PackedSequence(x[order], torch.tensor(sizes))
        packed = packed if sizes is not None else x[order]
        hx = first[0][None] if parts == 1 else tuple(s[None] for s in first)
        with warnings.catch_warnings():  # PyTorch tells of the projection that it is done the slow way
            warnings.simplefilter("ignore")
            y, last = torch.func.functional_call(layer, given, (packed, hx))
        y = (y if sizes is None else y.data)[order]
        return (y, last[0]) if parts == 1 else (y, last[0][0], last[1][0])

    return function


def _turned(sizes: Any, reverse: bool) -> Any:
    """The rows with each sequence turned round (its own reverse)."""
    if isinstance(sizes, int):
        return list(range(sizes))[::-1] if reverse else list(range(sizes))
    starts = np.cumsum([0, *sizes])
    length = [sum(n < s for s in sizes) for n in range(sizes[0])]
    rows = [(t, n) for t, s in enumerate(sizes) for n in range(s)]
    return [int(starts[length[n] - 1 - t] + n) if reverse else int(starts[t] + n) for t, n in rows]


STEPS = {"rnn": (rnn_step, "RNN", 1, 1), "lstm": (lstm_step, "LSTM", 4, 2), "gru": (gru_step, "GRU", 3, 1)}
T, N, D, H, P = 4, 3, 2, 3, 2


def case(
    op: str, name: str, *, shape=(T, N, D), sizes=None, reverse=False, bias=True, projection=False, **options
) -> None:
    step, kind, gates, parts = STEPS[op]
    x = draw(*shape) if sizes is None else draw(sum(sizes), shape[-1])
    out, count = P if projection else H, shape[1]
    states = [draw(count, out), draw(count, H)][:parts]
    weights = [draw(gates * H, shape[-1]), draw(gates * H, out)]
    weights += [draw(gates * H), draw(gates * H)] if bias else [None, None] if projection else []
    weights += [draw(out, H)] if projection else []
    attributes = {"reverse": reverse, **options} | ({} if sizes is None else {"sizes": sizes})
    known = 0 not in shape and (sizes is None or sizes[0] == count)  # PyTorch has no empty sequences
    theirs = by_torch(kind, parts, sizes, reverse, **options) if known else None
    ours = defined(step, parts, sizes, reverse, **options)
    CASES.append(Case(op, (x, *states, *weights), attributes, ours, theirs, name, rtol=5e-5))


PACKED = (3, 3, 2, 1)
for op in STEPS:
    case(op, "whole")
    case(op, "reverse", reverse=True)
    case(op, "no bias", bias=False)
    case(op, "packed", sizes=PACKED)
    case(op, "packed reverse", sizes=PACKED, reverse=True)
    case(op, "a sequence of no step", sizes=(2, 1), shape=(2, 3, D))
    case(op, "one step", shape=(1, N, D))
    case(op, "no sequence", shape=(T, 0, D))
    case(op, "no step", shape=(0, N, D))
case("rnn", "relu", nonlinearity="relu")
case("lstm", "projected", projection=True)
case("lstm", "projected packed reverse, no bias", projection=True, sizes=PACKED, reverse=True, bias=False)

ROWS = np.array([4, 0, 3])


def torch_put(x: Any, count: int, fill: float) -> Any:
    y = torch.full((count, *x.shape[1:]), fill, dtype=x.dtype)
    return y.index_put((torch.tensor(ROWS[: len(x)]),), x)


for shape in ((5, 2), (5,)):
    CASES.append(Case("take_rows", (draw(*shape),), {"rows": ROWS}, lambda x: x[ROWS], lambda x: x[torch.tensor(ROWS)]))
CASES.append(Case("take_rows", (draw(0, 2),), {"rows": ROWS[:0]}, lambda x: x, lambda x: x * 1, "empty"))
for shape in ((3, 2), (3,), (0, 2)):
    CASES.append(
        Case(
            "put_rows",
            (draw(*shape),),
            {"rows": ROWS[: shape[0]], "count": 6, "fill": 0.5},
            lambda x: np.stack(
                [x[list(ROWS).index(k)] if k in ROWS[: len(x)] else np.full(x.shape[1:], 0.5) for k in range(6)]
            ),
            lambda x: torch_put(x, 6, 0.5),
        )
    )
