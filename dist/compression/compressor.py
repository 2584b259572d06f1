"""The compressed sums of one DataParallel: from the flat store to an exchange, what outlives a layout, and the price."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from ...core.errors import DTypeError
from ..messages import Messages
from ..reduction.bucket import Bucket
from . import carry
from .blocks import BlockExchange
from .codec import Codec
from .exchange import Exchange, Field, Leaf, Setting
from .low_rank import LowRankExchange, tree_bytes
from .schemes import Scheme

if TYPE_CHECKING:
    from ...core.flat import FlatStore
    from ...core.nn.parameter import Parameter
    from ..group import Group


class Compressor:
    """Takes the place of the fold of one store. All ranks call alike; ``exchange`` is None while there is nothing to sum."""

    def __init__(self, scheme: Scheme, group: Group) -> None:
        self.scheme, self.group = scheme, group
        self.exchange: Exchange | None = None
        self._store: FlatStore | None = None
        self._told = False

    def lay_out(
        self, stores: Sequence[FlatStore], names: Mapping[Parameter, str], buckets: Sequence[Sequence[Bucket]]
    ) -> None:
        """Take the stores as they are now, between two steps; residuals follow their parameters by name and size.

        ``buckets``: of each store. Raises DTypeError unless all trainable parameters are float32.
        """
        for store in stores:
            if store.dtype != np.float32 or store.device != "cpu":
                raise DTypeError(
                    f"compression expects all trainable parameters to be float32 on the cpu, got {store.dtype} on the "
                    f"{store.device} ({names.get(store.parameters[0], '?')}); use compression=None for this model"
                )
        old, self.exchange, self._store = self.exchange, None, None
        if not stores:
            return
        self._store = stores[0]
        fields = tuple(
            Field(names[parameter], index, *self._store.extent(index), parameter.array.shape)
            for index, parameter in enumerate(self._store.parameters)
            if parameter in names
        )
        group = self.group
        setting = Setting(
            group.rank,
            tuple(group.ranges),
            group.shard_count,
            group.seed,
            self._store.length,
            tuple(buckets[0]),
            fields,
        )
        self.exchange = exchange_for(self.scheme, setting)
        if old is not None:
            carry.over(old, self.exchange)
        self._say_price()

    def take(self, number: int, shard: int, weight: float) -> None:
        """The gradients of bucket ``number`` as they stand are the leaf of an owned ``shard``, times ``weight``."""
        assert self.exchange is not None
        self.exchange.take(number, shard, self._leaf(number, weight))

    def program(self, number: int, shard: int, weight: float, out: np.ndarray) -> Callable[[Messages], None]:
        """Take the last leaf of this rank as :meth:`take` does (none where ``weight`` is 0), and sum into ``out``."""
        assert self.exchange is not None
        exchange = self.exchange
        leaf = self._leaf(number, weight) if weight else None

        def run(messages: Messages) -> None:
            if leaf is not None:
                exchange.take(number, shard, leaf)
            exchange.exchange(messages, number, out)

        return run

    def _leaf(self, number: int, weight: float) -> Leaf:
        assert self.exchange is not None and self._store is not None
        bucket, store = self.exchange.setting.buckets[number], self._store
        members = range(bucket.first, bucket.last + 1)
        unused = tuple(store.extent(index) for index in members if store.parameters[index]._grad is None)
        return Leaf(store.gradient, weight, unused)

    def commit(self, used: Mapping[Parameter, bool]) -> None:
        """All ranks are known to hold the sums; ``used``: whether any shard used a parameter."""
        if self.exchange is not None and self._store is not None:
            store = self._store
            self.exchange.commit([store.extent(n) for n, p in enumerate(store.parameters) if not used.get(p, False)])

    def rollback(self) -> None:
        """The step is given up, or was committed: drop what is pending."""
        if self.exchange is not None:
            self.exchange.rollback()

    def _say_price(self) -> None:
        if self._told or self.group.rank or self.exchange is None:
            return
        self._told = True
        setting = self.exchange.setting
        shards, ranks = len(setting.owned), len(setting.ranges)
        plain = uncompressed_bytes(setting, 0)
        coded = self.exchange.bytes_per_step(0)
        text = f"{coded:,} bytes a step from each rank instead of {plain:,}" if ranks > 1 else "one rank sends nothing"
        held = (
            f"; its {shards} encoded leaves travel one by one" if shards > 1 and isinstance(self.scheme, Codec) else ""
        )
        print(f"phalanx: compression {self.scheme}: {text}{held}", file=sys.stderr, flush=True)


def exchange_for(scheme: Scheme, setting: Setting) -> Exchange:
    """The exchange that a scheme needs."""
    if isinstance(scheme, Codec):
        return BlockExchange(scheme, setting)
    return LowRankExchange(scheme, setting)


def bytes_per_step(scheme: Scheme, setting: Setting, rank: int) -> int:
    """Payload bytes that ``rank`` sends for the gradients of a step in which all shards have samples."""
    return exchange_for(scheme, setting).bytes_per_step(rank)


def uncompressed_bytes(setting: Setting, rank: int) -> int:
    """The same by the exact tree without compression."""
    return sum(tree_bytes(bucket.hi - bucket.lo, setting, rank) for bucket in setting.buckets)
