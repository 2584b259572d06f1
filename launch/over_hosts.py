"""Starting a job over hosts: an agent on each, a place where the ranks meet, then the ranks."""

from __future__ import annotations

import contextlib
import os
import select
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from ..dist.errors import LaunchError
from ..dist.host import common_network
from ..dist.member import LOOPBACK, address_text
from .agent import version
from .arguments import RunArguments
from .frames import Kind
from .hosts import Host
from .link import Link, Remote, RemoteRank
from .plan import LaunchPlan, Machine
from .process import Job, Source
from .supervise import Signals

CONNECT_S = 30.0
"""For all agents to answer."""
OTHERS_S = 1.0
"""After the first host that fails, for others to fail as well, so that one message names them all."""
ANSWER_S = 15.0


class HostsMissing(LaunchError):
    """Hosts that cannot be used, and why."""

    def __init__(self, words: str, hosts: Sequence[str]) -> None:
        super().__init__(words)
        self.hosts = tuple(hosts)


class Interrupted(LaunchError):
    """A signal came while the hosts were being reached."""


def remote_of(arguments: RunArguments, machine: Machine, mark: str) -> Remote:
    paths = [path for path in machine.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    if machine.package_root and machine.package_root not in paths:
        paths.append(machine.package_root)
    return Remote(arguments.ssh, arguments.python or machine.python, os.getcwd(), os.pathsep.join(paths), mark)


def connect(
    hosts: Sequence[Host], remote: Remote, environ: Mapping[str, str], signals: Signals, close: Callable[[Link], object]
) -> list[Link]:
    """An agent on each host. Raises HostsMissing that names every host that does not come.

    ``close`` is told of each connection as soon as it is begun.
    """
    links = []
    for node, host in enumerate(hosts):
        links.append(Link(host, node, remote, environ))
        close(links[-1])
    end = time.monotonic() + CONNECT_S
    while time.monotonic() < end and not all(link.hello or not link.open for link in links):
        if any(not link.open for link in links):
            end = min(end, time.monotonic() + OTHERS_S)
        _wait(links, signals, end)
    wrong = [link for link in links if not link.hello or link.hello["version"] != version()]
    failed = [link for link in wrong if not link.open or link.hello] or wrong
    if failed:
        raise HostsMissing(_grouped(failed), [link.host.name for link in failed])
    return links


def _grouped(failed: Sequence[Link]) -> str:
    """One line for each kind of trouble, with the hosts that have it."""
    found: dict[str, list[str]] = {}
    for link in failed:
        found.setdefault(link.diagnosis(version()), []).append(link.host.name)
    return "; ".join(f"host{'s' * (len(names) > 1)} {', '.join(names)}: {words}" for words, names in found.items())


def with_cores(hosts: Sequence[Host], links: Sequence[Link]) -> tuple[Host, ...]:
    """The hosts with what their agents said of them."""
    return tuple(replace(host, cores=(link.hello or {})["cores"]) for host, link in zip(hosts, links, strict=True))


def meet(links: Sequence[Link], signals: Signals) -> str:
    """Where the ranks will meet: an address of the first host, bound there and reached from all the others."""
    hellos: list[dict[str, Any]] = [link.hello or {} for link in links]
    if len({hello["identity"] for hello in hellos}) == 1:
        return address_text(LOOPBACK, _asked([links[0]], Kind.LISTEN, {"address": LOOPBACK}, signals)[0]["port"])
    failures = []
    for address in _candidates(hellos):
        answer = _asked([links[0]], Kind.LISTEN, {"address": address}, signals)[0]
        if "error" in answer:
            failures.append(answer["error"])
            continue
        place = address_text(address, answer["port"])
        answers = _asked(links[1:], Kind.PROBE, {"address": place}, signals)
        wrong = [(link, row["error"]) for link, row in zip(links[1:], answers, strict=True) if "error" in row]
        if not wrong:
            return place
        failures += [f"{link.name} cannot reach {place} of {links[0].name} ({error})" for link, error in wrong]
    raise LaunchError(
        f"the hosts have no network in common: {'; '.join(failures) or 'no interface is up'}. Ranks talk to each other by TCP on "
        "ports of the system's choice: open these between the hosts (see phalanx doctor)"
    )


def _candidates(hellos: Sequence[Mapping[str, Any]]) -> list[str]:
    """Addresses of the first host: the one in a network that all are in, then its others."""
    networks = [dict(hello["networks"]) for hello in hellos]
    common = common_network(networks)
    first = [networks[0][common]] if common else []
    return first + [address for address in networks[0].values() if address not in first]


def used(hosts: Sequence[Host], ranks: int) -> tuple[Host, ...]:
    """The hosts that get ranks, when these fill the slots of one after the other.

    >>> used([Host("a", 2), Host("b", 2), Host("c", 2)], 3)
    (Host(name='a', slots=2, cores=None), Host(name='b', slots=2, cores=None))
    """
    found: list[Host] = []
    for host in hosts:
        if ranks > 0:
            found.append(host)
        ranks -= host.slots
    return tuple(found)


def start(plan: LaunchPlan, links: Sequence[Link], job: Job, elastic: bool = False) -> None:
    """The ranks of the plan, each by the agent of its host."""
    for link in links:
        ranks = [rank for rank in plan.ranks if rank.host == link.host.name]
        link.remote_ranks = {rank.rank: RemoteRank(link, rank.rank) for rank in ranks}
        link.start(ranks, elastic)
        job.processes += link.remote_ranks.values()
        follow(link, job)


def follow(link: Link, job: Job) -> None:
    """The connection is the job's from now on: what comes by it is read, and its end is the host's."""
    job.processes.append(link)
    job.relays.append(link)
    job.sources.append(Source(os.dup(link.stderr), -1, 1))


def _asked(links: Sequence[Link], kind: Kind, value: Any, signals: Signals) -> list[dict[str, Any]]:
    """Every agent's answer; one that does not come is an answer with an error."""
    before = [len(link.answers) for link in links]
    for link in links:
        link.ask(kind, value)
    end = time.monotonic() + ANSWER_S
    while any(len(link.answers) == count and link.open for link, count in zip(links, before, strict=True)):
        if time.monotonic() > end:
            break
        _wait(links, signals, end)
    return [
        link.answers[count] if len(link.answers) > count else {"error": f"{link.name} does not answer"}
        for link, count in zip(links, before, strict=True)
    ]


def _wait(links: Sequence[Link], signals: Signals, end: float) -> None:
    """Read what came from the agents; raises Interrupted when a signal came for the launcher."""
    read: dict[int, Callable[[], Any]] = {}
    for link in links:
        read |= {link.stderr: link.read_stderr} if link.stderr_open else {}
        read |= {link.descriptor: link.read} if link.open else {}
    ready, _, _ = select.select([*read, signals.descriptor], [], [], max(0.0, min(0.5, end - time.monotonic())))
    signals.drain()
    if signals.came:
        raise Interrupted("interrupted while the hosts were being reached")
    for descriptor, read_it in read.items():  # stderr first: it explains an end
        if descriptor in ready:
            read_it()


def say_hosts(links: Sequence[Link], place: str) -> None:
    """One line: who takes part, and by which network."""
    names = ", ".join(str(link.host) for link in links)
    with contextlib.suppress(OSError):
        print(f"phalanx run: hosts {names}; they meet at {place}", file=sys.stderr, flush=True)
