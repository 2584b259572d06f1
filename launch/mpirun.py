"""mpirun: which one, what it must be told, and how to say that there is none."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass

from ..dist.errors import LaunchError

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


def find_mpirun(python: str, environ: Mapping[str, str]) -> Mpirun:
    """The mpirun beside this Python, else the first on PATH. Raises LaunchError, with the fix, when there is none."""
    beside = os.path.join(os.path.dirname(python), "mpirun")
    path = beside if os.access(beside, os.X_OK) else shutil.which("mpirun", path=environ.get("PATH", os.defpath))
    if path is None:
        raise LaunchError(f"--mpi: there is no mpirun beside {python} or on PATH; {FIX}")
    return Mpirun(path, _kind(path))


def _kind(path: str) -> str:
    try:
        answer = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise LaunchError(f"--mpi: {path} --version does not answer ({error}); {FIX}") from error
    words = answer.stdout + answer.stderr
    for kind, signs in (("Open MPI", ("Open MPI", "OpenRTE", "Open RTE", "PRRTE")), ("MPICH", ("HYDRA", "MPICH"))):
        if any(sign in words for sign in signs):
            return kind
    raise LaunchError(f"--mpi: {path} is neither Open MPI's nor MPICH's (it says {words.strip()[:80]!r}); {FIX}")


def environment(mpi: Mpirun, environ: Mapping[str, str]) -> dict[str, str]:
    """Variables to add for this kind of mpirun."""
    if mpi.kind != "Open MPI":
        return {}
    return {name: value for name, value in OPEN_MPI.items() if not environ.get(name)}


def command(mpi: Mpirun, ranks: int) -> tuple[str, ...]:
    """What stands before a rank's own command."""
    return (mpi.path, "-n", str(ranks))


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
