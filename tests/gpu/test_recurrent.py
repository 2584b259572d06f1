"""RNN, LSTM and GRU on the device, step by step: whole and packed batches, both directions, with and without a projection."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.gpu.beside import beside

SIZES = [(3,), (4, 4, 4), (5, 3, 3, 1), (1, 1), (70, 70)]


def draw(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def gradients(outputs: tuple[Any, ...], count: int) -> list[np.ndarray]:
    return [draw(*outputs[k].shape, seed=9 + k) for k in range(count)]


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("nonlinearity", ["tanh", "relu"])
@pytest.mark.parametrize("used", [False, True])
def test_rnn(device: str, sizes: tuple[int, ...], reverse: bool, nonlinearity: str, used: bool) -> None:
    units, w = 6, draw(6, 6, seed=1) / 3
    how = (sizes, reverse, nonlinearity)
    y, *others = beside("rnn_forward", draw(sum(sizes), units), draw(sizes[0], units, seed=2), w, *how, ulps=64)
    dy, dh = gradients((y, *others), 2)
    beside("rnn_backward", dy if used else None, dh, y, w, *how, ulps=64)


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("projected", [False, True])
@pytest.mark.parametrize("used", [False, True])
def test_lstm(device: str, sizes: tuple[int, ...], reverse: bool, projected: bool, used: bool) -> None:
    units, width = 6, 4 if projected else 6
    w_hh, w_hr = draw(4 * units, width, seed=1) / 3, draw(width, units, seed=3) if projected else None
    gates = draw(sum(sizes), 4 * units)
    h, c = draw(sizes[0], width, seed=2), draw(sizes[0], units, seed=4)
    found = beside("lstm_forward", gates, h, c, w_hh, w_hr, sizes, reverse, ulps=64)
    y, state, cell, _, before_c, squashed = found
    dy, dh, dc = gradients((y, state, cell), 3)
    saved = _lstm_gates(gates, found, w_hh)
    beside(
        "lstm_backward", dy if used else None, dh, dc, saved, before_c, squashed, w_hh, w_hr, sizes, reverse, ulps=64
    )


def _lstm_gates(gates: np.ndarray, found: tuple[Any, ...], w_hh: np.ndarray) -> np.ndarray:
    """What the forward leaves in ``gates``: of the host's copy nobody has changed anything."""
    raw = gates + found[3] @ w_hh.T
    units = gates.shape[1] // 4
    squashed = 1 / (1 + np.exp(-raw))
    squashed[:, 2 * units : 3 * units] = np.tanh(raw[:, 2 * units : 3 * units])
    return np.asarray(squashed.astype(np.float32))


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("used", [False, True])
def test_gru(device: str, sizes: tuple[int, ...], reverse: bool, biased: bool, used: bool) -> None:
    units = 6
    w_hh, b_hh = draw(3 * units, units, seed=1) / 3, draw(3 * units, seed=3) if biased else None
    gates, h = draw(sum(sizes), 3 * units), draw(sizes[0], units, seed=2)
    y, state, before, shares = beside("gru_forward", gates, h, w_hh, b_hh, sizes, reverse, ulps=64)
    more = before @ w_hh.T + (0 if b_hh is None else b_hh)
    saved = 1 / (1 + np.exp(-(gates + more)))
    saved[:, 2 * units :] = np.tanh(gates[:, 2 * units :] + saved[:, :units] * shares)
    dy, dh = gradients((y, state), 2)
    saved = saved.astype(np.float32)
    beside("gru_backward", dy if used else None, dh, saved, before, shares, w_hh, sizes, reverse, ulps=64)


def test_other_types_go_to_the_reference(device: str) -> None:
    gates, h, w = draw(6, 4).astype(np.float64), draw(3, 4).astype(np.float64), draw(4, 4).astype(np.float64)
    beside("rnn_forward", gates, h, w, (3, 3), False, "tanh")
