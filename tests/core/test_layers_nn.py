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

from tests.core.layer_cases import MORE as LAYERS
from tests.core.test_layers import close, compare, pair, torch

pytestmark = pytest.mark.torch
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
