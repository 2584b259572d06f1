"""The example's training run written for PyTorch: accuracy and wall time to compare with.

    python benchmarks/fashion_mnist_torch.py --model cnn --epochs 2
    python -m torch.distributed.run --nproc-per-node 2 benchmarks/fashion_mnist_torch.py --model cnn   # DDP over gloo

Same models, batch size (64 over all ranks), optimizer, learning rate and clipping; the data come from phalanx's cache.
"""

from __future__ import annotations

import argparse
import os
import time

import torch
from torch import nn

from phalanx.data.datasets import FashionMNIST

MODELS = {
    "mlp": lambda: nn.Sequential(
        nn.Flatten(), nn.Linear(784, 256), nn.BatchNorm1d(256), nn.ReLU(), nn.Dropout(0.2), nn.Linear(256, 10)
    ),
    "cnn": lambda: nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(64 * 7 * 7, 128), nn.ReLU(), nn.Dropout(0.25), nn.Linear(128, 10),
    ),
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=MODELS, default="cnn")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    began = time.perf_counter()
    rank, size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    torch.manual_seed(args.seed)
    if size > 1:
        torch.distributed.init_process_group("gloo")
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // size))
    (x, y), (x_test, y_test) = (
        (torch.from_numpy(t.array) for t in FashionMNIST(train=part).tensors().tensors) for part in (True, False)
    )
    model = MODELS[args.model]()
    wrapped = nn.parallel.DistributedDataParallel(model) if size > 1 else model
    optimizer = torch.optim.Adam(wrapped.parameters(), lr=1e-3)
    criterion = nn.CrossEntropyLoss()
    share = args.batch_size // size
    for epoch in range(args.epochs):
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(1000 * args.seed + epoch))
        model.train()
        for lo in range(0, len(x), args.batch_size):
            mine = order[lo + rank * share : min(lo + (rank + 1) * share, lo + args.batch_size)]
            optimizer.zero_grad()
            criterion(wrapped(x[mine]), y[mine]).backward()
            nn.utils.clip_grad_norm_(wrapped.parameters(), 5.0)
            step = epoch * -(-len(x) // args.batch_size) + lo // args.batch_size
            optimizer.param_groups[0]["lr"] = 1e-3 * (1 - step / (args.epochs * -(-len(x) // args.batch_size)))
            optimizer.step()
    model.eval()
    with torch.no_grad():
        right = sum(
            int((model(a).argmax(1) == b).sum()) for a, b in zip(x_test.split(1000), y_test.split(1000), strict=True)
        )
    if rank == 0:
        print(
            f"PyTorch {torch.__version__}, {size} ranks: test accuracy {right / len(x_test):.4f}, {time.perf_counter() - began:.1f} s"
        )
    if size > 1:
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
