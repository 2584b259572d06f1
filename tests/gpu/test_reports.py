"""An index or label out of range is said, on a device too: when the host next waits for it."""

from __future__ import annotations

import importlib
from typing import Any

import pytest

import phalanx
from phalanx import nn
from phalanx.core.errors import RangeError

F = nn.functional


def wrong_label(device: str) -> Any:
    return F.cross_entropy(phalanx.zeros(2, 3, device=device), phalanx.tensor([1, 3], device=device))


def wrong_index(device: str) -> Any:
    return F.embedding(phalanx.tensor([[0, 1], [2, -7]], device=device), phalanx.ones(4, 2, device=device)).sum()


@pytest.mark.parametrize(
    ("call", "said"),
    [(wrong_label, r"cross_entropy: label 3 at position 1 is out of range \[0, 3\)"),
     (wrong_index, r"embedding: index -7 at position \(1, 1\) is out of range \[0, 4\)")],
)  # fmt: skip
def test_the_error_comes_when_the_host_waits(device: str, kernels: str, call: Any, said: str) -> None:
    def at_once() -> None:
        loss = call(device)
        loss.item()

    with pytest.raises(RangeError, match=said):
        at_once()
    assert F.cross_entropy(phalanx.zeros(2, 3, device=device), phalanx.tensor([1, -100], device=device)).item() > 0


@pytest.mark.parametrize("wait", ["tolist", "cpu", "bool", "synchronize"])
def test_every_way_to_wait_looks(device: str, wait: str) -> None:
    table = importlib.import_module("phalanx.core.kernels.table")
    assert table.kernel("check_within", "cuda").__module__.endswith("reports")
    loss = wrong_label(device)
    ways: dict[str, Any] = {
        "tolist": loss.tolist, "cpu": loss.cpu, "bool": loss.__bool__, "synchronize": phalanx.cuda.synchronize,
    }  # fmt: skip
    with pytest.raises(RangeError, match="the GPU found it"):
        ways[wait]()
    ways[wait]()  # said once


def test_nothing_waits_before(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    cupy = importlib.import_module("cupy")
    if hasattr(cupy, "_standin"):
        waits: list[str] = []
        monkeypatch.setattr(cupy.ndarray, "get", lambda self, *a, **k: waits.append("get"))
        wrong_label(device)
        assert not waits
    with pytest.raises(RangeError):
        phalanx.cuda.synchronize()


def test_what_is_more_than_is_remembered_is_still_said(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    reports = importlib.import_module("phalanx.core.kernels.cuda.reports")
    monkeypatch.setattr(reports, "MOST_CHECKS", 0)
    monkeypatch.setattr(reports, "_checks", {})
    wrong_index(device)
    with pytest.raises(RangeError, match="an index or label -7 at position 3 is out of range"):
        phalanx.cuda.synchronize()
