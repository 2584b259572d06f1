"""The environment contract: how a process learns which rank it is. Each variable's name stands here, once.

``OWN`` lists phalanx's own variables, each with its reader and its writer side by side; the launcher calls ``write``,
``phalanx.init()`` calls ``read``. What other launchers set (Open MPI, MPICH, PMIx, torchrun, Slurm) is read in
:mod:`.env_foreign`. Priority: phalanx's own, then MPI, torchrun, Slurm.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from . import env_foreign
from .env_foreign import Found, integer
from .errors import LaunchError

BACKENDS = ("zmq", "mpi")
RANK_NAMES = env_foreign.RANK_NAMES
"""Variables by which a process that mpirun started is told from mpirun itself."""

LAUNCHED = "PHALANX_LAUNCHED"
"""``1`` in every process started by ``phalanx run``, with or without ``--mpi``."""
RESUME = "PHALANX_RESUME"
"""``auto`` after a restart by the launcher: continue from the newest valid checkpoint, whatever the script asks for."""
STARTED = "PHALANX_STARTED_S"
"""After a restart: when the launcher began, in seconds since 1970. Older checkpoints are another run's."""
STOP_CODE = "PHALANX_STOP_CODE"
"""Exit code of a job that was asked to stop and has saved (default 0): schedulers start a job anew by such a code."""
PROFILE = "PHALANX_PROFILE"
"""The file that gets a trace of what every rank did."""
PROGRESS = "PHALANX_PROGRESS"
"""``1`` on rank 0 when its output ends on a terminal although its own stdout is a pipe: a progress bar is welcome."""

AGENT = "PHALANX_AGENT"
"""In every process of a job over hosts: which job, in a form that tells no secret, and which of its hosts."""

FLIGHT = "PHALANX_FLIGHT"
"""The folder that gets each rank's flight record when the job fails; ``phalanx run`` always names one."""
CHECK_REPLICAS = "PHALANX_CHECK_REPLICAS"
"""After so many steps, again and again, the ranks compare hashes of everything that must be equal."""

ELASTIC = "PHALANX_ELASTIC"
"""``MIN:MAX`` in a job whose ranks may come and go."""
MEMBERSHIP_FD = "PHALANX_MEMBERSHIP_FD"
"""The open socket by which such a rank and its launcher tell each other who is there."""
NEWCOMER = "PHALANX_NEWCOMER"
"""``1`` in a rank that was started while the others train: it joins them once it is built."""

GPU_SUMS = "PHALANX_GPU_SUMS"
"""How gradients of GPUs are summed: ``nccl``, ``host`` (through the host's memory); by default NCCL where it can serve."""
WAYS_OF_GPUS = ("nccl", "host")


@dataclass(frozen=True, slots=True)
class RankEnvironment:
    """What a launcher told this process.

    >>> read({"PHALANX_RANK": "1", "PHALANX_SIZE": "2", "PHALANX_RENDEZVOUS": "127.0.0.1:4000"}).rank
    1
    """

    rank: int
    size: int
    local_rank: int = 0
    """Number among the ranks of the same host."""
    local_size: int = 1
    node: int | None = None
    """Number of the host, where the launcher says it."""
    source: str = "phalanx run"
    """Who said so, in words for people, for example ``mpirun (Open MPI)``."""
    backend: str = "zmq"
    rendezvous: str | None = None
    """``host:port`` where rank 0 listens (ZeroMQ only)."""
    job: str | None = None
    """Name of this run of the job; new for each launch."""
    timeout_s: float | None = None
    """Deadline of collectives, when the user set one."""
    restart: int = 0
    """How many times the launcher restarted the job."""
    rendezvous_fd: int | None = None
    """Rank 0 only: an inherited socket that already listens at ``rendezvous``."""
    hosts: str | None = None
    """``a:2,b:2``: the hosts in order and how many ranks each has, for words about ranks that are not there."""

    def __post_init__(self) -> None:
        for value, total in (("rank", "size"), ("local_rank", "local_size")):
            if not 0 <= getattr(self, value) < getattr(self, total):
                raise LaunchError(
                    f"{NAMES[value]}={getattr(self, value)} and {NAMES[total]}={getattr(self, total)} "
                    f"(from {self.source}): expected 0 <= {value} < {total}"
                )
        if self.local_size > self.size:
            raise LaunchError(f"local size {self.local_size} is larger than size {self.size} (from {self.source})")
        if self.backend not in BACKENDS:
            raise LaunchError(f"{NAMES['backend']}={self.backend!r}: expected one of {', '.join(BACKENDS)}")

    def host_of(self, rank: int) -> str | None:
        """Where a rank belongs, when the launcher said it.

        >>> RankEnvironment(0, 4, hosts="a:2,b:2").host_of(2)
        'b'
        """
        for word in (self.hosts or "").split(","):
            name, _, count = word.rpartition(":")
            rank -= int(count) if count.isdigit() else self.size
            if rank < 0:
                return name or None
        return None

    @property
    def address(self) -> tuple[str, int] | None:
        """The rendezvous as ``(host, port)``."""
        if self.rendezvous is None:
            return None
        host, _, port = self.rendezvous.rpartition(":")
        return host.strip("[]"), int(port)


# --- phalanx's own variables: name, field, reader, writer -----------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Variable:
    name: str
    field: str
    read: Callable[[str, str], Any]
    write: Callable[[Any], str]


def _text(name: str, value: str) -> str:
    return value


def _seconds(name: str, value: str) -> float:
    try:
        seconds = float(value)
    except ValueError:
        seconds = -1.0
    if not seconds > 0:
        raise LaunchError(f"{name}={value!r}: expected a number of seconds above 0")
    return seconds


def _host_and_port(name: str, value: str) -> str:
    host, _, port = value.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise LaunchError(f"{name}={value!r}: expected host:port, for example 127.0.0.1:29500")
    return value


OWN = (
    _Variable("PHALANX_RANK", "rank", integer, str),
    _Variable("PHALANX_SIZE", "size", integer, str),
    _Variable("PHALANX_LOCAL_RANK", "local_rank", integer, str),
    _Variable("PHALANX_LOCAL_SIZE", "local_size", integer, str),
    _Variable("PHALANX_NODE", "node", integer, str),
    _Variable("PHALANX_BACKEND", "backend", _text, str),
    _Variable("PHALANX_RENDEZVOUS", "rendezvous", _host_and_port, str),
    _Variable("PHALANX_RENDEZVOUS_FD", "rendezvous_fd", integer, str),
    _Variable("PHALANX_HOSTS", "hosts", _text, str),
    _Variable("PHALANX_JOB", "job", _text, str),
    _Variable("PHALANX_TIMEOUT_S", "timeout_s", _seconds, "{:g}".format),
    _Variable("PHALANX_RESTART", "restart", integer, str),
)
NAMES = {variable.field: variable.name for variable in OWN}
"""Field of :class:`RankEnvironment` -> variable name."""


def write(environment: RankEnvironment) -> dict[str, str]:
    """The variables that make ``read`` return ``environment`` again (all but ``source``)."""
    values = ((variable, getattr(environment, variable.field)) for variable in OWN)
    return {variable.name: variable.write(value) for variable, value in values if value is not None}


def write_settings(**fields: Any) -> dict[str, str]:
    """Variables for single fields, for a launcher that leaves the rank to another one (``phalanx run --mpi``)."""
    values = ((variable, fields.get(variable.field)) for variable in OWN)
    return {variable.name: variable.write(value) for variable, value in values if value is not None}


def read(environ: Mapping[str, str]) -> RankEnvironment | None:
    """The rank that the environment describes; None where no launcher left its variables (a single process).

    Raises LaunchError, with the variable's name and value, for values that are broken or contradict each other.
    """
    set_here = (variable for variable in OWN if environ.get(variable.name))
    own = {variable.field: variable.read(variable.name, environ[variable.name]) for variable in set_here}
    if "rank" in own:
        return _complete(Found("phalanx run", {"backend": "zmq", **own}), {})
    found = env_foreign.find(environ)
    if found is None:
        if "size" in own and environ.get(LAUNCHED):
            raise LaunchError(
                f"{NAMES['size']}={own['size']} but this process was given no rank: none of {NAMES['rank']}, "
                f"{', '.join(RANK_NAMES)} is set. mpirun did not hand its variables on: use the mpirun "
                "of the MPI library that mpi4py loads."
            )
        return None
    return _complete(found, own)


def read_timeout_s(environ: Mapping[str, str]) -> float | None:
    """The deadline of collectives alone, for ranks that no environment describes (threads)."""
    name = NAMES["timeout_s"]
    return _seconds(name, environ[name]) if environ.get(name) else None


def flight_folder(environ: Mapping[str, str]) -> str | None:
    """Where flight records belong; None: nowhere."""
    return environ.get(FLIGHT) or None


def check_replicas_every(environ: Mapping[str, str]) -> int | None:
    """After how many steps replicas are compared; None: never."""
    every = integer(CHECK_REPLICAS, environ[CHECK_REPLICAS]) if environ.get(CHECK_REPLICAS) else None
    if every is not None and every < 1:
        raise LaunchError(f"{CHECK_REPLICAS}={every}: expected a number of steps, at least 1")
    return every


def gpu_sums(environ: Mapping[str, str]) -> str | None:
    """How gradients of GPUs are to be summed; None: as the ranks can.

    >>> gpu_sums({}), gpu_sums({"PHALANX_GPU_SUMS": "host"})
    (None, 'host')
    """
    wish = environ.get(GPU_SUMS) or None
    if wish not in (None, *WAYS_OF_GPUS):
        raise LaunchError(f"{GPU_SUMS}={wish!r}: expected one of {', '.join(WAYS_OF_GPUS)}")
    return wish


def elastic_range(environ: Mapping[str, str]) -> tuple[int, int] | None:
    """The least and the greatest number of ranks; None where they do not come and go.

    >>> elastic_range({}), elastic_range({"PHALANX_ELASTIC": "2:8"})
    (None, (2, 8))
    """
    text = environ.get(ELASTIC)
    if not text:
        return None
    least, _, most = text.partition(":")
    if not (least.isdigit() and most.isdigit() and 1 <= int(least) <= int(most)):
        raise LaunchError(f"{ELASTIC}={text!r}: expected MIN:MAX with 1 <= MIN <= MAX")
    return int(least), int(most)


def is_newcomer(environ: Mapping[str, str]) -> bool:
    """Whether this process was started while others train, to join them."""
    return environ.get(NEWCOMER) == "1"


def profile_file(environ: Mapping[str, str]) -> str | None:
    """Where the trace of a whole run belongs; None: nothing is recorded."""
    return environ.get(PROFILE) or None


def write_diagnosis(flight: str | None, check_replicas: int | None, profile: str | None = None) -> dict[str, str]:
    """The variables of :func:`flight_folder`, :func:`check_replicas_every` and :func:`profile_file`."""
    values = {FLIGHT: flight, CHECK_REPLICAS: check_replicas, PROFILE: profile}
    return {name: str(value) for name, value in values.items() if value is not None}


def restarted_since(environ: Mapping[str, str]) -> float | None:
    """None in a first launch; after a restart when the launcher began (seconds since 1970)."""
    return float(environ.get(STARTED) or 0.0) if environ.get(RESUME) == "auto" else None


def stop_code(environ: Mapping[str, str]) -> int:
    """The exit code after an agreed stop.

    >>> stop_code({}), stop_code({"PHALANX_STOP_CODE": "75"})
    (0, 75)
    """
    code = integer(STOP_CODE, environ[STOP_CODE]) if environ.get(STOP_CODE) else 0
    if code > 255:
        raise LaunchError(f"{STOP_CODE}={code}: expected an exit code, 0 to 255")
    return code


PLACE = ("rank", "size", "local_rank", "local_size", "node")


def _complete(found: Found, settings: dict[str, Any]) -> RankEnvironment:
    """The launcher's word for the place, the user's settings for everything else."""
    values = dict(found.values)
    for needed in ("rank", "size"):
        if needed not in values:
            raise LaunchError(f"{NAMES[needed]} is missing: {found.source} set {_words(values)}")
    if settings.get("size", values["size"]) != values["size"]:
        raise LaunchError(
            f"launched as {settings['size']} ranks ({NAMES['size']}), but {found.source} describes a world of "
            f"{values['size']}: mpirun and mpi4py's MPI library are probably of two kinds (Open MPI and MPICH); "
            "use the mpirun beside this Python"
        )
    if "local_size" not in values and "local_rank" not in values:
        values |= {"local_rank": values["rank"], "local_size": values["size"]}
    environment = RankEnvironment(source=found.source, **{"local_size": values["size"], **values})
    environment = replace(environment, **{field: value for field, value in settings.items() if field not in PLACE})
    if environment.backend == "zmq" and environment.size > 1 and environment.rendezvous is None:
        raise LaunchError(
            f"{NAMES['rendezvous']} is missing: rank {environment.rank} of {environment.size} (from {found.source}) "
            "needs host:port of rank 0"
        )
    return environment


def _words(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items()) or "nothing"


def describe(environment: RankEnvironment | None) -> str:
    """One line for people.

    >>> describe(None)
    'single process'
    """
    if environment is None:
        return "single process"
    return (
        f"rank {environment.rank} of {environment.size} (local {environment.local_rank} of {environment.local_size}) "
        f"on {socket.gethostname()}, from {environment.source}, backend {environment.backend}"
    )


def without_ranks(environ: Mapping[str, str]) -> dict[str, str]:
    """``environ`` without any launcher's rank variables: the start of a child's environment in a new job."""
    own = {*NAMES.values(), LAUNCHED, RESUME, STARTED, PROGRESS, FLIGHT, AGENT, ELASTIC, MEMBERSHIP_FD, NEWCOMER} - {
        NAMES["timeout_s"]
    }
    if not any(environ.get(name) for name in (NAMES["rank"], *RANK_NAMES)):
        own -= {RESUME, STARTED}  # not of a rank that starts another job, but a scheduler's word on this one
    return {name: value for name, value in environ.items() if name not in own and not env_foreign.is_rank_name(name)}
