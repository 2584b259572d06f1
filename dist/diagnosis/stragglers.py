"""Which rank cost how much: every thousand steps, one line about who made the others wait, and what for.

A step takes as long as its slowest rank. Each rank counts the seconds in which it waited for data, computed, and waited for
others; all that exceeds the others' median is what it cost them.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..group import Group

EVERY = 1000
"""Steps between two lines."""
LEAST_SHARE = 0.01
"""A rank that cost less than this share of the time is not worth a line."""


@dataclass(frozen=True, slots=True)
class Shares:
    """Seconds of one rank within a stretch of steps."""

    data_s: float
    """Waiting for the loader."""
    compute_s: float
    wait_s: float
    """Waiting for messages that computing could not hide."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What one rank cost the others, as shares of the time that went by."""

    rank: int
    data: float
    compute: float

    @property
    def total(self) -> float:
        return self.data + self.compute


class StepClock:
    """The clock of one rank's steps.

    Args:
        every: after so many steps the ranks exchange their figures (one small message on the control group), and rank 0 says
            in one line which rank cost how much, if it was at least ``LEAST_SHARE``.
        write: gets that line.

    All ranks must count the same steps.
    """

    def __init__(self, group: Group, every: int = EVERY, write: Callable[[str], None] | None = None) -> None:
        self.group, self.every, self.write = group, every, write or _to_stderr
        self.start_anew()

    def start_anew(self) -> None:
        """Forget what was counted; on all ranks."""
        self.steps = 0
        self._data_s = self._compute_s = self._wait_s = 0.0
        self._began = time.monotonic()

    def mark_data(self, seconds: float) -> None:
        """The loader has just made this rank wait for a batch."""
        self._data_s += seconds

    def step_done(self, compute_s: float, wait_s: float) -> None:
        """A step is complete. ``compute_s``: forward, backward and update; ``wait_s``: for others and the wire."""
        self.steps += 1
        self._compute_s += compute_s
        self._wait_s += wait_s
        if self.steps >= self.every:
            self.report(LEAST_SHARE)

    def report(self, least_share: float = 0.0) -> str:
        """Say now how the steps since the last line went, and begin anew; the line. All ranks must call.

        ``least_share``: print nothing when no rank cost as much; on request everything is printed.
        """
        steps, passed_s = self.steps, time.monotonic() - self._began
        mine = [self._data_s, self._compute_s, self._wait_s, passed_s]
        rows = (
            self.group.control.all_gather_object(mine, name="figures of steps").wait()
            if self.group.size > 1
            else [mine]
        )
        self.start_anew()
        shares = [Shares(*row[:3]) for row in rows]
        longest_s = max(row[3] for row in rows)
        line = in_words(shares, steps, longest_s)
        if self.group.rank == 0 and max(cost.total for cost in costs(shares, longest_s)) >= least_share:
            self.write(line)
        return line


def costs(shares: Sequence[Shares], passed_s: float) -> list[Cost]:
    """What each rank cost the others in ``passed_s`` seconds, the dearest first.

    A rank costs what its data and compute exceed the median of the other ranks' by: so much sooner would they have gone on.

    >>> costs([Shares(0, 9, 1), Shares(0, 9, 1), Shares(1, 9, 0)], 10.0)[0]
    Cost(rank=2, data=0.1, compute=0.0)
    """
    found = []
    for rank, mine in enumerate(shares):
        others = [one for other, one in enumerate(shares) if other != rank] or [mine]
        data = mine.data_s - statistics.median(one.data_s for one in others)
        compute = mine.compute_s - statistics.median(one.compute_s for one in others)
        if data + compute <= 0 or passed_s <= 0:
            found.append(Cost(rank, 0.0, 0.0))
        elif min(data, compute) < 0:  # what it gained by the one it lost by the other
            found.append(
                Cost(rank, (data + compute) / passed_s, 0.0)
                if data > compute
                else Cost(rank, 0.0, (data + compute) / passed_s)
            )
        else:
            found.append(Cost(rank, data / passed_s, compute / passed_s))
    return sorted(found, key=lambda cost: -cost.total)


def in_words(shares: Sequence[Shares], steps: int, passed_s: float) -> str:
    """The line: the dearest rank, what it cost by, and how long even that rank waited (which is the wire)."""
    dearest = costs(shares, passed_s)[0]
    wire = min(one.wait_s for one in shares) / passed_s if passed_s > 0 else 0.0
    end = f"every rank waited at least {wire:.1%} for messages"
    what = f"the last {steps} steps"
    if len(shares) == 1 or dearest.total < LEAST_SHARE / 10:
        return f"no rank made the others wait in {what}; {end}".replace("%", " %")
    return (
        f"rank {dearest.rank} made the others wait {dearest.total:.1%} of {what}: {dearest.data:.1%} waiting for data, "
        f"{dearest.compute:.1%} compute; {end}"
    ).replace("%", " %")


def _to_stderr(line: str) -> None:
    print(f"phalanx: {line}", file=sys.stderr, flush=True)
