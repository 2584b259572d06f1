"""The straggler line and the clocks: an artificially slow rank is named with what it cost and by what."""

from __future__ import annotations

import re
import threading
import time
from typing import Any

import pytest

import phalanx
from phalanx.dist.communicators.threads import current_communicator, run_threads
from phalanx.dist.diagnosis import clocks
from phalanx.dist.diagnosis.clocks import clock_offset
from phalanx.dist.diagnosis.stragglers import Cost, Shares, StepClock, costs, in_words
from phalanx.dist.group import current

STEPS = 10
PAUSE_S = 0.02


def run_steps(size: int, slow: int, kind: str) -> tuple[list[str], float]:
    """The lines of ``STEPS`` steps in which rank ``slow`` takes ``PAUSE_S`` longer each; and the share that this was."""
    lines: list[str] = []

    def rank_main() -> float:
        phalanx.init()
        group = current()
        clock = StepClock(group, every=STEPS, write=lines.append)
        began = time.monotonic()
        for step in range(STEPS):
            data_s = compute_s = 0.0
            started = time.monotonic()
            if group.rank == slow:
                time.sleep(PAUSE_S)
                data_s, compute_s = (
                    (time.monotonic() - started, 0.0) if kind == "data" else (0.0, time.monotonic() - started)
                )
            clock.mark_data(data_s)
            waiting = time.monotonic()
            group.communicator.barrier(name=f"step {step}").wait()
            passed_s = time.monotonic() - began
            clock.step_done(compute_s, time.monotonic() - waiting)
        assert clock.steps == 0
        return STEPS * PAUSE_S / passed_s

    return lines, run_threads(rank_main, size)[slow]


@pytest.mark.parametrize("kind", ["data", "compute"])
def test_the_slow_rank_is_named_with_what_it_cost(kind: str) -> None:
    lines, share = run_steps(3, 2, kind)
    (line,) = lines  # rank 0 alone speaks
    found = re.fullmatch(
        rf"rank 2 made the others wait ([\d.]+) % of the last {STEPS} steps: ([\d.]+) % waiting for data, ([\d.]+) % compute; "
        r"every rank waited at least [\d.]+ % for messages",
        line,
    )
    assert found, line
    total, data, compute = map(float, found.groups())
    assert total >= 95 * share  # sleeps are never shorter than asked for
    assert (data, compute) == ((total, 0.0) if kind == "data" else (0.0, total))


def test_no_line_when_nobody_was_slow() -> None:
    lines, _ = run_steps(2, -1, "data")
    assert lines == []


def test_a_report_on_request_says_that_too() -> None:
    lines: list[str] = []

    def rank_main() -> str:
        phalanx.init()
        clock = StepClock(current(), write=lines.append)
        clock.step_done(0.0, 0.0)
        return clock.report()

    results = run_threads(rank_main, 2)
    assert results == [results[0]] * 2 and lines == [results[0]]
    assert results[0].startswith("no rank made the others wait in the last 1 steps; every rank waited at least 0.0 %")


def test_costs_are_what_exceeds_the_median_of_the_others() -> None:
    shares = [Shares(0.1, 8.0, 1.9), Shares(0.1, 8.0, 1.9), Shares(0.4, 8.1, 1.5), Shares(0.1, 9.0, 0.9)]
    found = costs(shares, 10.0)
    assert [cost.rank for cost in found[:2]] == [3, 2]
    assert (found[0].data, found[0].compute) == pytest.approx((0.0, 0.1))
    assert (found[1].data, found[1].compute) == pytest.approx((0.03, 0.01))
    assert found[2].total == 0
    # what a rank gains in computing makes up for what it loses in waiting for data
    assert costs([Shares(2.0, 7.0, 0.0), Shares(0.0, 8.0, 1.0)], 10.0)[0] == Cost(0, pytest.approx(0.1), 0.0)
    assert costs([Shares(1.0, 1.0, 0.0)], 2.0) == [Cost(0, 0.0, 0.0)]


def test_the_wire_is_what_even_the_slowest_waits() -> None:
    line = in_words([Shares(0.0, 8.0, 2.0), Shares(0.3, 8.2, 1.5)], 1000, 10.0)
    assert line == (
        "rank 1 made the others wait 5.0 % of the last 1000 steps: 3.0 % waiting for data, 2.0 % compute; every rank waited at "
        "least 15.0 % for messages"
    )


class _Skewed:
    """``time`` as each rank's host has it: every rank's clock is some seconds ahead of rank 0's."""

    ahead = threading.local()

    def monotonic(self) -> float:
        return time.monotonic() + getattr(self.ahead, "seconds", 0.0)


def test_clock_offsets_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    skewed: Any = _Skewed()
    monkeypatch.setattr(clocks, "time", skewed)

    def rank_main() -> float:
        communicator = current_communicator()
        assert communicator is not None
        skewed.ahead.seconds = 1000.0 * communicator.rank
        return clock_offset(communicator)

    offsets = run_threads(rank_main, 3)
    assert offsets[0] == 0.0
    assert offsets[1:] == pytest.approx([1000.0, 2000.0], abs=0.01)
