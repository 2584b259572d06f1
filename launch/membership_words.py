"""What is said about generations of an elastic job, in words."""

from __future__ import annotations

import itertools
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Loss:
    """A member that was lost: the rank it had, its slot and host, and why."""

    rank: int
    slot: int
    host: str
    why: str


def losses(lost: Sequence[Loss]) -> str:
    """Who was lost, ranks with the same reason together.

    >>> losses([Loss(2, 2, "b", "killed by SIGKILL"), Loss(3, 5, "b", "killed by SIGKILL")])
    'ranks 2, 3 [5] (host b) were lost: killed by SIGKILL'
    """
    groups: dict[tuple[str, str], list[str]] = {}
    for loss in sorted(lost, key=lambda loss: loss.slot):
        groups.setdefault((loss.host, loss.why), []).append(_named(loss.rank, loss.slot))
    return "; ".join(
        f"rank{'s' * (len(ranks) > 1)} {', '.join(ranks)}{_on(host)} {'were' if len(ranks) > 1 else 'was'} lost: {why}"
        for (host, why), ranks in groups.items()
    )


def joined(slots: Sequence[int], members: Sequence[int]) -> str:
    """Who came.

    >>> joined([5, 6], [0, 1, 5, 6])
    'ranks 2 [5], 3 [6] joined'
    """
    names = [_named(members.index(slot), slot) for slot in slots if slot in members]
    return f"rank{'s' * (len(names) > 1)} {', '.join(names)} joined" if names else ""


def generation(
    number: int, members: Sequence[int], lost: Sequence[Loss], came: Sequence[int], said: Sequence[Mapping[str, Any]]
) -> str:
    """The line about a generation that stands. ``said``: what each member told of it.

    >>> generation(1, [0], [Loss(1, 1, "localhost", "killed by SIGKILL")], [], [{"step": 41, "repeats": True, "stall_s": 1.26}])
    'generation 1: 1 rank; rank 1 was lost: killed by SIGKILL; step 42 is done again; went on after 1.3 s'
    """
    step = max((int(each.get("step") or 0) for each in said), default=0)
    repeats = any(each.get("repeats") for each in said)
    stall_s = max((float(each.get("stall_s") or 0.0) for each in said), default=0.0)
    parts = [
        f"generation {number}: {len(members)} rank{'s' * (len(members) != 1)}",
        losses(lost),
        joined(came, members),
        f"step {step + 1} is done again" if repeats else f"after step {step}",
        f"went on after {stall_s:.1f} s",
    ]
    return "; ".join(part for part in parts if part)


def hosts(names: Sequence[str]) -> str:
    """The host of each rank, as PHALANX_HOSTS says it.

    >>> hosts(["a", "a", "b", "a"])
    'a:2,b:1,a:1'
    """
    return ",".join(f"{name}:{len(list(same))}" for name, same in itertools.groupby(names))


def place(rank: int, slot: int, host: str) -> str:
    """
    >>> place(2, 5, "b")
    'rank 2 [5] (host b)'
    """
    return f"rank {_named(rank, slot)}{_on(host)}"


def newcomer(slot: int, host: str) -> str:
    """A process that is no member yet: its output carries the number of its slot."""
    return f"the newcomer [{slot}]{_on(host)}"


def ending(code: int) -> str:
    """
    >>> ending(-9)
    'killed by SIGKILL'
    """
    known = {int(one): one.name for one in signal.Signals}
    return f"killed by {known.get(-code, f'signal {-code}')}" if code < 0 else f"ended with exit code {code}"


def listed(names: Sequence[str]) -> str:
    """
    >>> listed(["rank 0", "rank 1", "rank 2"])
    'rank 0, rank 1 and rank 2'
    """
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last


def _named(rank: int, slot: int) -> str:
    """The rank, and its slot, which is in front of its lines, where that is another number."""
    return str(rank) if rank == slot else f"{rank} [{slot}]"


def _on(host: str) -> str:
    return "" if host == "localhost" else f" (host {host})"
