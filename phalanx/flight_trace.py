"""Flight records as a trace: one track per rank and group, in the Trace Event Format that Chrome and Perfetto read."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .flight import Record


def write_trace(records: Sequence[Record], path: str) -> int:
    """Write all operations, and the waiting that computing could not hide, as slices; how many there are.

    A rank is a process of the trace; each of its groups is a thread, and so is its waiting. Times are microseconds from the
    first event on, on rank 0's clock.
    """
    events = [event for record in records for event in _of_rank(record)]
    start = min((event["ts"] for event in events if event["ph"] == "X"), default=0.0)
    for event in events:
        if event["ph"] == "X":
            event["ts"] = round(event["ts"] - start, 3)
    Path(path).write_text(json.dumps({"traceEvents": events, "displayTimeUnit": "ms"}))
    return sum(event["ph"] == "X" for event in events)


def _of_rank(record: Record) -> list[dict[str, Any]]:
    rank, head = record.rank, record.head
    events = [_name("process_name", rank, 0, f"rank {rank} (host {head['host']}, pid {head['pid']})")]
    for number, group in enumerate(record.operations):
        operations, waiting = 2 * number, 2 * number + 1
        events += [_name("thread_name", rank, operations, group)]
        events += [_name("thread_name", rank, waiting, f"{group}: waiting that was not hidden")]
        for op in record.operations[group]:
            ended = op.ended or op.began
            about = {
                "number": op.sequence,
                "bytes": op.nbytes,
                "queued_ms": round(1e3 * (op.began - op.submitted), 3),
                **({"error": op.error} if op.error else {}),
            }
            events.append(_slice(op.name, rank, operations, (op.began, ended), about))
        events += [
            _slice(f"wait for {name}", rank, waiting, (began, ended), {})
            for name, began, ended in record.waitings.get(group, [])
        ]
    return events


def _name(kind: str, process: int, thread: int, name: str) -> dict[str, Any]:
    return {"ph": "M", "name": kind, "pid": process, "tid": thread, "args": {"name": name}}


def _slice(name: str, process: int, thread: int, span: tuple[float, float], about: dict[str, Any]) -> dict[str, Any]:
    began, ended = span
    times = {"ts": 1e6 * began, "dur": round(1e6 * (ended - began), 3)}
    return {"ph": "X", "name": name, "pid": process, "tid": thread, **times, "args": about}
