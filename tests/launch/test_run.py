"""``phalanx run`` from the outside: exit codes, first failure, restarts, output, wrong arguments."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.launch.rig import PHALANX, environment, phalanx, started

WAYS = ([], ["--mpi"])


@pytest.fixture
def script(tmp_path):
    """Write a script; ``rank`` and the usual modules are there."""

    def write(body):
        path = tmp_path / "script.py"
        path.write_text(
            "import os, signal, sys, time\n"
            "rank = int(os.environ.get('PHALANX_RANK') or os.environ['OMPI_COMM_WORLD_RANK'])\n" + body
        )
        return str(path)

    return write


@pytest.mark.parametrize("way", WAYS, ids=["zmq", "mpi"])
def test_ranks_run_and_their_lines_are_marked(script, way):
    path = script(
        "print('hello', sys.argv[1:])\nprint('odd' if rank == 1 else 'even')\nprint('e', rank, file=sys.stderr)"
    )
    result = phalanx("run", *way, "--tee", "all", "-n", "3", path, "--lr", "1", "-n")
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    marks = [
        mark for line in lines if "hello ['--lr', '1', '-n']" in line for mark in line.split("]")[0][1:].split(",")
    ]
    assert marks, result.stdout
    assert "[1] odd" in lines
    assert sorted(result.stderr.splitlines()) == ["[0] e 0", "[1] e 1", "[2] e 2"]


@pytest.mark.parametrize("way", WAYS, ids=["zmq", "mpi"])
def test_one_clean_stream_and_everything_in_the_logs(script, tmp_path, way):
    path = script(
        "import logging, warnings\n"
        "logging.basicConfig(level=logging.INFO, format='%(levelname)s %(message)s')\n"
        "print('epoch 1'); print('data of', rank); logging.info('rate of %d', rank)\n"
        "logging.warning('alike'); logging.warning('odd on %d', rank)\n"
        "print('\\r0%\\r100% of', rank, file=sys.stderr)\n"
        "time.sleep(0.5)\n"
        "if rank == 2: raise KeyError('two')\n"
        "time.sleep(30)"
    )
    folder = tmp_path / "logs"
    result = phalanx("run", *way, "-n", "3", "--logs", str(folder), path)
    assert sorted(result.stdout.splitlines()) == ["[0-2] epoch 1", "[0] data of 0"]
    said = [
        line for line in result.stderr.splitlines() if line.startswith("[") and "^" not in line and "File" not in line
    ]
    assert sorted(said) == sorted(
        ["[0] INFO rate of 0", "[0-2] WARNING alike", "[0] 100% of 0", *(f"[{rank}] WARNING odd on {rank}" for rank in range(3)),
         "[2] Traceback (most recent call last):", "[2]     if rank == 2: raise KeyError('two')", "[2] KeyError: 'two'"]
    )  # fmt: skip
    words = f"phalanx run: not shown: 4 lines of ranks 1-2 (they are in {folder}; --tee all shows them)"
    assert words in result.stderr and result.returncode == 1
    for rank in range(3):
        text = (folder / f"rank-{rank}.log").read_text()
        assert "epoch 1\n" in text and f"data of {rank}\n" in text and f"INFO rate of {rank}\n" in text
        assert f"100% of {rank}" in text and ("KeyError" in text) == (rank == 2)


def test_one_rank_has_no_prefix_and_the_launchers_own_output(script):
    assert phalanx("run", script("print('x'); os.write(2, b'partial')")).stdout == "x\n"
    assert phalanx("run", "-n", "2", "--tee", "all", "--no-prefix", script("print('x')")).stdout == "x\nx\n"


@pytest.mark.parametrize(
    ("way", "deed", "code", "words"),
    [
        ([], "sys.exit(3)", 3, "phalanx run: rank 1 ended with exit code 3; stopping the other 2 ranks"),
        ([], "os.kill(os.getpid(), 9)", 137, "phalanx run: rank 1 was killed by SIGKILL (signal 9); stopping"),
        ([], "raise ValueError('boom')", 1, "[1] ValueError: boom"),
        (["--mpi"], "sys.exit(3)", 3, "mpirun ended with exit code 3"),
        (["--mpi"], "os.kill(os.getpid(), 9)", 137, "mpirun ended with exit code 137"),
    ],
)
def test_the_first_failure_stops_the_rest_and_is_the_exit_code(script, way, deed, code, words):
    path = script(
        f"if rank == 1:\n    time.sleep(0.2); print(time.time(), file=sys.stderr, flush=True)\n    {deed}\ntime.sleep(30)"
    )
    result = phalanx("run", *way, "-n", "3", path)
    ended = time.time()
    assert result.returncode == code, result.stderr
    assert words in result.stderr
    failed = float(next(line for line in result.stderr.splitlines() if line.startswith("[1] ")).split()[1])
    assert ended - failed < 2.5


def test_the_others_may_say_a_last_word_before_they_are_stopped(script):
    path = script(
        "time.sleep(0.3)\nif rank == 1: sys.exit(3)\ntime.sleep(0.4)\nprint('last word of', rank)\ntime.sleep(30)"
    )
    result = phalanx("run", "-n", "2", path)
    assert result.returncode == 3
    assert result.stdout == "[0] last word of 0\n"


def test_a_kill_is_the_cause_even_if_its_consequence_ends_first(script):
    path = script("time.sleep(0.2 + 0.1 * rank)\nif rank == 0: sys.exit(1)\nos.kill(os.getpid(), 9)")
    result = phalanx("run", "-n", "2", path)
    assert result.returncode == 137
    assert result.stderr == "phalanx run: rank 1 was killed by SIGKILL (signal 9)\n"


def test_a_rank_that_ends_well_waits_for_the_others(script):
    result = phalanx("run", "-n", "2", "--tee", "all", script("time.sleep(0.6 * rank)\nprint('done', rank)"))
    assert result.returncode == 0
    assert result.stdout == "[0] done 0\n[1] done 1\n"


def test_restarts_say_why_and_stop_at_the_first_success(script):
    body = "print(os.environ['PHALANX_RESTART'], os.environ.get('PHALANX_RESUME'))\n"
    body += "if rank == 1 and os.environ['PHALANX_RESTART'] == '0': sys.exit(7)\n"
    result = phalanx("run", "-n", "2", "--restarts", "3", script(body))
    assert result.returncode == 0
    assert "[0-1] 1 auto" in result.stdout and " 2 auto" not in result.stdout
    assert "rank 1 ended with exit code 7; restart 1 of 3 in 0.5 s" in result.stderr


def test_restarts_end_with_the_last_failure(script):
    result = phalanx("run", "--restarts", "1", script("sys.exit(5 + int(os.environ['PHALANX_RESTART']))"))
    assert result.returncode == 6


def test_rank_0_inherits_a_socket_that_listens_already(script):
    path = script(
        "import socket\n"
        "host, port = os.environ['PHALANX_RENDEZVOUS'].split(':')\n"
        "if rank == 0:\n"
        "    time.sleep(0.3)\n"
        "    with socket.socket(fileno=int(os.environ['PHALANX_RENDEZVOUS_FD'])) as listening:\n"
        "        print(listening.accept()[0].recv(9).decode())\n"
        "else:\n"
        "    assert 'PHALANX_RENDEZVOUS_FD' not in os.environ\n"
        "    socket.create_connection((host, int(port))).sendall(b'early')\n"
    )
    result = phalanx("run", "-n", "2", path)
    assert result.stdout == "[0] early\n", result.stderr


def test_a_module_runs_too(tmp_path):
    (tmp_path / "some_module.py").write_text("import sys; print(sys.argv[1:])")
    result = phalanx("run", "-n", "2", "-m", "some_module", "--lr", PYTHONPATH=f"{tmp_path}:{os.getcwd()}")
    assert result.stdout == "[0-1] ['--lr']\n", result.stderr


def test_dry_run_prints_the_plan_and_starts_nothing(script, tmp_path):
    result = phalanx("run", "-n", "2", "--dry-run", script(f"open({str(tmp_path / 'ran')!r}, 'w')"))
    assert result.returncode == 0
    assert "rank 1 on localhost" in result.stdout and "PHALANX_RANK=1" in result.stdout
    assert not (tmp_path / "ran").exists()


def test_a_reader_who_has_seen_enough_is_no_error():
    command = (*PHALANX, "run", "--dry-run", "--hosts", "a:400", "-m", "this")
    with started(*command) as job:
        assert job.popen.stdout.readline() == "job JOB: 400 ranks\n"
        job.popen.stdout.close()
        assert (job.popen.stderr.read(), job.popen.wait(10)) == ("", 141)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "-n", "0", "x.py"], "phalanx run: -n 0: expected at least 1 rank"),
        (["run", "-n", "two", "x.py"], "invalid int value: 'two'"),
        (["run", "-n", "2", "nowhere.py"], "phalanx run: nowhere.py: no such script"),
        (["run", "--bogus", "x.py"], "phalanx run: unknown option --bogus"),
        (["run"], "arguments are required: script"),
        (["fly"], "invalid choice: 'fly'"),
        (["run", "--threads", "--mpi", __file__], "--threads and --mpi are two ways"),
        (["ckpt", "ls", "/nowhere"], "phalanx ckpt: /nowhere: no such folder"),
    ],
)
def test_wrong_arguments_get_one_line_and_exit_code_2(arguments, words):
    result = phalanx(*arguments)
    assert result.returncode == 2
    assert words in result.stderr and result.stderr.count("\n") == 1, result.stderr


def test_without_an_mpirun_the_fix_is_named(tmp_path, script):
    python = tmp_path / "bin" / "python"
    python.parent.mkdir()
    python.symlink_to(Path(sys.executable).resolve())
    (tmp_path / "bin" / "pyvenv.cfg").touch()
    code = (
        "import sys; from phalanx.cli import main; "
        f"sys.executable = {str(python)!r}; sys.exit(main(['run', '--mpi', '-n', '2', {script('')!r}]))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], env=environment(PATH=str(tmp_path)), capture_output=True, text=True, timeout=20
    )
    assert result.returncode == 2
    assert "there is no mpirun" in result.stderr and "pip install 'phalanx[mpi]'" in result.stderr


def test_version_and_a_launcher_that_does_without_numpy():
    assert phalanx("--version").stdout.startswith("phalanx ")
    code = "import sys, phalanx.launch.run; sys.exit('numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], env=environment(), timeout=20).returncode == 0
