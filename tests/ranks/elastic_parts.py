"""Trainings whose ranks may be lost in the middle of something else than a gradient.

    elastic_parts.py FOLDER PAUSE_S talk | trainer | optimizer | gradients

``talk``: within each step ranks meet inside of the forward, and after it they evaluate, predict, ask each other and save;
``trainer``: a fit with metrics, callbacks and an average; the others: ZeRO-1 and ZeRO-2. Writes FOLDER/ledger.jsonl, and at its start
FOLDER/ranks/RANK.PID. Rank 0 writes FOLDER/told in the end: everything that was computed along the way.
"""

import os
import sys
import time
from pathlib import Path

import numpy as np

import phalanx
from phalanx import nn, optim

STEPS_PER_EPOCH, EPOCHS = 4, 6
folder, pause_s, mode = Path(sys.argv[1]), float(sys.argv[2]), sys.argv[3]
phalanx.init(shards=8, seed=5)
(folder / "ranks").mkdir(exist_ok=True)
(folder / "ranks" / f"{os.environ.get('PHALANX_RANK', 0)}.{os.getpid()}").touch()

rng = np.random.default_rng(0)
x, y = rng.standard_normal((60, 12)).astype(np.float32), rng.integers(0, 4, 60)
norm = nn.SyncBatchNorm(24) if mode == "talk" else nn.BatchNorm1d(24)
net = nn.Sequential(nn.Linear(12, 24), norm, nn.ReLU(), nn.Dropout(0.3), nn.Linear(24, 4))


def pause() -> None:
    """Long ones while ranks are on their way that should find the job still training."""
    time.sleep(0.6 if (folder / "slow").exists() else pause_s)


def fit() -> list[str]:
    class Pause(phalanx.callbacks.Callback):
        def on_step_begin(self, step: int, logs: dict[str, float]) -> None:
            pause()

    optimizer = optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
    trainer = phalanx.Trainer(
        net, optimizer, nn.CrossEntropyLoss(), metrics=["accuracy", "top_k_accuracy"], clip_norm=1.0,
        callbacks=[Pause(), phalanx.callbacks.EMA(0.8), phalanx.callbacks.LedgerWriter(folder / "ledger.jsonl"),
                   phalanx.callbacks.CSVLogger(folder / "log.csv")],
    )  # fmt: skip
    schedule = optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=STEPS_PER_EPOCH * EPOCHS)
    history = trainer.fit(
        (x, y), validation=(x, y), epochs=EPOCHS, batch_size=16, verbose=0, accumulate=2,
        scheduler=phalanx.callbacks.LRScheduler(schedule, every="step"),
    )  # fmt: skip
    return [f"{name} {value!r}" for name, values in history.history.items() for value in values]


def loop() -> list[str]:
    shard = mode if mode in ("optimizer", "gradients") else None
    model = phalanx.DataParallel(net, shard=shard)
    optimizer = optim.Adam(model.parameters(), lr=0.01)
    schedule = optim.lr_scheduler.StepLR(optimizer, 5, 0.8)
    loader = phalanx.data.DataLoader(phalanx.data.TensorDataset(x, y), batch_size=16, shuffle=True)
    average = optim.EMA(model, 0.8)
    checkpointer = phalanx.Checkpointer(
        folder / "checkpoints", model=model, optimizer=optimizer, loader=loader,
        every=None if mode == "talk" else 2, state={"schedule": schedule, "average": average},
    )  # fmt: skip
    checkpointer.resume()
    ledger, told = phalanx.Ledger(folder / "ledger.jsonl", model, optimizer), dict[int, str]()

    def train(inputs: phalanx.Tensor, targets: phalanx.Tensor) -> None:
        nn.CrossEntropyLoss()(model(inputs), targets).backward()

    while loader.epoch < EPOCHS:
        for step in loader.steps():
            optimizer.zero_grad()
            phalanx.run_shards(train, step)
            pause()
            optimizer.step()
            schedule.step()
            average.update()
            if mode == "talk":
                found = phalanx.evaluate(model, (x, y), "accuracy", loss=nn.CrossEntropyLoss(), batch_size=8)
                rows = phalanx.predict(model, x, batch_size=8)
                asked = phalanx.agree(step.index % 3 == 0, name="third"), phalanx.sum_over_ranks(0)
                path = None if step.void else checkpointer.save()
                if not step.void:
                    told[step.index] = f"{found} {float(rows.sum())!r} {asked} {path and path.name}"
            ledger.record(loader.step)
            checkpointer.after_step()
    sums = {name: float(values.astype(np.float64).sum()) for name, values in average.averages().items()}
    return [f"{step} {text}" for step, text in told.items()] + [f"{schedule.last_epoch} steps, averages {sums}"]


lines = fit() if mode == "trainer" else loop()
if phalanx.rank() == 0:
    (folder / "told").write_text("\n".join(lines))
