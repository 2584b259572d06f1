"""What the user asks for with ``phalanx run``, checked."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ..dist.errors import LaunchError
from .hosts import Host

_ADDRESS = re.compile(r"(\[[\da-fA-F:.]+\]|[^:\s]+):\d{1,5}")
SSH = ("ssh", "-T", "-oBatchMode=yes", "-oConnectTimeout=10", "-oServerAliveInterval=5", "-oServerAliveCountMax=3")
"""What starts a command on another host; the host and the command follow."""


@dataclass(frozen=True, slots=True)
class RunArguments:
    """What the user asked for."""

    script: str
    """Path of a script, or name of a module."""
    arguments: tuple[str, ...] = ()
    ranks: int = 1
    module: bool = False
    mpi: bool = False
    timeout_s: float | None = None
    """Deadline of collectives."""
    restarts: int = 0
    grace_s: float = 30.0
    """How long ranks may take to save and leave after SIGTERM or SIGUSR1."""
    prefix: bool = True
    flight: str | None = None
    """Folder for the flight records of a job that fails (default: one in the folder for temporary files)."""
    check_replicas: int | None = None
    """After so many steps, again and again, replicas are compared."""
    profile: str | None = None
    """File for a trace of what every rank did."""

    hosts: tuple[Host, ...] = ()
    """Empty: this machine."""
    ssh: tuple[str, ...] = SSH
    python: str | None = None
    """Path of Python on the hosts (default: this one's)."""
    forward: tuple[str, ...] = ()
    """``NAME`` or ``NAME=VALUE``: variables that ranks on hosts get, too."""
    bind: bool = False
    """Does each rank get cores of its own?"""
    nodes: int = 1
    """Number of launchers that share the job, one on each host, each started by hand or by a scheduler."""
    node_rank: int = 0
    rendezvous: str | None = None
    """``host:port`` where rank 0 will listen, for ``nodes``."""
    key: str | None = None
    """The secret that the launchers of all ``nodes`` know."""
    logs: str | None = None
    """Folder for each rank's whole output."""
    tee: tuple[int, ...] | None = (0,)
    """Ranks whose lines are all printed, of the others those from WARNING on; None: all ranks."""
    elastic: str | None = None
    """``MIN:MAX``: when a rank is lost the others go on, and new ones may join."""
    elastic_wait_s: float = 120.0
    """How long the job waits for new ranks when fewer than MIN are left."""

    def __post_init__(self) -> None:
        if self.ranks < 1:
            raise LaunchError(f"-n {self.ranks}: expected at least 1 rank")
        if self.restarts < 0:
            raise LaunchError(f"--restarts {self.restarts}: expected 0 or more")
        if self.timeout_s is not None and not self.timeout_s > 0:
            raise LaunchError(f"--timeout {self.timeout_s:g}: expected seconds above 0")
        if self.check_replicas is not None and self.check_replicas < 1:
            raise LaunchError(f"--check-replicas {self.check_replicas}: expected a number of steps, at least 1")
        if not self.grace_s >= 0:
            raise LaunchError(f"--grace {self.grace_s:g}: expected seconds, 0 or more")
        slots = sum(host.slots for host in self.hosts)
        if self.hosts and self.ranks > slots:
            raise LaunchError(f"-n {self.ranks}: the hosts have {slots} slots: {','.join(map(str, self.hosts))}")
        if self.tee and max(self.tee) >= self.ranks:
            raise LaunchError(f"--tee {max(self.tee)}: there are {self.ranks} ranks, 0 to {self.ranks - 1}")
        self._check_nodes()
        self._check_elastic()

    def _check_nodes(self) -> None:
        if self.nodes < 1 or not 0 <= self.node_rank < self.nodes:
            raise LaunchError(
                f"--nodes {self.nodes} --node-rank {self.node_rank}: expected a number from 0 to nodes - 1 on each host"
            )
        if self.nodes > 1 and (self.ranks % self.nodes or self.ranks < self.nodes):
            raise LaunchError(
                f"-n {self.ranks} --nodes {self.nodes}: -n is the number of ranks on all hosts together, equally many on each"
            )
        if self.nodes > 1 and self.rendezvous is None:
            raise LaunchError(
                f"--nodes {self.nodes}: needs --rendezvous HOST:PORT, the same on each; HOST is node 0's name"
            )
        if self.rendezvous is not None and not _ADDRESS.fullmatch(self.rendezvous):
            raise LaunchError(f"--rendezvous {self.rendezvous}: expected HOST:PORT, for example node0:29500")

    def _check_elastic(self) -> None:
        if self.elastic is None:
            return
        least, most = self.bounds
        if not 1 <= least <= self.ranks <= most:
            raise LaunchError(
                f"--elastic {self.elastic} -n {self.ranks}: expected MIN:MAX with 1 <= MIN <= N <= MAX, N the ranks at the "
                "start, for example -n 4 --elastic 2:8"
            )
        if self.mpi or self.nodes > 1:
            other = "--mpi" if self.mpi else "--nodes"
            why = "an MPI job dies with its first rank" if self.mpi else "one launcher must see all ranks: use --hosts"
            raise LaunchError(f"--elastic and {other}: {why}")
        if not self.elastic_wait_s >= 0:
            raise LaunchError(f"--elastic-wait {self.elastic_wait_s:g}: expected seconds, 0 or more")

    @property
    def bounds(self) -> tuple[int, int]:
        """The least and the greatest number of ranks."""
        found = re.fullmatch(r"(\d+):(\d+)", self.elastic or f"{self.ranks}:{self.ranks}")
        if found is None:
            raise LaunchError(f"--elastic {self.elastic}: expected MIN:MAX, two numbers of ranks, for example 2:8")
        return int(found[1]), int(found[2])

    @property
    def places(self) -> tuple[Host, ...]:
        """All hosts of the job, this machine among them."""
        if self.nodes > 1:
            return tuple(Host(f"node-{node}", self.ranks // self.nodes) for node in range(self.nodes))
        return self.hosts or (Host("localhost", self.ranks),)

    @property
    def own_ranks(self) -> tuple[int, ...]:
        """The ranks that this launcher starts."""
        share = self.ranks // self.nodes
        return tuple(range(self.node_rank * share, (self.node_rank + 1) * share))
