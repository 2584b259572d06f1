"""mpirun: which one, what it must be told, and how to say that there is none."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..dist.errors import LaunchError
from .hosts import Host

OPEN_MPI = {
    "OMPI_ALLOW_RUN_AS_ROOT": "1",  # both are needed, and only as root; Open MPI 5 has no other variable for it
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "OMPI_MCA_btl": "^ofi",  # its start-up sleeps one second
    "OMPI_MCA_osc": "^ucx",  # prints a warning about its priority
    "OMPI_MCA_mpi_yield_when_idle": "1",  # ranks that share a core: a small all-reduce takes 0.1 ms instead of 11
    "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",  # more ranks than cores (Open MPI 5)
    "PRTE_MCA_hwloc_default_binding_policy": "none",
    "OMPI_MCA_rmaps_base_oversubscribe": "1",  # the same for Open MPI 4
    "OMPI_MCA_hwloc_base_binding_policy": "none",
}
"""What Open MPI needs to start without complaint and without waiting; a user's own value wins."""

FOLDERS = {
    "PRTE_MCA_prte_tmpdir_base": "",
    "OMPI_MCA_btl_sm_backing_directory": "/dev/shm",
}
"""Where Open MPI leaves files when it is killed: variable -> parent of a folder of the job's own ("": TMPDIR's)."""

FIX = "install one: pip install 'phalanx[mpi]' (mpi4py and Open MPI's mpirun), or leave out --mpi to use ZeroMQ"


SEGMENT_NBYTES = 16 << 20
"""What each rank of Open MPI wants in shared memory (``btl_sm_segment_size``)."""


@dataclass(frozen=True, slots=True)
class Mpirun:
    path: str
    kind: str
    """``Open MPI`` or ``MPICH``."""
    major: int = 5
    """Of Open MPI's version: its options have changed their names."""


def find_mpirun(python: str, environ: Mapping[str, str]) -> Mpirun:
    """The mpirun beside this Python, else the first on PATH. Raises LaunchError, with the fix, when there is none."""
    beside = os.path.join(os.path.dirname(python), "mpirun")
    path = beside if os.access(beside, os.X_OK) else shutil.which("mpirun", path=environ.get("PATH", os.defpath))
    if path is None:
        raise LaunchError(f"--mpi: there is no mpirun beside {python} or on PATH; {FIX}")
    return _known(path)


def _known(path: str) -> Mpirun:
    try:
        answer = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise LaunchError(f"--mpi: {path} --version does not answer ({error}); {FIX}") from error
    words = answer.stdout + answer.stderr
    for kind, signs in (("Open MPI", ("Open MPI", "OpenRTE", "Open RTE", "PRRTE")), ("MPICH", ("HYDRA", "MPICH"))):
        if any(sign in words for sign in signs):
            version = re.search(r"(\d+)\.\d+", words)
            return Mpirun(path, kind, int(version[1]) if version else 5)
    raise LaunchError(f"--mpi: {path} is neither Open MPI's nor MPICH's (it says {words.strip()[:80]!r}); {FIX}")


def environment(mpi: Mpirun, environ: Mapping[str, str]) -> dict[str, str]:
    """Variables to add for this kind of mpirun."""
    if mpi.kind != "Open MPI":
        return {}
    return {name: value for name, value in OPEN_MPI.items() if not environ.get(name)}


def command(mpi: Mpirun, ranks: int, hosts: Sequence[Host] = (), names: Sequence[str] = ()) -> tuple[str, ...]:
    """What stands before a rank's own command. ``names``: the variables that ranks on ``hosts`` must get.

    Their values come from mpirun's environment, so that no secret is on a command line.

    >>> " ".join(command(Mpirun("mpirun", "MPICH"), 3, [Host("a", 2), Host("b", 2)], ["PHALANX_JOB"]))
    'mpirun -hosts a:2,b:2 -prepend-rank -bind-to none -n 3'
    """
    if not hosts:
        return (mpi.path, "-n", str(ranks))
    places = ",".join(map(str, hosts))
    if mpi.kind == "MPICH":  # hands on the whole environment
        return (mpi.path, "-hosts", places, "-prepend-rank", "-bind-to", "none", "-n", str(ranks))
    tag = ("--output", "tag") if mpi.major >= 5 else ("--tag-output",)
    spread = ("--map-by", "slot:oversubscribe") if mpi.major >= 5 else ("--map-by", "slot", "--oversubscribe")
    told = [word for name in names for word in ("-x", name)]
    return (mpi.path, "--host", places, *spread, "--bind-to", "none", *tag, *told, "-n", str(ranks))


def over_ssh(mpi: Mpirun, wrapper: str) -> dict[str, str]:
    """Variables that make mpirun start its daemons by ``wrapper`` instead of ssh."""
    if mpi.kind == "MPICH":
        return {"HYDRA_LAUNCHER": "ssh", "HYDRA_LAUNCHER_EXEC": wrapper}
    return {"PRTE_MCA_plm_ssh_agent": wrapper, "OMPI_MCA_plm_rsh_agent": wrapper}


_TAG = re.compile(rb"\[(?:[^\]]*,)?(\d+)\](?:<(stdout|stderr)>:)? ?")


def untag(line: bytes) -> tuple[int | None, bytes]:
    """Whose line it is, and the line itself: what ``command`` asked mpirun to put before it.

    >>> untag(b"[prterun-a-7@1,3]<stdout>: loss 1.0"), untag(b"[1,0]<stderr>:oh"), untag(b"[2] two"), untag(b"a word")
    ((3, b'loss 1.0'), (0, b'oh'), (2, b'two'), (None, b'a word'))
    """
    found = _TAG.match(line)
    return (int(found[1]), line[found.end() :]) if found else (None, line)


def lacking_memory(ranks: int, free_nbytes: int, place: str) -> str:
    """What to say of a small /dev/shm; empty when it suffices.

    >>> lacking_memory(2, 64 << 20, "/dev/shm")
    ''
    """
    needed = ranks * SEGMENT_NBYTES
    if free_nbytes >= needed:
        return ""
    return (
        f"{place} has {free_nbytes / 1e6:.1f} MB free, Open MPI wants {needed / 1e6:.0f} MB for {ranks} ranks: it goes on by TCP, "
        "which is slower (phalanx's own shared memory lies elsewhere). More: docker run --shm-size=1g, "
        f"or as root: mount -o remount,size=1g {place}"
    )
