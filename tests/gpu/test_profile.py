"""What a profile and a summary say of a GPU."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import phalanx
from phalanx import nn, optim


def test_a_profile_tells_what_the_gpu_did(device: str, tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.LayerNorm(8), nn.Linear(8, 2)).to(device)
    optimizer = optim.Adam(model.parameters())
    with phalanx.profile(tmp_path / "trace.json") as p:
        for _ in range(3):
            optimizer.zero_grad()
            model(phalanx.ones(4, 8, device=device)).sum().backward()
            optimizer.step()
    rows = {row.name: row for row in p.rows() if row.kind == "gpu"}
    assert {"layer_norm", "layer_norm backward", "Adam.step"} <= rows.keys()
    assert rows["Adam.step"].calls == 3
    assert all(row.total_s >= 0 for row in rows.values())
    assert sum(row.total_s for row in rows.values()) <= p.seconds * 1.01
    assert p.steps == 3
    assert "on the GPU, from event to event in its stream:" in p.table()
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    track = next(e["tid"] for e in events if e["name"] == "thread_name" and e["args"]["name"] == "GPU")
    spans = [e for e in events if e["ph"] == "X" and e["tid"] == track]
    assert len(spans) == sum(row.calls for row in rows.values())
    begin, end = (f(e["ts"] for e in events if e["ph"] == "X" and e["tid"] != track) for f in (min, max))
    assert all(begin - 1e3 <= e["ts"] <= end + 1e5 for e in spans)


def test_a_profile_of_the_cpu_tells_of_no_gpu(device: str) -> None:
    with phalanx.profile() as p:
        phalanx.ones(3).exp()
    kinds = {row.kind for row in p.rows()}
    assert "forward" in kinds
    assert "on the GPU" not in p.table() or "gpu" in kinds


def test_a_summary_says_where_and_what_is_free(device: str) -> None:
    text = str(phalanx.summary(nn.Linear(4, 2).to(device), (3, 4)))
    assert "Memory of a rank on cuda:" in text
    assert "free): parameters 40 B, gradients 40 B" in text
    assert "cuda" not in str(phalanx.summary(nn.Linear(4, 2), (3, 4)))


@pytest.mark.parametrize("shard", [None, "optimizer"])
def test_memory_report(device: str, shard: str | None) -> None:
    phalanx.init(shards=2)
    model = phalanx.DataParallel(nn.Linear(64, 64).to(device), shard=shard)
    text = model.memory_report()
    assert "parameters" in text
    assert "sums over shards" in text
