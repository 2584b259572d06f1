"""Ops bound to shapes give the bits of the ops, are called in replays, and hand on what they were not made for."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import phalanx
from phalanx import nn, optim
from phalanx.core.errors import RangeError
from phalanx.core.kernels.bound import shapes_of
from phalanx.core.op import TABLE, Op
from phalanx.core.ops import linear

F = nn.functional
RNG = np.random.default_rng(5)


@pytest.fixture(
    params=[("reference", 1), ("fast", 1), ("fast", 2)], ids=["reference", "fast", "two threads"], autouse=True
)
def _kernels(request: pytest.FixtureRequest) -> Iterator[None]:
    before, threads = phalanx.kernels.chosen(), phalanx.get_num_threads()
    kernels, count = request.param
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what is not installed
        phalanx.kernels.choose(kernels)
        phalanx.set_num_threads(count)
        yield
        phalanx.set_num_threads(threads)
        phalanx.kernels.choose(before)


def normal(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape, np.float32)


LAYERS = [
    (5, 7, 3),
    (32, 784, 64),
    (16, 400, 30),
    (16, 1000, 9),
    (32, 150, 190),
    (33, 200, 150),
    (4, 512, 600),
    (40, 1024, 512),
]
"""Rows, features in and out: tiny ones, few long rows, what tiles take and what they leave to others."""
CASES: dict[str, list[tuple[tuple[Any, ...], dict[str, Any]]]] = {
    name: [((normal(n, i), normal(o, i), normal(o)), {}) for n, i, o in LAYERS]
    + [((normal(2, 3, 5), normal(4, 5), normal(4)), {})]
    for name in ("linear", "linear_relu", "linear_gelu")
}
CASES["cross_entropy"] = [
    ((normal(9, 4), np.array([0, 3, -100, 2, 1, 1, 0, 0, 3]), None), {}),
    ((normal(6, 11), np.arange(6)), {"ignore_index": 2, "reduction": "mean"}),
    ((normal(3, 4), np.full(3, -100), None), {}),
]


def flat(*found: Any) -> list[Any]:
    """All arrays in there, as bytes."""
    parts: list[Any] = []
    for each in found:
        parts += flat(*each) if isinstance(each, tuple) else [each if each is None else (each.shape, each.tobytes())]
    return parts


def results(op: Op, arrays: tuple[Any, ...], attributes: dict[str, Any], gradient: Any, needs: Any, slots: Any) -> Any:
    output, saved = op.forward(*arrays, **attributes)
    given = (gradient, None) if isinstance(output, tuple) else gradient
    return flat(output, op.vjp(saved, given, needs, slots))


@pytest.mark.parametrize("name", CASES)
def test_the_bits_are_those_of_the_op(name: str) -> None:
    op = TABLE[name]
    for arrays, attributes in CASES[name]:
        assert op.bind is not None
        made = op.bind(shapes_of(arrays), **attributes)
        assert made is not None
        output, _ = op.forward(*arrays, **attributes)
        shape = (output[0] if isinstance(output, tuple) else output).shape
        for needs in [(True, True, True), (False, True, True), (False, False, True), (True, False, False)]:
            for with_slots in (False, True):
                gradient = np.asarray(normal(*shape))
                slots = [
                    [None if x is None or not with_slots else np.full_like(x, 7) for x in arrays] for _ in range(2)
                ]
                expected = results(op, arrays, attributes, gradient, needs[: len(arrays)], slots[0])
                assert results(made, arrays, {}, gradient, needs[: len(arrays)], slots[1]) == expected, arrays[0].shape


@pytest.mark.parametrize("name", ["linear", "linear_relu"])
@pytest.mark.parametrize("shape", [(5, 7, 3), (32, 784, 64), (100, 130, 90)])
def test_an_inputs_gradient_is_made_where_it_is_wanted(name: str, shape: tuple[int, int, int]) -> None:
    rows, width, height = shape
    x, weight, bias = normal(rows, width), normal(height, width), normal(height)
    op: Any = TABLE[name]
    for each in (op, op.bind(shapes_of((x, weight, bias)))):
        _, saved = each.forward(x, weight, bias)
        gradient, slot = normal(rows, height), np.empty_like(x)
        found = each.vjp(saved, gradient, (True, True, True), [slot, None, None])[0]
        expected = each.vjp(saved, gradient, (True, True, True), [None, None, None])[0]
        assert found is slot and found.tobytes() == expected.tobytes()


def odd(x: np.ndarray, how: str) -> np.ndarray:
    """The same numbers in another way."""
    if how == "transposed":
        return np.asfortranarray(x)
    if how == "float64":
        return x.astype(np.float64)
    if how == "longer":
        return np.concatenate([x, x])
    raw = np.empty(x.nbytes + 1, np.uint8)[1:].view(x.dtype).reshape(x.shape)
    raw[...] = x
    return raw


@pytest.mark.parametrize("how", ["transposed", "float64", "longer", "unaligned"])
@pytest.mark.parametrize("shape", [(5, 7, 3), (32, 784, 64)])
def test_other_arrays_are_handed_on(how: str, shape: tuple[int, int, int]) -> None:
    rows, width, height = shape
    x, weight, bias, labels = normal(rows, width), normal(height, width), normal(height), np.arange(rows) % height
    for name in ("linear", "linear_relu"):
        op = TABLE[name]
        assert op.bind is not None
        made: Any = op.bind(shapes_of((x, weight, bias)))
        given = [odd(x, how), weight, bias] if how != "float64" else [odd(each, how) for each in (x, weight, bias)]
        wanted = (False, True, True), [None, None, None]
        gradients = [odd(normal(rows, height), how)]
        gradients += [normal(rows, height)] if how in ("transposed", "unaligned") else []
        for gradient in gradients:
            assert results(made, tuple(given), {}, gradient, *wanted) == results(
                op, tuple(given), {}, gradient, *wanted
            )
    logits, op = normal(rows, height), TABLE["cross_entropy"]
    assert op.bind is not None
    made = op.bind(shapes_of((logits, labels)))
    arrays = odd(logits, how), np.concatenate([labels, labels]) if how == "longer" else labels
    one = np.ones((), arrays[0].dtype), (True, False), [None, None]
    assert results(made, arrays, {}, *one) == results(op, arrays, {}, *one)


def test_a_label_out_of_range_is_named_as_ever() -> None:
    logits, labels = normal(3, 4), np.array([0, 9, 1])
    op = TABLE["cross_entropy"]
    assert op.bind is not None
    made: Any = op.bind(shapes_of((logits, labels)))
    with pytest.raises(RangeError, match="9") as bound:
        made.forward(logits, labels)
    with pytest.raises(RangeError) as plain:
        op.forward(logits, labels)
    assert str(bound.value) == str(plain.value)


def training(capture: bool, batches: list[tuple[Any, Any]]) -> tuple[list[Any], Any]:
    phalanx.manual_seed(3)
    model = nn.Sequential(nn.Linear(448, 64), nn.ReLU(), nn.Linear(64, 10))
    optimizer = optim.Adam(model.parameters())

    def step(x: Any, y: Any) -> Any:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        return loss

    run: Any = phalanx.capture(step) if capture else step
    losses = [run(x, y).item() for x, y in batches]
    return [losses, [p.array.tobytes() for p in model.parameters()]], run


def batches(count: int) -> list[tuple[Any, Any]]:
    return [(phalanx.tensor(normal(32, 448)), phalanx.tensor(RNG.integers(0, 10, 32))) for _ in range(count)]


def test_a_replay_checks_no_shapes_twice_and_trains_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    given = batches(12)
    expected, _ = training(False, given)
    got, run = training(True, given)
    assert got == expected and run.replays == 10

    def checked(*_: Any) -> None:
        raise AssertionError("a shape was looked at again")

    monkeypatch.setattr(linear, "check_linear", checked)
    run(*given[0])
    assert run.why is None
    with pytest.raises(AssertionError):
        run.step(*given[0])


def test_whoever_listens_hears_of_every_op() -> None:
    given = batches(4)
    _, run = training(True, given)
    op = TABLE["linear"]
    heard: list[str] = []
    forward, vjp = op.forward, op.vjp

    def telling(name: str, work: Any) -> Any:
        def told(*args: Any, **named: Any) -> Any:
            heard.append(name)
            return work(*args, **named)

        return told

    object.__setattr__(op, "forward", telling("forward", forward))
    object.__setattr__(op, "vjp", telling("vjp", vjp))
    try:
        run(*given[0])
    finally:
        object.__setattr__(op, "forward", forward)
        object.__setattr__(op, "vjp", vjp)
    layers = run.program.count("# linear\n") // 2  # with fast kernels the first is linear_relu
    assert layers and heard == ["forward"] * layers + ["vjp"] * layers and run.replays == 3
    run(*given[0])
    assert len(heard) == 2 * layers and run.replays == 4
