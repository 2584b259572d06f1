"""Every layer beside PyTorch's of the same name: with equal weights, equal outputs, gradients and state."""

from __future__ import annotations

import copy
import inspect

import numpy as np
import pytest

import phalanx
from phalanx import nn
from phalanx.core.errors import DTypeError, RangeError, ShapeError
from tests.core.layer_cases import LAYERS, E, L, N

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch


def pair(build, dtype):
    """Our layer and PyTorch's with PyTorch's weights moved off their round values."""
    torch.manual_seed(7)
    theirs = build(torch.nn).to(getattr(torch, np.dtype(dtype).name))
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    mine = build(nn).to(dtype)
    assert list(mine.state_dict()) == list(theirs.state_dict())
    mine.load_state_dict(theirs.state_dict())
    return mine, theirs


def close(mine, theirs, dtype, what: str) -> None:
    a, b = np.asarray(mine.detach().numpy()), theirs.detach().numpy()
    assert a.shape == b.shape and a.dtype == b.dtype, f"{what}: {a.shape} {a.dtype}, torch {b.shape} {b.dtype}"
    tolerance = 1e-5 if dtype == np.float32 else 1e-10
    scale = max(1.0, float(np.abs(b).max(initial=0.0)))  # errors of a sum are those of its largest terms
    assert np.allclose(a, b, rtol=tolerance, atol=tolerance * scale), f"{what}: off by {np.abs(a - b).max()}"


def compare(mine, theirs, arrays, dtype) -> None:
    """Forward and backward through both: outputs, gradients of inputs and parameters."""
    ours, others = [], []
    for index, array in enumerate(arrays):
        floating = array.dtype.kind == "f"
        array = array.astype(dtype) if floating else array
        ours.append(phalanx.tensor(array, requires_grad=floating and index == 0))
        others.append(torch.tensor(array, requires_grad=floating and index == 0))
    y, expected = mine(*ours), theirs(*others)
    close(y, expected, dtype, "output")
    if not expected.requires_grad:
        assert not y.requires_grad
        return
    seed = np.random.default_rng(3).standard_normal(tuple(expected.shape)).astype(dtype)
    mine.zero_grad()
    theirs.zero_grad()
    y.backward(phalanx.tensor(seed))
    expected.backward(torch.tensor(seed))
    if others[0].requires_grad:
        close(ours[0].grad, others[0].grad, dtype, "gradient of the input")
    for (name, p), (_, q) in zip(mine.named_parameters(), theirs.named_parameters(), strict=True):
        assert (p.grad is None) == (q.grad is None), name
        if q.grad is not None:
            close(p.grad, q.grad, dtype, f"gradient of {name}")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", LAYERS)
def test_layer_beside_torch(name: str, dtype) -> None:
    build, *inputs = LAYERS[name]
    generator = np.random.default_rng(5)
    mine, theirs = pair(build, dtype)
    for mode in (True, True, False):
        mine.train(mode)
        theirs.train(mode)
        arrays = [make(generator) for make in inputs]
        compare(mine, theirs, arrays, dtype)
    for key, tensor in theirs.state_dict().items():
        close(mine.state_dict()[key], tensor, dtype, f"state {key}")
    back = {key: torch.tensor(tensor.numpy()) for key, tensor in mine.state_dict().items()}
    theirs.load_state_dict(back)


@pytest.mark.parametrize("name", sorted({name.split()[0] for name in LAYERS} | {"MultiheadAttention"}))
def test_arguments_are_torchs(name: str) -> None:
    """Same names, order and defaults: what PyTorch code passes by position means the same."""
    mine = inspect.signature(getattr(nn, name).__init__).parameters
    theirs = inspect.signature(getattr(torch.nn, name).__init__).parameters
    if list(theirs) == ["self", "args", "kwargs"] and name not in ("Identity", "Sequential"):
        assert list(mine) in (["self"], ["self", "args", "kwargs"])  # PyTorch's takes none
        return
    for (key, ours), other in zip(mine.items(), theirs.values(), strict=True):
        assert key == other.name
        if callable(other.default) and other.default is not inspect.Parameter.empty:
            continue  # F.relu, which we give by name
        assert ours.default == other.default, key


@pytest.mark.parametrize("name", LAYERS)
def test_repr_is_torchs(name: str) -> None:
    if name.startswith("Transformer"):
        return
    build, *_ = LAYERS[name]
    mine, theirs = repr(build(nn)), repr(build(torch.nn))
    if "BatchNorm" in name or "LayerNorm" in name:  # PyTorch's own wording of these changes between versions
        assert mine.split(",")[0] == theirs.split(",")[0]
    else:
        assert mine == theirs


# ---------------------------------------------------------------- attention

MASKS = {
    "none": {},
    "boolean": {"attn_mask": np.triu(np.ones((L, L), bool), 1)},
    "additive": {"attn_mask": np.where(np.triu(np.ones((L, L)), 1) > 0, -np.inf, 0.25)},
    "per head": {"attn_mask": np.random.default_rng(1).random((N * 2, L, L)) < 0.3},
    "padding": {"key_padding_mask": np.arange(L)[None] >= np.array([5, 4, 3, 2])[:, None]},
    "both": {
        "attn_mask": np.triu(np.ones((L, L), bool), 1),
        "key_padding_mask": np.arange(L)[None] >= np.array([5, 4, 3, 2])[:, None],
    },
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("need_weights", [True, False])
@pytest.mark.parametrize("masks", MASKS)
@pytest.mark.parametrize("batch_first", [True, False])
def test_self_attention(masks: str, batch_first: bool, need_weights: bool) -> None:
    mine, theirs = pair(lambda nn: nn.MultiheadAttention(E, 2, batch_first=batch_first), np.float32)
    x = np.random.default_rng(2).standard_normal((N, L, E) if batch_first else (L, N, E)).astype(np.float32)
    if masks == "per head":
        MASKS[masks]["attn_mask"][..., 0] = False  # a row that may see nothing is NaN in both
    mask = {k: v.astype(np.float32) if v.dtype.kind == "f" else v for k, v in MASKS[masks].items()}
    ours, others = phalanx.tensor(x, requires_grad=True), torch.tensor(x, requires_grad=True)
    y, w = mine(ours, ours, ours, need_weights=need_weights, **{k: phalanx.tensor(v) for k, v in mask.items()})
    z, v = theirs(others, others, others, need_weights=need_weights, **{k: torch.tensor(v) for k, v in mask.items()})
    close(y, z, np.float32, "output")
    assert (w is None) == (v is None)
    if v is not None:
        close(w, v, np.float32, "weights")
    (y * y).sum().backward()
    (z * z).sum().backward()
    close(ours.grad, others.grad, np.float32, "gradient of the input")
    for (name, p), (_, q) in zip(mine.named_parameters(), theirs.named_parameters(), strict=True):
        close(p.grad, q.grad, np.float32, name)


@pytest.mark.parametrize("options", [{}, {"kdim": 6, "vdim": 5}, {"bias": False}])
def test_cross_attention(options: dict) -> None:
    mine, theirs = pair(lambda nn: nn.MultiheadAttention(E, 4, batch_first=True, **options), np.float64)
    generator = np.random.default_rng(2)
    q = generator.standard_normal((N, 3, E))
    k = generator.standard_normal((N, L, options.get("kdim", E)))
    v = generator.standard_normal((N, L, options.get("vdim", E)))
    y, w = mine(*map(phalanx.tensor, (q, k, v)), average_attn_weights=False)
    z, u = theirs(*map(torch.tensor, (q, k, v)), average_attn_weights=False)
    close(y, z, np.float64, "output")
    close(w, u, np.float64, "weights")
    y.sum().backward()
    z.sum().backward()
    for (name, p), (_, other) in zip(mine.named_parameters(), theirs.named_parameters(), strict=True):
        close(p.grad, other.grad, np.float64, name)


def test_attention_without_batch_and_causal() -> None:
    mine, theirs = pair(lambda nn: nn.MultiheadAttention(E, 2), np.float64)
    x = np.random.default_rng(2).standard_normal((L, E))
    y, w = mine(*[phalanx.tensor(x)] * 3)
    z, u = theirs(*[torch.tensor(x)] * 3)
    close(y, z, np.float64, "output")
    close(w, u, np.float64, "weights")
    mask = torch.nn.Transformer.generate_square_subsequent_mask(L, dtype=torch.float64)
    y, _ = mine(*[phalanx.tensor(x)] * 3, is_causal=True, need_weights=False)
    z, _ = theirs(*[torch.tensor(x)] * 3, is_causal=True, attn_mask=mask, need_weights=False)
    close(y, z, np.float64, "causal output")


def test_encoder_with_masks() -> None:
    build = lambda nn: nn.TransformerEncoder(nn.TransformerEncoderLayer(E, 2, 16, 0.0, batch_first=True), 2)  # noqa: E731
    mine, theirs = pair(build, np.float64)
    x = np.random.default_rng(2).standard_normal((N, L, E))
    padding, causal = MASKS["both"]["key_padding_mask"], MASKS["both"]["attn_mask"]
    y = mine(phalanx.tensor(x), phalanx.tensor(causal), phalanx.tensor(padding))
    z = theirs(torch.tensor(x), torch.tensor(causal), torch.tensor(padding))
    close(y, z, np.float64, "output")


def test_attention_dropout_is_keyed_and_off_in_evaluation() -> None:
    layer = nn.TransformerEncoderLayer(E, 2, 16, dropout=0.5)
    x = phalanx.tensor(np.random.default_rng(2).standard_normal((L, N, E)).astype(np.float32))
    phalanx.manual_seed(4)
    first, second = layer(x).numpy(force=True), layer(x).numpy(force=True)
    phalanx.manual_seed(4)
    assert np.array_equal(first, layer(x).numpy(force=True)) and not np.array_equal(first, second)
    layer.eval()
    assert np.array_equal(layer(x).numpy(force=True), layer(x).numpy(force=True))


# ---------------------------------------------------------------- whole models, dropout, ties


def test_dropout_zeroes_and_scales() -> None:
    layer = nn.Dropout(0.25)
    y = layer(phalanx.ones(100, 100)).numpy()
    assert set(np.unique(y)) == {0.0, np.float32(1 / 0.75)}
    assert abs((y == 0).mean() - 0.25) < 0.02
    assert layer.eval()(phalanx.ones(4)).tolist() == [1.0] * 4
    assert nn.Dropout(1.0)(phalanx.ones(4)).tolist() == [0.0] * 4


def convnet(nn):
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(4, 6, 3),
        nn.GELU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(24, 5),
    )


def test_convnet_trains_as_in_torch() -> None:
    mine, theirs = pair(convnet, np.float64)
    generator = np.random.default_rng(8)
    for _ in range(5):
        x, t = generator.standard_normal((6, 1, 10, 10)), generator.integers(0, 5, 6)
        for model, library in ((mine, phalanx), (theirs, torch)):
            loss = library.nn.CrossEntropyLoss()(model(library.tensor(x)), library.tensor(t))
            model.zero_grad()
            loss.backward()
            with library.no_grad():
                for parameter in model.parameters():
                    parameter.add_(parameter.grad, alpha=-0.1)
    for key, tensor in theirs.state_dict().items():
        close(mine.state_dict()[key], tensor, np.float64, key)


def test_tied_weights_get_the_sum_of_both_gradients() -> None:
    def tied(nn):
        model = nn.Sequential(nn.Embedding(7, 5), nn.Linear(5, 7, bias=False))
        model[1].weight = model[0].weight
        return model

    torch.manual_seed(1)
    mine, theirs = tied(nn), tied(torch.nn)
    mine.load_state_dict(theirs.state_dict())
    compare(mine, theirs, [np.array([[1, 2, 1], [6, 0, 3]])], np.float32)
    twin = copy.deepcopy(mine)
    compare(twin, theirs, [np.array([[1, 2, 1], [6, 0, 3]])], np.float32)


def test_frozen_embedding() -> None:
    rows = phalanx.tensor(np.arange(6.0, dtype=np.float32).reshape(3, 2))
    layer = nn.Embedding.from_pretrained(rows)
    assert layer(phalanx.tensor([2])).tolist() == [[4.0, 5.0]] and not layer.weight.requires_grad
    assert nn.Embedding.from_pretrained(rows, freeze=False).weight.requires_grad


# ---------------------------------------------------------------- wrong input


@pytest.mark.parametrize(
    ("layer", "shape", "words"),
    [
        (lambda: nn.Linear(4, 2), (3, 5), ["Linear", "4", "5"]),
        (lambda: nn.Conv2d(3, 8, 3), (2, 4, 9, 9), ["Conv2d(3, 8", "3", "4"]),
        (lambda: nn.Conv2d(3, 8, 5), (2, 3, 4, 9), ["Conv2d(3, 8", "5", "4"]),
        (lambda: nn.Conv1d(3, 8, 3), (2, 4, 9), ["Conv1d(3, 8", "3", "4"]),
        (lambda: nn.BatchNorm1d(4), (3, 5), ["BatchNorm1d(4", "(3, 5)"]),
        (lambda: nn.BatchNorm2d(4), (3, 4), ["BatchNorm2d(4", "(3, 4)"]),
        (lambda: nn.LayerNorm(4), (3, 5), ["LayerNorm((4,)", "(3, 5)"]),
        (lambda: nn.MaxPool2d(5), (1, 1, 3, 3), ["MaxPool2d", "5"]),
        (lambda: nn.Unflatten(1, (2, 2)), (3, 5), ["Unflatten"]),
    ],
)
def test_wrong_shape_names_the_layer(layer, shape, words) -> None:
    with pytest.raises(ShapeError) as caught:
        layer()(phalanx.ones(*shape))
    message = str(caught.value)
    assert message.startswith("in layer ") and all(word in message for word in words), message


def test_wrong_dtype_and_label() -> None:
    with pytest.raises(DTypeError, match="Linear"):
        nn.Linear(4, 2)(phalanx.ones(3, 4, dtype=phalanx.float64))
    with pytest.raises(RangeError, match=r"CrossEntropyLoss[\s\S]*6"):
        nn.CrossEntropyLoss()(phalanx.ones(2, 6), phalanx.tensor([0, 6]))
    with pytest.raises(DTypeError, match="CrossEntropyLoss"):
        nn.CrossEntropyLoss()(phalanx.ones(2, 6), phalanx.tensor([0.0, 1.0]))
    with pytest.raises(DTypeError, match="Embedding"):
        nn.Embedding(3, 2)(phalanx.ones(2))
    with pytest.raises((ShapeError, RangeError), match="BatchNorm1d"):
        nn.BatchNorm1d(3)(phalanx.ones(1, 3))
    with pytest.raises(ShapeError, match=r"attn_mask of shape \(2, 2\)"):
        x = phalanx.ones(2, 1, 4)
        nn.MultiheadAttention(4, 2)(x, x, x, attn_mask=phalanx.ones(3, 3))


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: nn.Conv2d(3, 4, 3, groups=2), "groups=2"),
        (lambda: nn.Conv2d(2, 4, 3, padding="full"), "'full'"),
        (lambda: nn.Conv2d(2, 4, 3, stride=2, padding="same"), "stride 1"),
        (lambda: nn.Conv2d(2, 4, (3, 3, 3)), "kernel_size"),
        (lambda: nn.Dropout(1.5), "1.5"),
        (lambda: nn.Embedding(3, 2, padding_idx=3), "padding_idx 3"),
        (lambda: nn.MultiheadAttention(6, 4), "num_heads=4"),
        (lambda: nn.MSELoss(reduction="average"), "'average'"),
        (lambda: nn.CrossEntropyLoss(label_smoothing=2.0), "label_smoothing"),
        (lambda: nn.TransformerEncoderLayer(4, 2, activation="swish"), "'swish'"),
    ],
)
def test_wrong_options(build, words: str) -> None:
    with pytest.raises(RangeError, match=words):
        build()
