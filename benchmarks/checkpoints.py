"""What saving costs training: steps with a save every 20 beside steps without, phalanx in the background, PyTorch in two ways.

    python benchmarks/checkpoints.py [--ranks 1] [--threads 1] [--rounds 4] [--sides phalanx torch.save async_save]

Each side is a team of processes of its own with a model of about 1 GB of state (an MLP's parameters and Adam's moments), which all sides
train alike. They take turns; a round is 20 steps without a save, then 20 steps of which the first one saves, A B A B. Then each
writes three times with no training beside it, and ``dd`` the same number of bytes to the same folder before each. Older checkpoints are removed between, while no clock runs.

- ``blocked``: seconds that the training thread spent in calls of the save, all of the round's, per GB of state; of the slowest rank.
- ``lost``: seconds that one save costs training: in calls, and by which the ten steps that follow take longer than the last ten of the
  round; less the same of the round without a save. Median, lowest and highest.
- ``throughput``: with a save every 20 steps, of that without: steps of the median time, and what is lost. Beside it the plain ratio of
  the rounds' times, which has all that the machine does to either.
- ``write``: GB/s from the call to a checkpoint that is on the disk (PyTorch's are synced here, their own save does not), and that as a part
  of what dd reached just before (``oflag=direct conv=fsync``, blocks of 16 MiB).
- ``memory``: what the first two saves added to a rank's resident memory, its shared memory included.

``async_save`` is that of ``torch.distributed.checkpoint`` with a stager that is kept, so that its memory is, too. Two ranks are a
DataParallel over shared memory, and DistributedDataParallel over gloo, of which rank 0 alone calls ``torch.save``.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from bench import commit
from crew import Crew, describe_machine, environment, serve
from models import Library
from sides import THREAD_VARIABLES

EVERY = 20
"""Steps from save to save."""
INPUTS, HIDDEN_LAYERS, OUTPUTS = 784, 5, 10
WRITES = 3
AFTER = 10
"""So many steps of a round may feel its save; the others tell what a step takes."""
SIDES = ("phalanx", "torch.save", "async_save")


def build(library: Library, width: int) -> Any:
    """(B, 784) -> (B, 10); with a width of 4096 its state is 1.04 GB."""
    nn = library.nn
    sizes = [INPUTS, *[width] * (HIDDEN_LAYERS + 1)]
    parts = [part for n, m in itertools.pairwise(sizes) for part in (nn.Linear(n, m), nn.ReLU())]
    return nn.Sequential(*parts, nn.Linear(width, OUTPUTS))


class Training:
    """Steps of the one model over one batch."""

    def __init__(self, library: Library, options: argparse.Namespace, rank: int, wrap: Callable[[Any], Any]) -> None:
        rng = np.random.default_rng(rank)
        inputs = rng.normal(size=(options.batch, INPUTS)).astype(np.float32)
        self.batch = library.root.tensor(inputs), library.root.tensor(rng.integers(0, OUTPUTS, options.batch))
        self.library = library
        self.model = wrap(build(library, options.width))
        fused = {"fused": True} if library.name == "torch" else {}
        self.optimizer = library.optim.Adam(self.model.parameters(), lr=1e-5, **fused)

    def step(self) -> None:
        inputs, labels = self.batch
        self.optimizer.zero_grad()
        self.library.functional.cross_entropy(self.model(inputs), labels).backward()
        self.optimizer.step()


# --- ways to save -----------------------------------------------------------------------------------------------------


class Phalanx:
    """``Checkpointer(background=True)``."""

    def __init__(self, options: argparse.Namespace, library: Library) -> None:
        self.group = library.root.init()
        self.rank, self.library, self.folder = self.group.rank, library, Path(options.folder)
        self.checkpointer: Any = None

    def wrap(self, model: Any) -> Any:
        return model if self.group.size == 1 else self.library.root.DataParallel(model)

    def barrier(self) -> None:
        self.group.communicator.barrier(name="a round").wait()

    def begin(self, training: Training) -> None:
        self.checkpointer = self.library.root.Checkpointer(
            self.folder, model=training.model, optimizer=training.optimizer, every=EVERY, keep=1, background=True
        )
        for _ in range(EVERY - 1):
            self.checkpointer.after_step()

    def after_step(self, number: int) -> None:
        """The first of each round's steps is a multiple of ``EVERY``."""
        self.checkpointer.after_step()

    def finish(self) -> None:
        self.checkpointer.wait()

    def write(self) -> None:
        """One whole save: the call is that of a step which saves."""
        self.after_step(0)
        self.finish()

    def between(self) -> None:
        for _ in range(EVERY - 1):
            self.checkpointer.after_step()


class Torch:
    """``torch.save`` by rank 0, or ``torch.distributed.checkpoint.async_save`` by all."""

    def __init__(self, options: argparse.Namespace, library: Library) -> None:
        self.rank, self.size, self.library = int(os.environ["RANK_OF_TEAM"]), options.ranks, library
        self.folder, self.way = Path(options.folder), options.team
        library.root.set_num_threads(options.threads)
        self.distributed = library.root.distributed
        meeting = f"file://{Path(options.worker).parent}/gloo-{options.team}"
        self.distributed.init_process_group("gloo", init_method=meeting, rank=self.rank, world_size=self.size)
        self.future: Any = None
        self.training: Any = None
        self.saves = 0
        if self.way == "async_save":
            staging = importlib.import_module("torch.distributed.checkpoint.staging")
            self.group = self.distributed.new_group(backend="gloo")  # its thread must not meet the gradients' messages
            self.stager = staging.DefaultStager(staging.StagingOptions(False, False, False, False))

    def wrap(self, model: Any) -> Any:
        if self.size == 1:
            return model
        return self.library.nn.parallel.DistributedDataParallel(model, gradient_as_bucket_view=True)

    def barrier(self) -> None:
        self.distributed.barrier()

    def begin(self, training: Training) -> None:
        self.training = training

    def after_step(self, number: int) -> None:
        if number:
            return
        state = {"model": self.training.model.state_dict(), "optimizer": self.training.optimizer.state_dict()}
        self.saves += 1
        if self.way == "async_save":
            self.finish()
            checkpoint = importlib.import_module("torch.distributed.checkpoint")
            self.future = checkpoint.async_save(
                state,
                checkpoint_id=self.folder / f"step-{self.saves}",
                async_stager=self.stager,
                process_group=self.group,
            )
        elif self.rank == 0:
            self.library.root.save(state, self.folder / f"step-{self.saves}.tmp")
            os.rename(self.folder / f"step-{self.saves}.tmp", self.folder / f"step-{self.saves}")

    def finish(self) -> None:
        if self.future is not None:
            self.future.result()
            self.future = None
        self.distributed.barrier()

    def between(self) -> None: ...

    def write(self) -> None:
        self.after_step(0)
        self.finish()
        if self.rank == 0:
            for path in [*self.folder.rglob("*")]:
                sync(path)


def sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)


# --- workers ----------------------------------------------------------------------------------------------------------


class Worker:
    """One rank of one side."""

    def __init__(self, options: argparse.Namespace) -> None:
        library = Library("phalanx" if options.team == "phalanx" else "torch")
        if library.name == "phalanx":
            library.root.kernels.choose("fast")
        self.way = (Phalanx if library.name == "phalanx" else Torch)(options, library)
        self.training = Training(library, options, self.way.rank, self.way.wrap)
        for _ in range(3):
            self.training.step()
        self.before_mib = resident_mib()
        self.way.begin(self.training)

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        if request["do"] == "write":
            self.way.barrier()
            began = time.perf_counter()
            self.way.write()
            seconds = time.perf_counter() - began
            self.way.between()
            return {"seconds": seconds}
        saving = request["do"] == "save"
        self.training.step()  # caches held another side's data
        self.way.barrier()
        calls, steps = [], []
        began = time.perf_counter()
        for number in range(EVERY):
            before = time.perf_counter()
            self.training.step()
            called = time.perf_counter()
            if saving:
                self.way.after_step(number)
            steps.append(called - before)
            calls.append(time.perf_counter() - called)
        seconds = time.perf_counter() - began
        if saving:
            self.way.finish()
        late_s = time.perf_counter() - began - seconds
        more = {"mib": resident_mib() - self.before_mib} if saving else {}
        self.way.barrier()
        return {"seconds": seconds, "blocked_s": sum(calls), "late_s": late_s, "calls": calls, "steps": steps, **more}


def resident_mib() -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024


# --- the parent -------------------------------------------------------------------------------------------------------


def start(crew: Crew, side: str, folder: Path, options: argparse.Namespace) -> None:
    place = folder / side
    place.mkdir()
    env = environment() | dict.fromkeys(THREAD_VARIABLES, str(options.threads)) | {"GLOO_SOCKET_IFNAME": "lo"}
    here = [str(Path(__file__).resolve()), "--worker", crew.address, "--team", side, "--folder", str(place)]
    for name in ("ranks", "threads", "width", "batch"):
        here += [f"--{name}", str(getattr(options, name))]
    if side != "phalanx":
        for _ in range(options.ranks):
            crew.spawn(side, [sys.executable, *here], env)
    else:
        run = ["-m", "phalanx", "run", "-n", str(options.ranks)] if options.ranks > 1 else []
        crew.spawn(side, [sys.executable, *run, *here], env)
    crew.gather(side, options.ranks)


def clear(folder: Path) -> None:
    """Older checkpoints go before the clock starts."""
    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def dd_s(folder: Path, nbytes: int) -> float:
    """Seconds in which ``dd`` writes so many bytes past the page cache and syncs."""
    block = 1 << 24
    count = max(1, round(nbytes / block))
    words = ["dd", "if=/dev/zero", f"of={folder / 'dd'}", f"bs={block}", f"count={count}", "oflag=direct", "conv=fsync"]
    began = time.perf_counter()
    subprocess.run(words, check=True, capture_output=True, timeout=120)
    seconds = (time.perf_counter() - began) * nbytes / (block * count)
    (folder / "dd").unlink()
    return seconds


def measure(crew: Crew, sides: list[str], folder: Path, nbytes: int, options: argparse.Namespace) -> dict[str, Any]:
    """Every answer, by side."""
    found: dict[str, Any] = {side: {"plain": [], "save": [], "write": [], "dd_s": []} for side in sides}
    for number in range(options.rounds):
        for side in sides[: None if number < options.peer_rounds else 1]:
            for do in ("plain", "save"):
                clear(folder / side)
                found[side][do].append(crew.ask(side, {"do": do}))
                os.sync()  # what a side left to the system must not meet the next one
    for _ in range(WRITES):
        for side in sides:
            clear(folder / side)
            os.sync()
            found[side]["dd_s"].append(dd_s(folder, nbytes))
            found[side]["write"].append(crew.ask(side, {"do": "write"}))
    return found


def summarize(found: dict[str, Any], nbytes: int) -> dict[str, float]:
    def slowest(rounds: list[Any], key: str) -> list[float]:
        return [max(answer[key] for answer in answers) for answers in rounds]

    plain, saving = slowest(found["plain"], "seconds"), slowest(found["save"], "seconds")
    calm = statistics.median(step for a in found["plain"] + found["save"] for step in a[0]["steps"][AFTER:])
    lost = sorted(
        max(map(lost_s, with_save)) - max(map(lost_s, without))
        for with_save, without in zip(found["save"], found["plain"], strict=True)
    )
    writes = slowest(found["write"], "seconds")
    return {
        "step_ms": 1e3 * calm,
        "blocked_s_per_gb": statistics.median(slowest(found["save"], "blocked_s")) / (nbytes / 1e9),
        "lost_s": statistics.median(lost),
        "lost_lowest_s": lost[0],
        "lost_highest_s": lost[-1],
        "throughput": EVERY * calm / (EVERY * calm + statistics.median(lost)),
        "throughput_of_rounds": statistics.median(a / b for a, b in zip(plain, saving, strict=True)),
        "late_s": max(slowest(found["save"], "late_s")),
        "write_gb_per_s": nbytes / 1e9 / statistics.median(writes),
        "write_of_dd": statistics.median(dd / own for dd, own in zip(found["dd_s"], writes, strict=True)),
        "dd_gb_per_s": nbytes / 1e9 / statistics.median(found["dd_s"]),
        "mib": max(answer["mib"] for answer in found["save"][min(1, len(found["save"]) - 1)]),
    }


def lost_s(answer: dict[str, Any]) -> float:
    """In calls, and in steps after the first call."""
    steps = answer["steps"]
    return sum(answer["calls"]) + sum(steps[1 : 1 + AFTER]) - AFTER * statistics.median(steps[AFTER:])


HEAD = (
    f"{'':<12}{'step ms':>9}{'blocked s/GB':>14}{'lost s':>8}   {'lowest, highest':<17}{'throughput':>11}{'of rounds':>11}"
    f"{'write GB/s':>12}{'of dd':>7}{'dd GB/s':>9}{'memory MiB':>12}"
)


def show(side: str, row: dict[str, float]) -> str:
    spread = f"{row['lost_lowest_s']:.2f}, {row['lost_highest_s']:.2f}"
    return (
        f"{side:<12}{row['step_ms']:>9.0f}{row['blocked_s_per_gb']:>14.3f}{row['lost_s']:>8.2f}   {spread:<17}{row['throughput']:>11.3f}"
        f"{row['throughput_of_rounds']:>11.3f}{row['write_gb_per_s']:>12.2f}{row['write_of_dd']:>7.2f}{row['dd_gb_per_s']:>9.2f}"
        f"{row['mib']:>12.0f}"
    )


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--sides", nargs="+", choices=SIDES, default=list(SIDES))
    add("--ranks", type=int, default=1)
    add("--threads", type=int, default=1, help="of each rank")
    add("--rounds", type=int, default=4, help="of the first side")
    add("--peer-rounds", type=int, default=1, help="of the others, which need not be known to a hundredth")
    add("--width", type=int, default=4096, help="of the layers; state grows with its square")
    add("--batch", type=int, default=48, help="of each rank")
    add("--folder", help="where to write (default: the current folder's file system)")
    add("--output", metavar="FILE", help="write every round as JSON")
    add("--worker", metavar="SOCKET", help=argparse.SUPPRESS)
    add("--team", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if min(options.ranks, options.threads, options.rounds, options.peer_rounds, options.width, options.batch) < 1:
        parser.error("all numbers must be at least 1")
    return options


def main() -> None:
    options = parse()
    if options.worker:
        worker = Worker(options)
        serve(options.worker, options.team, worker.way.rank, worker.answer)
        return
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    machine = describe_machine()
    sides = [side for side in options.sides if side == "phalanx" or importlib.util.find_spec("torch")]
    width = options.width
    nbytes = 3 * 4 * ((INPUTS + 1) * width + HIDDEN_LAYERS * (width + 1) * width + OUTPUTS * (width + 1))
    print(f"{machine['processor']}, {machine['cores']} cores, load {machine['load']:.1f}, {machine['platform']}")
    print(
        f"{nbytes / 1e9:.2f} GB of state, {options.ranks} ranks of {options.threads} threads, a save every {EVERY} steps, medians of "
        f"{options.rounds} rounds in turn ({options.peer_rounds} of PyTorch's); unset {', '.join(machine['unset'])}"
    )
    with tempfile.TemporaryDirectory(prefix="checkpoints-", dir=options.folder or ".") as name, Crew() as crew:
        for side in sides:
            start(crew, side, Path(name), options)
        found = measure(crew, sides, Path(name), nbytes, options)
        crew.dismiss()
    summary = {side: summarize(found[side], nbytes) for side in sides}
    print(HEAD)
    for side, row in summary.items():
        print(show(side, row))
        if row["late_s"] > 0.1:
            print(f"{'':<12}a save was not through at the next one: {row['late_s']:.1f} s more")
    if options.output:
        about = {"machine": machine, "commit": commit(), "options": vars(options), "nbytes": nbytes}
        Path(options.output).write_text(json.dumps({**about, "summary": summary, "rounds": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
