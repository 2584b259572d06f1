"""One thread per process that looks after all communicators: who waits for whom, and why an operation makes no progress.

It wakes twice a second, and when a line is due. When nothing has come for ``stall_s`` it asks the other ranks where they stand
(:mod:`.whereabouts`) and says so in one line for the whole job, again each time the wait has doubled.
"""

from __future__ import annotations

import contextlib
import math
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from . import flight_file, whereabouts
from .whereabouts import Position, communicators

if TYPE_CHECKING:
    from ..communicators.base import Communicator
    from ..control import ControlMesh
    from ..rendezvous import Member

STALL_S = 20.0
TICK_S = 0.5
_LEAST_S = 0.05
"""Between two looks, however soon a line is due."""
_ASK_ALL = 64
"""In larger groups only the ranks that are waited for are asked."""
_SHOWN = 4


def _to_stderr(line: str) -> None:
    print(f"phalanx: {line}", file=sys.stderr, flush=True)


@dataclass(frozen=True, slots=True)
class Wait:
    """What a rank waits for at the moment."""

    operation: str
    began: float
    """When the operation began (``time.monotonic`` seconds)."""
    progress: int
    """Any number that grows with everything that arrives."""
    sources: tuple[object, ...]
    """Whose message it waits for; ``str`` gives their names."""
    about: Callable[[], str | None] = lambda: ""
    """Asks where they stand, when a line is due; None: another rank says it."""


class StallWatch:
    """Says once for each operation that nothing moves in it, then again each time the wait has doubled.

    ``write`` gets the line; ``look`` is called every half second, and after ``due_s``, by whichever thread has the time.
    """

    def __init__(self, rank: int, stall_s: float = STALL_S, write: Callable[[str], None] = _to_stderr) -> None:
        self.rank, self.stall_s, self.write = rank, stall_s, write
        self._seen: tuple[str, float, int] | None = None
        self._moved = 0.0
        self._told_s = 0.0
        self.due_s = math.inf
        """In how many seconds after the last look a line is due, if nothing comes until then."""

    def look(self, wait: Wait | None, now: float) -> float:
        """How long nothing has come, in seconds; 0 when nothing is waited for."""
        if wait is None:
            self._seen, self.due_s = None, math.inf
            return 0.0
        seen = (wait.operation, wait.began, wait.progress)
        if seen != self._seen:
            self._seen, self._moved, self._told_s = seen, now, 0.0
        still_s = now - self._moved
        if still_s >= max(self.stall_s, 2 * self._told_s):
            self._told_s = still_s
            about = wait.about()
            if about is not None:
                missing = ", ".join(map(str, wait.sources)) or "its own messages to leave"
                self.write(
                    f"rank {self.rank} waits for {missing} in {wait.operation}: begun {now - wait.began:.0f} s ago, "
                    f"nothing has come for {still_s:.0f} s" + (about and f"; {about}")
                )
        self.due_s = max(self.stall_s, 2 * self._told_s) - still_s
        return still_s


# --- one communicator ---------------------------------------------------------------------------------------------------


class _Looker:
    """What the thread keeps for one communicator."""

    def __init__(self, comm: Communicator) -> None:
        self.comm = comm
        self.stall = StallWatch(comm.job_ranks[comm.rank], comm.stall_s)
        self._asked = 0.0

    def look(self, now: float) -> None:
        comm = self.comm
        self.stall.stall_s = comm.stall_s
        current = comm.current
        if current is None or comm._broken is not None:
            self.stall.look(None, now)
            return
        awaited = comm.waiting_for or tuple(comm._unread())
        names = tuple(whereabouts.name_of(comm, rank) for rank in awaited)
        still_s = self.stall.look(Wait(*current, comm.arrived, names, lambda: about(comm, awaited)), now)
        if still_s >= comm.stall_s / 2 and self._asked != current[1]:
            self._asked = current[1]  # so that something is known of a rank that cannot answer later
            whereabouts.ask(comm, awaited)


def about(comm: Communicator, awaited: tuple[int, ...]) -> str | None:
    """Where the ranks stand that hold up the operation in progress; None when a lower rank that waits, too, says it."""
    last = comm.flight.last()
    if last is None:
        return ""
    others = [rank for rank in range(comm.size) if rank != comm.rank]
    asked = awaited if last.sequence < 0 or comm.size > _ASK_ALL else others
    found = whereabouts.ask(comm, asked)
    waiting = {rank for rank in asked if _waits_too(comm, last.sequence, found.get(rank))}
    if last.sequence > 0 and any(rank < comm.rank for rank in waiting):
        return None
    missing = [rank for rank in asked if rank not in waiting] or list(asked)
    now, words = time.monotonic(), []
    for rank in missing[:_SHOWN]:
        text = whereabouts.words_about(comm, rank, found.get(rank), now)
        if rank not in awaited:
            text = text.replace(f"rank {comm.job_ranks[rank]}", whereabouts.name_of(comm, rank), 1)
        words.append(text)
    if len(missing) > _SHOWN:
        words.append(f"{len(missing) - _SHOWN} more are missing")
    return "; ".join(filter(None, words))


def _waits_too(comm: Communicator, sequence: int, position: Position | None) -> bool:
    standing = position.standing_in(comm) if position is not None else None
    return standing is not None and standing.running and standing.sequence == sequence and bool(standing.waiting_for)


# --- the thread ---------------------------------------------------------------------------------------------------------


class _Ends:
    """Listens on a control mesh for the end of the job, so that a rank that only computes leaves its record, too."""

    def __init__(self, mesh: ControlMesh) -> None:
        self.mesh = mesh
        mesh.listeners.append(self)

    def control_message(self, source: int, message: dict[str, Any], payload: bytes) -> None:
        """Others read messages."""

    def control_changed(self) -> None:
        lost = self.mesh.lost()
        words = self.mesh.ended.reason if self.mesh.ended is not None else ""
        words = words or (f"lost {whereabouts.ranks_in_words(lost)}" if lost else "")
        mine = next((comm for comm in list(communicators) if comm._mesh is self.mesh), None)
        if words and mine is not None:
            flight_file.failed(mine, None, words, again=False)

    def control_tick(self, now: float) -> None:
        """Nothing is due."""


class _Thread:
    """The watch thread; it runs while there are communicators."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None
        self._lookers: dict[Communicator, _Looker] = {}
        self._ends: dict[Any, _Ends] = {}

    def begin(self, comm: Communicator) -> None:
        with self._lock:
            communicators.add(comm)
            if self._thread is None:
                self._wake.clear()
                self._thread = threading.Thread(target=self._serve, name="phalanx-watch", daemon=True)
                self._thread.start()

    def end(self, comm: Communicator) -> None:
        with self._lock:
            communicators.discard(comm)
            thread = self._thread
            if communicators or thread is None:
                return
            self._thread = None
            self._wake.set()
        if thread is not threading.current_thread():
            thread.join(timeout=2 * whereabouts.ANSWER_S)
        self._drop_closed([])

    def _serve(self) -> None:
        mine, pause_s = threading.current_thread(), TICK_S
        while not self._wake.wait(pause_s) and self._thread is mine:
            try:
                self._look(time.monotonic())
                soonest_s = min((looker.stall.due_s for looker in self._lookers.values()), default=TICK_S)
                pause_s = max(_LEAST_S, min(TICK_S, soonest_s))
            except Exception:  # to watch must never end the job
                traceback.print_exc()
                return

    def _look(self, now: float) -> None:
        there = list(communicators)
        self._drop_closed(there)
        for mesh in {comm._mesh for comm in there if comm._mesh is not None} - self._ends.keys():
            self._ends[mesh] = _Ends(mesh)
            whereabouts.desk_of(mesh)
        for comm in there:
            with contextlib.suppress(OSError, KeyError):  # it may be closing just now
                (self._lookers.get(comm) or self._lookers.setdefault(comm, _Looker(comm))).look(now)

    def _drop_closed(self, there: list[Communicator]) -> None:
        for comm in self._lookers.keys() - set(there):
            self._lookers.pop(comm, None)
        for mesh in self._ends.keys() - {comm._mesh for comm in there}:
            self._ends.pop(mesh, None)
            whereabouts.forget(mesh)


_thread = _Thread()


def begin(communicator: Communicator) -> None:
    """From now on ``communicator`` is looked after, until :func:`end`."""
    _thread.begin(communicator)


def end(communicator: Communicator) -> None:
    """``communicator`` is closed."""
    _thread.end(communicator)


def lost_message(rank: int, peer: Member, current: tuple[str, float] | None, left: bool, why: str = "") -> str:
    """Why an operation cannot go on: the peer died, or left in good order while this rank still needs it.

    ``why``: how it was lost, where the end of its process is not what was seen.
    """
    where = "between two operations"
    if current is not None:
        where = f"while in {current[0]}, {time.monotonic() - current[1]:.1f} s after it began"
    if left:
        return (
            f"rank {rank} needs {peer}, which has closed its communicator, {where}. Every rank must do the same operations; "
            "that one finished earlier"
        )
    if why:
        return f"rank {rank} lost {peer} {where}: {why}"
    return (
        f"rank {rank} lost {peer} {where}. That process died without a goodbye: look at its own last output, and at the "
        "kernel's log if memory may have run out"
    )
