"""Faults on purpose, at a named point of a chosen rank and step: for tests of what survives.

``PHALANX_FAULT="checkpoint-before-rename@rank1@step40:kill"`` kills rank 1 there. Conditions may be left out (then any rank,
any step); several faults are joined by commas. Actions: ``kill`` (SIGKILL to this process), ``stop`` (SIGSTOP: alive and
silent), ``raise`` (RuntimeError), ``full`` (the error of a full disk). Points:

    checkpoint-begin             a save begins; every rank
    checkpoint-after-write       this rank's bytes are on disk; every rank
    checkpoint-before-manifest   all ranks have written, the manifest has not; rank 0
    checkpoint-before-rename     complete under its temporary name; rank 0
    checkpoint-after-rename      committed; rank 0
    before-reduce, after-reduce, after-update    around a step's last reduction and its update; every rank
    before-gather                this rank has updated its part of the parameters (ZeRO), others have not got it; every rank
"""

from __future__ import annotations

import errno
import os
import re
import signal
import threading
from dataclasses import dataclass

from .errors import RangeError
from .rank_local import of_rank

VARIABLE = "PHALANX_FAULT"
_FORM = re.compile(r"(?P<point>[a-z-]+)(?P<conditions>(@(rank|step|restart)\d+)*):(?P<action>kill|stop|raise|full)")


@dataclass(frozen=True, slots=True)
class Fault:
    """One line of the plan: where, when, and what happens."""

    point: str
    conditions: tuple[tuple[str, int], ...]
    action: str


class _Position(threading.local):
    rank = 0
    step = -1
    restart = 0


_position = of_rank(_Position())


def parse(text: str) -> tuple[Fault, ...]:
    """The faults that ``text`` describes; RangeError when it describes none.

    >>> parse("after-reduce@rank1@step40:kill")
    (Fault(point='after-reduce', conditions=(('rank', 1), ('step', 40)), action='kill'),)
    """
    faults = []
    for part in filter(None, text.split(",")):
        match = _FORM.fullmatch(part.strip())
        if match is None:
            raise RangeError(
                f"{VARIABLE}={text!r}: expected POINT@rankR@stepS:ACTION with ACTION kill, stop, raise or full, got {part!r}"
            )
        found = re.findall(r"@([a-z]+)(\d+)", match["conditions"])
        faults.append(Fault(match["point"], tuple((word, int(number)) for word, number in found), match["action"]))
    return tuple(faults)


plan = parse(os.environ.get(VARIABLE, ""))
"""What is to go wrong: nothing, as a rule."""


def arm(text: str) -> None:
    """Replace the plan of this process (``""``: no faults), as if the variable had been set."""
    global plan
    plan = parse(text)


def set_position(rank: int, step: int, restart: int | None = None) -> None:
    """Say where this thread's rank is: its number, the step it works on, and how often the job was restarted."""
    _position.rank, _position.step = rank, step
    if restart is not None:
        _position.restart = restart


def fault_point(name: str) -> None:
    """Do what the plan says for ``name`` here and now; nothing when there is no plan."""
    if not plan:
        return
    for fault in plan:
        if fault.point == name and all(getattr(_position, word) == number for word, number in fault.conditions):
            _act(fault)


def _act(fault: Fault) -> None:
    if fault.action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif fault.action == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)
    elif fault.action == "full":
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    else:
        raise RuntimeError(f"fault on purpose at {fault.point} ({VARIABLE})")
