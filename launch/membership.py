"""Who takes part in an elastic job: the one place that decides. It does no I/O; time comes as an argument.

A *slot* is a process under a number that is never given again, a *generation* a numbered membership, in which the members have
ranks 0, 1, ... Generation 0 is the job's start. Members keep their order, newcomers come after them, so that rank 0 is
always a process that has the state. What is to be done about a decision comes out of :meth:`Membership.take`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from . import membership_words as words
from .decisions import Action, End, Kill, Say, Tell, expelled
from .membership_words import Loss
from .roster import Limits, Slot, State

GATHER_S = 0.05
"""From a loss to the next generation: what dies together is one loss."""
QUARREL_S = 1.0
"""From the first word that a living rank cannot be reached to the decision who must leave: for the others' words."""
AGAIN_S = 0.5
"""From the word that a generation could not be formed to the next try."""
FORM_S = 60.0
"""For newcomers to reach the others and get the state; the others wait meanwhile."""
MOST_FAILURES = 5
"""Generations in a row that could not be formed although nobody was lost."""


@dataclass(slots=True)
class Membership:
    """The roster and what was decided.

    >>> one = Membership(Limits(1, 3), [Slot(0, "a"), Slot(1, "a"), Slot(2, "b", 1)])
    >>> one.lose({1: "killed by SIGKILL"}, now=0.0); one.tick(now=1.0)
    >>> one.generation, one.members
    (1, [0, 2])
    """

    limits: Limits
    roster: list[Slot]
    single_host: bool = True
    generation: int = 0
    members: list[int] = field(default_factory=list)
    """Slots of the newest generation, in the order of their ranks."""
    waiting: bool = False
    """Is the job below its minimum?"""
    over: bool = False
    """Has the job been told to end?"""
    addresses: Mapping[int, str] = field(default_factory=dict)
    """Node -> where a rank of it can be reached by the others; without one: the loopback."""
    _slots: dict[int, Slot] = field(default_factory=dict)
    _actions: list[Action] = field(default_factory=list)
    _news: list[Loss] = field(default_factory=list)
    """Losses since the last generation that stood."""
    _joined: list[int] = field(default_factory=list)
    _formed: dict[int, Mapping[str, Any]] = field(default_factory=dict)
    _stands: bool = True
    _boundary: set[int] = field(default_factory=set)
    _asked_to_regroup: bool = False
    _leaving: bool = False
    _form_by: float | None = None
    _decide_at: float | None = None
    _wait_until: float = 0.0
    _saved: bool = False
    _reports: dict[tuple[int, int], str] = field(default_factory=dict)
    """(who, whom): who cannot reach whom, and why."""
    _judge_at: float = 0.0
    _failures: int = 0

    def __post_init__(self) -> None:
        self._slots = {slot.number: slot for slot in self.roster}
        self.members = [slot.number for slot in self.roster]

    # --- what others want to know -----------------------------------------------------------------------------------

    def take(self) -> list[Action]:
        """What is to be done since the last call."""
        actions, self._actions = self._actions, []
        return actions

    def present(self) -> list[int]:
        """The members of the newest generation that run, in the order of their ranks."""
        return [number for number in self.members if self._slots[number].state is State.MEMBER]

    @property
    def decided(self) -> bool:
        """Is there nothing to be decided just now?"""
        return self._decide_at is None

    @property
    def settled(self) -> bool:
        """Has a generation stood since the last loss?"""
        return not self._news

    def is_new(self, number: int) -> bool:
        """Has a process no part in a generation that stood yet? Then its failure is its own."""
        return number in self.newcomers() or number in self._joined

    @property
    def begun(self) -> bool:
        """Does training go on? Before, the loss of a rank is the failure of a start."""
        return self.generation > 0 or bool(self._formed)

    def newcomers(self) -> list[int]:
        """Slots that run and are no members yet."""
        coming = (State.STARTING, State.READY)
        return [number for number, slot in self._slots.items() if slot.state in coming]

    def deadline(self) -> float | None:
        """When :meth:`tick` has something to do."""
        found = [when for when in (self._decide_at, self._form_by) if when is not None]
        found += [self._judge_at] if self._reports else []
        found += [self._wait_until] if self.waiting and not self.over else []
        return min(found, default=None)

    def state(self) -> str:
        """For ``phalanx ps``: how many there are, and which slot has which rank."""
        count, coming = len(self.present()), len(self.newcomers())
        more = f", {coming} more coming" if coming else ""
        low = f", waits for {self.limits.minimum - count} more" if self.waiting else ""
        bounds = f"{self.limits.minimum} to {self.limits.maximum}"
        slots = [self._slots[number] for number in self.members]
        roster = [
            words.place(rank, slot.number, slot.host) for rank, slot in enumerate(slots) if slot.state is State.MEMBER
        ]
        first = (
            f"elastic, {bounds} ranks: generation {self.generation} with {count} rank{'s' * (count != 1)}{more}{low}"
        )
        return f"{first}: {', '.join(roster)}"

    # --- what happens -----------------------------------------------------------------------------------------------

    def add(self, slot: Slot) -> None:
        """A newcomer has been started."""
        slot.state = State.STARTING
        self._slots[slot.number] = slot

    def lose(self, lost: Mapping[int, str], now: float) -> None:
        """Slots whose processes are gone, and why."""
        ranks: dict[int, str] = {}
        for number, why in lost.items():
            slot = self._slots[number]
            before, slot.state = slot.state, State.GONE
            if before is State.MEMBER:
                rank = self.members.index(number)
                ranks[rank] = why
                self._news.append(Loss(rank, number, slot.host, why))
            elif before is not State.FINISHED and not self.over:
                self._say(f"{words.newcomer(number, slot.host)} was lost before it took part: {why}")
            self._reports = {pair: why for pair, why in self._reports.items() if number not in pair}
        if ranks:
            self._lost(ranks, now)

    def finish(self, number: int, now: float) -> None:
        """A process has ended as it should."""
        self._slots[number].state = State.FINISHED
        self._reports = {pair: why for pair, why in self._reports.items() if number not in pair}
        self._check_formed()
        self._check_boundary(now)

    def hear(self, number: int, message: Mapping[str, Any], now: float) -> None:
        """A process said something. What is about an older generation is void."""
        slot, kind = self._slots[number], message.get("kind")
        if kind == "ready" and slot.state is State.STARTING:
            slot.state = State.READY
            self._ask_to_regroup(now)
        if slot.state is not State.MEMBER or message.get("generation", self.generation) != self.generation:
            return
        if kind == "boundary":
            self._boundary.add(number)
            self._check_boundary(now)
        elif kind == "serving":
            self._announce(str(message["address"]))
        elif kind == "formed":
            self._formed[number] = message
            self._check_formed()
        elif kind == "failed" and self._decide_at is None:
            self._decide_at = now + AGAIN_S
            self._failures += 1
        elif kind == "lost":
            self._hear_of_lost(number, message, now)
        elif kind in ("saved", "not saved") and number == self.members[0]:
            self._answer_to_wait(message, now)

    def tick(self, now: float, silent: Iterable[int] = ()) -> None:
        """Decide what is due. ``silent``: slots whose hosts do not answer just now, about which no judgement is made."""
        if self._reports and now >= self._judge_at:
            self._judge(now, set(silent))
        if self._form_by is not None and now >= self._form_by:
            self._form_by = None
            for number in [each for each in self._joined if each in self.present()]:
                self._actions.append(Kill(number, f"the others and it did not come together within {FORM_S:g} s"))
        if self._decide_at is not None and now >= self._decide_at:
            self._decide(now)
        if self.waiting and not self.over and now >= self._wait_until:
            have = len(self.present())
            reason = (
                f"{have} rank{'s' * (have != 1)} left of at least {self.limits.minimum}, and nobody came in "
                f"{self.limits.wait_s:g} s"
            )
            code = self.limits.requeue
            self._end(code, f"{reason}: the job ends with code {code}, to be started again")

    def leave(self) -> None:
        """The job was asked to stop: its ranks save and leave; nobody waits for more."""
        self._leaving = True
        if self.waiting and not self.over:
            self._end(self.limits.stop_code, "asked to stop while it waited for more ranks: the job ends")

    # --- generations ------------------------------------------------------------------------------------------------

    def _lost(self, ranks: Mapping[int, str], now: float) -> None:
        message = {"kind": "lost", "generation": self.generation, "ranks": list(ranks), "why": list(ranks.values())}
        for number in self.present():
            self._tell(number, message)
        if self._decide_at is None or self._decide_at > now + GATHER_S:
            self._decide_at = now + GATHER_S
        self._failures = 0

    def _decide(self, now: float) -> None:
        """The next generation: those who are left, and at a boundary the newcomers that are ready.

        Elsewhere rank 0 may be in the middle of what it does after a step, and its state is of no step.
        """
        self._decide_at = None
        staying = self.present()
        if self.over or not staying:
            return
        if all(number in self._joined for number in staying):
            staying = self._take_in(staying)
        if not staying:
            self._end(1, "only newcomers are left, and nobody who has the state: the job ends")
            return
        if self._failures >= MOST_FAILURES:
            self._end(1, f"{self._failures} generations in a row could not be formed: the job ends")
            return
        between_steps = self._saved if self.waiting else self._boundary.issuperset(staying)
        ready = [number for number in self.newcomers() if self._slots[number].state is State.READY]
        joining = ready[: self.limits.maximum - len(staying)] if between_steps else []
        for number in joining:
            self._slots[number].state = State.MEMBER
        self._joined += joining
        self.members = staying + joining
        self.generation += 1
        self._formed, self._boundary, self._asked_to_regroup, self._stands = {}, set(), False, False
        self._reports, self._saved = {}, False
        self._form_by = now + FORM_S if joining else None
        below = len(self.members) < self.limits.minimum and not self._leaving
        if below and not self.waiting:
            self._wait_until = now + self.limits.wait_s
        self.waiting = below
        address = self.addresses.get(self._slots[self.members[0]].node, "127.0.0.1")
        self._tell(self.members[0], self._message(0) | {"rendezvous": None, "bind": address})

    def _take_in(self, newcomers: Sequence[int]) -> list[int]:
        """The others were lost while a generation formed: who has said that it stands has the state, and leads; empty if nobody."""
        have = [number for number in newcomers if number in self._formed]
        if not have:
            return []
        self._say(words.joined(have, self.members))
        self._joined = [number for number in self._joined if number not in have]
        return have + [number for number in newcomers if number not in have]

    def _announce(self, rendezvous: str) -> None:
        """Rank 0 listens: the others may come."""
        for rank, number in enumerate(self.members[1:], 1):
            self._tell(number, self._message(rank) | {"rendezvous": rendezvous})

    def _message(self, rank: int) -> dict[str, Any]:
        slots = [self._slots[number] for number in self.members]
        node = slots[rank].node
        beside = [other for other, slot in enumerate(slots) if slot.node == node]
        return {
            "kind": "generation",
            "generation": self.generation,
            "rank": rank,
            "size": len(slots),
            "local_rank": beside.index(rank),
            "local_size": len(beside),
            "node": node,
            "hosts": None if self.single_host else words.hosts([slot.host for slot in slots]),
            "newcomers": [other for other, number in enumerate(self.members) if number in self._joined],
            "wait": self.waiting,
            "words": words.losses(self._news) or words.joined(self._joined, self.members),
        }

    def _check_formed(self) -> None:
        """Once all that are left have said that the generation stands: tell it."""
        present = self.present()
        if self._stands or self._decide_at is not None or not present or not self._formed.keys() >= set(present):
            return
        self._stands, self._failures, self._form_by = True, 0, None
        text = words.generation(self.generation, self.members, self._news, self._joined, list(self._formed.values()))
        if self.waiting:
            text += (
                f"; at least {self.limits.minimum} are needed: saving, then waiting {self.limits.wait_s:g} s for more"
            )
        self._say(text)
        self._news, self._joined = [], []
        self._ask_to_regroup(0.0)

    # --- joining ----------------------------------------------------------------------------------------------------

    def _ask_to_regroup(self, now: float) -> None:
        """Newcomers are ready: members stop after the step under way."""
        ready = [number for number in self.newcomers() if self._slots[number].state is State.READY]
        if not ready or not self._stands or self.over:
            return
        if self.waiting:
            self._go_on_from_waiting(now)
        elif not self._asked_to_regroup and len(self.present()) < self.limits.maximum:
            self._asked_to_regroup = True
            for number in self.present():
                self._tell(number, {"kind": "regroup", "generation": self.generation})

    def _check_boundary(self, now: float) -> None:
        present = self.present()
        if self._boundary and self._boundary.issuperset(present) and present and self._decide_at is None:
            self._decide_at = now

    def _answer_to_wait(self, message: Mapping[str, Any], now: float) -> None:
        self._saved = True
        if message["kind"] == "saved":
            self._say(f"saved at step {message.get('step')}; waiting for more ranks")
        else:
            self._say(f"not saved ({message.get('why') or 'no reason given'}); waiting for more ranks")
        self._ask_to_regroup(now)

    def _go_on_from_waiting(self, now: float) -> None:
        count = len(self.present()) + sum(self._slots[each].state is State.READY for each in self.newcomers())
        if self._saved and count >= self.limits.minimum and self._decide_at is None:
            self._decide_at = now

    # --- who cannot reach whom --------------------------------------------------------------------------------------

    def _hear_of_lost(self, number: int, message: Mapping[str, Any], now: float) -> None:
        reasons: Sequence[str] = message.get("why") or ()
        for place, rank in enumerate(message.get("ranks", ())):
            if not 0 <= rank < len(self.members) or self._slots[self.members[rank]].state is not State.MEMBER:
                continue  # known already, or finished
            if not self._reports:
                self._judge_at = now + QUARREL_S
            self._reports[number, self.members[rank]] = reasons[place] if place < len(reasons) else ""

    def _judge(self, now: float, silent: set[int]) -> None:
        """Somebody must leave, so that all who stay can reach each other. Ranks of one host go together."""
        if any(number in silent for pair in self._reports for number in pair):
            self._judge_at = now + 0.25
            return
        reports, self._reports = self._reports, {}
        nodes = {number: slot.node for number, slot in self._slots.items()}
        far = any(nodes[one] != nodes[other] for one, other in reports)
        for number, accusers in expelled(list(reports), self.members, nodes):
            names = [f"rank {self.members.index(each)}" for each in accusers]
            why = f"expelled, {words.listed(names)} and it could not reach each other"
            self._actions.append(Kill(number, why, cut_off=far))

    # --- the end ----------------------------------------------------------------------------------------------------

    def _end(self, code: int, text: str) -> None:
        self.over = True
        for number in self.present():
            self._tell(number, {"kind": "end", "code": code, "words": text})
        for number in self.newcomers():
            self._actions.append(Kill(number, "the job has ended"))
        self._actions.append(End(code, text))

    def _tell(self, number: int, message: Mapping[str, Any]) -> None:
        self._actions.append(Tell(number, message))

    def _say(self, text: str) -> None:
        self._actions.append(Say(text))
