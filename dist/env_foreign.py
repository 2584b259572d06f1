"""What other launchers say about ranks: Open MPI, MPICH (PMI), PMIx under Slurm, torchrun, Slurm. :mod:`.env` asks.

Each launcher is one function that reads its variables and returns the fields that they tell, or None where it did not
launch this process.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from .errors import LaunchError


class Found(NamedTuple):
    """A launcher's name for people, and the fields of RankEnvironment that its variables tell."""

    source: str
    values: dict[str, Any]


Environ = Mapping[str, str]

RANK_NAMES = ("OMPI_COMM_WORLD_RANK", "PMI_RANK", "PMIX_RANK")
"""Where an MPI process finds its rank, in order of preference."""


def integer(name: str, value: str) -> int:
    """``value`` as an integer not below 0; LaunchError with the variable's name otherwise."""
    if not value.isascii() or not value.isdigit():
        raise LaunchError(f"{name}={value!r}: expected an integer not below 0")
    return int(value)


def _integers(environ: Environ, names: dict[str, str]) -> dict[str, Any]:
    return {field: integer(name, environ[name]) for field, name in names.items() if environ.get(name)}


def _check(environ: Environ, values: dict[str, Any], names: dict[str, str]) -> dict[str, Any]:
    """Contradictions are told in the launcher's own names."""
    for value, total in (("rank", "size"), ("local_rank", "local_size")):
        if value in values and total in values and not 0 <= values[value] < values[total]:
            raise LaunchError(
                f"{names[value]}={environ[names[value]]} and {names[total]}={environ[names[total]]}: "
                f"expected {names[value]} < {names[total]}"
            )
    return values


def _open_mpi(environ: Environ) -> Found | None:
    names = {
        "rank": "OMPI_COMM_WORLD_RANK",
        "size": "OMPI_COMM_WORLD_SIZE",
        "local_rank": "OMPI_COMM_WORLD_LOCAL_RANK",
        "local_size": "OMPI_COMM_WORLD_LOCAL_SIZE",
    }
    if not environ.get(names["rank"]) or not environ.get(names["size"]):
        return None
    return Found("mpirun (Open MPI)", {"backend": "mpi"} | _check(environ, _integers(environ, names), names))


def _mpich(environ: Environ) -> Found | None:
    names = {"rank": "PMI_RANK", "size": "PMI_SIZE", "local_rank": "MPI_LOCALRANKID", "local_size": "MPI_LOCALNRANKS"}
    if not environ.get(names["rank"]) or not environ.get(names["size"]):
        return None
    values = {"backend": "mpi"} | _check(environ, _integers(environ, names), names)
    if "local_rank" in values or not environ.get("SLURM_STEP_ID"):
        return Found("mpirun (MPICH)", values)
    return Found("srun (PMI)", _slurm_place(environ) | values)


def _pmix(environ: Environ) -> Found | None:
    if not environ.get("PMIX_RANK"):
        return None
    rank = integer("PMIX_RANK", environ["PMIX_RANK"])
    if not environ.get("SLURM_STEP_ID"):
        raise LaunchError(
            f"PMIX_RANK={rank}, but nothing tells how many ranks there are: use mpirun, srun or phalanx run"
        )
    return Found("srun (PMIx)", _slurm_place(environ) | {"rank": rank, "backend": "mpi"})


def _torchrun(environ: Environ) -> Found | None:
    names = {
        "rank": "RANK",
        "size": "WORLD_SIZE",
        "local_rank": "LOCAL_RANK",
        "local_size": "LOCAL_WORLD_SIZE",
        "node": "GROUP_RANK",
        "restart": "TORCHELASTIC_RESTART_COUNT",
    }
    if not environ.get(names["rank"]) or not environ.get(names["size"]):
        return None
    values: dict[str, Any] = {"backend": "zmq", "job": environ.get("TORCHELASTIC_RUN_ID")}
    values |= _check(environ, _integers(environ, names), names)
    if environ.get("MASTER_ADDR") and environ.get("MASTER_PORT"):
        # torchrun's agent listens on MASTER_PORT itself, so that the next port is ours
        port = integer("MASTER_PORT", environ["MASTER_PORT"]) + (environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True")
        values["rendezvous"] = f"{environ['MASTER_ADDR']}:{port}"
    return Found("torchrun's variables", values)


# --- Slurm ------------------------------------------------------------------------------------------------------

SLURM_LARGEST_STEP = 0xFFFFFFF0
"""Above stand the pseudo steps of slurm.h: batch script, interactive, extern."""


def _slurm(environ: Environ) -> Found | None:
    """Only inside a step: a plain ``python`` in a batch script is a single process although it sees SLURM_PROCID."""
    if not environ.get("SLURM_STEP_ID") or not environ.get("SLURM_PROCID"):
        return None
    if integer("SLURM_STEP_ID", environ["SLURM_STEP_ID"]) >= SLURM_LARGEST_STEP:
        return None
    names = {"rank": "SLURM_PROCID"}
    values = {"backend": "zmq"} | _slurm_place(environ) | _integers(environ, names)
    if "size" not in values:
        return None
    _check(environ, values, names | {"size": _size_name(environ)})
    host = first_host(environ.get("SLURM_STEP_NODELIST") or environ.get("SLURM_JOB_NODELIST") or "")
    if host and values["size"] > 1:
        values["rendezvous"] = f"{host}:{_slurm_port(environ)}"
    return Found("srun", values)


def _size_name(environ: Environ) -> str:
    return next((name for name in ("SLURM_STEP_NUM_TASKS", "SLURM_NTASKS") if environ.get(name)), "SLURM_NTASKS")


def _slurm_place(environ: Environ) -> dict[str, Any]:
    names = {
        "size": _size_name(environ),
        "local_rank": "SLURM_LOCALID",
        "node": "SLURM_NODEID",
        "restart": "SLURM_RESTART_COUNT",
    }
    values = _integers(environ, names)
    per_node = _tasks_per_node(environ.get("SLURM_STEP_TASKS_PER_NODE") or "")
    if values.get("node", 0) < len(per_node):
        values["local_size"] = per_node[values.get("node", 0)]
    values["job"] = f"slurm-{environ.get('SLURM_JOB_ID', '')}.{environ.get('SLURM_STEP_ID', '')}"
    return values


def _slurm_port(environ: Environ) -> int:
    """Equal on all ranks of a step, different for neighbours: nobody else can tell a port before rank 0 runs."""
    job, step = environ.get("SLURM_JOB_ID", "0"), environ["SLURM_STEP_ID"]
    return 20_000 + (integer("SLURM_JOB_ID", job) * 131 + integer("SLURM_STEP_ID", step)) % 12_000


def _tasks_per_node(text: str) -> list[int]:
    """``2(x2),1`` -> [2, 2, 1]"""
    counts: list[int] = []
    for count, times in re.findall(r"(\d+)(?:\(x(\d+)\))?", text):
        counts += [int(count)] * int(times or 1)
    return counts


def first_host(nodes: str) -> str:
    """First name of Slurm's host list.

    >>> first_host("n[03-05,7],x1"), first_host("r[1-2]n[09-10]x")
    ('n03', 'r1n09x')
    """
    first = re.match(r"(?:[^\[,]|\[[^\]]*\])*", nodes)
    return re.sub(r"\[(\w+)[^\]]*\]", r"\1", first[0]) if first else ""


_FINDERS = (_open_mpi, _mpich, _pmix, _torchrun, _slurm)

_PREFIXES = (
    "OMPI_COMM_WORLD_",
    "PMI_",
    "PMIX_",
    "MPI_LOCAL",
    "HYDI_",
    "TORCHELASTIC_",
    "PRTE_LAUNCHED",
    "OMPI_UNIVERSE",
)
_NAMES = frozenset(
    {"RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "MASTER_ADDR", "MASTER_PORT", "SLURM_PROCID"}
)


def is_rank_name(name: str) -> bool:
    """Does a launcher use this variable to tell a process its rank or how to reach its daemon?"""
    return name in _NAMES or name.startswith(_PREFIXES)


def find(environ: Environ) -> Found | None:
    """The first launcher that started this process, or None."""
    return next((found for finder in _FINDERS if (found := finder(environ)) is not None), None)
