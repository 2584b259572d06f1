"""A profile as a file in the Trace Event Format: each rank writes its part, whoever finds all of them makes one file of them.

No message is sent for that, so that a rank that fails keeps nobody waiting: its part is missing, and the others stay as they are,
each a trace by itself.
"""

from __future__ import annotations

import json
import os
import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FORMAT = "phalanx-profile-1"
Event = tuple[str, str, float, float, Any]
"""kind, name, began, ended, about."""

_written: Counter[tuple[str, int]] = Counter()
"""How many parts of (path, rank) this process has written: the ranks' first ones belong together, their second ones, ..."""


@dataclass(frozen=True, slots=True)
class Track:
    title: str
    events: Sequence[Event]


@dataclass(frozen=True, slots=True)
class Part:
    """What one rank recorded."""

    rank: int
    size: int
    began_s: float
    """Seconds since 1970; a part that ended before this one began is of an earlier run."""
    ended_s: float
    ahead_s: float
    """This rank's clock minus rank 0's."""
    dropped: int
    tracks: Sequence[Track]


def write_part(part: Part, path: str) -> None:
    """Write this rank's part of the trace ``path``; the whole trace if all other ranks have written theirs."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    _written[path, part.rank] += 1
    number = _written[path, part.rank]
    head = {
        "format": FORMAT, "rank": part.rank, "size": part.size, "number": number, "ended_s": part.ended_s,
        "dropped_events": part.dropped,
    }  # fmt: skip
    own = {"traceEvents": _events(part), "displayTimeUnit": "ms", "otherData": head}
    if part.size == 1:
        _put(path, _from_zero([own]))
        return
    _put(_name(path, part.rank), own)
    parts = [_read(_name(path, rank), number, part) for rank in range(part.size)]
    if all(parts):
        _put(path, _from_zero([p for p in parts if p is not None]))
        for rank in range(part.size):
            Path(_name(path, rank)).unlink(missing_ok=True)


def _name(path: str, rank: int) -> str:
    return f"{path}.rank-{rank}"


def _put(path: str, trace: dict[str, Any]) -> None:
    """Whole or not at all."""
    unfinished = f"{path}.{os.getpid()}-{threading.get_ident()}"
    Path(unfinished).write_text(json.dumps(trace, separators=(",", ":")))
    os.replace(unfinished, path)


def _read(path: str, number: int, own: Part) -> dict[str, Any] | None:
    """A rank's part of the same profile; None if there is none yet, or no longer."""
    try:
        found: dict[str, Any] = json.loads(Path(path).read_text())
    except FileNotFoundError:
        return None
    head = found["otherData"]
    same = (head["format"], head["size"], head["number"]) == (FORMAT, own.size, number)
    return found if same and head["ended_s"] >= own.began_s else None


def _from_zero(parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One trace of all ranks, whose first event is at 0."""
    events = [event for part in parts for event in part["traceEvents"]]
    start = min((event["ts"] for event in events if event["ph"] != "M"), default=0.0)
    for event in events:
        if event["ph"] != "M":
            event["ts"] = round(event["ts"] - start, 3)
    head = {
        "format": FORMAT,
        "ranks": len(parts),
        "dropped_events": sum(p["otherData"]["dropped_events"] for p in parts),
    }
    return {"traceEvents": events, "displayTimeUnit": "ms", "otherData": head}


def _events(part: Part) -> list[dict[str, Any]]:
    full = f" (full: {part.dropped} later spans are missing)" if part.dropped else ""
    events = [_title("process_name", part.rank, 0, f"rank {part.rank}{full}")]
    for thread, track in enumerate(part.tracks):
        events.append(_title("thread_name", part.rank, thread, track.title))
        events.append(
            {"ph": "M", "name": "thread_sort_index", "pid": part.rank, "tid": thread, "args": {"sort_index": thread}}
        )
        for kind, name, began, ended, about in track.events:
            args = {"shapes": about} if isinstance(about, tuple) else about or {}
            first, last = (
                int(1e9 * (t - part.ahead_s)) for t in (began, ended)
            )  # whole nanoseconds: spans nest as they did
            times = {"ts": first / 1e3, "dur": (last - first) / 1e3}
            events.append(
                {"ph": "X", "cat": kind, "name": name, "pid": part.rank, "tid": thread, **times, "args": args}
            )
    return events


def _title(kind: str, process: int, thread: int, name: str) -> dict[str, Any]:
    return {"ph": "M", "name": kind, "pid": process, "tid": thread, "args": {"name": name}}
