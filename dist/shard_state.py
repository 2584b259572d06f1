"""The small state that rides on the last reduction of a step: weight, loss, used parameters, batch statistics, votes.

Each shard leaves one :class:`ShardState`; states are merged in the order of the tree over shards, like the gradients. What
belongs to a rank rather than to a shard (votes) travels beside them and is joined by rank.

This runs once a step between large products, when no cache holds anything of it: a state is few objects, and what is the same
from step to step (names, sizes, which parameters are used) is one of them.
"""

from __future__ import annotations

import functools
import itertools
import json
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from ..core.kernels.table import kernel
from .messages import Messages
from .reduction.tree import Node, fold, whole_subtrees


@dataclass(frozen=True, slots=True)
class Layout:
    """What a state consists of beside its numbers. Steps share one object as long as it is the same."""

    used_by_some: bytes
    """For each parameter 1 if any shard used it, else 0."""
    used_by_all: bytes
    keys: tuple[str, ...] = ()
    """``"layer#call"`` for each layer and call that left statistics."""
    counts: tuple[float, ...] = ()
    """Over how many values each of them is taken."""
    sizes: tuple[int, ...] = ()
    """How many channels each of them has."""
    channels: int = field(init=False, compare=False, repr=False)
    """Of all of them."""
    parts: tuple[tuple[str, float, slice], ...] = field(init=False, compare=False, repr=False)
    """Of each of them the layer, the count, and its channels among all."""
    _hash: int = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        ends = list(itertools.accumulate(self.sizes, initial=0))
        parts = zip(self.keys, self.counts, itertools.pairwise(ends), strict=True)
        object.__setattr__(self, "channels", ends[-1])
        object.__setattr__(self, "parts", tuple((key.rpartition("#")[0], n, slice(*part)) for key, n, part in parts))
        content = (self.used_by_some, self.used_by_all, self.keys, self.counts, self.sizes)
        object.__setattr__(self, "_hash", hash(content))

    def __hash__(self) -> int:
        return self._hash


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
        for key, (_, count, part) in zip(self.layout.keys, self.layout.parts, strict=True):
            yield key, count, self.moments[:, part]


class Keeps(Protocol):
    """Who keeps the state of the step that was committed last until it is asked for."""

    def state(self, number: int) -> ShardState: ...


@dataclass(frozen=True, slots=True)
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


NO_VOTES = Votes()
"""Nothing is voted for."""


def merge(left: ShardState, right: ShardState) -> ShardState:
    """The state of a node from its children."""
    weight, loss = left.weight + right.weight, left.loss + right.loss
    layout, share, product = _merged(left.layout, right.layout)
    if share is None:
        layout, moments = _join_keys(left, right, layout)
    elif layout.keys:
        moments = _merge_moments(left.moments, right.moments, share, product)
    else:
        moments = left.moments
    return ShardState(weight, loss, layout, moments)


def _merge_moments(one: np.ndarray, other: np.ndarray, share: np.ndarray, product: np.ndarray) -> np.ndarray:
    """By Chan, Golub and LeVeque's rule (COMPSTAT 1982), all channels of all layers at once."""
    merged: np.ndarray = kernel("merge_moments", "cpu")(one, other, share, product)
    return merged


@functools.lru_cache(maxsize=64)
def _merged(one: Layout, other: Layout) -> tuple[Layout, np.ndarray | None, Any]:
    """The layout together, and what :func:`_shares` says of it; None where the keys differ."""
    some, every = one.used_by_some, one.used_by_all
    if some != other.used_by_some:
        some = bytes(a | b for a, b in zip(some, other.used_by_some, strict=True))
    if every != other.used_by_all:
        every = bytes(a & b for a, b in zip(every, other.used_by_all, strict=True))
    if one.keys != other.keys:
        return Layout(some, every), None, None
    counts, share, product = _shares(one.counts, other.counts, one.sizes)
    return Layout(some, every, one.keys, counts, one.sizes), share, product


def _shares(
    counts_a: tuple[float, ...], counts_b: tuple[float, ...], sizes: tuple[int, ...]
) -> tuple[tuple[float, ...], np.ndarray, np.ndarray]:
    """The counts together; for each channel the share of the right one, and the product of both over their sum."""
    counts = tuple(a + b for a, b in zip(counts_a, counts_b, strict=True))
    share = [b / n for b, n in zip(counts_b, counts, strict=True)]
    product = [a * b / n for a, b, n in zip(counts_a, counts_b, counts, strict=True)]
    return counts, _of_channels(share, sizes), _of_channels(product, sizes)


def _of_channels(values: list[float], sizes: tuple[int, ...]) -> np.ndarray:
    return np.repeat(np.array(values, np.float64), np.array(sizes, np.int64))


def _join_keys(left: ShardState, right: ShardState, used: Layout) -> tuple[Layout, np.ndarray]:
    """Where the shards went through different layers: what only one of them has is taken as it is."""
    found = {key: (count, moments) for key, count, moments in left.statistics()}
    for key, count, moments in right.statistics():
        if key in found:
            before, own = found[key]
            (together,), share, product = _shares((before,), (count,), (moments.shape[1],))
            own, moments = np.ascontiguousarray(own), np.ascontiguousarray(moments)
            found[key] = together, _merge_moments(own, moments, share, product)
        else:
            found[key] = count, moments
    rows = list(found.values())
    sizes = tuple(moments.shape[1] for _, moments in rows)
    layout = Layout(used.used_by_some, used.used_by_all, tuple(found), tuple(n for n, _ in rows), sizes)
    return layout, np.concatenate([moments for _, moments in rows], axis=1)


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
    joined = NO_VOTES
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


def order_of_merging(
    rows: Sequence[bytes], ranges: Sequence[tuple[int, int]], shards: int
) -> tuple[list[tuple[int, int]], list[tuple[np.ndarray, np.ndarray]]] | None:
    """Which ranks' states are merged into which, and (share, product) of the channels for each such pair.

    None where that is more than to merge one state of each rank: some rank has none or several, or votes for something, or they
    went through different layers.
    """
    pairs: list[tuple[int, int]] = []
    shares: list[tuple[np.ndarray, np.ndarray]] = []
    leaves: dict[Node, tuple[int, Layout] | None] = {}
    layers_differ = False
    for rank, (row, owned) in enumerate(zip(rows, ranges, strict=True)):
        (state, *others), votes = decode(row)
        if others or state is None or votes != NO_VOTES:
            return None
        leaves[whole_subtrees(*owned, shards)[0]] = rank, state.layout

    def add(left: tuple[int, Layout], right: tuple[int, Layout]) -> tuple[int, Layout]:
        nonlocal layers_differ
        layout, share, product = _merged(left[1], right[1])
        layers_differ |= share is None
        if share is not None:
            pairs.append((left[0], right[0]))
            shares.append((share, product))
        return left[0], layout

    fold((0, shards), leaves, add)
    return None if layers_differ else (pairs, shares)


def constant_nbytes(row: bytes) -> int:
    """How much of what :func:`encode` gave is the same as long as layout and votes are."""
    (nbytes,) = _LENGTH.unpack_from(row)
    return int(nbytes)


def encode(states: Sequence[ShardState | None], votes: Votes) -> bytes:
    """What is the same from step to step as JSON, filled up to 8 bytes; behind it of each state weight, loss and moments."""
    layouts = tuple([None if state is None else state.layout for state in states])
    pieces = [_encode_constant(layouts, votes.stop, votes.again, votes.named, votes.notes)]
    for state in states:
        if state is not None:
            pieces += (_NUMBERS.pack(state.weight, state.loss), state.moments.tobytes())
    return b"".join(pieces)


def decode(data: bytes) -> tuple[list[ShardState | None], Votes]:
    """The inverse of :func:`encode`."""
    (at,) = _LENGTH.unpack_from(data)
    layouts, votes = _decode_constant(data[:at])
    states: list[ShardState | None] = []
    for layout in layouts:
        if layout is None:
            states.append(None)
            continue
        weight, loss = _NUMBERS.unpack_from(data, at)
        at += _NUMBERS.size
        channels, moments = layout.channels, NO_MOMENTS
        if channels:
            moments = np.frombuffer(data, np.float64, 2 * channels, at).reshape(2, channels)
            at += 16 * channels
        states.append(ShardState(weight, loss, layout, moments))
    return states, Votes(*votes)


@functools.lru_cache(maxsize=64)
def _encode_constant(
    layouts: Sequence[Layout | None], stop: str | None, again: bool, named: frozenset[str], notes: tuple[str, ...]
) -> bytes:
    written = [
        None if a is None else [a.used_by_some.hex(), a.used_by_all.hex(), a.keys, a.counts, a.sizes] for a in layouts
    ]
    text = json.dumps([written, stop, again, sorted(named), notes]).encode()
    text += b" " * (-len(text) % 8)
    return _LENGTH.pack(_LENGTH.size + len(text)) + text


@functools.lru_cache(maxsize=64)
def _decode_constant(data: bytes) -> tuple[tuple[Layout | None, ...], tuple[Any, ...]]:
    written, stop, again, named, notes = json.loads(data[_LENGTH.size :])
    layouts = tuple(None if parts is None else _layout(*parts) for parts in written)
    return layouts, (stop, again, frozenset(named), tuple(notes))


def _layout(some: str, every: str, keys: list[str], counts: list[float], sizes: list[int]) -> Layout:
    return Layout(bytes.fromhex(some), bytes.fromhex(every), tuple(keys), tuple(counts), tuple(sizes))


_LENGTH = struct.Struct("<q")
_NUMBERS = struct.Struct("<dd")
NO_MOMENTS = np.zeros((2, 0))
