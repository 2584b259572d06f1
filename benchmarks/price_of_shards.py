"""What exact bits cost: a step with shards=8 beside one of the fast mode, on 1, 2 and 4 ranks, all in turn.

    python benchmarks/price_of_shards.py [--workloads mlp cnn gpt] [--ranks 1 2 4] [--shards 8] [--rounds 5] [--kernels fast]
                                         [--output benchmarks/results/shards.json]

All train on the same global batch from the same loader, under a DataParallel. Exact are ``shards``, the plain loop over shards, and
``captured``, the same with ``phalanx.run_shards(phalanx.capture(...), step)``. A rank has one thread; in the last column one rank has all
cores. The price is an exact mode's time over that of the fast mode on as many ranks and cores, the median over rounds, with the lowest
and highest round. ``--output`` keeps every round as JSON and the table as Markdown beside it; what the file has of other
workloads stays, so that a run can be made in parts.
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
from typing import Any, NamedTuple

import numpy as np
from crew import SETTINGS, Crew, commit, describe_machine, environment, serve
from models import WORKLOADS, Library

BATCHES = 8
ROUND_S = 0.5
"""What one round of one team takes about."""
LEARNING_RATE = 1e-5
MODES = ("fast", "shards", "captured")


class Loop:
    """Steps of one workload over a loader, in the mode in which ``phalanx.init`` was called."""

    def __init__(self, library: Library, name: str, captured: bool) -> None:
        self.workload, self.library, self.captured = WORKLOADS[name], library, captured
        data, samples = library.root.data, self.workload.samples
        parts = self.workload.batch(np.random.default_rng(0), BATCHES * samples)
        self.loader = data.DataLoader(data.TensorDataset(*parts), batch_size=samples)
        self.model = library.root.DataParallel(self.workload.build(library))
        optimizer = getattr(library.optim, self.workload.optimizer)
        self.optimizer = optimizer(self.model.parameters(), lr=LEARNING_RATE)
        self.learn = library.root.capture(self.shard) if captured else self.shard

    def shard(self, inputs: Any, labels: Any) -> None:
        self.workload.loss(self.library, self.model, inputs, labels).backward()

    def run(self, steps: int) -> None:
        stop = self.loader.step + steps
        while self.loader.step < stop:
            for step in self.loader.steps():
                self.optimizer.zero_grad()
                if self.captured:
                    self.library.root.run_shards(self.learn, step)
                else:
                    for inputs, labels in step:
                        self.learn(inputs, labels)
                self.optimizer.step()
                if self.loader.step == stop:
                    break


def work(options: argparse.Namespace) -> None:
    """The main function of a rank."""
    library = Library("phalanx")
    group = library.root.init(shards=options.shards or None)
    loops: dict[str, Loop] = {}

    def answer(request: dict[str, Any]) -> dict[str, Any]:
        name = request["workload"]
        if name not in loops:
            loops.clear()
            gc.collect()
            loops[name] = Loop(library, name, options.captured)
            loops[name].run(3)
        loops[name].run(1)
        group.communicator.barrier(name="a round").wait()
        began = time.perf_counter()
        loops[name].run(request["steps"])
        return {"seconds": (time.perf_counter() - began) / request["steps"]}

    serve(options.worker, options.team, group.rank, answer)


class Team(NamedTuple):
    """Processes of one mode."""

    ranks: int
    mode: str
    cores: int = 1
    """Of each rank."""

    @property
    def name(self) -> str:
        return f"{self.ranks} {self.mode}" + (f" on {self.cores} cores" if self.cores > 1 else "")


def teams_of(options: argparse.Namespace, cores: int) -> list[Team]:
    """All that are compared."""
    found = [Team(n, mode) for n in options.ranks for mode in MODES]
    return found + ([Team(1, mode, cores) for mode in MODES] if cores > 1 else [])


def start_team(crew: Crew, team: Team, options: argparse.Namespace) -> None:
    shards = 0 if team.mode == "fast" else options.shards
    here = [str(Path(__file__).resolve()), "--worker", crew.address, "--team", team.name, "--shards", str(shards)]
    here += ["--captured"] if team.mode == "captured" else []
    run = [sys.executable, "-m", "phalanx", "run", "-n", str(team.ranks)]
    threads = {name: str(team.cores) for name in SETTINGS}
    crew.spawn(team.name, [*run, *here], environment() | threads | {"PHALANX_KERNELS": options.kernels})
    crew.gather(team.name, team.ranks)


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


def summarize(seconds: dict[str, list[float]], fast: str, exact: str) -> dict[str, float]:
    prices = sorted(b / a for a, b in zip(seconds[fast], seconds[exact], strict=True))
    return {
        "fast_ms": 1e3 * statistics.median(seconds[fast]),
        "exact_ms": 1e3 * statistics.median(seconds[exact]),
        "price": statistics.median(prices),
        "lowest": prices[0],
        "highest": prices[-1],
    }


def summaries(seconds: dict[str, list[float]], teams: list[Team]) -> dict[str, dict[str, float]]:
    """By the name of each team of an exact mode."""
    exact = [team for team in teams if team.mode != "fast"]
    return {team.name: summarize(seconds, team._replace(mode="fast").name, team.name) for team in exact}


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
    machines = sorted({f"{row['machine']['processor']}, {row['machine']['cores']} cores" for row in rows.values()})
    when = sorted({f"commit {row['commit']}, {row['date']}" for row in rows.values()})
    heads = {name: None for row in rows.values() for name in row["summary"]}
    lines = [
        f"# What exact bits cost: shards={found['shards']} beside the fast mode",
        "",
        f"`python benchmarks/price_of_shards.py`, {'; '.join(when)}. {'; '.join(machines)}; {found['kernels']} kernels, one thread a rank but "
        "where cores are named.",
        "",
        "The price, median, lowest and highest of rounds in turn: ms a step in the exact mode over those in the fast one. `shards`: the plain",
        "loop over shards; `captured`: `phalanx.run_shards(phalanx.capture(...), step)`. The number before them: ranks. The global batch is the",
        "same everywhere. Where there are more ranks than cores all modes wait for the processor.",
        "",
        "| workload |" + "".join(f" {head} |" for head in heads),
        "|---|" + "---|" * len(heads),
    ]
    for name, row in rows.items():
        cells = [f"| {WORKLOADS[name].label.removesuffix(' a rank')} |"]
        for head in heads:
            one = row["summary"].get(head)
            cells.append(
                f" {one['price']:.2f} ({one['lowest']:.2f} to {one['highest']:.2f}): {one['exact_ms']:.3g} of {one['fast_ms']:.3g} |"
                if one
                else " - |"
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
    add("--captured", action="store_true", help=argparse.SUPPRESS)
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
    print(f"{'workload':<10}{'mode':<24}{'fast ms':>10}{'exact ms':>10}{'price':>8}   lowest, highest")
    results = {}
    teams = teams_of(options, machine["cores"])
    with Crew() as crew:
        for team in teams:
            start_team(crew, team, options)
        for name in options.workloads:
            seconds = measure(crew, [team.name for team in teams], name, options.rounds)
            results[name] = {"seconds": seconds, "summary": summaries(seconds, teams)}
            for mode, row in results[name]["summary"].items():
                print(
                    f"{name:<10}{mode:<24}{row['fast_ms']:>10.2f}{row['exact_ms']:>10.2f}{row['price']:>8.2f}   "
                    f"{row['lowest']:.2f}, {row['highest']:.2f}",
                    flush=True,
                )
    if options.output:
        write(options.output, options, machine, results)


if __name__ == "__main__":
    main()
