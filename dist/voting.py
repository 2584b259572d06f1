"""Decisions that all ranks make together: stop, save, give up early.

A vote rides on the last message of the next optimizer step and costs no message of its own; :func:`agree` decides now, by
one small message.
"""

from __future__ import annotations

from ..core.void import is_void
from . import exchanges
from .group import current


def vote(name: str, flag: bool = True) -> None:
    """Vote for ``name`` at the end of the next optimizer step, if ``flag``; then :func:`agreed` is true on all ranks.

    Any rank may call it, any number of times, the others need not.

    >>> import phalanx
    >>> phalanx.vote("stop early", flag=False)
    """
    if not isinstance(name, str) or not name:
        raise TypeError(f"vote expects a name, got {name!r}")
    if flag:
        current().votes.add(name)


def agreed(name: str) -> bool:
    """Whether any rank had voted for ``name`` when the last optimizer step of a DataParallel was completed.

    The same answer on all ranks until the next step; no message is sent. False in a step that is void.

    >>> phalanx.agreed("stop early")
    False
    """
    return name in current().agreed and not is_void()


def agree(flag: bool, *, name: str) -> bool:
    """Whether ``flag`` is true on any rank; the same answer on all of them, which must all call. False in a step that is void.

    >>> phalanx.agree(1 > 2, name="stop early")
    False
    """
    group = current()
    if is_void():
        return False
    if group.size == 1:
        return bool(flag)
    return any(exchanges.gather_object(group, bool(flag), name=f"agree on {name}") or ())


def request_stop(reason: str) -> None:
    """Ask for an agreed stop, as SIGTERM does: after the next step the Checkpointer saves and ends the job with code 0.

    Any rank may call, the others need not. ``reason`` is what rank 0 says then.

    >>> phalanx.request_stop("the disk is nearly full")  # doctest: +SKIP
    """
    group = current()
    group.stop_heard = group.stop_heard or reason
