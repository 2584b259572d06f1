"""Compiled walks of RNN, LSTM and GRU against the reference in float32 and float64: all shapes, packings, directions, threads."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import phalanx
from phalanx import nn
from phalanx.core.kernels import reference_recurrent as reference

pytest.importorskip("numba")
from phalanx.core.kernels.cpu import compiled, onednn, recurrent, step_products, threads
from tests.core.onednn_cases import needs_onednn

KINDS = ("rnn", "lstm", "gru")
EXAMPLES = settings(max_examples=20, deadline=None, derandomize=True)
TOLERANCE = {"rtol": 2e-5, "atol": 2e-5}


@st.composite
def walks(draw):
    """Kind, sizes of the steps, sequences, units, width of the projection, direction, seed."""
    kind = draw(st.sampled_from(KINDS))
    count = draw(st.integers(1, 9))
    steps = draw(st.integers(1, 6))
    if draw(st.booleans()):
        sizes = (count,) * steps
    else:
        sizes = tuple(sorted(draw(st.lists(st.integers(1, count), min_size=steps, max_size=steps)), reverse=True))
    units = draw(st.sampled_from((1, 3, 16, 17, 33)))
    projection = draw(st.sampled_from((None, 2))) if kind == "lstm" and units > 2 else None
    return kind, sizes, count, units, projection, draw(st.booleans()), draw(st.integers(0, 99))


def numbers(kind, sizes, count, units, projection, reverse, seed, dtype=np.float32):
    """Arguments of forward, and gradients of the outputs."""
    random = np.random.default_rng(seed)

    def normal(*shape):
        return (0.7 * random.standard_normal(shape)).astype(np.float32).astype(dtype)

    rows, width, gates = sum(sizes), projection or units, {"rnn": 1, "lstm": 4, "gru": 3}[kind] * units
    share, h, w_hh = normal(rows, gates), normal(count, width), normal(gates, width)
    dy, dh, dc = normal(rows, width), normal(count, width), normal(count, units)
    w_hr = None if projection is None else normal(width, units)
    rest = {
        "rnn": ("relu" if seed % 2 else "tanh",),
        "lstm": (normal(count, units), w_hr),
        "gru": (normal(gates) if seed % 2 else None,),
    }[kind]
    return (share, h, w_hh, sizes, reverse, *rest), (None if seed % 3 == 0 else dy, dh, dc)


def forward(module, kind, share, h, w_hh, sizes, reverse, *rest):
    """The outputs and the gates that became what backward wants."""
    gates = share.copy()
    if kind == "rnn":
        return (*module.rnn_forward(gates, h, w_hh, sizes, reverse, *rest), gates)
    if kind == "lstm":
        return (*module.lstm_forward(gates, h, rest[0], w_hh, rest[1], sizes, reverse), gates)
    return (*module.gru_forward(gates, h, w_hh, rest[0], sizes, reverse), gates)


def backward(module, kind, kept, gradients, w_hh, sizes, reverse, *rest):
    dy, dh, dc = gradients
    if kind == "rnn":
        return module.rnn_backward(dy, dh, kept[0], w_hh, sizes, reverse, *rest)
    if kind == "lstm":
        return module.lstm_backward(dy, dh, dc, kept[6], kept[4], kept[5], w_hh, rest[1], sizes, reverse)
    return module.gru_backward(dy, dh, kept[4], kept[2], kept[3], w_hh, sizes, reverse)


def both_ways(module, case, dtype=np.float32, kept=None):
    """All results of forward, and of backward (from what ``kept`` has kept, or forward itself)."""
    arguments, gradients = numbers(*case, dtype=dtype)
    found = forward(module, case[0], *arguments)
    if case[0] == "rnn":
        found = found[:3]
    back = backward(module, case[0], kept or found, gradients, *arguments[2:])
    return found, back


def alike(found, expected, **tolerance):
    assert len(found) == len(expected)
    for index, (a, b) in enumerate(zip(found, expected, strict=True)):
        if b is None:
            assert a is None
            continue
        assert a.shape == b.shape, index
        np.testing.assert_allclose(a, b, err_msg=f"part {index}", **(tolerance or TOLERANCE))


def equal(found, expected):
    for a, b in zip(found, expected, strict=True):
        assert (a is None and b is None) or a.tobytes() == b.tobytes()


@EXAMPLES
@given(walks())
def test_a_walk_is_that_of_the_reference_and_of_float64(case):
    expected, expected_back = both_ways(reference, case)
    found, back = both_ways(recurrent, case)
    alike(found, expected)
    alike(back, expected_back, rtol=1e-4, atol=1e-4)
    alike(both_ways(recurrent, case, kept=expected)[1], expected_back, rtol=1e-4, atol=1e-4)
    exact, exact_back = both_ways(reference, case, np.float64)
    alike(found, exact, rtol=1e-4, atol=1e-4)
    alike(back, exact_back, rtol=1e-3, atol=1e-3)
    again, back_again = both_ways(recurrent, case)
    equal((*found, *back), (*again, *back_again))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sizes", [(70,) * 4, (70, 64, 64, 9, 1)])
def test_large_steps_take_a_matrix_that_is_laid_out_once(kind, sizes):
    case = (kind, sizes, 70, 96, None, False, 7)
    arguments, _ = numbers(*case)
    w_hh = arguments[2]
    assert sizes[0] * w_hh.size >= step_products.SMALLEST or kind == "rnn"
    expected, expected_back = both_ways(reference, case)
    found, back = both_ways(recurrent, case)
    alike(found, expected, rtol=5e-3, atol=5e-4)
    alike(both_ways(recurrent, case, kept=expected)[1], expected_back, rtol=5e-3, atol=5e-3)
    again, back_again = both_ways(recurrent, case)
    equal((*found, *back), (*again, *back_again))


@needs_onednn
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize(("count", "seed"), [(70, 3), (70, 4), (80, 5)])
def test_all_steps_of_an_lstm_at_once_have_the_bits_of_single_ones(monkeypatch, count, seed, reverse):
    case = ("lstm", (70,) * 5, count, 97, None, reverse, seed)
    walks = []
    for name in ("lstm_walk", "lstm_walk_back"):
        run = getattr(recurrent.loops, name)
        monkeypatch.setattr(recurrent.loops, name, lambda *given, run=run: walks.append(run) or run(*given))
    found, back = both_ways(recurrent, case)
    assert len(walks) == (2 if count == 70 else 0)
    monkeypatch.setattr(recurrent, "_at_once", lambda *_: False)
    single, single_back = both_ways(recurrent, case)
    equal((*found, *back), (*single, *single_back))
    expected, expected_back = both_ways(reference, case)
    alike(found, expected, rtol=5e-3, atol=5e-4)
    alike(back, expected_back, rtol=5e-3, atol=5e-3)


@needs_onednn
@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("reverse", [False, True])
def test_a_walk_back_may_write_over_the_gates_and_reads_the_gradient_as_it_lies(monkeypatch, count, reverse):
    monkeypatch.setattr(compiled, "SMALLEST_SHARE", 1)
    case = ("lstm", (70,) * 5, 70, 97, None, reverse, 4)
    (share, h, w_hh, sizes, *_, c, _), (dy, dh, dc) = numbers(*case)
    gates = share.copy()
    kept = recurrent.lstm_forward(gates, h, c, w_hh, None, sizes, reverse)
    batch_first = np.ascontiguousarray(dy.reshape(5, 70, 97).swapaxes(0, 1)).swapaxes(0, 1)
    expected = reference.lstm_backward(dy, dh, dc, gates, *kept[4:], w_hh, None, sizes, reverse)
    threads.set_threads(count)
    try:
        plain = recurrent.lstm_backward(dy, dh, dc, gates, *kept[4:], w_hh, None, sizes, reverse)
        strided = recurrent.lstm_backward(batch_first, dh, dc, gates, *kept[4:], w_hh, None, sizes, reverse)
        spent = recurrent.lstm_backward(batch_first, dh, dc, gates, *kept[4:], w_hh, None, sizes, reverse, False, True)
    finally:
        threads.set_threads(1)
    alike(plain[:3], expected[:3], rtol=5e-3, atol=5e-3)
    equal(plain, strided)
    assert spent[0] is gates
    assert spent[1] is None
    equal((plain[0], plain[2]), (spent[0], spent[2]))


@needs_onednn
@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize(
    ("rows", "units", "reverse", "seed"), [(70, 97, False, 3), (71, 96, True, 4), (129, 64, False, 5)]
)
def test_threads_that_walk_with_their_part_of_the_rows_give_the_bits_of_one(
    monkeypatch, count, rows, units, reverse, seed
):
    monkeypatch.setattr(compiled, "SMALLEST_SHARE", 1)
    case = ("lstm", (rows,) * 6, rows, units, None, reverse, seed)
    found, back = both_ways(recurrent, case)
    parts = []
    for name in ("lstm_walk", "lstm_walk_back"):
        run = getattr(recurrent.loops, name)
        monkeypatch.setattr(recurrent.loops, name, lambda *given, run=run: parts.append(len(given[1])) or run(*given))
    threads.set_threads(count)
    try:
        again, back_again = both_ways(recurrent, case)
        once_more, back_once_more = both_ways(recurrent, case)
    finally:
        threads.set_threads(1)
    assert parts == [count] * 4
    equal((*found, *back), (*again, *back_again))
    equal((*found, *back), (*once_more, *back_once_more))


def test_a_product_that_fails_within_a_walk_is_an_error():
    with pytest.raises(RuntimeError, match="status 3"):
        recurrent._well(np.array([0, 3]))


@pytest.mark.parametrize("steps", [1, 2, 5])
@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("library", [False, pytest.param(True, marks=needs_onednn)])
@pytest.mark.parametrize(("inner", "width"), [(3, 5), (128, 256), (256, 130)])
def test_products_with_one_matrix(monkeypatch, steps, turned, library, inner, width):
    if library:
        onednn.load()
    else:
        monkeypatch.setattr(step_products, "_onednn", lambda: False)
    random = np.random.default_rng(1)
    matrix = random.standard_normal((width, inner)).astype(np.float32).T
    matrix = matrix if turned else np.ascontiguousarray(matrix)
    with step_products.products(matrix, 40, steps) as multiply:
        for count in (40, 40, 17, 1):
            a, out = random.standard_normal((count, inner)).astype(np.float32), np.empty((count, width), np.float32)
            multiply(a, out)
            np.testing.assert_allclose(out, a.astype(np.float64) @ matrix, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_two_threads_give_the_bits_of_one(monkeypatch, kind):
    monkeypatch.setattr(compiled, "SMALLEST_SHARE", 1)
    case = (kind, (9, 9, 4), 9, 19, None, False, 8)
    found, back = both_ways(recurrent, case)
    threads.set_threads(2)
    try:
        again, back_again = both_ways(recurrent, case)
    finally:
        threads.set_threads(1)
    equal((*found, *back), (*again, *back_again))


@pytest.mark.parametrize(("kind", "seed"), [("rnn", 4), ("rnn", 5), ("lstm", 4), ("gru", 4)])
def test_nan_and_infinity_go_the_way_that_they_go_in_the_reference(kind, seed):
    arguments, gradients = numbers(kind, (5,) * 3, 5, 18, None, False, seed)
    share = arguments[0]
    share[1, 3], share[2, 17], share[3, 2], share[8, 4] = np.nan, np.inf, -np.inf, 3e38
    gradients[1][0, 0] = np.nan
    arguments = (share, *arguments[1:])
    with np.errstate(all="ignore"):
        expected = forward(reference, kind, *arguments)
        back = backward(reference, kind, expected, gradients, *arguments[2:])
    found = forward(recurrent, kind, *arguments)
    if kind == "rnn":
        expected, found = expected[:3], found[:3]
    alike(found, expected)
    alike(backward(recurrent, kind, expected, gradients, *arguments[2:]), back)


@pytest.mark.parametrize("kind", KINDS)
def test_what_lies_otherwise_and_other_dtypes_are_served(kind):
    case = (kind, (6, 6, 2), 6, 5, None, True, 9)
    (share, h, w_hh, sizes, reverse, *rest), _ = numbers(*case)
    expected = forward(recurrent, kind, share, h, w_hh, sizes, reverse, *rest)
    strided = (np.asfortranarray(h), np.asfortranarray(w_hh))
    equal(forward(recurrent, kind, share, *strided, sizes, reverse, *rest), expected)
    for array in (h, w_hh):
        array.flags.writeable = False
    equal(forward(recurrent, kind, share, h, w_hh, sizes, reverse, *rest), expected)
    exact = both_ways(recurrent, case, np.float64)
    for found, wanted in zip(exact, both_ways(reference, case, np.float64), strict=True):
        equal(found, wanted)
    empty = (kind, (0, 0), 0, 4, None, False, 1)
    for found, wanted in zip(both_ways(recurrent, empty), both_ways(reference, empty), strict=True):
        alike(found, wanted)


# ---- layers ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def fast():
    chosen = phalanx.kernels.chosen()
    phalanx.kernels.choose("fast")
    yield
    phalanx.kernels.choose(chosen)


@needs_onednn
@pytest.mark.usefixtures("fast")
@pytest.mark.parametrize("batch_first", [False, True])
def test_a_second_backward_of_an_lstm_gives_the_bits_of_the_first(batch_first):
    layer = nn.LSTM(8, 128, batch_first=batch_first)
    x = phalanx.randn(*((40, 4, 8) if batch_first else (4, 40, 8)), requires_grad=True)
    h, c = (phalanx.randn(1, 40, 128, requires_grad=True) for _ in range(2))
    output, (last, cell) = layer(x, (h, c))
    loss = (output * output).sum() + (last * cell).sum()
    wanted = (x, h, c, *layer.parameters())
    first, second = ([g.numpy().copy() for g in phalanx.grad(loss, wanted, retain_graph=True)] for _ in range(2))
    equal(first, second)


@pytest.mark.torch
@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])
@pytest.mark.parametrize(("steps", "count", "width", "units"), [(6, 4, 3, 5), (4, 32, 70, 130)])
@pytest.mark.parametrize("given", [False, True])
def test_layers_beside_pytorch(fast, kind, steps, count, width, units, given):
    torch = pytest.importorskip("torch")
    options = {"num_layers": 2, "bidirectional": True}
    theirs = getattr(torch.nn, kind)(width, units, **options)
    mine = getattr(nn, kind)(width, units, **options)
    mine.load_state_dict(theirs.state_dict())
    random = np.random.default_rng(2)
    draw = lambda *shape: random.standard_normal(shape).astype(np.float32)  # noqa: E731
    x, h, c, dy, dh = (
        draw(steps, count, width),
        *(draw(4, count, units) for _ in "hc"),
        draw(steps, count, 2 * units),
        draw(4, count, units),
    )
    found = []
    for library, layer in ((phalanx, mine), (torch, theirs)):
        leaves = [library.tensor(array, requires_grad=True) for array in (x, h, c)]
        state = None if not given else (leaves[1], leaves[2]) if kind == "LSTM" else leaves[1]
        y, last = layer(leaves[0], state)
        first = last[0] if kind == "LSTM" else last
        ((y * library.tensor(dy)).sum() + (first * library.tensor(dh)).sum()).backward()
        used = leaves[: 1 if not given else 3 if kind == "LSTM" else 2]
        gradients = [leaf.grad for leaf in used] + [p.grad for _, p in sorted(layer.named_parameters())]
        found.append([t.detach().numpy() for t in (y, first, *gradients)])
    for a, b in zip(*found, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3 * max(1.0, float(np.abs(b).max())) * 0.1)
