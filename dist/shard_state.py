"""The small state that rides on the last reduction of a step: weight, loss, used parameters, batch statistics, votes.

Each shard leaves one :class:`ShardState`; states are merged in the order of the tree over shards, like the gradients. What
belongs to a rank rather than to a shard (votes) travels beside them and is joined by rank.

This runs once a step between large products, when no cache holds anything of it: a state is few objects, and what is the same
from step to step (names, sizes, which parameters are used) is one of them.
"""

from __future__ import annotations

import functools
import json
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from .messages import Messages
from .reduction.tree import Node, fold, whole_subtrees


class Layout(NamedTuple):
    """What a state consists of beside its numbers."""

    used_by_some: bytes
    """For each parameter 1 if any shard used it, else 0."""
    used_by_all: bytes
    keys: tuple[str, ...]
    """``"layer#call"`` for each layer and call that left statistics."""
    counts: tuple[float, ...]
    """Over how many values each of them is taken."""
    sizes: tuple[int, ...]
    """How many channels each of them has."""


@dataclass(slots=True)
class ShardState:
    """Sums over the shards below one node of the tree."""

    weight: float
    loss: float
    """Sum of loss times weight."""
    layout: Layout
    moments: np.ndarray
    """(2, channels of all keys): mean and M2, float64."""

    def statistics(self) -> Iterator[tuple[str, float, np.ndarray]]:
        """(key, count, (2, channels): mean and M2) of each layer and call."""
        end = 0
        for key, count, size in zip(*self.layout[2:], strict=True):
            start, end = end, end + size
            yield key, count, self.moments[:, start:end]


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
    """The state of a node from its children."""
    one, other = left.layout, right.layout
    keys, counts, sizes, moments = one.keys, one.counts, one.sizes, left.moments
    if keys == other.keys:
        if keys:
            counts, moments = _merge_moments(counts, moments, other.counts, right.moments, sizes)
    else:
        keys, counts, sizes, moments = _join_keys(left, right)
    some, every = one.used_by_some, one.used_by_all
    if some != other.used_by_some:
        some = bytes(a | b for a, b in zip(some, other.used_by_some, strict=True))
    if every != other.used_by_all:
        every = bytes(a & b for a, b in zip(every, other.used_by_all, strict=True))
    layout = Layout(some, every, keys, counts, sizes)
    return ShardState(left.weight + right.weight, left.loss + right.loss, layout, moments)


def _merge_moments(
    counts_a: tuple[float, ...], a: np.ndarray, counts_b: tuple[float, ...], b: np.ndarray, sizes: tuple[int, ...]
) -> tuple[tuple[float, ...], np.ndarray]:
    """By Chan, Golub and LeVeque's rule (COMPSTAT 1982), all channels of all layers at once."""
    counts, share, product = _shares(counts_a, counts_b, sizes)
    delta = b[0] - a[0]
    merged = a + b
    np.add(a[0], delta * share, out=merged[0])
    delta *= delta
    delta *= product
    merged[1] += delta
    return counts, merged


@functools.lru_cache(maxsize=64)
def _shares(
    counts_a: tuple[float, ...], counts_b: tuple[float, ...], sizes: tuple[int, ...]
) -> tuple[tuple[float, ...], np.ndarray, np.ndarray]:
    """The counts together; for each channel the share of the right one, and the product of both over their sum."""
    counts = tuple(a + b for a, b in zip(counts_a, counts_b, strict=True))
    share = [b / n for b, n in zip(counts_b, counts, strict=True)]
    product = [a * b / n for a, b, n in zip(counts_a, counts_b, counts, strict=True)]
    return counts, np.repeat(share, sizes), np.repeat(product, sizes)


def _join_keys(
    left: ShardState, right: ShardState
) -> tuple[tuple[str, ...], tuple[float, ...], tuple[int, ...], np.ndarray]:
    """Where the shards went through different layers: what only one of them has is taken as it is."""
    found = {key: (count, moments) for key, count, moments in left.statistics()}
    for key, count, moments in right.statistics():
        if key in found:
            before, own = found[key]
            (together,), merged = _merge_moments((before,), own, (count,), moments, (moments.shape[1],))
            found[key] = together, merged
        else:
            found[key] = count, moments
    rows = list(found.values())
    sizes = tuple(moments.shape[1] for _, moments in rows)
    return tuple(found), tuple(n for n, _ in rows), sizes, np.concatenate([moments for _, moments in rows], axis=1)


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
        joined.stop, joined.again = joined.stop or votes.stop, joined.again or votes.again
        joined.named |= votes.named
        joined.notes += votes.notes
    return fold((0, shards), leaves, merge), joined


def encode(states: Sequence[ShardState | None], votes: Votes) -> bytes:
    """Numbers, layouts, a few words as JSON if there are any, and the moments behind them."""
    said = votes.stop is not None or votes.named or votes.notes
    words = json.dumps([votes.stop, sorted(votes.named), votes.notes]).encode() if said else b""
    numbers, layouts, moments = [], [words], []
    for state in states:
        if state is None:
            numbers.append(_ABSENT)
            continue
        layout = _encode_layout(state.layout)
        numbers.append(_STATE.pack(state.weight, state.loss, len(layout), state.moments.shape[1]))
        layouts.append(layout)
        moments.append(state.moments.tobytes())
    return b"".join((_HEAD.pack(len(states), len(words), votes.again), *numbers, *moments, *layouts))


def decode(data: bytes) -> tuple[list[ShardState | None], Votes]:
    """The inverse of :func:`encode`."""
    count, length, again = _HEAD.unpack_from(data)
    at = _HEAD.size + count * _STATE.size
    numbers = list(_STATE.iter_unpack(data[_HEAD.size : at]))
    end = at + 16 * sum(channels for _, _, _, channels in numbers)
    stop, named, notes = json.loads(data[end : end + length]) if length else (None, (), ())
    end += length
    states: list[ShardState | None] = []
    for weight, loss, nbytes, channels in numbers:
        if nbytes < 0:
            states.append(None)
            continue
        moments = np.frombuffer(data, np.float64, 2 * channels, at).reshape(2, channels) if channels else NO_MOMENTS
        states.append(ShardState(weight, loss, _decode_layout(data[end : end + nbytes]), moments))
        at += 16 * channels
        end += nbytes
    return states, Votes(stop, again, frozenset(named), tuple(notes))


@functools.lru_cache(maxsize=64)
def _encode_layout(layout: Layout) -> bytes:
    some, every, keys, counts, sizes = layout
    return json.dumps([some.hex(), every.hex(), keys, counts, sizes]).encode()


@functools.lru_cache(maxsize=64)
def _decode_layout(data: bytes) -> Layout:
    some, every, keys, counts, sizes = json.loads(data)
    return Layout(bytes.fromhex(some), bytes.fromhex(every), tuple(keys), tuple(counts), tuple(sizes))


_HEAD = struct.Struct("<qq?7x")
"""States, bytes of words, whether to do it again; what follows begins on 8 bytes."""
_STATE = struct.Struct("<ddqq")
"""Weight, loss, bytes of the layout (-1: no state), channels with statistics."""
NO_MOMENTS = np.zeros((2, 0))
_ABSENT = _STATE.pack(0.0, 0.0, -1, 0)
