"""The environment contract: what each launcher sets is understood, what contradicts itself is named."""

import pytest

from phalanx.dist import env
from phalanx.dist.env import RankEnvironment
from phalanx.dist.errors import LaunchError

OPEN_MPI = {
    "OMPI_COMM_WORLD_RANK": "2",
    "OMPI_COMM_WORLD_SIZE": "4",
    "OMPI_COMM_WORLD_LOCAL_RANK": "0",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
    "PMIX_RANK": "2",
}
MPICH = {"PMI_RANK": "1", "PMI_SIZE": "2", "MPI_LOCALRANKID": "1", "MPI_LOCALNRANKS": "2"}
TORCHRUN = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "MASTER_ADDR": "h", "MASTER_PORT": "29500"}
SLURM = {
    "SLURM_JOB_ID": "7",
    "SLURM_STEP_ID": "0",
    "SLURM_PROCID": "2",
    "SLURM_NTASKS": "3",
    "SLURM_LOCALID": "0",
    "SLURM_NODEID": "1",
    "SLURM_STEP_NODELIST": "n[07-08]",
    "SLURM_STEP_TASKS_PER_NODE": "2,1",
}
OWN = {"PHALANX_RANK": "0", "PHALANX_SIZE": "2", "PHALANX_RENDEZVOUS": "127.0.0.1:4000"}


def test_what_is_written_is_read():
    here = RankEnvironment(2, 4, 0, 2, 1, "phalanx run", "zmq", "h:4000", "job", 2.5, 3, 9)
    assert env.read(env.write(here)) == here


def place(found):
    return found.rank, found.size, found.local_rank, found.local_size


@pytest.mark.parametrize(
    ("environ", "expected", "source", "backend"),
    [
        (OPEN_MPI, (2, 4, 0, 2), "mpirun (Open MPI)", "mpi"),
        (MPICH, (1, 2, 1, 2), "mpirun (MPICH)", "mpi"),
        (TORCHRUN, (1, 2, 1, 2), "torchrun's variables", "zmq"),
        (SLURM, (2, 3, 0, 1), "srun", "zmq"),
        (SLURM | {"PMIX_RANK": "2"}, (2, 3, 0, 1), "srun (PMIx)", "mpi"),
        (SLURM | {"PMI_RANK": "2", "PMI_SIZE": "3"}, (2, 3, 0, 1), "srun (PMI)", "mpi"),
        ({"RANK": "0", "WORLD_SIZE": "1"}, (0, 1, 0, 1), "torchrun's variables", "zmq"),
        (SLURM | TORCHRUN | OPEN_MPI | OWN, (0, 2, 0, 2), "phalanx run", "zmq"),
        (SLURM | TORCHRUN | OPEN_MPI, (2, 4, 0, 2), "mpirun (Open MPI)", "mpi"),
        (SLURM | TORCHRUN, (1, 2, 1, 2), "torchrun's variables", "zmq"),
    ],
)
def test_each_launcher_is_understood_in_order_of_priority(environ, expected, source, backend):
    found = env.read(environ)
    assert (place(found), found.source, found.backend) == (expected, source, backend)
    assert f"rank {found.rank} of {found.size} (local " in env.describe(found) and source in env.describe(found)


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"RANK": "3"},
        {"PHALANX_TIMEOUT_S": "5"},
        {name: value for name, value in SLURM.items() if name != "SLURM_STEP_ID"},
        SLURM | {"SLURM_STEP_ID": str(0xFFFFFFFB)},
    ],
    ids=["nothing", "a stray RANK", "a setting alone", "plain python in a batch script", "Slurm's batch step"],
)
def test_without_a_launcher_it_is_a_single_process(environ):
    assert env.read(environ) is None


def test_where_rank_0_listens():
    assert env.read(TORCHRUN).address == ("h", 29500)
    assert env.read(TORCHRUN | {"TORCHELASTIC_USE_AGENT_STORE": "True"}).address == ("h", 29501)
    assert env.read(SLURM).address[0] == "n07"
    assert env.read(SLURM).address == env.read(SLURM | {"SLURM_PROCID": "0"}).address
    assert env.read(SLURM).address != env.read(SLURM | {"SLURM_STEP_ID": "1"}).address


def test_a_users_setting_counts_under_any_launcher():
    assert env.read(OPEN_MPI | {"PHALANX_TIMEOUT_S": "2.5"}).timeout_s == 2.5


@pytest.mark.parametrize(
    ("environ", "words"),
    [
        (OWN | {"PHALANX_RANK": "2"}, "PHALANX_RANK=2 and PHALANX_SIZE=2"),
        (OWN | {"PHALANX_RANK": "x"}, "PHALANX_RANK='x'"),
        (OWN | {"PHALANX_RANK": "-1"}, "PHALANX_RANK='-1'"),
        (OWN | {"PHALANX_SIZE": "0"}, "PHALANX_SIZE=0"),
        (OWN | {"PHALANX_BACKEND": "smoke"}, "PHALANX_BACKEND='smoke'"),
        (OWN | {"PHALANX_RENDEZVOUS": "localhost"}, "PHALANX_RENDEZVOUS='localhost'"),
        (OWN | {"PHALANX_TIMEOUT_S": "0"}, "PHALANX_TIMEOUT_S='0'"),
        ({"PHALANX_RANK": "0"}, "PHALANX_SIZE is missing"),
        ({"PHALANX_RANK": "0", "PHALANX_SIZE": "2"}, "PHALANX_RENDEZVOUS is missing"),
        (OPEN_MPI | {"OMPI_COMM_WORLD_SIZE": "2"}, "OMPI_COMM_WORLD_RANK=2 and OMPI_COMM_WORLD_SIZE=2"),
        (OPEN_MPI | {"OMPI_COMM_WORLD_SIZE": "four"}, "OMPI_COMM_WORLD_SIZE='four'"),
        (SLURM | {"SLURM_NTASKS": "2"}, "SLURM_PROCID=2 and SLURM_NTASKS=2"),
        ({"RANK": "1", "WORLD_SIZE": "2"}, "PHALANX_RENDEZVOUS is missing: rank 1 of 2"),
        ({"PMIX_RANK": "1"}, "PMIX_RANK=1"),
        (MPICH | {"PHALANX_SIZE": "4"}, "launched as 4 ranks .* a world of 2: .*two kinds"),
        ({"PHALANX_LAUNCHED": "1", "PHALANX_SIZE": "4"}, "PHALANX_SIZE=4 but this process was given no rank"),
    ],
)
def test_what_is_broken_or_contradicts_itself_is_named(environ, words):
    with pytest.raises(LaunchError, match=words):
        env.read(environ)


def test_a_childs_environment_starts_without_ranks():
    environ = {"HOME": "/root", "SLURM_JOB_ID": "7", "PHALANX_TIMEOUT_S": "5"}
    everything = environ | OPEN_MPI | MPICH | TORCHRUN | OWN | {"SLURM_PROCID": "1", "PHALANX_RESUME": "auto"}
    assert env.without_ranks(everything) == environ
    assert env.read(env.without_ranks(everything)) is None


@pytest.mark.parametrize("value", ["0", "-1", "often", "1.5"])
def test_a_wrong_number_of_steps_between_checks_is_named(value):
    with pytest.raises(LaunchError, match=f"PHALANX_CHECK_REPLICAS='?{value}'?"):
        env.check_replicas_every({"PHALANX_CHECK_REPLICAS": value})


def test_what_a_child_of_a_rank_must_not_take_over():
    environ = {"PHALANX_FLIGHT": "/records", "PHALANX_CHECK_REPLICAS": "10"}
    assert env.without_ranks(environ) == {"PHALANX_CHECK_REPLICAS": "10"}
