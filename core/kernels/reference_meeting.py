"""The end of a step between ranks that share memory, where nothing is compiled: left to the caller."""

from __future__ import annotations

from typing import Any

BEGIN, ARRIVED, ALL_HERE, JOINED, ARRIVED_AGAIN, DONE = range(6)
"""How far ``end_of_step`` has got: not begun; this rank's area is written; all ranks have come, and not all of them say what was
expected; their states are merged; the mean is written and this rank says so; all others have said so too."""

WAKE = 16
"""Added to the stage where another rank sleeps until this one has arrived."""


def end_of_step(stage: int, *arguments: Any) -> int:
    """Go on from ``stage`` as far as one can without waiting; how far that was. Array code can do nothing of it."""
    return stage


KERNELS = {"end_of_step": end_of_step}
