"""A small job that interrupts itself: at the N-th call or return of its main thread Python raises SIGINT.

    interrupted_job.py FOLDER PHASE N [RANK]

PHASE: counting begins with it: import, init, build, train, save, end; never: no signal, and the counts are printed.  RANK: only
on this one.  The job loads by worker processes, saves behind training, and makes things that are destroyed while it trains.
"""

import atexit
import os
import signal
import sys
from pathlib import Path

import phalanx

COUNTED = [0]
COUNTS: dict[str, int] = {}


def begin(phase):
    """Of a run without a signal: how many calls and returns there were before; otherwise the place to count from."""
    if wanted == "never":
        COUNTS[phase] = COUNTED[0]
    if wanted in (phase, "never") and only in ("", rank):
        sys.setprofile(watch)


def watch(frame, event, argument, signal_now=signal.raise_signal, number=signal.SIGINT):
    COUNTED[0] += 1
    if COUNTED[0] == at:
        (folder / f"planted-{rank}").write_text(f"{event} {frame.f_code.co_filename}:{frame.f_lineno}")
        signal_now(number)


def tell():
    print("counts", *(f"{phase}:{count}" for phase, count in COUNTS.items()), COUNTED[0], flush=True)


if __name__ == "__main__":
    folder, wanted, at = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    only = "".join(sys.argv[4:])
    rank = os.environ.get("PHALANX_RANK") or os.environ.get("OMPI_COMM_WORLD_RANK") or "0"
    if wanted == "never":
        at = -1
        atexit.register(tell)
    begin("import")

import numpy as np  # noqa: E402

from phalanx import nn, optim  # noqa: E402
from phalanx.data import DataLoader, TensorDataset  # noqa: E402


class Circle:
    """Destroyed by the collector, at any moment."""

    def __init__(self):
        self.itself = self

    def __del__(self):
        sum(len(str(number)) for number in range(8))


if __name__ == "__main__":
    begin("init")
    phalanx.init(shards=2, seed=0)
    begin("build")
    model = phalanx.DataParallel(nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4)))
    optimizer = optim.Adam(model.parameters())
    random = np.random.default_rng(0)
    data = TensorDataset(
        phalanx.tensor(random.standard_normal((64, 8), np.float32)), phalanx.tensor(random.integers(0, 4, 64))
    )
    loader = DataLoader(data, 16, shuffle=True, num_workers=1, multiprocessing_context="spawn", persistent_workers=True)
    state = {"model": model, "optimizer": optimizer, "loader": loader}
    checkpointer = phalanx.Checkpointer(folder / "run", **state, every=3, background=True)
    begin("train")
    for _ in range(3):
        for step in loader.steps():
            optimizer.zero_grad()
            for x, y in step:
                nn.functional.cross_entropy(model(x), y).backward()
                circles = [Circle() for _ in range(20)]
            optimizer.step()
            checkpointer.after_step()
    begin("save")
    checkpointer.wait()
    begin("end")
