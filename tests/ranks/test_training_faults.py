"""One rank of a training job goes wrong: all end within 10 s, with one traceback that says who, in what, on which tensor."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.jobs import ROOT, Job, launch_command

SCRIPT = str(ROOT / "tests" / "ranks" / "faulty_training.py")
DEADLINE_S, ENDS_WITHIN_S = 5.0, 10.0
WIRES = ("mpirun", "run", "threads")
BUCKET = r"gradient bucket 0 \(head.bias to hidden.weight\) float32\[448\](?: and commit of step \d+)?"

WORDS = {
    "hook raises": (
        r"rank 1 of 3 failed|raised on rank 1 of 3",
        r"ArithmeticError: a hook that fails on purpose",
        r"in the backward of linear of hidden.weight, hidden.bias \(output of shape \(2, 16\)\), whose forward was called at "
        r".*faulty_training.py:\d+",
    ),
    "vjp raises": (
        r"rank 1 of 3 failed|raised on rank 1 of 3",
        r"ArithmeticError: a gradient that fails on purpose",
        r"in the backward of broken \(output of shape \(2, 16\)\), whose forward was called at .*faulty_training.py:\d+",
    ),
    "never arrives": (rf"DeadlineError: rank [02] of 3 waited 5.0 s in {BUCKET}: nothing came from rank 1 ",),
    "other collective": (
        r"MismatchError: ranks issued different operations",
        rf"rank [02] is in operation (\d+): {BUCKET}.*, rank 1 in operation \1: barrier 'my barrier'"
        rf"|rank 1 is in operation (\d+): barrier 'my barrier'.*, rank [02] in operation \2: {BUCKET}",
    ),
    "other step": (
        rf"DeadlineError: rank [02] of 3 waited 5.0 s in (commit of step 4|{BUCKET}): nothing came from rank 1 "
        r"|DeadlineError: rank 1 of 3 waited 5.0 s in broadcast_object from 0 'checkpoint begin': nothing came from ranks 0, 2",
    ),
    "other shape": (
        r"MismatchError: ranks issued different operations",
        r"rank [02] is in operation (\d+): all_reduce 'my sum' float32\[3\].*, rank 1 in operation \1: all_reduce 'my sum' float32\[4\]"
        r"|rank 1 is in operation (\d+): all_reduce 'my sum' float32\[4\].*, rank [02] in operation \2: all_reduce 'my sum' float32\[3\]",
    ),
    "other model": (
        r"MismatchError: DataParallel: the model of rank 1 differs from rank 0's: "
        r"head.weight is float32\[3, 17\] on rank 1, float32\[3, 16\] on rank 0; hidden.bias is float32\[17\] on rank 1",
        r"norm.weight is float32\[17\] on rank 1, float32\[16\] on rank 0\. ",
    ),
}
"""What the one traceback must say, by fault."""
LONG = ("vjp raises", "other step")
"""Those that go the way of another one."""


AT_ONCE = 3
"""So many jobs run beside each other: most of their time is waiting for a deadline."""


def cases() -> list:
    return [
        pytest.param(wire, fault, id=f"{wire}-{fault}", marks=pytest.mark.whole if fault in LONG else ())
        for fault in WORDS
        for wire in WIRES
    ]


@dataclass(frozen=True)
class Outcome:
    code: int
    output: str
    left: list[int]
    seconds: float
    """From the fault until no process of the job was left."""


def run_faulty(wire: str, fault: str, folder: Path) -> Outcome:
    settings = {"PHALANX_TIMEOUT_S": f"{DEADLINE_S:g}"}
    job = Job([*launch_command(f"{wire} 3"), SCRIPT, fault, str(folder)], extra=settings).start()
    try:
        code, output = job.finish(60)
        left = job.left_after(3.0)
        ended = time.monotonic()
    finally:
        job.end()
    assert (folder / "fault").exists(), f"the job never came to its fault:\n{output}"
    return Outcome(code, output, left, ended - float((folder / "fault").read_text()))


@pytest.fixture(scope="module")
def outcomes(request, tmp_path_factory) -> Iterator[dict[tuple[str, str], Future[Outcome]]]:
    """Those of all selected cases, started together."""
    chosen = [i.callspec.params for i in request.session.items if i.module is request.module and hasattr(i, "callspec")]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        keys = [(params["wire"], params["fault"]) for params in chosen]
        yield {key: pool.submit(run_faulty, *key, tmp_path_factory.mktemp("faulty")) for key in keys}
        pool.shutdown(cancel_futures=True)


@pytest.mark.parametrize(("wire", "fault"), cases())
def test_a_fault_ends_the_job(wire: str, fault: str, outcomes, record_property) -> None:
    outcome = outcomes[wire, fault].result(timeout=200)
    assert outcome.code != 0, outcome.output
    assert not outcome.left, f"processes {outcome.left} are left"
    assert outcome.seconds < ENDS_WITHIN_S, f"ended {outcome.seconds:.1f} s after the fault:\n{outcome.output}"
    said = one_traceback(outcome.output)
    for words in WORDS[fault]:
        assert re.search(words, said, re.DOTALL), f"no {words!r} in:\n{said}"
    record_property("told", f"{wire} 3, {fault}: ended {outcome.seconds:.1f} s after the fault")


def one_traceback(output: str) -> str:
    """Who failed, and from the only traceback on, without marks and what mpirun says of itself."""
    lines = [re.sub(r"^\[\d\] ", "", line) for line in output.replace("\0", "").splitlines()]
    begins = [number for number, line in enumerate(lines) if line == "Traceback (most recent call last):"]
    who = [line for line in lines if re.fullmatch(r"rank \d of 3 failed:|raised on rank \d of 3", line)]
    assert len(begins) == len(who) == 1, f"expected one traceback and one word on whose it is in:\n{output}"
    return "\n".join([*who, *lines[begins[0] :]])
