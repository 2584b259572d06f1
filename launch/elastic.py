"""Watching an elastic job: what the membership must know is found out here, and what it decides is done here."""

from __future__ import annotations

import functools
import signal
import time
from collections.abc import Collection, Mapping

from . import channel, membership_words
from .decisions import End, Kill, Say, Tell
from .membership import Membership
from .output import Printer
from .process import Job, Runs
from .supervise import Signals, Supervisor

LOOK_S = 0.25
"""Between two looks at the processes and hosts."""
LEAVE_S = 5.0
"""For ranks that were told to leave to do so."""


class ElasticSupervisor(Supervisor):
    """A supervisor for which a lost rank is no failure, as long as others are left."""

    def __init__(
        self,
        job: Job,
        printers: tuple[Printer, Printer],
        signals: Signals,
        grace_s: float,
        tee: Collection[int] | None,
        membership: Membership,
    ) -> None:
        super().__init__(job, printers, signals, grace_s, tee)
        self._membership = membership
        self._ranks: dict[int, Runs] = dict(zip(membership.members, job.processes, strict=True))
        self._reasons: dict[int, str] = {}
        """Slots that were killed here, and why."""
        self._plain = False
        """Is the job ending as any other does?"""
        for slot, its_channel in job.channels.items():
            self._watched[its_channel.descriptor] = functools.partial(self._hear, slot)

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

    def _reap(self) -> None:
        now = time.monotonic()
        ended = [(slot, process, process.poll()) for slot, process in self._ranks.items()]
        lost: dict[int, int] = {}
        raised: list[tuple[str, int]] = []
        for slot, process, code in ended:
            if code is None:
                continue
            del self._ranks[slot]
            self._running.remove(process)
            self._forget(slot)
            if code == 0 or self._membership.over:
                self._membership.finish(slot, now)
            elif code < 0 or slot in self._membership.newcomers():
                lost[slot] = code
            else:
                raised.append((process.name, code))
        if lost and not self._plain:
            self._membership.lose({slot: self._why(slot, code) for slot, code in lost.items()}, now)
        if self._plain or (lost and not self._membership.present()):
            raised += [(f"rank {slot}", code) for slot, code in lost.items()]
        self._membership.tick(now)
        self._act(now)
        self._plain = self._plain or bool(raised)
        self._note(raised, now)

    def _why(self, slot: int, code: int) -> str:
        return self._reasons.pop(slot, "") or membership_words.ending(code)

    def _forget(self, slot: int) -> None:
        """Hear the last words of a process that has ended."""
        its_channel = self._job.channels.pop(slot, None)
        if its_channel is None:
            return
        for text in its_channel.read():
            self._membership.hear(slot, channel.message(text), time.monotonic())
        self._watched.pop(its_channel.descriptor, None)
        its_channel.close()

    def _obey(self) -> None:
        super()._obey()
        self._plain = self._plain or self._asked == signal.SIGINT

    def _escalate(self, now: float) -> None:
        self._plain = self._plain or bool(self._steps and self._steps[0][0] <= now)
        super()._escalate(now)

    # --- what is done about it --------------------------------------------------------------------------------------

    def _act(self, now: float) -> None:
        for action in self._membership.take():
            match action:
                case Tell(slot, message):
                    self._tell(slot, message)
                case Kill(slot, why):
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

    def _tell(self, slot: int, message: Mapping[str, object]) -> None:
        if slot in self._job.channels:
            self._job.channels[slot].send(channel.line(message))

    def _kill(self, slot: int, why: str) -> None:
        if slot in self._ranks:
            self._reasons[slot] = why
            self._ranks[slot].send(signal.SIGKILL)
