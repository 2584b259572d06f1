"""phalanx against PyTorch on one GPU: long-lived workers that take turns, A B A B, in one run.

    python benchmarks/gpu.py [--only gpt2 resnet50 mlp cnn lstm vae] [--rounds 4] [--budget 540] [--output FOLDER] [--rehearse]

Printed, and written as Markdown, JSON and a picture: medians in ms a step, samples or tokens a second, the share of the card's stated peak, and
PyTorch / phalanx of the medians (above 1: phalanx is faster). Weights, batches and losses are the same, which is verified. Where PyTorch
is ahead by most, both sides' steps are taken apart. It ends within its budget of seconds; what was not reached is named. ``--rehearse`` goes the
same way at tiny sizes on whatever is there (the stand-ins of tests/standin without a GPU): its figures mean nothing.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import gpu_report as report
from crew import Crew, describe_machine, environment
from gpu_models import CASES
from gpu_sides import SIDES, why_not, work

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
TOLERANCE = {True: 2e-2, False: 2e-3}
"""How far apart losses and lengths of gradients may be, in bfloat16 and in float32 (TF32), relative."""
PROFILED = 3
"""So many of the cases in which PyTorch is ahead are taken apart."""
TURN_S = 2.0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--only", nargs="+", choices=CASES, default=list(CASES), metavar="NAME", help=f"of {', '.join(CASES)}")
    add("--sides", nargs="+", choices=SIDES, metavar="SIDE", help=f"of {', '.join(SIDES)}")
    add("--rounds", type=int, default=4)
    add("--budget", type=float, metavar="SECONDS", help="540; 55 for a rehearsal")
    add("--output", type=Path, metavar="FOLDER", help=f"default: {RESULTS.relative_to(ROOT)}, with a GPU")
    add("--rehearse", action="store_true", help="tiny sizes, on stand-ins where there is no GPU")
    for hidden in ("--worker", "--side"):
        add(hidden, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.output is None and not options.rehearse:
        options.output = RESULTS
    if options.sides is None:  # compiling takes longer than a rehearsal may
        options.sides = [side for side in SIDES if not (options.rehearse and side == "torch.compile")]
    options.budget = options.budget or (55.0 if options.rehearse else 540.0)
    return options


class Bench:
    """One run with a deadline."""

    def __init__(self, crew: Crew, options: argparse.Namespace) -> None:
        self.crew, self.options = crew, options
        self.ends = time.monotonic() + options.budget
        self.missing = {side: reason for side in options.sides if (reason := why_not(side))}
        self.sides = [side for side in options.sides if side not in self.missing]
        self.found: dict[str, Any] = {"about": {}, "sides": [], "missing": self.missing, "results": {}, "profiles": {}}

    def left(self) -> float:
        return self.ends - time.monotonic()

    def ask(self, side: str, **request: Any) -> dict[str, Any]:
        """One request; a side that gives no answer in time takes no further part."""
        if side not in self.sides:
            return {"error": self.missing.get(side, "not asked")}
        try:
            (answer,) = self.crew.ask(side, request, timeout_s=max(5.0, self.left()))
        except (RuntimeError, TimeoutError, OSError) as error:
            self.sides.remove(side)
            self.missing[side] = str(error)[:300]
            return {"error": str(error)[:300]}
        return answer

    def start(self) -> None:
        """All workers at once: libraries take seconds to load."""
        env = environment() | _standins(self.options.rehearse)
        for side in self.sides:
            command = [sys.executable, str(Path(__file__).resolve()), "--worker", self.crew.address, "--side", side]
            self.crew.spawn(side, command + ["--rehearse"] * self.options.rehearse, env)
        for side in list(self.sides):
            try:
                self.crew.gather(side, 1, timeout_s=min(180.0, self.left()))
            except (RuntimeError, TimeoutError) as error:
                self.sides.remove(side)
                self.missing[side] = str(error)[:300]
        abouts = {side: self.ask(side, do="about") for side in list(self.sides)}
        about = self.found["about"] = describe_machine() | {
            "command": f"python benchmarks/gpu.py {' '.join(sys.argv[1:])}".strip(), "date": time.strftime("%Y-%m-%d"),
            "rehearsal": self.options.rehearse, "rounds": self.options.rounds,
        }  # fmt: skip
        for side, said in abouts.items():
            about["torch" if "orch" in side else "phalanx"] = said
        self.found["sides"] = list(self.sides)
        print(report.head(self.found), flush=True)

    def measure(self, name: str) -> None:
        """All rounds of one workload, as far as the time goes."""
        case = CASES[name]
        row: dict[str, Any] = {"label": case.label, "said": {}, "rounds": {}, "check": {}}
        made: dict[str, dict[str, Any]] = {}
        for side in list(self.sides):
            if self.left() < 10:
                row["said"][side] = "no time was left"
                continue
            answer = self.ask(side, do="make", case=name)
            self.ask(side, do="free")
            if "error" in answer:
                row["said"][side] = answer["error"]
                continue
            made[side], row["check"][side] = answer, answer["check"]
            row["parameters"] = answer["parameters"]
            if "note" in answer:
                row["said"][side] = answer["note"]
        _agree(row, TOLERANCE[case.half])
        for _ in range(self.options.rounds):
            for side, answer in made.items():
                steps = 1 if self.options.rehearse else max(1, min(case.steps, round(TURN_S / answer["seconds"])))
                if self.left() < 5 + 2 * steps * answer["seconds"]:
                    continue
                self.ask(side, do="run", steps=1)  # caches are filled again
                turn = self.ask(side, do="run", steps=steps)
                self.ask(side, do="free")
                if "error" in turn:
                    row["said"][side] = turn["error"]
                    continue
                row["rounds"].setdefault(side, []).append(turn["seconds"])
        size = case.small if self.options.rehearse else case.full
        peak = self.found["about"].get("phalanx", {}).get("peak")
        report.summarize(row, case, size, peak)
        self.found["results"][name] = row
        print(report.line(self.found, name), flush=True)
        for side in made:
            self.ask(side, do="drop")

    def profile(self) -> None:
        """Take the steps apart in which PyTorch is ahead by most."""
        behind = {n: max(row["ratio"].values()) for n, row in self.found["results"].items() if row["ratio"]}
        for name in sorted(behind, key=lambda n: behind[n])[:PROFILED]:
            for side in ("phalanx", "PyTorch"):
                if self.left() < 10 or side not in self.sides:
                    continue
                if "error" not in self.ask(side, do="make", case=name):
                    answer = self.ask(side, do="profile")
                    self.found["profiles"].setdefault(name, {})[side] = answer.get("rows", answer.get("error"))
                self.ask(side, do="drop")


def _standins(rehearse: bool) -> dict[str, str]:
    """Where there is no GPU a rehearsal runs on the stand-ins."""
    if not rehearse or _has_gpu():
        return {}
    sys.path.insert(0, str(ROOT))
    from tests.standin import places

    return places.variables()


def _has_gpu() -> bool:
    try:
        import cupy
    except ImportError:
        return False
    return bool(cupy.is_available())


def _agree(row: dict[str, Any], tolerance: float) -> None:
    """Sides that do not compute what the first one does are named."""
    (first, expected), *others = row["check"].items() or [("", [])]
    for side, numbers in others:
        for a, b in zip(expected, numbers, strict=True):
            if not abs(a - b) <= tolerance * max(abs(a), abs(b), 1e-6):
                row["said"][side] = f"computes {numbers}, {first} {expected}: not the same work"


def main() -> int:
    options = parse()
    if options.worker:
        work(options.worker, options.side, options.rehearse)
        return 0
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    with Crew() as crew:
        bench = Bench(crew, options)
        bench.start()
        if not any(side.startswith("phalanx") for side in bench.sides):
            print(f"nothing was measured: {bench.missing}", file=sys.stderr)
            return 1
        for name in options.only:
            if bench.left() < 15:
                print(f"{name}: no time was left", flush=True)
                continue
            bench.measure(name)
            if options.output:
                report.write(bench.found, options.output)
        bench.profile()
        print(report.profiles(bench.found))
        bench.found["about"]["seconds"] = round(options.budget - bench.left())
        if options.output:
            print("\n".join(map(str, report.write(bench.found, options.output))))
    failed = [
        name for name, row in bench.found["results"].items() if not row["ms"] or "not the same work" in str(row["said"])
    ]
    if failed:
        print(f"without a figure, or not comparable: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    os.environ.setdefault("PYTHONUNBUFFERED", "1")
    sys.exit(main())
