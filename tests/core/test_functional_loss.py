"""Losses beside PyTorch's over their options, and what a mean loss weighs."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

import phalanx.nn.functional as F
from phalanx.core.tensor import Tensor
from tests.core.beside_torch import RANDOM, draw, same

pytestmark = pytest.mark.torch


# ---- losses ----------------------------------------------------------------------------------------------------------

REDUCTIONS = ["mean", "sum", "none"]


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("shape", [(9, 7), (4, 7, 3), (2, 7, 3, 2)])
@pytest.mark.parametrize(("weighted", "smoothing"), list(itertools.product([False, True], [0.0, 0.2])))
def test_class_losses(shape: tuple[int, ...], weighted: bool, smoothing: float, reduction: str) -> None:
    scores = draw(*shape) * 3
    labels = RANDOM.integers(0, 7, size=shape[:1] + shape[2:])
    labels[0] = 5
    options: dict[str, Any] = {"reduction": reduction}
    if weighted:
        options["weight"] = RANDOM.random(7) + 0.1
    for ignore in (-100, 5):
        same("cross_entropy", [scores], constants=[labels], ignore_index=ignore, label_smoothing=smoothing, **options)
        same("nll_loss", [scores], constants=[labels], ignore_index=ignore, **options)
    probabilities = RANDOM.random(shape)
    same("cross_entropy", [scores, probabilities], label_smoothing=smoothing, **options)


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_class_losses_of_one_sample(reduction: str) -> None:
    for label in (np.asarray(3), np.asarray(0)):
        same("cross_entropy", [draw(5)], constants=[label], reduction=reduction)
        same("nll_loss", [draw(5)], constants=[label], reduction=reduction)
    same("cross_entropy", [draw(5), RANDOM.random(5)], reduction=reduction)


def test_cross_entropy_float32_is_close_and_stable() -> None:
    labels = RANDOM.integers(0, 10, size=64)
    same("cross_entropy", [draw(64, 10, dtype=np.float32) * 50], constants=[labels], tolerance=1e-5)
    loss = F.cross_entropy(Tensor(np.array([[1e4, -1e4]], np.float32)), Tensor(np.array([0])))
    assert loss.item() == 0.0


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("name", ["mse_loss", "l1_loss", "smooth_l1_loss"])
def test_distances(name: str, reduction: str) -> None:
    same(name, [draw(4, 3), draw(4, 3)], reduction=reduction)
    same(name, [np.asarray(draw(1)[0]), np.asarray(draw(1)[0])], reduction=reduction)


def test_smooth_l1_beta() -> None:
    for beta in (0.0, 0.3, 2.0):
        same("smooth_l1_loss", [draw(20, 3), draw(20, 3)], beta=beta)


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_binary_losses(reduction: str) -> None:
    logits, target, weight = draw(6, 3) * 4, RANDOM.random((6, 3)), RANDOM.random(3)
    same("binary_cross_entropy", [RANDOM.random((6, 3)), target], reduction=reduction)
    same("binary_cross_entropy", [RANDOM.random((6, 3)), target], reduction=reduction, weight=weight)
    name = "binary_cross_entropy_with_logits"
    same(name, [logits, target], reduction=reduction)
    same(name, [logits, target], reduction=reduction, weight=weight)
    same(name, [logits, target], reduction=reduction, pos_weight=weight + 2)
    same(name, [logits * 300, np.round(target)], reduction=reduction)
    sure, truth = np.array([[0.0, 1.0, 1.0, 0.0]]), np.array([[0.0, 1.0, 0.0, 1.0]])
    # PyTorch's floor 1e-12 is a float32 constant
    same("binary_cross_entropy", [sure], constants=[truth], tolerance=1e-7, reduction=reduction)


def test_mse_warns_when_it_broadcasts() -> None:
    with pytest.warns(UserWarning, match=r"target's shape \(4,\)"):
        F.mse_loss(Tensor(draw(4, 1)), Tensor(draw(4)))


# ---- what a loss weighs ----------------------------------------------------------------------------------------------


def labels_of(*values: int) -> Tensor:
    return Tensor(np.array(values))


def test_mean_losses_know_their_weight() -> None:
    scores, labels = Tensor(draw(4, 3)), labels_of(0, 2, 1, 2)
    assert F.cross_entropy(scores, labels).weight == 4.0
    assert F.cross_entropy(scores, labels, ignore_index=2).weight == 2.0
    weighted = F.cross_entropy(scores, labels, weight=Tensor(np.array([0.5, 2.0, 1.0])))
    assert weighted.weight == pytest.approx(4.5)
    assert F.nll_loss(scores, labels, ignore_index=2).weight == 2.0
    assert F.cross_entropy(scores, Tensor(RANDOM.random((4, 3)))).weight == 4.0
    assert F.cross_entropy(Tensor(draw(2, 3, 5)), Tensor(RANDOM.integers(0, 3, size=(2, 5)))).weight == 10.0
    assert F.mse_loss(scores, Tensor(draw(4, 3))).weight == 4.0
    assert F.mse_loss(Tensor(np.asarray(1.0)), Tensor(np.asarray(2.0))).weight == 1.0
    assert F.l1_loss(scores, Tensor(draw(4, 3))).weight == 4.0
    assert F.smooth_l1_loss(scores, Tensor(draw(4, 3))).weight == 4.0
    assert F.binary_cross_entropy(Tensor(RANDOM.random((4, 3))), Tensor(RANDOM.random((4, 3)))).weight == 4.0
    assert F.binary_cross_entropy_with_logits(scores, Tensor(RANDOM.random((4, 3)))).weight == 4.0
    for reduction in ("sum", "none"):
        assert F.cross_entropy(scores, labels, reduction=reduction).weight is None
        assert F.mse_loss(scores, Tensor(draw(4, 3)), reduction=reduction).weight is None


def test_a_mean_over_nothing_is_zero() -> None:
    """Ours on purpose: PyTorch says NaN, but shards may be empty."""
    for shape, labels, weight in [((0, 3), (), 0.0), ((2, 3), (-100, -100), 0.0)]:
        for function in (F.cross_entropy, F.nll_loss):
            scores = Tensor(draw(*shape))
            scores.requires_grad = True
            loss = function(scores, Tensor(np.array(labels, np.int64)))
            assert loss.item() == 0.0
            assert loss.weight == weight
            loss.backward()
            np.testing.assert_array_equal(scores.grad.numpy(), np.zeros(shape))
    for function in (
        F.mse_loss,
        F.l1_loss,
        F.smooth_l1_loss,
        F.binary_cross_entropy,
        F.binary_cross_entropy_with_logits,
    ):
        x = Tensor(np.zeros((0, 3)))
        x.requires_grad = True
        loss = function(x, Tensor(np.zeros((0, 3))))
        assert loss.item() == 0.0
        assert loss.weight == 0.0
        loss.backward()
        assert x.grad.shape == (0, 3)


def test_layers_pass_empty_batches() -> None:
    """A shard without samples goes through a whole CNN."""
    x = Tensor(np.zeros((0, 3, 8, 8), np.float32))
    weight = Tensor(draw(4, 3, 3, 3, dtype=np.float32))
    weight.requires_grad = True
    y = F.batch_norm(
        F.conv2d(x, weight, padding=1),
        Tensor(np.zeros(4, np.float32)),
        Tensor(np.ones(4, np.float32)),
        None,
        None,
        True,
    )
    y = F.adaptive_avg_pool2d(F.avg_pool2d(F.max_pool2d(F.gelu(y), 2), 2), 1)
    loss = F.cross_entropy(F.layer_norm(F.dropout(y.flatten(1)), 4), Tensor(np.zeros(0, np.int64)))
    loss.backward()
    np.testing.assert_array_equal(weight.grad.numpy(), np.zeros((4, 3, 3, 3), np.float32))
