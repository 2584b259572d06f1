"""Keyed randomness: every random number is a pure function of (seed, purpose, step, shard, call).

Nothing is stored between steps, so there is nothing to save in a checkpoint and nothing that depends on which rank
draws. The (step, shard) scope is opened by the data loader; numbers drawn outside of any shard use purposes of their
own. All state here belongs to a rank and is thread-local, because ranks can be threads of one process.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from .errors import RangeError
from .kernels.table import kernel
from .rank_local import of_rank

PURPOSES = {"dropout": 1, "init": 2, "user": 3, "order": 4, "transform": 5, "compression": 6}
_LONE = 128
"""Added to a purpose outside of any shard."""


@dataclass(frozen=True, slots=True)
class Key:
    """Names one draw. Equal keys give equal numbers on any device and any number of ranks."""

    seed: int
    purpose: int
    step: int
    shard: int
    call: int

    def bits(self, count: int, device: str = "cpu", first: int = 0) -> np.ndarray:
        """``count`` random uint32, from word ``first`` (a multiple of 4) of this draw on."""
        return kernel("philox_bits", device)(count, *self._counter(), first)

    def mask(self, count: int, threshold: int, device: str = "cpu") -> np.ndarray:
        """Which of the first ``count`` bits are at least ``threshold``, which is below 2**32."""
        return kernel("philox_mask", device)(count, *self._counter(), threshold)

    def draw(self, threshold: int) -> np.ndarray:
        """This draw as a kernel takes it, six uint32: two words of key, three of counter, ``threshold``."""
        key, words = self._counter()
        return np.array([*key, *words, threshold]).astype(np.uint32)

    def _counter(self) -> tuple[tuple[int, int], tuple[int, int, int]]:
        mixed = splitmix64(self.seed * 0x9E3779B97F4A7C15 + self.purpose)
        return (mixed & 0xFFFFFFFF, mixed >> 32), (self.call, self.shard, self.step)


class _State(threading.local):
    def __init__(self) -> None:
        self.seed = 0
        self.step: int | None = None
        self.shard: int | None = None
        self.calls: dict[tuple[int, int], int] = {}
        self.parameters = 0


_state = of_rank(_State())


def manual_seed(seed: int) -> None:
    """Set the seed from which every random number of this rank follows; must be equal on all ranks.

    >>> phalanx.manual_seed(1); a = phalanx.rand(2); phalanx.manual_seed(1)
    >>> phalanx.equal(a, phalanx.rand(2))
    True
    """
    if not isinstance(seed, int | np.integer) or isinstance(seed, bool):
        raise RangeError(f"manual_seed expects an integer, got {seed!r}")
    _state.seed = int(seed) & 0xFFFFFFFFFFFFFFFF
    _state.step = _state.shard = None
    _state.calls = {}
    _state.parameters = 0


def initial_seed() -> int:
    """The seed given to :func:`manual_seed` or ``phalanx.init(seed=...)``; 0 at first.

    >>> phalanx.manual_seed(5)
    >>> phalanx.initial_seed()
    5
    """
    return _state.seed


def next_key(purpose: str) -> Key:
    """The key of the next draw for ``purpose`` in the current (step, shard), or outside of any shard."""
    number = PURPOSES[purpose]
    shard = _state.shard
    if shard is None:
        number, shard = number + _LONE, 0
    place = (number, shard)
    call = _state.calls.get(place, 0)
    _state.calls[place] = call + 1
    return Key(_state.seed, number, 0 if _state.step is None else _state.step, shard, call)


def user_key(seed: int, place: tuple[int, int] | None, call: int) -> Key:
    """The key of draw number ``call`` of a generator with ``seed``, in a (step, shard) or outside of any."""
    step, shard = (0, 0) if place is None else place
    return Key(seed, PURPOSES["user"] + (_LONE if place is None else 0), step, shard, call)


def init_key() -> Key:
    """The key of the next parameter's initial values: parameters count in order of construction.

    A dotted name would not do: it is unknown when a layer is built, and two equal models would start equal.
    """
    _state.parameters += 1
    return Key(_state.seed, PURPOSES["init"], 0, 0, _state.parameters - 1)


@contextmanager
def shard_scope(step: int, shard: int) -> Iterator[None]:
    """Draw for (step, shard) inside. Entering the same shard of the same step again goes on counting calls."""
    outer = (_state.step, _state.shard)
    enter_shard(step, shard)
    try:
        yield
    finally:
        _state.shard = outer[1]


def enter_shard(step: int, shard: int | None) -> None:
    """Set the scope; ``shard`` None is outside of any shard, still at ``step``. For the data loader."""
    if step != _state.step:
        _state.calls = {}
        _state.step = step
    _state.shard = shard


def leave_step() -> None:
    """Nothing was drawn in the current step: when it is entered again, draws are those of the first time."""
    _state.step, _state.shard, _state.calls = None, None, {}


def scope() -> tuple[int | None, int | None]:
    """The current (step, shard); None where there is none."""
    return _state.step, _state.shard


@contextmanager
def own_stream(seed: int) -> Iterator[None]:
    """Inside, draws follow from ``seed`` alone and leave no mark on those outside. For samples of a data set.

    >>> before = scope()
    >>> with own_stream(7): a = next_key("user")
    >>> with own_stream(7): next_key("user") == a
    True
    >>> scope() == before
    True
    """
    outer = (_state.seed, _state.step, _state.shard, _state.calls)
    _state.seed, _state.step, _state.shard, _state.calls = seed, None, None, {}
    try:
        yield
    finally:
        _state.seed, _state.step, _state.shard, _state.calls = outer


@dataclass(frozen=True, slots=True)
class Moment:
    """Where draws stood: what they follow from, and how many there were."""

    seed: int
    step: int | None
    shard: int | None
    calls: dict[tuple[int, int], int]


def moment() -> Moment:
    """Where draws stand now, for :func:`replayed`."""
    return Moment(_state.seed, _state.step, _state.shard, dict(_state.calls))


def go_back(then: Moment) -> None:
    """Let draws stand where they stood ``then``: what was drawn since has not happened.

    >>> then = moment(); key = next_key("dropout"); go_back(then)
    >>> next_key("dropout") == key
    True
    """
    _state.seed, _state.step, _state.shard, _state.calls = then.seed, then.step, then.shard, dict(then.calls)


@contextmanager
def replayed(then: Moment) -> Iterator[None]:
    """Inside, draws are those that followed on ``then``; outside none of them counts. For recomputation.

    >>> then = moment(); key = next_key("dropout")
    >>> with replayed(then): next_key("dropout") == key
    True
    """
    outer = (_state.seed, _state.step, _state.shard, _state.calls)
    _state.seed, _state.step, _state.shard, _state.calls = then.seed, then.step, then.shard, dict(then.calls)
    try:
        yield
    finally:
        _state.seed, _state.step, _state.shard, _state.calls = outer


@contextmanager
def untouched() -> Iterator[None]:
    """Whatever happens inside, afterwards seed and draws are as they were.

    >>> manual_seed(3)
    >>> with untouched(): manual_seed(4)
    >>> initial_seed()
    3
    """
    outer = (_state.seed, _state.step, _state.shard, _state.calls, _state.parameters)
    try:
        yield
    finally:
        _state.seed, _state.step, _state.shard, _state.calls, _state.parameters = outer


@contextmanager
def unmarked() -> Iterator[None]:
    """Inside, parameters get their initial values without a mark on those that are made afterwards.

    >>> before = init_key().call
    >>> with unmarked(): key = init_key()
    >>> init_key().call == before + 1
    True
    """
    outer = _state.parameters
    try:
        yield
    finally:
        _state.parameters = outer


def random_bits(count: int, key: Key) -> np.ndarray:
    """``count`` random uint32 of ``key``."""
    return key.bits(count)


def uniform(shape: Sequence[int], key: Key, dtype: Any = np.float32) -> np.ndarray:
    """Uniform in [0, 1): 24 random bits for float32 and below, 53 for float64."""
    count = math.prod(shape)
    if np.dtype(dtype) == np.float64:
        pair = key.bits(2 * count).reshape(-1, 2).astype(np.uint64)
        mantissa = ((pair[:, 0] >> np.uint64(5)) << np.uint64(26)) | (pair[:, 1] >> np.uint64(6))
        return (mantissa * 2.0**-53).reshape(shape)
    values = (key.bits(count) >> np.uint32(8)) * np.float32(2.0**-24)
    return values.reshape(shape).astype(dtype, copy=False)


def normal(shape: Sequence[int], key: Key, dtype: Any = np.float32) -> np.ndarray:
    """Standard normal by Box and Muller's transform of pairs of uniforms, in float64, rounded once."""
    count = math.prod(shape)
    pairs = -(-count // 2)
    words = key.bits(2 * pairs).reshape(2, pairs)
    radius = np.sqrt(-2.0 * np.log((words[0] + 1.0) * 2.0**-32))
    angle = words[1] * (2.0 * np.pi * 2.0**-32)
    values = np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])[:count]
    return values.reshape(shape).astype(dtype)


def drop_threshold(drop_probability: float) -> int:
    """What random words are compared with, as integers: equal on every device."""
    return min(round(drop_probability * 2.0**32), 2**32 - 1)


def keep_mask(shape: Sequence[int], drop_probability: float, key: Key, device: str = "cpu") -> np.ndarray:
    """Boolean mask that is False with ``drop_probability``."""
    return key.mask(math.prod(shape), drop_threshold(drop_probability), device).reshape(shape)


def integers(shape: Sequence[int], low: int, high: int, key: Key) -> np.ndarray:
    """Integers in [low, high), int64. The bias of the modulus is below (high - low) / 2**64."""
    if high <= low:
        raise RangeError(f"integers expects low < high, got low={low}, high={high}")
    pair = key.bits(2 * math.prod(shape)).reshape(-1, 2).astype(np.uint64)
    wide = (pair[:, 0] << np.uint64(32)) | pair[:, 1]
    return (wide % np.uint64(high - low)).astype(np.int64).reshape(shape) + low


def permutation(n: int, seed: int, epoch: int) -> np.ndarray:
    """The order of ``n`` samples in ``epoch``: a permutation keyed by (seed, epoch), int64."""
    bits = Key(seed, PURPOSES["order"], epoch, 0, 0).bits(2 * n).reshape(-1, 2).astype(np.uint64)
    return np.argsort((bits[:, 0] << np.uint64(32)) | bits[:, 1], kind="stable")


def splitmix64(value: int) -> int:
    """A bijective mix of 64 bits (Steele, Lea, Flood, OOPSLA 2014)."""
    mask = 0xFFFFFFFFFFFFFFFF
    value = (value + 0x9E3779B97F4A7C15) & mask
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & mask
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & mask
    return value ^ (value >> 31)
