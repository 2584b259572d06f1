"""How the ranks of a save or a resume agree: one acts and tells the others, or all act and hear of each other."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from ..core.errors import CheckpointError
from . import exchanges

Outcome = tuple[Any, str]
"""A result that JSON can hold, or None and what went wrong."""

VOID = "ranks were lost in this step, which is done again"
"""Why nothing was agreed on."""


class Agreement:
    """One rank's side; every call is collective. It never uses the channel of the gradients."""

    def __init__(self, group: Any) -> None:
        self._group = group

    @property
    def rank(self) -> int:
        """This rank's number now: in an elastic job it may change."""
        return self._group.rank  # type: ignore[no-any-return]

    @property
    def size(self) -> int:
        """How many ranks there are now."""
        return self._group.size  # type: ignore[no-any-return]

    def on_rank_0(self, what: str, action: Callable[[], Any]) -> Outcome:
        """Rank 0's result (JSON) on all ranks, or None and its problem."""
        told = outcome(action) if self.rank == 0 else None
        result, problem = exchanges.from_rank_0(self._group, told, name=f"checkpoint {what}") or (None, VOID)
        return result, problem

    def on_all_ranks(self, what: str, action: Callable[[], Any]) -> tuple[list[Any] | None, str]:
        """Every rank's result (JSON) on all ranks, or None and the problems of those that failed."""
        outcomes = exchanges.gather_object(self._group, outcome(action), name=f"checkpoint {what}")
        if outcomes is None:
            return None, VOID
        ranks: dict[str, list[str]] = {}
        for rank, (_, problem) in enumerate(outcomes):
            if problem:
                ranks.setdefault(problem, []).append(str(rank))
        problems = [f"rank {', '.join(who)}: {problem}" for problem, who in ranks.items()]
        return (None, "; ".join(problems)) if problems else ([result for result, _ in outcomes], "")

    def all_true(self, what: str, flag: bool) -> bool:
        """Whether ``flag`` is true on every rank."""
        rows = exchanges.gather_object(self._group, flag, name=f"checkpoint {what}")
        return rows is not None and all(rows)

    def say(self, line: str) -> None:
        """One line for a person, from rank 0."""
        if self.rank == 0:
            print(f"phalanx: {line}", file=sys.stderr, flush=True)


def outcome(action: Callable[[], Any]) -> Outcome:
    """The result, or None and what the disk refused; only that: a mistake of ours is raised."""
    try:
        return action(), ""
    except CheckpointError as error:
        return None, str(error)
    except OSError as error:
        return None, f"{error.strerror or error}"
