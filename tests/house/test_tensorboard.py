"""Event files are read back by TensorBoard's own reader; the table, the trace and the lines by what reads those."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import phalanx
from phalanx import callbacks
from phalanx.dist.communicators.threads import run_threads
from tests.ranks.trainer_runs import data, trainer


@pytest.fixture(autouse=True)
def in_order() -> Iterator[None]:
    phalanx.shutdown()
    yield
    phalanx.shutdown()


def fitted(*more: Any, epochs: int = 3, **options: Any) -> phalanx.Trainer:
    of = trainer()
    monitor = callbacks.LearningRateMonitor()
    of.fit(*data(), epochs, batch_size=20, callbacks=[*more, monitor], **{"verbose": 0} | options)
    return of


def on_ranks(size: int, function: Any) -> list[Any]:
    def main() -> Any:
        phalanx.init(shards=2, seed=5)
        try:
            return function()
        finally:
            phalanx.shutdown()

    return run_threads(main, size, timeout_s=20.0)


def read(folder: Path) -> EventAccumulator:
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0, "histograms": 0})
    events.Reload()
    return events


def test_scalars_and_histograms_as_tensorboard_reads_them(tmp_path: Path) -> None:
    board = lambda: callbacks.TensorBoard(tmp_path, every_steps=2, histograms=3)  # noqa: E731
    histories = on_ranks(2, lambda: fitted(board()).history.history)
    events, history = read(tmp_path), histories[0]
    assert len(list(tmp_path.iterdir())) == 1, "rank 0 alone writes"
    names = ["loss", "accuracy", "val_loss", "val_accuracy", "lr"]
    assert sorted(events.Tags()["scalars"]) == sorted([f"epoch/{n}" for n in names] + ["step/loss", "step/lr"])
    for name in names:
        found = events.Scalars(f"epoch/{name}")
        assert [event.step for event in found] == [6, 12, 18]
        assert [event.value for event in found] == [np.float32(value) for value in history[name]]
    assert [event.step for event in events.Scalars("step/loss")] == list(range(2, 19, 2))
    (histogram,) = events.Histograms("parameters/4.bias")
    value = histogram.histogram_value
    assert (histogram.step, value.num, sum(value.bucket), len(value.bucket)) == (18, 4, 4, 64)
    assert value.min <= value.bucket_limit[0] and value.bucket_limit[-1] == pytest.approx(value.max)


def test_what_a_given_up_run_said_of_later_steps_is_void(tmp_path: Path) -> None:
    def run(epochs: int, stop_at: int | None) -> None:
        board = callbacks.TensorBoard(tmp_path / "board", every_steps=1)
        ask = callbacks.LambdaCallback(
            on_step_begin=lambda step, logs: phalanx.request_stop("a test") if step == stop_at else None
        )
        save = callbacks.Checkpoint(tmp_path / "run", every="epoch")
        fitted(board, ask, save, epochs=epochs)

    phalanx.init(seed=5)
    with pytest.raises(SystemExit):
        run(3, 9)
    (tmp_path / "run" / "step-00000010").rename(tmp_path / "run" / ".tmp-lost")  # killed before it was saved
    phalanx.shutdown()
    phalanx.init(seed=5)
    run(2, None)
    events = read(tmp_path / "board")
    assert [event.step for event in events.Scalars("step/loss")] == list(range(1, 13))
    assert [event.step for event in events.Scalars("epoch/loss")] == [6, 12]


def test_csv(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "log.csv"

    def rows() -> list[dict[str, str]]:
        with path.open(newline="") as file:
            return list(csv.DictReader(file))

    history = on_ranks(2, lambda: fitted(callbacks.CSVLogger(path), checkpoint_dir=tmp_path / "run").history.history)[0]
    assert list(rows()[0]) == ["epoch", "step", *history]
    assert [float(row["val_loss"]) for row in rows()] == history["val_loss"]
    on_ranks(1, lambda: fitted(callbacks.CSVLogger(path), checkpoint_dir=tmp_path / "run", epochs=5))
    assert [(row["epoch"], row["step"]) for row in rows()] == [(str(e), str(6 * e + 6)) for e in range(5)]
    fitted(callbacks.CSVLogger(path, append=True), epochs=1)
    assert len(rows()) == 6
    fitted(callbacks.CSVLogger(path), epochs=1)
    assert len(rows()) == 1


def test_timeline(tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    on_ranks(2, lambda: fitted(callbacks.Timeline(path, first=2, steps=3)))
    events = json.loads(path.read_text())["traceEvents"]
    slices = [event for event in events if event["ph"] == "X"]
    assert {event["pid"] for event in slices} == {0, 1}
    assert {event["name"] for event in slices} == {"data", "forward", "backward", "wait for others", "optimizer"}
    for rank in (0, 1):
        own = [event for event in slices if event["pid"] == rank and event["name"] != "data"]
        assert [event["args"]["step"] for event in own if event["name"] == "optimizer"] == [2, 3, 4]
        ends = [event["ts"] + event["dur"] for event in own]
        assert all(after["ts"] >= end - 0.01 for end, after in zip(ends, own[1:], strict=False)), (
            "they follow each other"
        )


def test_lines_of_rank_0_alone(capfd: pytest.CaptureFixture[str]) -> None:
    on_ranks(2, lambda: fitted(verbose="auto", epochs=2))
    lines = capfd.readouterr().out.splitlines()
    assert [line.split(":")[0].rpartition(",")[0] for line in lines] == ["epoch 1/2, 6 steps", "epoch 2/2, 6 steps"]
    assert all(f" {name} " in line for line in lines for name in ("loss", "accuracy", "val_loss", "val_accuracy", "lr"))


def test_a_bar_where_it_is_wanted(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PHALANX_PROGRESS", "1")
    fitted(epochs=1, verbose=1)
    shown = capfd.readouterr().out
    assert "epoch 1/1" in shown and "6/6" in shown and "loss" in shown


def test_without_the_package_one_line_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "tensorboard.compat.proto", None)
    with pytest.raises(ImportError, match=r"pip install 'phalanx\[tensorboard\]'"):
        fitted(callbacks.TensorBoard(tmp_path))
