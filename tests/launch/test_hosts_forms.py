"""The CNN on six ranks of three hosts leaves the ledger of one process, however its ranks were started."""

import re
import secrets
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

from tests.hosts import needs_hosts
from tests.jobs import EXAMPLE, MPI_ENVIRONMENT
from tests.launch.debian import needs_debian
from tests.launch.hosts_rig import PYTHON, cluster
from tests.launch.rig import ROOT, environment, phalanx
from tests.launch.sshd_rig import Sshd

pytestmark = needs_hosts
whole = pytest.mark.whole

TRAINING = (
    EXAMPLE, "--model", "cnn", "--shards", "8", "--samples", "128", "--test-samples", "16", "--max-steps", "2", "--ledger",
)  # fmt: skip
HOSTS = "h0:2,h1:2,h2:2"
DEADLINE_S = 60


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    with cluster(tmp_path_factory.mktemp("three"), 3, per_host=2) as hosts:
        done = phalanx("run", *TRAINING, str(hosts.folder / "alone.jsonl"))
        assert done.returncode == 0, done.stderr
        yield hosts


@pytest.fixture(scope="module")
def sshd(three, tmp_path_factory):
    with Sshd(three.hosts, tmp_path_factory.mktemp("sshd")) as daemons:
        yield daemons


@pytest.fixture(scope="module")
def mpich(tmp_path_factory):
    """A Python with MPICH's mpirun beside it; all other packages are this one's."""
    folder = tmp_path_factory.mktemp("mpich")
    venv.create(folder, symlinks=True)
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--prefix", str(folder), "mpich>=5,<6"]
    subprocess.run(command, check=True, timeout=120)
    packages = sysconfig.get_path("purelib", vars={"base": str(folder), "platbase": str(folder)})
    Path(packages, "shared.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return str(folder / "bin" / "python")


def run(three, commands, **added):
    """Commands on hosts, all at once, to their ends."""
    environ = environment(**added) | {"TMPDIR": three.added["TMPDIR"]}
    places = [three.hosts.command(host, command) for host, command in commands]
    started = [
        subprocess.Popen(place, env=environ, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for place in places
    ]
    outputs = [each.communicate(timeout=DEADLINE_S) for each in started]
    return [
        subprocess.CompletedProcess(place, each.returncode, *output)
        for place, each, output in zip(places, started, outputs, strict=True)
    ]


def by_launcher(three, python, ssh, training, *options):
    """``ssh``: a stand-in for it; None where real daemons listen."""
    how = ("--hosts", HOSTS, *(("--ssh", ssh) if ssh else ()))
    return run(three, [(0, [python, "-m", "phalanx", "run", *options, *how, *training])])


def by_launcher_and_mpirun(three, python, ssh, training):
    return by_launcher(three, python, ssh, training, "--mpi")


def by_mpirun(three, python, ssh, training):
    mpirun = str(Path(python).with_name("mpirun"))
    if python == PYTHON:
        agent = {"PRTE_MCA_plm_ssh_agent": ssh} if ssh else {}
        command = [mpirun, "--host", HOSTS, "--map-by", "slot:oversubscribe", "--bind-to", "none", "-x", "PYTHONPATH"]
        return run(three, [(0, [*command, "-n", "6", python, *training])], **MPI_ENVIRONMENT, **agent)
    agent = {"HYDRA_LAUNCHER_EXEC": ssh} if ssh else {}
    return run(three, [(0, [mpirun, "-hosts", HOSTS, "-n", "6", python, *training])], HYDRA_LAUNCHER="ssh", **agent)


def by_hand(three, python, ssh, training):
    key = three.folder / "key"
    key.touch(0o600)
    key.write_text(secrets.token_hex(16))
    options = ("--nodes", "3", "-n", "6", "--rendezvous", "h0:29500", "--key", str(key))
    command = [python, "-m", "phalanx", "run", *options]
    return run(three, [(node, [*command, "--node-rank", str(node), *training]) for node in range(3)])


SAID = {
    by_launcher: "6 ranks from phalanx run, over zmq",
    by_launcher_and_mpirun: "6 ranks from mpirun (",
    by_mpirun: "6 ranks from mpirun (",
    by_hand: "6 ranks from phalanx run, over zmq",
}


def check(three, form, python, ssh):
    ledger = three.folder / "ledger.jsonl"
    ledger.unlink(missing_ok=True)
    daemons = three.all_pids()
    ends = form(three, python, ssh, [*TRAINING, str(ledger)])
    assert [end.returncode for end in ends] == [0] * len(ends), "\n".join(end.stderr for end in ends)
    assert SAID[form] in ends[0].stderr, ends[0].stderr
    assert sorted(three.all_pids()) == sorted(daemons)
    assert len(ledger.read_text().splitlines()) == 2
    assert ledger.read_bytes() == (three.folder / "alone.jsonl").read_bytes()
    said = re.sub(r"\x1b\[0?m", "", ends[0].stdout).splitlines()
    assert len([line for line in said if line and not line.startswith("Welcome to h")]) == 2, said
    return ends[0].stdout + ends[0].stderr


@pytest.mark.parametrize(
    "form", [by_launcher, *(pytest.param(form, marks=whole) for form in (by_hand, by_launcher_and_mpirun, by_mpirun))]
)
def test_three_hosts_train_the_bits_of_one_process(three, form):
    check(three, form, PYTHON, str(three.ssh))


@whole
@pytest.mark.parametrize("form", [by_launcher_and_mpirun, by_mpirun])
def test_the_same_by_mpich(three, mpich, form):
    assert "from mpirun (MPICH), over mpi" in check(three, form, mpich, str(three.ssh))


@whole
@needs_debian
@pytest.mark.parametrize("form", [by_launcher, by_launcher_and_mpirun, by_mpirun])
def test_the_same_by_a_real_sshd_on_each_host(three, sshd, form):
    check(three, form, PYTHON, None)


@whole
@needs_debian
def test_hosts_for_trying_out():
    """What docs/running.md offers to who has one machine."""
    command = [
        PYTHON,
        "-m",
        "tests.launch.sshd_rig",
        "3",
        PYTHON,
        "-m",
        "phalanx",
        "run",
        "--hosts",
        HOSTS,
        "-m",
        "this",
    ]
    done = subprocess.run(command, env=environment(), cwd=ROOT, text=True, capture_output=True, timeout=DEADLINE_S)
    assert done.returncode == 0 and "hosts h0:2, h1:2, h2:2; they meet at 10.77.0.1:" in done.stderr, done.stderr
    assert "[0-5] The Zen of Python, by Tim Peters" in done.stdout


@whole
@needs_debian
@pytest.mark.parametrize("form", [by_launcher_and_mpirun, by_mpirun])
def test_the_same_by_mpich_and_a_real_sshd(three, sshd, mpich, form):
    assert "from mpirun (MPICH), over mpi" in check(three, form, mpich, None)
