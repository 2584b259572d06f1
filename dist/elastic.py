"""Ranks that come and go while training goes on: what one rank does of it. Which ranks there are is decided by the launcher alone.

The launcher numbers memberships: a *generation* is a list of ranks and where they meet. Generation 0 is the ordinary start. When
ranks are lost, the others give up the operation that they are in, meet as the next generation, find out which step was the
last that is complete, and go on with the shards shared out anew; a step that was under way is done again. Processes that
were started meanwhile join between two steps, when all ranks have voted so at the end of the one before.
"""

from __future__ import annotations

import base64
import contextlib
import os
import sys
import threading
import time
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..core.data.placement import Placement, set_placement
from ..core.data.scope import at_boundaries, end_void, outermost_step, void_step
from ..core.errors import GraphError, RangeError
from ..core.faults import set_position
from . import env, excepthook, exchanges, going_back
from .communicators.alone import AloneCommunicator
from .communicators.base import DEFAULT_TIMEOUT_S, Communicator
from .communicators.zeromq import ZeroMQCommunicator
from .control import ControlMesh
from .env import RankEnvironment
from .errors import CommunicatorError, LaunchError, PeerLostError
from .membership_channel import Channel, Word, meeting_place

if TYPE_CHECKING:
    from .checkpoint import Checkpointer
    from .group import Group

REGROUP = "phalanx: regroup"
"""What ranks vote for at the end of a step after which newcomers may join."""
SILENCE_S = 2.5
"""How long another host may acknowledge nothing: less than in jobs that have to start again for it."""
DECISION_S = 60.0
"""For the launcher to say who goes on."""


class Elastic:
    """How one rank of a job keeps up with who is in it; ``group.elastic``.

    ``reducers``, ``on_state`` and ``on_wait`` are told by those who make them, in the same order on all ranks.
    """

    def __init__(
        self, group: Group, environment: RankEnvironment, stall_s: float, timeout_s: float, shares_memory: bool
    ) -> None:
        self.group = group
        self.newcomer = env.is_newcomer(os.environ)
        """Whether this process has not joined the others yet."""
        self.newcomers: tuple[int, ...] = ()
        """The ranks of this generation that came with it and lack the state."""
        self.generation = 0
        self.must_wait = False
        """Whether fewer ranks than the least number are left."""
        self.on_state: list[Callable[[], None]] = []
        """Collective: give the newcomers what rank 0 has. Called on all ranks when a generation with newcomers has formed."""
        self.on_wait: list[Callable[[], bool]] = []
        """Collective: save, because there are too few ranks to go on; whether that was done."""
        self.checkpointer: weakref.ref[Checkpointer] | None = None
        """The one that was asked to resume last: ranks that join resume the same one."""
        self.reducers: list[Any] = []
        """Weak references to the reducers of this rank."""
        self.commits_before_step = 0
        """How many updates had been committed when the loop's step opened."""
        self._environment, self._stall_s, self._timeout_s = environment, stall_s, timeout_s
        self._shares_memory = shares_memory
        self._wants = self._due = False
        self._begun = False
        """Whether training has begun: before, the loss of a rank is the failure of a start."""
        self._word: Word | None = None
        self._end: Word | None = None
        self._news = threading.Condition()
        self._watched: tuple[int, ControlMesh | None] = (0, group.communicator._mesh)
        self._interrupt: Callable[[], None] | None = None
        self._recovered: weakref.ref[BaseException] | None = None
        """The loss that was dealt with last; it would keep the memory of the old ranks' sums."""
        self._payload: bytes | None = None
        self._channel = Channel(int(os.environ[env.MEMBERSHIP_FD]), self._hear)

    # -- what the launcher says, on the channel's thread ----------------------------------------------------------------

    def _hear(self, word: Word) -> None:
        kind = word["kind"]
        if kind == "lost":
            generation, mesh = self._watched
            if mesh is not None and generation == word["generation"]:
                for rank, why in zip(word["ranks"], word["why"], strict=True):
                    mesh.declare_lost(rank, why)
            return
        with self._news:
            if kind == "regroup":
                self._wants = True
            elif kind == "generation" and word["generation"] > (self._word or {"generation": 0})["generation"]:
                self._word = word
                if self._interrupt is not None:
                    self._interrupt()
            elif kind in ("end", "gone"):
                self._end = word
                if self._interrupt is not None:
                    self._interrupt()
            self._news.notify_all()

    # -- votes ----------------------------------------------------------------------------------------------------------

    def votes(self) -> set[str]:
        """What this rank votes for at the end of a step beside the user's own."""
        return {REGROUP} if self._wants else set()

    def agreed(self, named: frozenset[str]) -> None:
        """What all ranks voted for at the end of a step."""
        self._due = REGROUP in named

    # -- between two steps ------------------------------------------------------------------------------------------------

    def boundary(self) -> None:
        """Called between two steps: regroup where all ranks voted for it, wait where they are too few."""
        if self.newcomer:
            raise GraphError(
                "this rank was started while the others train and has not joined them: an elastic job's script builds its model, "
                "optimizer and loader, then a phalanx.Checkpointer of them, and calls its resume(), where newcomers get the state"
            )
        end_void()
        if not self._begun:
            self._begun = True
            self._channel.say("formed", generation=0, step=self.group.steps_committed, repeats=False, stall_s=0.0)
        if self._due:
            self._due = False
            try:
                going_back.make_whole(self.living())
            except CommunicatorError as error:
                self.recover(error)
                return
            self._wants = False
            self._channel.say("boundary", generation=self.generation)
            self._go_on(None)
        while self.must_wait:
            self._wait_for_more()

    def _wait_for_more(self) -> None:
        saved = [save() for save in self.on_wait]
        if saved and all(saved):
            self._channel.say("saved", step=self.group.steps_committed)
        else:
            self._channel.say(
                "not saved", why="there is no Checkpointer with a directory" if not saved else "it failed"
            )
        going_back.make_whole(self.living())
        self._go_on(None, deadline_s=float("inf"))

    def join(self) -> None:
        """In a newcomer, once it is built: wait until the others take it in, and get their state."""
        self._channel.say("ready")
        self._begun = True
        self._go_on(None, deadline_s=float("inf"))
        self.newcomer = False

    # -- losses ----------------------------------------------------------------------------------------------------------

    def is_loss(self, error: BaseException) -> bool:
        """Whether ``error`` is felt of ranks that are gone, without a word, rather than of one that failed and said so."""
        mesh = self._watched[1]
        if not isinstance(error, CommunicatorError) or mesh is None or not self._begun:
            return False
        end = mesh.ended
        return bool(mesh.lost()) if end is None else bool(end.lost)

    def recover(self, error: BaseException, committing: int | None = None) -> bytes | None:
        """Go on without the ranks whose loss is ``error``; raises it again where that cannot be.

        Args:
            committing: the number of the step whose commit this rank was in.

        Returns the message that commits that step, when any survivor has it; None when nobody has. A step of the training
        loop that is not complete is void from then on.
        """
        if self._recovered is not None and error is self._recovered():
            return self._payload
        if not self.is_loss(error):
            raise error
        began = time.monotonic()
        self._report()
        self._payload = self._go_on(error, committing, began=began)
        self._recovered = weakref.ref(error)
        return self._payload

    def _report(self) -> None:
        generation, mesh = self._watched
        if mesh is not None and (lost := mesh.lost()):
            self._channel.say("lost", generation=generation, ranks=lost, why=[mesh.peers[rank].why for rank in lost])

    # -- the next generation -----------------------------------------------------------------------------------------------

    def _go_on(
        self,
        error: BaseException | None,
        committing: int | None = None,
        *,
        began: float | None = None,
        deadline_s: float = DECISION_S,
    ) -> bytes | None:
        """Meet as the newest generation, and as the one after it where somebody is lost on the way."""
        group = self.group
        while True:
            word = self._next_word(deadline_s, error)
            began = time.monotonic() if began is None else began
            self._leave()
            self.generation = word["generation"]
            try:
                self._form(word)
                payload = self._settle(word, committing)
                exchanges.of(group).settle(group.control)
                if not self.newcomer and going_back.go_back(group, self.living()):
                    group.steps_committed += payload is not None
                    payload = None
                unfinished = self._unfinished(error, payload)
                if self.newcomers:
                    for give in self.on_state:
                        give()
                break
            except (CommunicatorError, LaunchError, OSError) as failure:
                if not self._is_passing(failure):
                    raise
                self._report()
                self._channel.say("failed", generation=self.generation, why=str(failure))
                error = error or failure
        for reducer in unfinished:
            reducer.forget()
        if unfinished:
            void_step()
        for reducer in self.living():
            reducer.regroup()
        self._channel.say(
            "formed",
            generation=self.generation,
            step=group.steps_committed + (payload is not None),
            repeats=bool(unfinished),
            stall_s=round(time.monotonic() - began, 3),
        )
        return payload

    def _is_passing(self, failure: BaseException) -> bool:
        """Whether a generation failed to form because somebody went away: then a newer one comes."""
        newer = self._word is not None and self._word["generation"] > self.generation
        return newer or isinstance(failure, PeerLostError) or self.is_loss(failure) or isinstance(failure, OSError)

    def _next_word(self, deadline_s: float, error: BaseException | None) -> Word:
        """What the launcher says of the next generation."""
        end = time.monotonic() + deadline_s
        with self._news:
            while True:
                if self._end is not None:
                    self._leave_job(self._end)
                if self._word is not None and self._word["generation"] > self.generation:
                    return self._word
                left_s = end - time.monotonic()
                if left_s <= 0:
                    if error is not None:
                        raise error
                    raise LaunchError(f"the launcher did not say within {deadline_s:g} s which ranks go on")
                self._news.wait(min(left_s, 3600.0))

    def _leave_job(self, word: Word) -> None:
        if word["kind"] == "gone":
            print(f"phalanx: rank {self.group.rank}: the launcher is gone; leaving", file=sys.stderr, flush=True)
            os._exit(1)
        if word.get("words") and self.group.rank == 0:
            print(f"phalanx: {word['words']}", file=sys.stderr, flush=True)
        excepthook.attach(AloneCommunicator())
        raise SystemExit(int(word["code"]))

    def _leave(self) -> None:
        """Let go of the old connections, without waiting for whoever does not answer."""
        self._watched = (self.generation, None)
        _close(self.group.control, self.group.communicator)

    def _form(self, word: Word) -> None:
        """Connect to the others of this generation, and take the place in it."""
        group, environment = self.group, meeting_place(word, self._environment, self._channel)
        if environment.size == 1:
            communicator: Communicator = AloneCommunicator()
            control = communicator
        else:
            try:
                communicator = ZeroMQCommunicator.connect(
                    environment,
                    timeout_s=self._timeout_s,
                    stall_s=self._stall_s,
                    silence_s=SILENCE_S,
                    began=self._began,
                )
            finally:
                with self._news:
                    self._interrupt = None
            self._watched = (self.generation, communicator._mesh)
            try:
                if self._word is not word:
                    raise PeerLostError("the ranks that go on are others by now")
                control = communicator.split(0)
                if self._shares_memory and communicator.share_memory():
                    control.share_memory()
            except BaseException:
                _close(communicator)
                raise
        excepthook.install(environment.rank, environment.size)
        excepthook.attach(communicator, group.last_words)
        group.take_place(communicator, control, environment.local_rank, environment.local_size)
        self.newcomers, self.must_wait = tuple(word["newcomers"]), bool(word["wait"])
        set_placement(Placement(group.rank, group.size, group.shards))
        step = outermost_step()
        set_position(group.rank, -1 if step is None else step.index)

    def _began(self, interrupt: Callable[[], None]) -> None:
        with self._news:
            self._interrupt = interrupt
            if self._word is not None and self._word["generation"] > self.generation:
                interrupt()

    def _settle(self, word: Word, committing: int | None) -> bytes | None:
        """All hear which step was the last to be committed by any of them, and what committed it."""
        group, newcomer = self.group, self.group.rank in word["newcomers"]
        number, payload = group.held
        held = base64.b64encode(payload).decode() if number == group.steps_committed else ""
        mine = [group.steps_committed, "" if newcomer else held, group.likeness()]
        rows = group.control.all_gather_object(mine, name=f"generation {self.generation}").wait()
        for rank in word["newcomers"]:
            if rows[rank][2] != rows[0][2]:
                differing = {key: (rows[0][2].get(key), rows[rank][2].get(key)) for key in rows[0][2] | rows[rank][2]}
                shown = "; ".join(
                    f"{key}: {there!r} on rank 0, {here!r} here"
                    for key, (there, here) in differing.items()
                    if there != here
                )
                if rank == group.rank:
                    raise SystemExit(f"this rank cannot join, it differs from rank 0: {shown}")
                raise PeerLostError(f"rank {rank} differs from the others and cannot join")
        members = [row for rank, row in enumerate(rows) if rank not in word["newcomers"]]
        last = max(row[0] for row in members)
        if newcomer:
            group.steps_committed = last
            return None
        if group.steps_committed == last:
            return None
        if committing != last or group.steps_committed != last - 1:
            raise GraphError(
                f"rank {group.rank}: the others have completed step {last}, this rank {group.steps_committed}: it cannot follow them"
            )
        return base64.b64decode(next(row[1] for row in members if row[0] == last and row[1]))

    def living(self) -> list[Any]:
        """The reducers that there are."""
        return [reducer for reference in self.reducers if (reducer := reference()) is not None]

    def _unfinished(self, error: BaseException | None, payload: bytes | None) -> list[Any]:
        """The reducers whose step must be done again."""
        step = outermost_step()
        under_way = [] if error is None or step is None else [r for r in self.living() if r.is_under_way]
        left = under_way[1:] if payload is not None else under_way
        if left and (payload is not None or self.group.steps_committed != self.commits_before_step):
            raise GraphError(
                "ranks were lost between two updates of one step, which then can neither be completed nor be done again: with several "
                "optimizer steps in a step of the loader a lost rank ends the job"
            ) from error
        return left


def _close(*communicators: Communicator) -> None:
    """Without waiting for it."""

    def close() -> None:
        for communicator in dict.fromkeys(communicators):
            with contextlib.suppress(Exception):
                communicator.close()

    threading.Thread(target=close, name="phalanx-leaving", daemon=True).start()


def of_environment(group: Group, stall_s: float, timeout_s: float | None, shares_memory: bool) -> Elastic | None:
    """What ``group`` needs in an elastic job; None in others. Raises RangeError for the fast mode."""
    environment = env.read(os.environ)
    if environment is None or env.elastic_range(os.environ) is None or env.MEMBERSHIP_FD not in os.environ:
        return None
    if group.shards is None:
        raise RangeError(
            "an elastic job (phalanx run --elastic) needs phalanx.init(shards=...): with it the bits do not depend on who is there"
        )
    timeout_s = timeout_s or environment.timeout_s or DEFAULT_TIMEOUT_S
    elastic = Elastic(group, environment, stall_s, timeout_s, shares_memory)
    at_boundaries(elastic.boundary)
    if group.size == 1 or elastic.newcomer:
        excepthook.install(group.rank, group.size)
    return elastic
