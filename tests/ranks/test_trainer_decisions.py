"""Whatever ends or changes a fit happens on all ranks at the same step: a rank that decided alone would leave the others waiting."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import phalanx
from phalanx import callbacks, nn, optim
from phalanx.core.errors import NonFiniteError, RangeError
from tests.ranks.trainer_runs import (
    CLASSES,
    FEATURES,
    StopAt,
    data,
    left_in_order,
    on_ranks,
    result,
    same,
    trainer,
)  # fmt: skip


@pytest.fixture(autouse=True)
def in_order() -> Iterator[None]:
    with left_in_order():
        yield


@pytest.mark.parametrize(
    ("hook", "at", "steps", "epochs"),
    [("on_step_begin", 3, 4, 1), ("on_step_end", 3, 5, 1), ("on_epoch_end", 1, 12, 2), ("on_epoch_begin", 1, 7, 2)],
)
@pytest.mark.parametrize("size", [1, 3])
def test_one_rank_stops_all_at_the_same_step(hook: str, at: int, steps: int, epochs: int, size: int) -> None:
    """A rank that stopped alone would leave the others waiting."""

    def main() -> tuple[Any, ...]:
        of = trainer()
        of.fit(data()[0], epochs=9, batch_size=20, callbacks=[StopAt(size - 1, hook, at)], verbose=0)
        return of.step, of.epoch, of.stopped

    assert same(on_ranks(size, main)) == (steps, epochs, f"rank {size - 1} has enough")


def test_early_stopping_is_exact_and_restores_the_best() -> None:
    def main() -> Any:
        of = trainer()
        stopping = callbacks.EarlyStopping("val_loss", patience=2, mode="max", restore_best_weights=True)
        of.fit(*data(), 30, batch_size=20, callbacks=[stopping], verbose=0)
        values = of.history.history["val_loss"]
        best = max(range(len(values)), key=values.__getitem__)
        assert len(values) == best + 3 and stopping.best_epoch == best
        assert of.evaluate(data()[1])["loss"] == values[best], "the best weights are back"
        return result(of)

    assert same(on_ranks(1, main)) == same(on_ranks(3, main))


def test_a_plateau_lowers_the_rate_on_all_ranks_alike() -> None:
    def main() -> tuple[Any, ...]:
        of = trainer()
        plateau = optim.lr_scheduler.ReduceLROnPlateau(of.optimizer, mode="max", factor=0.1, patience=0)
        of.fit(
            *data(), 4, batch_size=20, verbose=0,
            callbacks=[callbacks.LearningRateMonitor(), callbacks.LRScheduler(plateau, monitor="val_loss")],
        )  # fmt: skip
        return result(of)["history"]["lr"], result(of)["weights"]

    found = same(on_ranks(1, main))
    assert found == same(on_ranks(2, main))
    assert float(found[0][0]) == 0.01 and float(found[0][-1]) < 0.01
    of = trainer()
    plateau = callbacks.LRScheduler(optim.lr_scheduler.ReduceLROnPlateau(of.optimizer))
    with pytest.raises(RangeError, match=r"LRScheduler watches 'val_loss', but .* have: loss, accuracy"):
        of.fit(data()[0], verbose=0, callbacks=[plateau])
    with pytest.raises(RangeError, match="looks at a metric of an epoch"):
        callbacks.LRScheduler(plateau.scheduler, every="step")


def test_a_plateau_made_by_the_callback_is_the_schedules(tmp_path: Path) -> None:
    def main(make: Callable[[Any], Any], epochs: int = 5, folder: Path | None = None) -> list[str]:
        of = trainer(callbacks=[callbacks.LearningRateMonitor()])
        of.fit(*data(), epochs, batch_size=20, checkpoint_dir=folder, callbacks=[make(of.optimizer)], verbose=0)
        return result(of)["history"]["lr"]

    def own(optimizer: Any) -> callbacks.Callback:
        return callbacks.ReduceLROnPlateau("val_loss", 0.3, 1, mode="max", min_delta=0.01, cooldown=1)

    def schedules(optimizer: Any) -> callbacks.Callback:
        options = {
            "mode": "max",
            "factor": 0.3,
            "patience": 1,
            "threshold": 0.01,
            "threshold_mode": "abs",
            "cooldown": 1,
        }
        return callbacks.LRScheduler(optim.lr_scheduler.ReduceLROnPlateau(optimizer, **options))

    expected = same(on_ranks(1, lambda: main(schedules)))
    assert len(set(expected)) == 2
    assert same(on_ranks(2, lambda: main(own, 3, tmp_path))) == expected[:3]
    assert same(on_ranks(2, lambda: main(own, 5, tmp_path))) == expected


def test_a_schedule_given_to_fit_or_as_a_function() -> None:
    rates = []
    for scheduler in (
        lambda o: optim.lr_scheduler.StepLR(o, 1, gamma=0.5),
        lambda o: callbacks.LRScheduler(lambda epoch, lr: lr * (0.5 if epoch else 1.0)),
        lambda o: callbacks.LRScheduler(lambda epoch: 0.01 * 0.5**epoch),
    ):
        of = trainer(callbacks=[callbacks.LearningRateMonitor()])
        rates.append(of.fit(data()[0], epochs=3, scheduler=scheduler(of.optimizer), verbose=0).history["lr"])
    assert rates == [[0.01, 0.005, 0.0025]] * 3


def poison(rank: int, at: int) -> type[nn.Module]:
    """A layer that gives NaN on one rank in one step."""

    class Poison(nn.Module):
        calls = 0

        def forward(self, x: Any) -> Any:
            self.calls += self.training
            return x * float("nan") if self.training and phalanx.rank() == rank and self.calls >= at else x

    return Poison


@pytest.mark.parametrize(
    ("size", "shards", "options"),
    [
        (1, None, {}),
        (2, None, {}),
        (3, 3, {}),
        (2, 4, {"shard": "gradients"}),
        (2, 4, {"compression": "int8"}),
        (2, 4, {"together": True}),
    ],
)
def test_nan_on_one_rank_ends_all_before_the_update(size: int, shards: int | None, options: dict[str, Any]) -> None:
    def main() -> tuple[Any, ...]:
        shards_of_a_rank = 1 if shards is None else -(-shards // size)
        poisoned = poison(size - 1, 2 * shards_of_a_rank + 1)()
        model = nn.Sequential(nn.Linear(FEATURES, 8), poisoned, nn.Linear(8, CLASSES))
        of = phalanx.Trainer(model, optim.SGD(model.parameters(), lr=0.1), nn.CrossEntropyLoss(), **options)
        bits: list[bytes] = []
        keep = callbacks.LambdaCallback(on_step_end=lambda step, logs: bits.append(model[0].weight.array.tobytes()))
        of.fit(*data(), 2, batch_size=20, callbacks=[keep, callbacks.TerminateOnNaN()], verbose=0)
        assert len(bits) == 2 and model[0].weight.array.tobytes() == bits[-1]
        return of.step, of.epoch, of.stopped, np.isfinite(of.history.history["val_loss"][0])

    step, epoch, word, finite = same(on_ranks(size, main, shards=shards))
    assert (step, epoch, finite) == (3, 1, True)
    assert word.startswith(
        f"rank {size - 1} of {size}: the loss is nan in step 2; the first value that is not finite is in"
    )
    assert "layer '1' (Poison" in word


def test_without_the_callback_nan_is_an_error() -> None:
    x = np.full((4, FEATURES), np.nan, np.float32)
    with pytest.raises(NonFiniteError, match=r"loss is nan in step 0; the first value .* is in input"):
        trainer().fit((x, np.zeros(4, np.int64)), batch_size=4, verbose=0)
