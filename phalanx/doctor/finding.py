"""What a check says, and what it may look at."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

SEVERITIES = ("ok", "note", "warning", "error")
"""From good to bad. A note is worth knowing but needs nothing to be done."""
EXIT_CODES = {"ok": 0, "note": 0, "warning": 1, "error": 2}


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report: what was found, what it means, and the exact command or setting that mends it."""

    topic: str
    key: str
    """Stable name for programs, for example ``mpirun-mismatch``."""
    severity: str
    found: str
    means: str = ""
    fix: str = ""
    data: dict[str, Any] = field(default_factory=dict)
    """Figures for programs (JSON)."""
    hosts: tuple[str, ...] = ()
    """Where, in a job of several hosts."""

    def __post_init__(self) -> None:
        assert self.severity in SEVERITIES, self.severity
        assert SEVERITIES.index(self.severity) < 2 or (self.means and self.fix), f"{self.key}: says not what to do"

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> Finding:
        return cls(**{**row, "hosts": tuple(row["hosts"])})


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the checks of one machine start from."""

    environ: Mapping[str, str]
    """Without a launcher's rank variables: what a process that is started here would get."""
    python: str = sys.executable
    ranks: int = 1
    """How many ranks the job has that asks."""
    local_ranks: int = 1
    """How many of them are on this host."""

    @property
    def cores(self) -> int:
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def worst(findings: Iterable[Finding]) -> str:
    """The worst severity; ``ok`` where nothing was found.

    >>> worst([Finding("a", "b", "note", "c"), Finding("a", "b", "ok", "c")])
    'note'
    """
    return max((f.severity for f in findings), key=SEVERITIES.index, default="ok")


def joined(rows: Iterable[tuple[str, Finding]]) -> list[Finding]:
    """(host, finding) of several hosts -> equal findings once, with all their hosts."""
    found: dict[tuple[str, str, str], Finding] = {}
    for host, finding in rows:
        key = (finding.key, finding.severity, finding.found)
        known = found.get(key, finding)
        found[key] = replace(known, hosts=(*known.hosts, *(() if host in known.hosts else (host,))))
    return list(found.values())


def size_words(nbytes: float) -> str:
    """
    >>> size_words(16_777_216), size_words(950)
    ('16.8 MB', '950 B')
    """
    for unit, scale in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("KB", 1e3)):
        if nbytes >= scale:
            return f"{nbytes / scale:.3g} {unit}"
    return f"{nbytes:.0f} B"
