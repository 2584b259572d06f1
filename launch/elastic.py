"""Watching an elastic job: what the membership must know is found out here, and what it decides is done here."""

from __future__ import annotations

import functools
import os
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from . import channel, frames, membership_words
from .crew import Crew, Post
from .decisions import End, Kill, Say, Tell
from .door import Door
from .frames import BEAT_S, SILENCE_S, Kind
from .hosts import Host
from .link import Link, RemoteRank
from .membership import Membership
from .output import Printer
from .process import Job, Process, Relay, Runs, is_stopped
from .recruiting import Recruiter
from .roster import Slot
from .supervise import HOST_LOST, Outcome, Signals, Supervisor

LOOK_S = 0.25
"""Between two looks at the processes and hosts."""
STOPPED_S = 2.0
"""How long a signal may stop a rank (a debugger's hold is another thing) before the others go on without it."""
LEAVE_S = 5.0
"""For ranks that were told to leave to do so."""
QUIET_S = 2 * BEAT_S
"""A host that has said nothing for so long may be lost: about its ranks no other judgement is made meanwhile."""


@dataclass(frozen=True, slots=True)
class Recruits:
    """How new ranks may come."""

    restarts: int
    """As many lost ranks are replaced."""
    environ: Mapping[str, str]
    """For ssh to further hosts."""
    admitted: Callable[[Host], None] = lambda _: None
    """Told of each host that joins."""


class ElasticSupervisor(Supervisor):
    """A supervisor for which a lost rank is no failure, as long as others are left."""

    def __init__(
        self,
        job: Job,
        printers: tuple[Printer, Printer],
        signals: Signals,
        grace_s: float,
        membership: Membership,
        crew: Crew,
        recruits: Recruits,
    ) -> None:
        super().__init__(job, printers, signals, grace_s)
        self._membership, self._crew = membership, crew
        ranks = [process for process in job.processes if not isinstance(process, Link)]
        self._ranks: dict[int, Runs] = dict(zip(membership.members, ranks, strict=True))
        self._reasons: dict[int, str] = {}
        """Slots that were killed here, and why."""
        self._stopped: dict[int, float] = {}
        """Slots that a signal has stopped, and since when."""
        self._seen = set(self._sources)
        self._beat_at = self._look_at = 0.0
        self._dead: list[tuple[str, int]] = []
        """Members that were lost since a generation stood, and their exit codes."""
        self._outlived: list[Relay] = []
        """Hosts without which the job went on."""
        self._dismissed: list[Link] = []
        """Those whose agents need not stay for more ranks."""
        self._plain = False
        """Is the job ending as any other does?"""
        self._recruiter = Recruiter(
            crew, membership, len(self._ranks), recruits.restarts, recruits.environ,
            started=self._take_in, admitted=self._admit, say=self._say,
        )  # fmt: skip
        self._admitted = recruits.admitted
        self.door = Door(self._recruiter.serve)
        for slot in job.channels:
            self._watch(slot)

    def _watch(self, slot: int) -> None:
        self._watched[self._job.channels[slot].descriptor] = functools.partial(self._hear, slot)

    def run(self) -> Outcome:
        try:
            outcome = super().run()
        finally:
            self._recruiter.refuse("the job has ended")
            self.door.close()
        return replace(outcome, replaced=self._recruiter.replaced, final=self._membership.over)

    def _turn(self, pause_s: float) -> bool:
        ready: set[int] = set()
        more: dict[int, Callable[[], Any]] = {}
        for descriptor in self.door.descriptors:
            more[descriptor] = functools.partial(ready.add, descriptor)
        for link in self._recruiter.links():
            more |= {link.stderr: link.read_stderr} if link.stderr_open else {}
            more |= {link.descriptor: link.read} if link.open else {}
        self._watched |= more
        read = super()._turn(pause_s)
        for descriptor in more:
            del self._watched[descriptor]
        self.door.turn(ready, time.monotonic())
        return read

    def _pause(self, now: float) -> float:
        due = self._membership.deadline()
        return min(super()._pause(now), LOOK_S, max(0.0, due - now) if due is not None else LOOK_S)

    # --- what happens -----------------------------------------------------------------------------------------------

    def _hear(self, slot: int) -> None:
        its_channel = self._job.channels[slot]
        for text in its_channel.read():
            self._membership.hear(slot, channel.message(text), time.monotonic())
        if not its_channel.open:
            self._watched.pop(its_channel.descriptor, None)

    def _relay(self, relay: Relay, now: float) -> None:
        super()._relay(relay, now)
        if isinstance(relay, Link):
            said, relay.said = relay.said, []
            for slot, text in said:
                self._membership.hear(slot, channel.message(text), now)

    def _reap(self) -> None:
        now = time.monotonic()
        lost = self._look_at_hosts(now)
        raised: list[tuple[str, int]] = []
        for slot, process in list(self._ranks.items()):
            code = process.poll()
            if code is None:
                continue
            self._forget(slot, process)
            if code == 0 or self._membership.over:
                self._membership.finish(slot, now)
            elif code < 0 or self._membership.is_new(slot):
                lost[slot] = code, self._reasons.pop(slot, "") or membership_words.ending(code)
            else:
                raised.append((process.name, code))
        members = [slot for slot in lost if not self._membership.is_new(slot)]
        if members and not self._membership.begun:
            self._plain = True
        if lost and not self._plain:
            self._membership.lose({slot: why for slot, (_, why) in lost.items()}, now)
        self._dead = [] if self._membership.settled and not members else self._dead
        self._dead += [(f"rank {slot}", lost[slot][0]) for slot in members]
        if members and (self._plain or not self._membership.present()):
            raised += self._dead
        elif lost:
            self._outlived = [relay for relay in self._job.relays if relay.lost]
        if raised:
            self._plain = True
        self._note(raised, now)
        self._membership.addresses = self._crew.addresses()
        self._membership.tick(now, self._quiet(now))
        self._act()
        if not (self._plain or self._asked or self._membership.over) and self._membership.present():
            self._recruiter.turn(now)
        if not self._membership.present() or self._plain:
            self._dismiss()

    def _forget(self, slot: int, process: Runs) -> None:
        """A process has ended: its last words are heard, and its place is free."""
        del self._ranks[slot]
        self._running.remove(process)
        self._crew.leave(slot)
        its_channel = self._job.channels.get(slot)
        if its_channel is not None:
            self._hear(slot)
            self._watched.pop(its_channel.descriptor, None)
            self._job.channels.pop(slot).close()

    def _fatal(self) -> list[Relay]:
        return [relay for relay in super()._fatal() if relay not in self._outlived]

    def _obey(self) -> None:
        super()._obey()
        if self._asked:
            self._membership.leave()
        self._plain = self._plain or self._asked == signal.SIGINT

    def _escalate(self, now: float) -> None:
        self._plain = self._plain or bool(self._steps and self._steps[0][0] <= now)
        super()._escalate(now)

    # --- hosts, and processes that are stopped ----------------------------------------------------------------------

    def _look_at_hosts(self, now: float) -> dict[int, tuple[int, str]]:
        """Slots that went down with their hosts."""
        lost: dict[int, tuple[int, str]] = {}
        if now >= self._beat_at + BEAT_S:
            self._beat_at = now
            for _, link in self._crew.links():
                link.tell(frames.frame(Kind.BEAT))
        for post, link in self._crew.links():
            if link not in self._running:
                continue
            if any(printer.sink.full for printer in self._printers):
                link.heard_at = now  # it is not read just now
            if link.open and now >= link.heard_at + SILENCE_S:
                link.give_up(f"no sign of life for {SILENCE_S:g} s")
                self._relays.pop(link.descriptor, None)
            if link.poll() is not None:
                self._running.remove(link)
                lost |= self._down(post, link)
        if not self._plain and now >= self._look_at:
            self._look_at = now + LOOK_S
            self._look_for_stopped(now)
        return lost

    def _down(self, post: Post, link: Link) -> dict[int, tuple[int, str]]:
        gone = [slot for slot in post.taken.values() if slot in self._ranks and link.remote_ranks[slot].code is None]
        for slot in gone:
            self._forget(slot, self._ranks[slot])
        return dict.fromkeys(gone, (HOST_LOST, f"the host was lost, {link.lost or 'its agent has left'}"))

    def _quiet(self, now: float) -> list[int]:
        links = [link for _, link in self._crew.links() if now >= link.heard_at + QUIET_S]
        return [slot for link in links for slot in link.remote_ranks]

    def _look_for_stopped(self, now: float) -> None:
        stopped = {slot for slot, process in self._ranks.items() if _is_stopped(process)}
        self._stopped = {slot: self._stopped.get(slot, now) for slot in stopped}
        for slot, since in self._stopped.items():
            if now >= since + STOPPED_S and slot not in self._reasons:
                self._kill(slot, f"stopped by a signal for {STOPPED_S:g} s, and then killed")

    def _dismiss(self) -> None:
        """No more ranks will be started: what is left of newcomers ends, and agents leave with their last ranks."""
        self._recruiter.refuse("the job ends")
        for slot in self._membership.newcomers():
            self._kill(slot, "the job ended")
        for _, link in self._crew.links():
            if link not in self._dismissed:
                self._dismissed.append(link)
                link.tell(frames.frame(Kind.LEAVE))

    # --- newcomers --------------------------------------------------------------------------------------------------

    def _take_in(self, slot: Slot, process: Runs) -> None:
        """A newcomer was started: it is watched and read from now on."""
        self._membership.add(slot)
        self._ranks[slot.number] = process
        self._running.append(process)
        self._read_more()
        if slot.number in self._job.channels:
            self._watch(slot.number)

    def _admit(self, post: Post) -> None:
        """A host has come."""
        assert post.link is not None
        self._running.append(post.link)
        self._relays[post.link.descriptor] = post.link
        self._read_more()
        self._admitted(post.host)

    def _read_more(self) -> None:
        for source in self._job.sources:
            if source.descriptor not in self._seen:
                self._seen.add(source.descriptor)
                self._sources[source.descriptor] = source
                os.set_blocking(source.descriptor, False)

    # --- what is done about it --------------------------------------------------------------------------------------

    def _act(self) -> None:
        for action in self._membership.take():
            match action:
                case Tell(slot, message):
                    self._tell(slot, message)
                case Kill(slot, why, cut_off):
                    self._crew.post_of(slot).cut_off |= cut_off
                    self._kill(slot, why)
                case Say(text):
                    self._say(text)
                case End(code, text):
                    self._code, self._words = code, text
                    self._say(text)
                    self._stop_within(LEAVE_S)
        for its_channel in self._job.channels.values():
            if its_channel.waiting:
                its_channel.send()
        for printer in self._printers:
            printer.resize(max(1, len(self._ranks)))
            if present := self._membership.present():
                printer.follow(present[0])

    def _tell(self, slot: int, message: Mapping[str, object]) -> None:
        process = self._ranks.get(slot)
        if isinstance(process, RemoteRank):
            process.tell(channel.line(message))
        elif slot in self._job.channels:
            self._job.channels[slot].send(channel.line(message))

    def _kill(self, slot: int, why: str) -> None:
        if slot in self._ranks:
            self._reasons[slot] = why
            self._ranks[slot].send(signal.SIGKILL)


def _is_stopped(process: Runs) -> bool:
    if isinstance(process, RemoteRank):
        return process.is_stopped
    return isinstance(process, Process) and is_stopped(process.popen.pid)
