"""``phalanx run --elastic`` on one machine, as its ranks hear of it; nothing is trained here."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from phalanx.cli import main
from phalanx.launch.door import ask
from tests.launch.elastic_rig import elastic
from tests.launch.rig import environment


def call(folder, *arguments):
    """``phalanx arguments`` beside a job of ``folder``: exit code, stdout, stderr."""
    added = {"XDG_CACHE_HOME": str(folder / "cache"), "TMPDIR": str(folder)}
    done = subprocess.run(
        [sys.executable, "-m", "phalanx", *arguments],
        capture_output=True,
        text=True,
        timeout=20,
        env=environment(**added),
    )
    return done.returncode, done.stdout.strip(), done.stderr.strip()


def name_of(folder):
    return next((folder / "cache" / "phalanx" / "jobs").glob("*.json")).stem


def test_the_others_go_on_when_a_rank_is_killed_and_then_rank_0(tmp_path):
    with elastic(tmp_path, 4, "--elastic", "1:4") as job:
        os.kill(job.pid(2), signal.SIGKILL)
        job.wait_for("generation 1")
        first = {row["rank"]: row for row in job.events("generation", 3)}
        os.kill(job.pid(0), signal.SIGKILL)
        job.wait_for("generation 2")
        second = {row["rank"]: row for row in job.events("generation", 5)[3:]}
        assert job.finish() == 0, job.err
    assert [row["generation"] for row in first.values()] == [1] * 3 and [first[r]["pid"] for r in range(3)] == [
        job.pid(0), job.pid(1), job.pid(3)
    ]  # fmt: skip
    assert {(row["size"], row["local_size"]) for row in first.values()} == {(3, 3)}
    assert first[0]["rendezvous"] is None and first[1]["rendezvous"] == first[2]["rendezvous"] == "127.0.0.1:1"
    assert [second[r]["pid"] for r in range(2)] == [job.pid(1), job.pid(3)] and second[0]["bind"] == "127.0.0.1"
    assert [row["ranks"] for row in job.events("lost", 5)] == [[2]] * 3 + [[0]] * 2
    lines = [line for line in job.err.splitlines() if line]
    assert lines == [
        "phalanx run: generation 1: 3 ranks; rank 2 was lost: killed by SIGKILL; step 8 is done again; went on after 0.2 s",
        "phalanx run: generation 2: 2 ranks; rank 0 was lost: killed by SIGKILL; step 8 is done again; went on after 0.2 s",
    ]


def test_what_dies_together_is_one_loss_and_lost_ranks_are_replaced_as_often_as_allowed(tmp_path):
    with elastic(tmp_path, 4, "--elastic", "1:4", "--restarts", "1", deeds=("1=die", "2=die")) as job:
        job.events("came", 4)
        job.act()
        job.wait_for("generation 1: 2 ranks; ranks 1, 2 were lost: killed by SIGKILL")
        said = job.wait_for("generation 2: 3 ranks; rank 2 [4] joined")
        time.sleep(0.7)
        assert job.finish() == 0, job.err
    assert "a new rank is started in 0.5 s; restart 1 of 1" in said
    (newcomer,) = job.events("came", 1, newcomer=True)
    assert (newcomer["rank"], newcomer["size"], newcomer["local_rank"]) == (2, 3, 1), newcomer
    assert {tuple(row["newcomers"]) for row in job.events("generation", 3, generation=2)} == {(2,)}


def test_a_rank_that_raises_ends_the_job_as_ever(tmp_path):
    with elastic(tmp_path, 3, "--elastic", "1:3", deeds=("1=raise",)) as job:
        job.events("came", 3)
        job.act()
        assert job.code() == 3
    assert "rank 1 ended with exit code 3; stopping the other 2 ranks" in job.err and "generation" not in job.err


def test_when_nobody_is_left_the_job_fails_and_is_started_anew(tmp_path):
    with elastic(tmp_path, 2, "--elastic", "1:2", "--restarts", "1", deeds=("0=die", "1=die")) as job:
        job.events("came", 2)
        job.act()
        assert job.code() == 137 and len(job.events("came", 4)) == 4, job.err
    dead = "phalanx run: ranks 0, 1 were killed by SIGKILL (signal 9)"
    assert job.err.splitlines() == [dead, f"{dead}; restart 1 of 1 in 0.5 s", dead]


def test_below_the_least_number_the_job_saves_waits_and_ends_with_the_code_that_asks_for_more(tmp_path):
    with elastic(tmp_path, 2, "--elastic", "2:2", "--elastic-wait", "0.6") as job:
        os.kill(job.pid(1), signal.SIGKILL)
        assert job.code() == 75, job.err
    assert job.events("generation", 1)[0]["wait"] is True
    assert "at least 2 are needed: saving, then waiting 0.6 s for more" in job.err
    assert "saved at step 7; waiting for more ranks" in job.err
    assert "1 rank left of at least 2, and nobody came in 0.6 s: the job ends with code 75" in job.err


def test_ranks_join_a_job_that_waits_and_one_that_runs_up_to_its_limit(tmp_path):
    with elastic(tmp_path, 2, "--elastic", "2:3") as job:
        os.kill(job.pid(1), signal.SIGKILL)
        job.wait_for("saved at step 7")
        name = name_of(tmp_path)
        assert call(tmp_path, "join", name[:6]) == (
            0, f"{name}: started [2] on localhost; they join when they are ready, between two steps", "",
        )  # fmt: skip
        job.wait_for("generation 2: 2 ranks; rank 1 [2] joined")
        path = tmp_path / "cache" / "phalanx" / "jobs" / f"{name}.json"
        address, key = json.loads(path.read_text())["door"]
        assert path.stat().st_mode & 0o77 == 0 and address.startswith("127.0.0.1:")
        assert ask(address, "another", {"kind": "join", "ranks": 1})["error"].endswith("the key is another job's")
        assert ask(address, key, {"kind": "join", "ranks": 2})["error"] == (
            "2 ranks more would be over the limit: --elastic allows 3, and 2 are there or come"
        )
        assert "name another one with --hosts" not in str(ask(address, key, {"kind": "join", "ranks": 1}))
        job.wait_for("generation 3: 3 ranks; rank 2 [3] joined")
        listed = call(tmp_path, "ps")[1]
        assert "elastic, 2 to 3 ranks: generation 3 with 3 ranks: rank 0, rank 1 [2], rank 2 [3]" in listed, listed
        assert len(job.events("came", 4)) == 4
        assert job.finish() == 0, job.err
    none = "no such elastic job runs here; there are: none"
    assert call(tmp_path, "join", name) == (2, "", f"phalanx join: {name}: {none}")


def test_signals_are_passed_on_and_a_dead_launcher_leaves_nothing(tmp_path):
    with elastic(tmp_path, 2, "--elastic", "1:3") as job:
        job.events("came", 2)
        job.job.popen.send_signal(signal.SIGTERM)
        assert job.code() == 0 and "SIGTERM: passed on" in job.err
    with elastic(tmp_path, 2, "--elastic", "1:3") as job:
        job.events("came", 2)
        assert call(tmp_path, "join", name_of(tmp_path))[0] == 0
        job.wait_for("generation 1: 3 ranks; rank 2 [2] joined".replace(" [2]", ""))
        job.job.popen.kill()
        assert job.job.left_after(5.0) == []


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--elastic", "2:3", "-n", "4"), "expected MIN:MAX with 1 <= MIN <= N <= MAX"),
        (("--elastic", "few"), "--elastic few: expected MIN:MAX, two numbers of ranks, for example 2:8"),
        (("--elastic", "1:2", "--mpi"), "--elastic and --mpi: an MPI job dies with its first rank"),
        (("--elastic", "1:2", "--threads"), "--elastic is for ranks that are processes: leave out --threads"),
        (("--elastic", "1:2", "--elastic-wait", "-1"), "--elastic-wait -1: expected seconds, 0 or more"),
    ],
)
def test_what_cannot_be_elastic_is_one_line(options, words, capsys):
    assert main(["run", *options, __file__]) == 2
    said = capsys.readouterr().err
    assert words in said and said.count("\n") == 1, said


def test_a_dry_run_says_that_the_job_is_elastic(capsys):
    assert main(["run", "-n", "2", "--elastic", "1:4", "--dry-run", __file__]) == 0
    said = capsys.readouterr().out
    assert (
        said.startswith("job JOB: 2 ranks, elastic: goes on with 1 to 4\n") and said.count("PHALANX_ELASTIC=1:4") == 2
    )
