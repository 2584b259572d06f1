"""Mixed precision on the device: close to the CPU's, gradients in float32 slots, found infinities, equal bits when captured."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

import phalanx
from phalanx import nn, optim
from phalanx.amp import GradScaler
from phalanx.core.backend import to_host
from phalanx.nn import functional as F

pytestmark = pytest.mark.filterwarnings("ignore:overflow", "ignore:invalid value")


class Block(nn.Module):
    """A GPT in miniature: embedding, attention on packed projections, layer norms, an MLP with GELU, logits by the embedding's weight."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(40, 32), nn.Embedding(8, 32)
        self.first, self.second = nn.LayerNorm(32), nn.LayerNorm(32)
        self.packed, self.mix = nn.Linear(32, 96), nn.Linear(32, 32)
        self.up, self.act, self.down = nn.Linear(32, 64), nn.GELU(approximate="tanh"), nn.Linear(64, 32)

    def forward(self, x: Any) -> Any:
        h = self.tokens(x) + self.places(phalanx.arange(8, device=x.device))
        q, k, v = self.packed(self.first(h)).chunk(3, -1)
        q, k, v = (part.reshape(len(x), 8, 4, 8).transpose(1, 2) for part in (q, k, v))
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(len(x), 8, 32)
        h = h + self.mix(mixed)
        h = h + self.down(self.act(self.up(self.second(h))))
        return F.linear(h, self.tokens.weight)


def images() -> nn.Module:
    def block() -> nn.Module:
        return nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU())

    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), block(), nn.AdaptiveAvgPool2d(1),
        nn.Flatten(), nn.Linear(8, 4),
    )  # fmt: skip


def sequences() -> nn.Module:
    class Last(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cells, self.head = nn.LSTM(6, 8, batch_first=True), nn.Linear(8, 4)

        def forward(self, x: Any) -> Any:
            return self.head(self.cells(x)[0][:, -1])

    return Last()


def data(kind: str) -> tuple[Any, Any]:
    numbers = np.random.default_rng(3)
    if kind == "gpt":
        x = numbers.integers(0, 40, (4, 9))
        return x[:, :-1].copy(), x[:, 1:].copy()
    shape = (8, 3, 8, 8) if kind == "images" else (8, 5, 6)
    return numbers.standard_normal(shape).astype(np.float32), np.arange(8) % 4


MODELS = {"gpt": Block, "images": images, "sequences": sequences}


def train(kind: str, device: str, dtype: str | None, steps: int = 4, init_scale: float = 2.0**10) -> Any:
    """Losses, gradients of the first step, the model, and the scales."""
    phalanx.manual_seed(0)
    model = MODELS[kind]().to(device)
    optimizer = optim.AdamW(model.parameters(), lr=3e-3)
    scaler = GradScaler(device, init_scale=init_scale, growth_interval=3, enabled=dtype == "float16")
    x, y = (phalanx.tensor(array).to(device) for array in data(kind))
    losses, gradients, scales = [], {}, []
    for step in range(steps):
        with phalanx.autocast(device, dtype=dtype, enabled=dtype is not None):
            output = model(x)
            loss = F.cross_entropy(output.reshape(-1, output.shape[-1]), y.reshape(-1))
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        if not step:
            gradients = {name: to_host(p.grad.array).copy() for name, p in model.named_parameters()}
            assert output.dtype.name == (dtype or "float32") and loss.dtype == np.float32
            assert all(p.dtype == p.grad.dtype == np.float32 for p in model.parameters())
        scaler.step(optimizer)
        scaler.update()
        losses.append(loss.item())
        scales.append(scaler.get_scale())
    return losses, gradients, model, scales


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_close_to_the_cpu(device: str, kernels: str, kind: str, dtype: str) -> None:
    losses, gradients, _, _ = train(kind, device, dtype)
    np.testing.assert_allclose(losses, train(kind, "cpu", None)[0], rtol=0.03)
    exact = train(kind, "cpu", dtype)[1]
    for name, gradient in gradients.items():
        assert np.linalg.norm(gradient - exact[name]) <= 0.1 * np.linalg.norm(exact[name]) + 1e-3, name


@pytest.mark.parametrize("kind", MODELS)
def test_equal_bits_twice(device: str, kind: str) -> None:
    first, second = (train(kind, device, "bfloat16") for _ in range(2))
    assert first[0] == second[0]
    for a, b in zip(first[2].parameters(), second[2].parameters(), strict=True):
        np.testing.assert_array_equal(to_host(a.array), to_host(b.array))


def test_overflow_is_found(device: str, kernels: str) -> None:
    *_, scales = train("images", device, "float16", steps=14, init_scale=2.0**24)
    assert scales[0] == 2.0**23 and min(scales) < 2.0**22 and any(b > a for a, b in itertools.pairwise(scales))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_weight_gradients_are_not_rounded(device: str, kernels: str, dtype: str) -> None:
    """bfloat16 operands, float32 result: the product goes into the slot as the tensor cores add it up."""
    x = np.random.default_rng(0).standard_normal((64, 16)).astype(np.float32)
    phalanx.manual_seed(1)
    layer = nn.Linear(16, 8).to(device)
    optim.SGD(layer.parameters(), lr=0.1)
    with phalanx.autocast(device, dtype=dtype):
        y = layer(phalanx.tensor(x).to(device))
    y.backward(phalanx.ones(64, 8, device=device).to(dtype))
    halves = phalanx.tensor(x).to(dtype).float().numpy()
    np.testing.assert_allclose(
        to_host(layer.weight.grad.array), np.ones((8, 64), np.float32) @ halves, rtol=1e-5, atol=1e-4
    )


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_captured_steps_have_the_same_bits(device: str, dtype: str) -> None:
    found = []
    for capture in (False, True):
        phalanx.manual_seed(0)
        model = images().to(device)
        optimizer = optim.AdamW(model.parameters(), lr=3e-3)
        scaler = GradScaler(device, init_scale=2.0**20, growth_interval=2, enabled=dtype == "float16")
        x, y = (phalanx.tensor(array).to(device) for array in data("images"))

        def one(x: Any, y: Any, model: Any = model, optimizer: Any = optimizer, scaler: Any = scaler) -> Any:
            with phalanx.autocast(device, dtype=dtype):
                loss = F.cross_entropy(model(x), y)
            optimizer.zero_grad()
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            return loss

        step = phalanx.capture(one) if capture else one
        rows = [(step(x, y).item(), scaler.get_scale()) for _ in range(8)]
        found.append((rows, [to_host(p.array).tobytes() for p in model.parameters()]))
    assert step.replays == 6, step.why  # type: ignore[attr-defined]
    assert found[0] == found[1]
