"""Starting the ranks of a plan: each by itself on this machine (ZeroMQ on loopback), or all by one mpirun."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

from ..dist import env, member
from ..dist.errors import LaunchError
from .channel import Channel
from .finish import FinishMarks
from .hosts import mark_of
from .plan import LaunchPlan, RankPlan
from .process import TAGGED, Job, Process, Source, child_command, spawn


def listen() -> socket.socket:
    """The rendezvous: a socket that listens before any rank runs, so that none can come too early."""
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listening.bind(("127.0.0.1", 0))
    listening.listen(1024)
    return listening


def listen_at(address: str) -> socket.socket:
    """The rendezvous of a job with a launcher on each host, at the address that all of them were told."""
    try:
        return member.listen(member.address_of(address))
    except LaunchError as error:
        raise LaunchError(f"--rendezvous {address}: {error}") from None


def start_ranks(plan: LaunchPlan, job: Job) -> None:
    """One process for each rank. A single rank keeps the launcher's own stdout and stderr."""
    alone = len(plan.ranks) == 1 and job.logs is None and plan.ranks[0].host == "localhost"
    for rank in plan.ranks:
        start_rank(rank, plan.environ, job, alone)


def start_rank(rank: RankPlan, environ: Mapping[str, str], job: Job, alone: bool = False) -> Process:
    """The process of one rank, known to ``job`` with its pipes; in an elastic job with its membership channel, too."""
    environment = {**environ, **rank.environment}
    elastic = env.ELASTIC in rank.environment
    streams: dict[str, Any] = {} if alone and not elastic else _pipes()
    listening = rank.environment.get(env.NAMES["rendezvous_fd"])
    passed = [int(listening)] if listening else []
    if elastic:
        channel = job.channels[rank.rank] = Channel()
        passed.append(channel.give())
        environment[env.MEMBERSHIP_FD] = str(channel.give())
    if passed:
        streams["pass_fds"] = passed
    process = spawn(f"rank {rank.rank}", rank.command, environment, stdin=_stdin(rank), cores=rank.cores, **streams)
    if elastic:
        channel.given()
    job.processes.append(process)
    for stream, pipe in enumerate((process.popen.stdout, process.popen.stderr)):
        if pipe is not None:
            job.sources.append(Source(_detach(pipe), rank.rank, stream))
    return process


def start_mpirun(plan: LaunchPlan, job: Job, folders: Mapping[str, str]) -> None:
    """One mpirun for all ranks; each rank connects its output to the launcher's pipes by itself."""
    names = env.RANK_NAMES
    pairs = [os.pipe() for _ in range(2 * len(plan.ranks))]
    pipes = f"{os.getpid()}:{','.join(str(write) for _, write in pairs)}"
    job.rank_names = names
    job.kept += [write for _, write in pairs]
    job.sources += [Source(read, number // 2, number % 2) for number, (read, _) in enumerate(pairs)]
    rank = plan.ranks[0]
    process = spawn(
        "mpirun",
        [*plan.mpirun, *child_command(0, signal.SIGKILL, rank.command, pipes, names)],
        {**folders, **plan.environ, **rank.environment},
        death_signal=signal.SIGTERM,  # it removes its session's files then
        stdin=_stdin(rank),
        **_pipes(),
    )
    job.processes.append(process)
    for stream, pipe in enumerate((process.popen.stdout, process.popen.stderr)):
        assert pipe is not None
        job.sources.append(Source(_detach(pipe), -1, stream))


def start_mpirun_over_hosts(plan: LaunchPlan, job: Job, python: str, settings: Mapping[str, str]) -> None:
    """One mpirun for ranks on several hosts. It forwards their output, with the rank before each line."""
    rank = plan.ranks[0]
    job.rank_names, job.far = env.RANK_NAMES, True
    job.finish = FinishMarks(mark_of(plan.job), len(plan.ranks))
    shim = child_command(0, signal.SIGKILL, rank.command, f"end={job.finish.word}", env.RANK_NAMES)
    process = spawn(
        "mpirun",
        [*plan.mpirun, python, *shim[1:]],
        {**settings, **plan.environ, **rank.environment},
        death_signal=signal.SIGTERM,
        stdin=subprocess.DEVNULL,
        **_pipes(),
    )
    job.processes.append(process)
    for stream, pipe in enumerate((process.popen.stdout, process.popen.stderr)):
        job.sources.append(Source(_detach(pipe), TAGGED, stream))


def _pipes() -> dict[str, Any]:
    return {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}


def _stdin(rank: RankPlan) -> int | None:
    """Rank 0 may read what is piped into the launcher; a terminal cannot be read from another session."""
    piped = rank.rank == 0 and sys.stdin is not None and not os.isatty(0)
    return None if piped else subprocess.DEVNULL


def _detach(pipe: Any) -> int:
    """The descriptor alone: the supervisor reads it without Python's buffers."""
    descriptor = os.dup(pipe.fileno())
    pipe.close()
    return descriptor
