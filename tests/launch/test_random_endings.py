"""A hundred endings at random moments: whoever dies and however, five seconds later nothing of the job is there.

The job trains, saves in the background and reads its data by worker processes, so that there is something to be left behind.
"""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.hosts import needs_hosts
from tests.launch.hosts_rig import cluster
from tests.launch.rig import PHALANX, command_line, started

SCRIPT = """
import sys
import numpy as np
import phalanx
from phalanx import nn, optim
from phalanx.data import DataLoader, TensorDataset

if __name__ == "__main__":
    phalanx.init(shards=4, seed=0)
    model = phalanx.DataParallel(nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 4)))
    optimizer = optim.Adam(model.parameters())
    random = np.random.default_rng(0)
    data = TensorDataset(phalanx.tensor(random.standard_normal((512, 64), np.float32)), phalanx.tensor(random.integers(0, 4, 512)))
    loader = DataLoader(data, 32, shuffle=True, num_workers=1, multiprocessing_context="spawn", persistent_workers=True)
    checkpointer = phalanx.Checkpointer(sys.argv[1], model=model, optimizer=optimizer, loader=loader, every=50, background=True)
    print("ready", flush=True)
    for epoch in range(1000):
        for step in loader.steps():
            optimizer.zero_grad()
            for x, y in step:
                nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
            checkpointer.after_step()
"""

WAYS = ("zmq", "mpi", "mpirun", "hosts")
HOW = {"INT": signal.SIGINT, "TERM": signal.SIGTERM, "KILL": signal.SIGKILL, "STOP a while": signal.SIGSTOP}
AFTER_S = 5.0
MPI = {
    "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1", "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
}  # fmt: skip


def ending(seed):
    """(way, victim, signal, seconds after the ranks were ready)."""
    draw = random.Random(seed)
    way = WAYS[seed % len(WAYS)]
    victims = ["launcher", "rank", "worker"] + (["host"] if way == "hosts" else [])
    victim = draw.choice(victims)
    how = "KILL" if victim in ("worker", "host") else draw.choice(["INT", "TERM", "KILL"])
    return way, victim, how, draw.uniform(0.0, 1.5)


def shared_names():
    return set(os.listdir("/dev/shm"))


@needs_hosts
@pytest.mark.parametrize("seed", [s if s < 8 else pytest.param(s, marks=pytest.mark.whole) for s in range(100)])
def test_nothing_is_left(seed, tmp_path):
    way, victim, how, seconds = ending(seed)
    script, temporary = tmp_path / "training.py", tmp_path / "t"
    script.write_text(SCRIPT)
    temporary.mkdir()
    before = shared_names()
    with cluster(tmp_path, 2) as two:
        if way == "hosts":
            job = two.start(str(script), str(tmp_path / "run"))
        else:
            start = {"zmq": (*PHALANX, "run", "-n", "2"), "mpi": (*PHALANX, "run", "--mpi", "-n", "2"),
                     "mpirun": (str(Path(sys.executable).parent / "mpirun"), "-n", "2", sys.executable)}[way]  # fmt: skip
            job = started(*start, str(script), str(tmp_path / "run"), TMPDIR=str(temporary), **MPI)
        with job as running:
            _wait_until_ready(running)
            time.sleep(seconds)
            pids = two.all_pids() if way == "hosts" else _descendants(running.popen.pid)
            hit(running, two, pids, victim, HOW[how], str(script))
            try:
                _, err = running.popen.communicate(timeout=40)
            except subprocess.TimeoutExpired:
                pytest.fail(f"{way}: {how} to {victim} after {seconds:.2f} s: the job still runs after 40 s")
            end = time.monotonic() + AFTER_S
            while (left := leftovers(running, two, before)) and time.monotonic() < end:
                time.sleep(0.1)
        assert not left, f"{way}: {how} to {victim} after {seconds:.2f} s left {left}\n{err[-2000:]}"
        assert "Traceback" not in err or (victim != "launcher" and how != "INT"), err
        assert "Exception ignored" not in err, err
    files = [path.name for path in temporary.iterdir()]
    if (way, victim, how) == (
        "mpirun",
        "launcher",
        "KILL",
    ):  # Open MPI's own folder: swept at the next start, told by doctor
        files = [name for name in files if not name.startswith("ompi.")]
    assert files == [], f"{way}: {how} to {victim}"


def hit(running, two, pids, victim, number, script):
    """Send the signal to one process of that kind, or end a whole host."""
    if victim == "host":
        two.hosts.kill(1)
        return
    ranks = [
        pid
        for pid in pids
        if script in command_line(pid) and "phalanx" not in command_line(pid).split(script)[0].split()
    ]
    workers = [pid for pid in pids if "worker_main" in command_line(pid) or "spawn_main" in command_line(pid)]
    chosen = {"launcher": [running.popen.pid], "rank": ranks, "worker": workers}[victim]
    assert chosen, f"no {victim} among {[command_line(pid) for pid in pids]}"
    os.kill(chosen[-1], number)


def leftovers(running, two, before):
    """Processes by their mark or on the hosts, names in /dev/shm."""
    found = [*running.left(), *(command_line(pid) for pid in two.all_pids())]
    return [each for each in found if each] + sorted(
        name for name in shared_names() - before if name.startswith(("phalanx", "vader", "psm_"))
    )


def _descendants(pid):
    found = []
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        found += [int(child), *_descendants(int(child))]
    return found


def _wait_until_ready(running):
    end = time.monotonic() + 60
    seen = ""
    os.set_blocking(running.popen.stdout.fileno(), False)
    while "ready" not in seen:  # equal lines of ranks are printed once
        assert time.monotonic() < end and running.popen.poll() is None, seen
        try:
            seen += os.read(running.popen.stdout.fileno(), 4096).decode()
        except BlockingIOError:
            time.sleep(0.02)
    os.set_blocking(running.popen.stdout.fileno(), True)
