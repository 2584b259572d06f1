"""No process outlives its job, whoever dies and however; nothing is left in the folders for temporary files."""

import os
import signal
import sys
import time
from pathlib import Path

import pytest

from tests.launch.rig import PHALANX, children, command_line, started, stop

RANKS = """
import os, signal, subprocess, sys, time
if os.environ.get("PHALANX_LAUNCHED") is None:
    from phalanx.dist.lifeline import die_with_parent
    die_with_parent()
rank = int(os.environ.get("PHALANX_RANK") or os.environ["OMPI_COMM_WORLD_RANK"])
if rank == 1:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
if rank == 2:
    sleeping = [sys.executable, "-c", "import time; time.sleep(60)"]
    subprocess.Popen(sleeping)
    if "--daemon" in sys.argv:
        subprocess.Popen(sleeping, start_new_session=True, stdout=subprocess.DEVNULL)
print("ready", rank, flush=True)
time.sleep(60)
"""
"""Rank 0 sleeps, rank 1 ignores what it can ignore, rank 2 has children, one of them in a session of its own."""

SAVING = """
import os, signal, sys, time
def save(number, frame):
    time.sleep(0.3)
    print("saved after", signal.Signals(number).name, flush=True)
    sys.exit(0)
signal.signal(signal.SIGTERM, save)
signal.signal(signal.SIGUSR1, save)
print("ready", os.getpid(), flush=True)
time.sleep(60)
"""

WAYS = {
    way: (*PHALANX, "run", "--tee", "all", "--grace", "1", *options)
    for way, options in (("zmq", ()), ("mpi", ("--mpi",)))
}


@pytest.fixture
def path(tmp_path):
    (tmp_path / "ranks.py").write_text(RANKS)
    return str(tmp_path / "ranks.py")


@pytest.fixture
def temporary(tmp_path):
    """An empty TMPDIR for the job."""
    folder = tmp_path / "t"
    folder.mkdir()
    return folder


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)])
def test_nothing_is_left_after_a_signal_to_the_launcher(way, number, code, path, temporary):
    with started(*WAYS[way], "-n", "3", path, "--daemon", TMPDIR=str(temporary)) as job:
        job.until("ready", 3)
        assert len(job.left()) >= 6
        returned, err, took_s = stop(job, number)
        assert job.left_after(3.0 if number == signal.SIGKILL else 0.5) == []
    assert returned == code, err
    assert took_s < 8
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_nothing_is_left_of_a_plain_mpirun(number, path, temporary):
    mpirun = str(Path(sys.executable).parent / "mpirun")
    open_mpi = {
        "OMPI_ALLOW_RUN_AS_ROOT": "1",
        "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
        "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
    }
    # a rank's child in a session of its own escapes mpirun's own signals; only our watch finds it
    more = ["--daemon"] if number == signal.SIGKILL else []
    with started(mpirun, "-n", "3", sys.executable, path, *more, TMPDIR=str(temporary), **open_mpi) as job:
        job.until("ready", 3)
        assert len(job.left()) >= 5 + len(more)
        os.kill(job.popen.pid, number)
        job.popen.wait(timeout=10)
        assert job.left_after(3.0) == []


def test_the_kill_of_a_rank_takes_its_children_along(path):
    with started(*WAYS["zmq"], "-n", "3", path) as job:
        job.until("ready", 3)
        victims = [line for line in job.left() if "ranks.py" in line and "phalanx" not in line]
        assert len(victims) == 3
        ranks = sorted(pid for pid in children(job.popen.pid) if "ranks.py" in command_line(pid))
        os.kill(ranks[2], signal.SIGKILL)
        _, err = job.popen.communicate(timeout=10)
        assert job.left_after(0.5) == []
    assert job.popen.returncode == 137
    assert "was killed by SIGKILL (signal 9)" in err


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_ranks_may_save_and_leave_when_the_launcher_is_asked_to_end(way, number, tmp_path):
    (tmp_path / "saving.py").write_text(SAVING)
    with started(*WAYS[way], "-n", "2", str(tmp_path / "saving.py")) as job:
        job.until("ready", 2)
        os.kill(job.popen.pid, number)
        out, err = job.popen.communicate(timeout=10)
        assert job.left_after(0.5) == []
    assert job.popen.returncode == 0, (out, err)
    assert f"saved after {number.name}" in out
    assert "passed on to all ranks" in err


def test_a_second_signal_hurries(path):
    with started(*PHALANX, "run", "--tee", "all", "-n", "2", path) as job:
        job.until("ready", 2)
        os.kill(job.popen.pid, signal.SIGINT)
        time.sleep(0.3)
        _, err, took_s = stop(job, signal.SIGINT)
    assert took_s < 1.5
    assert "SIGINT again: stopping at once" in err


def test_a_launcher_whose_reader_went_away_still_ends_its_job(tmp_path):
    (tmp_path / "loud.py").write_text("for i in range(20000): print('line', i, 'x' * 80)")
    with started(*PHALANX, "run", "-n", "2", str(tmp_path / "loud.py")) as job:
        job.popen.stdout.read(1)
        job.popen.stdout.close()
        assert job.popen.wait(timeout=15) == 0
        assert job.left_after(0.5) == []


@pytest.mark.parametrize("victim", ["launcher", "mpirun"])
def test_no_shared_memory_stays_after_a_killed_mpi_job(victim, tmp_path, temporary):
    pytest.importorskip("mpi4py")
    script = tmp_path / "mpi.py"
    script.write_text(
        "from mpi4py import MPI\nimport os, time\nMPI.COMM_WORLD.allreduce(1)\n"
        "print('ready', os.environ['OMPI_MCA_btl_sm_backing_directory'], flush=True)\ntime.sleep(60)"
    )
    with started(*WAYS["mpi"], "-n", "2", str(script), TMPDIR=str(temporary)) as job:
        folder = Path(job.until("ready /dev/shm/phalanx-", 1).split()[-1])
        assert list(folder.iterdir())
        mpirun = next(pid for pid in children(job.popen.pid) if "prterun" in command_line(pid))
        os.kill(job.popen.pid if victim == "launcher" else mpirun, signal.SIGKILL)
        job.popen.communicate(timeout=10)
        assert job.left_after(3.0) == []
    assert not folder.exists()
    assert list(temporary.iterdir()) == []
