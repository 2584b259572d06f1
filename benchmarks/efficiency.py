"""Data-parallel efficiency of 2 ranks on one machine, beside PyTorch's DistributedDataParallel over gloo in the same run.

    python benchmarks/efficiency.py [--workloads cnn gpt mlp25m] [--rounds 7] [--backend zmq mpi] [--shards 2] [--kernels reference]

Efficiency = throughput with the reduction of gradients over throughput of the same two processes without it (the plain
module and its optimizer, at the same time on both ranks). Each library has one pair of processes that holds both models;
the pairs take turns, with and without reduction follow each other, A B C D A B C D. A round begins and ends with a barrier;
its time is that of the slower rank. Printed: medians over rounds of throughput and of the ratio within a round, the
lowest and highest ratio, and raw scaling: 2 ranks with reduction over 1 process alone; how long a rank waited for other
ranks, and the processor time that the reduction took. Adam in both libraries, PyTorch's with fused=True and DDP's
gradient_as_bucket_view=True. With ``--shards V`` the exact mode stands beside the fast mode.

A third mode of the same processes has no reduction either, but before each update they wait for each other by a word in shared
memory: its ratio (``barrier``) is what is left of the throughput because every step takes as long as its slower rank. No
reduction can do better; what it loses beyond that is its own.
"""

from __future__ import annotations

import argparse
import gc
import importlib.util
import json
import mmap
import os
import signal
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from crew import Crew, describe_machine, environment, serve
from models import WORKLOADS, Library, count_parameters

RANKS = 2
BATCHES = 8
"""Different batches that a rank goes through."""
WARM_UP = 5
"""Steps before the first round: overlap is learnt from two steps, DDP orders its buckets anew after the first."""
AWAKE = 1
"""Steps before the clock starts in each round: the caches held another contestant's data."""
MODES = ("with", "without", "barrier")
LEARNING_RATE = 1e-5


# --- workers ----------------------------------------------------------------------------------------------------------


class Words:
    """A word of shared memory for each rank of a team, for the barest of all barriers."""

    def __init__(self, path: Path, rank: int) -> None:
        with path.open("a+b") as file:
            file.truncate(RANKS * 64)
            self._words = memoryview(mmap.mmap(file.fileno(), RANKS * 64)).cast("Q")
        self._own, self._all = 8 * rank, [8 * each for each in range(RANKS)]

    def meet(self) -> None:
        """Until every rank has come here as often."""
        words = self._words
        words[self._own] += 1
        count = words[self._own]
        for each in self._all:
            while words[each] < count:
                os.sched_yield()


def _nothing() -> None:
    """What ranks do before an update that do not wait for each other."""


class PlainLoop:
    """Steps over batches that lie ready, the loop that everybody writes: PyTorch, and phalanx without shards."""

    def __init__(self, library: Library, name: str, rank: int) -> None:
        workload, rng = WORKLOADS[name], np.random.default_rng(rank)
        parts = [workload.batch(rng, workload.samples) for _ in range(BATCHES)]
        self.library = library
        self.loss = workload.loss
        self.batches = [tuple(library.root.tensor(part) for part in batch) for batch in parts]
        self.done = 0

    def run(self, model: Any, optimizer: Any, steps: int, before_update: Callable[[], None]) -> None:
        for _ in range(steps):
            inputs, labels = self.batches[self.done % BATCHES]
            optimizer.zero_grad()
            self.loss(self.library, model, inputs, labels).backward()
            before_update()
            optimizer.step()
            self.done += 1


class ShardLoop:
    """Steps over the shards of global batches, the loop of the exact mode."""

    def __init__(self, library: Library, name: str) -> None:
        workload = WORKLOADS[name]
        inputs, labels = workload.batch(np.random.default_rng(0), BATCHES * RANKS * workload.samples)
        data = library.root.data
        self.library, self.loss = library, workload.loss
        self.loader = data.DataLoader(data.TensorDataset(inputs, labels), batch_size=RANKS * workload.samples)

    def run(self, model: Any, optimizer: Any, steps: int, before_update: Callable[[], None]) -> None:
        stop = self.loader.step + steps
        while self.loader.step < stop:
            for step in self.loader.steps():
                optimizer.zero_grad()
                for inputs, labels in step:
                    self.loss(self.library, model, inputs, labels).backward()
                before_update()
                optimizer.step()
                if self.loader.step == stop:
                    break


class Worker:
    """One rank of one library: the models of the current workload, with and without reduction."""

    def __init__(
        self, library: Library, rank: int, wrap: Callable[[Any], Any], barrier: Callable[[], Any], words: Words
    ) -> None:
        self.library, self.rank, self.wrap, self.barrier, self.words = library, rank, wrap, barrier, words
        self.adam_options: dict[str, Any] = {}
        self.shards: int | None = None
        self.name = ""
        self.sides: dict[str, tuple[Any, Any, Any]] = {}
        """Mode -> loop, model, optimizer."""

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """One round: ``steps`` steps of a workload in one mode; ``alone``: without the other rank."""
        if request["workload"] != self.name:
            self._change(request["workload"])
        if request["mode"] not in MODES:
            return {"parameters": count_parameters(self.sides["without"][1])}
        loop, model, optimizer = self.sides[request["mode"]]
        meet = _nothing if request.get("alone") else self.barrier
        before_update = self.words.meet if request["mode"] == "barrier" else _nothing
        loop.run(model, optimizer, AWAKE, _nothing)
        meet()
        before = _counters(model)
        began, cpu = time.perf_counter(), time.process_time()
        loop.run(model, optimizer, request["steps"], before_update)
        seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
        after = _counters(model)
        meet()
        return {"seconds": seconds, "cpu_s": cpu, **{key: after[key] - before[key] for key in after}}

    def _change(self, name: str) -> None:
        self.sides.clear()
        gc.collect()
        self.name = name
        for mode in ("with", "without"):
            loop = PlainLoop(self.library, name, self.rank) if self.shards is None else ShardLoop(self.library, name)
            model = WORKLOADS[name].build(self.library)
            model = self.wrap(model) if mode == "with" else model
            optimizer = self.library.optim.Adam(model.parameters(), lr=LEARNING_RATE, **self.adam_options)
            self.sides[mode] = loop, model, optimizer
            loop.run(model, optimizer, WARM_UP, _nothing)
        self.sides["barrier"] = self.sides["without"]


def _counters(model: Any) -> dict[str, float]:
    """What a DataParallel's communicator counts since the start: seconds that the caller waited, payload bytes sent."""
    group = getattr(getattr(model, "reducer", None), "group", None)
    if group is None:
        return {}
    return {"exposed_s": group.communicator.flight.waited_s, "sent_bytes": group.communicator.sent_bytes}


def _words(options: argparse.Namespace, rank: int) -> Words:
    return Words(Path(options.worker).parent / f"words of {options.team}", rank)


def phalanx_worker(options: argparse.Namespace) -> Worker:
    library = Library("phalanx")
    group = library.root.init(shards=options.shards)
    extra = {} if options.bucket_bytes is None else {"bucket_bytes": options.bucket_bytes}
    worker = Worker(
        library,
        group.rank,
        lambda model: library.root.DataParallel(model, **extra),
        lambda: group.communicator.barrier(name="a round").wait(),
        _words(options, group.rank),
    )
    worker.shards = options.shards
    return worker


def torch_worker(options: argparse.Namespace) -> Worker:
    library = Library("torch")
    rank, distributed = int(os.environ["RANK_OF_TEAM"]), library.root.distributed
    library.root.set_num_threads(1)
    meeting = f"file://{Path(options.worker).parent}/gloo"
    distributed.init_process_group("gloo", init_method=meeting, rank=rank, world_size=RANKS)
    wrapper = library.nn.parallel.DistributedDataParallel
    worker = Worker(
        library,
        rank,
        lambda model: wrapper(model, gradient_as_bucket_view=True),
        distributed.barrier,
        _words(options, rank),
    )
    worker.adam_options = {"fused": True}
    return worker


# --- the parent -------------------------------------------------------------------------------------------------------


def start_teams(crew: Crew, options: argparse.Namespace) -> list[str]:
    """One pair of processes for each contestant; their names."""
    env = environment() | {"PHALANX_KERNELS": options.kernels}
    here = [str(Path(__file__).resolve()), "--worker", crew.address]
    extra = [] if options.bucket_bytes is None else ["--bucket-bytes", str(options.bucket_bytes)]
    teams = []
    for backend in options.backend:
        for shards in (None, *options.shards):
            team = f"phalanx {backend}" + ("" if shards is None else f" shards={shards}")
            run = [sys.executable, "-m", "phalanx", "run", "-n", str(RANKS), *(["--mpi"] if backend == "mpi" else [])]
            mode = [] if shards is None else ["--shards", str(shards)]
            crew.spawn(team, [*run, *here, "--team", team, *mode, *extra], env)
            crew.gather(team, RANKS)
            teams.append(team)
    if options.without_torch or importlib.util.find_spec("torch") is None:
        print(f"PyTorch is not {'wanted' if options.without_torch else 'installed'}: phalanx alone")
        return teams
    for _ in range(RANKS):
        crew.spawn("PyTorch DDP", [sys.executable, *here, "--team", "PyTorch DDP"], env | {"GLOO_SOCKET_IFNAME": "lo"})
    crew.gather("PyTorch DDP", RANKS)
    return [*teams, "PyTorch DDP"]


def measure(crew: Crew, teams: list[str], name: str, options: argparse.Namespace) -> dict[str, Any]:
    """All rounds of one workload: team -> mode -> the answers of each round."""
    steps = options.steps or WORKLOADS[name].steps
    request = {"workload": name, "steps": steps}
    parameters = [crew.ask(team, {**request, "mode": "load"})[0]["parameters"] for team in teams]
    if len(set(parameters)) != 1:
        raise RuntimeError(f"{name} has {parameters} parameters in {teams}: expected the same model everywhere")
    rounds: dict[str, dict[str, list[Any]]] = {team: {mode: [] for mode in (*MODES, "alone")} for team in teams}
    for number in range(options.rounds):
        at = number % len(MODES)
        for team in teams:
            for mode in (*MODES[at:], *MODES[:at]):  # none is always the first after a pause
                rounds[team][mode].append(crew.ask(team, {**request, "mode": mode}))
        for team in teams:
            alone = {**request, "mode": "without", "alone": True}
            rounds[team]["alone"].append(crew.ask(team, alone, ranks=[0]))
    return {"workload": name, "parameters": parameters[0], "steps": steps, "rounds": rounds}


def summarize(name: str, steps: int, rounds: dict[str, list[Any]]) -> dict[str, Any]:
    """Medians of one team: samples/s with, without and alone; efficiency; what could not be hidden, ms a step."""
    seconds = {mode: [max(a["seconds"] for a in answers) for answers in rounds[mode]] for mode in rounds}
    samples = {mode: WORKLOADS[name].samples * steps * (1 if mode == "alone" else RANKS) for mode in rounds}
    rates = {mode: samples[mode] / statistics.median(seconds[mode]) for mode in rounds}
    ratios = sorted(b / a for a, b in zip(seconds["with"], seconds["without"], strict=True))
    barrier = statistics.median(b / a for a, b in zip(seconds["barrier"], seconds["without"], strict=True))
    cpu_s = {mode: statistics.median(sum(a["cpu_s"] for a in answers) for answers in rounds[mode]) for mode in rounds}
    exposed = [max(a["exposed_s"] for a in answers) for answers in rounds["with"] if "exposed_s" in answers[0]]
    return {
        **{f"{mode}_samples_per_s": rate for mode, rate in rates.items()},
        "efficiency": statistics.median(ratios),
        "efficiency_lowest": ratios[0],
        "efficiency_highest": ratios[-1],
        "efficiency_of_a_barrier": barrier,
        "scaling": rates["with"] / rates["alone"],
        "step_ms_with": 1e3 * statistics.median(seconds["with"]) / steps,
        "step_ms_without": 1e3 * statistics.median(seconds["without"]) / steps,
        "extra_cpu_ms_per_step_and_rank": 1e3 * (cpu_s["with"] - cpu_s["without"]) / steps / RANKS,
        "exposed_ms_per_step": 1e3 * statistics.median(exposed) / steps if exposed else None,
    }


HEAD = (
    f"{'':<22}{'with':>10}{'without':>10}{'efficiency':>12}   {'lowest, highest':<15}{'barrier':>9}"
    f"{'1 process':>10}{'scaling':>9}{'waited':>9}{'more CPU':>10}"
)
UNITS = f"{'':<22}{'ms/step':>10}{'ms/step':>10}{'':>12}   {'':<15}{'alone':>9}{'samples/s':>10}{'x':>9}{'ms/step':>9}{'ms/step':>10}"


def show(team: str, row: dict[str, Any]) -> str:
    """``barrier``: the efficiency of a bare barrier; ``waited``: in what could not be hidden; ``more CPU``: processor time of the reduction, of all threads of a rank."""
    exposed = "" if row["exposed_ms_per_step"] is None else f"{row['exposed_ms_per_step']:.2f}"
    spread = f"{row['efficiency_lowest']:.3f}, {row['efficiency_highest']:.3f}"
    return (
        f"{team:<22}{row['step_ms_with']:>10.2f}{row['step_ms_without']:>10.2f}{row['efficiency']:>12.3f}   {spread:<15}"
        f"{row['efficiency_of_a_barrier']:>9.3f}{row['alone_samples_per_s']:>10.0f}{row['scaling']:>9.2f}{exposed:>9}"
        f"{row['extra_cpu_ms_per_step_and_rank']:>10.2f}"
    )


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--workloads", nargs="+", choices=WORKLOADS, default=["cnn", "gpt", "mlp25m"])
    add("--rounds", type=int, default=7)
    add("--steps", type=int, help="optimizer steps a round (default: by workload, about a second)")
    add("--backend", nargs="+", choices=("zmq", "mpi"), default=["zmq"])
    add(
        "--shards",
        nargs="*",
        type=int,
        default=[],
        metavar="V",
        help="the exact mode with V shards beside the fast mode",
    )
    add("--kernels", choices=("reference", "fast"), default="fast", help="of phalanx (default: fast)")
    add("--bucket-bytes", type=int, help="of phalanx's DataParallel (default: its own)")
    add("--without-torch", action="store_true", help="phalanx alone, without PyTorch beside it")
    add("--output", metavar="FILE", help="write every round as JSON")
    add("--worker", metavar="SOCKET", help=argparse.SUPPRESS)
    add("--team", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.rounds < 1 or (options.steps is not None and options.steps < 1):
        parser.error("--rounds and --steps must be at least 1")
    return options


def work(options: argparse.Namespace) -> None:
    options.shards = options.shards[0] if options.shards else None
    worker = torch_worker(options) if options.team == "PyTorch DDP" else phalanx_worker(options)
    serve(options.worker, options.team, worker.rank, worker.answer)


def main() -> None:
    options = parse()
    if options.worker:
        work(options)
        return
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    machine = describe_machine()
    print(f"{machine['processor']}, {machine['cores']} cores, load {machine['load']:.1f}, {machine['platform']}")
    print(f"Python {machine['python']}, NumPy {machine['numpy']}; {machine['environment']}, unset {machine['unset']}")
    print(f"{RANKS} ranks, {options.kernels} kernels, medians of {options.rounds} rounds, all contestants taking turns")
    results = []
    with Crew() as crew:
        teams = start_teams(crew, options)
        for name in options.workloads:
            found = measure(crew, teams, name, options)
            print(f"\n{WORKLOADS[name].label}: {found['parameters']:,} parameters, {found['steps']} steps a round")
            print(f"{HEAD}\n{UNITS}")
            found["summary"] = {team: summarize(name, found["steps"], found["rounds"][team]) for team in teams}
            for team, row in found["summary"].items():
                print(show(team, row), flush=True)
            results.append(found)
    if options.output:
        Path(options.output).write_text(
            json.dumps({"machine": machine, "kernels": options.kernels, "results": results}, indent=1)
        )


if __name__ == "__main__":
    main()
