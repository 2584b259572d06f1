"""What the membership of an elastic job decides: things to be done, and who must leave when two cannot reach each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Tell:
    """Send a message to a slot."""

    slot: int
    message: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Kill:
    """Kill a slot's process, because of ``why``; then say that it was lost."""

    slot: int
    why: str
    cut_off: bool = False
    """Is it its host that the others cannot reach?"""


@dataclass(frozen=True, slots=True)
class Say:
    """Print a line."""

    text: str


@dataclass(frozen=True, slots=True)
class End:
    """The job ends with this code."""

    code: int
    text: str


Action = Tell | Kill | Say | End


def expelled(
    pairs: Sequence[tuple[int, int]], members: Sequence[int], nodes: Mapping[int, int]
) -> list[tuple[int, list[int]]]:
    """Who must leave when these pairs of slots cannot reach each other, each with those that could not reach it.

    The host (for two slots of one host: the slot) that most cannot reach, then the smaller one, then the one without rank 0.

    >>> expelled([(0, 2), (3, 1)], members=[0, 1, 2, 3], nodes={0: 0, 1: 0, 2: 1, 3: 1})
    [(2, [0]), (3, [1])]
    >>> expelled([(0, 2), (1, 2)], members=[0, 1, 2], nodes={0: 0, 1: 0, 2: 0})
    [(2, [0, 1])]
    """
    between = any(nodes[one] != nodes[other] for one, other in pairs)
    group_of = {number: nodes[number] if between else number for number in members}
    size = {group: list(group_of.values()).count(group) for group in group_of.values()}
    edges = {frozenset((group_of[one], group_of[other])) for one, other in pairs}
    edges = {edge for edge in edges if len(edge) == 2}
    gone: list[int] = []
    while edges:
        found = {group for edge in edges for group in edge}

        def weight(group: int) -> tuple[int, int, bool, int]:
            others = {other for edge in edges if group in edge for other in edge} - {group}  # noqa: B023
            return sum(size[other] for other in others), -size[group], group != group_of[members[0]], group

        worst = max(found, key=weight)
        gone.append(worst)
        edges = {edge for edge in edges if worst not in edge}
    result = []
    for number in members:
        if group_of[number] in gone:
            accusers = {other for pair in pairs if number in pair for other in pair} - {number}
            accusers = accusers or {one for pair in pairs for one in pair if group_of[one] not in gone}
            result.append((number, sorted(accusers)))
    return result
