"""The stall line and the error of a deadline: who is missing, and the Python line that rank stands on."""

from __future__ import annotations

import os
import re
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from phalanx.dist.communicators.threads import current_communicator, run_threads
from phalanx.dist.diagnosis import whereabouts
from phalanx.dist.diagnosis.watch import StallWatch, Wait
from phalanx.dist.errors import DeadlineError
from tests.jobs import run_job

SCRIPT = str(Path(__file__).with_name("late_rank.py"))
WAYS = ("run 3", "threads 3", "mpi 3")


def line_number(comment: str) -> int:
    """The line of late_rank.py that ends with ``comment``."""
    lines = Path(SCRIPT).read_text().splitlines()
    return next(number for number, line in enumerate(lines, 1) if line.endswith(f"# {comment}"))


@pytest.mark.parametrize("how", WAYS)
def test_one_line_names_the_late_rank_and_the_line_it_stands_on(how: str) -> None:
    code, output = run_job(
        how, "late", "1.4", "30", script=SCRIPT
    )  # the line is due after 0.6 to 1.1 s, again after 1.7
    assert code == 0, output
    lines = [line for line in output.splitlines() if " waits for " in line]
    assert 1 <= len(lines) <= 2, output  # again when the wait has doubled; of rank 0 alone, not of all who wait
    place = f"tests/ranks/late_rank.py:{line_number('where the late rank stands')} in load_batch"
    for line in lines:
        assert re.search(
            r"phalanx: rank 0 waits for rank 2 .*in all_reduce 'late gradient' float32\[1000\]: begun 1 s ago, nothing has come for 1 s; ",
            line,
        ), line
        assert f"rank 2 stands at {place} (seen " in line, line
        assert re.search(r"its last operation was \d+: all_reduce 'gradient 2' float32\[1000\]$", line), line


@pytest.mark.parametrize("how", ["run 3", "mpi 3"])
def test_a_stopped_rank_is_called_stopped(how: str) -> None:
    code, output = run_job(how, "stopped", "0", "1.5", script=SCRIPT)
    assert code == 1, output
    found = re.search(r"rank 2 is stopped \(state T\): kill -CONT (\d+) lets it go on", output)
    assert found, output
    assert "nothing came from rank 2 (rank 1 came). rank 2 is stopped" in output, output


def test_a_deadline_tells_where_the_missing_rank_stands() -> None:
    def rank_main() -> None:
        communicator = current_communicator()
        if communicator.rank == 1:
            time.sleep(1.5)
        communicator.barrier(name="meet").wait()

    with pytest.raises(
        DeadlineError, match=r"nothing came from rank 1. rank 1 stands at tests/ranks/test_watch.py:\d+ in rank_main"
    ):
        run_threads(rank_main, 2, timeout_s=0.4)


def test_a_rank_in_another_operation_is_told_with_whom_it_waits_for() -> None:
    """Two ranks that wait for each other's message: each is asked what it does."""
    ready = threading.Barrier(2)
    words: dict[int, str] = {}

    def rank_main() -> None:
        communicator = current_communicator()
        other = 1 - communicator.rank
        communicator.recv(np.empty(1), other, name="mine first")
        while communicator.current is None:
            time.sleep(0.01)
        time.sleep(0.05)
        ready.wait(5)
        words[communicator.rank] = whereabouts.describe(communicator, [other])
        ready.wait(5)
        communicator.send(np.zeros(1), other, name="mine first").wait()

    with pytest.raises(DeadlineError):  # send comes behind recv in the order of operations
        run_threads(rank_main, 2, timeout_s=0.5)
    for rank, text in words.items():
        other = 1 - rank
        assert text.startswith(f"rank {other} stands at tests/ranks/test_watch.py:"), text
        assert text.endswith(f"in operation -1: send 'mine first' float64[1], waiting for rank {rank}"), text


def test_the_line_is_asked_for_only_when_it_is_due_and_may_be_left_to_another_rank() -> None:
    asked, lines = [], []
    watcher = StallWatch(3, 20.0, lines.append)

    def about() -> str | None:
        asked.append(1)
        return None if len(asked) == 1 else "rank 2 stands at a.py:1"

    wait = Wait("barrier 'x'", 100.0, 7, ("rank 2",), about)
    for now in range(101, 150):
        watcher.look(wait, float(now))
    assert len(asked) == 2
    assert lines == [
        "rank 3 waits for rank 2 in barrier 'x': begun 41 s ago, nothing has come for 40 s; rank 2 stands at a.py:1"
    ]


def test_a_watch_tells_when_its_next_line_is_due() -> None:
    lines: list[str] = []
    watcher = StallWatch(0, 20.0, lines.append)
    wait = Wait("barrier 'x'", 100.0, 7, ("rank 2",))
    watcher.look(wait, 100.5)
    assert watcher.due_s == 20.0
    watcher.look(wait, 110.5)
    assert (watcher.due_s, lines) == (10.0, [])
    watcher.look(wait, 120.5)
    assert (watcher.due_s, len(lines)) == (20.0, 1)  # when the wait has doubled
    watcher.look(None, 121.0)
    assert watcher.due_s > 1e9


@pytest.fixture
def nobody_else() -> None:
    """What failing ranks of other tests in this process left open is closed, and its watch thread has ended."""
    for communicator in list(whereabouts.communicators):
        communicator.abort("another test is over")
        communicator.close()
    while any(thread.name == "phalanx-watch" for thread in threading.enumerate()):
        time.sleep(0.01)


def test_the_thread_ends_with_the_last_communicator(nobody_else: None) -> None:
    def threads() -> list[str]:
        return [thread.name for thread in threading.enumerate() if thread.name == "phalanx-watch"]

    during: list[int] = []

    def rank_main() -> None:
        communicator = current_communicator()
        communicator.barrier(name="all are here").wait()
        during.append(len(threads()))
        communicator.barrier(name="all have looked").wait()

    run_threads(rank_main, 3)
    assert during == [1, 1, 1]
    assert threads() == [] and not whereabouts.communicators


def test_whoever_closed_is_said_to_have_closed(nobody_else: None) -> None:
    def rank_main() -> str:
        communicator = current_communicator()
        if communicator.rank == 1:
            return ""
        while len(whereabouts.communicators) > 1:
            time.sleep(0.01)
        return whereabouts.describe(communicator, [1])

    assert run_threads(rank_main, 2)[0] == "rank 1 has closed its communicator"


def test_the_line_is_the_users_own_and_says_what_it_is_inside_of() -> None:
    event = threading.Event()

    def wait_for_data() -> None:
        event.wait(10)

    thread = threading.Thread(target=wait_for_data)
    thread.start()
    try:
        while not re.search(r"\(inside .*threading.py:\d+ in wait\)$", whereabouts.line_of(thread.ident)):
            assert thread.is_alive()
        assert re.match(r"tests/ranks/test_watch.py:\d+ in wait_for_data \(inside ", whereabouts.line_of(thread.ident))
    finally:
        event.set()
        thread.join()
    assert whereabouts.line_of(thread.ident) == "the end of its script"


def test_process_states() -> None:
    assert whereabouts.process_state(2**22 + 1) is None
    assert whereabouts.process_state(os.getpid()) in ("R", "S")
