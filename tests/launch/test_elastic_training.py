"""Ranks, hosts and links are lost and others join while a model trains: it never starts again, and its bits are those of a quiet run.

The quiet run is a single process; what must be equal is every line of the ledger (loss, weights, optimizer, buffers) and the average.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hosts import needs_hosts
from tests.launch.hosts_rig import Cluster, cluster
from tests.launch.rig import DEADLINE_S, PHALANX, Started, environment, started

SCRIPT = str(Path(__file__).with_name("elastic_training.py"))
LONGEST_STALL_S = 5.0
BUSY_S = 3.0
"""What other tests beside this one may add; alone it is a tenth of that."""
EPOCHS = 9
PAUSE_S = 0.08


@pytest.fixture(scope="module")
def quiet(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Ledger and last line of a run in which nothing happens."""
    folder = tmp_path_factory.mktemp("quiet")
    done = subprocess.run(
        [sys.executable, SCRIPT, str(folder), "0", str(EPOCHS)],
        env=environment(), capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    return (folder / "ledger.jsonl").read_text(), done.stdout.splitlines()[-1]


class Training:
    """A job that trains, whose launcher's words can be waited for."""

    def __init__(self, job: Started, folder: Path, added: dict[str, str]) -> None:
        self.job, self.folder, self.added, self.err = job, folder, added, ""
        assert job.popen.stderr is not None
        os.set_blocking(job.popen.stderr.fileno(), False)

    def read(self) -> str:
        assert self.job.popen.stderr is not None
        with contextlib.suppress(BlockingIOError):
            while data := os.read(self.job.popen.stderr.fileno(), 1 << 16):
                self.err += data.decode()
        return self.err

    def until(self, what: str, seconds: float = DEADLINE_S) -> None:
        """Until the launcher has said ``what`` (a pattern)."""
        end = time.monotonic() + seconds
        while not re.search(what, self.read()):
            self._go_on(end, what)

    def until_step(self, step: int) -> None:
        """Until so many steps are complete."""
        ledger, end = self.folder / "ledger.jsonl", time.monotonic() + DEADLINE_S
        while not ledger.exists() or ledger.read_text().count("\n") < step:
            self._go_on(end, f"step {step}")

    def until_ready(self, pids: set[int]) -> None:
        """Until one of these processes has the state: a newcomer gets it when it joins."""
        end = time.monotonic() + DEADLINE_S
        while not any((self.folder / "ready" / str(pid)).exists() for pid in pids):
            self._go_on(end, f"state in one of {pids}")

    def _go_on(self, end: float, what: str) -> None:
        """Wait a little longer for ``what``."""
        code = self.job.popen.poll()
        if code is not None or time.monotonic() > end:
            raise AssertionError(f"no {what!r}, exit code {code}:\n{self.read()}")
        time.sleep(0.02)

    @property
    def steps(self) -> int:
        return (self.folder / "ledger.jsonl").read_text().count("\n")

    def pids(self, rank: int) -> list[int]:
        """The processes that were started as ``rank``, the newest last."""
        found = sorted((self.folder / "ranks").glob(f"{rank}.*"), key=lambda path: path.stat().st_mtime_ns)
        return [int(path.suffix[1:]) for path in found]

    def living(self) -> list[int]:
        return [
            int(path.suffix[1:])
            for path in (self.folder / "ranks").iterdir()
            if Path("/proc", path.suffix[1:], "cwd").exists() and not _is_zombie(path.suffix[1:])
        ]

    def join(self, *options: str) -> None:
        """Start more ranks; as many as there may be are enough."""
        records = Path(self.added["XDG_CACHE_HOME"], "phalanx", "jobs").glob("*.json")
        name = max(records, key=lambda path: path.stat().st_mtime_ns).stem
        done = subprocess.run(
            [*PHALANX, "join", name, *options],
            env=environment(**self.added),
            capture_output=True,
            text=True,
            timeout=30,
        )
        assert done.returncode == 0 or "over the limit" in done.stderr, (done.stdout, done.stderr, self.read())

    def _to_its_end(self) -> str:
        """What ranks have printed."""
        assert self.job.popen.stdout is not None
        os.set_blocking(self.job.popen.stdout.fileno(), False)
        out, end = "", time.monotonic() + DEADLINE_S
        while self.job.popen.poll() is None:
            assert time.monotonic() < end, (self.read(), out)
            self.read()
            with contextlib.suppress(BlockingIOError):
                out += os.read(self.job.popen.stdout.fileno(), 1 << 16).decode()
            time.sleep(0.02)
        with contextlib.suppress(BlockingIOError):
            out += os.read(self.job.popen.stdout.fileno(), 1 << 16).decode()
        return out

    def ends_as(self, quiet: tuple[str, str], generations: int) -> None:
        """To its end: the same bits, every stall short, at most one step done again for each new generation."""
        (self.folder / "released").touch()
        out = self._to_its_end()
        ledger, last = quiet
        assert self.job.popen.returncode == 0, self.read()
        assert (self.folder / "ledger.jsonl").read_text() == ledger, self.err
        assert last in out, (out, self.err)
        assert "restart" not in self.read()
        new = len(re.findall(r"generation [0-9]+: [0-9]+ ranks?;", self.err))
        steps = [line.split() for line in (self.folder / "times").read_text().splitlines()]
        ends = [float(when) for when, _ in steps]
        stall_s = max(after - before for before, after in itertools.pairwise(ends))
        repeated = sum(counts == "void" for _, counts in steps)
        print(f"{new} generations, {repeated} steps done again, longest time from step to step {stall_s:.2f} s")
        assert new >= generations and repeated <= new and stall_s < LONGEST_STALL_S + BUSY_S, self.err
        assert not self.job.left_after(5)


def _is_zombie(pid: str) -> bool:
    with contextlib.suppress(OSError):
        return Path("/proc", pid, "stat").read_text().rpartition(")")[2].split()[0] == "Z"
    return True


@contextlib.contextmanager
def on_one_host(folder: Path, ranks: int, limits: str, epochs: int = EPOCHS, *more: str) -> Iterator[Training]:
    added = {"XDG_CACHE_HOME": str(folder / "cache"), "TMPDIR": str(folder)}
    command = [
        *PHALANX,
        "run",
        "-n",
        str(ranks),
        "--elastic",
        limits,
        *more,
        SCRIPT,
        str(folder),
        str(PAUSE_S),
        str(epochs),
    ]
    with started(*command, **added) as job:
        yield Training(job, folder, added)


@contextlib.contextmanager
def over_hosts(folder: Path, three: Cluster, hosts: str, limits: str) -> Iterator[Training]:
    options = [*three.options(hosts), "--elastic", limits, SCRIPT, str(folder), str(PAUSE_S), str(EPOCHS)]
    with started(*PHALANX, "run", *options, **three.added) as job:
        yield Training(job, folder, three.added)


def test_survivors_keep_running_and_others_join(tmp_path: Path, quiet: tuple[str, str]) -> None:
    with on_one_host(tmp_path, 3, "1:4") as job:
        job.until_step(4)
        os.kill(job.pids(0)[-1], signal.SIGKILL)
        job.until("generation 1: 2 ranks; rank 0 was lost: killed by SIGKILL")
        job.until_step(job.steps + 2)
        job.join("-n", "1")
        job.until("joined")
        os.kill(job.pids(1)[-1], signal.SIGSTOP)
        job.until("stopped by a signal")
        job.ends_as(quiet, 3)


@needs_hosts
def test_a_rank_a_host_a_stopped_rank_and_a_link_are_lost_and_ranks_join(
    tmp_path: Path, quiet: tuple[str, str]
) -> None:
    with cluster(tmp_path, 3, per_host=2) as three, over_hosts(tmp_path, three, "h0:2,h1:2", "1:4") as job:
        job.until_step(4)
        os.kill(job.pids(1)[-1], signal.SIGKILL)
        job.until("generation 1: 3 ranks")
        job.until_step(job.steps + 2)
        three.hosts.kill(1)
        job.until("generation [0-9]+: 1 rank;")
        job.join("-n", "2", "--hosts", "h2:2")
        job.until("generation [0-9]+: 3 ranks; .*joined")
        job.until_step(job.steps + 2)
        os.kill(job.pids(2)[-1], signal.SIGSTOP)
        job.until("stopped by a signal for 2 s")
        job.until_step(job.steps + 2)
        three.hosts.cut(2)
        began = time.monotonic()
        job.until("generation [0-9]+: 1 rank; .*(expelled|host was lost)")
        assert time.monotonic() - began < LONGEST_STALL_S + BUSY_S
        job.join("-n", "1")
        job.ends_as(quiet, 5)


def disturb(job: Training, seed: int) -> int:
    """A random schedule of losses and joins, in which one that has the state is always left; how many there were."""
    draw, stopped = random.Random(seed), set[int]()
    count = draw.randint(2, 4)
    for _ in range(count):
        job.until_step(min(job.steps + draw.randint(0, 4), 5 * EPOCHS - 3))
        time.sleep(draw.random() * PAUSE_S)
        living = job.living()
        if len(living) > 1 and draw.random() < 0.6:
            victims = draw.sample(living, 1 if len(living) == 2 or draw.random() < 0.7 else 2)
            while not (spared := {*living} - {*victims} - stopped):
                victims = draw.sample(living, len(victims))
            job.until_ready(spared)  # without somebody who has the state there is no job any more
            for pid in victims:
                number = draw.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGSTOP])
                with contextlib.suppress(ProcessLookupError):  # it was stopped before, and killed for that by now
                    os.kill(pid, number)
                stopped |= {pid} if number == signal.SIGSTOP else set()
        elif len(living) < 4:
            job.join("-n", "1")
    time.sleep(2.0)  # for who joined last
    return count


def schedules(tmp_path: Path, quiet: tuple[str, str], seed: int) -> None:
    with on_one_host(tmp_path, 3, "1:4") as job:
        job.until_step(1)
        disturb(job, seed)
        job.ends_as(quiet, 0)


@pytest.mark.parametrize("seed", range(5))
def test_random_schedules(tmp_path: Path, quiet: tuple[str, str], seed: int) -> None:
    schedules(tmp_path, quiet, seed)


@pytest.mark.whole
@pytest.mark.parametrize("seed", range(5, 35))
def test_more_random_schedules(tmp_path: Path, quiet: tuple[str, str], seed: int) -> None:
    schedules(tmp_path, quiet, seed)
