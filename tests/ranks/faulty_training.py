"""A small training job in which rank 1 goes wrong in step 3: what goes wrong is the first argument.

The moment of the fault is written to the file ``fault`` of the folder that is the second argument.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

import phalanx
from phalanx import nn, optim
from phalanx.core.graph import apply
from phalanx.core.op import Op
from phalanx.data import DataLoader, TensorDataset
from phalanx.dist.group import current

FAULTY_RANK, FAULTY_STEP = 1, 3  # the buckets of step 3 are reduced within backward
FAULT, FOLDER = sys.argv[1], Path(sys.argv[2])


def now_goes_wrong() -> None:
    """Write down the time; of several ranks that go wrong together the first one counts."""
    part = FOLDER / f"fault.{phalanx.rank()}"
    part.write_text(str(time.monotonic()))
    if not (FOLDER / "fault").exists():
        part.rename(FOLDER / "fault")


def broken_hook(gradient: Any) -> None:
    now_goes_wrong()
    raise ArithmeticError("a hook that fails on purpose")


def broken_vjp(saved: Any, gradient: Any, needs: Any, slots: Any) -> Any:
    now_goes_wrong()
    raise ArithmeticError("a gradient that fails on purpose")


BROKEN_OP = Op("broken", lambda x: (x + 0, None), broken_vjp)


class Net(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.hidden, self.norm, self.head = nn.Linear(8, width), nn.BatchNorm1d(width), nn.Linear(width, 3)
        self.goes_wrong = False

    def forward(self, x: Any) -> Any:
        x = self.hidden(x)
        if self.goes_wrong and FAULT == "hook raises":
            x.register_hook(broken_hook)
        if self.goes_wrong and FAULT == "vjp raises":
            x = apply(BROKEN_OP, x)
        return self.head(phalanx.relu(self.norm(x)))


def main() -> None:
    phalanx.init(shards=4)
    rank, group = phalanx.rank(), current()
    numbers = np.random.default_rng(0)
    x, y = numbers.normal(size=(64, 8)).astype(np.float32), numbers.integers(0, 3, 64)
    loader = DataLoader(TensorDataset(phalanx.tensor(x), phalanx.tensor(y)), batch_size=8, shuffle=True)
    if FAULT == "other model":
        now_goes_wrong()
    net = Net(17 if FAULT == "other model" and rank == FAULTY_RANK else 16)
    model = phalanx.DataParallel(net)
    optimizer = optim.Adam(model.parameters(), lr=0.01)
    checkpoint = phalanx.Checkpointer(FOLDER / "checkpoints", model=model, optimizer=optimizer, loader=loader)
    ledger = phalanx.Ledger(FOLDER / "ledger", model, optimizer)
    for step in loader.steps():
        net.goes_wrong = faulty = rank == FAULTY_RANK and step.index == FAULTY_STEP
        optimizer.zero_grad()
        for x, y in step:
            if faulty and FAULT == "never arrives":
                now_goes_wrong()
                time.sleep(1000)
            if faulty and FAULT == "other collective":
                now_goes_wrong()
                group.communicator.barrier(name="my barrier").wait()
            nn.functional.cross_entropy(model(x), y).backward()
        if step.index == FAULTY_STEP and FAULT == "other shape":
            now_goes_wrong()
            group.communicator.all_reduce(np.ones(3 + (rank == FAULTY_RANK), np.float32), name="my sum").wait()
        if faulty and FAULT == "other step":
            now_goes_wrong()
            checkpoint.save()  # on a channel of its own, while the others sum their gradients
        optimizer.step()
        ledger.record(loader.step)
        checkpoint.after_step()


main()
