"""Worker processes: equal batches, deaths with a name, nothing left behind, nothing of a rank inside."""

import collections
import os
import random
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import numpy as np
import pytest

import phalanx
from phalanx import nn, optim
from phalanx.core.data import DataLoader, Dataset, Placement, TensorDataset, get_worker_info, handover, set_placement
from phalanx.core.data.workers import worker_environment
from phalanx.core.errors import DataError
from phalanx.core.tensor import Tensor

REPOSITORY = Path(__file__).resolve().parents[2]
SPAWN = {"multiprocessing_context": "spawn"}


class Drawing(Dataset):
    """Sample i is (i, draws of `random` and `numpy.random`)."""

    def __len__(self):
        return 23

    def __getitem__(self, index):
        return index, random.random(), np.random.rand(2)


class Mischief(Dataset):
    """Sample 13 does what it is told to."""

    def __init__(self, what="nothing"):
        self.what = what

    def __len__(self):
        return 40

    def __getitem__(self, index):
        if index == 13 and self.what == "raise":
            raise KeyError("no such file")
        if index == 13 and self.what == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if index == 13 and self.what == "exit":
            os._exit(7)
        if index == 13 and self.what == "sleep":
            time.sleep(60)
        if index == 13 and self.what == "odd":
            return slice(3)
        return os.getpid()


class Inside(Dataset):
    """What a worker sees of the world."""

    told = "untouched"

    def __len__(self):
        return 4

    def __getitem__(self, index):
        info = get_worker_info()
        return {
            "ranks": sorted(
                name for name in os.environ if name.startswith(("OMPI", "PMI", "PHALANX", "SLURM", "RANK"))
            ),
            "mpi4py": "mpi4py" in sys.modules,
            "threads": os.environ["OMP_NUM_THREADS"],
            "info": (info.id, info.num_workers, type(info.dataset).__name__),
            "told": Inside.told,
            "parent": os.getppid(),
        }


def tell(worker):
    Inside.told = f"worker {worker}"


def as_they_are(samples):
    return samples


def pairs_of(samples):
    return Pair(np.stack([np.float32(index) for index, *_ in samples]), [{"draw": draw} for _, draw, _ in samples])


Pair = collections.namedtuple("Pair", "numbers draws")


def children():
    """Processes that this one has started and that are still there."""
    found = subprocess.run(
        ["ps", "-ww", "-o", "pid=,args=", "--ppid", str(os.getpid())], capture_output=True, text=True
    )
    return [line for line in found.stdout.splitlines() if "worker_main" in line]


@pytest.fixture(autouse=True)
def nothing_left():
    before = set_placement(Placement())
    yield
    set_placement(before)
    assert children() == []
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("phalanx-prefetch")]


def test_batches_and_tasks_cross_as_they_are():
    ours, theirs = socket.socketpair()
    value = (
        [None, True, 3, 1e300, float("inf"), "öß", b"\0\xff"],
        {"tensor": Tensor(np.zeros((2, 0, 3), np.float32)), 5: np.arange(6).reshape(2, 3).T, "deep": [{"a": (1, [2])}]},
        Pair(np.float32(2.5), np.array(["a", "bc"])),
        np.random.default_rng(0).random((300, 1000)),
    )
    thread = threading.Thread(target=handover.send, args=(ours, value))
    thread.start()
    came = handover.receive(theirs)
    thread.join(10)
    assert came[0] == value[0] and type(came[1]["tensor"]) is Tensor and came[1]["tensor"].shape == (2, 0, 3)
    assert (came[1][5] == value[1][5]).all() and came[1]["deep"] == value[1]["deep"]
    assert type(came[2]) is Pair and type(came[2].numbers) is np.float32 and came[2].draws.tolist() == ["a", "bc"]
    assert (came[3] == value[3]).all()
    for wrong in (np.array([object()]), {1, 2}, [object()]):
        with pytest.raises(DataError, match="cannot hand over"):
            handover.send(ours, wrong)
    ours.close()
    with pytest.raises(handover.Closed):
        handover.receive(theirs)
    theirs.close()


def contents(data, rank=0, size=1, **options):
    set_placement(Placement(rank, size, 4))
    loader = DataLoader(data, 6, shuffle=True, seed=1, **options)
    found = []
    for _ in range(2):
        for step in loader.steps():
            found += [(step.index, step.shard, [np.asarray(part).tolist() for part in batch]) for batch in step]
    return found


def test_any_number_of_processes_gives_the_same_batches():
    """Of a data set that draws from the process's generators, too."""
    alone = contents(Drawing())
    both = contents(Drawing(), 0, 2, num_workers=2, persistent_workers=True, **SPAWN) + contents(Drawing(), 1, 2)
    assert sorted(alone) == sorted(both)


def test_a_collate_function_crosses_and_batches_keep_their_types():
    loader = DataLoader(
        Drawing(),
        9,
        collate_fn=pairs_of,
        num_workers=1,
        multiprocessing_context="forkserver",
        seed=1,
        prefetch_factor=3,
    )
    alone = DataLoader(Drawing(), 9, collate_fn=pairs_of, seed=1)
    for ours, theirs in zip(loader, alone, strict=True):
        assert type(ours) is Pair and ours.draws == theirs.draws and (ours.numbers == theirs.numbers).all()


FATES = {
    "kill": r"worker process \d was killed by SIGKILL at sample 13, in the batch of samples 12, 13, 14",
    "exit": r"worker process \d ended with exit code 7 at sample 13",
    "raise": r"in worker process \d, .* 12, 13, 14: sample 13 of Mischief \(40 samples\) cannot be read: KeyError",
    "sleep": r"gave no batch within timeout=1\.5 s at sample 13",
    "odd": r"in worker process \d, batch of samples 12, 13, 14: .*cannot hand over an array of objects",
}


@pytest.mark.parametrize("what", FATES)
def test_what_befalls_a_worker_is_named_with_its_sample_at_its_turn(what):
    options = {"timeout": 1.5} if what == "sleep" else {}
    seen = []
    with pytest.raises(DataError, match=FATES[what]) as caught:
        for batch in DataLoader(
            Mischief(what), 3, num_workers=2, persistent_workers=what == "kill", **SPAWN, **options
        ):
            seen.append(len(batch))
    assert seen == [3, 3, 3, 3]
    if what == "raise":
        assert "test_workers.py" in caught.value.__notes__[0]


def test_what_cannot_cross_is_refused_before_anything_starts():
    loader = DataLoader(TensorDataset(np.arange(4)), collate_fn=lambda samples: samples, num_workers=2, **SPAWN)
    with pytest.raises(DataError, match=r"cannot be handed to a worker process.*top of a module"):
        next(iter(loader))


def test_a_worker_is_no_rank(monkeypatch):
    for name in ("OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PHALANX_RANK", "SLURM_PROCID", "RANK"):
        monkeypatch.setenv(name, "3")
    seen = list(DataLoader(Inside(), 2, collate_fn=as_they_are, num_workers=2, worker_init_fn=tell, **SPAWN))
    assert len(seen) == 2
    for number, batch in enumerate(seen):
        for sample in batch:
            parent = sample.pop("parent")
            identity = sample["info"]
            assert parent == os.getpid() and identity[1:] == (2, "Inside")
            assert sample == {
                "ranks": [],
                "mpi4py": False,
                "threads": "1",
                "info": identity,
                "told": f"worker {identity[0]}",
            }, number
    assert get_worker_info() is None
    kept = worker_environment({"PHALANX_DATA": "/data", "PATH": "/bin", "LOCAL_RANK": "0", "MPIEXEC": "1"})
    assert (
        kept["PHALANX_DATA"] == "/data"
        and kept["PATH"] == "/bin"
        and "LOCAL_RANK" not in kept
        and "MPIEXEC" not in kept
    )


def test_persistent_workers_stay_and_others_go():
    def processes(**options):
        loader = DataLoader(Mischief(), 10, num_workers=2, **SPAWN, **options)
        epochs = [{int(pid) for batch in loader for pid in batch.numpy()} for _ in range(2)]
        return epochs, len(children())

    (first, second), alive = processes(persistent_workers=True)
    assert len(first | second) <= 2 and alive == 2
    (first, second), alive = processes()
    assert first.isdisjoint(second) and alive == 0


def test_leaving_the_loop_ends_the_processes():
    for _ in DataLoader(Mischief("sleep"), 3, num_workers=2, **SPAWN):
        assert len(children()) == 2
        break
    assert children() == []
    loader = DataLoader(Mischief(), 3, num_workers=1, persistent_workers=True, **SPAWN)
    list(loader)
    assert len(children()) == 1
    del loader


@pytest.mark.parametrize("shards", [None, 2])
def test_a_model_that_lives_on_does_not_keep_the_processes(shards):
    phalanx.init(shards=shards)
    model = phalanx.DataParallel(nn.Linear(1, 1))
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    loader = DataLoader(Mischief(), 3, num_workers=1, persistent_workers=True, **SPAWN)
    for step in loader.steps():
        optimizer.zero_grad()
        for _ in step:
            model(phalanx.ones(1, 1)).mean().backward()
        optimizer.step()
    assert len(children()) == 1
    del loader, step
    assert children() == []


def test_a_loop_inside_a_loop_has_processes_of_its_own():
    loader = DataLoader(Mischief(), 10, num_workers=1, **SPAWN)
    outer = loader.steps()
    first = [int(batch[0].item()) for batch in next(outer)]
    inner = loader.made_of(0, iter([np.arange(3)]))
    assert int(inner.take()[0].item()) != first[0]
    inner.close()
    assert [int(batch[0].item()) for step in outer for batch in step] == first * 3


# -- as scripts ---------------------------------------------------------------------------------------------------

SCRIPT = """
import sys, time
from phalanx.data import DataLoader, Dataset

class Mine(Dataset):
    def __len__(self): return 8
    def __getitem__(self, index):
        if {slow} and index == 5: time.sleep(60)
        return index * 2

def main():
    for batch in DataLoader(Mine(), 4, num_workers=2, multiprocessing_context="spawn"):
        print(batch.tolist(), flush=True)

{guard}
"""


def start(tmp_path, guard='if __name__ == "__main__": main()', slow=False):
    path = tmp_path / "script.py"
    path.write_text(textwrap.dedent(SCRIPT).format(guard=guard, slow=slow))
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    return subprocess.Popen(
        [sys.executable, str(path)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def others(session):
    found = subprocess.run(["ps", "-o", "pid=", "-s", str(session)], capture_output=True, text=True)
    return found.stdout.split()


def test_classes_of_a_script_are_found_and_a_missing_guard_is_explained(tmp_path):
    process = start(tmp_path)
    out, error = process.communicate(timeout=60)
    assert (out, error, process.returncode) == ("[0, 2, 4, 6]\n[8, 10, 12, 14]\n", "", 0)
    process = start(tmp_path, guard="main()")
    out, error = process.communicate(timeout=60)
    assert out == "" and 'if __name__ == "__main__"' in error and process.returncode == 1
    assert others(process.pid) == []


@pytest.mark.parametrize("how", ["interrupt", "kill"])
def test_workers_end_with_their_parent_however_it_ends(tmp_path, how):
    process = start(tmp_path, slow=True)
    try:
        assert process.stdout.readline() == "[0, 2, 4, 6]\n"
        assert len(others(process.pid)) == 3
        if how == "interrupt":
            os.killpg(process.pid, signal.SIGINT)  # as a terminal does it: to all of them
        else:
            process.kill()
        _, error = process.communicate(timeout=30)
        deadline = time.monotonic() + 5
        while others(process.pid) and time.monotonic() < deadline:
            time.sleep(0.02)
        assert others(process.pid) == []
        if how == "interrupt":
            assert "KeyboardInterrupt" in error and error.count("Traceback") == 1
    finally:
        process.kill()
        process.wait(10)
        process.stdout.close()
        process.stderr.close()
