"""The launch plan: what is asked for -> who runs where, with which environment and command. It starts nothing."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field

from ..dist import env
from ..dist.env import RankEnvironment
from ..dist.errors import LaunchError
from . import mpirun
from .arguments import RunArguments
from .hosts import Host, mark_of
from .mpirun import Mpirun

THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
"""One variable for each library that would otherwise start a thread per core in every rank."""
FORWARDED = ("PYTHONPATH", *THREAD_VARIABLES, "OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")
"""What ranks on other hosts get although no option names it: where it differs, so do the bits of sums."""


@dataclass(frozen=True, slots=True)
class Machine:
    """What the plan must know of this machine; gathered by :func:`.run.look_around`."""

    python: str
    cores: int
    environ: Mapping[str, str]
    package_root: str | None = None
    """Folder that holds the package, when Python would not find it by itself (a bare checkout)."""
    terminal: bool = False
    """Does the launcher's own output end on a terminal?"""
    columns: int = 80
    gpus: tuple[str, ...] = ()
    """The GPUs that processes see here, as the system or ``CUDA_VISIBLE_DEVICES`` names them."""
    began_s: float = 0.0
    """When the launcher began, in seconds since 1970."""


@dataclass(frozen=True, slots=True)
class RankPlan:
    rank: int
    host: str
    environment: Mapping[str, str]
    """What is added to the launcher's own environment."""
    command: tuple[str, ...]
    cores: tuple[int, ...] = ()
    """Which of the cores that the job may use on the host, counted from 0; empty: all."""
    slot: int = 0
    """Number among the ranks of the host."""
    gpu: str = ""
    """The GPU that it will choose by its number on this machine, in words; "" where none is seen."""


@dataclass(frozen=True, slots=True)
class LaunchPlan:
    """Printable by ``str``: rank, host, added environment and command."""

    job: str
    ranks: tuple[RankPlan, ...]
    environ: Mapping[str, str] = field(repr=False)
    """The launcher's environment without any other launcher's rank variables: what the ranks' own is added to."""
    mpirun: tuple[str, ...] = ()
    """``mpirun -n N``, one for all ranks; empty: each rank is started by itself."""

    def __str__(self) -> str:
        return "\n".join(_lines(self))


def make_plan(
    arguments: RunArguments,
    machine: Machine,
    job: str,
    rendezvous: str = "127.0.0.1:PORT",
    rendezvous_fd: int | None = None,
    restart: int = 0,
    mpi: Mpirun | None = None,
) -> LaunchPlan:
    """The plan of one attempt; equal arguments give equal plans.

    >>> machine = Machine(python="python", cores=8, environ={"HOME": "/root"})
    >>> plan = make_plan(RunArguments("train.py", ranks=2), machine, job="demo")
    >>> plan.ranks[1].environment["PHALANX_RANK"], plan.ranks[1].environment["OMP_NUM_THREADS"]
    ('1', '4')
    >>> plan.ranks[1].command
    ('python', 'train.py')
    """
    base = env.without_ranks(machine.environ)
    common = _common(arguments, machine, restart)
    profile = arguments.profile and os.path.abspath(arguments.profile)
    common |= env.write_diagnosis(flight_folder(arguments, machine, job, restart), arguments.check_replicas, profile)
    if arguments.nodes > 1:
        common[env.AGENT] = f"{mark_of(job)}.{arguments.node_rank}"
    if arguments.hosts:
        common = inherited(base) | common | forwarded(arguments, base)
    command = _command(arguments, (arguments.hosts and arguments.python) or machine.python)
    places = [place for place in _places(arguments.places, arguments.ranks) if place.rank in arguments.own_ranks]
    if mpi is not None:
        shared = common | _shared_settings(arguments, job, restart) | mpirun.environment(mpi, base)
        if arguments.hosts:
            shared[env.AGENT] = mark_of(job)
        if machine.terminal:
            shared[env.PROGRESS] = "1"
        ranks = tuple(RankPlan(place.rank, place.host, shared, command) for place in places)
        return LaunchPlan(job, ranks, base, mpirun.command(mpi, arguments.ranks, arguments.hosts, tuple(shared)))
    return LaunchPlan(
        job,
        tuple(
            RankPlan(
                rank=place.rank,
                host=place.host,
                environment=_threads(place, machine)
                | common
                | env.write(_environment(place, arguments, job, (rendezvous, rendezvous_fd), restart))
                | _hint(place, machine),
                command=command,
                cores=_cores(place, machine) if arguments.bind else (),
                slot=place.local_rank,
                gpu="" if arguments.hosts else gpu_of(place.local_rank, place.local_size, machine.gpus),
            )
            for place in places
        ),
        base,
    )


def flight_folder(arguments: RunArguments, machine: Machine, job: str, restart: int = 0) -> str:
    """Where the ranks of one attempt leave their flight records when they fail; the first that fails makes it.

    >>> flight_folder(RunArguments("train.py"), Machine("python", 1, {"TMPDIR": "/scratch"}), "demo")
    '/scratch/phalanx-flight-job-2a97516c354b'
    """
    given = arguments.flight or machine.environ.get(env.FLIGHT)
    if not given or not names_flight_folder(arguments, machine):
        return os.path.join(machine.environ.get("TMPDIR") or "/tmp", f"phalanx-flight-{mark_of(job)}")
    return os.path.join(os.path.abspath(given), f"restart-{restart}") if restart else os.path.abspath(given)


def names_flight_folder(arguments: RunArguments, machine: Machine) -> bool:
    """Did the user say where flight records belong? What a launcher around this one says is for its own ranks."""
    by_environment = machine.environ.get(env.FLIGHT) and not machine.environ.get(env.LAUNCHED)
    return bool(arguments.flight or by_environment)


# --- parts --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Place:
    rank: int
    host: str
    node: int
    local_rank: int
    local_size: int
    cores: int | None


def _places(hosts: tuple[Host, ...], ranks: int) -> list[_Place]:
    """Ranks fill the slots of one host after the other."""
    places: list[_Place] = []
    for node, host in enumerate(hosts):
        local_size = min(host.slots, ranks - len(places))
        places += [
            _Place(len(places) + local, host.name, node, local, local_size, host.cores) for local in range(local_size)
        ]
    if len(places) < ranks:
        raise LaunchError(f"-n {ranks}: the hosts have {len(places)} slots")
    return places


def _command(arguments: RunArguments, python: str) -> tuple[str, ...]:
    what = ("-m", arguments.script) if arguments.module else (arguments.script,)
    return (python, *what, *arguments.arguments)


def _threads(place: _Place, machine: Machine) -> dict[str, str]:
    threads = str(max(1, (place.cores or machine.cores) // place.local_size))
    return {name: threads for name in THREAD_VARIABLES if not machine.environ.get(name)}


def _cores(place: _Place, machine: Machine) -> tuple[int, ...]:
    """Equal shares of the host's cores; with fewer cores than ranks they are dealt in turn."""
    cores = place.cores or machine.cores
    share = cores // place.local_size
    return tuple(range(place.local_rank * share, (place.local_rank + 1) * share)) or (place.local_rank % cores,)


def gpu_of(local_rank: int, local_size: int, gpus: tuple[str, ...]) -> str:
    """The GPU of a rank, by the rule that ranks follow themselves: in turn, by their number on the host.

    >>> gpu_of(3, 4, ("0", "1")), gpu_of(0, 2, ("4", "5")), gpu_of(0, 2, ())
    ('GPU 1 (shared by 2 ranks)', 'GPU 4', '')
    """
    if not gpus:
        return ""
    number = local_rank % len(gpus)
    sharing = len(range(number, local_size, len(gpus)))
    return f"GPU {gpus[number]}" + (f" (shared by {sharing} ranks)" if sharing > 1 else "")


def inherited(environ: Mapping[str, str]) -> dict[str, str]:
    """What ranks on hosts get of this machine's environment without being asked."""
    return {name: value for name, value in environ.items() if name.startswith("PHALANX_") or name in FORWARDED}


def forwarded(arguments: RunArguments, environ: Mapping[str, str]) -> dict[str, str]:
    """The variables that ``--env`` names.

    >>> forwarded(RunArguments("a.py", forward=("HOME", "LR=1")), {"HOME": "/root", "LR": "2", "OTHER": "3"})
    {'HOME': '/root', 'LR': '1'}
    """
    values: dict[str, str] = {}
    for word in arguments.forward:
        name, equals, value = word.partition("=")
        if not equals and name not in environ:
            raise LaunchError(f"--env {name}: it is not set here; set it, or say --env {name}=VALUE")
        values[name] = value if equals else environ[name]
    return values


def _common(arguments: RunArguments, machine: Machine, restart: int) -> dict[str, str]:
    values = {"PYTHONUNBUFFERED": "1", env.LAUNCHED: "1"}
    if arguments.mpi:
        values |= {
            name: str(max(1, machine.cores // arguments.ranks))
            for name in THREAD_VARIABLES
            if not machine.environ.get(name)
        }
    if machine.package_root:
        paths = [path for path in machine.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
        if machine.package_root not in paths:
            values["PYTHONPATH"] = os.pathsep.join([*paths, machine.package_root])
    if arguments.elastic:
        values[env.ELASTIC] = arguments.elastic
    if restart:
        # a scheduler that requeued the job has said since when its checkpoints count: before this launch began
        began = machine.environ.get(env.STARTED) if machine.environ.get(env.RESUME) == "auto" else None
        values |= {env.RESUME: "auto", env.STARTED: began or f"{machine.began_s:.3f}"}
    if machine.terminal and not machine.environ.get("COLUMNS"):
        values["COLUMNS"] = str(machine.columns)
    return values


def _environment(
    place: _Place, arguments: RunArguments, job: str, rendezvous: tuple[str, int | None], restart: int
) -> RankEnvironment:
    return RankEnvironment(
        rank=place.rank,
        size=arguments.ranks,
        local_rank=place.local_rank,
        local_size=place.local_size,
        node=place.node,
        backend="zmq",
        rendezvous=rendezvous[0],
        rendezvous_fd=rendezvous[1] if place.rank == 0 else None,
        job=job,
        timeout_s=arguments.timeout_s,
        restart=restart,
        hosts=_told(arguments),
    )


def _told(arguments: RunArguments) -> str | None:
    """The hosts and how many ranks each has; None on a single machine."""
    counts: dict[str, int] = {}
    for place in _places(arguments.places, arguments.ranks):
        counts[place.host] = counts.get(place.host, 0) + 1
    single = arguments.nodes == 1 and not arguments.hosts
    return None if single else ",".join(f"{name}:{count}" for name, count in counts.items())


def _shared_settings(arguments: RunArguments, job: str, restart: int) -> dict[str, str]:
    """Under mpirun all ranks get one environment: mpirun tells the rank, phalanx how many there must be."""
    return env.write_settings(
        size=arguments.ranks, backend="mpi", job=job, timeout_s=arguments.timeout_s, restart=restart
    )


def _hint(place: _Place, machine: Machine) -> dict[str, str]:
    return {env.PROGRESS: "1"} if machine.terminal and place.rank == 0 else {}


def _lines(plan: LaunchPlan) -> list[str]:
    lines = [f"job {plan.job}: {len(plan.ranks)} rank{'s' if len(plan.ranks) > 1 else ''}{_elastic_words(plan)}"]
    if plan.mpirun:
        lines += _words(plan.ranks[0].environment)
        lines += ["  " + shlex.join([*plan.mpirun, *plan.ranks[0].command])]
        return lines + [f"rank {rank.rank} on {rank.host}" for rank in plan.ranks]
    for rank in plan.ranks:
        lines += [_place_words(rank), *_words(rank.environment), "  " + shlex.join(rank.command)]
    return lines


def _elastic_words(plan: LaunchPlan) -> str:
    bounds = plan.ranks[0].environment.get(env.ELASTIC, "")
    least, _, most = bounds.partition(":")
    return f", elastic: goes on with {least} to {most}" if bounds else ""


def _place_words(rank: RankPlan) -> str:
    cores = f", cores {','.join(map(str, rank.cores))}" if rank.cores else ""
    gpu = f", {rank.gpu}" if rank.gpu else ""
    return f"rank {rank.rank} on {rank.host}{f', slot {rank.slot}' if rank.host != 'localhost' else ''}{cores}{gpu}"


def _words(environment: Mapping[str, str]) -> list[str]:
    return [f"  {name}={shlex.quote(value)}" for name, value in environment.items()]
