"""The report for people: grouped, one paragraph for each finding; with colours on a terminal."""

from __future__ import annotations

import os
import sys
import textwrap
from collections.abc import Iterable, Sequence
from typing import Any

from .finding import SEVERITIES, Finding

MARKS = {"ok": "ok", "note": "note", "warning": "WARNING", "error": "ERROR"}
STYLES = {"ok": "\x1b[32m", "note": "\x1b[36m", "warning": "\x1b[33;1m", "error": "\x1b[31;1m"}
_BOLD, _PLAIN = "\x1b[1m", "\x1b[0m"
_INDENT = 11


def lines(findings: Sequence[Finding], hosts: int, columns: int, colour: bool) -> list[str]:
    """The report without its tables."""
    out: list[str] = []
    for topic in dict.fromkeys(finding.topic for finding in findings):
        out.append(f"{_BOLD}{topic}{_PLAIN}" if colour else topic)
        for finding in findings:
            if finding.topic == topic:
                out += _paragraph(finding, hosts, columns, colour)
        out.append("")
    return out


def _paragraph(finding: Finding, hosts: int, columns: int, colour: bool) -> list[str]:
    mark = MARKS[finding.severity]
    where = f" [{', '.join(finding.hosts)}]" if finding.hosts and len(finding.hosts) < hosts else ""
    shown = (
        f"{STYLES[finding.severity]}{mark}{_PLAIN}{' ' * (_INDENT - 2 - len(mark))}"
        if colour
        else f"{mark:<{_INDENT - 2}}"
    )
    out = _wrapped(finding.found + where, columns)
    out[0] = f"  {shown}{out[0][_INDENT:]}"
    if finding.means:
        out += _wrapped(finding.means, columns)
    if finding.fix:
        out.append(f"{' ' * _INDENT}fix: {finding.fix}")  # in one piece: it is there to be copied
    return out


def _wrapped(text: str, columns: int) -> list[str]:
    indent = " " * _INDENT
    return textwrap.wrap(
        text,
        max(60, columns),
        initial_indent=indent,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )


def summary(findings: Iterable[Finding], code: int) -> str:
    counts = {severity: sum(f.severity == severity for f in findings) for severity in SEVERITIES}
    words = [
        f"{counts['error']} errors",
        f"{counts['warning']} warnings",
        f"{counts['note']} notes",
        f"{counts['ok']} ok",
    ]
    return f"{', '.join(words)}; exit code {code}"


def table(rows: Sequence[Sequence[str]], heads: Sequence[str]) -> list[str]:
    """Aligned columns; the first is text, the others are numbers."""
    widths = [max(len(row[i]) for row in [heads, *rows]) for i in range(len(heads))]
    return [
        "  "
        + "  ".join(
            cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in [heads, *rows]
    ]


def on_terminal(stream: Any = None) -> bool:
    stream = stream or sys.stdout
    return stream.isatty() and not os.environ.get("NO_COLOR")
