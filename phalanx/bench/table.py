"""The tables that ``phalanx bench`` prints."""

from __future__ import annotations

import statistics
from typing import Any, Protocol


class Turns(Protocol):
    """What a table needs of :class:`.main.Series`."""

    ranks: int
    nbytes: int
    seconds: dict[str, list[float]]

    def median(self, title: str) -> float: ...
    def ratio(self, slow: str, fast: str) -> float | None: ...


HEADS = ("contestant", "median", "from", "to", "GB/s", "bus GB/s", "of limit", "x gloo")

QUIET_LOAD = 0.7
"""Processes that want a processor before the run begins (the last minute's mean); above it the machine is not idle."""


def heading(about: dict[str, Any], missing: list[str]) -> list[str]:
    packages = ", ".join(f"{name} {version}" for name, version in about["packages"].items())
    settings = " ".join(f"{name}={value}" for name, value in about["settings"].items())
    return [
        f"all-reduce of float32 in place; {about['rounds']} rounds, contestants take turns, medians over rounds",
        f"{about['processor']}, {about['cores']} cores, {about['system']}, Python {about['python']}, {packages}",
        f"commit {about['commit']}; environment {settings}, unset {', '.join(about['unset'])}",
        *_busy(about["load_before"]),
        "GB/s: bytes of the array over the time; bus GB/s: times 2 (ranks - 1) / ranks; of limit, x gloo: medians of ratios "
        "within a round (above 1: faster)",
        *missing,
        "",
    ]


def _busy(load: float) -> list[str]:
    if load < QUIET_LOAD:
        return []
    return [f"NOTE: other processes use this machine's processors (load {load:.1f}): these figures say little"]


def block(series: Turns, limit: str, gloo: str) -> list[str]:
    """One size at one number of ranks."""
    rows = [HEADS, *(_row(series, title, limit, gloo) for title in series.seconds)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(HEADS))]
    lines = [
        "  ".join(
            cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    return [f"{series.ranks} ranks, {size_words(series.nbytes)}", *(f"  {line}" for line in lines), ""]


def _row(series: Turns, title: str, limit: str, gloo: str) -> tuple[str, ...]:
    times, median = series.seconds[title], series.median(title)
    speed = series.nbytes / median / 1e9
    summed = title != "memcpy"
    return (
        title,
        time_words(median),
        time_words(min(times)),
        time_words(max(times)),
        f"{speed:.2f}",
        f"{speed * 2 * (series.ranks - 1) / series.ranks:.2f}" if summed else "",
        _ratio(series.ratio(limit, title) if summed else None),
        _ratio(series.ratio(gloo, title) if summed else None),
    )


def _ratio(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def summary(found: list[Any], limit: str, gloo: str) -> str:
    """One line for one number of ranks: our own at the largest and the smallest size."""
    large, small = max(found, key=lambda s: s.nbytes), min(found, key=lambda s: s.nbytes)
    ours = [
        title for title in large.seconds if title.startswith(("exact tree,", "fast mode")) and "divided" not in title
    ]
    parts = []
    for title in ours:
        of_limit, of_gloo = large.ratio(limit, title), large.ratio(gloo, title)
        words = f"{title} {time_words(large.median(title))}, {of_limit:.2f} of the limit"
        words += f", {of_gloo:.1f} times gloo" if of_gloo is not None else ""
        parts.append(f"{words}, {time_words(small.median(title))} at {size_words(small.nbytes)}")
    return f"{large.ranks} ranks, {size_words(large.nbytes)}: {'; '.join(parts)}"


def time_words(seconds: float) -> str:
    """
    >>> time_words(0.00000312), time_words(0.0123)
    ('3.1 us', '12.30 ms')
    """
    if seconds < 1e-3:
        return f"{seconds * 1e6:.1f} us"
    return f"{seconds * 1e3:.2f} ms" if seconds < 1 else f"{seconds:.2f} s"


def size_words(nbytes: int) -> str:
    """
    >>> size_words(4096), size_words(64 << 20), size_words(100)
    ('4 KB', '64 MB', '100 B')
    """
    for unit, scale in (("GB", 1 << 30), ("MB", 1 << 20), ("KB", 1 << 10)):
        if nbytes >= scale and nbytes % scale == 0:
            return f"{nbytes // scale} {unit}"
    return f"{nbytes} B"


def spread(times: list[float]) -> tuple[float, float, float]:
    """(least, median, most)"""
    return min(times), statistics.median(times), max(times)
