"""``phalanx diverge``: where two ledgers differ first, in what, by which tensor; and its exit codes."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import phalanx
from phalanx import nn, optim
from phalanx.cli import main
from phalanx.ledger import Ledger

STEPS = 6


def write(path: Path, steps: range, **changes: Any) -> str:
    """A ledger of ``steps``; ``changes``: part -> (step from which on it differs, value)."""
    lines = []
    for step in steps:
        line = {"step": step, "loss": 1.0 / step, "weights": f"w{step}", "optimizer": f"o{step}", "buffers": "b"}
        line |= {part: value for part, (since, value) in changes.items() if step >= since}
        lines.append(json.dumps(line) + "\n")
    path.write_text("".join(lines))
    return str(path)


def run(path: Path, flip_at: int | None, detail: bool) -> str:
    """The ledger of a small training run in which one bit of a weight flips before step ``flip_at``."""
    phalanx.manual_seed(3)
    model = phalanx.DataParallel(nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 2)))
    optimizer = optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    ledger = Ledger(path, model, optimizer, detail=detail)
    for step in range(1, STEPS + 1):
        x = phalanx.tensor(np.random.default_rng(step).standard_normal((8, 4)).astype(np.float32))
        optimizer.zero_grad()
        model(x).pow(2).mean().backward()
        optimizer.step()
        if step == flip_at:
            model.module[2].bias.array.view(np.uint32)[1] ^= 1
        ledger.record(step)
    return str(path)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return Path(os.curdir)


def test_the_tensor_of_a_flipped_bit_is_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ours, theirs = run(folder / "a", None, True), run(folder / "b", 4, True)
    assert main(["diverge", ours, theirs]) == 1
    told = capsys.readouterr().out.splitlines()
    assert told[0] == "step 4 is the first that differs: in weights; equal: loss, optimizer, buffers"
    assert told[2].startswith("    weights: the first tensor is 2.bias (") and told[2].endswith("; 1 of 6 differ")
    assert told[3] == "equal before: 3 steps, 1 to 3"
    assert len(told) == 4


def test_totals_alone_say_how_to_learn_the_tensor(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ours, theirs = run(folder / "a", None, True), run(folder / "b", 4, False)
    assert main(["diverge", ours, theirs]) == 1
    told = capsys.readouterr().out
    assert "b holds totals only: to learn the tensor, run both again with Ledger(..., detail=True)" in told
    assert "--ledger-detail" in told


def test_detail_changes_no_total(folder: Path) -> None:
    with_detail, without = (
        [json.loads(t) for t in Path(run(folder / n, None, d)).read_text().splitlines()]
        for n, d in (("a", True), ("b", False))
    )
    for one, other in zip(with_detail, without, strict=True):
        tensors = one.pop("tensors")
        assert one == other
        assert list(tensors["weights"]) == ["0.weight", "0.bias", "1.weight", "1.bias", "2.weight", "2.bias"]
        assert "momentum_buffer/2.bias" in tensors["optimizer"] and "1.running_mean" in tensors["buffers"]


def test_equal_runs(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["diverge", run(folder / "a", None, False), run(folder / "b", None, True)]) == 0
    assert capsys.readouterr().out == f"equal in all {STEPS} steps that both have\n"


def test_a_shorter_ledger_is_told(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["diverge", write(folder / "a", range(1, 10)), write(folder / "b", range(3, 6))]) == 0
    told = capsys.readouterr().out.splitlines()
    assert told == [
        "equal in all 3 steps that both have",
        "b has only steps 3 to 5: steps 1 to 9 of the other ledger cannot be compared",
    ]


@pytest.mark.parametrize(
    ("changes", "first"),
    [
        ({"loss": (7, 0.5)}, "step 7 is the first that differs: in loss; equal: weights, optimizer, buffers"),
        ({"optimizer": (5, "x"), "weights": (6, "y")}, "step 5 is the first that differs: in optimizer; equal: loss, weights, buffers"),
        ({"loss": (2, float("nan"))}, "step 2 is the first that differs: in loss; equal: weights, optimizer, buffers"),
    ],
)  # fmt: skip
def test_the_first_step_and_part(
    folder: Path, changes: dict[str, Any], first: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["diverge", write(folder / "a", range(1, 10)), write(folder / "b", range(1, 10), **changes)]) == 1
    told = capsys.readouterr().out
    assert told.splitlines()[0] == first
    if list(changes) == ["loss"]:
        assert "the batch or the loss function differs" in told


def test_a_loss_that_is_no_number_equals_itself(folder: Path) -> None:
    nan = {"loss": (2, float("nan"))}
    assert main(["diverge", write(folder / "a", range(1, 4), **nan), write(folder / "b", range(1, 4), **nan)]) == 0


def test_a_line_cut_short_by_a_kill_is_left_out(folder: Path) -> None:
    ours, theirs = write(folder / "a", range(1, 5)), write(folder / "b", range(1, 5))
    (folder / "b").write_text((folder / "b").read_text()[:-20])
    assert main(["diverge", ours, theirs]) == 0


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "b: cannot be read as a ledger"),
        ("", "b: an empty ledger"),
        ("hello\n", "b:1: not a line of a ledger"),
        ('{"step": 90, "loss": 1}\n', "have no step in common"),
    ],
)
def test_what_cannot_be_compared_is_a_usage_error(
    folder: Path, content: str | None, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    ours = write(folder / "a", range(1, 5))
    if content is not None:
        (folder / "b").write_text(content)
    assert main(["diverge", ours, "b"]) == 2
    told = capsys.readouterr().err
    assert told.startswith("phalanx diverge: ") and words in told and told.count("\n") == 1
