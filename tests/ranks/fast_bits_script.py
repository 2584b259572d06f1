"""A CNN, an LSTM or a GPT of a size at which fast kernels serve, trained in eight shards on drawn data: ``--model NAME`` and what a
user's script takes. See test_fast_bits.py.

Dimensions: B samples, T steps or tokens, D width.
"""

from __future__ import annotations

import argparse

import numpy as np

import phalanx
from phalanx import nn, optim
from phalanx.data import DataLoader, TensorDataset

SAMPLES, BATCH, CLASSES = 69, 32, 10
STEPS, FEATURES, UNITS = 6, 48, 256
TOKENS, WIDTH, HEADS = 32, 64, 4
EPOCHS = 3


class Reader(nn.Module):
    """(B, T, 48) -> (B, 10): two layers with dropout between them."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(FEATURES, UNITS, num_layers=2, dropout=0.2, batch_first=True)
        self.head = nn.Linear(UNITS, CLASSES)

    def forward(self, x: phalanx.Tensor) -> phalanx.Tensor:
        return self.head(self.lstm(x)[0][:, -1])


class GPT(nn.Module):
    """Tokens (B, T) -> logits (B, 10) of what follows the text; two blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(CLASSES, WIDTH), nn.Embedding(TOKENS, WIDTH)
        layer = nn.TransformerEncoderLayer(
            WIDTH, HEADS, 4 * WIDTH, dropout=0.1, activation="gelu", batch_first=True, norm_first=True
        )
        self.blocks = nn.TransformerEncoder(layer, 2, norm=nn.LayerNorm(WIDTH))
        self.head = nn.Linear(WIDTH, CLASSES, bias=False)
        self.head.weight = self.tokens.weight

    def forward(self, x: phalanx.Tensor) -> phalanx.Tensor:
        x = self.tokens(x) + self.places(phalanx.arange(TOKENS))
        return self.head(self.blocks(x, mask=nn.Transformer.generate_square_subsequent_mask(TOKENS))[:, -1])


def cnn() -> nn.Module:
    """(B, 3, 16, 16) -> (B, 10)."""
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Dropout(0.25), nn.Linear(32 * 16, 128), nn.ReLU(), nn.Linear(128, CLASSES),
    )  # fmt: skip


MODELS = {"cnn": cnn, "lstm": Reader, "gpt": GPT}


def inputs(model: str) -> np.ndarray:
    rng = np.random.default_rng(4)
    if model == "gpt":
        return rng.integers(0, CLASSES, (SAMPLES, TOKENS))
    return rng.standard_normal((SAMPLES, *((3, 16, 16) if model == "cnn" else (STEPS, FEATURES))), np.float32)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", choices=MODELS, required=True)
    parser.add_argument("--max-steps", type=int)
    parser.add_argument("--checkpoint-dir")
    parser.add_argument("--resume", default="none")
    parser.add_argument("--ledger")
    args = parser.parse_args()
    phalanx.init(shards=8, seed=7)
    labels = np.random.default_rng(5).integers(0, CLASSES, SAMPLES)
    loader = DataLoader(TensorDataset(inputs(args.model), labels), batch_size=BATCH, shuffle=True)
    model = phalanx.DataParallel(MODELS[args.model]())
    optimizer = optim.AdamW(model.parameters(), lr=1e-3)
    checkpoint = phalanx.Checkpointer(args.checkpoint_dir, model=model, optimizer=optimizer, loader=loader, every=2)
    checkpoint.resume(args.resume)
    ledger = phalanx.Ledger(args.ledger, model, optimizer)
    while loader.epoch < EPOCHS and loader.step != args.max_steps:
        for step in loader.steps():
            optimizer.zero_grad()
            for x, y in step:
                nn.functional.cross_entropy(model(x), y).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            ledger.record(loader.step)
            checkpoint.after_step()
            if loader.step == args.max_steps:
                break
    checkpoint.save()


if __name__ == "__main__":
    main()
