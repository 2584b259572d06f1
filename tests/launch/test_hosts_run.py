"""``phalanx run`` over several hosts: what ranks get, what is said when it cannot be, and that nothing is left anywhere."""

import json
import os
import signal
import time
from pathlib import Path

import pytest

from phalanx.launch import guardian
from tests.hosts import needs_hosts
from tests.launch.hosts_rig import PYTHON, cluster, script
from tests.launch.rig import ROOT, children, command_line

pytestmark = needs_hosts

TELL = """
import json, os, pathlib, socket
secret = os.environ["PHALANX_JOB"]
seen = [p for p in pathlib.Path("/proc").glob("[0-9]*/cmdline") if secret.encode() in p.read_bytes()]
names = ("PHALANX_RANK", "PHALANX_NODE", "PHALANX_LOCAL_RANK", "PHALANX_SIZE", "PHALANX_HOSTS", "GIVEN", "TAKEN", "NOT_TAKEN", "SHELL_OF")
print(json.dumps([socket.gethostname(), os.getcwd(), len(seen), {n: os.environ.get(n) for n in names}]))
"""
SLEEP = "import time; print('there', flush=True); time.sleep(60)"
SLEEP_WITH_CHILD = "import subprocess; print('there', flush=True); subprocess.run(['sleep', '60'])"


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    with cluster(tmp_path_factory.mktemp("two"), 2, per_host=2) as hosts:
        yield hosts


@pytest.fixture
def running(two, tmp_path):
    """A job of four ranks that sleep."""
    with two.start(script(tmp_path, SLEEP_WITH_CHILD)) as job:
        job.until("there", 1)
        for _ in range(200):
            if len([pid for pid in two.all_pids() if command_line(pid).startswith("sleep")]) == 4:
                break
            time.sleep(0.02)
        yield job


def nothing_runs(two, job, within_s=5.0):
    end = time.monotonic() + within_s
    while (left := [*two.all_pids(), *job.left()]) and time.monotonic() < end:
        time.sleep(0.02)
    return not left or [command_line(pid) for pid in two.all_pids()] + job.left()


def test_ranks_get_their_place_what_is_forwarded_and_nothing_else(two, tmp_path):
    two.added |= {"TAKEN": "here", "NOT_TAKEN": "here"}
    done = two.run("--env", "GIVEN=a b", "--env", "TAKEN", "--no-prefix", "--tee", "all", script(tmp_path, TELL))
    assert done.returncode == 0, done.stderr
    rows = sorted((json.loads(line) for line in done.stdout.splitlines()), key=lambda row: row[3]["PHALANX_RANK"])
    for rank, (host, folder, seen, names) in enumerate(rows):
        assert (host, folder, seen) == (f"h{rank // 2}", str(ROOT), 0)
        assert names == {
            "PHALANX_RANK": str(rank), "PHALANX_NODE": str(rank // 2), "PHALANX_LOCAL_RANK": str(rank % 2),
            "PHALANX_SIZE": "4", "PHALANX_HOSTS": "h0:2,h1:2", "GIVEN": "a b", "TAKEN": "here", "NOT_TAKEN": None,
            "SHELL_OF": f"h{rank // 2}",
        }  # fmt: skip
    assert "hosts h0:2, h1:2; they meet at 10.77.0.1:" in done.stderr


def test_logs_hold_everything_and_tee_prints_some(two, tmp_path):
    text = "import os, sys; r = os.environ['PHALANX_RANK']; print('out', r); print('err', r, file=sys.stderr)"
    done = two.run("--logs", str(tmp_path / "logs"), "--tee", "1,3", script(tmp_path, text))
    assert sorted(done.stdout.splitlines()) == ["[1] out 1", "[3] out 3"]
    assert [line for line in sorted(done.stderr.splitlines()) if "err" in line] == [f"[{r}] err {r}" for r in range(4)]
    for rank in range(4):
        lines = (tmp_path / "logs" / f"rank-{rank}.log").read_text().splitlines()
        assert sorted(lines) == [f"err {rank}", f"out {rank}"]


@pytest.mark.parametrize(
    ("hosts", "options", "words"),
    [
        ("h0:2,nowhere", (), "host nowhere: there is no host of this name (ssh: Could not resolve hostname"),
        ("h0,refusing", (), "host refusing: nobody takes ssh there"),
        (
            "h0,locked",
            (),
            "host locked: ssh was refused (root@locked: Permission denied (publickey).): ssh locked must",
        ),
        ("h0,h1", ("--python", "/no/python"), "hosts h0, h1: there is no /no/python"),
        ("h0,h1,h0:1", ("-n", "4"), "-n 4: the hosts have 3 slots: h0:2,h1:1"),
    ],
)
def test_what_cannot_be_is_one_line_with_the_fix(two, tmp_path, hosts, options, words):
    done = two.run(*options, script(tmp_path, TELL), hosts=hosts)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"phalanx run: {words}") and done.stderr.count("\n") == 1, done.stderr


def test_another_version_or_none_at_all_is_one_line(two, tmp_path):
    """A Python that finds another phalanx, and one that finds none."""
    for text, words in (
        ("import sys; sys.exit('No module named phalanx')", "has no phalanx: install the same version there"),
        (f"import sys; sys.path.insert(0, {str(ROOT)!r}); import phalanx; phalanx.__version__ = '0.0.7'\n"
         "from phalanx.launch import agent; agent.main()", "phalanx 0.0.7 is there"),
    ):  # fmt: skip
        python = tmp_path / "python"
        (tmp_path / "other.py").write_text(text)
        python.write_text(f"#!/bin/sh\nexec {PYTHON} {tmp_path / 'other.py'}\n")
        python.chmod(0o755)
        done = two.run("--python", str(python), script(tmp_path, TELL))
        assert done.returncode == 2 and words in done.stderr and done.stderr.count("\n") == 1, done.stderr


def test_the_first_failure_stops_all_hosts(two, tmp_path):
    text = "import os, sys, time; time.sleep(60) if os.environ['PHALANX_RANK'] != '3' else sys.exit(7)"
    began = time.monotonic()
    done = two.run(script(tmp_path, text))
    assert done.returncode == 7 and "rank 3 ended with exit code 7; stopping the other 3 ranks" in done.stderr
    assert time.monotonic() - began < 6 and not two.all_pids()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)])
def test_nothing_is_left_on_any_host(two, running, number, code):
    os.kill(running.popen.pid, number)
    running.popen.communicate(timeout=10)
    assert nothing_runs(two, running) is True
    assert running.popen.returncode == code


def test_ranks_end_with_their_agent_and_the_agent_with_its_connection(two, running):
    """Each link of the chain by itself: the guardian here, which sees all namespaces, is out of the way."""
    (lifeline,) = [pid for pid in children(running.popen.pid) if "guardian.py" in command_line(pid)]
    os.kill(lifeline, signal.SIGKILL)
    os.kill(running.popen.pid, signal.SIGKILL)
    running.popen.communicate(timeout=10)
    assert nothing_runs(two, running) is True


def test_a_host_that_is_lost_is_named(two, running):
    two.hosts.kill(1)
    _, err = running.popen.communicate(timeout=10)
    assert (
        running.popen.returncode == 255
        and "phalanx run: host h1: its connection ended; stopping the other 2 ranks" in err
    )
    assert nothing_runs(two, running) is True


def test_a_restart_goes_on_with_the_hosts_that_remain(two, tmp_path):
    text = """
import os, time
print("attempt", os.environ.get("PHALANX_RESTART"), "of", os.environ["PHALANX_SIZE"], "on", os.environ["PHALANX_HOSTS"], flush=True)
time.sleep(60 if os.environ.get("PHALANX_RESTART", "0") == "0" else 0)
"""
    with two.start("--restarts", "1", script(tmp_path, text)) as job:
        job.until("attempt 0", 1)
        two.hosts.kill(1)
        out, err = job.popen.communicate(timeout=15)
    assert job.popen.returncode == 0, err
    assert "[0-1] attempt 1 of 2 on h0:2" in out and "goes on with 2 ranks on h0:2" in err


def test_what_is_left_of_a_job_is_listed_and_ended(two, running):
    name = two.job()
    listed = two.phalanx("ps").stdout
    shown = listed[listed.index(name) :]
    assert shown.startswith(f"{name}  running  ") and "\n  h1: rank 2 (pid " in shown, listed
    agents = [pid for pid in two.all_pids() if "phalanx.launch.agent" in command_line(pid)]
    for pid in agents:
        os.kill(pid, signal.SIGSTOP)
    for pid in (*running._guardians, running.popen.pid):
        os.kill(pid, signal.SIGKILL)
    running.popen.communicate(timeout=10)
    listed = two.phalanx("ps").stdout
    assert f"{name}  left behind: its launcher is gone" in listed and two.all_pids(), listed
    stopped = two.phalanx("stop", name)
    assert (stopped.returncode, stopped.stdout) == (0, f"{name} has ended\n"), stopped.stderr
    assert nothing_runs(two, running) is True
    assert name not in two.phalanx("ps").stdout


def test_a_running_job_is_stopped_by_name(two, running):
    name = two.job()
    assert two.phalanx("stop", name).stdout == f"{name} has ended\n"
    running.popen.communicate(timeout=10)
    assert nothing_runs(two, running) is True and running.popen.returncode == 143
    missing = two.phalanx("stop", name)
    assert missing.returncode == 2 and "no such job" in missing.stderr


def test_the_record_of_a_job_tells_no_secret(two, running):
    record = Path(two.added["XDG_CACHE_HOME"], "phalanx", "jobs", f"{two.job()}.json")
    pids = two.all_pids()
    secrets = {
        text.split(b"PHALANX_JOB=")[1].split(b"\0")[0].decode()
        for pid, text in guardian.environments()
        if pid in pids and b"PHALANX_JOB=" in text
    }
    assert len(secrets) == 1 and record.stat().st_mode & 0o077 == 0
    (secret,) = secrets
    assert secret.partition("-")[2] not in record.read_text()
    assert not [pid for pid in pids if secret in command_line(pid)]
