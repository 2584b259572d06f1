"""What gpu.py trains, for phalanx or PyTorch from one source: GPT-2, ResNet-50, and the small models of models.py.

Dimensions: B samples a batch, T tokens of a text, D model width, H heads, V tokens in the vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
from models import WORKLOADS, Library


@dataclass(frozen=True, slots=True)
class Size:
    """Of GPT-2: layers, D, H, T, V; of ResNet-50: blocks of each group, width, pixels, classes; and B."""

    batch: int
    numbers: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Workload:
    """A model with its data and how it is trained."""

    label: str
    build: Callable[[Library, Size], Any]
    batch: Callable[[np.random.Generator, Size], tuple[np.ndarray, np.ndarray]]
    loss: Callable[[Library, Any, Any, Any], Any]
    full: Size
    small: Size
    """For a rehearsal."""
    optimizer: Callable[[Library, Any], Any]
    half: bool
    """In bfloat16."""
    unit: str
    items: Callable[[Size], int]
    """So many of ``unit`` in a step."""
    flops: Callable[[Size, int], float] | None = None
    """Of one step, forward and backward, for so many parameters; for the share of the card's peak."""
    images: bool = False
    steps: int = 10
    """Of one turn."""


def on(library: Library, device: str, half: bool) -> Any:
    """The context of forward and loss."""
    return library.root.autocast(device, dtype=library.root.bfloat16) if half else nullcontext()


# ---- GPT-2 -----------------------------------------------------------------------------------------------------------


def _gpt2(library: Library, size: Size) -> Any:
    """Radford et al. 2019: tokens and those that follow (B, T) -> the loss; the head is the embedding."""
    layers, dim, heads, context, vocabulary = size.numbers
    nn, functional, root = library.nn, library.functional, library.root

    ours = library.name == "phalanx"

    def join(norm: Any, x: Any, branch: Any) -> tuple[Any, Any]:
        if ours:
            return functional.add_layer_norm(x, branch, dim, norm.weight, norm.bias)
        x = x + branch
        return x, norm(x)

    def low(x: Any) -> Any:
        """Ours keeps sums of branches in bfloat16; PyTorch's autocast would make its norms' output float32 again."""
        return x.to(root.bfloat16) if ours else x

    class Block(nn.Module):
        """A sum and a branch that has still to be added to it, to the same."""

        def __init__(self) -> None:
            super().__init__()
            self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
            self.joined, self.projection = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
            self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(approximate="tanh"), nn.Linear(4 * dim, dim))

        def forward(self, x: Any, branch: Any) -> tuple[Any, Any]:
            x, y = join(self.norm1, x, branch)
            b, t, d = y.shape
            y = self.projection(self.attend(self.joined(y).reshape(b, t, 3, heads, d // heads)))
            x, y = join(self.norm2, x, y)
            return x, self.mlp(y)

        def attend(self, packed: Any) -> Any:
            b, t, _, h, width = packed.shape
            if ours:
                return functional.packed_attention(packed, is_causal=True).reshape(b, t, h * width)
            q, k, v = packed.permute(2, 0, 3, 1, 4).unbind(0)
            y = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
            return y.transpose(1, 2).reshape(b, t, h * width)

    class GPT2(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tokens, self.positions = nn.Embedding(vocabulary, dim), nn.Embedding(context, dim)
            self.blocks = nn.ModuleList([Block() for _ in range(layers)])
            self.norm = nn.LayerNorm(dim)
            self.register_buffer("places", root.arange(context))

        def forward(self, tokens: Any, targets: Any) -> Any:
            x, branch = low(self.tokens(tokens)), low(self.positions(self.places))
            for block in self.blocks:
                x, branch = block(x, branch)
            _, y = join(self.norm, x, branch)
            if ours:
                return functional.linear_cross_entropy(y, self.tokens.weight, targets)
            logits = functional.linear(y, self.tokens.weight)
            return functional.cross_entropy(logits.reshape(-1, vocabulary), targets.reshape(-1))

    return GPT2()


def _own_loss(library: Library, model: Any, x: Any, y: Any) -> Any:
    return model(x, y)


def _text(rng: np.random.Generator, size: Size) -> tuple[np.ndarray, np.ndarray]:
    text = rng.integers(0, size.numbers[4], (size.batch, size.numbers[3] + 1))
    return text[:, :-1].copy(), text[:, 1:].copy()


def _gpt2_flops(size: Size, parameters: int) -> float:
    """Six for each parameter and token, and what attention does; positions are only looked up."""
    layers, dim, _, context, _ = size.numbers
    return size.batch * context * (6.0 * (parameters - context * dim) + 12.0 * layers * dim * context)


def _adamw(library: Library, model: Any) -> Any:
    decayed = {"params": [p for p in model.parameters() if p.dim() > 1], "weight_decay": 0.1}
    others = {"params": [p for p in model.parameters() if p.dim() <= 1], "weight_decay": 0.0}
    extra = {"fused": True} if library.name == "torch" else {}
    return library.optim.AdamW([decayed, others], lr=1e-5, betas=(0.9, 0.95), **extra)


# ---- ResNet-50 -------------------------------------------------------------------------------------------------------


def _resnet50(library: Library, size: Size) -> Any:
    """He et al. 2015, the stride in the 3x3: (B, 3, S, S) -> (B, classes)."""
    *layers, width, _, classes = size.numbers
    nn, functional = library.nn, library.functional

    class Bottleneck(nn.Module):
        def __init__(self, inputs: int, inner: int, stride: int) -> None:
            super().__init__()
            outputs = 4 * inner
            self.first = nn.Sequential(nn.Conv2d(inputs, inner, 1, bias=False), nn.BatchNorm2d(inner), nn.ReLU())
            conv = nn.Conv2d(inner, inner, 3, stride=stride, padding=1, bias=False)
            self.second = nn.Sequential(conv, nn.BatchNorm2d(inner), nn.ReLU())
            self.third = nn.Sequential(nn.Conv2d(inner, outputs, 1, bias=False), nn.BatchNorm2d(outputs))
            self.around = nn.Sequential()
            if stride != 1 or inputs != outputs:
                conv = nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False)
                self.around = nn.Sequential(conv, nn.BatchNorm2d(outputs))

        def forward(self, x: Any) -> Any:
            return functional.relu(self.third(self.second(self.first(x))) + self.around(x))

    blocks, inputs = [], width
    for group, count in enumerate(layers):
        for number in range(count):
            blocks.append(Bottleneck(inputs, width << group, 2 if group and not number else 1))
            inputs = 4 * (width << group)
    return nn.Sequential(
        nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False), nn.BatchNorm2d(width), nn.ReLU(),
        nn.MaxPool2d(3, stride=2, padding=1), *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, classes),
    )  # fmt: skip


def _pictures(rng: np.random.Generator, size: Size) -> tuple[np.ndarray, np.ndarray]:
    *_, pixels, classes = size.numbers
    return rng.standard_normal((size.batch, 3, pixels, pixels), np.float32), rng.integers(0, classes, size.batch)


def _resnet_flops(size: Size, parameters: int) -> float:
    """Of ResNet-50 at 224: 4.09 G multiply-adds forward, twice that backward."""
    return size.batch * 3 * 2 * 4.09e9


def _sgd(library: Library, model: Any) -> Any:
    extra = {"fused": True} if library.name == "torch" else {}
    return library.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9, weight_decay=5e-5, **extra)


def _cross_entropy(library: Library, model: Any, x: Any, y: Any) -> Any:
    return library.functional.cross_entropy(model(x), y.reshape(-1))


# ---- small ones ------------------------------------------------------------------------------------------------------


def _small(name: str, optimizer: str = "Adam") -> Workload:
    """A model of models.py in float32, where launches cost more than arithmetic."""
    given = WORKLOADS[name]

    def made(library: Library, model: Any) -> Any:
        extra = {"fused": True} if library.name == "torch" else {}
        return getattr(library.optim, optimizer)(model.parameters(), lr=1e-5, **extra)

    return Workload(
        given.label.removesuffix(" a rank") + ", float32", lambda library, size: given.build(library),
        lambda rng, size: given.batch(rng, size.batch), given.loss, Size(given.samples, ()), Size(4, ()), made, False,
        "samples", lambda size: size.batch, images=name == "cnn", steps=50,
    )  # fmt: skip


CASES = {
    "gpt2": Workload(
        "GPT-2 124M, 32 x 1024 tokens, bfloat16", _gpt2, _text, _own_loss, Size(32, (12, 768, 12, 1024, 50304)),
        Size(2, (1, 16, 2, 16, 64)), _adamw, True, "tokens", lambda size: size.batch * size.numbers[3], _gpt2_flops,
    ),
    "resnet50": Workload(
        "ResNet-50, 256 pictures of 224 x 224, bfloat16", _resnet50, _pictures, _cross_entropy,
        Size(256, (3, 4, 6, 3, 64, 224, 1000)), Size(2, (1, 1, 1, 1, 4, 32, 4)), _sgd, True, "images",
        lambda size: size.batch, _resnet_flops, images=True,
    ),
    "mlp": _small("mlp"), "cnn": _small("cnn"), "lstm": _small("lstm"), "vae": _small("vae"),
}  # fmt: skip


def fill(library: Library, model: Any) -> None:
    """The same weights in either library: drawn by NumPy, in the order of parameters, at the usual sizes."""
    rng = np.random.default_rng(1)
    for name, p in model.named_parameters():
        values = rng.standard_normal(tuple(p.shape), np.float32)
        if p.ndim > 1:
            values *= 0.02 if "tokens" in name or "positions" in name else math.prod(p.shape[1:]) ** -0.5
        else:
            values = values * np.float32(0.05) + np.float32(name.endswith("weight"))
        with library.root.no_grad():
            p.copy_(library.root.tensor(np.asarray(values, np.float32)))


def count_parameters(parameters: Sequence[Any]) -> int:
    return sum(p.numel() for p in parameters)
