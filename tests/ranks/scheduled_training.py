"""A training job with schedules and an average beside the optimizer, all in the checkpoints. Argument: the folder."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

import phalanx
from phalanx import nn, optim
from phalanx.data import DataLoader, TensorDataset
from phalanx.optim import lr_scheduler

FOLDER, STEPS = Path(sys.argv[1]), 16


def main() -> None:
    phalanx.init(shards=4, seed=5)
    numbers = np.random.default_rng(0)
    x, y = numbers.normal(size=(50, 8)).astype(np.float32), numbers.integers(0, 3, 50)
    loader = DataLoader(TensorDataset(phalanx.tensor(x), phalanx.tensor(y)), batch_size=12, shuffle=True)
    net = nn.Sequential(nn.Linear(8, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.2), nn.Linear(32, 3))
    model = phalanx.DataParallel(net, shard="optimizer")
    optimizer = optim.NAdam(model.parameters(), lr=0.01)
    warm = lr_scheduler.WarmupLR(optimizer, 4, lr_scheduler.OneCycleLR(optimizer, 0.02, total_steps=STEPS))
    plateau = lr_scheduler.ReduceLROnPlateau(optimizer, patience=0, factor=0.8)
    ema = optim.EMA(model, decay=0.9, warmup=True)
    state = {"warm": warm, "plateau": plateau, "average": ema}
    checkpointer = phalanx.Checkpointer(
        FOLDER / "checkpoints", model=model, optimizer=optimizer, loader=loader, every=4, state=state
    )
    checkpointer.resume("none")
    ledger = phalanx.Ledger(FOLDER / "ledger", model, optimizer)
    while loader.step < STEPS:
        for step in loader.steps():
            optimizer.zero_grad()
            for inputs, labels in step:
                nn.functional.cross_entropy(model(inputs), labels).backward()
            optimizer.step()
            warm.step()
            plateau.step(model.step_loss)
            ema.update()
            ledger.record(loader.step)
            checkpointer.after_step()
            if loader.step == STEPS:
                break


main()
