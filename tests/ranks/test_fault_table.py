"""Every fault of a training job: what the user reads, after how long, with which exit code, and that nothing stays behind.

``ROWS`` is the table. Each row is a whole job of :mod:`tests.ranks.fault_script`, started as a user starts one; what is
checked of it stands in :mod:`tests.ranks.fault_jobs`. Each row has a control: the same job with the one detection switched
off that the row is about (:mod:`tests.ranks.blinds`) must fail the same checks.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from phalanx.dist.messages import payload_sum
from tests.hosts import needs_hosts
from tests.jobs import Job
from tests.ranks.fault_jobs import (
    Outcome,
    Row,
    check,
    complaints,
    finished,
    remains,
    run_row,
    sentence,
    shielded,
    unshare,
)
from tests.ranks.test_mpi import pytestmark as needs_mpi

AT_ONCE = 3
"""So many jobs run beside each other: much of their time is waiting."""
BUCKET = r"gradient bucket 0 \(2\.bias to 0\.weight\) float32\[38464\]"
NEXT = rf"({BUCKET}(?: and commit of step 4)?|commit of step 4)"
"""What the others are in, depending on how far the overlap came."""
DAMAGED = r"was changed on the way\. No sum was made of it; test this host's memory and its network"
OTHERS = "ranks issued different operations: "
LOST = rf"rank [02] lost rank 1 \(host .*, pid \d+\) while in {NEXT}, .* That process died without a goodbye: look at its own last output"
STOPPED = rf"rank [02] of 3 waited 3\.\d s in {NEXT}: nothing came from rank 1 .*rank 1 is stopped \(state T\): kill -CONT \d+ lets it go on"
STALL = rf"rank 0 waits for rank 1 \(host .*, pid \d+\) in {NEXT}: begun .*; rank 1 is stopped \(state T\): kill -CONT \d+ lets it go on"
LEFT = rf"rank [02] needs rank 1 .*, which has closed its communicator, while in {NEXT}, .*Every rank must do the same operations; that one finished earlier"
RAISED = r"ValueError: sample 17 cannot be read"
BARRIER = rf"{OTHERS}rank 1 is in operation (\d+): barrier 'before evaluation'.*, rank [02] in operation \1: {NEXT}|{OTHERS}rank [02] is in operation (\d+): {NEXT}.*, rank 1 in operation \3: barrier 'before evaluation'"
SHAPE = rf"{OTHERS}rank \d is in operation (\d+): all_reduce 'metrics' float32\[[34]\].*, rank \d in operation \1: all_reduce 'metrics' float32\[[34]\]"
ORDER = rf"{OTHERS}rank \d is in operation (\d+): all_reduce '(loss|accuracy)' .*, rank \d in operation \1: all_reduce '(loss|accuracy)' "
CUT = r"rank [01] lost rank [01] \(host h[01], pid \d+\) while in .*: nothing acknowledged for .* s: the link is cut or the host is gone"
GONE = r"rank 0 lost rank 1 \(host h1, pid \d+\) while in .* That process died without a goodbye"
NO_MEMORY = r"ranks of host .* exchange messages instead of sharing memory: 4\.6 MB cannot be reserved \(File too large\)\. Free memory, or raise the limits"
LITTLE = r"rank 0 goes on with memory of its own in .*: \d+\.\d MB cannot be reserved \(File too large\)\. Free memory, or raise the limits"
SMALL_SHM = r"phalanx run: /dev/shm has 0\.1 MB free.*--shm-size"
HEADER = rf"rank [02] took a message of rank 1: its header {DAMAGED}"
FRAME = r"rank [02] of 3: expected message (\d+) of rank 1 \(.*\), got message \d+: bytes were changed on the way"
SAID = rf"rank [02] in {NEXT}: what rank 1 said in shared memory {DAMAGED}"
BYTES = r"the data connection to rank 0 \(host h0, .*\) broke: bytes were changed on the way|a message of rank 1 \(host h1, .*\) is not what it sent: bytes were changed on the way|expected message \d+ of rank 1 \(host h1, .*\), got message \d+: bytes were changed on the way"
CAME = rf"rank 0 in gradient bucket 0 .*: what came from rank 1 \(host h1, pid \d+\) {DAMAGED}"
KILLED_BY_RUN = r"phalanx run: rank 1 was killed by SIGKILL \(signal 9\); stopping the other"
NOTICED = r"process rank 1 with PID \d+ on node \S+ exited on"
BY_MESSAGES = ("--no-shared-memory",)
SHORT_STALL = ("--stall", "1")

ROWS = (
    Row("rank killed", "run 3", "killed", LOST, 5, 137, "lost", "words", tracebacks=0, records=2, quick=True),
    Row("rank killed", "mpi 3", "killed", NOTICED, 5, 137, "", "", tracebacks=0),
    Row("rank killed", "mpirun 3", "killed", NOTICED, 5, 137, "", "", tracebacks=0),
    Row("rank killed, mpirun goes on", "mpirun 3 --continuous", "killed", LOST, 6, None, "lost", "late", tracebacks=0, quick=True),
    Row("rank stopped", "run 3", "stopped", STOPPED, 11, 1, "deadline", "late", timeout_s=3, records=2, quick=True),
    Row("rank stopped", "mpi 3", "stopped", STOPPED, 11, 1, "deadline", "late", timeout_s=3),
    Row("rank stopped", "mpirun 3", "stopped", STOPPED, 11, 1, "deadline", "late", timeout_s=3),
    Row("rank stopped, the stall line", "run 3", "stopped", STALL, 11, 1, "kernel", "words", timeout_s=3, options=SHORT_STALL),
    Row("rank stopped, the stall line", "mpi 3", "stopped", STALL, 11, 1, "kernel", "words", timeout_s=3, options=SHORT_STALL, quick=True),
    Row("rank raises", "run 3", "raises", RAISED, 5, 1, "excepthooks", "tracebacks", records=3, quick=True, quick_control=True),
    Row("rank raises", "mpi 3", "raises", RAISED, 6, 1, "excepthooks", "tracebacks"),
    Row("rank raises", "mpirun 3", "raises", RAISED, 6, 1, "excepthooks", "tracebacks"),
    Row("rank leaves by sys.exit(0)", "run 3", "exits", LEFT, 6, 1, "left", "words", tracebacks=0, records=2),
    Row("rank leaves by sys.exit(0)", "mpi 3", "exits", LEFT, 6, 1, "left", "words", tracebacks=0),
    Row("rank returns from main", "run 3", "returns", LEFT, 6, 1, "left", "words", tracebacks=0, quick=True),
    Row("rank returns from main", "mpi 3", "returns", LEFT, 6, 1, "left", "words", tracebacks=0),
    Row("rank returns from main", "mpirun 3", "returns", LEFT, 6, 1, "left", "words", tracebacks=0, quick=True),
    Row("another operation", "run 3", "other operation", BARRIER, 5, 1, "check", "words", records=3, quick=True),
    Row("another operation", "mpi 3", "other operation", BARRIER, 6, 1, "check", "words"),
    Row("another operation, by messages", "run 3", "other operation", BARRIER, 5, 1, "check", "words", options=BY_MESSAGES),
    Row("another operation, by messages", "mpi 3", "other operation", BARRIER, 6, 1, "check", "words", options=BY_MESSAGES),
    Row("another shape", "run 3", "other shape", SHAPE, 5, 1, "check", "words"),
    Row("another shape", "mpi 3", "other shape", SHAPE, 6, 1, "check", "words"),
    Row("another shape, by messages", "run 3", "other shape", SHAPE, 5, 1, "check", "words", options=BY_MESSAGES),
    Row("another order", "run 3", "other order", ORDER, 5, 1, "check", "code"),
    Row("another order", "mpi 3", "other order", ORDER, 6, 1, "check", "code", quick=True),
    Row("another order, by messages", "run 3", "other order", ORDER, 5, 1, "check", "code", options=BY_MESSAGES),
    Row("link cut", "hosts", "cut", CUT, 9, None, "silence", "late", tracebacks=0, options=("--silence", "3"), quick=True),
    Row("link cut", "hosts mpirun", "cut", CUT, 12, None, "silence", "late", tracebacks=0, options=("--silence", "3")),
    Row("host gone", "hosts", "gone", GONE, 5, None, "lost", "words", tracebacks=0),
    Row("no memory to share", "run 3", "no memory", NO_MEMORY, 20, 0, "reserved", "code", tracebacks=0, quick=True),
    Row("no memory to share", "mpi 3", "no memory", NO_MEMORY, 30, 0, "reserved", "code", tracebacks=0),
    Row("memory to share runs out", "run 3", "little memory", LITTLE, 20, 0, "reserved", "code", tracebacks=0, options=("--width", "6400")),
    Row("tiny /dev/shm", "run 3", "none", r"bits \w+ on rank 0", 20, 0, "", "", tracebacks=0, shm="64k"),
    Row("tiny /dev/shm", "mpi 3", "none", SMALL_SHM, 30, 0, "space", "words", tracebacks=0, shm="64k", quick=True),
    Row("header of a message damaged", "run 3", "header damaged", HEADER, 5, 1, "checksum", "words", options=BY_MESSAGES, quick=True),
    Row("header of a message damaged", "mpi 3", "header damaged", HEADER, 6, 1, "checksum", "words", options=BY_MESSAGES),
    Row("frame of a message damaged", "run 3", "frame damaged", FRAME, 5, 1, "counts", "words", options=BY_MESSAGES),
    Row("text in shared memory damaged", "run 3", "text damaged", SAID, 5, 1, "checksum", "words"),
    Row("note in shared memory damaged", "run 3", "note damaged", SAID, 5, 1, "checksum", "code", quick_control=True),
    Row("note in shared memory damaged", "mpi 3", "note damaged", SAID, 6, 1, "checksum", "code", quick=True),
    Row("bytes damaged between hosts", "hosts", "bytes damaged", BYTES, 6, None, "curve", "code", quick=True),
    Row("bytes damaged between hosts", "hosts mpirun", "payload damaged", CAME, 8, None, "sums", "code"),
    Row("two jobs at once", "two run 2", "none", r"bits \w+ on rank 0", 30, 0, "", "", tracebacks=0),
    Row("two jobs, one is killed", "two run 2", "killed", KILLED_BY_RUN, 5, 137, "names", "other", tracebacks=0, quick=True),
)  # fmt: skip
"""The table."""


# -- tests ----------------------------------------------------------------------------------------------------------------


def cases(control: bool) -> list:
    chosen = []
    for row in ROWS:
        if control and not row.blind:
            continue
        marks = [] if (row.quick_control if control else row.quick) else [pytest.mark.whole]
        marks += [needs_hosts] if row.launch.startswith("hosts") else []
        marks += [needs_mpi] if "mpi" in row.launch else []
        if row.shm != Row.shm and not unshare():
            marks.append(pytest.mark.skip(reason="a small /dev/shm needs a mount namespace"))
        chosen.append(pytest.param(row, control, id=f"{row.name}, {row.launch}", marks=marks))
    return chosen


@pytest.fixture(scope="module")
def outcomes(request, tmp_path_factory) -> Iterator[dict[tuple[Row, bool], Future[Outcome]]]:
    """Those of all selected rows and controls, some at a time."""
    chosen = [i.callspec.params for i in request.session.items if i.module is request.module and hasattr(i, "callspec")]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        futures = {}
        for params in chosen:
            row, control = params["row"], params["control"]
            folder = tmp_path_factory.mktemp("fault")
            futures[row, control] = pool.submit(run_row, row, folder, row.blind if control else "")
        yield futures
        pool.shutdown(cancel_futures=True)


@pytest.mark.parametrize(("row", "control"), cases(False))
def test_fault(row: Row, control: bool, outcomes, record_property) -> None:
    outcome = outcomes[row, control].result(timeout=600)
    assert outcome.came_to_fault, f"the job never came to its fault:\n{outcome.output}"
    check(row, outcome)
    codes = ", ".join(map(str, outcome.codes))
    record_property(
        "told", f"{row.name}, {row.launch}: exit {codes} after {outcome.seconds:.1f} s: {sentence(row, outcome)!r}"
    )


@pytest.mark.parametrize(("row", "control"), cases(True))
def test_a_row_fails_when_its_detection_is_switched_off(row: Row, control: bool, outcomes) -> None:
    outcome = outcomes[row, control].result(timeout=600)
    assert outcome.came_to_fault, f"the job never came to its fault:\n{outcome.output}"
    with pytest.raises(AssertionError, match=rf"(^|; ){row.complaint}: "):
        check(row, outcome)


@pytest.mark.skipif(not unshare(), reason="its own /dev/shm needs a mount namespace")
def test_what_stays_behind_is_seen(tmp_path: Path) -> None:
    """A job that leaves a file in /dev/shm, one in /tmp, and a process."""
    script = 'touch /dev/shm/left "${TMPDIR:-/tmp}/mine"; sleep 60 > /dev/null 2>&1 & sleep 0.1'
    row = Row("leaves things", "run 1", "none", "", 1, None, "", "", tracebacks=0)
    command, variables = shielded(["sh", "-c", script], tmp_path, row.shm)
    found = remains(row, outcome := finished(row, tmp_path, Job(command, extra=variables).start()))
    assert sorted(Path(line.removeprefix("left: ")).name for line in found) == ["left", "mine"]
    assert len(outcome.processes) == 1
    assert f"left: processes {outcome.processes}" in complaints(row, outcome)


def test_no_single_change_of_a_payload_escapes() -> None:
    numbers = np.random.default_rng(0)
    for nbytes in (1, 7, 8, 9, 1000, 100_003):
        data = bytearray(numbers.bytes(nbytes))
        whole = payload_sum(data)
        for at in {0, nbytes // 2, nbytes - 1}:
            data[at] ^= 1 << int(numbers.integers(8))
            assert payload_sum(data) != whole
            whole = payload_sum(data)
    assert payload_sum(b"") == 0
