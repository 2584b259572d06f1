"""Where the other ranks stand: the Python line of their training loop and their last operation, asked for on demand.

Questions and answers travel over the control connections (:mod:`.control`), whose thread answers whatever the rest of
the process does. Of a rank that does not answer on the same host, the kernel tells whether it is stopped or gone. Ranks
that are threads of one process are looked at directly.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import sys
import sysconfig
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..communicators.base import Communicator
    from ..control import ControlMesh

ANSWER_S = 1.0
"""How long to wait for the answer of a rank."""
_KERNEL_S = 0.25
"""Without an answer by then, look at what the kernel says."""
_PACKAGE = str(Path(__file__).absolute().parents[1]) + os.sep
_LIBRARIES = tuple({sysconfig.get_paths()[kind] + os.sep for kind in ("stdlib", "platstdlib", "purelib", "platlib")})
_STATES = {
    "T": "is stopped (state T): kill -CONT {pid} lets it go on",
    "t": "is held by a debugger (state t)",
    "D": "is in uninterruptible sleep (state D): a disk or network file system does not answer",
    "Z": "has ended (state Z)",
}

communicators: set[Communicator] = set()
"""Those of this process that are open and have more than one rank."""


@dataclass(frozen=True, slots=True)
class Standing:
    """One operation of a rank, as it tells others."""

    group: str
    job_ranks: tuple[int, ...]
    sequence: int
    name: str
    running: bool
    began_s: float
    """Seconds since it began."""
    waiting_for: tuple[int, ...] = ()
    """Ranks of the job."""


@dataclass(frozen=True, slots=True)
class Position:
    """Where a rank stood at one moment."""

    line: str
    """``train.py:31 in load_batch``, and in brackets what that line is inside of."""
    operations: tuple[Standing, ...] = ()
    """The last operation of each of its groups."""
    seen: float = 0.0
    """When this rank learned of it (``time.monotonic`` seconds)."""

    def standing_in(self, comm: Communicator) -> Standing | None:
        """The last operation of the same group as ``comm``."""
        key = (comm.flight.group, tuple(comm.job_ranks))
        return next((one for one in self.operations if (one.group, one.job_ranks) == key), None)


# --- looking at this process ----------------------------------------------------------------------------------------


def line_of(thread: int) -> str:
    """The line that a thread of this process stands on, by its number: the user's own, and what it is inside of."""
    frame, places = sys._current_frames().get(thread), []
    while frame is not None:
        places.append(_Place(frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_name))
        frame = frame.f_back
    return _words_of(places)


def line_of_error(error: BaseException) -> str:
    """The line where ``error`` arose, in the same words; empty when nothing of the user's was running."""
    places, trace = [], error.__traceback__
    while trace is not None:
        code = trace.tb_frame.f_code
        places.append(_Place(code.co_filename, trace.tb_lineno, code.co_name))
        trace = trace.tb_next
    places.reverse()
    return _words_of(places) if any(place.is_users for place in places) else ""


@dataclass(frozen=True, slots=True)
class _Place:
    path: str
    line: int
    name: str

    @property
    def is_users(self) -> bool:
        return not self.path.startswith((_PACKAGE, *_LIBRARIES, "<"))

    def __str__(self) -> str:
        path = self.path
        if path.startswith(_PACKAGE):
            path = "phalanx/" + path.removeprefix(_PACKAGE)
        else:
            with contextlib.suppress(OSError, ValueError):
                path = str(Path(path).relative_to(Path.cwd()))
        return f"{path}:{self.line}" + ("" if self.name == "<module>" else f" in {self.name}")


def _words_of(places: Sequence[_Place]) -> str:
    """Innermost place first."""
    if not places:
        return "the end of its script"
    number = next((number for number, place in enumerate(places) if place.is_users), 0)
    inside = places[:number]
    inner = next((place for place in inside if place.path.startswith(_PACKAGE)), inside[0] if inside else None)
    return str(places[number]) + (f" (inside {inner})" if inner is not None else "")


def of_one_rank(comm: Communicator) -> list[Communicator]:
    """All communicators of this process that belong to the same rank as ``comm``, the one of all ranks first."""
    same = [
        other
        for other in list(communicators)
        if other is comm
        or (other._mesh is comm._mesh and comm._mesh is not None)
        or (other._mesh is None and other.owner == comm.owner)
    ]
    return sorted(same, key=lambda one: (-one.size, one.flight.group))


def position_here(comm: Communicator) -> Position:
    """Where the rank of ``comm`` stands, which is in this process."""
    now = time.monotonic()
    return Position(line_of(comm.owner), tuple(filter(None, map(_standing, of_one_rank(comm)))), now)


def _standing(comm: Communicator) -> Standing | None:
    last = comm.flight.last()
    if last is None:
        return None
    awaited = tuple(comm.job_ranks[rank] for rank in comm.waiting_for) if not last.ended else ()
    age = time.monotonic() - last.began
    return Standing(comm.flight.group, tuple(comm.job_ranks), last.sequence, last.name, not last.ended, age, awaited)


# --- asking others ----------------------------------------------------------------------------------------------------


class Desk:
    """Asks and answers over one control mesh; a listener of it."""

    def __init__(self, mesh: ControlMesh) -> None:
        self.mesh = mesh
        self._numbers = itertools.count()
        self._news = threading.Condition()
        self.known: dict[int, Position] = {}
        """The newest answer of each rank of the job."""
        self._answered: dict[int, set[int]] = {}
        mesh.listeners.append(self)

    def ask(self, ranks: Iterable[int], timeout_s: float = ANSWER_S) -> dict[int, Position]:
        """Where ranks of the job stand; those that do not answer, or are known to be stopped or gone, are missing."""
        ranks, number = set(ranks), next(self._numbers)
        answered = self._answered[number] = set()
        began = time.monotonic()
        for rank in ranks:
            self.mesh.send(rank, {"kind": "where", "number": number})
        with self._news:
            while missing := ranks - answered:
                left_s = began + timeout_s - time.monotonic()
                late = time.monotonic() - began >= _KERNEL_S
                if left_s <= 0 or (late and all(kernel_says(self.mesh, rank) for rank in missing)):
                    break
                self._news.wait(min(left_s, _KERNEL_S))
        del self._answered[number]
        return {rank: self.known[rank] for rank in answered}

    def control_message(self, source: int, message: dict[str, Any], payload: bytes) -> None:
        if message["kind"] == "where":
            mine = next((comm for comm in list(communicators) if comm._mesh is self.mesh), None)
            if mine is not None:
                position = position_here(mine)
                rows = [[getattr(one, name) for name in Standing.__slots__] for one in position.operations]
                answer = {"kind": "here", "number": message["number"], "line": position.line, "operations": rows}
                self.mesh.send(source, answer)
        elif message["kind"] == "here":
            with self._news:
                operations = tuple(Standing(*map(_hashable, row)) for row in message["operations"])
                self.known[source] = Position(message["line"], operations, time.monotonic())
                if message["number"] in self._answered:
                    self._answered[message["number"]].add(source)
                self._news.notify_all()

    def control_changed(self) -> None:
        """Whoever is gone is seen when asked."""

    def control_tick(self, now: float) -> None:
        """Nothing is due."""


def _hashable(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


_desks: dict[ControlMesh, Desk] = {}
_making = threading.Lock()


def desk_of(mesh: ControlMesh) -> Desk:
    """The one of ``mesh``; made when it is asked for first."""
    with _making:
        return _desks.get(mesh) or _desks.setdefault(mesh, Desk(mesh))


def forget(mesh: ControlMesh) -> None:
    """``mesh`` is closed."""
    _desks.pop(mesh, None)


def ask(comm: Communicator, ranks: Iterable[int], timeout_s: float = ANSWER_S) -> dict[int, Position]:
    """Where ranks of the group ``comm`` stand, as far as they can be asked; by their number in that group."""
    wanted = [rank for rank in ranks if rank != comm.rank]
    if comm._mesh is not None:
        found = desk_of(comm._mesh).ask((comm.job_ranks[rank] for rank in wanted), timeout_s)
        return {rank: found[comm.job_ranks[rank]] for rank in wanted if comm.job_ranks[rank] in found}
    beside = {other.rank: other for other in list(communicators) if other.family is comm.family}
    return {rank: position_here(beside[rank]) for rank in wanted if rank in beside}


# --- what the kernel knows ----------------------------------------------------------------------------------------------


def kernel_says(mesh: ControlMesh, rank: int) -> str:
    """Of a process of this host: that it is stopped, stuck or gone; empty when it runs or cannot be looked at."""
    peer = mesh.peers[rank]
    if peer.state != "alive":
        return "has ended" if peer.state == "lost" else "has left in good order"
    if not _shares_processes(peer.member.identity, mesh.me.identity):
        return ""
    state = process_state(peer.member.pid)
    return "has ended" if state is None else _STATES.get(state, "").format(pid=peer.member.pid)


def _shares_processes(one: str, other: str) -> bool:
    """Do two host identities see each other in /proc? Network namespaces do not matter for that."""
    boot_and_processes = slice(1, 4, 2)  # see host.py
    here, there = one.split("/")[boot_and_processes], other.split("/")[boot_and_processes]
    return here == there and "-" not in here and len(here) == 2


def process_state(pid: int) -> str | None:
    """The letter of a process's state in /proc (R, S, D, T, Z, ...); None when there is no such process."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return None
    return text.rpartition(")")[2].split()[0]


# --- words ----------------------------------------------------------------------------------------------------------


def name_of(comm: Communicator, rank: int) -> str:
    """``rank 2 (host a, pid 123)``; by its number in the job."""
    job_rank = comm.job_ranks[rank]
    return f"rank {job_rank}" if comm._mesh is None else str(comm._mesh.peers[job_rank].member)


def words_about(comm: Communicator, rank: int, position: Position | None, now: float) -> str:
    """Where one rank stands and what it did last, or why that is not known."""
    who = f"rank {comm.job_ranks[rank]}"
    if position is None:
        return _silence(comm, rank, who, now)
    words = f"{who} stands at {position.line} (seen {max(0.0, now - position.seen):.1f} s ago)"
    standing = position.standing_in(comm)
    if standing is None:
        return f"{words}, before its first operation"
    what = f"{standing.sequence}: {standing.name}"
    if not standing.running:
        return f"{words}, its last operation was {what}"
    awaited = f", waiting for {ranks_in_words(standing.waiting_for)}" if standing.waiting_for else ""
    return f"{words} in operation {what}{awaited}"


def _silence(comm: Communicator, rank: int, who: str, now: float) -> str:
    if comm._mesh is None:
        return f"{who} has closed its communicator" if comm.family is not comm else ""
    job_rank = comm.job_ranks[rank]
    words = f"{who} {kernel_says(comm._mesh, job_rank) or 'does not answer'}"
    before = desk_of(comm._mesh).known.get(job_rank)
    return words if before is None else f"{words}; it stood at {before.line} (seen {now - before.seen:.1f} s ago)"


def ranks_in_words(ranks: Sequence[int]) -> str:
    return ("rank " if len(ranks) == 1 else "ranks ") + ", ".join(map(str, ranks))


def describe(comm: Communicator, ranks: Sequence[int]) -> str:
    """Where ranks of the group stand, in one line; empty when nothing is known. Takes at most a second or so."""
    ranks = [rank for rank in ranks if rank != comm.rank][:4]
    if not ranks:
        return ""
    found, now = ask(comm, ranks), time.monotonic()
    return "; ".join(filter(None, (words_about(comm, rank, found.get(rank), now) for rank in ranks)))
