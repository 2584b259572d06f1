"""``phalanx ops``: everything is listed, everything has a case, and a wrong gradient is found."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from phalanx import ops_check, ops_table
from phalanx.cli import main
from phalanx.core.op import TABLE

pytest.importorskip("torch")
pytestmark = pytest.mark.torch


def test_the_table_lists_all_and_counts(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ops"]) == 0
    lines = capsys.readouterr().out.splitlines()
    found = ops_table.sections()
    assert lines[-1] == ", ".join(f"{len(rows)} {kind}" for kind, rows in found.items())
    assert len(lines) == 1 + sum(1 + len(rows) for rows in found.values())
    assert {line.split()[0] for line in lines if line.startswith("  ")} == {n for rows in found.values() for n in rows}
    assert any(line.split()[:2] == ["erfinv", "core.ops.elementary"] for line in lines)


def test_every_entry_has_a_case() -> None:
    from tests.core import check_tables as tables

    found = ops_table.sections()
    layers = {title.split()[0] for title in tables.LAYERS} | set(tables.LISTS)
    missing = {
        "ops": set(found["ops"]) - {case.op for case in tables.OPS},
        "layers": (set(found["layers"]) | set(found["losses"])) - layers,
        "optimizers": set(found["optimizers"]) - {title.split(",")[0] for title in tables.OPTIMIZERS},
    }
    assert not any(missing.values()), missing


def test_a_few_are_checked(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ops", "--check", "sinh", "argmax", "det", "Linear", "CTCLoss", "Lion"]) == 0
    told = capsys.readouterr().out
    for words in ("3 ops, ", "1 layers, 5 cases", "1 losses, 1 cases", "1 optimizers, 1 cases", "differences"):
        assert words in told


@pytest.mark.parametrize("wrong", ["gradient", "forward"])
def test_what_is_wrong_is_found(
    wrong: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    op = TABLE["sinh"]
    changed: dict[str, Any] = {
        "gradient": {"vjp": lambda *args: (op.vjp(*args)[0] * 1.001,)},
        "forward": {"forward": lambda x: (op.forward(x)[0] + 1e-4, op.forward(x)[1])},
    }[wrong]
    monkeypatch.setitem(TABLE, "sinh", dataclasses.replace(op, **changed))
    assert ops_check.check(["sinh"]) == 1
    told = capsys.readouterr().out
    assert "FAILED sinh: sinh:3-4: float64" in told
    assert ("differences" in told.partition("FAILED")[2]) == (wrong == "gradient")


def test_an_entry_without_a_case_fails(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(TABLE, "unheard_of", dataclasses.replace(TABLE["sinh"], name="unheard_of"))
    assert ops_check.check(["unheard_of"]) == 1
    assert "FAILED unheard_of: no case" in capsys.readouterr().out


def test_nan_is_over_every_bound() -> None:
    result = ops_check.Result()
    result.note(ops_check.FLOAT64, float("nan"), "a case", 1.0)
    assert result.over == ["a case: float64 nan, at most 1e+00"]
    assert ops_check._off(np.array([np.nan, np.inf, 1.0]), np.array([np.nan, np.inf, 1.0])) == 0.0


def test_refusals(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert main(["ops", "--check", "teleport"]) == 2
    assert "phalanx ops lists no teleport" in capsys.readouterr().err
    monkeypatch.setattr(ops_check, "__file__", "/nowhere/phalanx/ops_check.py")
    assert main(["ops", "--check"]) == 2
    assert "of a checkout; /nowhere is none" in capsys.readouterr().err
