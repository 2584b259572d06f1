"""The end of a step between ranks that share memory, where nothing is compiled: left to the caller."""

from __future__ import annotations

from typing import Any

BEGIN, ARRIVED, ALL_HERE, JOINED, ARRIVED_AGAIN, DONE = range(6)
"""How far ``end_of_step`` has got: not begun; this rank's area is written; all ranks have come, and not all of them say what was
expected; their states are merged; the mean is written and this rank says so; all others have said so too."""

WAKE = 16
"""Added to the stage where another rank sleeps until this one has arrived."""

(
    ROW, HEAD, AREA, TEXT, NOTE, PHASE, LENGTHS, SLEEPERS, INDEX, SIZE, POLLS, YIELDS, CONTROL,
    OWN_NOTE, OWN_NOTE_NBYTES, DATA, DATA_NBYTES, CONSTANT_NBYTES, MIDDLE, MIDDLE_NBYTES, MIDDLE_AGAIN, MIDDLE_AGAIN_NBYTES,
    EXPECTED, WIDTH, SIZES, PAIRS, MERGINGS, SHARE, PRODUCT, CHANNELS, TOTALS, MOMENTS, ONE, OTHER, START, STOP, RUNNING, SHARES, LENGTH,
) = range(39)  # fmt: skip
"""Indices into what ``end_of_step`` is told, int64. Of the shared words: sizes and offsets in bytes, who this rank is among how many,
how often to look before the interpreter waits, and where they are. Then addresses of arrays, and their sizes."""

MEAN, VARIANCE, BATCHES, FROM, CHANNELS_OF, RUNNING_LENGTH = range(6)
"""Indices into each layer's row of ``running``: addresses of its running statistics; from which channel on, how many."""

OF_NOTE, OF_CONSTANT, OF_DATA = range(3)
"""Indices into a rank's ``sizes``: bytes of the note, of what is constant in the data, of the data."""


def end_of_step(stage: int, *arguments: Any) -> int:
    """Go on from ``stage`` as far as one can without waiting; how far that was. Array code can do nothing of it.

    Arguments: what is told (see above); numbers of the meeting, the operation and the step; weight and loss of this rank; of
    how many layers the running statistics are moved, too.
    """
    return stage


KERNELS = {"end_of_step": end_of_step}
