"""Ranks as threads: one process, each rank its own ``__main__``."""

import pytest

from tests.launch.rig import phalanx

HEAD = "import sys, threading\nfrom phalanx.dist.communicators.threads import current_communicator\n"
HEAD += "rank = current_communicator().rank\n"


@pytest.fixture
def script(tmp_path):
    def write(body):
        (tmp_path / "script.py").write_text(HEAD + body)
        return str(tmp_path / "script.py")

    return write


def test_each_rank_runs_the_script_as_its_own_main(script):
    body = "print(__name__, sys.argv[1:])\nmine = rank\n"
    body += "current_communicator().barrier(name='b').wait()\nassert mine == rank\nprint('rank', mine)\n"
    result = phalanx("run", "--threads", "--tee", "all", "-n", "3", script(body), "--lr")
    assert result.returncode == 0, result.stderr
    assert "[0-2] __main__ ['--lr']" in result.stdout
    assert {"[0] rank 0", "[1] rank 1", "[2] rank 2"} <= set(result.stdout.splitlines())


def test_an_error_of_one_rank_ends_all_and_is_printed_once(script):
    body = "if rank == 1: raise ValueError('boom')\ncurrent_communicator().barrier(name='b').wait()\n"
    result = phalanx("run", "--threads", "-n", "3", script(body))
    assert result.returncode == 1
    assert result.stderr.count("ValueError: boom") == 1 and "raised on rank 1 of 3" in result.stderr
    assert "run_threads" not in result.stderr, "our own frames are no help"


def test_the_exit_code_is_the_scripts(script):
    assert phalanx("run", "--threads", "-n", "2", script("if rank == 1: sys.exit(4)")).returncode == 4


def test_what_ranks_print_is_one_stream_and_all_of_it_is_in_the_logs(script, tmp_path):
    body = "print('epoch 1'); print('data of', rank); print('WARNING odd on', rank, file=sys.stderr)\n"
    result = phalanx("run", "--threads", "-n", "2", "--logs", str(tmp_path / "logs"), script(body))
    assert sorted(result.stdout.splitlines()) == ["[0-1] epoch 1", "[0] data of 0"]
    assert {"[0] WARNING odd on 0", "[1] WARNING odd on 1"} <= set(result.stderr.splitlines())
    assert "phalanx run: not shown: 1 line of rank 1 (they are in" in result.stderr
    assert sorted((tmp_path / "logs" / "rank-1.log").read_text().splitlines()) == [
        "WARNING odd on 1",
        "data of 1",
        "epoch 1",
    ]
    plain = phalanx("run", "--threads", "-n", "2", "--tee", "1", "--no-prefix", script("print('data of', rank)"))
    assert plain.stdout == "data of 1\n"


def test_a_package_is_run_by_its_main_module():
    result = phalanx("run", "--threads", "-n", "2", "-m", "phalanx", "--version")
    assert result.returncode == 0 and "[0-1] phalanx 0." in result.stdout, result.stderr
