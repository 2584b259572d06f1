"""Attention's rarer options, decoder layers and whole transformers beside PyTorch's."""

from __future__ import annotations

import inspect

import numpy as np
import pytest

import phalanx
from phalanx import nn
from phalanx.core.errors import RangeError, ShapeError

torch = pytest.importorskip("torch")
pytestmark = [
    pytest.mark.torch,
    pytest.mark.filterwarnings("ignore:Support for mismatched"),
    pytest.mark.filterwarnings("ignore:enable_nested_tensor"),
]

N, S, T, E, HEADS = 3, 5, 4, 8, 2
CAUSAL = np.triu(np.ones((T, T), bool), 1)
PADDED = np.arange(S)[None] >= np.array([5, 3, 4])[:, None]
PADDED_TARGET = np.arange(T)[None] >= np.array([4, 4, 2])[:, None]
MEMORY = np.random.default_rng(6).random((T, S)) < 0.3
MEMORY[:, 0] = False


def draw(*shape: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


def twins(build):
    """PyTorch's layer with its weights moved off their round values, and ours with the same, in float64."""
    torch.manual_seed(5)
    theirs = build(torch.nn).double()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    mine = build(nn).double()
    assert list(mine.state_dict()) == list(theirs.state_dict())
    mine.load_state_dict(theirs.state_dict())
    return mine, theirs


def compare(build, run, *arrays: np.ndarray) -> None:
    """``run(layer, as_tensor, *tensors)``: equal outputs and equal gradients of tensors and parameters."""
    found = []
    for layer, library in zip(twins(build), (phalanx, torch), strict=True):
        tensors = [library.tensor(a, requires_grad=True) for a in arrays]
        output = run(layer, library.tensor, *tensors)
        parts = [part for part in (output if isinstance(output, tuple) else (output,)) if part is not None]
        sum((part * library.tensor(draw(*part.shape, seed=8))).sum() for part in parts).backward()
        found.append([*parts, *[t.grad for t in tensors], *[p.grad for p in layer.parameters()]])
    for k, (a, b) in enumerate(zip(*found, strict=True)):
        assert (a is None) == (b is None), k
        if a is not None:
            np.testing.assert_allclose(a.detach().numpy(), b.detach().numpy(), rtol=1e-9, atol=1e-9, err_msg=str(k))


MASKS = {
    "no mask": {},
    "boolean": {"attn_mask": MEMORY},
    "numbers": {"attn_mask": np.where(MEMORY, -1.5, 0.5)},
    "padding": {"key_padding_mask": PADDED},
    "both": {"attn_mask": MEMORY, "key_padding_mask": PADDED},
}


@pytest.mark.parametrize("masks", MASKS)
@pytest.mark.parametrize(
    "options", [{"add_bias_kv": True}, {"add_zero_attn": True}, {"add_bias_kv": True, "add_zero_attn": True, "kdim": 6}]
)
def test_attention_with_keys_behind(options: dict, masks: str) -> None:
    for need_weights in (True, False):

        def run(layer, tensor, q, k, v, need=need_weights):
            given = {name: tensor(mask) for name, mask in MASKS[masks].items()}
            return layer(q, k, v, need_weights=need, average_attn_weights=False, **given)

        compare(
            lambda nn: nn.MultiheadAttention(E, HEADS, batch_first=True, **options),
            run,
            draw(N, T, E),
            draw(N, S, options.get("kdim", E), seed=2),
            draw(N, S, E, seed=3),
        )


@pytest.mark.parametrize("need_weights", [True, False])
@pytest.mark.parametrize("padded", [True, False])
def test_causal_without_a_mask(need_weights: bool, padded: bool) -> None:
    layer, _ = twins(lambda nn: nn.MultiheadAttention(E, HEADS, batch_first=True))
    x = phalanx.tensor(draw(N, T, E))
    padding = phalanx.tensor(PADDED_TARGET) if padded else None
    options = {"key_padding_mask": padding, "need_weights": need_weights}
    found, _ = layer(x, x, x, is_causal=True, **options)
    expected, _ = layer(x, x, x, attn_mask=phalanx.tensor(CAUSAL), **options)
    np.testing.assert_allclose(found.numpy(force=True), expected.numpy(force=True), atol=1e-12)


@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_decoder_layer(first: bool, masked: bool) -> None:
    def run(layer, tensor, x, memory):
        if not masked:
            return layer(x, memory)
        return layer(x, memory, tensor(CAUSAL), tensor(MEMORY), tensor(PADDED_TARGET), tensor(PADDED))

    compare(
        lambda nn: nn.TransformerDecoderLayer(E, HEADS, 16, 0.0, "gelu", batch_first=True, norm_first=first),
        run,
        draw(N, T, E),
        draw(N, S, E, seed=2),
    )


def test_decoder_layers_options() -> None:
    for options in ({"bias": False}, {"activation": "relu", "layer_norm_eps": 1e-2}):
        compare(
            lambda nn, o=options: nn.TransformerDecoderLayer(E, HEADS, 16, dropout=0.0, **o),
            lambda layer, tensor, x, memory: layer(x, memory),
            draw(T, N, E),
            draw(S, N, E, seed=2),
        )
    compare(
        lambda nn: nn.TransformerDecoder(nn.TransformerDecoderLayer(E, HEADS, 16, 0.0), 2),
        lambda layer, tensor, x, memory: layer(x, memory, tensor(CAUSAL)),
        draw(T, E),
        draw(S, E, seed=2),
    )


def test_whole_transformer() -> None:
    for options in ({}, {"norm_first": True, "batch_first": True, "bias": False}):
        turned = (0, 1, 2) if options else (1, 0, 2)

        def run(layer, tensor, src, tgt):
            return layer(
                src,
                tgt,
                tgt_mask=layer.generate_square_subsequent_mask(T).to(tgt.dtype),
                memory_mask=tensor(MEMORY),
                src_key_padding_mask=tensor(PADDED),
                memory_key_padding_mask=tensor(PADDED),
            )

        compare(
            lambda nn, o=options: nn.Transformer(E, HEADS, 2, 1, 16, 0.0, **o),
            run,
            draw(N, S, E).transpose(turned),
            draw(N, T, E, seed=2).transpose(turned),
        )


def test_causal_hints_make_the_mask() -> None:
    model = nn.Transformer(E, HEADS, 1, 1, 16, 0.0, batch_first=True).eval()
    src, tgt = (phalanx.tensor(draw(N, length, E).astype(np.float32)) for length in (S, T))
    mask = nn.Transformer.generate_square_subsequent_mask(T)
    given = model(src, tgt, tgt_mask=mask, tgt_is_causal=True).numpy(force=True)
    np.testing.assert_allclose(model(src, tgt, tgt_is_causal=True).numpy(force=True), given, atol=1e-6)
    assert np.abs(model(src, tgt).numpy(force=True) - given).max() > 1e-3
    expected = torch.nn.Transformer.generate_square_subsequent_mask(4, dtype=torch.float64).numpy()
    np.testing.assert_array_equal(nn.Transformer.generate_square_subsequent_mask(4, dtype="float64").numpy(), expected)


def test_custom_parts_and_initial_values() -> None:
    class Twice(nn.Module):
        def forward(self, tgt, memory, *masks):
            return tgt + 2 * memory

    class Same(nn.Module):
        def forward(self, src, mask, padding, is_causal):
            return src

    model = nn.Transformer(E, HEADS, custom_encoder=Same(), custom_decoder=Twice())
    assert model(phalanx.ones(S, N, E), phalanx.ones(S, N, E)).numpy().max() == 3.0
    model = nn.Transformer(E, HEADS, 1, 1, 64)
    bound = np.sqrt(6 / (E + 64))
    values = model.decoder.layers[0].linear1.weight.numpy(force=True)
    assert 0.9 * bound < np.abs(values).max() <= bound


@pytest.mark.parametrize("name", ["TransformerDecoderLayer", "TransformerDecoder", "Transformer", "MultiheadAttention"])
def test_arguments_are_torchs(name: str) -> None:
    for method in ("__init__", "forward"):
        mine, theirs = (inspect.signature(getattr(getattr(m, name), method)).parameters for m in (nn, torch.nn))
        pairs = zip(mine.values(), theirs.values(), strict=True)
        assert all(p.name == q.name and (p.default == q.default or callable(q.default)) for p, q in pairs)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: nn.TransformerDecoderLayer(E, HEADS, activation="swish"), RangeError, "'swish'"),
        (lambda: nn.Transformer(E, 3), RangeError, "num_heads=3"),
        (
            lambda: nn.Transformer(E, HEADS, 1, 1)(phalanx.ones(S, 2, E), phalanx.ones(T, 3, E)),
            ShapeError,
            "one batch size",
        ),
        (lambda: nn.Transformer(E, HEADS, 1, 1)(phalanx.ones(S, 2, 6), phalanx.ones(T, 2, 6)), ShapeError, "d_model=8"),
    ],
)
def test_wrong_use(call, error, words: str) -> None:
    with pytest.raises(error, match=words):
        call()
