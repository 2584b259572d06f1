"""Recurrent layers of several shards that walk through time together: to the bit what each gives alone."""

from __future__ import annotations

import numpy as np
import pytest

import phalanx
from phalanx.core.capture.recorder import Recorder
from phalanx.core.capture.watch import recorded
from phalanx.core.live import now
from phalanx.core.ops import recurrent_together
from phalanx.core.ops.recurrent import GRU, LSTM, RNN

FEATURES = np.show_config(mode="dicts")["SIMD Extensions"]["found"]
OPTIONS = {LSTM: {}, GRU: {}, RNN: {"nonlinearity": "relu"}}
SHAPES = [
    (7, 3, 5, 16, 4),
    (9, 1, 32, 32, 8),
    (12, 2, 64, 256, 4),
    (12, 4, 64, 256, 8),
    (1, 5, 3, 4, 2),
    (6, 4, 9, 33, 3),
]
"""Steps, sequences of a shard, features, units, shards. Some have products whose rows depend on how many there are."""


@pytest.fixture(params=["reference", "fast"])
def kernels(request):
    before = phalanx.kernels.chosen()
    phalanx.kernels.choose(request.param)
    yield request.param
    phalanx.kernels.choose(before)


def drawn(op, shape, biases, reverse):
    steps, count, features, units, shards = shape
    states, gates, _ = recurrent_together.FORMS[op.name]
    numbers = np.random.default_rng(1)

    def draw(*size):
        return (numbers.standard_normal(size) / 4).astype(np.float32)

    matrices = [
        draw(gates * units, features),
        draw(gates * units, units),
        *([draw(gates * units)] * 2 if biases else []),
    ]
    given, gradients = [], []
    for _ in range(shards):
        x = draw(count, steps, features).swapaxes(0, 1)
        given.append((x, *(draw(count, units) for _ in range(states)), *matrices))
        gradients.append(
            (
                draw(count, steps, units).swapaxes(0, 1),
                *(None if reverse else draw(count, units) for _ in range(states)),
            )
        )
    return given, gradients, {"reverse": reverse, "sizes": None, **OPTIONS[op]}


def same(a, b):
    return (a is None) == (b is None) and (a is None or (a.shape == b.shape and a.tobytes() == b.tobytes()))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("op", OPTIONS, ids=lambda op: op.name)
def test_bits_of_each_shard_alone(op, shape, kernels):
    for biases, reverse in ((True, False), (False, True)):
        given, gradients, options = drawn(op, shape, biases, reverse)
        needs = [True] * len(given[0])
        slots = [[None] * len(needs) for _ in given]
        hidden = recurrent_together.FORMS[op.name].states + 2
        slots[1][hidden] = np.empty_like(given[1][hidden])
        expected, wanted = [], []
        for inputs, gradient in zip(given, gradients, strict=True):
            output, saved = op.forward(*inputs, **options)
            expected.append(output)
            wanted.append(op.vjp(saved, gradient, needs, [None] * len(needs)))
        found = recurrent_together.forward(op, given, options)
        for (outputs, _), alone in zip(found, expected, strict=True):
            assert all(map(same, outputs, alone))
            assert all(part.flags.c_contiguous for part in outputs)
        back = recurrent_together.vjp(op, [saved for _, saved in found], gradients, needs, slots)
        for gave, alone in zip(back, wanted, strict=True):
            assert len(gave) == len(alone) and all(map(same, gave, alone))
        assert back[1][hidden] is slots[1][hidden]


def test_what_has_walked_while_a_thread_records_walks_back_afterwards(monkeypatch):
    """Recording exchanges the functions of all ops."""
    monkeypatch.setattr(recurrent_together, "_agree", lambda *about: True)
    given, gradients, options = drawn(LSTM, (7, 3, 5, 16, 4), True, False)
    with recorded(Recorder([])):
        now.recorder = None  # of another thread
        found = recurrent_together.forward(LSTM, given, options)
    assert isinstance(found[0][1], recurrent_together.Share)
    slots = [[None] * 7] * 4
    back = recurrent_together.vjp(LSTM, [saved for _, saved in found], gradients, [True] * 7, slots)
    with recorded(Recorder([])):
        now.recorder = None
        found = recurrent_together.forward(LSTM, given, options)
        again = recurrent_together.vjp(LSTM, [saved for _, saved in found], gradients, [True] * 7, slots)
    assert all(same(a, b) for one, other in zip(back, again, strict=True) for a, b in zip(one, other, strict=True))


def test_they_walk_together_where_rows_are_found_to_be_alone(monkeypatch):
    monkeypatch.setattr(recurrent_together, "_agree", lambda *about: True)
    given, _, options = drawn(LSTM, (7, 3, 5, 16, 4), True, False)
    found = recurrent_together.forward(LSTM, given, options)
    assert [saved.number for _, saved in found] == [0, 1, 2, 3]
    assert isinstance(found[0][1], recurrent_together.Share)


@pytest.mark.skipif({"X86_V4", "AVX512_SKX"}.isdisjoint(FEATURES), reason="oneDNN takes other products")
def test_products_of_the_benchmark_s_lstm_are_found_to_be_so():
    pytest.importorskip("numba")
    before = phalanx.kernels.chosen()
    phalanx.kernels.choose("fast")
    try:
        given, _, options = drawn(LSTM, (50, 4, 64, 256, 8), True, False)
        assert all(
            isinstance(saved, recurrent_together.Share) for _, saved in recurrent_together.forward(LSTM, given, options)
        )
    finally:
        phalanx.kernels.choose(before)


@pytest.mark.parametrize("what", ["rows", "projection", "one"])
def test_what_walks_alone(what):
    given, _, options = drawn(LSTM, (4, 3, 5, 6, 2), True, False)
    if what == "rows":
        options["sizes"] = (3,) * 4
        given = [(np.ascontiguousarray(x).reshape(12, 5), *rest) for x, *rest in given]
    elif what == "projection":
        matrices = (given[0][3], np.ascontiguousarray(given[0][4][:, :2]), *given[0][5:], np.ones((2, 6), np.float32))
        given = [(x, np.ascontiguousarray(h[:, :2]), c, *matrices) for x, h, c, *_ in given]
    else:
        given = given[:1]
    for (outputs, saved), inputs in zip(recurrent_together.forward(LSTM, given, options), given, strict=True):
        assert not isinstance(saved, recurrent_together.Share)
        assert all(map(same, outputs, LSTM.forward(*inputs, **options)[0]))
