"""One progress bar a job: on rank 0, on a terminal; silent everywhere else."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Sized
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from .dist.env import PROGRESS
from .dist.group import current

T = TypeVar("T")


def progress(items: Iterable[T], description: str = "", total: int | None = None) -> Iterator[T]:
    """Yield ``items`` and show how far they are: steps, rate and time left.

    ``description`` stands before the bar; ``total``: how many there are, where ``items`` has no length. One bar a job: on rank 0, on a
    terminal.

    >>> list(phalanx.progress([1, 2], "counting"))
    [1, 2]
    """
    if not is_shown():
        yield from items
        return
    if total is None and isinstance(items, Sized):
        total = len(items)
    with new_bar() as bar:
        task = bar.add_task(description, total=total, rate="")
        for item in items:
            yield item
            bar.advance(task)
            speed = bar.tasks[0].speed
            bar.update(task, rate=f"{speed:.1f}/s" if speed else "")


def is_shown() -> bool:
    """Whether this process has a terminal to show a bar on, and is the one that does."""
    group = current()
    # mpirun gives its ranks a terminal of their own, whatever its output goes to
    terminal = sys.stdout.isatty() and group.backend != "mpi"
    return group.rank == 0 and (terminal or os.environ.get(PROGRESS) == "1")


def new_bar() -> Progress:
    """A bar that leaves no trace; its tasks have the field ``rate``."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=Console(force_terminal=True), transient=True)
