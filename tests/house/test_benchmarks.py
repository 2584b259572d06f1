"""The benchmarks run, measure what they say, and compare equal models."""

from __future__ import annotations

import importlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
EFFICIENCY = [sys.executable, str(ROOT / "benchmarks" / "efficiency.py")]


def run(command: list[str], timeout_s: float = 100) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=timeout_s, check=False)


def started_by(folder: Path) -> list[str]:
    """Command lines of the processes whose folder for temporary files is ``folder``."""
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdigit() and process.name != str(os.getpid()):
            try:
                settings = (process / "environ").read_bytes()
            except OSError:
                continue
            if f"TMPDIR={folder}".encode() in settings.split(b"\0"):
                found.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode())
    return found


def test_efficiency_measures_with_and_without_reduction(tmp_path):
    output = tmp_path / "efficiency.json"
    options = ["--workloads", "tiny", "--rounds", "2", "--steps", "5", "--shards", "2", "--output", str(output)]
    done = run([*EFFICIENCY, *options])
    assert done.returncode == 0, done.stdout + done.stderr
    (found,) = json.loads(output.read_text())["results"]
    for team in ("phalanx zmq", "phalanx zmq shards=2"):
        assert f"{team:<22}" in done.stdout
        rounds, row = found["rounds"][team], found["summary"][team]
        assert [len(rounds[mode]) for mode in ("with", "without", "barrier", "alone")] == [2] * 4
        for reduced, plain in zip(rounds["with"], rounds["without"], strict=True):
            assert [len(reduced), len(plain)] == [2, 2]  # both ranks
            assert all(answer["sent_bytes"] > 0 for answer in reduced), "the reduction was not on"
            assert not any("sent_bytes" in answer for answer in plain)
        slower = [max(answer["seconds"] for answer in answers) for answers in rounds["with"]]
        assert row["step_ms_with"] == pytest.approx(1e3 * sum(slower) / 2 / 5)
        assert row["efficiency_lowest"] <= row["efficiency"] <= row["efficiency_highest"]
        assert row["efficiency_of_a_barrier"] > 0


def test_price_of_shards_compares_modes_on_equal_ranks(tmp_path):
    output = tmp_path / "price.json"
    options = ["--workloads", "tiny", "--ranks", "1", "2", "--shards", "2", "--rounds", "2", "--output", str(output)]
    done = run([sys.executable, str(ROOT / "benchmarks" / "price_of_shards.py"), *options, "--kernels", "reference"])
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(output.read_text())["results"]["tiny"]
    modes, cores = ("fast", "shards", "captured"), len(os.sched_getaffinity(0))
    alone = [f"1 {mode} on {cores} cores" for mode in modes if cores > 1]
    assert {team: len(rounds) for team, rounds in found["seconds"].items()} == dict.fromkeys(
        [*(f"{n} {mode}" for n in (1, 2) for mode in modes), *alone], 2
    )
    assert "2 ranks from phalanx run, over zmq and shared memory, shards=2" in done.stderr
    assert "| MLP 16-32-10, batch 8 a rank: for smoke tests |" in (text := output.with_suffix(".md").read_text())
    assert f"| {found['summary']['2 shards']['price']:.2f} (" in text
    assert len(found["summary"]) == 2 * len(found["seconds"]) / 3
    for team, row in found["summary"].items():
        fast = team.replace("shards", "fast").replace("captured", "fast")
        assert team != fast
        prices = [b / a for a, b in zip(found["seconds"][fast], found["seconds"][team], strict=True)]
        assert row["price"] == pytest.approx(sum(prices) / 2)
        assert f"| {row['price']:.2f} ({row['lowest']:.2f} to {row['highest']:.2f})" in text


@pytest.mark.whole
def test_startup_is_measured_warm_and_cold(tmp_path):
    output = tmp_path / "startup.json"
    command = [sys.executable, str(ROOT / "benchmarks" / "startup.py"), "--repeat", "1", "--output", str(output)]
    done = run(command, timeout_s=280)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(output.read_text())["seconds"]
    assert found["warm, fast"] > found["phalanx with nn, optim, data"] > 0


def test_efficiency_ends_its_workers_when_it_is_ended(tmp_path):
    # enough rounds that it is still at work when it is told to stop
    command = [*EFFICIENCY, "--workloads", "tiny", "--rounds", "100000"]
    env = {**os.environ, "TMPDIR": str(tmp_path), "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        try:
            deadline = time.monotonic() + 60
            while len(started_by(tmp_path)) < 4 and time.monotonic() < deadline:  # itself, the launcher, two ranks
                time.sleep(0.1)
            assert len(started_by(tmp_path)) >= 4
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=60)
        finally:
            process.kill()
    deadline = time.monotonic() + 5
    while started_by(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert started_by(tmp_path) == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.torch
def test_bench_measures_both_libraries_in_turn(tmp_path):
    pytest.importorskip("torch")
    options = ["--quick", "--no", "replay", "without", "reference", "--output", str(tmp_path)]
    done = run([sys.executable, str(ROOT / "benchmarks" / "bench.py"), *options])
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "cpu.json").read_text())
    assert found["about"]["commit"] and found["about"]["processor"]
    row = found["results"]["tiny"]
    assert [len(row["seconds"][side]["plain"]) for side in ("phalanx", "PyTorch")] == [2, 2]
    ours, theirs = row["ms"]["phalanx"], row["ms"]["PyTorch"]
    assert row["ratio"]["phalanx"]["median"] == pytest.approx(theirs / ours)
    assert row["check"]["phalanx"] == pytest.approx(row["check"]["PyTorch"], rel=1e-3)
    assert set(row["mib"]) == {"phalanx", "PyTorch"}
    assert f"({theirs / ours:.2f})" in (tmp_path / "cpu.md").read_text()


def test_bench_refuses_to_compare_different_work(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    turns = importlib.import_module("turns")
    turns.agree("mlp", {"ours": [2.3, 1.0], "theirs": [2.3001, 1.0005]})
    with pytest.raises(RuntimeError, match=r"mlp: ours computes \[2.3, 1.0\], theirs \[2.4, 1.0\]"):
        turns.agree("mlp", {"ours": [2.3, 1.0], "theirs": [2.4, 1.0]})
    with pytest.raises(RuntimeError, match="not the same work"):
        turns.agree("mlp", {"ours": [2.3], "theirs": [float("nan")]})


def test_bench_takes_the_faster_form_of_a_side(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    turns = importlib.import_module("turns")
    seconds = {
        "ours": {"plain": [1.0, 2.0, 3.0]},
        "theirs": {"plain": [5.0, 5.0, 5.0], "channels_last": [4.0, 3.0, 4.0]},
    }
    row = turns.summarize(seconds, [("ours", "theirs"), ("ours", "absent")])
    assert row["form"]["theirs"] == "channels_last"
    assert row["ms"] == {"ours": 2000.0, "theirs": 4000.0}
    assert row["ratio"] == {"ours": {"median": 2.0, "lowest": pytest.approx(4 / 3), "highest": 4.0}}


def test_bench_writes_what_it_found(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    report, turns = importlib.import_module("report"), importlib.import_module("turns")
    seconds = {"phalanx": {"plain": [0.001, 0.001]}, "PyTorch": {"plain": [0.004], "channels_last": [0.0015]}}
    row = {
        "label": "a model",
        "said": {"phalanx.capture": "too deep"},
        "disturbed": 3,
        "mib": {"phalanx": 5, "PyTorch": 6},
    }
    about = {"processor": "P", "cores": 2, "python": "3", "numpy": "2", "torch": "2", "unset": ["A"], "rounds": 2}
    found = {
        "about": {**about, "commit": "abc", "command": "c", "date": "d", "load": 0.5, "platform": "L"},
        "missing": {"torch.compile": "no compiler"},
        "sides": ["phalanx", "PyTorch", "phalanx.capture"],
        "results": {"mlp": {**row, **turns.summarize(seconds, [("phalanx", "PyTorch")])}},
    }
    report.write(found, tmp_path)
    text = (tmp_path / "cpu.md").read_text()
    assert "| a model | 1.000 (1.50) | 1.500 NHWC | - |" in text
    assert "| a model | 1.50 to 1.50 |" in text
    assert "| a model | 5.0 | 6.0 |" in text
    for words in (
        "No column torch.compile: no compiler.",
        "- mlp, phalanx.capture: too deep",
        "3 rounds with one thread",
    ):
        assert words in text
    assert json.loads((tmp_path / "cpu.json").read_text()) == json.loads(json.dumps(found))
    for words in (report.head(found), report.line(found, "mlp"), report.memory_line(found, "mlp")):
        assert words


@pytest.mark.torch
def test_bench_gives_both_libraries_the_same_work(monkeypatch):
    pytest.importorskip("torch")
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    models, workloads, turns = (importlib.import_module(name) for name in ("models", "workloads", "turns"))
    ours, theirs = models.Library("phalanx"), models.Library("torch")
    for name in ("mlp", "cnn", "cifar", "lstm", "vae", "chain", "matmul", "attention"):
        case, found = workloads.CASES[name], {}
        for library in (ours, theirs):
            for form in workloads.forms_of(name, library.name):
                task = case.make(library, form, case.batches(library))
                found[f"{library.name} {form}"] = task.check()
                task.run(1)
        turns.agree(name, found)
        assert len(found) == (3 if name in workloads.IMAGES else 2)


@pytest.mark.torch
def test_both_libraries_train_the_same_model():
    pytest.importorskip("torch")
    done = run([sys.executable, str(ROOT / "benchmarks" / "models.py"), "cnn", "gpt", "tiny"])
    assert done.returncode == 0, done.stderr
    found = re.findall(r"^(\w+) .* loss (\S+) \(PyTorch (\S+)\).* at most (\S+) of", done.stdout, re.MULTILINE)
    assert [name for name, *_ in found] == ["cnn", "gpt", "tiny"]
    for _, ours, theirs, worst in found:
        assert float(ours) == pytest.approx(float(theirs), rel=1e-5)
        assert float(worst) < 1e-5


@pytest.mark.whole
def test_overlap_is_measured_between_two_hosts(tmp_path):
    if os.geteuid() != 0:
        pytest.skip("network namespaces need root")
    output, trace = tmp_path / "overlap.json", tmp_path / "trace.json"
    options = ["--rates", "1", "--backend", "zmq", "--rounds", "3", "--megabytes", "16", "--kinds", "buckets"]
    command = [sys.executable, str(ROOT / "benchmarks" / "overlap_hosts.py"), *options]
    done = run([*command, "--output", str(output), "--trace", str(trace)])
    assert done.returncode == 0, done.stdout + done.stderr
    row = json.loads(output.read_text())["results"][0]["summary"]
    assert row["communicate_ms"] > 0.9 * 16 * 2**20 * 8 / 1e9 * 1e3, "the link was faster than it was held to"
    events = json.loads((tmp_path / "trace-zmq-buckets-1.json").read_text())["traceEvents"]
    lanes = {(e["pid"], e["tid"]) for e in events if e["ph"] == "X"}
    assert {(rank, lane) for rank in (0, 1) for lane in (0, 2)} <= lanes  # both ranks computed and communicated


@pytest.mark.parametrize(
    "options", [["--sides", "phalanx"], pytest.param(["--ranks", "2"], marks=[pytest.mark.whole, pytest.mark.torch])]
)
def test_checkpoints_are_saved_in_every_other_round(tmp_path, options):
    output, folder = tmp_path / "checkpoints.json", tmp_path / "here"
    folder.mkdir()
    small = ["--width", "64", "--rounds", "2", "--folder", str(folder), "--output", str(output)]
    done = run([sys.executable, str(ROOT / "benchmarks" / "checkpoints.py"), *small, *options])
    assert done.returncode == 0, done.stdout + done.stderr
    assert list(folder.iterdir()) == []
    found = json.loads(output.read_text())
    assert next(iter(found["rounds"])) == "phalanx" and found["nbytes"] == 3 * 4 * (785 * 64 + 5 * 65 * 64 + 65 * 10)
    for side, row in found["summary"].items():
        rounds = found["rounds"][side]
        assert len(rounds["plain"]) == len(rounds["save"]) == (2 if side == "phalanx" else 1)
        saving = [answer for answers in rounds["save"] for answer in answers]
        blocked = [max(answer["blocked_s"] for answer in answers) for answers in rounds["save"]]
        assert row["blocked_s_per_gb"] == pytest.approx(sum(blocked) / len(blocked) / (found["nbytes"] / 1e9))
        assert all(len(answer["steps"]) == 20 for answer in saving)
        assert row["write_gb_per_s"] > 0 < row["dd_gb_per_s"]
