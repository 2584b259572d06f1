"""How much of the communication between two hosts hides behind computing, over a link held to 1 and 3 Gbit/s.

    python benchmarks/overlap_hosts.py [--rates 1 3] [--backend zmq mpi] [--rounds 5] [--trace FILE]

Two network namespaces are the hosts, one rank on each. Computing is sized to take as long as communication. Two steps:

- ``buckets``: matrix products in equal pieces; after each piece one bucket of gradients is handed to ``all_reduce``, as a
  backward pass does; at the end all are waited for. The buckets are those that a DataParallel would cut on this wire.
- ``model``: forward and backward of a real DataParallel MLP and ``synchronize()``. Computing is the plain module's; what
  communication takes is the same step with ``overlap=False`` minus computing.

Measured in turn, medians over rounds, slower rank: computing alone, communication alone with its processor time (all threads
of the process), both together. hidden = computing + communication - together, as a share of min(computing, wire), where
wire is communication without its own processor time: the two ranks have one core each, so that processor time
cannot be hidden. That time is given twice: of communication alone ("alone"), and what it adds to the processor time of the
step that computes as well ("in step"), which is more because the two then share caches; so is the share. A model's gradients
come in backward alone: the share of min(backward, wire) stands beside it. Needs root.
"""

from __future__ import annotations

import argparse
import json
import secrets
import signal
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from crew import SETTINGS, Crew, describe_machine, environment, serve
from two_hosts import TwoHosts

from phalanx.dist import env
from phalanx.dist.env import RankEnvironment
from phalanx.dist.reduction.bucket import plan_buckets
from phalanx.launch.mpirun import OPEN_MPI, find_mpirun

SIDE = 384
"""Rows and columns of the matrices in a product: about a millisecond."""
LAYERS, WIDTH = 16, 1024
"""Of the model: 16 x (1024 x 1024 + 1024) float32, 67 MB."""
GRAIN = 1 << 14
"""Elements of each imagined parameter of ``buckets``."""
PORT = 29611
PHASES = ("compute", "communicate", "together")


# --- workers ----------------------------------------------------------------------------------------------------------


class Buckets:
    """Matrix products and buckets of gradients. ``amount``: products of the whole step; a bucket starts when its share is done."""

    def __init__(self, communicator: Any, megabytes: float, count: int | None) -> None:
        self.communicator = communicator
        length = int(megabytes * 2**20 / 4)
        sizes = communicator.bucket_sizes(None)
        if count is None:
            plan = plan_buckets(range(0, length, GRAIN), length, 4, sizes.bytes, sizes.first_bytes, sizes.last_bytes)
            ends = [bucket.hi for bucket in plan]
        else:
            ends = [length * (number + 1) // count for number in range(count)]
        self.ends = [end / length for end in ends]
        gradients = np.ones(length, np.float32)
        self.buckets = [gradients[lo:hi] for lo, hi in zip([0, *ends], ends, strict=False)]
        rng = np.random.default_rng(0)
        self.a, self.b = (rng.standard_normal((SIDE, SIDE), np.float32) for _ in range(2))
        self.out = np.empty_like(self.a)

    def step(self, phase: str, amount: int, mark: Callable[[str, float], None]) -> dict[str, float]:
        works = []
        for number, bucket in enumerate(self.buckets):
            if phase != "communicate":
                began = time.monotonic()
                lo, hi = (round(amount * end) for end in (self.ends[number - 1] if number else 0.0, self.ends[number]))
                for _ in range(lo, hi):
                    np.matmul(self.a, self.b, out=self.out)
                mark(f"products {lo} to {hi}", began)
            if phase != "compute":
                works.append(self.communicator.all_reduce(bucket, name=f"bucket {number}"))
        for work in works:
            work.wait()
        return {}


class Model:
    """An MLP of equal layers, plain, reduced at the end, and reduced within backward. ``amount``: samples in the batch."""

    def __init__(self, phalanx: Any) -> None:
        def build() -> Any:
            nn = phalanx.nn
            return nn.Sequential(*(part for _ in range(LAYERS) for part in (nn.Linear(WIDTH, WIDTH), nn.ReLU())))

        self.phalanx = phalanx
        self.models = {
            "compute": build(),
            "communicate": phalanx.DataParallel(build(), overlap=False),
            "together": phalanx.DataParallel(build()),
        }
        self.input = phalanx.zeros(0)

    def step(self, phase: str, amount: int, mark: Callable[[str, float], None]) -> dict[str, float]:
        if len(self.input) != amount:
            self.input = self.phalanx.randn(amount, WIDTH)
        model = self.models[phase]
        model.zero_grad()
        began = time.monotonic()
        loss = self.phalanx.mean(model(self.input))
        loss.weight = amount
        mark("forward", began)
        middle = time.monotonic()
        loss.backward()
        mark("backward", middle)
        backward_s = time.monotonic() - middle
        if phase != "compute":
            model.synchronize()
        return {"backward_s": backward_s}


class Worker:
    """One rank. Answers ``{"kind", "phase", "amount", "steps", "trace"}`` with seconds of one step."""

    def __init__(self, options: argparse.Namespace) -> None:
        import phalanx

        self.phalanx, self.options = phalanx, options
        self.group = phalanx.init(timeout_s=120)
        if (self.group.size, self.group.local_size) != (2, 1):
            raise RuntimeError(
                f"rank {self.group.rank}: expected 2 ranks on 2 hosts, got {self.group.size}, {self.group.local_size} of them here"
            )
        self.kinds: dict[str, Any] = {}
        self.marks: list[tuple[str, float, float]] = []

    def _mark(self, name: str, began: float) -> None:
        self.marks.append((name, began, time.monotonic()))

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        kind, communicator = request["kind"], self.group.communicator
        if kind not in self.kinds:
            make = {
                "buckets": lambda: Buckets(communicator, self.options.megabytes, self.options.buckets),
                "model": lambda: Model(self.phalanx),
            }
            self.kinds[kind] = make[kind]()
        communicator.barrier(name="a round").wait()
        self.marks.clear()
        waited, began, cpu, clock = (
            communicator.flight.waited_s,
            time.perf_counter(),
            time.process_time(),
            time.monotonic(),
        )
        more = [self.kinds[kind].step(request["phase"], request["amount"], self._mark) for _ in range(request["steps"])]
        seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
        answer = {
            "seconds": seconds / request["steps"],
            "cpu_s": cpu / request["steps"],
            "waited_s": (communicator.flight.waited_s - waited) / request["steps"],
            **{key: statistics.median(m[key] for m in more) for key in more[0]},
        }
        communicator.barrier(name="a round").wait()
        return answer | ({"trace": self._trace(clock)} if request.get("trace") else {})

    def _trace(self, since: float) -> list[dict[str, Any]]:
        """Chrome's trace events of the round: what the caller computed, what it waited for, what the wire carried."""
        flight = self.group.communicator.flight
        rows = [("computing", name, lo, hi) for name, lo, hi in self.marks]
        rows += [("waiting", w.name, w.began, w.ended) for w in flight.waitings() if w.began >= since]
        rows += [
            ("communication", o.name, o.began, o.ended) for o in flight.operations() if o.began >= since and o.ended
        ]
        lanes = ("computing", "waiting", "communication")
        rank = self.group.rank
        names = [
            {"ph": "M", "name": "thread_name", "pid": rank, "tid": number, "args": {"name": lane}}
            for number, lane in enumerate(lanes)
        ]
        process = {"ph": "M", "name": "process_name", "pid": rank, "tid": 0, "args": {"name": f"rank {rank}"}}
        return [process, *names] + [
            {"ph": "X", "name": name, "pid": rank, "tid": lanes.index(lane), "ts": 1e6 * lo, "dur": 1e6 * (hi - lo)}
            for lane, name, lo, hi in rows
        ]


# --- the parent -------------------------------------------------------------------------------------------------------


def start(crew: Crew, hosts: TwoHosts, backend: str, options: argparse.Namespace) -> str:
    """One rank on each host; the team's name."""
    here = [sys.executable, str(Path(__file__).resolve()), "--worker", crew.address, "--team", backend]
    here += ["--megabytes", str(options.megabytes)] + (["--buckets", str(options.buckets)] if options.buckets else [])
    root = str(Path(__file__).resolve().parents[1])
    base = env.without_ranks(environment()) | {"PYTHONPATH": root}
    job = secrets.token_hex(16)
    if backend == "mpi":
        mpi = find_mpirun(sys.executable, base)
        base |= OPEN_MPI | {"PRTE_MCA_plm_ssh_agent": hosts.agent()}
        passed = [word for name in (*SETTINGS, "PYTHONPATH") for word in ("-x", name)]
        mpirun = [mpi.path, "--host", ",".join(hosts.names), "--map-by", "ppr:1:node", "-n", "2", *passed]
        crew.spawn(backend, hosts.command(0, [*mpirun, *here]), base)
        crew.gather(backend, 2)
        return backend
    for rank in range(2):
        place = RankEnvironment(
            rank=rank, size=2, node=rank, rendezvous=f"{hosts.addresses[0]}:{PORT}", job=job, source="overlap_hosts"
        )
        crew.spawn(backend, hosts.command(rank, here), base | env.write(place))
    crew.gather(backend, 2)
    return backend


class Measurement:
    """One kind of step on one team over one rate of the link."""

    def __init__(self, crew: Crew, team: str, kind: str) -> None:
        self.crew, self.team, self.kind = crew, team, kind
        self.amount = 64

    def ask(self, phase: str, **more: Any) -> list[dict[str, Any]]:
        request = {"kind": self.kind, "phase": phase, "amount": self.amount, "steps": 1, **more}
        return self.crew.ask(self.team, request, timeout_s=120)

    def slower(self, phase: str, times: int = 3) -> dict[str, float]:
        """Medians over ``times`` steps of the slower rank's numbers."""
        found = [self.ask(phase) for _ in range(times)]
        return {key: statistics.median(max(a[key] for a in answers) for answers in found) for key in found[0][0]}

    def calibrate(self) -> None:
        """Choose the amount of computing that takes as long as communication."""
        self.slower("communicate", 3), self.slower("compute", 2)
        for _ in range(3):
            compute_s = self.slower("compute")["seconds"]
            wire_s = self.slower("communicate")["seconds"] - (compute_s if self.kind == "model" else 0.0)
            self.amount = max(1, round(self.amount * wire_s / compute_s))
            self.slower("compute", 1)
        for _ in range(3):  # overlap is learnt from two equal steps
            self.ask("together")

    def rounds(self, count: int) -> list[dict[str, list[dict[str, Any]]]]:
        return [{phase: self.ask(phase) for phase in PHASES} for _ in range(count)]


def summarize(kind: str, rounds: list[dict[str, list[dict[str, Any]]]]) -> dict[str, float | None]:
    """Medians over rounds, ms, and the shares that were hidden; None where communication was nothing but processor time."""

    def median(phase: str, key: str) -> float:
        return statistics.median(max(a[key] for a in answers[phase]) for answers in rounds)

    compute, together = median("compute", "seconds"), median("together", "seconds")
    communicate, cpu = median("communicate", "seconds"), median("communicate", "cpu_s")
    added = max(0.0, median("together", "cpu_s") - median("compute", "cpu_s"))
    if kind == "model":
        communicate, cpu = communicate - compute, max(0.0, cpu - median("compute", "cpu_s"))
    wire, wire_in_step = communicate - cpu, communicate - added
    hidden = compute + communicate - together
    row = {
        "compute_ms": compute,
        "communicate_ms": communicate,
        "cpu_ms": cpu,
        "added_cpu_ms": added,
        "together_ms": together,
    }
    row = {key: 1e3 * value for key, value in row.items()}
    row |= {"hidden_ms": 1e3 * hidden, "hidden": hidden / min(compute, wire) if wire > 0 else None}
    row["hidden_in_step"] = hidden / min(compute, wire_in_step) if wire_in_step > 0 else None
    row["waited_ms"] = 1e3 * median("together", "waited_s")
    if kind == "model":
        row["backward_ms"] = 1e3 * median("compute", "backward_s")
        row["hidden_of_backward"] = hidden / min(median("compute", "backward_s"), wire) if wire > 0 else None
    return row


HEAD = (
    f"{'Gbit/s':>6} {'wire':<5}{'step':<9}{'computing':>10}{'commun.':>9}{'its CPU':>9}{'in step':>9}{'together':>10}{'waited':>8}"
    f"{'hidden':>8}  share of min(computing, wire): alone, in step"
)


def show(rate: float, backend: str, kind: str, row: dict[str, Any]) -> str:
    def share(key: str) -> str:
        return "nothing to hide" if row[key] is None else f"{row[key]:.2f}"

    more = f"; of min(backward, wire) {share('hidden_of_backward')}" if "hidden_of_backward" in row else ""
    return (
        f"{rate:>6g} {backend:<5}{kind:<9}{row['compute_ms']:>10.1f}{row['communicate_ms']:>9.1f}{row['cpu_ms']:>9.1f}{row['added_cpu_ms']:>9.1f}"
        f"{row['together_ms']:>10.1f}{row['waited_ms']:>8.1f}{row['hidden_ms']:>8.1f}  {share('hidden')}, {share('hidden_in_step')}{more}"
    )


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--rates", nargs="+", type=float, default=[1.0, 3.0], metavar="GBIT", help="of the link, Gbit/s")
    add("--backend", nargs="+", choices=("zmq", "mpi"), default=["zmq", "mpi"])
    add("--kinds", nargs="+", choices=("buckets", "model"), default=["buckets", "model"])
    add("--rounds", type=int, default=5)
    add("--megabytes", type=float, default=64.0, help="all buckets together")
    add("--buckets", type=int, metavar="N", help="cut into N equal ones (default: the tuned sizes of the wire)")
    add(
        "--trace",
        metavar="FILE",
        help="write one step of each kind, wire and rate for chrome://tracing, into FILE-...json",
    )
    add("--output", metavar="FILE", help="write every round as JSON")
    add("--worker", metavar="SOCKET", help=argparse.SUPPRESS)
    add("--team", help=argparse.SUPPRESS)
    return parser.parse_args()


def write_trace(path: str, answers: list[dict[str, Any]]) -> None:
    """Times start at 0 at the first event; both ranks read one clock, because they share one machine."""
    events = [event for answer in answers for event in answer["trace"]]
    began = min(event["ts"] for event in events if event["ph"] == "X")
    for event in events:
        if event["ph"] == "X":
            event["ts"] -= began
    Path(path).write_text(json.dumps({"traceEvents": events, "displayTimeUnit": "ms"}))
    print(f"       trace: {path}")


def measure(crew: Crew, team: str, kind: str, rate: float, options: argparse.Namespace) -> dict[str, Any]:
    measurement = Measurement(crew, team, kind)
    measurement.calibrate()
    rounds = measurement.rounds(options.rounds)
    row = summarize(kind, rounds)
    print(show(rate, team, kind, row), flush=True)
    if options.trace:
        path = f"{options.trace.removesuffix('.json')}-{team}-{kind}-{rate:g}.json"
        write_trace(path, measurement.ask("together", trace=True))
    return {"rate": rate, "wire": team, "kind": kind, "amount": measurement.amount, "summary": row, "rounds": rounds}


def main() -> None:
    options = parse()
    if options.worker:
        worker = Worker(options)
        serve(options.worker, options.team, worker.group.rank, worker.answer)
        return
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    machine = describe_machine()
    print(f"{machine['processor']}, {machine['cores']} cores, load {machine['load']:.1f}; {machine['environment']}")
    cut = f"{options.buckets} equal buckets" if options.buckets else "buckets of the tuned sizes"
    print(f"2 hosts with 1 rank each, {options.megabytes:g} MB in {cut}; ms, medians of {options.rounds}")
    print(HEAD, flush=True)
    results = []
    with Crew() as crew, TwoHosts(crew.folder) as hosts:
        hosts.hold(options.rates[0])
        teams = [start(crew, hosts, backend, options) for backend in options.backend]
        for rate in options.rates:
            hosts.hold(rate)
            for team in teams:
                results += [measure(crew, team, kind, rate, options) for kind in options.kinds]
        crew.dismiss()
    if options.output:
        Path(options.output).write_text(json.dumps({"machine": machine, "results": results}, indent=1))


if __name__ == "__main__":
    main()
