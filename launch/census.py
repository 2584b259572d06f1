"""Which processes of a job are on this host; told to ``phalanx ps`` and ``phalanx stop`` of another one through ssh.

    python -m phalanx.launch.census MARK.NODE [end]

Prints one line of JSON after :data:`BEGIN`. ``end``: kills them first, and prints what is left.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from ..dist import env
from . import guardian

BEGIN = "\0phalanx census\0"
KILL_S = 3.0
RANK_NAMES = (env.NAMES["rank"], *env.RANK_NAMES)


@dataclass(frozen=True, slots=True)
class Found:
    """A process of a job."""

    pid: int
    rank: int | None
    """None: an agent, mpirun, or a child of a rank that does not say it."""


def of_host(place: str) -> list[Found]:
    """Those whose agent has the mark ``place``, and the agent."""
    wanted = {place, f"{place}.agent", place.rpartition(".")[0]}  # mpirun's ranks do not know the number of their host
    return find(lambda values: values.get(env.AGENT) in wanted)


def find(is_wanted: Callable[[dict[str, str]], bool]) -> list[Found]:
    """Processes of this user whose environment is wanted, without this one."""
    found = []
    for pid, text in guardian.environments():
        values = variables(text)
        if pid != os.getpid() and is_wanted(values):
            rank = next((values[name] for name in RANK_NAMES if values.get(name, "").isdigit()), None)
            found.append(Found(pid, None if rank is None else int(rank)))
    return found


def variables(text: bytes) -> dict[str, str]:
    """phalanx's own variables of an environment, and those by which mpirun tells the rank.

    >>> variables(b"\\0HOME=/root\\0PHALANX_RANK=2\\0")
    {'PHALANX_RANK': '2'}
    """
    words = (word.decode(errors="replace") for word in text.split(b"\0") if word)
    pairs = (word.partition("=") for word in words)
    return {name: value for name, _, value in pairs if name.startswith("PHALANX_") or name in RANK_NAMES}


def end(look: Callable[[], Iterable[Found]]) -> list[Found]:
    """Kill what ``look`` finds until it finds nothing; what is left."""
    patience = time.monotonic() + KILL_S
    while (left := list(look())) and time.monotonic() < patience:
        for process in left:
            guardian.signal_process(process.pid, signal.SIGKILL)
        time.sleep(guardian.PAUSE_S)
    return left


def main() -> None:
    place, *how = sys.argv[1:]
    found = end(lambda: of_host(place)) if how == ["end"] else of_host(place)
    print(BEGIN + json.dumps([[process.pid, process.rank] for process in found]), flush=True)


if __name__ == "__main__":
    main()
