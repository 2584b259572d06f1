"""The small state that rides on the last reduction of a step: weight, loss, used parameters, batch statistics, votes.

Each shard leaves one :class:`ShardState`; states are merged in the order of the tree over shards, like the gradients. What
belongs to a rank rather than to a shard (votes) travels beside them and is joined by rank.
"""

from __future__ import annotations

import json
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
    own = [partials.get(node) for node in whole_subtrees(*ranges[messages.rank], shards)]
    rows = messages.programs.all_gather_bytes(messages, encode(own, votes))
    messages.flush()
    return join(rows, ranges, shards)


def join(rows: Sequence[bytes], ranges: Sequence[tuple[int, int]], shards: int) -> tuple[ShardState | None, Votes]:
    """Merge what every rank sent (its bytes, in the order of ranks)."""
    leaves: dict[Node, ShardState | None] = {}
    joined = Votes()
    for row, owned in zip(rows, ranges, strict=True):
        states, votes = decode(row)
        leaves.update(zip(whole_subtrees(*owned, shards), states, strict=True))
        joined = Votes(joined.stop or votes.stop, joined.again or votes.again, joined.named | votes.named)
    return fold((0, shards), leaves, merge), joined


def encode(states: Sequence[ShardState | None], votes: Votes) -> bytes:
    """JSON for the words and small numbers, raw float64 behind it for the arrays. Floats travel as hex: exact."""
    arrays: list[np.ndarray] = []
    rows: list[Any] = []
    for state in states:
        if state is None:
            rows.append(None)
            continue
        moments = []
        for key, (n, mean, m2) in state.statistics.items():
            moments.append([key, float(n).hex(), mean.size])
            arrays += [np.asarray(mean, np.float64).reshape(-1), np.asarray(m2, np.float64).reshape(-1)]
        bits = [_bits(state.used_by_some), _bits(state.used_by_all)]
        rows.append([state.weight.hex(), state.loss.hex(), bits, moments])
    head = json.dumps([rows, votes.stop, votes.again, sorted(votes.named)]).encode()
    body = np.concatenate(arrays).tobytes() if arrays else b""
    return len(head).to_bytes(4, "little") + head + body


def decode(data: bytes) -> tuple[list[ShardState | None], Votes]:
    """The inverse of :func:`encode`."""
    size = int.from_bytes(data[:4], "little")
    rows, stop, again, named = json.loads(data[4 : 4 + size])
    body = np.frombuffer(data, np.float64, offset=4 + size) if len(data) > 4 + size else np.zeros(0)
    at = 0
    states: list[ShardState | None] = []
    for row in rows:
        if row is None:
            states.append(None)
            continue
        weight, loss, bits, moments = row
        statistics: Statistics = {}
        for key, n, channels in moments:
            statistics[key] = (float.fromhex(n), body[at : at + channels], body[at + channels : at + 2 * channels])
            at += 2 * channels
        some, every = (_flags(*packed) for packed in bits)
        states.append(ShardState(float.fromhex(weight), float.fromhex(loss), some, every, statistics))
    return states, Votes(stop, again, frozenset(named))


def _bits(flags: np.ndarray) -> list[Any]:
    return [flags.size, np.packbits(flags).tobytes().hex()]


def _flags(count: int, text: str) -> np.ndarray:
    return np.unpackbits(np.frombuffer(bytes.fromhex(text), np.uint8), count=count).astype(bool)
