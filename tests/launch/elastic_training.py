"""A small training in which much could go wrong unseen: batch norm, dropout, momentum, a schedule, an average, a short last batch.

    elastic_training.py FOLDER PAUSE_S EPOCHS

Writes FOLDER/ledger.jsonl, at the end of each step a line in FOLDER/times, at its start FOLDER/ranks/RANK.PID, and FOLDER/ready/PID
once it has the state. The last line of rank 0 is a sum of the average. Steps last PAUSE_S, the last ones longer, until
FOLDER/released is there.
"""

import os
import socket
import sys
import time
from pathlib import Path

import numpy as np

import phalanx
from phalanx import nn, optim

LAST = 15
folder, pause_s, epochs = Path(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])
phalanx.init(shards=8, seed=5)
ranks = folder / "ranks"
ranks.mkdir(exist_ok=True)
(ranks / f"{os.environ.get('PHALANX_RANK', 0)}.{os.getpid()}").write_text(socket.gethostname())

rng = np.random.default_rng(0)
images, labels = rng.standard_normal((75, 1, 8, 8)).astype(np.float32), rng.integers(0, 4, 75)
loader = phalanx.data.DataLoader(phalanx.data.TensorDataset(images, labels), batch_size=16, shuffle=True)
model = phalanx.DataParallel(
    nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(128, 32), nn.ReLU(), nn.Dropout(0.3), nn.Linear(32, 4),
    )
)  # fmt: skip
optimizer = optim.Adam(model.parameters(), lr=1e-3)
schedule = optim.lr_scheduler.StepLR(optimizer, 7, 0.8)
average = optim.EMA(model, 0.9)
checkpointer = phalanx.Checkpointer(
    folder / "checkpoints",
    model=model,
    optimizer=optimizer,
    loader=loader,
    every=10,
    state={"schedule": schedule, "average": average},
)
checkpointer.resume("auto")
ready = folder / "ready"
ready.mkdir(exist_ok=True)
(ready / str(os.getpid())).touch()
ledger = phalanx.Ledger(folder / "ledger.jsonl", model, optimizer)
loss_of = nn.CrossEntropyLoss()
while loader.epoch < epochs:
    for step in loader.steps():
        optimizer.zero_grad()
        for x, y in step:
            loss_of(model(x), y).backward()
        if not (folder / "released").exists():
            time.sleep(pause_s if loader.step < epochs * len(loader) - LAST else 20 * pause_s)
        optimizer.step()
        schedule.step()
        average.update()
        ledger.record(loader.step)
        checkpointer.after_step()
        if phalanx.rank() == 0:
            with open(folder / "times", "a") as times:
                print(time.monotonic(), "void" if step.void else "counts", file=times)
if phalanx.rank() == 0:
    total = sum(float(np.abs(values.astype(np.float64)).sum()) for values in average.averages().values())
    print(f"average {total!r} after {loader.step} steps, {schedule.get_last_lr()}", flush=True)
