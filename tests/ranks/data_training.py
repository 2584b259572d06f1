"""Training on data of every kind: random transforms, mixed batches, drawn samples, streams, token files.

As a script: ``data_training.py KIND FOLDER WORKERS [EPOCHS]`` prints a line about the result on rank 0.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import phalanx
from phalanx import nn, optim
from phalanx.core.hashing import hash_array
from phalanx.data import (
    BalancedSampler,
    DataLoader,
    Dataset,
    StreamingDataset,
    TokenDataset,
    TransformDataset,
    sample_random,
    transforms,
    write_tokens,
)

SAMPLES, CLASSES, SIDE = 53, 4, 8
MIX = transforms.CutMix(num_classes=CLASSES)


class Pictures(Dataset):
    """Grey pictures; sees whether anybody took this process for a rank."""

    keyed = True

    def __init__(self) -> None:
        numbers = np.random.default_rng(3)
        self.data = numbers.integers(0, 256, (SAMPLES, SIDE, SIDE), dtype=np.uint8)
        self.targets = numbers.integers(0, CLASSES, SAMPLES)

    def __len__(self) -> int:
        return SAMPLES

    def __getitem__(self, index: int) -> tuple[Any, int]:
        return self.data[index], int(self.targets[index])


class OnlyInWorkers(Pictures):
    """Refuses to be read by a process that MPI or a launcher knows."""

    def __getitem__(self, index: int) -> tuple[Any, int]:
        ranks = [name for name in os.environ if name.startswith(("OMPI_COMM", "PMIX_RANK", "PHALANX_RANK"))]
        if ranks or "mpi4py" in sys.modules:
            raise RuntimeError(f"a rank reads sample {index}: {ranks}")
        return super().__getitem__(index)


CHAIN = transforms.Compose(
    [
        transforms.RandomCrop(SIDE, padding=1, padding_mode="reflect"),
        transforms.RandomHorizontalFlip(),
        transforms.RandomRotation(20, "bilinear"),
        transforms.ColorJitter(0.3, 0.3),
        transforms.ToTensor(),
        transforms.RandomErasing(),
    ]
)


def pictures(folder: Path, workers: int = 0) -> tuple[nn.Module, DataLoader, Callable[..., Any]]:
    data = OnlyInWorkers() if workers else Pictures()
    options = {"num_workers": workers, "multiprocessing_context": "spawn"} if workers else {}
    loader = DataLoader(TransformDataset(data, CHAIN), 12, sampler=BalancedSampler(data, 41), **options)
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, CLASSES))

    def loss(x: Any, y: Any) -> Any:
        x, soft = MIX(x, y)
        return nn.functional.cross_entropy(net_of(x), soft)

    def net_of(x: Any) -> Any:
        return model[0](x)

    model: list[Any] = [net]
    loss.model = model  # type: ignore[attr-defined]
    return net, loader, loss


def parse(line: str) -> tuple[np.ndarray, int]:
    *features, label = line.split(",")
    jitter = sample_random().gauss(0, 0.1)
    return np.array(features, np.float32) + np.float32(jitter), int(label)


def lines(folder: Path, workers: int = 0) -> tuple[nn.Module, DataLoader, Callable[..., Any]]:
    numbers = np.random.default_rng(5)
    for number, rows in enumerate((17, 1, 22, 0, 9)):
        text = "".join(",".join(f"{x:.3f}" for x in numbers.normal(size=6)) + f",{i % CLASSES}\n" for i in range(rows))
        (folder / f"{number}.csv").write_text(text)
    loader = DataLoader(StreamingDataset(f"{folder}/*.csv", parse, shuffle_files=True, window=10), 12)
    net = nn.Sequential(nn.Linear(6, 16), nn.Dropout(0.2), nn.ReLU(), nn.Linear(16, CLASSES))
    return _plainly(net, loader, nn.functional.cross_entropy)


def tokens(folder: Path, workers: int = 0) -> tuple[nn.Module, DataLoader, Callable[..., Any]]:
    write_tokens("in the beginning was the word " * 30, folder / "tokens.bin", "chars")
    data = TokenDataset(folder / "tokens.bin", block_size=7)
    loader = DataLoader(data, 12, shuffle=True)
    net = nn.Sequential(nn.Embedding(data.tokenizer.vocab_size, 8), nn.Linear(8, data.tokenizer.vocab_size))
    return _plainly(net, loader, lambda x, y: nn.functional.cross_entropy(x.flatten(0, 1), y.flatten()))


def _plainly(net: Any, loader: DataLoader, criterion: Callable[..., Any]) -> tuple[Any, DataLoader, Any]:
    model: list[Any] = [net]

    def loss(x: Any, y: Any) -> Any:
        return criterion(model[0](x), y)

    loss.model = model  # type: ignore[attr-defined]
    return net, loader, loss


KINDS = {"pictures": pictures, "lines": lines, "tokens": tokens}


def train(
    kind: str, folder: Path, epochs: int = 2, *, workers: int = 0, saved: Path | None = None, stop: int | None = None
) -> list[tuple[str, int]]:
    """Bits of the parameters after ``epochs``, or after ``stop`` steps; goes on from what ``saved`` holds."""
    net, loader, loss = KINDS[kind](folder, workers)
    model = phalanx.DataParallel(net)
    loss.model[0] = model  # type: ignore[attr-defined]
    optimizer = optim.Adam(model.parameters(), lr=0.01)
    checkpointer = None
    if saved is not None:
        checkpointer = phalanx.Checkpointer(saved, model=model, optimizer=optimizer, loader=loader, every=1)
        checkpointer.resume("auto")
    while loader.epoch < epochs and loader.step != stop:
        for step in loader.steps():
            optimizer.zero_grad()
            for x, y in step:
                loss(x, y).backward()
            optimizer.step()
            if checkpointer is not None:
                checkpointer.after_step()
            if loader.step == stop:
                break
    return [(name, hash_array(tensor.array)) for name, tensor in model.state_dict().items()]


def main() -> None:
    kind, folder, workers = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    epochs = int(sys.argv[4]) if len(sys.argv) > 4 else 2
    phalanx.init(shards=4, seed=5)
    result = train(kind, folder, epochs, workers=workers)
    if phalanx.rank() == 0:
        print("result", hash(tuple(value for _, value in result)), flush=True)
    phalanx.shutdown()


if __name__ == "__main__":
    main()
