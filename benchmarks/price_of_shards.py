"""What exact bits cost: a step with shards=8 beside one of the fast mode, on 1, 2 and 4 ranks, all in turn.

    python benchmarks/price_of_shards.py [--workloads mlp cnn gpt] [--ranks 1 2 4] [--shards 8] [--rounds 5] [--kernels fast]

Both train on the same global batch from the same loader, under a DataParallel, one thread a rank. The price is the exact mode's time over
that of the fast mode on as many ranks, the median over rounds, with the lowest and highest round.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import signal
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from crew import Crew, describe_machine, environment, serve
from models import WORKLOADS, Library

BATCHES = 8
ROUND_S = 0.5
"""What one round of one team takes about."""
LEARNING_RATE = 1e-5


class Loop:
    """Steps of one workload over a loader, in the mode in which ``phalanx.init`` was called."""

    def __init__(self, library: Library, name: str, shards: int | None) -> None:
        self.workload, self.library, self.shards = WORKLOADS[name], library, shards
        data, samples = library.root.data, self.workload.samples
        parts = self.workload.batch(np.random.default_rng(0), BATCHES * samples)
        self.loader = data.DataLoader(data.TensorDataset(*parts), batch_size=samples)
        self.model = library.root.DataParallel(self.workload.build(library))
        optimizer = getattr(library.optim, self.workload.optimizer)
        self.optimizer = optimizer(self.model.parameters(), lr=LEARNING_RATE)

    def run(self, steps: int) -> None:
        stop = self.loader.step + steps
        while self.loader.step < stop:
            for step in self.loader.steps():
                self.optimizer.zero_grad()
                for inputs, labels in step:
                    self.workload.loss(self.library, self.model, inputs, labels).backward()
                self.optimizer.step()
                if self.loader.step == stop:
                    break


def work(options: argparse.Namespace) -> None:
    """The main function of a rank."""
    shards = options.shards or None
    library = Library("phalanx")
    group = library.root.init(shards=shards)
    loops: dict[str, Loop] = {}

    def answer(request: dict[str, Any]) -> dict[str, Any]:
        name = request["workload"]
        if name not in loops:
            loops.clear()
            gc.collect()
            loops[name] = Loop(library, name, shards)
            loops[name].run(3)
        loops[name].run(1)
        group.communicator.barrier(name="a round").wait()
        began = time.perf_counter()
        loops[name].run(request["steps"])
        return {"seconds": (time.perf_counter() - began) / request["steps"]}

    serve(options.worker, options.team, group.rank, answer)


def start_team(crew: Crew, ranks: int, shards: int, kernels: str) -> str:
    """``ranks`` processes of one mode (``shards`` 0: fast); their name."""
    team = f"{ranks} {'shards' if shards else 'fast'}"
    here = [str(Path(__file__).resolve()), "--worker", crew.address, "--team", team, "--shards", str(shards)]
    run = [sys.executable, "-m", "phalanx", "run", "-n", str(ranks)]
    crew.spawn(team, [*run, *here], environment() | {"PHALANX_KERNELS": kernels})
    crew.gather(team, ranks)
    return team


def measure(crew: Crew, teams: list[str], name: str, rounds: int) -> dict[str, list[float]]:
    """Seconds a step of the slowest rank, by team."""
    first = {team: crew.ask(team, {"workload": name, "steps": 1}) for team in teams}
    steps = {team: max(1, round(ROUND_S / max(a["seconds"] for a in answers))) for team, answers in first.items()}
    seconds: dict[str, list[float]] = {team: [] for team in teams}
    for _ in range(rounds):
        for team in teams:
            answers = crew.ask(team, {"workload": name, "steps": steps[team]})
            seconds[team].append(max(answer["seconds"] for answer in answers))
    return seconds


def summarize(seconds: dict[str, list[float]], ranks: int) -> dict[str, float]:
    fast, exact = seconds[f"{ranks} fast"], seconds[f"{ranks} shards"]
    prices = sorted(b / a for a, b in zip(fast, exact, strict=True))
    return {
        "fast_ms": 1e3 * statistics.median(fast),
        "shards_ms": 1e3 * statistics.median(exact),
        "price": statistics.median(prices),
        "lowest": prices[0],
        "highest": prices[-1],
    }


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--workloads", nargs="+", choices=WORKLOADS, default=["mlp", "mlp2048", "cnn", "cifar", "lstm", "vae", "gpt"])
    add("--ranks", nargs="+", type=int, default=[1, 2, 4])
    add("--shards", type=int, default=8, metavar="V")
    add("--rounds", type=int, default=5)
    add("--kernels", choices=("reference", "fast"), default="fast")
    add("--output", metavar="FILE", help="write every round as JSON")
    add("--worker", metavar="SOCKET", help=argparse.SUPPRESS)
    add("--team", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if not options.worker and (options.rounds < 1 or min(options.ranks) < 1 or options.shards < max(options.ranks)):
        parser.error("--rounds and --ranks must be at least 1, --shards at least as many as ranks")
    return options


def main() -> None:
    options = parse()
    if options.worker:
        work(options)
        return
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    machine = describe_machine()
    print(f"{machine['processor']}, {machine['cores']} cores, load {machine['load']:.1f}; {machine['environment']}")
    print(
        f"{options.kernels} kernels, shards={options.shards}, global batches, medians of {options.rounds} rounds in turn"
    )
    if max(options.ranks) > machine["cores"]:
        print(
            f"{max(options.ranks)} ranks share {machine['cores']} cores: what they wait for each other is in both columns"
        )
    print(f"{'workload':<10}{'ranks':>6}{'fast ms':>10}{'exact ms':>10}{'price':>8}   lowest, highest")
    results = {}
    with Crew() as crew:
        teams = [start_team(crew, n, shards, options.kernels) for n in options.ranks for shards in (0, options.shards)]
        for name in options.workloads:
            seconds = measure(crew, teams, name, options.rounds)
            results[name] = {"seconds": seconds, "summary": {n: summarize(seconds, n) for n in options.ranks}}
            for n, row in results[name]["summary"].items():
                print(
                    f"{name:<10}{n:>6}{row['fast_ms']:>10.2f}{row['shards_ms']:>10.2f}{row['price']:>8.2f}   "
                    f"{row['lowest']:.2f}, {row['highest']:.2f}",
                    flush=True,
                )
    if options.output:
        about = {"machine": machine, "kernels": options.kernels, "shards": options.shards, "command": sys.argv}
        Path(options.output).write_text(json.dumps({**about, "results": results}, indent=1) + os.linesep)


if __name__ == "__main__":
    main()
