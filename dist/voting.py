"""Decisions that all ranks make together: stop, save, give up early.

A vote rides on the last message of the next optimizer step and costs no message of its own; :func:`agree` decides now, by
one small message.
"""

from __future__ import annotations

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

    The same answer on all ranks until the next step; no message is sent.

    >>> phalanx.agreed("stop early")
    False
    """
    return name in current().agreed


def agree(flag: bool, *, name: str) -> bool:
    """Whether ``flag`` is true on any rank; the same answer on all of them, which must all call.

    >>> phalanx.agree(1 > 2, name="stop early")
    False
    """
    group = current()
    if group.size == 1:
        return bool(flag)
    return any(group.control.all_gather_object(bool(flag), name=f"agree on {name}").wait())


def request_stop(reason: str) -> None:
    """Ask for an agreed stop, as SIGTERM does: after the next step the Checkpointer saves and ends the job with code 0.

    Any rank may call, the others need not. ``reason`` is what rank 0 says then.

    >>> phalanx.request_stop("the disk is nearly full")  # doctest: +SKIP
    """
    group = current()
    group.stop_heard = group.stop_heard or reason
