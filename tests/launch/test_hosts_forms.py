"""The CNN on six ranks of three hosts leaves the ledger of one process, however its ranks were started."""

import secrets
import subprocess

import pytest

from tests.hosts import needs_hosts
from tests.jobs import EXAMPLE
from tests.launch.hosts_rig import cluster
from tests.launch.rig import PHALANX, ROOT, environment, phalanx, started

pytestmark = needs_hosts

TRAINING = (
    EXAMPLE, "--model", "cnn", "--shards", "8", "--samples", "128", "--test-samples", "16", "--max-steps", "2", "--ledger",
)  # fmt: skip


def by_ssh(three, *training):
    return [three.run(*training)]


def by_hand(three, *training):
    key = three.folder / "key"
    key.touch(0o600)
    key.write_text(secrets.token_hex(16))
    options = ("--nodes", "3", "-n", "6", "--rendezvous", "h0:29500", "--key", str(key))
    commands = [three.hosts.command(k, [*PHALANX, "run", *options, "--node-rank", str(k), *training]) for k in range(3)]
    launchers = [
        subprocess.Popen(
            command, env=environment(), cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        for command in commands
    ]
    outputs = [launcher.communicate(timeout=60) for launcher in launchers]
    return [
        subprocess.CompletedProcess(command, launcher.returncode, *output)
        for command, launcher, output in zip(commands, launchers, outputs, strict=True)
    ]


def by_mpirun(three, *training):
    command = three.hosts.command(0, [*PHALANX, "run", "--mpi", *three.options(), *training])
    with started(*command, TMPDIR=three.added["TMPDIR"]) as job:
        out, err = job.popen.communicate(timeout=60)
    return [subprocess.CompletedProcess(command, job.popen.returncode, out, err)]


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    with cluster(tmp_path_factory.mktemp("three"), 3, per_host=2) as hosts:
        done = phalanx("run", *TRAINING, str(hosts.folder / "alone.jsonl"))
        assert done.returncode == 0, done.stderr
        yield hosts


@pytest.mark.parametrize("form", [by_ssh, by_hand, by_mpirun])
def test_three_hosts_train_the_bits_of_one_process(three, form):
    ledger = three.folder / f"{form.__name__}.jsonl"
    ends = form(three, *TRAINING, str(ledger))
    assert [end.returncode for end in ends] == [0] * len(ends), "\n".join(end.stderr for end in ends)
    assert "6 ranks" in ends[0].stderr and not three.all_pids()
    assert len(ledger.read_text().splitlines()) == 2
    assert ledger.read_bytes() == (three.folder / "alone.jsonl").read_bytes()
