"""The plan is a pure function of what it is given, and says who runs where with what."""

import dataclasses
from pathlib import Path

import pytest

from phalanx.dist import env
from phalanx.dist.errors import LaunchError
from phalanx.launch.arguments import RunArguments
from phalanx.launch.mpirun import Mpirun
from phalanx.launch.plan import Machine, make_plan
from phalanx.launch.run import visible_gpus

MACHINE = Machine(
    python="/usr/bin/python3", cores=8, environ={"HOME": "/root", "RANK": "3", "OMPI_COMM_WORLD_RANK": "1"}
)


def plan_of(ranks=4, machine=MACHINE, **options):
    return make_plan(RunArguments("train.py", ("--lr", "1"), ranks=ranks), machine, job="j", **options)


def test_each_rank_reads_back_the_place_that_the_plan_gave_it():
    plan = plan_of(rendezvous="127.0.0.1:4000", rendezvous_fd=7, restart=2)
    for rank in plan.ranks:
        found = env.read({**plan.environ, **rank.environment})
        assert (found.rank, found.size, found.local_rank, found.local_size, found.node) == (
            rank.rank,
            4,
            rank.rank,
            4,
            0,
        )
        assert (found.backend, found.address, found.job, found.restart) == ("zmq", ("127.0.0.1", 4000), "j", 2)
        assert found.rendezvous_fd == (7 if rank.rank == 0 else None)
        assert rank.environment[env.RESUME] == "auto"


def test_a_restart_goes_on_from_what_a_requeued_job_saved_before():
    """Within a job that a scheduler requeued, its word on which checkpoints count stands; else the launch's beginning."""
    requeued = dataclasses.replace(
        MACHINE, began_s=50.0, environ=MACHINE.environ | {env.RESUME: "auto", env.STARTED: "20"}
    )
    for machine, began in ((requeued, 20.0), (dataclasses.replace(MACHINE, began_s=50.0), 50.0)):
        plan = plan_of(machine=machine, restart=1)
        assert env.restarted_since({**plan.environ, **plan.ranks[0].environment}) == began


def test_equal_arguments_give_equal_plans_and_nothing_is_changed():
    environ = dict(MACHINE.environ)
    assert plan_of() == plan_of()
    assert environ == MACHINE.environ
    with pytest.raises(dataclasses.FrozenInstanceError):
        plan_of().job = "other"


def test_another_launchers_rank_does_not_reach_the_ranks():
    assert dict(plan_of().environ) == {"HOME": "/root"}


@pytest.mark.parametrize(("ranks", "threads"), [(1, "8"), (3, "2"), (8, "1"), (20, "1")])
def test_the_ranks_share_the_cores(ranks, threads):
    for rank in plan_of(ranks).ranks:
        assert {rank.environment[f"{name}_NUM_THREADS"] for name in ("OMP", "OPENBLAS", "MKL", "NUMBA")} == {threads}


def test_the_users_thread_count_wins():
    machine = dataclasses.replace(MACHINE, environ={"OMP_NUM_THREADS": "5"})
    plan = plan_of(machine=machine)
    assert "OMP_NUM_THREADS" not in plan.ranks[0].environment
    assert plan.environ["OMP_NUM_THREADS"] == "5"


def test_only_rank_0_may_draw_a_progress_bar_and_only_on_a_terminal():
    machine = dataclasses.replace(MACHINE, terminal=True)
    assert [env.PROGRESS in rank.environment for rank in plan_of(machine=machine).ranks] == [True, False, False, False]
    assert not any(env.PROGRESS in rank.environment for rank in plan_of().ranks)


def test_a_checkouts_folder_is_appended_to_the_users_path():
    machine = dataclasses.replace(MACHINE, environ={"PYTHONPATH": "/a"}, package_root="/checkout")
    assert plan_of(machine=machine).ranks[0].environment["PYTHONPATH"] == "/a:/checkout"


def test_mpirun_gets_one_command_and_an_environment_without_ranks():
    machine = dataclasses.replace(MACHINE, environ={"OMPI_MCA_btl": "tcp,self"})
    plan = plan_of(machine=machine, mpi=Mpirun("/venv/bin/mpirun", "Open MPI"))
    shared = plan.ranks[0].environment
    assert plan.mpirun == ("/venv/bin/mpirun", "-n", "4")
    assert shared["PHALANX_SIZE"] == "4" and shared["PHALANX_BACKEND"] == "mpi"
    assert "PHALANX_RANK" not in shared and "PHALANX_RENDEZVOUS" not in shared
    assert shared["OMPI_ALLOW_RUN_AS_ROOT_CONFIRM"] == "1"
    assert "OMPI_MCA_btl" not in shared, "the user's own value wins"
    assert "OMPI_MCA_osc" not in plan_of(mpi=Mpirun("/bin/mpirun", "MPICH")).ranks[0].environment


def test_it_prints_rank_host_environment_and_command():
    words = str(plan_of(2))
    assert "rank 1 on localhost" in words and "PHALANX_RANK=1" in words and "/usr/bin/python3 train.py --lr 1" in words
    assert "HOME" not in words
    assert "/bin/mpirun -n 2 /usr/bin/python3 train.py --lr 1" in str(plan_of(2, mpi=Mpirun("/bin/mpirun", "MPICH")))


def test_a_module_is_run_by_its_name():
    plan = make_plan(RunArguments("package.train", module=True), MACHINE, job="j")
    assert plan.ranks[0].command == ("/usr/bin/python3", "-m", "package.train")


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"ranks": 0}, "-n 0"),
        ({"restarts": -1}, "--restarts -1"),
        ({"timeout_s": 0.0}, "--timeout 0"),
        ({"check_replicas": 0}, "--check-replicas 0"),
    ],
)
def test_arguments_that_cannot_be_are_refused(options, word):
    with pytest.raises(LaunchError, match=word):
        RunArguments("train.py", **options)


def test_every_rank_is_told_where_its_flight_record_belongs_and_when_replicas_are_compared():
    arguments = RunArguments("train.py", ranks=2, flight="/records", check_replicas=50)
    for options in ({}, {"mpi": Mpirun("/bin/mpirun", "MPICH")}):
        for rank in make_plan(arguments, MACHINE, job="j", **options).ranks:
            found = {**MACHINE.environ, **rank.environment}
            assert env.flight_folder(found) == "/records"
            assert env.check_replicas_every(found) == 50
    assert env.check_replicas_every(plan_of().ranks[0].environment) is None


@pytest.mark.parametrize(
    ("given", "environ", "folder"),
    [
        (None, {}, "/tmp/phalanx-flight-job-189f40034be7"),
        (None, {"TMPDIR": "/scratch"}, "/scratch/phalanx-flight-job-189f40034be7"),
        (None, {"PHALANX_FLIGHT": "/mine"}, "/mine"),
        ("/given", {"PHALANX_FLIGHT": "/mine"}, "/given"),
        (None, {"PHALANX_FLIGHT": "/outer", "PHALANX_LAUNCHED": "1"}, "/tmp/phalanx-flight-job-189f40034be7"),
    ],
)
def test_an_argument_beats_the_environment_and_a_launcher_around_this_one_is_not_asked(given, environ, folder):
    machine = dataclasses.replace(MACHINE, environ=environ)
    arguments = RunArguments("train.py", flight=given)
    assert make_plan(arguments, machine, job="j").ranks[0].environment["PHALANX_FLIGHT"] == folder
    if not folder.startswith(("/tmp", "/scratch")):
        restarted = make_plan(arguments, machine, job="j", restart=2).ranks[0].environment
        assert restarted["PHALANX_FLIGHT"] == f"{folder}/restart-2"


def test_each_rank_says_which_gpu_it_will_take() -> None:
    lines = str(plan_of(ranks=3, machine=dataclasses.replace(MACHINE, gpus=("2", "5")))).splitlines()
    found = [line.partition(", ")[2] for line in lines if line.startswith("rank ")]
    assert found == ["GPU 2 (shared by 2 ranks)", "GPU 5", "GPU 2 (shared by 2 ranks)"]
    assert "GPU" not in str(plan_of(ranks=3))


def test_gpus_are_seen_without_cuda(tmp_path: Path) -> None:
    for name in ("nvidia0", "nvidia10", "nvidia2", "nvidiactl", "nvidia-uvm"):
        (tmp_path / name).touch()
    assert visible_gpus({}, str(tmp_path)) == ("0", "2", "10")
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": ""}, str(tmp_path)) == ()
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": "GPU-1f, 3"}, str(tmp_path)) == ("GPU-1f", "3")
