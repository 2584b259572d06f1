"""Time of one training step beside PyTorch's: same model, same batch, one thread each, A B A B in one run.

    python benchmarks/step_time.py [--rounds 7]

Each side runs in a process of its own; the sides take turns. Printed: the median of each, and the ratio of medians
(PyTorch / phalanx: above 1 means that phalanx is faster). Needs PyTorch.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

SETTINGS = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
UNSET = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")
WORKLOADS = {"mlp": (32, 300), "cnn": (64, 12)}
"""Name -> (batch size, steps a round)."""


def build(library: str, name: str):
    """A function that makes ``n`` training steps, for either library: the same source but for the import."""
    if library == "torch":
        import torch as lib
        from torch import nn, optim

        lib.set_num_threads(1)
    else:
        import phalanx as lib
        from phalanx import nn, optim

    batch, _ = WORKLOADS[name]
    if name == "mlp":
        model = nn.Sequential(nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 10))
        shape = (batch, 784)
    else:
        model = nn.Sequential(
            nn.Conv2d(1, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(32, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(2),
            nn.Flatten(), nn.Linear(64 * 7 * 7, 128), nn.ReLU(), nn.Dropout(0.25), nn.Linear(128, 10),
        )  # fmt: skip
        shape = (batch, 1, 28, 28)
    rng = np.random.default_rng(0)
    batches = [
        (lib.tensor(rng.standard_normal(shape, np.float32)), lib.tensor(rng.integers(0, 10, batch))) for _ in range(8)
    ]
    optimizer = optim.Adam(model.parameters(), lr=1e-5)
    criterion = nn.CrossEntropyLoss()

    def steps(count: int) -> None:
        for i in range(count):
            x, y = batches[i % 8]
            optimizer.zero_grad()
            criterion(model(x), y).backward()
            optimizer.step()

    return steps


def serve(library: str) -> None:
    """Worker: read a workload's name, run one round, print seconds a step."""
    runners = {}
    for line in sys.stdin:
        name = line.strip()
        count = WORKLOADS[name][1]
        if name not in runners:
            runners[name] = build(library, name)
            runners[name](max(3, count // 10))
        began = time.perf_counter()
        runners[name](count)
        print(json.dumps((time.perf_counter() - began) / count), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--serve", choices=("torch", "phalanx"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.serve)
        return
    env = {k: v for k, v in os.environ.items() if k not in UNSET} | SETTINGS
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "?")
    print(f"processor {model}, {platform.platform()}, Python {platform.python_version()}, NumPy {np.__version__}")
    print(f"environment {SETTINGS}, unset {', '.join(UNSET)}; medians of {options.rounds} rounds, A B A B")
    workers = {
        side: subprocess.Popen(
            [sys.executable, __file__, "--serve", side],
            env=env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for side in ("phalanx", "torch")
    }
    print(f"{'workload':<10}{'batch':>6}{'phalanx ms':>12}{'PyTorch ms':>12}{'ratio':>8}   spread of ratios")
    try:
        for name, (batch, _) in WORKLOADS.items():
            times = {side: [] for side in workers}
            for _ in range(options.rounds):
                for side, worker in workers.items():
                    print(name, file=worker.stdin, flush=True)
                    times[side].append(json.loads(worker.stdout.readline()))
            a, b = (1e3 * statistics.median(times[side]) for side in workers)
            ratios = sorted(t / p for p, t in zip(times["phalanx"], times["torch"], strict=True))
            print(f"{name:<10}{batch:>6}{a:>12.3f}{b:>12.3f}{b / a:>8.2f}   {ratios[0]:.2f} to {ratios[-1]:.2f}")
    finally:
        for worker in workers.values():
            worker.stdin.close()
            worker.wait(timeout=30)


if __name__ == "__main__":
    main()
