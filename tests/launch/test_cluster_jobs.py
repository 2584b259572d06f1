"""Real jobs under a real Slurm: two nodes in network namespaces, Debian's packages unpacked beside them."""

import os
import shlex
import subprocess
import sys

import pytest

from tests.hosts import Hosts, needs_hosts
from tests.jobs import EXAMPLE, ROOT, last_checkpoint, ledger
from tests.launch.debian import needs_debian
from tests.launch.rig import train_as_a_host_would
from tests.launch.slurm_rig import Slurm, unpack
from tests.launch.sshd_rig import Sshd

pytestmark = [needs_hosts, pytest.mark.whole, needs_debian]
OPTIONS = ("--model", "cnn", "--shards", "8", "--epochs", "1", "--samples", "1280", "--test-samples", "64")
STEPS = 20
TRAINING = (*OPTIONS, "--max-steps", str(STEPS))


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    packages = tmp_path_factory.mktemp("packages")
    unpack(packages)
    with Hosts(2) as hosts, Slurm(hosts, packages, tmp_path_factory.mktemp("slurm")) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone")
    train_as_a_host_would(folder, *TRAINING)
    return folder


@pytest.fixture(scope="module")
def ways(tmp_path_factory):
    """What ``--mpi`` needs beside its own name: PMI2 is spoken by MPICH, which the tests' environment does not have."""

    def options(mpi):
        if mpi != "pmi2":
            return ("--mpi", mpi)
        folder = tmp_path_factory.mktemp("mpich")
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--prefix", str(folder), "mpich>=5,<6"]
        subprocess.run(command, check=True, timeout=120)
        return ("--mpi", mpi, "--env", f"MPI4PY_LIBMPI={folder}/lib/libmpi.so.12")

    return options


def submit(slurm, folder, *options, how=("--nodes", "2", "--ntasks-per-node", "2")):
    places = ("--ledger", str(folder / "ledger"), "--checkpoint-dir", str(folder / "checkpoints"))
    words = (*how, "--time", "5", "--folder", str(folder), *options, EXAMPLE, *TRAINING, *places)
    return slurm.submit(*words)


def output(folder):
    return "".join(path.read_text() for path in sorted((folder / "slurm-logs").glob("*.out")))


def finish(slurm, job, folder):
    """(state and exit code, output) at the end of a job."""
    ends = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL")
    slurm.until(lambda: slurm.state(job).startswith(ends), 90.0, f"job {job} ends")
    return slurm.state(job), output(folder)


def assert_equal(folder, alone):
    assert ledger(folder) == ledger(alone)
    assert last_checkpoint(folder, STEPS) == last_checkpoint(alone, STEPS)


WORDS = {"none": "srun, over zmq", "pmix": "srun (PMIx), over mpi", "pmi2": "srun (PMI), over mpi"}


@pytest.mark.parametrize("mpi", WORDS)
def test_two_nodes_give_the_bits_of_one_process(slurm, alone, ways, tmp_path, mpi):
    job = submit(slurm, tmp_path, *ways(mpi))
    state, said = finish(slurm, job, tmp_path)
    assert state == "COMPLETED 0:0 0", said
    assert f"4 ranks from {WORDS[mpi]}" in said
    assert_equal(tmp_path, alone)


def test_the_script_runs_as_printed(slurm, alone, tmp_path):
    places = ("--ledger", str(tmp_path / "ledger"), "--checkpoint-dir", str(tmp_path / "checkpoints"))
    options = ("--nodes", "2", "--ntasks-per-node", "2", "--time", "5", "--folder", str(tmp_path))
    command = [sys.executable, "-m", "phalanx", "slurm", "submit", "--print", *options, EXAMPLE, *TRAINING, *places]
    printed = tmp_path / "train.sbatch"
    printed.write_text(
        subprocess.run(command, env=slurm.environ, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    )
    (tmp_path / "slurm-logs").mkdir()  # as the README says
    job = slurm("sbatch", "--parsable", str(printed), cwd=tmp_path)
    state, said = finish(slurm, job, tmp_path)
    assert state == "COMPLETED 0:0 0", said
    assert_equal(tmp_path, alone)


@pytest.mark.parametrize(("word", "mpi"), [("USR1", "none"), ("requeue", "none"), ("USR1", "pmix")])
def test_a_job_that_must_make_room_goes_on_by_itself(slurm, alone, ways, tmp_path, word, mpi):
    job = submit(slurm, tmp_path, *ways(mpi))
    slurm.until(lambda: (tmp_path / "ledger").exists() and len(ledger(tmp_path)) > 3, 60.0, "the first steps are done")
    slurm("scontrol", "requeue", job) if word == "requeue" else slurm("scancel", "--signal=USR1", job)
    state, said = finish(slurm, job, tmp_path)
    assert state == "COMPLETED 0:0 1", said
    assert f"stopped by SIG{'TERM' if word == 'requeue' else word} after step" in said and "resumed from step" in said
    assert_equal(tmp_path, alone)


def test_a_killed_rank_is_started_anew_in_the_same_allocation(slurm, alone, tmp_path):
    options = ("--restarts", "2", "--requeues", "0")
    job = submit(slurm, tmp_path, *options)
    slurm.until(lambda: (tmp_path / "ledger").exists() and len(ledger(tmp_path)) > 3, 60.0, "the first steps are done")
    pids = slurm("pgrep", "-f", f"python.* {EXAMPLE} .*{tmp_path}/ledger").split()
    os.kill(int(pids[-1]), 9)
    state, said = finish(slurm, job, tmp_path)
    assert state == "COMPLETED 0:0 0", said
    assert "restart 1 of 2" in said
    assert_equal(tmp_path, alone)


def test_the_launcher_runs_inside_of_an_allocation(slurm, alone, tmp_path):
    places = ("--ledger", str(tmp_path / "ledger"), "--checkpoint-dir", str(tmp_path / "checkpoints"))
    phalanx, hosts = f"{sys.executable} -m phalanx", tmp_path / "hosts"
    run = f"{phalanx} run --hostfile {hosts} {shlex.join([EXAMPLE, *TRAINING, *places])}"
    with Sshd(slurm.hosts, tmp_path / "sshd"):
        said = slurm(
            "salloc", "-N2", "--ntasks-per-node", "2", "sh", "-c", f"{phalanx} slurm hosts > {hosts}; {run} 2>&1"
        )
    assert hosts.read_text() == "h0 slots=2\nh1 slots=2\n"
    assert "4 ranks from phalanx run, over zmq" in said
    assert_equal(tmp_path, alone)


def test_tasks_of_an_array_do_not_meet(slurm, tmp_path):
    script = tmp_path / "show.py"
    script.write_text(
        "import os, sys\nprint(sys.argv[1:], os.environ['PHALANX_RENDEZVOUS'].split(':')[0], flush=True)\n"
    )
    how = ("--array", "3-4", "--time", "5", "--folder", str(tmp_path))
    job = slurm.submit(*how, str(script), "{run}", "--seed={task}")
    _, _ = finish(slurm, job, tmp_path)
    slurm.until(lambda: len(output(tmp_path).splitlines()) == 2, 30.0, "both tasks have printed")
    said = sorted(output(tmp_path).splitlines())
    assert said == [f"['show-{job}_{task}', '--seed={task}'] h0" for task in (3, 4)]
    assert len(list((tmp_path / "slurm-logs").glob(f"show-{job}_?.out"))) == 2
