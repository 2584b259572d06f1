"""The flight recorder: what is kept, what a failing job leaves, and the story and the trace that are made of it."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

import numpy as np
import pytest

from phalanx import flight as reader
from phalanx.cli import main
from phalanx.core.errors import PhalanxError
from phalanx.dist.communicators.threads import current_communicator, run_threads
from phalanx.dist.diagnosis import flight_file
from phalanx.dist.diagnosis.flight import FlightRecorder
from tests.jobs import run_job

SCRIPT = str(Path(__file__).with_name("late_rank.py"))


# --- the ring -----------------------------------------------------------------------------------------------------------


def test_the_ring_keeps_the_last_operations_in_order() -> None:
    flight = FlightRecorder(capacity=3)
    assert flight.last() is None and flight.operations() == []
    for number in range(1, 6):
        slot = flight.begin(number, f"op {number}", nbytes=number, submitted=0.5)
        assert flight.last().sequence == number and flight.last().ended == 0
        flight.end(slot, ValueError("no") if number == 5 else None)
    kept = flight.operations()
    assert [(op.sequence, op.name, op.nbytes, op.submitted) for op in kept] == [
        (n, f"op {n}", n, 0.5) for n in (3, 4, 5)
    ]
    assert [op.error for op in kept] == ["", "", "ValueError: no"]
    assert all(op.began <= op.ended for op in kept)


def test_waiting_is_kept_and_added_up() -> None:
    flight = FlightRecorder(capacity=2)
    for number in range(3):
        flight.waited(f"op {number}", time.monotonic() - 0.5)
    assert [waiting.name for waiting in flight.waitings()] == ["op 1", "op 2"]
    assert 1.5 <= flight.waited_s < 1.6


def test_what_was_done_at_once_stands_among_the_others() -> None:
    flight = FlightRecorder(capacity=3)
    first, second = flight.name("sum of step"), flight.name("another of step")
    assert (flight.name("sum of step"), flight.name("another of step")) == (first, second) == (0, 1)
    for number in range(1, 6):
        began = time.monotonic() - 0.5
        if number % 2:
            flight.done(number, (first, second)[number == 3], 10 * number, began, 7)
        else:
            flight.end(flight.begin(number, f"op {number}"))
            flight.waited(f"op {number}", began)
        last = flight.last()
        assert last is not None and last.sequence == number
    kept = flight.operations()
    assert [(op.sequence, op.name, op.nbytes, op.error) for op in kept] == [
        (3, "another of step 30", 7, ""), (4, "op 4", 0, ""), (5, "sum of step 50", 7, "")
    ]  # fmt: skip
    assert [waiting.name for waiting in flight.waitings()] == ["another of step 30", "op 4", "sum of step 50"]
    assert all(op.ended - op.began >= 0.5 for op in (kept[0], kept[2], *flight.waitings()))
    assert 2.5 <= flight.waited_s < 2.7


def test_an_operation_costs_little() -> None:
    """Less than two microseconds on a quiet core; the best of many short runs, since this one may be shared."""
    flight, best = FlightRecorder(), float("inf")
    for _ in range(50):
        began = time.perf_counter()
        for number in range(200):
            flight.end(flight.begin(number, "x"))
        best = min(best, (time.perf_counter() - began) / 200)
    assert best < 4e-6


def test_every_operation_of_a_communicator_is_in_it() -> None:
    def rank_main() -> list[tuple[int, str, int]]:
        communicator = current_communicator()
        communicator.all_reduce(np.ones(100), name="sum").wait()
        communicator.call(lambda messages: None, name="nothing")
        if communicator.rank == 0:
            communicator.send(np.ones(4), 1, name="pair").wait()
        else:
            communicator.recv(np.ones(4), 0, name="pair").wait()
        assert 1 <= communicator.flight.waits <= 3  # a send may be done before it is waited for
        kept = communicator.flight.operations()
        assert all(op.ended >= op.began >= op.submitted for op in kept)
        return [(op.sequence, op.name, op.nbytes // 32) for op in kept]

    first, second = run_threads(rank_main, 2)
    assert first == [(1, "all_reduce 'sum' float64[100]", 25), (2, "nothing", 0), (-1, "send 'pair' float64[4]", 1)]
    assert second == [*first[:2], (-1, "send 'pair' float64[4]", 0)]


# --- what a failing job leaves ------------------------------------------------------------------------------------------


def failed_job(how: str, what: str, folder: Path, timeout_s: float = 2.0) -> tuple[str, str]:
    """The output of a job of three ranks that fails, and the story of its records."""
    code, output = run_job(how, what, "0", f"{timeout_s}", script=SCRIPT, launcher=["--flight", str(folder)])
    assert code != 0, output
    found = re.search(r"phalanx run: flight records of (\d) ranks in (\S+) \(phalanx flight (\S+)\)", output)
    assert found and found[2] == found[3] == str(folder), output
    assert int(found[1]) == len(list(folder.glob("rank-*.jsonl")))
    return output, reader.story(reader.read_records(str(folder)))


@pytest.mark.parametrize("how", ["run 3", "threads 3", "mpi 3"])
def test_the_story_of_a_rank_that_raises(how: str, tmp_path: Path) -> None:
    _, story = failed_job(how, "raises", tmp_path / "flight")
    line = next(n for n, text in enumerate(Path(SCRIPT).read_text().splitlines(), 1) if "# where it fails" in text)
    assert "records of ranks 0, 1, 2" in story.splitlines()[0]
    assert re.search(
        rf"rank 2 .* stood at tests/ranks/late_rank.py:{line} in load_batch\n +ValueError: bad batch\n", story
    ), story
    first = r"all ranks: the first operation that not all ranks completed is (\d+): all_reduce 'late gradient' float32\[1000\]"
    number = int(re.search(first, story)[1])
    assert re.search(r"\n    rank 0: began it [\d.]+ s before the end, gave up after [\d.]+ s: AbortedError", story), (
        story
    )
    assert (
        f"\n    rank 2: did not begin it; its last was {number - 1}: all_reduce 'gradient 2' float32[1000], ended"
        in story
    ), story


def test_the_story_of_a_killed_rank(tmp_path: Path) -> None:
    _, story = failed_job("run 3", "killed", tmp_path)
    assert "records of ranks 0, 1; rank 2 left none: killed, stopped" in story
    assert "\n    rank 2: no record" in story
    assert story.count("PeerLostError") >= 2, story


def test_the_story_of_ranks_that_differ(tmp_path: Path) -> None:
    output, story = failed_job("run 3", "other", tmp_path)
    assert "MismatchError" in output
    assert re.search(
        r"all ranks: the ranks differ in operation \d+: all_reduce 'late gradient' float32\[1000\] on ranks 0, 1; "
        r"all_reduce 'other' float32\[1000\] on rank 2",
        story,
    ), story


def test_a_rank_that_only_computes_leaves_its_record_when_the_job_ends(tmp_path: Path) -> None:
    """Rank 2 sleeps for a minute while rank 1 fails: it is told by the control connections."""
    script = tmp_path / "script.py"
    script.write_text(
        "import time, phalanx\n"
        "group = phalanx.init()\n"
        "if group.rank == 1:\n"
        "    time.sleep(1.0)\n"
        "    raise ValueError('on rank 1')\n"
        "time.sleep(60)\n"
    )
    code, output = run_job("run 3", script=str(script), launcher=["--flight", str(tmp_path / "flight")])
    assert code == 1, output
    records = reader.read_records(str(tmp_path / "flight"))
    assert [record.rank for record in records] == [0, 1, 2]
    assert records[2].head["errors"] == ["rank 1: ValueError: on rank 1"]
    assert records[2].head["line"].endswith("script.py:6")


def test_a_job_that_succeeds_leaves_nothing_and_one_that_fails_its_folder(tmp_path: Path) -> None:
    options = {"extra": {"TMPDIR": str(tmp_path), "PHALANX_FLIGHT": ""}, "script": SCRIPT}
    code, output = run_job("threads 2", "late", "0", "5", **options)
    assert code == 0 and "flight" not in output
    assert list(tmp_path.iterdir()) == []
    code, output = run_job("threads 2", "raises", "0", "5", **options)
    (folder,) = tmp_path.glob("phalanx-flight-*")
    assert f"phalanx run: flight records of 2 ranks in {folder} (phalanx flight {folder})" in output


def test_the_records_of_an_attempt_go_when_a_later_one_succeeds(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import os, phalanx\n"
        "group = phalanx.init()\n"
        "if os.environ['PHALANX_RESTART'] == '0':\n"
        "    raise ValueError(f'first attempt, TMPDIR has {os.listdir(os.environ[\"TMPDIR\"])}')\n"
    )
    temporary = tmp_path / "t"
    temporary.mkdir()
    options = {"extra": {"TMPDIR": str(temporary), "PHALANX_FLIGHT": ""}, "script": str(script)}
    code, output = run_job("run 2", launcher=["--restarts", "1"], **options)
    assert code == 0 and "first attempt" in output and "flight records" not in output, output
    assert not list(temporary.glob("phalanx-flight-*"))


# --- reading ------------------------------------------------------------------------------------------------------------


def recorded(folder: Path, size: int = 3) -> None:
    """What a healthy job of ``size`` ranks writes when asked. In bucket n rank n is early and must wait for the others."""

    def rank_main() -> None:
        communicator = current_communicator()
        communicator.flight.clock_offset_s = 0.0
        for number in range(4):
            time.sleep(0.0 if communicator.rank == number else 0.03)
            communicator.all_reduce(np.ones(10_000), name=f"bucket {number}").wait()
        flight_file.write(folder, communicator)

    run_threads(rank_main, size)


def test_a_healthy_job_can_be_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recorded(tmp_path)
    trace = tmp_path / "trace.json"
    assert main(["flight", str(tmp_path), "--trace", str(trace)]) == 0
    assert "all ranks: every rank that left a record completed all its operations" in capsys.readouterr().out
    events = json.loads(trace.read_text())["traceEvents"]
    slices = [event for event in events if event["ph"] == "X"]
    assert {event["pid"] for event in slices} == {0, 1, 2}
    for rank in range(3):
        names = [event["name"] for event in slices if event["pid"] == rank]
        assert [name for name in names if not name.startswith("wait")] == [
            f"all_reduce 'bucket {n}' float64[10000]" for n in range(4)
        ]
        assert f"wait for all_reduce 'bucket {rank}' float64[10000]" in names
    assert min(event["ts"] for event in slices) == 0
    assert all(
        event["dur"] >= 0 and set(event) == {"ph", "name", "pid", "tid", "ts", "dur", "args"} for event in slices
    )
    tracks = {(event["pid"], event["tid"]): event["args"]["name"] for event in events if event["name"] == "thread_name"}
    assert tracks[1, 0] == "all ranks" and tracks[1, 1] == "all ranks: waiting that was not hidden"


def test_clocks_of_several_hosts_are_put_onto_rank_0s(tmp_path: Path) -> None:
    recorded(tmp_path, 2)
    path = tmp_path / "rank-1.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    rows[0]["clock_offset_s"] = 1000.0
    for row in rows[1:]:
        row.update({key: row[key] + 1000.0 for key in ("submitted", "began", "ended") if key in row})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    first, second = reader.read_records(str(tmp_path))
    for ours, theirs in zip(first.operations["all ranks"], second.operations["all ranks"], strict=True):
        assert abs(ours.ended - theirs.ended) < 5.0


def test_old_operations_that_one_rank_no_longer_holds_are_not_called_incomplete() -> None:
    def row(numbers: range) -> dict[int, reader.Operation]:
        return {n: reader.Operation(n, f"op {n}", 1.0, 1.0, 2.0, 0, "") for n in numbers}

    assert reader.first_incomplete({0: row(range(1, 9)), 1: row(range(4, 9))}) is None
    assert reader.first_incomplete({0: row(range(1, 9)), 1: row(range(4, 8))}) == 8
    assert reader.first_incomplete({0: {}, 1: row(range(1, 3))}) == 1


def test_many_ranks_are_told_by_the_first_and_the_last(tmp_path: Path) -> None:
    recorded(tmp_path, 10)
    assert "10 ranks; first rank" in reader.story(reader.read_records(str(tmp_path)))


@pytest.mark.parametrize("content", [None, "", "{}\n", "no json\n"])
def test_what_is_no_record_is_refused(content: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if content is not None:
        (tmp_path / "rank-0.jsonl").write_text(content)
    with pytest.raises(PhalanxError, match=re.escape(str(tmp_path))):
        reader.read_records(str(tmp_path))
    assert main(["flight", str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith("phalanx flight: ")
