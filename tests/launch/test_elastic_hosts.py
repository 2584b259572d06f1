"""``phalanx run --elastic`` over hosts, as its ranks hear of it: hosts that die, fall silent or are cut off, and hosts that join."""

import os
import signal
import time

import pytest

from tests.hosts import needs_hosts
from tests.launch.elastic_rig import SPEAKER, ElasticJob
from tests.launch.hosts_rig import cluster
from tests.launch.rig import command_line

pytestmark = needs_hosts


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    with cluster(tmp_path_factory.mktemp("three"), 3, per_host=2) as hosts:
        yield hosts


def run(three, tmp_path, ranks, *options, hosts="h0:2,h1:2", deeds=()):
    return three.start("--tee", "all", "-n", str(ranks), *options, SPEAKER, str(tmp_path), *deeds, hosts=hosts)


def agent(three, host):
    return next(pid for pid in three.pids(host) if "phalanx.launch.agent" in command_line(pid))


def test_a_host_dies_another_joins_and_its_name_may_come_again(three, tmp_path):
    with run(three, tmp_path, 4, "--elastic", "1:6") as started:
        job = ElasticJob(started, tmp_path)
        job.events("came", 4)
        for pid in three.pids(1):
            os.kill(pid, signal.SIGKILL)
        job.wait_for("generation 1: 2 ranks; ranks 2, 3 (host h1) were lost: the host was lost, its connection ended")
        assert {row["pid"] for row in job.events("generation", 2)} == {job.pid(0), job.pid(1)}
        name = three.job()
        for size, host, slots in ((4, "h2", "[4] on h2, [5] on h2"), (6, "h1", "[6] on h1, [7] on h1")):
            done = three.phalanx("join", name, "--hosts", f"{host}:2")
            assert done.stdout == f"{name}: started {slots}; they join when they are ready, between two steps\n", done
            job.wait_for(f": {size} ranks")
        rows = {row["rank"]: row for row in job.events("generation", 6, size=6)}
        assert rows[0]["bind"] == "10.77.0.1" and rows[5]["hosts"] == "h0:2,h2:2,h1:2", rows
        assert [(rows[r]["local_rank"], rows[r]["local_size"], rows[r]["node"]) for r in range(6)] == [
            (0, 2, 0), (1, 2, 0), (0, 2, 2), (1, 2, 2), (0, 2, 3), (1, 2, 3)
        ]  # fmt: skip
        hosts = {row["host"] for row in job.events("came", 8)}
        assert three.phalanx("join", name, "--hosts", "nowhere:1").returncode == 2
        assert job.finish() == 0, job.err
    assert hosts == {"h0", "h1", "h2"} and three.all_pids() == []


@pytest.mark.whole
def test_a_host_that_falls_silent_is_lost_and_a_silent_launcher_loses_its_hosts(three, tmp_path):
    with run(three, tmp_path, 4, "--elastic", "1:4") as started:
        job = ElasticJob(started, tmp_path)
        job.events("came", 4)
        began = time.monotonic()
        os.kill(agent(three, 1), signal.SIGSTOP)
        job.wait_for("ranks 2, 3 (host h1) were lost: the host was lost, no sign of life for 3 s")
        assert 2.4 < time.monotonic() - began < 4.5
        started.popen.send_signal(signal.SIGSTOP)
        end = time.monotonic() + 6
        while three.pids(0) and time.monotonic() < end:
            time.sleep(0.05)
        assert three.pids(0) == []
        started.popen.send_signal(signal.SIGCONT)
        assert job.code() == 255, job.err


def test_stopped_killed_and_unreachable_ranks_of_other_hosts(three, tmp_path):
    with run(three, tmp_path, 4, "--elastic", "1:5", "--restarts", "1", deeds=("0=accuse:2", "3=accuse:1")) as started:
        job = ElasticJob(started, tmp_path)
        job.events("came", 4)
        job.act()
        job.wait_for("rank 2 (host h1) was lost: expelled, rank 0 and it could not reach each other")
        said = job.wait_for("rank 3 (host h1) was lost: expelled, rank 1 and it could not reach each other")
        assert "generation 1: 2 ranks" in said and "a new rank" not in said  # h0 is full, h1 cut off
        os.kill(job.pid(1), signal.SIGSTOP)
        job.wait_for("generation 2: 1 rank; rank 1 (host h0) was lost: stopped by a signal for 2 s, and then killed")
        job.wait_for("generation 3: 2 ranks; rank 1 [4] (host h0) joined".replace(" (host h0)", ""))
        assert job.finish() == 0, job.err
