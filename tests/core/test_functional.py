"""nn.functional beside PyTorch's, over its options, and the words of its errors."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import phalanx
import phalanx.nn.functional as F
from phalanx.core import rng
from phalanx.core.errors import DTypeError, RangeError, ShapeError
from phalanx.core.tensor import Tensor
from tests.core.beside_torch import RANDOM, draw, same, torch

pytestmark = pytest.mark.torch


# ---- names -----------------------------------------------------------------------------------------------------------


OURS = {
    "batch_norm_with_statistics", "add_layer_norm", "add_rms_norm", "feed_forward", "linear_cross_entropy", "linear_gelu",
    "linear_relu", "packed_attention",
}  # fmt: skip
"""What PyTorch has no function for."""


@pytest.mark.parametrize("name", sorted(set(F.__all__) - OURS))
def test_arguments_are_pytorchs(name: str) -> None:
    """Same names, order and defaults, as far as PyTorch tells its own."""
    try:
        theirs = list(
            inspect.signature(getattr(torch.nn.functional, name, None) or getattr(torch, name)).parameters.values()
        )
    except ValueError:
        return  # a builtin without a signature
    if name == "flatten" or any(p.kind is p.VAR_POSITIONAL for p in theirs):
        return
    mine = list(inspect.signature(getattr(F, name)).parameters.values())
    for a, b in zip(mine, theirs, strict=False):
        assert a.name == b.name, name
        if b.default is not inspect.Parameter.empty:
            assert a.default == b.default, (name, a.name)


# ---- layers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(4,), (3, 4), (2, 3, 4), (0, 4)])
@pytest.mark.parametrize("bias", [True, False])
def test_linear(shape: tuple[int, ...], bias: bool) -> None:
    same("linear", [draw(*shape), draw(5, 4)] + ([draw(5)] if bias else []))


CONVOLUTIONS = [
    {},
    {"stride": 2},
    {"stride": (1, 2), "padding": (2, 1), "dilation": (2, 1)},
    {"padding": 1},
    {"padding": "same"},
    {"padding": "same", "dilation": 3},
    {"padding": "valid"},
    {"padding": 2, "groups": 2},
    {"padding": 1, "groups": 2, "stride": 2},
]


@pytest.mark.parametrize("kernel", [(3, 3), (1, 1), (2, 4), (5, 3)])
@pytest.mark.parametrize("options", CONVOLUTIONS, ids=str)
def test_conv2d(kernel: tuple[int, int], options: dict[str, Any]) -> None:
    channels = 4 // options.get("groups", 1)
    same("conv2d", [draw(3, 4, 11, 9), draw(6, channels, *kernel), draw(6)], **options)


def test_conv2d_odd_kinds() -> None:
    same("conv2d", [draw(4, 7, 6), draw(2, 4, 3, 3)])
    same("conv2d", [draw(2, 4, 7, 6), draw(4, 1, 3, 3), draw(4)], padding=1, groups=4)
    same("conv2d", [draw(0, 4, 7, 6), draw(2, 4, 3, 3), draw(2)])
    same("conv2d", [draw(70, 8, 20, 20), draw(8, 8, 3, 3)], padding=1)
    same("conv2d", [draw(2, 2, 40, 36), draw(4, 1, 3, 2)], dilation=(1, 2), groups=2)
    same("conv2d", [draw(5, 4, 8, 8, dtype=np.float32), draw(6, 4, 3, 3, dtype=np.float32)], tolerance=2e-5)


@pytest.mark.parametrize(
    "options", [{}, {"stride": 2, "padding": 1}, {"padding": "same"}, {"dilation": 2, "groups": 2}]
)
def test_conv1d(options: dict[str, Any]) -> None:
    channels = 4 // options.get("groups", 1)
    same("conv1d", [draw(3, 4, 10), draw(6, channels, 3), draw(6)], **options)
    same("conv1d", [draw(4, 10), draw(6, channels, 3)], **options)


WINDOWS = [
    {"kernel_size": 2},
    {"kernel_size": 3, "stride": 2, "padding": 1},
    {"kernel_size": (3, 2), "stride": (1, 2)},
    {"kernel_size": 2, "stride": 3},
    {"kernel_size": 3, "stride": 2, "ceil_mode": True},
    {"kernel_size": 2, "stride": 3, "padding": 1, "ceil_mode": True},
]


@pytest.mark.parametrize("size", [(8, 8), (9, 7), (5, 12)])
@pytest.mark.parametrize("options", WINDOWS, ids=str)
def test_pooling(size: tuple[int, int], options: dict[str, Any]) -> None:
    ties = RANDOM.integers(0, 4, size=(2, 3, *size)).astype(np.float64)
    same("max_pool2d", [ties], **options)
    same("max_pool2d", [ties[0]], **options)
    for more in ({}, {"count_include_pad": False}, {"divisor_override": 3}):
        same("avg_pool2d", [ties], **options, **more)


def test_max_pool2d_dilation_and_nan() -> None:
    same("max_pool2d", [draw(2, 3, 9, 9)], kernel_size=2, dilation=3, padding=1)
    x = draw(1, 1, 6, 6)
    x[0, 0, 2, 3] = np.nan
    for size in (2, 3):
        ours, theirs = F.max_pool2d(Tensor(x), size), torch.nn.functional.max_pool2d(torch.tensor(x), size)
        np.testing.assert_array_equal(ours.numpy(), theirs.numpy())


@pytest.mark.parametrize("size", [1, (3, 2), (None, 4), 7, 11])
def test_adaptive_avg_pool2d(size: Any) -> None:
    same("adaptive_avg_pool2d", [draw(2, 3, 7, 9)], output_size=size)


@pytest.mark.parametrize("shape", [(6, 5), (6, 5, 4), (6, 5, 3, 4)])
@pytest.mark.parametrize("training", [True, False])
def test_batch_norm(shape: tuple[int, ...], training: bool) -> None:
    x, weight, bias, mean, variance = draw(*shape), draw(5), draw(5), draw(5), np.abs(draw(5)) + 0.5
    constants = {"running_mean": mean, "running_var": variance, "training": training, "eps": 1e-3}
    same("batch_norm", [x], **constants)
    mine, peers = [Tensor(mean.copy()), Tensor(variance.copy())], [torch.tensor(mean), torch.tensor(variance)]
    leaves = [Tensor(a.copy()) for a in (x, weight, bias)]
    peer_leaves = [torch.tensor(a, requires_grad=True) for a in (x, weight, bias)]
    for leaf in leaves:
        leaf.requires_grad = True
    y = F.batch_norm(leaves[0], *mine, leaves[1], leaves[2], training, 0.3)
    z = torch.nn.functional.batch_norm(peer_leaves[0], *peers, peer_leaves[1], peer_leaves[2], training, 0.3)
    seed = draw(*shape)
    y.backward(Tensor(seed))
    z.backward(torch.tensor(seed))
    pairs = [(y.detach(), z.detach()), *zip(mine, peers, strict=True)]
    pairs += [(a.grad, b.grad) for a, b in zip(leaves, peer_leaves, strict=True)]
    for a, b in pairs:
        np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-9, atol=1e-9)


def test_batch_norm_with_statistics() -> None:
    x = draw(6, 3, 4)
    _, mean, deviations = F.batch_norm_with_statistics(Tensor(x))
    np.testing.assert_allclose(mean, x.mean(axis=(0, 2)))
    np.testing.assert_allclose(deviations, x.var(axis=(0, 2)) * 24)


@pytest.mark.parametrize("affine", [0, 1, 2])
def test_layer_norm(affine: int) -> None:
    x, weight, bias = draw(4, 3, 5, 2), draw(5, 2), draw(5, 2)
    ours, theirs = [Tensor(a.copy()) for a in (x, weight, bias)], [torch.tensor(a) for a in (x, weight, bias)]
    for tensor in (*ours, *theirs):
        tensor.requires_grad = True
    y = F.layer_norm(ours[0], (5, 2), *ours[1 : 1 + affine])
    z = torch.nn.functional.layer_norm(theirs[0], (5, 2), *theirs[1 : 1 + affine])
    seed = draw(*x.shape)
    y.backward(Tensor(seed))
    z.backward(torch.tensor(seed))
    np.testing.assert_allclose(y.detach().numpy(), z.detach().numpy(), rtol=1e-9, atol=1e-9)
    for a, b in list(zip(ours, theirs, strict=True))[: 1 + affine]:
        np.testing.assert_allclose(a.grad.numpy(), b.grad.numpy(), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("padding_idx", [None, 2, -1])
@pytest.mark.parametrize("rows", [5, 200])
def test_embedding(rows: int, padding_idx: int | None) -> None:
    indices = (RANDOM.random((6, 50)) ** 3 * rows).astype(np.int64)
    weight = Tensor(draw(rows, 3))
    weight.requires_grad = True
    peer = torch.tensor(weight.detach().numpy().copy(), requires_grad=True)
    seed = draw(6, 50, 3)
    F.embedding(Tensor(indices), weight, padding_idx).backward(Tensor(seed))
    torch.nn.functional.embedding(torch.tensor(indices), peer, padding_idx).backward(torch.tensor(seed))
    np.testing.assert_allclose(weight.grad.numpy(), peer.grad.numpy(), rtol=1e-9, atol=1e-9)


def test_dropout() -> None:
    x = Tensor(np.ones((200, 50), np.float32))
    x.requires_grad = True
    rng.manual_seed(3)
    y = F.dropout(x, 0.25)
    values, counts = np.unique(y.detach().numpy(), return_counts=True)
    np.testing.assert_allclose(values, [0.0, 4 / 3], rtol=1e-6)
    assert abs(counts[0] / 10_000 - 0.25) < 0.02
    y.sum().backward()
    np.testing.assert_array_equal(x.grad.numpy(), y.detach().numpy())
    rng.manual_seed(3)
    np.testing.assert_array_equal(F.dropout(x, 0.25).detach().numpy(), y.detach().numpy())
    assert not np.array_equal(F.dropout(x, 0.25).detach().numpy(), y.detach().numpy())
    assert F.dropout(x, 0.0) is x
    assert F.dropout(x, 0.9, training=False) is x
    assert not F.dropout(x, 1.0).detach().numpy().any()


@pytest.mark.parametrize("mode", ["plain", "causal", "boolean", "added", "scaled"])
def test_scaled_dot_product_attention(mode: str) -> None:
    arrays = [draw(2, 3, 5, 4), draw(2, 3, 7, 4), draw(2, 3, 7, 6)]
    mask = RANDOM.random((5, 7)) < 0.6
    mask[:, 0] = True
    options: dict[str, Any] = {
        "plain": {},
        "causal": {"is_causal": True},
        "boolean": {"attn_mask": mask},
        "added": {"attn_mask": draw(2, 1, 5, 7)},
        "scaled": {"scale": 0.3},
    }[mode]
    same("scaled_dot_product_attention", arrays, **options)


@pytest.mark.parametrize("kind", ["boolean", "added"])
def test_attention_to_nothing_is_zero(kind: str) -> None:
    mask = RANDOM.random((5, 7)) < 0.6
    mask[2] = False
    added = np.where(mask, 0.0, -np.inf)
    arrays = [draw(2, 3, 5, 4), draw(2, 3, 7, 4), draw(2, 3, 7, 6)]
    same("scaled_dot_product_attention", arrays, attn_mask=mask if kind == "boolean" else added)


# ---- elementwise and shape -------------------------------------------------------------------------------------------

ACTIVATIONS = [
    ("relu", {}), ("gelu", {}), ("gelu", {"approximate": "tanh"}), ("sigmoid", {}), ("tanh", {}), ("silu", {}),
    ("softplus", {}), ("softplus", {"beta": 2.0, "threshold": 3.0}), ("leaky_relu", {}), ("leaky_relu", {"negative_slope": 0.3}),
    ("elu", {}), ("elu", {"alpha": 0.5}), ("softmax", {"dim": 0}), ("softmax", {"dim": -1}), ("log_softmax", {"dim": 1}),
    ("normalize", {}), ("normalize", {"p": 1.0, "dim": 0}), ("normalize", {"p": 3.0, "dim": -1}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "options"), ACTIVATIONS, ids=str)
def test_elementwise(name: str, options: dict[str, Any]) -> None:
    same(name, [draw(4, 5, 3) * 3], **options)
    same(name, [draw(6, 2, 3, dtype=np.float32)], tolerance=1e-5, **options)


@pytest.mark.parametrize("scale", [1e3, 1e-3])
def test_softmax_far_out(scale: float) -> None:
    same("softmax", [draw(3, 6) * scale], dim=1)
    same("log_softmax", [draw(3, 6) * scale], dim=1)


@pytest.mark.parametrize(
    ("edges", "options"),
    [((1, 2), {}), ((1, 2, 0, 3), {"value": 2.5}), ((-1, 2, 1, -2), {}), ((2, 1, 1, 0), {"mode": "reflect"}),
     ((2, 4, 1, 0), {"mode": "replicate"}), ((2, 1, 3, 1), {"mode": "circular"})],
    ids=str,
)  # fmt: skip
def test_pad(edges: tuple[int, ...], options: dict[str, Any]) -> None:
    same("pad", [draw(2, 3, 4, 5)], pad=edges, **options)


def test_one_hot_and_flatten() -> None:
    labels = RANDOM.integers(0, 5, size=(3, 4))
    for classes in (-1, 5, 8):
        ours = F.one_hot(Tensor(labels), classes)
        np.testing.assert_array_equal(ours.numpy(), torch.nn.functional.one_hot(torch.tensor(labels), classes).numpy())
    assert F.flatten(Tensor(draw(2, 3, 4)), 1).shape == (2, 12)


# ---- errors ----------------------------------------------------------------------------------------------------------


def labels_of(*values: int) -> Tensor:
    return Tensor(np.array(values))


def image(*shape: int) -> Tensor:
    return Tensor(np.zeros(shape, np.float32))


ERRORS: list[tuple[Callable[[], Any], type[Exception], str]] = [
    (lambda: F.cross_entropy(image(3, 10), labels_of(1, 12, 3)), RangeError, r"label 12 at position 1 .* \[0, 10\)"),
    (lambda: F.cross_entropy(image(3, 10), labels_of(1, 2, -1)), RangeError, r"label -1 at position 2"),
    (lambda: F.nll_loss(image(3, 10), labels_of(1, 2, 10)), RangeError, r"nll_loss: label 10 at position 2"),
    (lambda: F.cross_entropy(image(3, 10), image(3)), DTypeError, r"labels must be integers.*float32.*\.long\(\)"),
    (lambda: F.cross_entropy(image(3, 10), labels_of(1, 2)), ShapeError, r"labels of shape \(3,\), got \(2,\)"),
    (lambda: F.cross_entropy(image(1, 2), labels_of(0), reduction="avg"), RangeError, "mean, sum, none, got 'avg'"),
    (lambda: F.cross_entropy(image(1, 2), labels_of(0), weight=image(3)), ShapeError, r"each of 2 classes, got \(3,\)"),
    (lambda: F.cross_entropy(image(1, 2), labels_of(0), label_smoothing=1.5), RangeError, "label_smoothing"),
    (lambda: F.conv2d(image(2, 3, 8, 8), image(4, 5, 3, 3)), ShapeError, r"\(4, 5, 3, 3\).* 5 input channels .*\(2, 3, 8, 8\)"),
    (lambda: F.conv2d(image(2, 3, 2, 8), image(4, 3, 3, 3)), ShapeError, r"kernel \(3, 3\).* larger than the padded input \(2, 8\)"),
    (lambda: F.conv2d(image(8, 8), image(4, 3, 3, 3)), ShapeError, "batch, channels, height, width"),
    (lambda: F.conv2d(image(1, 3, 8, 8), image(4, 3, 3, 3), image(3)), ShapeError, r"bias must have shape \(4,\)"),
    (lambda: F.conv2d(image(1, 3, 8, 8), image(4, 3, 3, 3), stride=0), RangeError, "stride must be at least 1"),
    (lambda: F.conv2d(image(1, 3, 8, 8), image(4, 3, 3, 3), padding="some"), RangeError, "'same' or 'valid'"),
    (lambda: F.conv2d(image(1, 3, 8, 8), image(4, 3, 3, 3), stride=1.5), DTypeError, "stride must be an integer"),
    (lambda: F.conv2d(Tensor(np.zeros((1, 3, 8, 8))), image(4, 3, 3, 3)), DTypeError, "float64, weight float32"),
    (lambda: F.conv2d(Tensor(np.zeros((1, 3, 8, 8), int)), image(4, 3, 3, 3)), DTypeError, r"int64; convert it with \.float"),
    (lambda: F.conv1d(image(2, 3, 8), image(4, 5, 3)), ShapeError, r"conv1d: .* 5 input channels"),
    (lambda: F.linear(image(2, 3), image(4, 5)), ShapeError, r"last dimension must be in_features=5 .*\(2, 3\)"),
    (lambda: F.max_pool2d(image(1, 1, 2, 2), 3), ShapeError, r"max_pool2d: the kernel \(3, 3\)"),
    (lambda: F.avg_pool2d(image(1, 1, 4, 4), 2, padding=2), RangeError, "at most half"),
    (lambda: F.embedding(labels_of(0, 7), image(5, 2)), RangeError, r"index 7 at position 1 .* 5 rows"),
    (lambda: F.embedding(image(2), image(5, 2)), DTypeError, "must be integers"),
    (lambda: F.batch_norm(image(1, 3), None, None, training=True), ShapeError, "more than 1 value per channel"),
    (lambda: F.batch_norm(image(4, 3), image(2), image(2)), ShapeError, "running_mean .* 3 channels"),
    (lambda: F.layer_norm(image(4, 3), 5), ShapeError, r"normalized_shape=\(5,\)"),
    (lambda: F.dropout(image(3), 1.5), RangeError, "probability"),
    (lambda: F.softmax(image(3, 2), dim=2), RangeError, "dim 2"),
    (lambda: F.binary_cross_entropy(image(2) + 3, image(2)), RangeError, r"from 3\.0 to 3\.0.*with_logits"),
    (lambda: F.binary_cross_entropy_with_logits(image(2, 1), image(2)), ShapeError, r"\(2, 1\), got \(2,\)"),
    (lambda: F.one_hot(labels_of(0, 5), 3), RangeError, "label 5 at position 1"),
    (lambda: F.pad(image(2, 3), (1,)), ShapeError, "pad: expected a pair"),
    (lambda: F.scaled_dot_product_attention(image(1, 2, 3), image(1, 2, 4), image(1, 2, 4)), ShapeError, r"query \(\.\.\., L, E\)"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "kind", "words"), ERRORS, ids=[words for _, _, words in ERRORS])
def test_errors_say_what_is_wrong(call: Callable[[], Any], kind: type[Exception], words: str) -> None:
    with pytest.raises(kind, match=words):
        call()


def test_the_face_has_it() -> None:
    assert phalanx.nn.functional.relu is F.relu
