"""phalanx against PyTorch on the CPU: one timer, both in one run, in turn.

    python benchmarks/bench.py [--only mlp lstm] [--rounds 5] [--threads 1 2] [--no replay without reference compile]

Each side is a long-lived process with so many threads; the sides take turns. Printed, and written to benchmarks/results/ as
Markdown, JSON and a picture: medians in ms a step and PyTorch / phalanx of the medians (above 1: phalanx is faster) with the lowest
and highest round. Weights, batches and loss are the same, which is verified. PyTorch is used at its best: Adam with fused=True, the
better of contiguous and channels-last images, torch.compile in a column of its own. Needs PyTorch and phalanx[cpu].
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import report
from crew import Crew, commit, describe_machine
from sides import EXTRAS, Side, all_sides, why_not, work
from turns import Turns, peak_mib, summarize
from workloads import CASES, COMPILED, DEFAULT

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--only", nargs="+", choices=CASES, default=DEFAULT, metavar="NAME", help=f"of {', '.join(CASES)}")
    add("--rounds", type=int, default=5)
    add("--threads", nargs="+", type=int, default=[1, 2], metavar="N", help="threads of both sides (default: 1 2)")
    add("--no", nargs="+", choices=EXTRAS, default=[], help="columns to leave out")
    add("--compile-all", action="store_true", help=f"torch.compile for every model, not only {', '.join(COMPILED)}")
    add("--no-memory", action="store_true", help="do not measure peak memory")
    add("--quick", action="store_true", help="a smoke test: the tiny model, one thread, two rounds")
    add(
        "--output", type=Path, metavar="FOLDER", help=f"default: {RESULTS.relative_to(ROOT)} if everything was measured"
    )
    for hidden in ("--worker", "--team", "--side"):
        add(hidden, help=argparse.SUPPRESS)
    add("--side-threads", type=int, default=1, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.rounds < 1 or min(options.threads) < 1:
        parser.error("--rounds and --threads must be at least 1")
    if options.quick:
        options.only, options.threads, options.rounds = ["tiny"], [1], 2
        options.no = [*options.no, "compile"]
    if options.output is None and options.only == DEFAULT and options.threads == [1, 2]:
        options.output = RESULTS
    return options


def about(options: argparse.Namespace) -> dict[str, Any]:
    """What a number depends on."""
    machine = describe_machine() | {"environment": "as many threads as a column says, for each library"}
    if importlib.util.find_spec("torch"):
        code = "import torch; print(torch.__version__)"
        machine["torch"] = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
        ).stdout.strip()
    return machine | {
        "commit": commit(),
        "command": f"python benchmarks/bench.py {' '.join(sys.argv[1:])}".strip(),
        "rounds": options.rounds,
        "date": time.strftime("%Y-%m-%d"),
    }


def choose_sides(options: argparse.Namespace) -> tuple[list[Side], dict[str, str]]:
    """The sides that can run here, and why the others cannot."""
    sides, missing = [], {}
    for side in all_sides(options.threads, [extra for extra in EXTRAS if extra not in options.no]):
        reason = why_not(side)
        if side.library == "torch" and importlib.util.find_spec("torch") is None:
            reason = "PyTorch is not installed"
        if reason:
            missing[side.name] = reason
        else:
            sides.append(side)
    return sides, missing


def pairs_of(sides: list[Side]) -> list[tuple[str, str]]:
    """Which columns are divided: ours by PyTorch eager with as many threads; torch.compile by eager, too."""
    eager = {side.threads: side.name for side in sides if side.library == "torch" and not side.form}
    return [
        (side.name, eager[side.threads]) for side in sides if side.threads in eager and side.name not in eager.values()
    ]


def main() -> None:
    options = parse()
    if options.worker:
        work(options)
        return
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    began = time.monotonic()
    sides, missing = choose_sides(options)
    found: dict[str, Any] = {
        "about": about(options),
        "missing": missing,
        "sides": [s.name for s in sides],
        "results": {},
    }
    print(report.head(found), flush=True)
    with Crew() as crew:
        turns = Turns(crew, sides, options.compile_all)
        for name in options.only:
            measured = turns.measure(name, options.rounds)
            row = {"label": CASES[name].label, **summarize(measured["seconds"], pairs_of(sides)), **measured}
            found["results"][name] = row
            print(report.line(found, name), flush=True)
    if not options.no_memory:
        compared = [side for side in sides if side.threads == 1 and side.kernels == "fast" and not side.without]
        compared = [side for side in compared if not side.form]
        print("\npeak memory of steps above libraries and data, MiB:")
        for name in options.only:
            with ThreadPoolExecutor(len(compared)) as pool:
                peaks = list(pool.map(lambda side, name=name: peak_mib(side, name), compared))
            found["results"][name]["mib"] = {side.name: mib for side, mib in zip(compared, peaks, strict=True)}
            print(report.memory_line(found, name), flush=True)
    found["about"]["minutes"] = round((time.monotonic() - began) / 60, 1)
    print(f"\n{found['about']['minutes']} minutes")
    if options.output:
        for path in report.write(found, options.output):
            print(path)
    elif options.quick:
        json.dumps(found)


if __name__ == "__main__":
    main()
