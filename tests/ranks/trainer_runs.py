"""A small fit with everything in it: what the tests of the Trainer run on threads, and as a job of its own.

``trainer_runs.py FOLDER [--shards V] [--epochs N] [--every STEPS] [--enough RANK] [--nan RANK]`` writes ``FOLDER/ledger`` and, on rank 0, ``FOLDER/result.json``.
"""

from __future__ import annotations

import argparse
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

import phalanx
from phalanx import callbacks, nn, optim
from phalanx.core.hashing import hash_array
from phalanx.data import TensorDataset
from phalanx.dist.communicators.threads import run_threads

SAMPLES, HELD_OUT, FEATURES, CLASSES = 107, 23, 12, 4


def data() -> tuple[TensorDataset, TensorDataset]:
    """Training and validation data; neither size divides by anything."""
    rng = np.random.default_rng(3)
    x = rng.standard_normal((SAMPLES + HELD_OUT, FEATURES)).astype(np.float32)
    y = (x[:, :CLASSES] + 0.3 * rng.standard_normal((len(x), CLASSES))).argmax(1)
    return TensorDataset(x[:SAMPLES], y[:SAMPLES]), TensorDataset(x[SAMPLES:], y[SAMPLES:])


def net() -> nn.Module:
    return nn.Sequential(
        nn.Linear(FEATURES, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, CLASSES)
    )


def trainer(**options: Any) -> phalanx.Trainer:
    model = net()
    optimizer = optim.Adam(model.parameters(), lr=0.01)
    return phalanx.Trainer(model, optimizer, nn.CrossEntropyLoss(), ["accuracy"], **options)


def result(of: phalanx.Trainer) -> dict[str, Any]:
    """Every bit that a fit leaves."""
    return {
        "step": of.step,
        "epoch": of.epoch,
        "stopped": of.stopped,
        "history": {name: list(map(repr, values)) for name, values in of.history.history.items()},
        "epochs": of.history.epoch,
        "weights": {name: f"{hash_array(tensor.array):016x}" for name, tensor in of.model.state_dict().items()},
    }


def full_fit(folder: Path | None = None, epochs: int = 3, every: int | None = None, more: Any = ()) -> phalanx.Trainer:
    """Class weights, clipping, micro-batches, a schedule by steps, early stopping that keeps the best weights."""
    train, held_out = data()
    of = trainer(clip_norm=0.8)
    chosen = [
        callbacks.LRScheduler(
            optim.lr_scheduler.OneCycleLR(of.optimizer, 0.02, total_steps=6 * epochs + 1), every="step"
        ),
        callbacks.LearningRateMonitor(),
        callbacks.EarlyStopping("val_accuracy", patience=2, restore_best_weights=True),
        callbacks.LedgerWriter(None if folder is None else folder / "ledger"),
        *more,
    ]
    if folder is not None:
        chosen.append(callbacks.Checkpoint(folder / "checkpoints", every="epoch" if every is None else every))
        chosen.append(callbacks.Checkpoint(folder / "best", save="best", monitor="val_accuracy"))
    of.fit(
        train, held_out, epochs, batch_size=20, validation_batch_size=7, class_weight={1: 2.5}, accumulate=2,
        callbacks=chosen, verbose=0,
    )  # fmt: skip
    return of


# -- ranks that are threads ----------------------------------------------------------------------------------------------


def on_ranks(size: int, function: Callable[[], Any], *, shards: int | None = 4, seed: int = 5) -> list[Any]:
    """``function`` on ranks that leave in order; a SystemExit is a result."""

    def main() -> Any:
        phalanx.init(shards=shards, seed=seed)
        try:
            return function()
        except SystemExit as end:
            return f"exit {end.code}"
        finally:
            phalanx.shutdown()

    return run_threads(main, size, timeout_s=20.0)


def same(results: list[Any]) -> Any:
    """What all ranks gave, which must be one thing."""
    assert all(result == results[0] for result in results), results
    return results[0]


@contextmanager
def left_in_order() -> Iterator[None]:
    """Around a test: no group before, none after, no thread left."""
    phalanx.shutdown()
    before = set(threading.enumerate())
    yield
    phalanx.shutdown()
    assert not [t for t in threading.enumerate() if t.name.startswith("phalanx-comm") and t not in before]


class AskForStop(callbacks.Callback):
    """As SIGTERM does, to one rank."""

    def __init__(self, at: int) -> None:
        self.at = at

    def on_step_begin(self, step: int, logs: dict[str, Any]) -> None:
        if step == self.at and phalanx.rank() == phalanx.size() - 1:
            phalanx.request_stop("the budget is spent")


class StopAt(callbacks.Callback):
    """Only one rank asks, at one of the hooks."""

    def __init__(self, rank: int, hook: str, at: int) -> None:
        setattr(self, hook, lambda number, logs: self._ask(rank, number == at))

    def _ask(self, rank: int, now: bool) -> None:
        if now and phalanx.rank() == rank:
            self.trainer.stop(f"rank {rank} has enough")


# -- a job of its own ----------------------------------------------------------------------------------------------------


class Enough(callbacks.Callback):
    """One rank alone asks to stop."""

    def __init__(self, rank: int | None) -> None:
        self.rank = rank

    def on_step_begin(self, step: int, logs: dict[str, Any]) -> None:
        if step == 7 and phalanx.rank() == self.rank:
            self.trainer.stop(f"rank {self.rank} has enough")


class Poison(callbacks.Callback):
    """The weights of one rank alone become NaN."""

    def __init__(self, rank: int | None) -> None:
        self.rank = rank

    def on_step_begin(self, step: int, logs: dict[str, Any]) -> None:
        if step == 8 and phalanx.rank() == self.rank:
            self.trainer.module[0].weight.array[...] = np.nan


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--shards", type=int)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--every", type=int)
    parser.add_argument("--enough", type=int)
    parser.add_argument("--nan", type=int)
    args = parser.parse_args()
    phalanx.init(shards=args.shards, seed=5)
    more = [Enough(args.enough), Poison(args.nan), callbacks.TerminateOnNaN()]
    of = full_fit(args.folder, args.epochs, args.every, more)
    if phalanx.rank() == 0:
        (args.folder / "result.json").write_text(json.dumps(result(of)))


if __name__ == "__main__":
    main()
