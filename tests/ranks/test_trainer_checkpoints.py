"""A fit that was interrupted anywhere goes on at any number of ranks as if it had not been; what is saved when."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import phalanx
from phalanx import callbacks, nn, optim
from phalanx.core import faults
from phalanx.core.errors import RangeError, StateError
from tests.ranks.trainer_runs import (
    AskForStop,
    StopAt,
    data,
    full_fit,
    left_in_order,
    net,
    on_ranks,
    result,
    same,
    trainer,
)  # fmt: skip


@pytest.fixture(autouse=True)
def in_order() -> Iterator[None]:
    with left_in_order():
        yield


@pytest.fixture(scope="module")
def alone() -> dict[str, Any]:
    return same(on_ranks(1, lambda: result(full_fit())))


@pytest.mark.parametrize(("first", "then", "at"), [(2, 3, 1), (3, 1, 5), (1, 2, 9), (2, 2, 11)])
def test_interrupted_and_resumed_elsewhere_is_not_interrupted(
    first: int, then: int, at: int, tmp_path: Path, alone: dict[str, Any]
) -> None:
    """In the middle of an epoch, at its last step, in the second: bits, history, counters of early stopping, the ledger."""
    ended = on_ranks(first, lambda: result(full_fit(tmp_path, more=[AskForStop(at)])))
    assert ended == ["exit 0"] * first
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()][-1:] or at < 6
    assert same(on_ranks(then, lambda: result(full_fit(tmp_path)))) == alone
    assert len((tmp_path / "ledger").read_text().splitlines()) == alone["step"]


def test_resumed_within_an_epoch_of_so_many_steps(tmp_path: Path) -> None:
    """Epochs of 4 steps over data of 6; interrupted after 7 steps."""

    def main(folder: Path, *more: callbacks.Callback) -> dict[str, Any]:
        of = trainer()
        save = callbacks.Checkpoint(folder, every=100)
        of.fit(data()[0], epochs=3, batch_size=20, steps_per_epoch=4, callbacks=[save, *more], verbose=0)
        return result(of)

    whole = same(on_ranks(1, lambda: main(tmp_path / "whole")))
    assert on_ranks(2, lambda: main(tmp_path / "cut", AskForStop(6))) == ["exit 0"] * 2
    assert same(on_ranks(3, lambda: main(tmp_path / "cut"))) == whole
    assert whole["step"] == 12


def test_metrics_that_are_arrays_go_on_in_the_middle_of_an_epoch(tmp_path: Path) -> None:
    def main(folder: Path, *more: callbacks.Callback) -> dict[str, Any]:
        model = net()
        mass = phalanx.metrics.MeanOf(lambda prediction, target: prediction.exp().sum(1), "mass")
        metrics = [phalanx.metrics.ConfusionMatrix(), phalanx.metrics.Perplexity(), mass]
        of = phalanx.Trainer(model, optim.Adam(model.parameters(), lr=0.01), nn.CrossEntropyLoss(), metrics)
        chosen = [callbacks.CSVLogger(folder / "log.csv"), *more]
        of.fit(*data(), 2, batch_size=20, checkpoint_dir=folder / "run", callbacks=chosen, verbose=2)
        return result(of)

    whole = same(on_ranks(1, lambda: main(tmp_path / "whole")))
    assert on_ranks(2, lambda: main(tmp_path / "cut", AskForStop(8))) == ["exit 0"] * 2
    assert same(on_ranks(3, lambda: main(tmp_path / "cut"))) == whole
    logs = [(tmp_path / name / "log.csv").read_text() for name in ("whole", "cut")]
    assert logs[0] == logs[1] and logs[0].count("[[") == 4


def test_resuming_what_is_done_does_nothing_more(tmp_path: Path) -> None:
    def main() -> tuple[Any, ...]:
        of = trainer()
        told: list[int] = []
        watch = callbacks.LambdaCallback(on_step_begin=lambda step, logs: told.append(step))
        of.fit(data()[0], epochs=2, batch_size=20, checkpoint_dir=tmp_path, callbacks=[watch], verbose=0)
        return len(told), of.step, of.history.epoch

    assert same(on_ranks(2, main)) == (12, 12, [0, 1])
    assert same(on_ranks(2, main)) == (0, 12, [0, 1])


def test_what_may_differ_from_the_saved_run_is_named(tmp_path: Path) -> None:
    def main(epochs: int, batch_size: int, **options: Any) -> int:
        of = trainer()
        of.fit(data()[0], epochs=epochs, batch_size=batch_size, checkpoint_dir=tmp_path, verbose=0, **options)
        return of.step

    assert main(1, 20) == 6
    with pytest.raises(StateError, match="batch_size: saved 20, now 54"):
        main(2, 54)
    assert main(2, 54, allow=("batch_size",)) == 8
    assert main(1, 20, resume=None) == 6
    assert main(1, 20, resume=tmp_path / "step-00000006") == 6


def test_a_fit_that_stopped_early_stays_stopped(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    def main() -> tuple[Any, ...]:
        of = trainer()
        of.fit(
            data()[0],
            epochs=9,
            batch_size=20,
            checkpoint_dir=tmp_path,
            callbacks=[StopAt(1, "on_epoch_end", 1)],
            verbose=0,
        )
        return of.step, of.epoch, of.stopped

    for _ in range(2):
        assert same(on_ranks(2, main)) == (12, 2, "rank 1 has enough")


def test_last_best_and_all(tmp_path: Path) -> None:
    def main() -> list[float]:
        of = trainer()
        folders = {name: tmp_path / name for name in ("last", "best", "all", "steps")}
        chosen = [
            callbacks.Checkpoint(folders["last"], keep=2),
            callbacks.Checkpoint(folders["best"], save="best", monitor="val_loss", mode="max"),
            callbacks.Checkpoint(folders["all"], save="all"),
            callbacks.Checkpoint(folders["steps"], save="all", every=5),
        ]
        of.fit(*data(), 6, batch_size=20, callbacks=chosen, verbose=0)
        losses = of.history.history["val_loss"]
        of.load_weights(folders["best"])
        assert of.evaluate(data()[1])["loss"] == max(losses)
        return losses

    losses = same(on_ranks(2, main))
    saved = {
        name: sorted(int(p.name[5:]) for p in (tmp_path / name).iterdir()) for name in ("last", "best", "all", "steps")
    }
    best = 6 * (losses.index(max(losses)) + 1)
    assert best < 36, "the last epoch would be saved in any case"
    assert saved == {
        "last": [30, 36], "best": [best], "all": [6, 12, 18, 24, 30, 36], "steps": [5, 10, 15, 20, 25, 30, 35, 36],
    }  # fmt: skip


def test_weights_as_files(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    def main() -> list[float]:
        of = trainer()
        chosen = [
            callbacks.ModelCheckpoint(tmp_path / "best", save_best_only=True, mode="max"),
            callbacks.ModelCheckpoint(tmp_path / "each" / "{epoch}-{val_accuracy:.2f}"),
            callbacks.ModelCheckpoint(str(tmp_path / "{step}"), save_freq=7),
        ]
        of.fit(*data(), 3, batch_size=20, callbacks=chosen, verbose=0)
        losses = of.history.history["val_loss"]
        of.model.load_state_dict(phalanx.load(tmp_path / "best"))
        assert of.evaluate(data()[1])["loss"] == max(losses) == chosen[0].best
        names = [f"{n}-{v:.2f}" for n, v in enumerate(of.history.history["val_accuracy"], 1)]
        assert sorted(path.name for path in (tmp_path / "each").iterdir()) == names
        return losses

    same(on_ranks(2, main))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["14", "7", "best", "each"]
    (tmp_path / "file").write_text("")
    of = trainer()
    of.fit(data()[0], callbacks=[callbacks.ModelCheckpoint(tmp_path / "file" / "x")], verbose=0)
    assert "phalanx: weights not written: " in capfd.readouterr().err
    with pytest.raises(RangeError, match=r"cannot be filled in .'val_f1'.; there are: epoch, step, loss, accuracy"):
        of.fit(data()[0], callbacks=[callbacks.ModelCheckpoint("{val_f1}")], verbose=0)


def test_asked_to_stop_without_a_checkpoint(capfd: pytest.CaptureFixture[str]) -> None:
    def main() -> None:
        trainer().fit(data()[0], epochs=9, batch_size=20, callbacks=[AskForStop(3)], verbose=0)

    assert on_ranks(2, main) == ["exit 1"] * 2
    assert "stopped by the budget is spent after step 4, nothing was saved" in capfd.readouterr().err


def test_a_save_that_fails_is_told(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    faults.arm("checkpoint-before-manifest:full")
    of = trainer()
    try:
        of.fit(data()[0], batch_size=20, checkpoint_dir=tmp_path, verbose=0)
    finally:
        faults.arm("")
    assert "no checkpoint after step 6: cannot commit" in capfd.readouterr().err
    assert of.step == 6


def test_two_fits_one_after_the_other_are_resumed_each(tmp_path: Path) -> None:
    def main(folder: Path, *more: callbacks.Callback) -> dict[str, Any]:
        of = trainer()
        of.fit(data()[0], epochs=2, batch_size=20, checkpoint_dir=folder / "first", verbose=0)
        of.fit(data()[0], epochs=2, batch_size=20, checkpoint_dir=folder / "then", callbacks=more, verbose=0)
        return result(of)

    whole = same(on_ranks(1, lambda: main(tmp_path / "whole")))
    assert on_ranks(2, lambda: main(tmp_path / "cut", AskForStop(15))) == ["exit 0"] * 2
    assert same(on_ranks(1, lambda: main(tmp_path / "cut"))) == whole


def test_two_fits_need_two_folders(tmp_path: Path) -> None:
    of = trainer()
    of.fit(data()[0], batch_size=20, checkpoint_dir=tmp_path, verbose=0)
    with pytest.raises(StateError, match=r"made by call 1 of fit\(\), this is call 2"):
        of.fit(data()[0], batch_size=20, checkpoint_dir=tmp_path, verbose=0)


def test_written_while_training_goes_on(tmp_path: Path) -> None:
    """In the background, those of every sixth step kept; a fit at another number of ranks goes on from there."""

    def main(epochs: int, folder: Path | None) -> dict[str, Any]:
        of = trainer()
        save = [] if folder is None else [callbacks.Checkpoint(folder, every=6, keep=1, keep_every=6, background=True)]
        of.fit(data()[0], epochs=epochs, batch_size=20, callbacks=save, verbose=0)
        return result(of)

    expected = same(on_ranks(1, lambda: main(3, None)))
    on_ranks(2, lambda: main(2, tmp_path))
    names = {p.name for p in tmp_path.iterdir() if p.name.startswith("step-")}
    assert names == {"step-00000006", "step-00000012"}
    assert same(on_ranks(3, lambda: main(3, tmp_path))) == expected


def test_the_end_of_an_epoch_is_not_for_the_background() -> None:
    with pytest.raises(RangeError, match="every=<number of steps>"):
        callbacks.Checkpoint("run", background=True)
