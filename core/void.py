"""Whether the step that the training loop is in counts.

When ranks are lost in the middle of a step the others do it again. What the loop still does of the first try, from the end of
its backward pass to the next step, must leave no trace: optimizers find no gradients then, and whatever else moves once a step
(schedules, averages, counters, checkpoints, ledgers) asks here.
"""

from __future__ import annotations

import threading

from .rank_local import of_rank


class _Local(threading.local):
    void = False


_local = of_rank(_Local())


def is_void() -> bool:
    """Whether the step under way does not count and will be given again.

    >>> is_void()
    False
    """
    return _local.void


def set_void(void: bool) -> None:
    """From here on the step does not count; the next step that opens sets it back."""
    _local.void = void
