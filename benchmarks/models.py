"""The models that benchmarks train, built for phalanx or for PyTorch from one source: only the import differs.

    python benchmarks/models.py [cnn gpt mlp25m tiny ...]      # parameters; loss and gradients in both libraries

Dimensions: B samples a batch, T tokens of a text, D model width, H heads, V characters in the vocabulary.
"""

from __future__ import annotations

import importlib
import itertools
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

TOKENS, WIDTH, HEADS, BLOCKS, VOCABULARY = 128, 128, 4, 4, 256
"""T, D, H, the number of blocks and V of the GPT."""


class Library:
    """``phalanx`` or ``torch`` under names that both have: the module itself, ``nn``, ``functional``, ``optim``."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.root: Any = importlib.import_module(name)
        self.nn: Any = importlib.import_module(f"{name}.nn")
        self.functional: Any = importlib.import_module(f"{name}.nn.functional")
        self.optim: Any = importlib.import_module(f"{name}.optim")


@dataclass(frozen=True, slots=True)
class Workload:
    """A model with the batches that train it."""

    build: Callable[[Library], Any]
    """The model, with values drawn from the library's own generator."""
    batch: Callable[[np.random.Generator, int], tuple[np.ndarray, np.ndarray]]
    """Inputs and labels of so many samples."""
    samples: int
    """Samples in the batch of one rank."""
    steps: int
    """Optimizer steps of one measured round, about a second."""
    label: str
    loss: Callable[[Library, Any, Any, Any], Any] = lambda library, model, x, y: loss_of(library, model, x, y)
    """(library, model, inputs, labels) -> what is minimised; the mean cross-entropy unless said."""
    optimizer: str = "Adam"


def _cnn(library: Library) -> Any:
    """The CNN of examples/fashion_mnist.py: (B, 1, 28, 28) -> (B, 10)."""
    nn = library.nn
    return nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(64 * 7 * 7, 128), nn.ReLU(), nn.Dropout(0.25), nn.Linear(128, 10),
    )  # fmt: skip


def _layers(*sizes: int) -> Callable[[Library], Any]:
    """Linear layers with ReLU between them: (B, sizes[0]) -> (B, sizes[-1])."""

    def build(library: Library) -> Any:
        nn, parts = library.nn, []
        for inputs, outputs in itertools.pairwise(sizes):
            parts += [nn.Linear(inputs, outputs), nn.ReLU()]
        return nn.Sequential(*parts[:-1])

    return build


def _cifar(library: Library) -> Any:
    """The convolutional net of TensorFlow's tutorial: (B, 3, 32, 32) -> (B, 10)."""
    nn = library.nn
    return nn.Sequential(
        nn.Conv2d(3, 32, 3), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(64, 64, 3), nn.ReLU(),
        nn.Flatten(), nn.Linear(64 * 4 * 4, 64), nn.ReLU(), nn.Linear(64, 10),
    )  # fmt: skip


def _lstm(library: Library) -> Any:
    """An LSTM layer and what it says at the end: (B, 50, 64) -> (B, 10)."""
    nn = library.nn

    class Reader(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm, self.head = nn.LSTM(64, 256, batch_first=True), nn.Linear(256, 10)

        def forward(self, x: Any) -> Any:
            return self.head(self.lstm(x)[0][:, -1])

    return Reader()


def _vae(library: Library) -> Any:
    """Kingma and Welling 2013: images (B, 784) and noise (B, 20) -> logits of pixels, mean, logarithm of the variance."""
    nn, root = library.nn, library.root

    class VAE(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = nn.Sequential(nn.Linear(784, 400), nn.ReLU())
            self.mean, self.logvar = nn.Linear(400, 20), nn.Linear(400, 20)
            self.decoder = nn.Sequential(nn.Linear(20, 400), nn.ReLU(), nn.Linear(400, 784))

        def forward(self, x: Any, noise: Any) -> tuple[Any, Any, Any]:
            x = self.encoder(x)
            mean, logvar = self.mean(x), self.logvar(x)
            return self.decoder(mean + noise * root.exp(0.5 * logvar)), mean, logvar

    return VAE()


def _vae_loss(library: Library, model: Any, inputs: Any, noise: Any) -> Any:
    """Reconstruction and divergence, nats an image."""
    logits, mean, logvar = model(inputs, noise)
    reconstruction = library.functional.binary_cross_entropy_with_logits(logits, inputs, reduction="sum")
    divergence = -0.5 * (1 + logvar - mean * mean - library.root.exp(logvar)).sum()
    return (reconstruction + divergence) / len(inputs)


def _resnet(library: Library) -> Any:
    """ResNet-18 (He et al. 2015) with a first layer for small pictures: (B, 3, 32, 32) -> (B, 10)."""
    nn, functional = library.nn, library.functional

    class Block(nn.Module):
        def __init__(self, inputs: int, outputs: int, stride: int) -> None:
            super().__init__()
            self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
            self.bn1 = nn.BatchNorm2d(outputs)
            self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
            self.bn2 = nn.BatchNorm2d(outputs)
            self.short = nn.Sequential()
            if stride != 1 or inputs != outputs:
                conv = nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False)
                self.short = nn.Sequential(conv, nn.BatchNorm2d(outputs))

        def forward(self, x: Any) -> Any:
            y = functional.relu(self.bn1(self.conv1(x)))
            return functional.relu(self.bn2(self.conv2(y)) + self.short(x))

    stages, inputs = [], 64
    for outputs, stride in ((64, 1), (128, 2), (256, 2), (512, 2)):
        stages += [Block(inputs, outputs, stride), Block(outputs, outputs, 1)]
        inputs = outputs
    return nn.Sequential(
        nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.BatchNorm2d(64), nn.ReLU(), *stages,
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 10),
    )  # fmt: skip


def _wide_mlp(library: Library) -> Any:
    """25 million parameters with little to compute on them: (B, 1024) -> (B, 10)."""
    nn = library.nn
    return nn.Sequential(
        nn.Linear(1024, 4096), nn.ReLU(), nn.Linear(4096, 4096), nn.ReLU(), nn.Linear(4096, 1024), nn.ReLU(),
        nn.Linear(1024, 10),
    )  # fmt: skip


def _tiny(library: Library) -> Any:
    """For smoke tests: (B, 16) -> (B, 10)."""
    nn = library.nn
    return nn.Sequential(nn.Linear(16, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 10))


def _gpt(library: Library) -> Any:
    """A small GPT over characters, head tied to the embedding: tokens (B, T) -> logits (B * T, V)."""
    nn, functional = library.nn, library.functional

    class Block(nn.Module):
        """Pre-norm: x + attention(norm(x)), then x + mlp(norm(x)); (B, T, D) to the same."""

        def __init__(self) -> None:
            super().__init__()
            self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
            self.joined, self.projection = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
            self.mlp = nn.Sequential(nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH))

        def forward(self, x: Any) -> Any:
            b, t, d = x.shape
            joined = self.joined(self.norm1(x)).reshape(b, t, 3, HEADS, d // HEADS).permute(2, 0, 3, 1, 4)
            heads = functional.scaled_dot_product_attention(
                joined[0], joined[1], joined[2], is_causal=True
            )  # B H T D/H
            x = x + self.projection(heads.transpose(1, 2).reshape(b, t, d))
            return x + self.mlp(self.norm2(x))

    class GPT(nn.Module):
        """Radford et al., "Language Models are Unsupervised Multitask Learners", 2019, small."""

        def __init__(self) -> None:
            super().__init__()
            self.tokens, self.places = nn.Embedding(VOCABULARY, WIDTH), nn.Embedding(TOKENS, WIDTH)
            self.blocks = nn.Sequential(*(Block() for _ in range(BLOCKS)))
            self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, VOCABULARY, bias=False)
            self.head.weight = self.tokens.weight
            nn.init.normal_(self.tokens.weight, std=0.02)

        def forward(self, tokens: Any) -> Any:
            x = self.tokens(tokens) + self.places(library.root.arange(tokens.shape[1]))
            return self.head(self.norm(self.blocks(x))).reshape(-1, VOCABULARY)

    return GPT()


def _pictures(*shape: int) -> Callable[[np.random.Generator, int], tuple[np.ndarray, np.ndarray]]:
    return lambda rng, samples: (rng.standard_normal((samples, *shape), np.float32), rng.integers(0, 10, samples))


def _text(rng: np.random.Generator, samples: int) -> tuple[np.ndarray, np.ndarray]:
    """Tokens (B, T) and the token that follows each of them."""
    text = rng.integers(0, VOCABULARY, (samples, TOKENS + 1))
    return text[:, :-1].copy(), text[:, 1:].copy()


def _pixels_and_noise(rng: np.random.Generator, samples: int) -> tuple[np.ndarray, np.ndarray]:
    return rng.random((samples, 784), np.float32), rng.standard_normal((samples, 20), np.float32)


WORKLOADS = {
    "cnn": Workload(_cnn, _pictures(1, 28, 28), 64, 12, "CNN of examples/fashion_mnist.py, batch 64 a rank"),
    "gpt": Workload(_gpt, _text, 16, 6, "GPT, 4 layers, d 128, 4 heads, T 128, batch 16 a rank", optimizer="AdamW"),
    "mlp": Workload(_layers(784, 256, 10), _pictures(784), 32, 300, "MLP 784-256-10, batch 32 a rank"),
    "mlp2048": Workload(_layers(784, 2048, 2048, 10), _pictures(784), 256, 8, "MLP 784-2048-2048-10, batch 256 a rank"),
    "cifar": Workload(_cifar, _pictures(3, 32, 32), 64, 12, "CNN 32-64-64 for CIFAR-10, batch 64 a rank"),
    "lstm": Workload(_lstm, _pictures(50, 64), 32, 10, "LSTM 64->256 over 50 steps, batch 32 a rank"),
    "vae": Workload(_vae, _pixels_and_noise, 128, 60, "VAE 784-400-20, batch 128 a rank", _vae_loss),
    "resnet": Workload(_resnet, _pictures(3, 32, 32), 16, 1, "ResNet-18 at 32x32, batch 16 a rank"),
    "mlp25m": Workload(_wide_mlp, _pictures(1024), 64, 8, "MLP 1024-4096-4096-1024-10, batch 64 a rank"),
    "tiny": Workload(_tiny, _pictures(16), 8, 20, "MLP 16-32-10, batch 8 a rank: for smoke tests"),
}


def loss_of(library: Library, model: Any, inputs: Any, labels: Any) -> Any:
    """Mean cross-entropy over all samples, or over all tokens of all samples."""
    return library.functional.cross_entropy(model(inputs), labels.reshape(-1))


def count_parameters(model: Any) -> int:
    return sum(p.numel() for p in model.parameters())


def main() -> None:
    """Both libraries from equal values: the largest difference of a gradient, relative to the largest gradient."""
    ours, theirs = Library("phalanx"), Library("torch")
    for name in sys.argv[1:] or WORKLOADS:
        workload = WORKLOADS[name]
        batch = workload.batch(np.random.default_rng(0), workload.samples)
        models = [workload.build(library).eval() for library in (ours, theirs)]  # eval: dropout draws differ
        with theirs.root.no_grad():
            for p, q in zip(*(m.parameters() for m in models), strict=True):
                q.copy_(theirs.root.from_numpy(p.detach().numpy().copy()))
        losses = []
        for library, model in zip((ours, theirs), models, strict=True):
            loss = workload.loss(library, model, *(library.root.tensor(part) for part in batch))
            loss.backward()
            losses.append(float(loss.item()))
        gradients = [[p.grad.detach().numpy() for p in model.parameters()] for model in models]
        scale = max(float(np.abs(g).max()) for g in gradients[1])
        worst = max(float(np.abs(a - b).max()) for a, b in zip(*gradients, strict=True)) / scale
        print(
            f"{name:<8}{count_parameters(models[0]):>12,} parameters   loss {losses[0]:.6f} (PyTorch {losses[1]:.6f}), "
            f"gradients differ by at most {worst:.1e} of the largest"
        )


if __name__ == "__main__":
    main()
