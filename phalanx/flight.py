"""``phalanx flight DIR``: the flight records of all ranks, merged into one story.

Nothing here needs the training side: records are JSON lines (see ``dist/diagnosis/flight_file.py``), and may come from any machine.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .core.errors import PhalanxError
from .flight_trace import write_trace

_SHOWN = 10
"""So many operations are listed up to the one that failed."""
_COLUMNS = 8
"""With more ranks, a line for each operation tells the first and the last rank only."""


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation of one rank; times in seconds on rank 0's clock."""

    sequence: int
    name: str
    submitted: float
    began: float
    ended: float
    nbytes: int
    error: str

    @property
    def is_complete(self) -> bool:
        return self.ended > 0 and not self.error


@dataclass(slots=True)
class Record:
    """What one rank left."""

    head: dict[str, Any]
    shift_s: float = 0.0
    """What is added to this rank's times to get rank 0's."""
    operations: dict[str, list[Operation]] = field(default_factory=dict)
    """By the name of the group, oldest first."""
    waitings: dict[str, list[tuple[str, float, float]]] = field(default_factory=dict)
    """(operation, began, ended) by the name of the group."""

    @property
    def rank(self) -> int:
        return self.head["rank"]


def read_records(folder: str) -> list[Record]:
    """All records in ``folder``, by rank. Raises PhalanxError when there are none or one cannot be read."""
    paths = sorted(Path(folder).glob("rank-*.jsonl"))
    if not paths:
        raise PhalanxError(f"{folder}: expected flight records (rank-0.jsonl, ...), found none")
    heads: list[tuple[Record, list[dict[str, Any]]]] = []
    for path in paths:
        try:
            first, *rows = [json.loads(line) for line in path.read_text().splitlines()]
            heads.append((Record(first), rows))
            _ = first["rank"], first["groups"], first["wall_s"]
        except (ValueError, KeyError, TypeError) as error:
            raise PhalanxError(f"{path}: not a flight record: {error!r}") from None
    heads.sort(key=lambda pair: pair[0].rank)
    for record, rows in heads:
        record.shift_s = _shift_s(record.head, heads[0][0].head)
        _fill(record, rows)
    return [record for record, _ in heads]


def _shift_s(head: dict[str, Any], first: dict[str, Any]) -> float:
    if head["clock_offset_s"] is not None:
        return -float(head["clock_offset_s"])
    # nobody measured it: the clocks of the day tell
    return (head["wall_s"] - head["monotonic_s"]) - (first["wall_s"] - first["monotonic_s"])


def _fill(record: Record, rows: Iterable[dict[str, Any]]) -> None:
    names = [group["name"] for group in record.head["groups"]]
    shift = record.shift_s
    for row in rows:
        name = names[row["group"]]
        if row["kind"] == "waiting":
            record.waitings.setdefault(name, []).append((row["name"], row["began"] + shift, row["ended"] + shift))
            continue
        ended = row["ended"] + shift if row["ended"] else 0.0
        times = (row["submitted"] + shift, row["began"] + shift, ended)
        operation = Operation(row["sequence"], row["name"], *times, row["nbytes"], row["error"])
        record.operations.setdefault(name, []).append(operation)


# --- the story --------------------------------------------------------------------------------------------------------


def story(records: Sequence[Record]) -> str:
    """What happened, for people."""
    end = max((op.ended or op.began for r in records for ops in r.operations.values() for op in ops), default=0.0)
    groups = list(dict.fromkeys(group["name"] for record in records for group in record.head["groups"]))
    parts = [_heads(records)]
    for group in groups:
        members = [record for record in records if group in record.operations]
        if members:
            parts.append(_of_group(group, members, _silent(records, group), end))
    return "\n\n".join(parts)


def _heads(records: Sequence[Record]) -> str:
    head = records[0].head
    there = {record.rank for record in records}
    silent = [rank for rank in range(head["size"]) if rank not in there]
    lines = [f"{head['size']} ranks over {head['backend']}; records of {ranks_in_words(sorted(there))}"]
    if silent:
        lines[0] += f"; {ranks_in_words(silent)} left none: killed, stopped, or still at work when the job ended"
    for record in records:
        head = record.head
        errors = head["errors"] or ["no error"]
        lines.append(f"rank {head['rank']} (host {head['host']}, pid {head['pid']}) stood at {head['line']}")
        lines += [f"    {error}" for error in errors]
    return "\n".join(lines)


def _silent(records: Sequence[Record], group: str) -> list[int]:
    ranks = next(g["ranks"] for record in records for g in record.head["groups"] if g["name"] == group)
    return [rank for rank in ranks if rank not in {record.rank for record in records}]


def _of_group(group: str, members: Sequence[Record], silent: Sequence[int], end: float) -> str:
    table = {record.rank: {op.sequence: op for op in record.operations[group]} for record in members}
    number = first_incomplete(table)
    if number is None:
        last = max((sequence for row in table.values() for sequence in row), default=0)
        lines = [f"{group}: every rank that left a record completed all its operations"]
    else:
        last = number
        lines = [_what(group, number, table), *(_fate(rank, number, row, end) for rank, row in table.items())]
        lines += [f"    rank {rank}: no record" for rank in silent]
    lines += _pairs(members, group, end)
    lines += ["  operations before the end, in seconds (and how many milliseconds each took):"]
    return "\n".join([*lines, *_last_operations(table, last, end)])


def first_incomplete(table: dict[int, dict[int, Operation]]) -> int | None:
    """The lowest number of an operation that not all ranks completed under the same name; None where there is none.

    ``table``: rank -> number -> operation. Numbers that a rank's ring no longer holds are not looked at.
    """
    if not any(table.values()):
        return None
    kept = [min((n for n in row if n > 0), default=1) for row in table.values()]
    for number in range(max(kept), max((n for row in table.values() for n in row), default=0) + 1):
        here = [row.get(number) for row in table.values()]
        names = {op.name for op in here if op is not None}
        if len(names) > 1 or any(op is None or not op.is_complete for op in here):
            return number
    return None


def _what(group: str, number: int, table: dict[int, dict[int, Operation]]) -> str:
    names: dict[str, list[int]] = {}
    for rank, row in table.items():
        if number in row:
            names.setdefault(row[number].name, []).append(rank)
    if len(names) > 1:
        said = "; ".join(f"{name} on {ranks_in_words(ranks)}" for name, ranks in names.items())
        return f"{group}: the ranks differ in operation {number}: {said}"
    return f"{group}: the first operation that not all ranks completed is {number}: {next(iter(names), '?')}"


def _fate(rank: int, number: int, row: dict[int, Operation], end: float) -> str:
    operation = row.get(number)
    if operation is None:
        before = max((op for op in row.values() if op.sequence > 0), key=lambda op: op.sequence, default=None)
        if before is None:
            return f"    rank {rank}: did nothing in this group"
        when = f"ended {end - before.ended:.3f} s before the end" if before.ended else "which it did not end"
        return f"    rank {rank}: did not begin it; its last was {before.sequence}: {before.name}, {when}"
    words = f"    rank {rank}: began it {end - operation.began:.3f} s before the end"
    if not operation.ended:
        return f"{words} and did not come back"
    took = f"{operation.ended - operation.began:.3f} s"
    if operation.error:
        return f"{words}, gave up after {took}: {operation.error.partition(':')[0]}"
    return f"{words}, completed it in {took}"


def _pairs(members: Sequence[Record], group: str, end: float) -> list[str]:
    """Messages between two ranks that were not completed."""
    found = [(r.rank, op) for r in members for op in r.operations[group] if op.sequence < 0 and not op.is_complete]
    return [
        f"    rank {rank}: {op.name}: began {end - op.began:.3f} s before the end, "
        + (f"gave up: {op.error.partition(':')[0]}" if op.ended else "did not come back")
        for rank, op in found
    ]


def _last_operations(table: dict[int, dict[int, Operation]], last: int, end: float) -> list[str]:
    lines = []
    for number in range(max(1, last - _SHOWN + 1), last + 1):
        row = {rank: operations[number] for rank, operations in table.items() if number in operations}
        if row:
            name = next(iter(row.values())).name
            lines.append(f"    {number}: {name}")
            lines.append("        " + (_columns(row, end) if len(table) <= _COLUMNS else _extremes(row, end)))
    return lines


def _columns(row: dict[int, Operation], end: float) -> str:
    return "  ".join(f"rank {rank} -{end - op.began:.3f} ({_took(op)})" for rank, op in row.items())


def _extremes(row: dict[int, Operation], end: float) -> str:
    order = sorted(row, key=lambda rank: row[rank].began)
    longest = max(row, key=lambda rank: row[rank].ended - row[rank].began)
    late_ms = 1e3 * (row[order[-1]].began - row[order[0]].began)
    return (
        f"{len(row)} ranks; first rank {order[0]} -{end - row[order[0]].began:.3f}, last rank {order[-1]} {late_ms:.1f} ms "
        f"later; longest on rank {longest} ({_took(row[longest])})"
    )


def _took(operation: Operation) -> str:
    if not operation.ended:
        return "not ended"
    return f"{1e3 * (operation.ended - operation.began):.1f} ms" + (", failed" if operation.error else "")


def ranks_in_words(ranks: Sequence[int]) -> str:
    """``rank 3`` or ``ranks 0, 1``."""
    return ("rank " if len(ranks) == 1 else "ranks ") + ", ".join(map(str, ranks))


def print_flight(folder: str, trace: str | None) -> int:
    """Print the story of ``folder``; with ``trace`` write a trace for Perfetto (or chrome://tracing) there, too."""
    records = read_records(folder)
    print(story(records))
    if trace is not None:
        count = write_trace(records, trace)
        print(f"\n{count} slices in {trace}: open it in https://ui.perfetto.dev or chrome://tracing")
    return 0
