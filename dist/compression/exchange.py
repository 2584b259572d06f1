"""What every compressed exchange does: take the leaves of owned shards, sum over all shards, and keep what was left out."""

from __future__ import annotations

import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ...core.rng import PURPOSES, Key
from ..messages import Messages
from ..reduction.bucket import Bucket
from .residuals import Residuals


@dataclass(frozen=True, slots=True)
class Field:
    """One parameter in the store: elements [lo, hi)."""

    name: str
    index: int
    lo: int
    hi: int
    shape: tuple[int, ...]

    @property
    def number(self) -> int:
        """Names its random numbers: it must not depend on the layout."""
        return zlib.crc32(self.name.encode())


@dataclass(frozen=True, slots=True)
class Leaf:
    """The gradients of a bucket on their way to a leaf: times ``weight``; -0.0 for parameters that the shard did not use."""

    gradient: np.ndarray
    """Of the whole store."""
    weight: float
    unused: tuple[tuple[int, int], ...] = ()
    """Elements [lo, hi) of this bucket's parameters that the shard did not use."""

    def write(self, bucket: Bucket, out: np.ndarray) -> None:
        """Into ``out``, of the whole store."""
        part = slice(bucket.lo, bucket.hi)
        np.multiply(self.gradient[part], np.float32(self.weight), out=out[part])
        for lo, hi in self.unused:
            out[lo:hi] = -0.0


@dataclass(frozen=True, slots=True)
class Setting:
    """Where an exchange takes place; equal on all ranks but for ``rank``."""

    rank: int
    ranges: tuple[tuple[int, int], ...]
    """The shards that each rank owns."""
    shards: int
    seed: int
    length: int
    """Elements of the store, padding included."""
    buckets: tuple[Bucket, ...]
    fields: tuple[Field, ...]
    """The parameters that take part, in the order of the store."""

    @property
    def owned(self) -> range:
        return range(*self.ranges[self.rank])

    def fields_of(self, bucket: Bucket) -> list[Field]:
        return [field for field in self.fields if bucket.first <= field.index <= bucket.last]

    def key(self, step: int, shard: int, number: int) -> Key:
        """Of a draw for ``shard`` (-1: the sum) and the parameter ``number``."""
        return Key(self.seed, PURPOSES["compression"], step, shard + 1, number)


class Exchange(ABC):
    """The compressed sums of one store. Leaves are taken by the main thread or within the bucket's own exchange."""

    step: int = 0
    """Committed steps: the key of random numbers."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self.residuals = Residuals(setting.length)

    @abstractmethod
    def take(self, number: int, shard: int, leaf: Leaf) -> None:
        """The leaf of an owned ``shard`` in bucket ``number``; a later one of the same shard replaces it."""

    @abstractmethod
    def exchange(self, messages: Messages, number: int, out: np.ndarray) -> None:
        """The sum of bucket ``number`` over all shards into ``out`` (float32, of the whole store), equal on all ranks."""

    @abstractmethod
    def bytes_per_step(self, rank: int) -> int:
        """On paper: payload bytes that ``rank`` sends for a step in which all shards have samples."""

    @abstractmethod
    def memory(self) -> tuple[str, int, int]:
        """(formula, bytes on paper after a step, measured); L is the size of the store, k the owned shards."""

    @abstractmethod
    def forget(self) -> None:
        """Drop all leaves."""

    @abstractmethod
    def finish(self) -> None:
        """Whatever remains to be done for the residuals when the step is committed."""

    def commit(self, unused: Iterable[tuple[int, int]]) -> None:
        """The step is done on all ranks; ``unused``: elements of parameters that no shard used."""
        self.finish()
        self.residuals.commit(unused)
        self.forget()
        self.step += 1

    def rollback(self) -> None:
        """The step is given up."""
        self.residuals.rollback()
        self.forget()

    # -- what outlives a layout or a job -----------------------------------------------------------------------------

    @abstractmethod
    def remembers(self, field: Field) -> bool:
        """Whether this parameter has residuals."""

    @abstractmethod
    def factors(self) -> Mapping[str, np.ndarray]:
        """By parameter: arrays that all ranks hold alike."""

    @abstractmethod
    def restore_factors(self, factors: Mapping[str, np.ndarray]) -> None:
        """Take what :meth:`factors` gave, in place of the start."""

    @abstractmethod
    def sums_kept(self, rank: int) -> Sequence[tuple[Field, int, int]]:
        """(parameter, first, stop): the elements of the sum's residual that ``rank`` keeps."""

    def on_first_bucket(self, program: Callable[[Messages], None]) -> None:
        """Run ``program`` before the next exchange of bucket 0: where every rank stands at the same operation."""
        self._before = program

    _before: Callable[[Messages], None] | None = None

    def begin(self, messages: Messages, number: int) -> None:
        """Called first in every exchange."""
        if number == 0 and self._before is not None:
            program, self._before = self._before, None
            program(messages)
