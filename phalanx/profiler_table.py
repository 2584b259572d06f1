"""The table of a profile: what took longest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

NAME, SHAPES = 40, 36


@dataclass(frozen=True, slots=True)
class Row:
    """All spans of one name."""

    kind: str
    name: str
    shapes: Any
    """Of the op's arrays, where rows were asked for by shape."""
    calls: int
    total_s: float
    self_s: float
    """Without the other spans that happened within."""

    @property
    def mean_s(self) -> float:
        return self.total_s / self.calls


def render(rows: Sequence[Row], seconds: float, steps: int, limit: int, dropped: int) -> str:
    """Text; messages go on beside the training thread, so that they have lines of their own."""
    training = [row for row in rows if row.kind not in ("communication", "gpu")]
    messages = sorted((row for row in rows if row.kind == "communication"), key=lambda row: -row.total_s)
    on_gpu = [row for row in rows if row.kind == "gpu"]
    by_shape = any(row.shapes is not None for row in rows)
    known_s = sum(row.self_s for row in training)
    step = f", {steps} steps of {1e3 * seconds / steps:.3f} ms" if steps else ""
    lines = [f"{seconds:.3f} s{step}; {len(training)} kinds of spans, the longest:", _head(by_shape)]
    lines += [_line(row, seconds, by_shape) for row in training[:limit]]
    rest = training[limit:]
    if rest:
        own_s = sum(row.self_s for row in rest)
        lines.append(
            f"{f'{len(rest)} others':<{NAME}}{sum(r.calls for r in rest):>6}{1e3 * own_s:>9.2f}{'':>22}"
            f"{_percent(own_s, seconds):>8}"
        )
    outside_s = max(0.0, seconds - known_s)
    lines.append(
        f"{'outside of all: Python':<{NAME}}{'':>6}{1e3 * outside_s:>9.2f}{'':>22}{_percent(outside_s, seconds):>8}"
    )
    if on_gpu:
        lines.append("on the GPU, from event to event in its stream:")
        lines += [_line(row, seconds, by_shape) for row in on_gpu[:limit]]
        idle_s = max(0.0, seconds - sum(row.self_s for row in on_gpu))
        lines.append(f"{'no op on the GPU':<{NAME}}{'':>6}{1e3 * idle_s:>9.2f}{'':>22}{_percent(idle_s, seconds):>8}")
    if messages:
        lines += ["messages, beside the training thread:", *(_line(row, seconds, by_shape) for row in messages[:limit])]
    if dropped:
        lines.append(f"{dropped} spans are in the table but not in the trace, which was full")
    return "\n".join(lines)


def _head(by_shape: bool) -> str:
    shapes = "shapes" if by_shape else ""
    return f"{'what':<{NAME}}{'calls':>6}{'self ms':>9}{'total ms':>10}{'mean us':>12}{'%':>8}  {shapes}".rstrip()


def _line(row: Row, seconds: float, by_shape: bool) -> str:
    name = row.name if len(row.name) < NAME else row.name[: NAME - 2] + "…"
    shapes = "" if row.shapes is None else " ".join("x".join(map(str, s)) or "()" for s in row.shapes)[:SHAPES]
    return (
        f"{name:<{NAME}}{row.calls:>6}{1e3 * row.self_s:>9.2f}{1e3 * row.total_s:>10.2f}{1e6 * row.mean_s:>12.1f}"
        f"{_percent(row.self_s, seconds):>8}  {shapes if by_shape else ''}"
    ).rstrip()


def _percent(part_s: float, seconds: float) -> str:
    return f"{100 * part_s / seconds:.1f}" if seconds > 0 else "-"
