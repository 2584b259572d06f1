"""What exact bits cost: a step with shards=8 beside one of the fast mode, on 1, 2 and 4 ranks, all in turn.

    python benchmarks/price_of_shards.py [--workloads mlp cnn gpt] [--ranks 1 2 4] [--shards 8] [--rounds 5] [--kernels fast]
                                         [--output benchmarks/results/shards.json]

Both train on the same global batch from the same loader, under a DataParallel, one thread a rank. The price is the exact mode's time over
that of the fast mode on as many ranks, the median over rounds, with the lowest and highest round. ``--output`` keeps every round as
JSON and the table as Markdown beside it; what the file has of other workloads stays, so that a run can be made in parts.
"""

from __future__ import annotations

import argparse
import gc
import json
import signal
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from crew import Crew, commit, describe_machine, environment, serve
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


def write(path: Path, options: argparse.Namespace, machine: dict[str, Any], results: dict[str, Any]) -> None:
    """Add ``results`` to what ``path`` has of the same mode, and write the table beside it."""
    found: dict[str, Any] = {"kernels": options.kernels, "shards": options.shards, "results": {}}
    if path.exists():
        kept = json.loads(path.read_text())
        if all(kept[name] == found[name] for name in ("kernels", "shards")):
            found = kept
    about = {"machine": machine, "commit": commit(), "date": time.strftime("%Y-%m-%d"), "command": sys.argv[1:]}
    found["results"] |= {name: {**about, **row} for name, row in results.items()}
    order = [name for name in WORKLOADS if name in found["results"]]
    found["results"] = {name: found["results"][name] for name in order}
    path.write_text(json.dumps(found, indent=1) + "\n")
    path.with_suffix(".md").write_text("\n".join(table(found)) + "\n")


def table(found: dict[str, Any]) -> list[str]:
    """Lines of Markdown: for each workload and number of ranks both modes' ms a step and the price."""
    rows = found["results"]
    ranks = sorted({int(n) for row in rows.values() for n in row["summary"]})
    machines = sorted({f"{row['machine']['processor']}, {row['machine']['cores']} cores" for row in rows.values()})
    when = sorted({f"commit {row['commit']}, {row['date']}" for row in rows.values()})
    lines = [
        f"# What exact bits cost: shards={found['shards']} beside the fast mode",
        "",
        f"`python benchmarks/price_of_shards.py`, {'; '.join(when)}. {'; '.join(machines)}; {found['kernels']} kernels, one thread a rank.",
        "",
        "ms a step in the fast mode and with shards, and the price, their ratio: median, lowest and highest of rounds in turn. The global",
        "batch is the same everywhere. Where there are more ranks than cores both modes wait for the processor.",
        "",
        "| workload |" + "".join(f" {n} rank{'s' * (n > 1)}: fast, shards | price |" for n in ranks),
        "|---|" + "---|---|" * len(ranks),
    ]
    for name, row in rows.items():
        cells = [f"| {WORKLOADS[name].label.removesuffix(' a rank')} |"]
        for n in ranks:
            one = row["summary"].get(str(n), row["summary"].get(n))
            cells.append(
                f" {one['fast_ms']:.3g}, {one['shards_ms']:.3g} | {one['price']:.2f} ({one['lowest']:.2f} to {one['highest']:.2f}) |"
                if one
                else " - | - |"
            )
        lines.append("".join(cells))
    return lines


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--workloads", nargs="+", choices=WORKLOADS, default=["mlp", "mlp2048", "cnn", "cifar", "lstm", "vae", "gpt"])
    add("--ranks", nargs="+", type=int, default=[1, 2, 4])
    add("--shards", type=int, default=8, metavar="V")
    add("--rounds", type=int, default=5)
    add("--kernels", choices=("reference", "fast"), default="fast")
    add("--output", type=Path, metavar="FILE", help="write every round as JSON, and the table as Markdown beside it")
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
        write(options.output, options, machine, results)


if __name__ == "__main__":
    main()
