"""What a profile records: ops and all else that takes time, on every rank, nested as it happened."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import phalanx
from phalanx import nn, optim, profiler, profiler_trace
from phalanx.core import spans, trace
from phalanx.core.op import TABLE

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = """
import sys
import numpy as np
import phalanx
from phalanx import nn, optim

group = phalanx.init()
rng = np.random.default_rng(0)
data = phalanx.data.TensorDataset(rng.standard_normal((24, 16), np.float32), rng.integers(0, 4, 24))
loader = phalanx.data.DataLoader(data, batch_size=8)
model = phalanx.DataParallel(nn.Sequential(nn.Linear(16, 8), nn.Tanh(), nn.Linear(8, 4)))
optimizer = optim.Adam(model.parameters())
checkpointer = phalanx.Checkpointer(sys.argv[1], model=model, optimizer=optimizer, loader=loader, every=2)
for x, y in loader:
    optimizer.zero_grad()
    nn.functional.cross_entropy(model(x), y).backward()
    optimizer.step()
    checkpointer.after_step()
"""


def spans_of(path: Path) -> list[dict]:
    return [event for event in json.loads(path.read_text())["traceEvents"] if event["ph"] == "X"]


def check_nesting(events: list[dict]) -> None:
    """On each track two spans are apart, or one holds the other."""
    tracks: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for event in events:
        begin = round(1000 * event["ts"])
        tracks.setdefault((event["pid"], event["tid"]), []).append((begin, begin + round(1000 * event["dur"])))
    for rows in tracks.values():
        ends: list[int] = []
        for begin, end in sorted(rows, key=lambda row: (row[0], -row[1])):
            while ends and ends[-1] <= begin:
                ends.pop()
            assert not ends or end <= ends[-1], "two spans overlap and neither holds the other"
            ends.append(end)


def train(steps: int) -> None:
    model = nn.Sequential(nn.Linear(16, 8), nn.Tanh(), nn.Linear(8, 4))
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    x, y = phalanx.ones(8, 16), phalanx.tensor(np.zeros(8, np.int64))
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()


def test_ops_are_seen_forward_and_backward_with_their_shapes(tmp_path):
    with phalanx.profile(tmp_path / "trace.json") as p:
        train(3)
    rows = {row.name: row for row in p.rows()}
    assert rows["linear"].calls == rows["linear backward"].calls == 6
    assert rows["SGD.step"].calls == p.steps == 3
    assert 0 < rows["linear"].self_s <= rows["linear"].total_s < p.seconds
    shapes = {row.shapes: row.calls for row in p.rows(by_shape=True) if row.name == "linear"}
    assert shapes == {((8, 16), (8, 16), (8,)): 3, ((8, 8), (4, 8), (4,)): 3}
    events = spans_of(tmp_path / "trace.json")
    check_nesting(events)
    assert [event["name"] for event in events if event["cat"] == "step"] == ["step 0", "step 1", "step 2"]
    steps = [(event["ts"], event["ts"] + event["dur"]) for event in events if event["cat"] == "step"]
    for begin, end in steps:
        inside = [e["name"] for e in events if e["cat"] == "forward" and begin <= e["ts"] and e["ts"] + e["dur"] <= end]
        assert inside.count("linear") == 2


def test_the_results_and_the_ops_are_the_same_without_and_with_a_profile():
    own = {name: (op.forward, op.vjp) for name, op in TABLE.items()}
    x = phalanx.tensor(np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4), requires_grad=True)
    x.tanh().max(1)[0].sum().backward()  # max has several outputs
    expected, x.grad = x.grad.numpy().copy(), None
    with phalanx.profile() as p:
        assert TABLE["tanh"].forward is not own["tanh"][0]
        x.tanh().max(1)[0].sum().backward()
    assert np.array_equal(x.grad.numpy(), expected)
    assert {name: (op.forward, op.vjp) for name, op in TABLE.items()} == own
    assert not spans.on
    seen = p.rows()
    x.tanh()
    assert p.rows() == seen


def test_a_captured_step_is_seen_as_well():
    model = nn.Linear(4, 2)
    optimizer = optim.SGD(model.parameters(), lr=0.1)

    def step(x):
        optimizer.zero_grad()
        loss = model(x).square().mean()
        loss.backward()
        optimizer.step()
        return loss

    fast = phalanx.capture(step)
    for _ in range(4):
        fast(phalanx.ones(3, 4))
    with phalanx.profile() as p:
        fast(phalanx.ones(3, 4))
    assert {row.name: row.calls for row in p.rows()}["linear backward"] == 1
    assert p.steps == 1
    assert fast.why is None


def test_ops_are_restored_after_an_error(tmp_path):
    with pytest.raises(phalanx.PhalanxError), phalanx.profile(tmp_path / "trace.json") as p:
        phalanx.ones(3) + phalanx.ones(4)
    assert not spans.on
    assert not hasattr(TABLE["add"].forward, "__wrapped__")
    assert [row.name for row in p.rows() if row.name == "add"] == []
    assert (tmp_path / "trace.json").exists()


def test_a_watch_inside_a_profile_may_outlast_it():
    own = TABLE["exp"].forward
    p, seen = phalanx.profile(), []
    p.__enter__()
    watch = trace.watched(lambda op, *rest: seen.append(op.name))
    watch.__enter__()
    p.__exit__(None, None, None)
    phalanx.ones(2).exp()
    assert "exp" in seen
    watch.__exit__(None, None, None)
    phalanx.ones(2).exp()  # what is left of the profile's passes on
    assert p.rows() == []
    with phalanx.profile() as p:
        phalanx.ones(2).exp()
    assert [(row.name, row.calls) for row in p.rows()] == [("exp", 1)]
    assert TABLE["exp"].forward is own


def test_self_time_is_without_what_happened_within():
    p = phalanx.profile()
    p.__enter__()
    spans.stop(p)
    told = (
        ("a", 1, 2),
        ("inner", 3, 3.5),
        ("outer", 0.5, 5),
        ("c", 6, 7),
        ("whole", 0, 8),
    )  # who ends first tells first
    for name, began, ended in told:
        p.span("user", name, began, ended, None)
    rows = {row.name: (row.total_s, row.self_s) for row in p.rows()}
    assert rows == {"a": (1, 1), "inner": (0.5, 0.5), "outer": (4.5, 3.0), "c": (1, 1), "whole": (8, 2.5)}


def test_memory_is_bounded_and_the_trace_says_what_is_missing(tmp_path):
    with phalanx.profile(tmp_path / "trace.json", events=10) as p:
        train(5)
    assert len([event for event in spans_of(tmp_path / "trace.json") if event["cat"] != "step"]) == 10
    (linear,) = [row for row in p.rows() if row.name == "linear"]
    assert linear.calls == 10, "the table counts all"
    assert p.dropped == sum(row.calls for row in p.rows()) - 10
    assert f"{p.dropped} spans are in the table but not in the trace" in p.table()
    read = json.loads((tmp_path / "trace.json").read_text())
    assert read["otherData"]["dropped_events"] == p.dropped
    assert f"{p.dropped} later spans are missing" in read["traceEvents"][0]["args"]["name"]


def test_names_that_never_repeat_are_bounded_too():
    with phalanx.profile(events=0) as p:
        for number in range(5000):
            spans.tell("user", f"name {number}", 0.0, 1.0)
            spans.tell("wait", f"wait for commit of step {number}", 0.0, 1.0)
    rows = p.rows()
    assert len(rows) < 4200
    assert sum(row.calls for row in rows) == 10000
    assert {row.name: row.calls for row in rows}["wait for commit of step N"] == 5000


def test_steps_marked_by_hand_replace_those_of_the_optimizer(tmp_path):
    with phalanx.profile(tmp_path / "trace.json") as p:
        for _ in range(2):
            train(3)
            p.step()
    assert p.steps == 2
    assert len([event for event in spans_of(tmp_path / "trace.json") if event["cat"] == "step"]) == 2


def test_the_table_has_the_most_expensive_first():
    with phalanx.profile() as p:
        with profiler.record_function("mine"):
            train(2)
        with pytest.raises(phalanx.PhalanxError, match="one profile at a time"), phalanx.profile():
            pass
        train(1)
    lines = p.table(4).splitlines()
    assert lines[0].endswith("the longest:")
    assert "3 steps of" in lines[0]
    own = [float(line[46:55]) for line in lines[2:6]]
    assert own == sorted(own, reverse=True)
    assert any(line.startswith("outside of all") for line in lines)
    assert [row.name for row in p.rows()].count("mine") == 1
    assert "8x16 8x16 8" in p.table(50, by_shape=True)


def test_a_part_of_an_earlier_run_is_not_taken(tmp_path):
    def part(rank: int, began: float, ended: float) -> profiler_trace.Part:
        track = profiler_trace.Track("training", [("user", f"rank {rank}", began, ended, None)])
        return profiler_trace.Part(rank, 2, began, ended, 0.0, 0, [track])

    path = tmp_path / "trace.json"
    profiler_trace.write_part(part(1, 100.0, 200.0), str(path))  # rank 0 of that run failed
    profiler_trace._written.clear()
    profiler_trace.write_part(part(0, 300.0, 400.0), str(path))
    assert not path.exists()
    profiler_trace.write_part(part(1, 301.0, 401.0), str(path))
    assert {event["name"] for event in spans_of(path)} == {"rank 0", "rank 1"}
    assert [p.name for p in tmp_path.iterdir()] == ["trace.json"]


@pytest.mark.parametrize("way", [[], ["--threads"]], ids=["processes", "threads"])
def test_all_ranks_of_a_run_are_in_one_trace(tmp_path, way):
    (tmp_path / "script.py").write_text(SCRIPT)
    path = tmp_path / "out" / "trace.json"
    command = [
        sys.executable,
        "-m",
        "phalanx",
        "run",
        "-n",
        "2",
        *way,
        "--profile",
        str(path),
        str(tmp_path / "script.py"),
    ]
    done = subprocess.run(
        [*command, str(tmp_path / "checkpoints")],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert [p.name for p in path.parent.iterdir()] == ["trace.json"], "parts of ranks are left"
    events = spans_of(path)
    check_nesting(events)
    for rank in (0, 1):
        names = {(event["cat"], event["name"].split(" (")[0]) for event in events if event["pid"] == rank}
        assert names >= {
            ("forward", "linear"), ("backward", "linear backward"), ("optimizer", "Adam.step"), ("data", "wait for data"),
            ("checkpoint", "save"), ("communication", "gradient bucket 0"), ("wait", "wait for gradient bucket 0"),
        }  # fmt: skip
        assert len([e for e in events if e["pid"] == rank and e["cat"] == "step"]) == 3
    bucket = next(event for event in events if event["name"].startswith("gradient bucket"))
    assert bucket["args"]["group"] == "all ranks"
    assert done.stderr.count("the longest:") == 1, "rank 0 alone prints its table"
    assert f"trace: {path}" in done.stderr
