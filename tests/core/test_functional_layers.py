"""Norms, tables of vectors, dropouts of channels, attention with shared heads: what test_functional does not reach."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import phalanx
import phalanx.nn.functional as F
from phalanx import nn
from phalanx.core.errors import RangeError, ShapeError
from phalanx.core.nn import statistics
from phalanx.core.tensor import Tensor
from tests.core.beside_torch import RANDOM, draw, same, torch

pytestmark = pytest.mark.torch


def test_norms() -> None:
    for shape in [(4, 6), (4, 6, 5), (2, 6, 3, 4)]:
        same("group_norm", [draw(*shape)], num_groups=3)
        same("group_norm", [draw(*shape)], constants=[2], weight=draw(6), bias=draw(6), eps=1e-2)
        same("rms_norm", [draw(*shape)], normalized_shape=shape[-2:])
        if len(shape) > 2:
            same("instance_norm", [draw(*shape)], weight=draw(6), bias=draw(6))
            same("local_response_norm", [draw(*shape)], size=3, alpha=0.3)
    same("rms_norm", [draw(3, 5, dtype=np.float32)], normalized_shape=(5,), tolerance=1e-5)


def test_instance_norm_moves_running_statistics_as_pytorch() -> None:
    x, mean, variance = draw(4, 3, 5), draw(3), np.abs(draw(3))
    mine, theirs = [Tensor(mean.copy()), Tensor(variance.copy())], [torch.tensor(mean), torch.tensor(variance)]
    y = F.instance_norm(Tensor(x), *mine, momentum=0.3)
    z = torch.nn.functional.instance_norm(torch.tensor(x), *theirs, momentum=0.3)
    for a, b in zip((y, *mine), (z, *theirs), strict=True):
        np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-9)
    y = F.instance_norm(Tensor(x), *mine, use_input_stats=False)
    z = torch.nn.functional.instance_norm(torch.tensor(x), *theirs, use_input_stats=False)
    np.testing.assert_allclose(y.numpy(), z.numpy(), rtol=1e-9)


def test_instance_norm_leaves_a_record_that_merges_over_shards() -> None:
    """Halves of a batch merge to what the whole batch would have moved, as the tree merges them: by the number of samples."""
    x = (draw(6, 3, 5) + 2.0).astype(np.float32)  # means far from 0, where a relative error means something
    whole, parts = (nn.InstanceNorm1d(3, track_running_stats=True) for _ in range(2))
    whole(Tensor(x))
    entries: list[Any] = []
    with statistics.collect(entries):
        parts(Tensor(x[:4]))
        parts(Tensor(x[4:]))
    assert parts.running_mean.tolist() == [0.0] * 3  # forward wrote nothing
    (first, second), n = entries, 6
    assert (first.n, second.n) == (4, 2)
    parts.commit(n, (first.mean * 4 + second.mean * 2) / n, first.m2)
    np.testing.assert_allclose(parts.running_mean.numpy(), whole.running_mean.numpy(), rtol=1e-5)
    np.testing.assert_allclose(parts.running_var.numpy(), whole.running_var.numpy(), rtol=1e-5)


# ---- tables of vectors -----------------------------------------------------------------------------------------------

BAGS: list[dict[str, Any]] = [
    {},
    {"mode": "sum"},
    {"mode": "max"},
    {"mode": "sum", "padding_idx": 3},
    {"mode": "mean", "padding_idx": -1},
    {"mode": "max", "padding_idx": 0},
]


@pytest.mark.parametrize("options", BAGS, ids=str)
@pytest.mark.parametrize("form", ["rows", "offsets", "last offset"])
def test_embedding_bag(form: str, options: dict[str, Any]) -> None:
    if form == "rows":
        given: list[Any] = [RANDOM.integers(0, 9, (5, 4))]
    else:
        offsets = [0, 3, 3, 8] + ([11] if form == "last offset" else [])  # the second bag is empty
        given = [RANDOM.integers(0, 9, 11), np.array(offsets)]
        options = {**options, "include_last_offset": form == "last offset"}
    table = draw(9, 3)
    weights, results = [], []
    for make, function in ((Tensor, F.embedding_bag), (torch.tensor, torch.nn.functional.embedding_bag)):
        weight = make(table.copy())
        weight.requires_grad = True
        indices, *rest = map(make, given)
        y = function(indices, weight, *rest, **options)
        (y * y).sum().backward()
        weights.append(weight.grad.numpy())
        results.append(y.detach().numpy())
    np.testing.assert_allclose(*results, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(*weights, rtol=1e-9, atol=1e-9)


def test_embedding_bag_with_weights_of_samples() -> None:
    indices, table, weights = RANDOM.integers(0, 9, (5, 4)), draw(9, 3), draw(5, 4)
    results = []
    for make, function in ((Tensor, F.embedding_bag), (torch.tensor, torch.nn.functional.embedding_bag)):
        t, w = make(table.copy()), make(weights.copy())
        t.requires_grad = w.requires_grad = True
        y = function(make(indices), t, mode="sum", per_sample_weights=w)
        (y * y).sum().backward()
        results.append((y.detach().numpy(), t.grad.numpy(), w.grad.numpy()))
    for a, b in zip(*results, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9)
    empty = F.embedding_bag(Tensor(np.zeros((2, 0), np.int64)), Tensor(table))
    assert empty.tolist() == [[0.0] * 3] * 2


def test_embedding_by_frequency() -> None:
    indices = np.array([[1, 1, 2], [1, 0, 5]])
    grads = []
    for make, function in ((Tensor, F.embedding), (torch.tensor, torch.nn.functional.embedding)):
        weight = make(np.zeros((6, 2)))
        weight.requires_grad = True
        function(make(indices), weight, scale_grad_by_freq=True).sum().backward()
        grads.append(weight.grad.numpy())
    np.testing.assert_allclose(*grads)


def test_embedding_bag_by_frequency() -> None:
    """Every row that was taken gets one bag's gradient in the mean (PyTorch's own divides by the counts of other rows)."""
    for indices, offsets in [([[1, 1, 2], [1, 0, 2]], None), ([1, 1, 2, 1, 0, 2], Tensor(np.array([0, 2])))]:
        weight = Tensor(np.zeros((4, 1)), requires_grad=True)
        F.embedding_bag(
            Tensor(np.array(indices)), weight, offsets, mode="sum", scale_grad_by_freq=True
        ).sum().backward()
        np.testing.assert_allclose(weight.grad.numpy()[:, 0], [1.0, 1.0, 1.0, 0.0])


# ---- dropout ---------------------------------------------------------------------------------------------------------

CHANNELS = [("dropout1d", (40, 30, 5)), ("dropout1d", (900, 5)), ("dropout2d", (40, 30, 2, 3)), ("dropout2d", (40, 30, 4)),
            ("dropout3d", (40, 30, 2, 1, 3)), ("dropout3d", (900, 2, 1, 3))]  # fmt: skip


@pytest.mark.parametrize(("name", "shape"), CHANNELS, ids=str)
def test_dropout_of_channels(name: str, shape: tuple[int, ...]) -> None:
    """A channel is kept whole or not at all; which, is keyed."""
    x = Tensor(np.ones(shape, np.float32), requires_grad=True)
    phalanx.manual_seed(5)
    y = getattr(F, name)(x, 0.25)
    lead = 1 if shape[0] == 900 else 2
    channels = y.detach().numpy().reshape(*shape[:lead], -1)
    assert (channels == channels[..., :1]).all()
    assert set(np.unique(channels)) == {0.0, np.float32(1 / 0.75)}
    assert abs((channels[..., 0] == 0).mean() - 0.25) < 0.05
    y.sum().backward()
    np.testing.assert_array_equal(x.grad.numpy(), y.detach().numpy())
    phalanx.manual_seed(5)
    np.testing.assert_array_equal(getattr(F, name)(x, 0.25).detach().numpy(), y.detach().numpy())
    assert getattr(F, name)(x, 0.5, training=False) is x


def test_alpha_dropout_keeps_mean_and_variance() -> None:
    x = Tensor(RANDOM.normal(size=(400, 100)))
    for name in ("alpha_dropout", "feature_alpha_dropout"):
        y = getattr(F, name)(x, 0.3, training=True).numpy()
        assert abs(y.mean()) < 0.02 and abs(y.std() - 1) < 0.02
        dropped = np.unique(y.round(9), return_counts=True)[1].max()
        assert abs(dropped / y.size - 0.3) < 0.02
        assert getattr(F, name)(x, 0.3) is x
        assert not getattr(F, name)(x, 1.0, training=True).numpy().any()
    channels = F.feature_alpha_dropout(Tensor(np.zeros((50, 20, 7))), 0.4, training=True).numpy()
    assert (channels == channels[..., :1]).all() and len(np.unique(np.round(channels, 9))) == 2
    assert nn.AlphaDropout(0.3)(x) is not x and nn.AlphaDropout(0.3).eval()(x) is x


# ---- attention -------------------------------------------------------------------------------------------------------


def test_attention_with_shared_heads() -> None:
    arrays = [draw(2, 6, 5, 4), draw(2, 2, 7, 4), draw(2, 2, 7, 3)]
    same("scaled_dot_product_attention", arrays, enable_gqa=True)
    same("scaled_dot_product_attention", arrays, enable_gqa=True, is_causal=True, scale=0.2)
    with pytest.raises(ShapeError, match="enable_gqa"):
        F.scaled_dot_product_attention(*map(Tensor, [draw(2, 5, 5, 4), *arrays[1:]]), enable_gqa=True)


def test_attention_dropout_is_keyed() -> None:
    q, k, v = (Tensor(draw(2, 3, 4)) for _ in range(3))
    phalanx.manual_seed(2)
    first = F.scaled_dot_product_attention(q, k, v, dropout_p=0.5).numpy()
    phalanx.manual_seed(2)
    np.testing.assert_array_equal(F.scaled_dot_product_attention(q, k, v, dropout_p=0.5).numpy(), first)
    assert not np.array_equal(F.scaled_dot_product_attention(q, k, v).numpy(), first)


ERRORS = [
    (lambda: F.group_norm(Tensor(draw(2, 5)), 2), RangeError, "num_groups"),
    (lambda: F.group_norm(Tensor(draw(2, 4)), 2, Tensor(draw(3))), ShapeError, "weight"),
    (lambda: F.instance_norm(Tensor(draw(2, 4)),), ShapeError, "channels"),
    (lambda: F.instance_norm(Tensor(draw(2, 4, 3)), use_input_stats=False), RangeError, "running_mean"),
    (lambda: F.local_response_norm(Tensor(draw(2, 4)), 2), ShapeError, "channels"),
    (lambda: F.embedding(Tensor(np.array([0])), Tensor(draw(3, 2)), max_norm=1.0), RangeError, "max_norm"),
    (lambda: F.embedding(Tensor(np.array([0])), Tensor(draw(3, 2)), sparse=True), RangeError, "sparse"),
    (lambda: F.embedding_bag(Tensor(np.array([[0]])), Tensor(draw(3, 2)), per_sample_weights=Tensor(draw(1, 1))), RangeError, "mode='sum'"),
    (lambda: F.dropout1d(Tensor(draw(2)), 0.5), ShapeError, "2 or 3 dimensions"),
    (lambda: F.alpha_dropout(Tensor(draw(2)), 2.0), RangeError, "probability"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "kind", "words"), ERRORS, ids=[words for *_, words in ERRORS])
def test_errors_say_what_is_wrong(call: Any, kind: Any, words: str) -> None:
    with pytest.raises(kind, match=words):
        call()
