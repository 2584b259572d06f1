"""Which way sums of GPUs' gradients take: NCCL where every rank has it and a GPU of its own, else the host's memory."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ...core import own_gpu
from ...core.backend import cupy, nccl
from .. import env
from ..errors import CommunicatorError
from ..host import host_identity
from .device import DeviceVerbs
from .nccl import NcclVerbs
from .staged import StagedVerbs

if TYPE_CHECKING:
    from .base import Communicator


def make(comm: Communicator) -> DeviceVerbs:
    """The verbs for this rank's GPU, over NCCL where every rank has it and a GPU of its own. Collective."""
    index = own_gpu.enter(cupy())
    if comm.keeps_to_host:
        return StagedVerbs(comm, index)
    library = nccl()
    bus = cupy().cuda.Device(index).pci_bus_id
    row = [host_identity(), bus, None if library is None else int(library.get_version()), env.gpu_sums(os.environ)]
    rows = comm.all_gather_object(row, name="GPUs").wait()
    asked = {row[3] for row in rows}
    if len(asked) > 1:
        raise CommunicatorError(
            f"{env.GPU_SUMS} must be equal on all ranks, got "
            + ", ".join(f"{row[3] or 'nothing'} on rank {rank}" for rank, row in enumerate(rows))
        )
    why = _why_not_nccl(rows)
    wish = asked.pop()
    if wish == "nccl" and why:
        raise CommunicatorError(f"{env.GPU_SUMS}=nccl: {why}. Without it gradients go through the host's memory")
    over_nccl = wish != "host" and not why and (comm.size > 1 or wish == "nccl")
    made: DeviceVerbs = NcclVerbs(comm, index) if over_nccl else StagedVerbs(comm, index)
    if comm.rank == 0 and comm.size > 1:
        reason = "" if over_nccl else f": {'asked for' if wish == 'host' else why}"
        print(f"phalanx: gradients of GPUs are summed {made.kind}{reason}", file=sys.stderr, flush=True)
    return made


def _why_not_nccl(rows: Sequence[Sequence[Any]]) -> str:
    """Why NCCL cannot serve these ranks (host, GPU, version of NCCL); "" if it can."""
    without = [str(rank) for rank, row in enumerate(rows) if row[2] is None]
    if without:
        return f"rank{'s' * (len(without) > 1)} {', '.join(without)} cannot load NCCL"
    versions = {row[2] // 100 for row in rows}
    if len(versions) > 1:
        return f"the ranks have different versions of NCCL ({', '.join(str(row[2]) for row in rows)})"
    places: dict[tuple[str, str], list[int]] = {}
    for rank, row in enumerate(rows):
        places.setdefault((row[0], row[1]), []).append(rank)
    shared = next((ranks for ranks in places.values() if len(ranks) > 1), None)
    return f"ranks {', '.join(map(str, shared))} share a GPU, which NCCL does not do" if shared else ""
