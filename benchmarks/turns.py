"""The timer: long-lived workers, one a side, that take turns A B C A B C, so that what the machine does meets all of them."""

from __future__ import annotations

import statistics
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from crew import Crew
from sides import Side
from workloads import takes_part

ROUND_S = 0.3
"""What one round of one side takes about."""
PATIENCE_S = 4.0
"""A side that has used so much on a workload sits out the rounds that remain, but never before the second."""
TOLERANCE = 1e-3
"""How far apart the sides' losses and lengths of gradients may be, relative."""
BUSY, TRIES = 0.95, 3
"""A round in which the thread had less of the wall clock's time was disturbed, and is run again."""
AT_ONCE = 2
"""So many sides get ready at a time."""
COMPILE_S = 300.0
BENCH = str(Path(__file__).with_name("bench.py"))


class Turns:
    """All sides of one run."""

    def __init__(self, crew: Crew, sides: Sequence[Side], compile_all: bool = False) -> None:
        self.crew, self.sides, self.compile_all = crew, list(sides), compile_all
        self.several = {side.name for side in sides if side.threads > 1}
        self.disturbed = 0
        for side in sides:
            start(crew, side, side.name)

    def measure(self, case: str, rounds: int) -> dict[str, Any]:
        """All rounds of one workload: ``seconds`` a step by side and form, what was said instead by side.

        Raises RuntimeError if two sides do not compute the same.
        """
        made: dict[str, dict[str, Any]] = {}
        said: dict[str, str] = {}
        request = {"do": "make", "case": case}
        sides = [side for side in self.sides if takes_part(case, side.form, self.compile_all)]
        with ThreadPoolExecutor(AT_ONCE) as pool:  # nothing is timed yet
            answers = list(pool.map(lambda s: self.crew.ask(s.name, request, timeout_s=COMPILE_S)[0], sides))
        for side, answer in zip(sides, answers, strict=True):
            if "error" in answer:
                said[side.name] = answer["error"]
            else:
                made[side.name] = answer
                said |= {side.name: answer["note"]} if "note" in answer else {}
        if not made:
            return {"seconds": {}, "said": said, "disturbed": 0, "check": {}}
        agree(case, {name: answer["check"] for name, answer in made.items()})
        seconds: dict[str, dict[str, list[float]]] = {name: {f: [] for f in a["seconds"]} for name, a in made.items()}
        used = dict.fromkeys(made, 0.0)
        for number in range(rounds):
            for name, answer in made.items():
                if number >= 2 and used[name] > PATIENCE_S:
                    continue
                for form, estimate in answer["seconds"].items():
                    steps = max(1, round(ROUND_S / estimate))
                    found = self._round(name, {"do": "run", "form": form, "steps": steps})
                    if "error" in found:
                        raise RuntimeError(f"{case}: {name} failed in round {number}: {found['error']}")
                    seconds[name][form].append(found["seconds"])
                    answer["seconds"][form] = found["seconds"]
                    used[name] += steps * found["seconds"]
        return {
            "seconds": seconds,
            "said": said,
            "disturbed": self._new_disturbed(),
            "check": {name: answer["check"] for name, answer in made.items()},
        }

    def _round(self, name: str, request: dict[str, Any]) -> dict[str, Any]:
        """One round of one side; again when somebody else had the processor, and then the least disturbed.

        With several threads nothing is known of that: a thread may wait for its fellows.
        """
        tries = self.crew.ask(name, request)
        while name not in self.several and len(tries) < TRIES and tries[-1].get("busy", 1.0) < BUSY:
            tries += self.crew.ask(name, request)
        best = max(tries, key=lambda answer: answer.get("busy", 1.0))
        self.disturbed += name not in self.several and best.get("busy", 1.0) < BUSY
        return best

    def _new_disturbed(self) -> int:
        """Rounds with one thread since the last call that stayed disturbed."""
        number, self.disturbed = self.disturbed, 0
        return number


def start(crew: Crew, side: Side, team: str) -> None:
    """A worker process of ``side``."""
    command = [sys.executable, BENCH, "--worker", crew.address, "--team", team, "--side", side.name]
    crew.spawn(team, [*command, "--side-threads", str(side.threads)], side.environment())
    crew.gather(team, 1)


def peak_mib(side: Side, case: str) -> float:
    """The most memory that steps of ``case`` take in a process of their own, above libraries and data."""
    with Crew() as crew:
        start(crew, side, side.name)
        (answer,) = crew.ask(side.name, {"do": "memory", "case": case})
    if "error" in answer:
        raise RuntimeError(f"{case}, memory of {side.name}: {answer['error']}")
    return answer["mib"]


def agree(case: str, found: dict[str, list[float]]) -> None:
    """Raise RuntimeError unless all sides found the same numbers, to ``TOLERANCE``."""
    (first, expected), *others = found.items()
    for name, numbers in others:
        for a, b in zip(expected, numbers, strict=True):
            if not abs(a - b) <= TOLERANCE * max(abs(a), abs(b), 1e-6):
                raise RuntimeError(f"{case}: {first} computes {expected}, {name} {numbers}: not the same work")


def summarize(seconds: dict[str, dict[str, list[float]]], pairs: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """Medians of each side's faster form, ms a step, and for each pair (ours, theirs) the ratio theirs / ours.

    The spread of a ratio is that of its rounds; the ratio itself is that of the medians.
    """
    best = {name: min(forms, key=lambda form: statistics.median(forms[form])) for name, forms in seconds.items()}
    times = {name: seconds[name][best[name]] for name in seconds}
    row: dict[str, Any] = {
        "ms": {name: 1e3 * statistics.median(rounds) for name, rounds in times.items()},
        "form": best,
        "ratio": {},
    }
    for ours, theirs in pairs:
        if ours in times and theirs in times:
            ratios = sorted(b / a for a, b in zip(times[ours], times[theirs], strict=False))
            ratio = statistics.median(times[theirs]) / statistics.median(times[ours])
            row["ratio"][ours] = {"median": ratio, "lowest": ratios[0], "highest": ratios[-1]}
    return row
