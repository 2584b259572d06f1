"""How the ranks of one host come to share memory: the first meeting by messages, blocks by meetings in that memory."""

from __future__ import annotations

import json
import mmap
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..host import host_identity, host_name
from ..messages import Messages
from ..reduction import between_hosts, over_wire, shared
from ..reduction.programs import Programs
from . import shared_memory
from .shared_memory import RANKS_LIMIT, LocalSpace, aligned, attach, control_nbytes, create

if TYPE_CHECKING:
    from .base import Communicator

_REMEDY = "Free memory, or raise the limits (ulimit -f, the container's memory)."


def share_memory(communicator: Communicator) -> bool:
    """Let the ranks of each host share memory from now on; False where that cannot be. All ranks must call.

    All or none: if it fails on one host, one line there says why, and everybody goes on by messages.
    """
    if communicator.size == 1 or communicator.local is not None:
        return communicator.local is not None
    identity = host_identity() if shared_memory.supported() else f"{os.getpid()} alone"
    rows = communicator.all_gather_object(identity, name="hosts").wait()
    hosts = [[rank for rank, row in enumerate(rows) if row == host] for host in dict.fromkeys(rows)]
    members = next(host for host in hosts if communicator.rank in host)
    if all(len(host) == 1 for host in hosts):
        return False
    mapping, problem = _common(communicator, members)
    problems = communicator.all_gather_object(problem, name="shared memory opened").wait()
    if any(problems):
        rank = next(rank for rank, words in enumerate(problems) if words)
        if communicator.rank == rank:
            say(
                f"ranks of host {host_name(identity)} exchange messages instead of sharing memory: {problem}. {_REMEDY}"
            )
        return False
    communicator.programs = _programs(hosts)
    if mapping is not None:
        communicator.local = LocalSpace(hosts, communicator.rank, mapping, communicator._look)
        communicator.local.serving = communicator._thread
    return True


def _programs(hosts: Sequence[Sequence[int]]) -> Programs:
    module: Any = shared if len(hosts) == 1 else between_hosts
    return module


def _common(communicator: Communicator, members: Sequence[int]) -> tuple[mmap.mmap | None, str]:
    """The control mapping that the first of ``members`` makes and the others open; or what went wrong on this rank."""
    descriptor, mapping, problem = -1, None, ""
    nbytes = control_nbytes(len(members))
    if communicator.rank == members[0] and len(members) <= RANKS_LIMIT:  # one that is alone on its host takes part, too
        try:
            descriptor, mapping = create(nbytes, "control")
        except OSError as error:
            problem = _words(nbytes, error)
    made = communicator.all_gather_object([os.getpid(), descriptor], name="shared memory").wait()
    pid, number = made[members[0]]
    try:
        if communicator.rank != members[0] and number >= 0:
            mapping = attach(pid, number, nbytes)
    except OSError as error:
        problem = f"rank {communicator.rank} cannot open the memory of pid {pid}: {error.strerror}"
    communicator.barrier(name="shared memory").wait()
    if descriptor >= 0:
        os.close(descriptor)
    return mapping, problem


def new_block(messages: Messages, nbytes: int, parts: int) -> np.ndarray | None:
    """Program: this rank's part of a new block of zeros; ``parts``: 1, one for all, or one for each local rank.

    None, on all ranks of the group, where it cannot be had; one line says why.
    """
    local = messages.local
    mapping, problem = None, ""
    whole = aligned(max(nbytes, 1)) * parts
    if local is not None:
        mapping, problem = _make(messages, local, local.next_lead() + whole)
    if len(local.hosts if local is not None else ()) != 1:  # all hosts or none
        rows = [row.decode() for row in over_wire.all_gather_bytes(messages, problem.encode())]
        problem = problem or next((row for row in rows if row), "")
    if local is None:
        return None
    if problem or mapping is None:
        local.skip()
        if local.index == 0 and not local.is_full:
            say(f"rank {messages.rank} goes on with memory of its own in {messages.operation}: {problem}. {_REMEDY}")
        local.is_full = True
        return None
    return local.adopt(mapping, nbytes, parts)


def _make(messages: Messages, local: LocalSpace, nbytes: int) -> tuple[mmap.mmap | None, str]:
    descriptor, mapping, problem = -1, None, ""
    if local.index == 0:
        try:
            descriptor, mapping = create(nbytes, "block")
        except OSError as error:
            problem = _words(nbytes, error)
    messages.meet("made", json.dumps([os.getpid(), descriptor, problem]).encode())
    pid, number, problem = json.loads(local.note(0))
    if not problem and local.index > 0:
        try:
            mapping = attach(pid, number, nbytes)
        except OSError as error:
            problem = f"rank {messages.rank} cannot open the memory of pid {pid}: {error.strerror}"
    messages.meet("opened", problem.encode()[: shared_memory.NOTE_NBYTES])
    if descriptor >= 0:
        os.close(descriptor)
    problems = [local.note(index).decode(errors="replace") for index in range(local.size)]
    return mapping, next((words for words in problems if words), "")


def _words(nbytes: int, error: OSError) -> str:
    return f"{nbytes / 1e6:.1f} MB cannot be reserved ({error.strerror})"


def say(line: str) -> None:
    print(f"phalanx: {line}", file=sys.stderr, flush=True)
