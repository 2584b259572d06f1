"""Write the checkpoint that later versions must go on reading: once for each version of the format, never again."""

import sys
from pathlib import Path

import numpy as np

import phalanx
from phalanx import nn, optim
from phalanx.core.checkpoint.manifest import VERSION
from phalanx.data import DataLoader, TensorDataset

GOLDEN = Path(__file__).parent / f"checkpoint-version-{VERSION}"
STEPS = 5


def parts() -> tuple[nn.Module, optim.Optimizer, DataLoader, optim.lr_scheduler.LRScheduler]:
    """A model with buffers of whole numbers, an optimizer in two groups, a loader in the middle of an epoch, a schedule."""
    phalanx.init(shards=4, seed=3)
    numbers = np.random.default_rng(1)
    x = numbers.normal(size=(40, 6)).astype(np.float32)
    loader = DataLoader(TensorDataset(phalanx.tensor(x), phalanx.tensor(x[:, :1])), batch_size=12, shuffle=True)
    model = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Linear(5, 1))
    groups = [
        {"params": model[0].parameters(), "lr": 0.01},
        {"params": [*model[1].parameters(), *model[2].parameters()]},
    ]
    optimizer = optim.AdamW(groups, lr=0.02)
    return model, optimizer, loader, optim.lr_scheduler.StepLR(optimizer, 3)


def checkpointer(directory: Path | None, every: int | None = None) -> tuple[phalanx.Checkpointer, tuple]:
    """Of :func:`parts`."""
    model, optimizer, loader, schedule = built = parts()
    state = {"schedule": schedule, "odd": Odd()}
    return phalanx.Checkpointer(
        directory, model=model, optimizer=optimizer, loader=loader, every=every, state=state, config={"name": "golden"}
    ), built


class Odd:
    """State of every form that a checkpoint has a word for."""

    def __init__(self) -> None:
        self.state = {"best": float("inf"), "by number": {1: [True, None, 0.1]}, "mean": np.arange(3, dtype=np.float16)}

    def state_dict(self) -> dict:
        return self.state

    def load_state_dict(self, state: dict) -> None:
        self.loaded = state


def train(checkpointer: phalanx.Checkpointer, built: tuple, steps: int) -> None:
    """``steps`` more."""
    model, optimizer, loader, schedule = built
    wrapped = phalanx.DataParallel(model)
    until = loader.step + steps
    while loader.step < until:
        for step in loader.steps():
            optimizer.zero_grad()
            for x, y in step:
                nn.functional.mse_loss(wrapped(x), y).backward()
            optimizer.step()
            schedule.step()
            checkpointer.after_step()
            if loader.step == until:
                break


if __name__ == "__main__":
    if GOLDEN.exists():
        sys.exit(f"{GOLDEN} is there: a version that was written is never written again")
    saving, built_ = checkpointer(GOLDEN, every=STEPS)
    train(saving, built_, STEPS)
    print(saving.store.list())
