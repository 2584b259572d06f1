"""More layers beside PyTorch's of the same name: with equal weights, equal outputs, gradients, state, words and options."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import pytest

import phalanx
from phalanx import nn
from phalanx.core.errors import RangeError, ShapeError

pytest.importorskip("torch")

from tests.core.test_layers import (
    C,
    H,
    L,
    N,
    W,
    close,
    compare,
    floats,
    integers,
    pair,
    probabilities,
    torch,
    weight_of,
)

pytestmark = pytest.mark.torch
D = 3
CLASS_WEIGHTS = (1.0, 2.0, 3.0, 4.0, 5.0, 6.0)


def signs(*shape: int) -> Any:
    return lambda generator: np.where(generator.random(shape) < 0.5, 1.0, -1.0)


def listed(*shape: int) -> Any:
    """Labels up to a -1."""
    return lambda generator: np.where(
        np.arange(shape[1]) < 2, generator.permuted(np.tile(np.arange(shape[1]), (shape[0], 1)), axis=1), -1
    )


LAYERS: dict[str, Any] = {
    "Conv1d reflect": (lambda nn: nn.Conv1d(C, 4, 3, padding=2, padding_mode="reflect"), floats(N, C, L)),
    "Conv2d circular": (lambda nn: nn.Conv2d(C, 4, 3, padding=(1, 2), padding_mode="circular"), floats(2, C, 5, 4)),
    "Conv2d replicate same": (lambda nn: nn.Conv2d(C, 4, 4, padding="same", padding_mode="replicate"), floats(N, C, H, W)),
    "Conv3d": (lambda nn: nn.Conv3d(C, 4, 3, stride=2, padding=1), floats(2, C, D, H, W)),
    "Conv3d options": (lambda nn: nn.Conv3d(C, 4, (1, 2, 3), dilation=(1, 2, 1), groups=2, bias=False), floats(2, C, D, H, W)),
    "Conv3d unbatched": (lambda nn: nn.Conv3d(C, 4, 2), floats(C, D, H, W)),
    "ConvTranspose1d": (lambda nn: nn.ConvTranspose1d(C, 4, 4, 2, 1), floats(N, C, L)),
    "ConvTranspose2d": (lambda nn: nn.ConvTranspose2d(C, 4, 4, 2, 1), floats(N, C, H, W)),
    "ConvTranspose2d options": (
        lambda nn: nn.ConvTranspose2d(C, 4, 3, (2, 3), (1, 0), (1, 2), groups=2, bias=False, dilation=2), floats(N, C, H, W)),
    "ConvTranspose2d unbatched": (lambda nn: nn.ConvTranspose2d(C, 4, 2), floats(C, H, W)),
    "ConvTranspose3d": (lambda nn: nn.ConvTranspose3d(C, 2, 2, 2), floats(2, C, D, 4, 4)),
    "MaxPool1d": (lambda nn: nn.MaxPool1d(2), floats(N, C, L)),
    "MaxPool1d options": (lambda nn: nn.MaxPool1d(3, 1, 1, 1, ceil_mode=True), floats(C, L)),
    "MaxPool3d": (lambda nn: nn.MaxPool3d((1, 2, 2)), floats(2, C, D, H, W)),
    "AvgPool1d": (lambda nn: nn.AvgPool1d(3, 2, 1), floats(N, C, L)),
    "AvgPool3d": (lambda nn: nn.AvgPool3d(2, ceil_mode=True), floats(2, C, D, H, W)),
    "LPPool1d": (lambda nn: nn.LPPool1d(2, 2), floats(N, C, L)),
    "LPPool2d": (lambda nn: nn.LPPool2d(2, 3, stride=2), floats(N, C, H, W)),
    "LPPool3d": (lambda nn: nn.LPPool3d(2, 2), floats(2, C, D, H, W)),
    "AdaptiveAvgPool1d": (lambda nn: nn.AdaptiveAvgPool1d(3), floats(N, C, L)),
    "AdaptiveAvgPool3d": (lambda nn: nn.AdaptiveAvgPool3d((None, 3, 2)), floats(2, C, D, H, W)),
    "AdaptiveMaxPool1d": (lambda nn: nn.AdaptiveMaxPool1d(3), floats(N, C, L)),
    "AdaptiveMaxPool2d": (lambda nn: nn.AdaptiveMaxPool2d((4, 3)), floats(N, C, H, W)),
    "AdaptiveMaxPool3d": (lambda nn: nn.AdaptiveMaxPool3d(2), floats(2, C, D, H, W)),
    "BatchNorm3d": (lambda nn: nn.BatchNorm3d(C), floats(2, C, D, 4, 4)),
    "GroupNorm": (lambda nn: nn.GroupNorm(3, C, eps=1e-3), floats(N, C, H, W)),
    "GroupNorm rows": (lambda nn: nn.GroupNorm(2, C, affine=False), floats(N, C)),
    "GroupNorm no bias": (lambda nn: nn.GroupNorm(2, C, bias=False), floats(N, C, L)),
    "InstanceNorm1d": (lambda nn: nn.InstanceNorm1d(C), floats(N, C, L)),
    "InstanceNorm1d tracked": (lambda nn: nn.InstanceNorm1d(C, momentum=0.3, track_running_stats=True), floats(C, L)),
    "InstanceNorm2d": (lambda nn: nn.InstanceNorm2d(C, affine=True, track_running_stats=True), floats(N, C, H, W)),
    "InstanceNorm3d": (lambda nn: nn.InstanceNorm3d(C, affine=True), floats(2, C, D, 4, 4)),
    "RMSNorm": (lambda nn: nn.RMSNorm(C), floats(N, L, C)),
    "RMSNorm 2-d": (lambda nn: nn.RMSNorm((L, C), eps=1e-3), floats(N, L, C)),
    "RMSNorm plain": (lambda nn: nn.RMSNorm(C, elementwise_affine=False), floats(N, C)),
    "LocalResponseNorm": (lambda nn: nn.LocalResponseNorm(3, alpha=0.1, k=2.0), floats(N, C, H, W)),
    "LocalResponseNorm even": (lambda nn: nn.LocalResponseNorm(4, alpha=0.5), floats(N, C, L)),
    "Bilinear": (lambda nn: nn.Bilinear(C, 5, 3), floats(N, C), floats(N, 5)),
    "Bilinear deep": (lambda nn: nn.Bilinear(C, 5, 3, bias=False), floats(N, L, C), floats(N, L, 5)),
    "Embedding by frequency": (lambda nn: nn.Embedding(7, 5, scale_grad_by_freq=True), integers(7, N, L)),
    "EmbeddingBag": (lambda nn: nn.EmbeddingBag(7, 5), integers(7, N, L)),
    "EmbeddingBag sum": (lambda nn: nn.EmbeddingBag(7, 5, mode="sum", padding_idx=2), integers(7, N, L)),
    "EmbeddingBag max": (lambda nn: nn.EmbeddingBag(70, 5, mode="max"), integers(70, N, L)),
    "Dropout1d off": (lambda nn: nn.Dropout1d(0.0), floats(N, C, L)),
    "Dropout2d off": (lambda nn: nn.Dropout2d(0.0), floats(N, C, H, W)),
    "Dropout3d off": (lambda nn: nn.Dropout3d(0.0), floats(2, C, D, 4, 4)),
    "AlphaDropout off": (lambda nn: nn.AlphaDropout(0.0), floats(N, C)),
    "FeatureAlphaDropout off": (lambda nn: nn.FeatureAlphaDropout(0.0), floats(N, C, L)),
    "CosineSimilarity": (lambda nn: nn.CosineSimilarity(), floats(N, C), floats(N, C)),
    "PairwiseDistance": (lambda nn: nn.PairwiseDistance(keepdim=True), floats(N, C), floats(N, C)),
    "Upsample": (lambda nn: nn.Upsample(scale_factor=2), floats(N, C, L)),
    "Upsample bilinear": (lambda nn: nn.Upsample((7, 9), mode="bilinear", align_corners=True), floats(2, C, 4, 5)),
    "Upsample bicubic": (lambda nn: nn.Upsample(scale_factor=(1.5, 2), mode="bicubic"), floats(2, C, 4, 5)),
    "UpsamplingNearest2d": (lambda nn: nn.UpsamplingNearest2d(scale_factor=2), floats(2, C, 4, 5)),
    "UpsamplingBilinear2d": (lambda nn: nn.UpsamplingBilinear2d(size=(6, 7)), floats(2, C, 4, 5)),
    **{
        f"{kind}Pad{count}d": (
            lambda nn, k=kind, n=count: getattr(nn, f"{k}Pad{n}d")((1, 2, 0, 1, 2, 0)[: 2 * n], *([7.5] if k == "Constant" else [])),
            floats(*(2, 2, 3, 4, 4)[: 2 + count]),
        )
        for kind in ("Constant", "Zero", "Reflection", "Replication", "Circular")
        for count in (1, 2, 3)
    },
    "ReLU6": (lambda nn: nn.ReLU6(), floats(N, C)),
    "Hardtanh": (lambda nn: nn.Hardtanh(-0.5, 0.7), floats(N, C)),
    "Hardsigmoid": (lambda nn: nn.Hardsigmoid(), floats(N, C)),
    "Hardswish": (lambda nn: nn.Hardswish(), floats(N, C)),
    "SELU": (lambda nn: nn.SELU(), floats(N, C)),
    "CELU": (lambda nn: nn.CELU(0.5), floats(N, C)),
    "Mish": (lambda nn: nn.Mish(), floats(N, C)),
    "Softsign": (lambda nn: nn.Softsign(), floats(N, C)),
    "Tanhshrink": (lambda nn: nn.Tanhshrink(), floats(N, C)),
    "Softshrink": (lambda nn: nn.Softshrink(0.3), floats(N, C)),
    "Hardshrink": (lambda nn: nn.Hardshrink(0.3), floats(N, C)),
    "LogSigmoid": (lambda nn: nn.LogSigmoid(), floats(N, C)),
    "PReLU": (lambda nn: nn.PReLU(), floats(N, C)),
    "PReLU channels": (lambda nn: nn.PReLU(C, init=0.1), floats(N, C, L)),
    "Threshold": (lambda nn: nn.Threshold(0.1, 20), floats(N, C)),
    "GLU": (lambda nn: nn.GLU(1), floats(N, C, L)),
    "Softmin": (lambda nn: nn.Softmin(dim=1), floats(N, C)),
    "Softmax2d": (lambda nn: nn.Softmax2d(), floats(N, C, H, W)),
    "PixelShuffle": (lambda nn: nn.PixelShuffle(2), floats(N, 8, 3, 4)),
    "PixelUnshuffle": (lambda nn: nn.PixelUnshuffle(2), floats(N, 2, 6, 4)),
    "ChannelShuffle": (lambda nn: nn.ChannelShuffle(3), floats(N, C, 3, 4)),
    "Unfold": (lambda nn: nn.Unfold(2, 1, (1, 0), 2), floats(N, C, H, W)),
    "Fold": (lambda nn: nn.Fold((H, W), 3, padding=1), floats(N, 18, H * W)),
    "HuberLoss": (lambda nn: nn.HuberLoss(delta=0.5), floats(N, C), floats(N, C)),
    "KLDivLoss": (lambda nn: nn.KLDivLoss(reduction="batchmean"), floats(N, C), probabilities(N, C)),
    "PoissonNLLLoss": (lambda nn: nn.PoissonNLLLoss(full=True), floats(N, C), probabilities(N, C)),
    "GaussianNLLLoss": (lambda nn: nn.GaussianNLLLoss(full=True), floats(N, C), floats(N, C), probabilities(N, C)),
    "HingeEmbeddingLoss": (lambda nn: nn.HingeEmbeddingLoss(0.5), floats(N, C), signs(N, C)),
    "MarginRankingLoss": (lambda nn: nn.MarginRankingLoss(0.5), floats(N), floats(N), signs(N)),
    "SoftMarginLoss": (lambda nn: nn.SoftMarginLoss(), floats(N, C), signs(N, C)),
    "MultiMarginLoss": (lambda nn: nn.MultiMarginLoss(2, 0.5, weight_of(nn, *CLASS_WEIGHTS)), floats(N, C), integers(C, N)),
    "MultiLabelMarginLoss": (lambda nn: nn.MultiLabelMarginLoss(), floats(N, C), listed(N, C)),
    "MultiLabelSoftMarginLoss": (
        lambda nn: nn.MultiLabelSoftMarginLoss(weight_of(nn, *CLASS_WEIGHTS)), floats(N, C), probabilities(N, C)),
    "CosineEmbeddingLoss": (lambda nn: nn.CosineEmbeddingLoss(0.1), floats(N, C), floats(N, C), signs(N)),
    "TripletMarginLoss": (lambda nn: nn.TripletMarginLoss(2.0, swap=True), floats(N, C), floats(N, C), floats(N, C)),
    "TripletMarginWithDistanceLoss": (
        lambda nn: nn.TripletMarginWithDistanceLoss(margin=2.0), floats(N, C), floats(N, C), floats(N, C)),
}  # fmt: skip
ONLY_OPTIONS = ["MaxUnpool1d", "MaxUnpool2d", "MaxUnpool3d", "RReLU", "CTCLoss"]
"""Layers whose outputs are compared in tests of their own."""
WITHOUT_BATCH = {"Conv3d unbatched", "ConvTranspose2d unbatched", "MaxPool1d options", "InstanceNorm1d tracked"}
SINGLE = {"Hardsigmoid", "CELU"}
"""PyTorch's constants are float32 in these."""


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", LAYERS)
def test_layer_beside_torch(name: str) -> None:
    build, *inputs = LAYERS[name]
    generator = np.random.default_rng(5)
    for dtype in (np.float32,) if name in SINGLE else (np.float32, np.float64):
        mine, theirs = pair(build, dtype)
        for mode in (True,) if dtype == np.float32 else (True, True, False):
            mine.train(mode)
            theirs.train(mode)
            compare(mine, theirs, [make(generator) for make in inputs], dtype)
        for key, tensor in theirs.state_dict().items():
            close(mine.state_dict()[key], tensor, dtype, f"state {key}")
        theirs.load_state_dict({key: torch.tensor(tensor.numpy()) for key, tensor in mine.state_dict().items()})


@pytest.mark.parametrize("name", sorted({name.split()[0] for name in LAYERS} | set(ONLY_OPTIONS)))
def test_arguments_are_torchs(name: str) -> None:
    """Same names, order and defaults: what PyTorch code passes by position means the same."""
    mine = inspect.signature(getattr(nn, name).__init__).parameters
    theirs = inspect.signature(getattr(torch.nn, name).__init__).parameters
    if list(theirs) == ["self", "args", "kwargs"]:
        assert list(mine) in (["self"], ["self", "args", "kwargs"])  # PyTorch's takes none
        return
    for (key, ours), other in zip(mine.items(), theirs.values(), strict=True):
        assert (key, ours.default) == (other.name, other.default)


@pytest.mark.parametrize("name", LAYERS)
def test_repr_is_torchs(name: str) -> None:
    build, *_ = LAYERS[name]
    mine, theirs = repr(build(nn)), repr(build(torch.nn))
    if "Norm" in name or name == "TripletMarginWithDistanceLoss":  # PyTorch's own wording changes, or names a function
        assert mine.split(",")[0].split("(")[0] == theirs.split(",")[0].split("(")[0]
    else:
        assert mine == theirs


# ---------------------------------------------------------------- layers with two outputs or inputs


@pytest.mark.parametrize("count", [1, 2, 3])
def test_max_unpool_puts_back(count: int) -> None:
    size = (7, 6, 5)[:count]
    x = np.random.default_rng(1).standard_normal((2, 3, *size))
    ours, others = phalanx.tensor(x, requires_grad=True), torch.tensor(x, requires_grad=True)
    results = []
    for library, given in ((nn, ours), (torch.nn, others)):
        pool = getattr(library, f"MaxPool{count}d")(3, 2, 1, return_indices=True)
        unpool = getattr(library, f"MaxUnpool{count}d")(3, 2, 1)
        y, places = pool(given)
        results.append((y, places, unpool(y, places, output_size=size)))
    for mine, theirs in zip(*results, strict=True):
        close(mine, theirs, np.float64, "output")
    for *_, out in results:
        (out * out).sum().backward()
    close(ours.grad, others.grad, np.float64, "gradient")
    with pytest.raises(ShapeError, match="output_size"):
        nn.MaxUnpool2d(2)(phalanx.ones(1, 1, 2, 2), phalanx.zeros(1, 1, 2, 2, dtype=phalanx.int64), output_size=(9, 9))


@pytest.mark.parametrize("count", [1, 2, 3])
def test_transposed_convolution_to_a_size(count: int) -> None:
    mine, theirs = pair(lambda nn: getattr(nn, f"ConvTranspose{count}d")(2, 3, 3, stride=2, padding=1), np.float64)
    x = np.random.default_rng(1).standard_normal((2, 2) + (4,) * count)
    for size in (7, 8):
        y = mine(phalanx.tensor(x), output_size=(size,) * count)
        close(y, theirs(torch.tensor(x), output_size=(size,) * count), np.float64, "output")
    with pytest.raises(ShapeError, match=r"from \(7,"):
        mine(phalanx.tensor(x), output_size=(9,) * count)


def test_adaptive_max_pool_tells_places() -> None:
    x = np.random.default_rng(1).standard_normal((2, 3, 7, 5))
    mine = nn.AdaptiveMaxPool2d((3, 2), return_indices=True)(phalanx.tensor(x))
    theirs = torch.nn.AdaptiveMaxPool2d((3, 2), return_indices=True)(torch.tensor(x))
    for a, b in zip(mine, theirs, strict=True):
        close(a, b, np.float64, "output")


def test_ctc_layer() -> None:
    x = np.random.default_rng(1).standard_normal((6, 2, 4))
    log_p = torch.log_softmax(torch.tensor(x), 2)
    given = [np.array([[1, 2], [3, 0]]), (6, 5), (2, 1)]
    mine = nn.CTCLoss(blank=0)(phalanx.tensor(log_p.numpy()), phalanx.tensor(given[0]), *given[1:])
    theirs = torch.nn.CTCLoss(blank=0)(log_p, torch.tensor(given[0]), *given[1:])
    assert mine.item() == pytest.approx(theirs.item()) and mine.weight == 2.0


def test_rrelu_draws_in_training_only() -> None:
    layer = nn.RReLU(0.1, 0.3)
    x = phalanx.full((50,), -1.0)
    assert len(np.unique(layer(x).numpy())) > 10
    close(layer.eval()(x), torch.nn.RReLU(0.1, 0.3).eval()(torch.full((50,), -1.0)), np.float32, "evaluation")


@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_layers_pass_empty_batches() -> None:
    """A shard may have no samples: outputs are empty, gradients zero, nothing warns."""
    generator = np.random.default_rng(2)
    for name, (build, *inputs) in LAYERS.items():
        layer, arrays = build(nn), [make(generator)[:0] for make in inputs]
        if name in WITHOUT_BATCH:
            continue  # without a batch there is none that could be empty
        given = [phalanx.tensor(a.astype(np.float32) if a.dtype.kind == "f" else a) for a in arrays]
        if given[0].is_floating_point():
            given[0].requires_grad = True
        layer(*given).sum().backward()
        assert all(p.grad is None or not p.grad.numpy().any() for p in layer.parameters()), name


def test_losses_take_sample_weights() -> None:
    generator = np.random.default_rng(2)
    weights = phalanx.tensor([1.0, 0.0, 2.0, 1.0])
    for name, (build, *inputs) in LAYERS.items():
        if name.endswith("Loss"):
            loss = build(nn)(*(phalanx.tensor(make(generator)) for make in inputs), sample_weight=weights)
            assert loss.weight == pytest.approx(4.0), name


# ---------------------------------------------------------------- wrong input


@pytest.mark.parametrize(
    ("build", "kind", "words"),
    [
        (lambda: nn.Conv2d(2, 4, 3, padding_mode="mirror"), RangeError, "padding_mode"),
        (lambda: nn.ConvTranspose2d(2, 4, 3, padding="same"), RangeError, "padding is numbers"),
        (lambda: nn.ConvTranspose2d(2, 4, 3, padding_mode="reflect"), RangeError, "zeros"),
        (lambda: nn.ConvTranspose2d(2, 4, 3, output_padding=1)(phalanx.ones(1, 2, 3, 3)), RangeError, "output_padding"),
        (lambda: nn.ConvTranspose2d(2, 4, 3)(phalanx.ones(1, 3, 3, 3)), ShapeError, "2 input channels"),
        (lambda: nn.ConvTranspose2d(2, 4, 1, padding=3)(phalanx.ones(1, 2, 3, 3)), ShapeError, "less padding"),
        (lambda: nn.Conv3d(2, 4, 3)(phalanx.ones(2, 3, 3)), ShapeError, "depth, height, width"),
        (lambda: nn.MaxPool3d(5)(phalanx.ones(1, 1, 4, 4, 4)), ShapeError, "larger than the padded input"),
        (lambda: nn.AdaptiveAvgPool2d((1, 2, 3))(phalanx.ones(1, 1, 4, 4)), RangeError, "output_size"),
        (lambda: nn.Fold((4, 4), 2)(phalanx.ones(1, 5, 9)), ShapeError, "multiple of 4"),
        (lambda: nn.PixelShuffle(2)(phalanx.ones(1, 3, 2, 2)), ShapeError, "upscale_factor"),
        (lambda: nn.ChannelShuffle(2)(phalanx.ones(1, 3, 2, 2)), (ShapeError, RangeError), "groups"),
        (lambda: nn.PReLU(3)(phalanx.ones(2, 4)), ShapeError, "4 channels"),
        (lambda: nn.Hardtanh(1.0, 0.0), RangeError, "min_val"),
        (lambda: nn.MultiMarginLoss(p=3), RangeError, "p must be 1 or 2"),
        (lambda: nn.HuberLoss(reduction="batchmean"), RangeError, "batchmean"),
        (lambda: nn.GroupNorm(4, 6), RangeError, "num_groups=4"),
        (lambda: nn.InstanceNorm2d(3)(phalanx.ones(1, 4, 2, 2)), ShapeError, "3 channels"),
        (lambda: nn.InstanceNorm1d(3)(phalanx.ones(2, 3, 1)), ShapeError, "more than 1 value"),
        (lambda: nn.RMSNorm(3)(phalanx.ones(2, 4)), ShapeError, "normalized_shape"),
        (lambda: nn.Bilinear(2, 3, 4)(phalanx.ones(1, 2), phalanx.ones(1, 2)), ShapeError, "one batch"),
        (lambda: nn.Embedding(3, 2, max_norm=1.0), RangeError, "max_norm"),
        (lambda: nn.EmbeddingBag(3, 2, mode="median"), RangeError, "mode"),
        (lambda: nn.EmbeddingBag(3, 2)(phalanx.tensor([0, 1])), ShapeError, "offsets"),
        (lambda: nn.EmbeddingBag(3, 2)(phalanx.tensor([0, 1]), phalanx.tensor([1])), RangeError, "start at 0"),
        (lambda: nn.EmbeddingBag(3, 2)(phalanx.tensor([[0, 3]])), RangeError, "3 rows"),
        (lambda: nn.ZeroPad2d((1, 2, 3)), RangeError, "4 of them"),
        (lambda: nn.ReflectionPad1d(3)(phalanx.ones(1, 1, 3)), ShapeError, "reflect"),
        (lambda: nn.Dropout2d(1.5), RangeError, "probability"),
        (lambda: nn.Dropout3d(0.5)(phalanx.ones(2, 2)), ShapeError, "dimensions"),
        (lambda: nn.Softmax2d()(phalanx.ones(2, 2)), ShapeError, "Softmax2d"),
    ],
)
def test_wrong_use_is_explained(build: Any, kind: Any, words: str) -> None:
    with pytest.raises(kind, match=words):
        build()
