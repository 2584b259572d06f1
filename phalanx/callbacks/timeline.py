"""Where the time of a step goes, as a trace to look at."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from ..core.errors import RangeError
from ..dist import exchanges
from .base import Callback, Logs

PHASES = ("data", "forward", "backward", "wait for others", "optimizer")
"""The rows of a rank in the trace, from the top."""


class Timeline(Callback):
    """Record waiting for data, forward, backward, communication that was not hidden, and update of some steps of all ranks.

    Args:
        path: of the trace, in the Trace Event Format (``chrome://tracing``, ui.perfetto.dev); rank 0 writes it.
        first, steps: record so many steps from the ``first`` step of the fit on.

    A rank is a process of the trace. Times are microseconds from the first event on; the clocks of several hosts are those that
    flight records use.

    >>> timeline = phalanx.callbacks.Timeline("run/timeline.json", first=5, steps=20)
    """

    place = 40

    def __init__(self, path: str | os.PathLike[str], *, first: int = 2, steps: int = 20) -> None:
        for name, value, least in (("first", first, 0), ("steps", steps, 1)):
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise RangeError(f"Timeline expects {name} to be an integer of at least {least}, got {value!r}")
        self.path, self.first, self.steps = Path(path), first, steps
        self.reset()

    def reset(self) -> None:
        self._seen = 0
        self._spans: list[list[Any]] | None = None
        self._written = False

    def on_step_begin(self, step: int, logs: Logs) -> None:
        if self._seen == self.first:
            self._spans = self.trainer.spans = []

    def on_step_end(self, step: int, logs: Logs) -> None:
        self._seen += 1
        if self._seen == self.first + self.steps:
            self._write()

    def on_fit_end(self, logs: Logs) -> None:
        self._write()

    def state_dict(self) -> dict[str, Any]:
        """For ranks that join an elastic job: all write at the same step. A resumed fit records anew."""
        return {} if self.trainer.group.elastic is None else {"seen": self._seen, "written": self._written}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._seen, self._written = state["seen"], state["written"]

    def close(self) -> None:
        self.trainer.spans = None

    def _write(self) -> None:
        """All ranks call: rank 0 writes what all recorded."""
        spans, self._spans, self.trainer.spans = self._spans, None, None
        if self._written or (spans is None and self._seen <= self.first):
            return
        self._written = True
        group = self.trainer.group
        ahead_s = group.control.flight.clock_offset_s or 0.0
        own = [[name, step, began - ahead_s, ended - ahead_s] for name, step, began, ended in spans or []]
        rows = exchanges.gather_object(group, own, name="timeline") or []
        if group.rank == 0:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.write_text(json.dumps({"traceEvents": _events(rows), "displayTimeUnit": "ms"}))


def _events(rows: list[list[list[Any]]]) -> list[dict[str, Any]]:
    start = min((began for row in rows for _, _, began, _ in row), default=0.0)
    events: list[dict[str, Any]] = []
    for rank, row in enumerate(rows):
        events.append({"ph": "M", "name": "process_name", "pid": rank, "tid": 0, "args": {"name": f"rank {rank}"}})
        for number, phase in enumerate(PHASES):
            events.append({"ph": "M", "name": "thread_name", "pid": rank, "tid": number, "args": {"name": phase}})
        for name, step, began, ended in row:
            times = {"ts": round(1e6 * (began - start), 3), "dur": round(1e6 * (ended - began), 3)}
            events.append(
                {"ph": "X", "name": name, "pid": rank, "tid": PHASES.index(name), **times, "args": {"step": step}}
            )
    return events
