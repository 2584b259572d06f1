"""What belongs to a rank is thread-local, because ranks can be threads of one process; a helper thread of a rank takes it over.

Every module with such state enters it here, once::

    _state = of_rank(_State())
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, TypeVar

Local = TypeVar("Local", bound=threading.local)
Carried = list[tuple[threading.local, dict[str, Any]]]

_all: list[threading.local] = []
_followers: list[Callable[[], None]] = []


def of_rank(local: Local) -> Local:
    """Enter a thread-local object that belongs to the rank rather than to the thread; returns it."""
    _all.append(local)
    return local


def carried() -> Carried:
    """What this thread's rank has, for :func:`take_over` in another thread of it."""
    return [(local, dict(local.__dict__)) for local in _all]


def take_over(state: Carried) -> None:
    """This thread works for the rank whose ``state`` this is. Lists and dicts in it are the same objects, plain values copies.

    >>> x = of_rank(threading.local()); x.rank = 3
    >>> helper = threading.Thread(target=lambda state: (take_over(state), print(x.rank)), args=(carried(),))
    >>> helper.start(); helper.join(); _all.remove(x)
    3
    """
    for local, values in state:
        local.__dict__.update(values)
    for follow in _followers:
        follow()


def when_taken_over(follow: Callable[[], None]) -> None:
    """Call ``follow`` in each thread that takes a rank over: for what a library keeps per thread by itself."""
    _followers.append(follow)
