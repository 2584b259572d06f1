"""Training on GPUs in miniature, as ranks of a test run it: the bits of what comes out.

As a script: ``device_training.py FOLDER WAY FORM STEPS`` prints a line about the result on rank 0, and saves after each step.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np

import phalanx
from phalanx import nn, optim
from phalanx.core.hashing import hash_array
from phalanx.data import DataLoader, TensorDataset

SAMPLES, BATCH, CLASSES = 46, 12, 4
FORMS: dict[str, dict[str, Any]] = {
    "plain": {},
    "zero-1": {"shard": "optimizer"},
    "zero-2": {"shard": "gradients"},
    "small buckets": {"bucket_bytes": 600},
    "no overlap": {"overlap": False},
    "batch norm": {"norm": nn.BatchNorm1d},
    "sync batch norm": {"norm": nn.SyncBatchNorm},
    "passes": {"passes": 2},
    "checked": {"check_replicas": 1},
    "half": {"dtype": "float16"},
}


def train(
    device: str,
    form: str = "plain",
    *,
    shards: int | None = 4,
    epochs: int = 1,
    folder: Path | None = None,
    stop: int | None = None,
) -> tuple[list[tuple[str, int]], list[float]]:
    """(names and hashes of the model's tensors, of the optimizer's state and averages; losses)."""
    options = dict(FORMS[form])
    norm, passes, dtype = options.pop("norm", nn.Identity), options.pop("passes", 1), options.pop("dtype", None)
    phalanx.init(shards=shards, seed=3)
    numbers = np.random.default_rng(0)
    data = TensorDataset(
        numbers.standard_normal((SAMPLES, 16)).astype(np.float32), numbers.integers(0, CLASSES, SAMPLES)
    )
    layers = [nn.Linear(16, 33), norm(33), nn.ReLU(), nn.Dropout(0.1), nn.Linear(33, CLASSES)]
    net = nn.Sequential(*layers).to(device)
    if dtype is not None:
        net = net.to(dtype)
    model = phalanx.DataParallel(net, **options)
    optimizer = optim.AdamW(model.parameters(), lr=0.01)
    average = optim.EMA(model.module, decay=0.9)
    loader = DataLoader(data, batch_size=BATCH, shuffle=True)
    checkpointer = None
    if folder is not None:
        checkpointer = phalanx.Checkpointer(
            folder, model=model, optimizer=optimizer, loader=loader, every=1, state={"average": average}
        )
        checkpointer.resume("auto")
    losses: list[float] = []

    def one(x: Any, y: Any) -> Any:
        x = x.to(device) if dtype is None else x.to(device).to(dtype)
        return nn.functional.cross_entropy(model(x), y.to(device))

    while loader.epoch < epochs and loader.step != stop:
        for step in loader.steps():
            optimizer.zero_grad()
            if form == "sync batch norm":
                phalanx.run_shards(lambda x, y: one(x, y).backward(), step)
            else:
                for x, y in step:
                    for _ in range(passes):
                        (one(x, y) / passes).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            average.update()
            losses.append(float(model.step_loss or 0.0))
            if checkpointer is not None:
                checkpointer.after_step()
            if loader.step == stop:
                break
    found = [(name, hash_array(tensor.array)) for name, tensor in model.state_dict().items()]
    with average.swapped():
        found += [(f"average {name}", hash_array(tensor.array)) for name, tensor in model.state_dict().items()]
    phalanx.shutdown()
    return found, losses


def main() -> None:
    folder, way, form, steps = Path(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4])
    if way != "any":
        os.environ["PHALANX_GPU_SUMS"] = way
    found, losses = train("cuda", form, epochs=2, folder=folder, stop=steps or None)
    if os.environ.get("PHALANX_RANK", os.environ.get("OMPI_COMM_WORLD_RANK", "0")) == "0":
        print("result", hash(tuple(value for _, value in found)), "after", len(losses), "steps", flush=True)


if __name__ == "__main__":
    main()
