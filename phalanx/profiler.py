"""Where the time goes: ops forward and backward, updates, messages, waiting, data, checkpoints; a trace and a table.

    with phalanx.profile("trace.json") as p:
        train()
    print(p.table())

``phalanx run --profile FILE`` (or ``PHALANX_PROFILE=FILE``) does it for a whole script. The trace opens in ui.perfetto.dev.
"""

from __future__ import annotations

import atexit
import multiprocessing
import os
import re
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

from .core import spans
from .core.errors import RangeError
from .dist import env
from .dist.group import Group, joined
from .profiler_table import Row, render
from .profiler_trace import Part, Track, write_part

__all__ = ["profile", "record_function"]

EVENTS = 200_000
"""So many spans of one rank go into a trace; later ones are counted in the table alone. 200 MB of memory, 25 MB of file."""
_KINDS = 4096
"""So many different (name, shapes) are counted apart."""
_RECENT = 4096
_STEP = re.compile(r"\bstep \d+")
"""Some messages are named after their step: one row of the table for all of them."""


@dataclass(slots=True)
class _Lane:
    """What one thread of the rank did, or one of its groups said."""

    title: str
    events: list[tuple[str, str, float, float, Any]]
    totals: dict[tuple[str, str, Any], list[float]]
    """(kind, name, shapes) -> calls, seconds, seconds without the spans within."""
    recent: deque[tuple[float, float]]
    """Spans that no other has enclosed yet."""


class profile:
    """Record what this rank does within the block: ``with profile(path) as p``.

    Args:
        path: of a trace in the Trace Event Format (ui.perfetto.dev, ``chrome://tracing``); None: only the table. With several ranks
            all of them come into one file, each as a process of its own; the last rank to leave its block writes it. Until
            then, and when a rank fails, each rank's part lies beside it as ``<path>.rank-<rank>``.
        events: so many spans come into the trace, later ones are counted in the table alone, and the trace says so.

    A step ends with each ``optimizer.step()``, or where :meth:`step` is called, if it is. All spans are seconds of the wall clock from
    the call to the return; what a GPU did is told beside them, from events in its stream, which are read at the end. Only one profile of a rank records at a
    time: RangeError for a second one.

    >>> with phalanx.profile() as p:
    ...     x = phalanx.ones(3, requires_grad=True)
    ...     x.exp().sum().backward()
    >>> sorted(row.name for row in p.rows())
    ['exp', 'exp backward', 'sum', 'sum backward']
    """

    def __init__(self, path: str | os.PathLike[str] | None = None, *, events: int = EVENTS) -> None:
        if not isinstance(events, int) or isinstance(events, bool) or events < 0:
            raise RangeError(f"profile expects events to be a number of spans, 0 or more, got {events!r}")
        self.path = None if path is None else os.path.abspath(os.fspath(path))
        self.limit = events
        self.steps = 0
        """Steps that ended within the block."""
        self.dropped = 0
        """Spans that were too many for the trace."""
        self._count = 0
        self._by_hand = False
        self._lanes: dict[Any, _Lane] = {}
        self._marks: list[tuple[float, float]] = []
        self._shapes: dict[Any, Any] = {}
        self._group: Group | None = None
        self._began = self._ended = self._mark = 0.0
        self._began_wall_s = 0.0

    def __enter__(self) -> profile:
        self._thread = threading.get_ident()
        self._lanes[self._thread] = _Lane("training", [], {}, deque(maxlen=_RECENT))
        self._began_wall_s, self._began = time.time(), time.monotonic()
        self._mark = self._began
        if not spans.listen(self):
            raise RangeError("this rank is being profiled already: one profile at a time")
        return self

    def __exit__(self, *exception: object) -> None:
        spans.stop(self)
        self._ended = time.monotonic()
        if self.path is not None:
            self._write(self.path)

    def step(self) -> None:
        """A step ends here; the ends of ``optimizer.step()`` are none any more."""
        if not self._by_hand:
            self._by_hand = True
            self._marks.clear()
            self.steps, self._mark = 0, self._began
        self._end_step(time.monotonic())

    def _end_step(self, now: float) -> None:
        self.steps += 1
        if len(self._marks) < self.limit:
            self._marks.append((self._mark, now))
        self._mark = now
        self._group = joined() or self._group

    # ---- what is heard -----------------------------------------------------------------------------------------------

    def span(self, kind: str, name: str, began: float, ended: float, about: Any) -> None:
        """For those who tell what took time (``core.spans``)."""
        key = about["group"] if kind == "communication" else kind if kind == "gpu" else threading.get_ident()
        lane = self._lanes.get(key)
        if lane is None:
            own = "GPU" if kind == "gpu" else threading.current_thread().name
            title = f"messages: {key}" if kind == "communication" else own
            lane = self._lanes.setdefault(key, _Lane(title, [], {}, deque(maxlen=_RECENT)))
        recent, within = lane.recent, 0.0
        while recent and recent[-1][0] >= began:
            first, last = recent.pop()
            within += last - first
        recent.append((began, ended))
        if about.__class__ is tuple and len(self._shapes) < _KINDS:
            about = self._shapes.setdefault(about, about)  # one object for all
        row = _STEP.sub("step N", name) if kind in ("communication", "wait") else name
        what = (kind, row, about if about.__class__ is tuple else None)
        total = lane.totals.get(what)
        if total is None:
            if len(lane.totals) >= _KINDS:
                what = (kind, f"all other {kind}", None)
            total = lane.totals.setdefault(what, [0, 0.0, 0.0])
        total[0] += 1
        total[1] += ended - began
        total[2] += ended - began - within
        if self._count < self.limit:
            self._count += 1
            lane.events.append((kind, name, began, ended, about))
        else:
            self.dropped += 1
        if kind == "optimizer" and not self._by_hand:
            self._end_step(ended)

    # ---- what is told ------------------------------------------------------------------------------------------------

    @property
    def seconds(self) -> float:
        """How long the block took, or has taken so far."""
        return (self._ended or time.monotonic()) - self._began

    def rows(self, by_shape: bool = False) -> list[Row]:
        """What took time, the longest first: by name, or by name and shapes of the op's inputs (backward: of its gradient)."""
        found: dict[tuple[str, str, Any], list[float]] = {}
        for lane in list(self._lanes.values()):
            for (kind, name, shapes), numbers in list(lane.totals.items()):
                total = found.setdefault((kind, name, shapes if by_shape else None), [0, 0.0, 0.0])
                for index, number in enumerate(numbers):
                    total[index] += number
        rows = [
            Row(kind, name, shapes, int(n), all_s, own_s) for (kind, name, shapes), (n, all_s, own_s) in found.items()
        ]
        return sorted(rows, key=lambda row: -row.self_s)

    def table(self, limit: int = 10, *, by_shape: bool = False) -> str:
        """The ``limit`` most expensive things that this rank did, and how its messages fared, as text.

        "self" is time without what else is listed that happened within; "%" is its share of the block's time.

        >>> with phalanx.profile() as p:
        ...     _ = phalanx.ones(3).exp()
        >>> print(p.table().splitlines()[1][:45])
        what                           calls     self
        """
        return render(self.rows(by_shape), self.seconds, self.steps, limit, self.dropped)

    @property
    def place(self) -> tuple[int, int]:
        """This rank's number and how many there are, also after it has left the job."""
        group = joined() or self._group
        told = env.read(os.environ) if group is None else None
        return (group.rank, group.size) if group else (told.rank, told.size) if told else (0, 1)

    def _write(self, path: str) -> None:
        (rank, size), group = self.place, joined() or self._group
        ahead_s = (group.control.flight.clock_offset_s if group else None) or 0.0
        tracks = [Track(lane.title, lane.events) for lane in self._lanes.values()]
        steps = [("step", f"step {n}", began, ended, None) for n, (began, ended) in enumerate(self._marks)]
        tracks.insert(0, Track("steps", steps))
        part = Part(rank, size, self._began_wall_s, time.time(), ahead_s, self.dropped, tracks)
        write_part(part, path)


def record_function(name: str) -> AbstractContextManager[None]:
    """A block of your own in the trace and the table, as ``torch.profiler.record_function``.

    >>> with phalanx.profile() as p, phalanx.profiler.record_function("augment"):
    ...     _ = phalanx.ones(3)
    >>> [row.name for row in p.rows()]
    ['augment']
    """
    return spans.span("user", name)


# ---- a whole script --------------------------------------------------------------------------------------------------


@contextmanager
def from_environment() -> Iterator[None]:
    """Profile the block if ``PHALANX_PROFILE`` says so: for ranks that are threads."""
    path = env.profile_file(os.environ)
    if path is None:
        yield
        return
    with profile(path) as p:
        yield
    _say(p)


def begin_from_environment() -> None:
    """Profile the rest of this process if ``PHALANX_PROFILE`` says so."""
    path = env.profile_file(os.environ)
    if path is None or multiprocessing.parent_process() is not None:
        return  # a process of the script's own has another rank's number
    running = profile(path)
    running.__enter__()
    atexit.register(_finish, running)


def _finish(running: profile) -> None:
    if running.rows():  # a launcher, or a process that only makes batches, has none
        running.__exit__()
        _say(running)
    else:
        spans.stop(running)


def _say(p: profile) -> None:
    if p.place[0] == 0:
        print(f"\n{p.table()}\ntrace: {p.path}", file=sys.stderr, flush=True)
