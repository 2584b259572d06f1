"""The small state that rides on the last reduction of a step: weight, loss, used parameters, batch statistics, votes.

Each shard leaves one :class:`ShardState`; states are merged in the order of the tree over shards, like the gradients. What
belongs to a rank rather than to a shard (votes) travels beside them and is joined by rank.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .messages import Messages
from .reduction.tree import Node, fold, whole_subtrees

Statistics = dict[str, tuple[float, np.ndarray, np.ndarray]]
"""``"layer#call"`` -> (n, mean, M2)."""


@dataclass(slots=True)
class ShardState:
    """Sums over the shards below one node of the tree."""

    weight: float = 0.0
    loss: float = 0.0
    """Sum of loss times weight."""
    used_by_some: np.ndarray = field(default_factory=lambda: np.zeros(0, bool))
    used_by_all: np.ndarray = field(default_factory=lambda: np.zeros(0, bool))
    statistics: Statistics = field(default_factory=dict)


@dataclass(slots=True)
class Votes:
    """What the ranks must agree on at the end of a step."""

    stop: str | None = None
    """The word of the first rank that was asked to stop, for example ``SIGTERM``."""
    again: bool = False
    """Some rank saw one more backward pass than it had counted on: the overlapped sums are void."""
    named: frozenset[str] = frozenset()
    """What ``phalanx.vote`` was called for on any rank since the last step."""
    notes: tuple[str, ...] = ()
    """What ranks tell all others with the step, in their order: what must not be lost with a rank."""


def merge(left: ShardState, right: ShardState) -> ShardState:
    """The state of a node from its children. Means merge by Chan, Golub and LeVeque's rule (COMPSTAT 1982)."""
    statistics = dict(left.statistics)
    for key, entry in right.statistics.items():
        statistics[key] = _merge_moments(statistics[key], entry) if key in statistics else entry
    return ShardState(
        left.weight + right.weight,
        left.loss + right.loss,
        left.used_by_some | right.used_by_some,
        left.used_by_all & right.used_by_all,
        statistics,
    )


def _merge_moments(a: tuple[float, Any, Any], b: tuple[float, Any, Any]) -> tuple[float, Any, Any]:
    (n_a, mean_a, m2_a), (n_b, mean_b, m2_b) = a, b
    n = n_a + n_b
    delta = mean_b - mean_a
    return n, mean_a + delta * (n_b / n), m2_a + m2_b + delta * delta * (n_a * n_b / n)


def exchange(
    messages: Messages,
    partials: Mapping[Node, ShardState | None],
    votes: Votes,
    ranges: Sequence[tuple[int, int]],
    shards: int,
) -> tuple[ShardState | None, Votes]:
    """All ranks' partial states merged in tree order, and all votes joined; equal on all ranks.

    Posted messages have left this process when it returns: from then on this rank's death cannot take its part back.
    """
    own = own_states(messages.rank, partials, ranges, shards)
    rows = messages.programs.all_gather_bytes(messages, encode(own, votes))
    messages.flush()
    return join(rows, ranges, shards)


def own_states(
    rank: int, partials: Mapping[Node, ShardState | None], ranges: Sequence[tuple[int, int]], shards: int
) -> list[ShardState | None]:
    """Of each whole subtree of the rank's shards what it has."""
    return [partials.get(node) for node in whole_subtrees(*ranges[rank], shards)]


def join(rows: Sequence[bytes], ranges: Sequence[tuple[int, int]], shards: int) -> tuple[ShardState | None, Votes]:
    """Merge what every rank sent (its bytes, in the order of ranks)."""
    leaves: dict[Node, ShardState | None] = {}
    joined = Votes()
    for row, owned in zip(rows, ranges, strict=True):
        states, votes = decode(row)
        leaves.update(zip(whole_subtrees(*owned, shards), states, strict=True))
        joined = Votes(
            joined.stop or votes.stop,
            joined.again or votes.again,
            joined.named | votes.named,
            joined.notes + votes.notes,
        )
    return fold((0, shards), leaves, merge), joined


def encode(states: Sequence[ShardState | None], votes: Votes) -> bytes:
    """Packed numbers, a few words as JSON if there are any, and the arrays as float64 behind them."""
    said = votes.stop is not None or votes.named or votes.notes
    words = json.dumps([votes.stop, sorted(votes.named), votes.notes]).encode() if said else b""
    parts = [_HEAD.pack(len(states), len(words), votes.again), words]
    arrays: list[np.ndarray] = []
    for state in states:
        if state is None:
            parts.append(_ABSENT)
            continue
        flags = state.used_by_some, state.used_by_all
        parts.append(_STATE.pack(state.weight, state.loss, flags[0].size, flags[1].size, len(state.statistics)))
        parts += [np.packbits(each).tobytes() for each in flags]
        for key, (n, mean, m2) in state.statistics.items():
            name = key.encode()
            parts += (_LAYER.pack(len(name), n, mean.size), name)
            arrays += (mean, m2)
    head = b"".join(parts)
    body = [np.asarray(array, np.float64).tobytes() for array in arrays]
    return b"".join((_SIZE.pack(len(head)), head, bytes(-len(head) % 8), *body))


def decode(data: bytes) -> tuple[list[ShardState | None], Votes]:
    """The inverse of :func:`encode`."""
    size = _SIZE.unpack_from(data)[0] + _SIZE.size
    at = size + -size % 8
    body = np.frombuffer(data, np.float64, offset=at) if len(data) > at else np.zeros(0)
    count, length, again = _HEAD.unpack_from(data, _SIZE.size)
    at = _SIZE.size + _HEAD.size + length
    stop, named, notes = json.loads(data[at - length : at]) if length else (None, (), ())
    taken = 0
    states: list[ShardState | None] = []
    for _ in range(count):
        weight, loss, some, every, layers = _STATE.unpack_from(data, at)
        at += _STATE.size
        if layers < 0:
            states.append(None)
            continue
        flags = []
        for bits in (some, every):
            packed = np.frombuffer(data, np.uint8, -(-bits // 8), at)
            flags.append(np.unpackbits(packed, count=bits).view(bool))
            at += packed.size
        statistics: Statistics = {}
        for _ in range(layers):
            length, n, channels = _LAYER.unpack_from(data, at)
            at += _LAYER.size + length
            key = data[at - length : at].decode()
            statistics[key] = (n, body[taken : taken + channels], body[taken + channels : taken + 2 * channels])
            taken += 2 * channels
        states.append(ShardState(weight, loss, flags[0], flags[1], statistics))
    return states, Votes(stop, again, frozenset(named), tuple(notes))


_SIZE = struct.Struct("<q")
_HEAD = struct.Struct("<II?")
"""States, bytes of words, whether to do it again."""
_STATE = struct.Struct("<ddIIi")
"""Weight, loss, parameters (twice), layers with statistics; -1 layers: no state."""
_LAYER = struct.Struct("<IdI")
"""Bytes of the name, n, channels."""
_ABSENT = _STATE.pack(0.0, 0.0, 0, 0, -1)
