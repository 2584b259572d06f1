"""Activation checkpointing: the bits of a run without it, less memory, the same randomness, statistics once."""

from __future__ import annotations

import gc
import tracemalloc
import weakref
from typing import Any

import numpy as np
import pytest

import phalanx
from phalanx import nn
from phalanx.core.errors import GraphError
from phalanx.core.nn import statistics
from phalanx.core.rng import next_key, shard_scope
from phalanx.utils.checkpoint import checkpoint, checkpoint_sequential


def net() -> nn.Sequential:
    phalanx.manual_seed(3)
    return nn.Sequential(
        nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.4), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 4)
    )


def in_parts(model: Any, x: Any) -> Any:
    return model[4:](checkpoint(model[:4], x))


WAYS = {
    "one part": lambda model, x: checkpoint(model, x, use_reentrant=False),
    "the first half": in_parts,
    "three parts": lambda model, x: checkpoint_sequential(model, 3, x, use_reentrant=False),
    "parts in parts": lambda model, x: checkpoint(lambda t: checkpoint_sequential(model, 2, t), x),
    "an outer tensor": lambda model, x: checkpoint(lambda: model(x)),
    "by name and in a dict": lambda model, x: checkpoint(lambda given: model(given["x"]), given={"x": x}),
    "a tuple of outputs": lambda model, x: checkpoint(lambda t: (model(t), "word", t.detach()), x)[0],
}


def trained(way: Any) -> dict[str, np.ndarray]:
    """Outputs, gradients and statistics of two backward passes within a shard."""
    model = net()
    x = (phalanx.arange(30).reshape(5, 6) * 0.1).requires_grad_(True)
    inner = x * 1.5
    with shard_scope(7, 2):
        next_key("dropout")  # draws before do not begin at 0
        for _ in range(2):
            y = way(model, inner)
            kept = next_key("dropout").call
            (y * y).mean().backward(retain_graph=True)
            assert next_key("dropout").call == kept + 1, "recomputation must leave no mark on later draws"
    found = {name: tensor.detach().numpy().copy() for name, tensor in model.state_dict().items()}
    found.update({f"grad {name}": p.grad.numpy() for name, p in model.named_parameters()})
    return {**found, "y": y.detach().numpy(), "x": x.grad.numpy()}


@pytest.mark.parametrize("name", WAYS)
def test_equal_bits_with_and_without(name: str) -> None:
    expected, found = trained(lambda model, x: model(x)), trained(WAYS[name])
    for key, value in expected.items():
        np.testing.assert_array_equal(found[key], value, err_msg=key)


def test_backward_outside_of_the_shard_draws_as_in_it() -> None:
    """The replay follows the shard of its forward, wherever backward happens."""
    model = net()
    x = phalanx.ones(5, 6)

    def gradients(way: Any) -> list[np.ndarray]:
        model.zero_grad()
        losses = []
        for shard in range(3):
            with shard_scope(4, shard):
                losses.append(way(model, x).square().sum())
        for loss in losses:
            loss.backward()
        return [p.grad.numpy().copy() for p in model.parameters()]

    for a, b in zip(gradients(WAYS["one part"]), gradients(lambda model, x: model(x)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7)


def test_batch_statistics_are_left_once() -> None:
    model, entries = net(), []
    with statistics.collect(entries):
        checkpoint(model, phalanx.ones(5, 6)).sum().backward()
    assert len(entries) == 1


def test_activations_are_let_go() -> None:
    kept: list[Any] = []

    def part(x: Any) -> Any:
        hidden = (x * 2).exp()
        kept.append(weakref.ref(hidden.array))
        return hidden * hidden

    x = phalanx.ones(4, requires_grad=True)
    total = checkpoint(part, x).sum()
    gc.collect()
    assert kept[0]() is None
    total.backward()
    gc.collect()
    assert len(kept) == 2 and kept[1]() is None
    np.testing.assert_allclose(x.grad.numpy(), 4 * np.exp(4.0), rtol=1e-6)


def test_memory_holds_one_part_at_a_time() -> None:
    """The peak of a deep net in parts is well below that of the whole, and backward lets everything go."""
    model = nn.Sequential(*(layer for _ in range(32) for layer in (nn.Linear(64, 64), nn.Tanh())))
    x = phalanx.ones(512, 64)

    def used(way: Any) -> tuple[int, int]:
        gc.collect()
        tracemalloc.start()
        loss = way(model, x).sum()
        loss.backward()
        found = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return found

    used(lambda model, x: model(x))  # gradients are there from now on
    _, whole = used(lambda model, x: model(x))
    left, parts = used(lambda model, x: checkpoint_sequential(model, 6, x))
    assert parts < 0.5 * whole, (parts, whole)
    assert left < 0.1 * whole, left


def test_the_node_does_not_hold_the_outputs() -> None:
    x = phalanx.ones(4, requires_grad=True)
    y = checkpoint(lambda t: t * 2, x)
    seen = weakref.ref(y.array)
    total = y.sum()
    del y
    gc.collect()
    assert seen() is None
    total.backward()
    assert x.grad.tolist() == [2.0] * 4


def test_nothing_is_recomputed_where_nothing_is_recorded() -> None:
    calls: list[int] = []

    def part(x: Any) -> Any:
        calls.append(1)
        return x * 2

    with phalanx.no_grad():
        assert not checkpoint(part, phalanx.ones(2, requires_grad=True)).requires_grad
    assert not checkpoint(part, phalanx.ones(2)).requires_grad
    assert len(calls) == 2


def test_a_mean_loss_keeps_its_weight() -> None:
    model, target = net(), phalanx.tensor([0, 1, 2])
    loss = checkpoint(lambda x: nn.CrossEntropyLoss()(model(x), target), phalanx.ones(3, 6))
    assert loss.weight == 3


def test_an_argument_that_is_returned() -> None:
    x = phalanx.ones(2, requires_grad=True)
    same, double = checkpoint(lambda t: (t, t * 2), x)
    (same * 3 + double).sum().backward()
    assert x.grad.tolist() == [5.0, 5.0]


def test_outputs_without_a_gradient_count_as_zero() -> None:
    x = phalanx.ones(2, requires_grad=True)
    first, _ = checkpoint(lambda t: (t * 2, t * 5), x)
    first.sum().backward()
    assert x.grad.tolist() == [2.0, 2.0]


def test_a_function_that_changes_its_mind_is_named() -> None:
    sizes = iter([3, 2])
    x = phalanx.ones(1, requires_grad=True)
    y = checkpoint(lambda t: t.expand(next(sizes)) * 1, x)
    with pytest.raises(GraphError, match=r"shapes \[\(2,\)\], the first run \[\(3,\)\]"):
        y.sum().backward()


def test_a_second_pass_needs_the_graph_kept() -> None:
    x = phalanx.ones(2, requires_grad=True)
    y = checkpoint(lambda t: t.exp(), x).sum()
    y.backward(retain_graph=True)
    y.backward()
    with pytest.raises(GraphError, match="freed by the first"):
        y.backward()


def test_segments_are_checked() -> None:
    with pytest.raises(GraphError, match="segments between 1 and 7"):
        checkpoint_sequential(net(), 8, phalanx.ones(5, 6))
