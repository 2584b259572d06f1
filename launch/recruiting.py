"""New ranks for an elastic job: replacements of lost ones, as many as there are restarts, and those of ``phalanx join``."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ..dist.errors import LaunchError
from .agent import version
from .crew import Crew, Post
from .door import Visitor
from .hosts import Host, parse_hosts
from .link import Link
from .membership import Membership
from .process import Runs
from .roster import Slot

FIRST_PAUSE_S = 0.5
"""Before the first replacement; doubled for each further one."""
LONGEST_PAUSE_S = 30.0
REACH_S = 30.0
"""For the agent of a host that joins to answer."""


@dataclass(slots=True)
class _Coming:
    """A host that is being reached, and who asked for it."""

    post: Post
    link: Link
    visitor: Visitor
    ranks: int
    until: float


class Recruiter:
    """Starts newcomers. ``started`` is told of each, ``admitted`` of each new host, ``say`` gets lines for people."""

    def __init__(
        self,
        crew: Crew,
        membership: Membership,
        wanted: int,
        restarts: int,
        environ: Mapping[str, str],
        *,
        started: Callable[[Slot, Runs], None],
        admitted: Callable[[Post], None],
        say: Callable[[str], None],
    ) -> None:
        self._crew, self._membership = crew, membership
        self._wanted, self._restarts, self._environ = wanted, restarts, environ
        self._started, self._admitted, self._say = started, admitted, say
        self._coming: list[_Coming] = []
        self._at: float | None = None
        self.replaced = 0
        """How many of the restarts are used."""

    def links(self) -> list[Link]:
        """Connections that are being made: what they say is to be read."""
        return [coming.link for coming in self._coming]

    def turn(self, now: float) -> None:
        """Start what is due."""
        for coming in list(self._coming):
            self._look_at(coming, now)
        if not self._membership.decided:
            return
        missing = self._wanted - self._count()
        post = self._crew.somewhere()
        if missing <= 0 or self.replaced >= self._restarts or post is None:
            self._at = None
        elif self._at is None:
            pause_s = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2**self.replaced)
            self._at = now + pause_s
            self._say(f"a new rank is started in {pause_s:g} s; restart {self.replaced + 1} of {self._restarts}")
        elif now >= self._at:
            self._at = None
            self.replaced += 1
            self._start(post)

    def serve(self, visitor: Visitor, wish: Mapping[str, Any]) -> None:
        """What ``phalanx join`` and ``phalanx ps`` ask for."""
        if wish.get("kind") == "state":
            visitor.answer({"state": self._membership.state()})
            return
        try:
            self._join(visitor, int(wish.get("ranks") or 0), str(wish.get("hosts") or ""))
        except (LaunchError, ValueError) as error:
            visitor.answer({"error": str(error)})

    def refuse(self, why: str) -> None:
        """Nobody can join any more."""
        for coming in self._coming:
            coming.visitor.answer({"error": why})
        self._coming = []

    # --- parts ------------------------------------------------------------------------------------------------------

    def _count(self) -> int:
        """Ranks that are there or come."""
        there = len(self._membership.present()) + len(self._membership.newcomers())
        return there + sum(coming.ranks for coming in self._coming)

    def _start(self, post: Post) -> int:
        rank = len(self._membership.present()) + len(self._membership.newcomers())
        slot, process = self._crew.start(post, rank)
        self._started(slot, process)
        return slot.number

    def _join(self, visitor: Visitor, ranks: int, hosts: str) -> None:
        given = parse_hosts(hosts) if hosts else ()
        wanted = ranks or sum(host.slots for host in given) or 1
        room = self._membership.limits.maximum - self._count()
        if self._membership.over or not self._membership.present():
            raise LaunchError("the job ends: nobody can join any more")
        if wanted > room:
            raise LaunchError(
                f"{wanted} rank{'s' * (wanted > 1)} more would be over the limit: --elastic allows "
                f"{self._membership.limits.maximum}, and {self._count()} are there or come"
            )
        if len(given) > 1:
            raise LaunchError("name one host at a time")
        if given:
            self._join_host(visitor, replace_slots(given[0], wanted), wanted)
            return
        free = sum(post.free() for post in self._crew.posts if not post.cut_off)
        if wanted > free:
            raise LaunchError(
                f"{wanted} free slot{'s' * (wanted > 1)} needed, the job's hosts have {free}: name another one with --hosts"
            )
        names = []
        for _ in range(wanted):
            post = self._crew.somewhere()
            assert post is not None
            names.append(f"[{self._start(post)}] on {post.host.name}")
        visitor.answer({"started": ", ".join(names)})

    def _join_host(self, visitor: Visitor, host: Host, ranks: int) -> None:
        if not self._crew.links():
            raise LaunchError("the job runs on one machine alone; hosts can join one that was started with --hosts")
        known = next((post for post in self._crew.posts if post.host.name == host.name and post.up), None)
        if known is None:
            post = self._crew.add_host(host, self._environ)
            assert post.link is not None
            self._coming.append(_Coming(post, post.link, visitor, ranks, time.monotonic() + REACH_S))
            return
        known.cut_off = False
        known.host = replace_slots(host, max(known.host.slots, len(known.taken) + ranks))
        names = [f"[{self._start(known)}] on {host.name}" for _ in range(ranks)]
        visitor.answer({"started": ", ".join(names)})

    def _look_at(self, coming: _Coming, now: float) -> None:
        link = coming.link
        if link.hello and link.hello["version"] == version():
            self._coming.remove(coming)
            self._crew.admit(coming.post)
            self._admitted(coming.post)
            names = [f"[{self._start(coming.post)}] on {link.host.name}" for _ in range(coming.ranks)]
            coming.visitor.answer({"started": ", ".join(names)})
        elif link.hello or not link.open or now > coming.until:
            self._coming.remove(coming)
            self._crew.posts.remove(coming.post)
            coming.visitor.answer({"error": f"{link.name}: {link.diagnosis(version())}"})
            link.close()


def replace_slots(host: Host, slots: int) -> Host:
    """The host with room for so many ranks, if it has not more."""
    return Host(host.name, max(host.slots, slots), host.cores)
