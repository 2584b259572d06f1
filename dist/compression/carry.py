"""What compression remembers, by name: over a structural change of the model, and in checkpoints."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ...core.owned import OwnPart
from ..messages import Messages
from ..reduction.collectives import others
from ..reduction.tree import fold
from .exchange import Exchange, Field
from .residuals import SUM

_NOTHING = np.zeros(0, np.float32)


def over(old: Exchange, new: Exchange) -> None:
    """Residuals of the parameters that both know (same name and shape), factors and the step.

    The sum's residual lies with who owned it in the old layout: it is gathered before the next exchange of the first bucket,
    where all ranks are at the same operation.
    """
    new.step = old.step
    pairs = list(_pairs(old, new))
    for shard in new.setting.owned:
        for before, after in pairs:
            new.residuals.committed(shard)[after.lo : after.hi] = old.residuals.committed(shard)[before.lo : before.hi]
    known = {after.name for _, after in pairs}
    new.restore_factors({name: q for name, q in old.factors().items() if name in known})
    if SUM in old.residuals.owners() and pairs:
        new.on_first_bucket(lambda messages: _gather_sum(messages, old, new, pairs))


def _pairs(old: Exchange, new: Exchange) -> Iterator[tuple[Field, Field]]:
    before = {f.name: f for f in old.setting.fields if old.remembers(f)}
    for after in new.setting.fields:
        if new.remembers(after) and after.name in before and before[after.name].shape == after.shape:
            yield before[after.name], after


def _gather_sum(messages: Messages, old: Exchange, new: Exchange, pairs: list[tuple[Field, Field]]) -> None:
    old.begin(messages, 0)  # it may have changed its layout without a step since
    source, target = old.residuals.committed(SUM), new.residuals.committed(SUM)
    kept = [old.sums_kept(rank) for rank in range(messages.size)]
    mine = [source[f.lo + first : f.lo + stop] for f, first, stop in kept[messages.rank]]
    packed = np.concatenate([_NOTHING, *mine])
    for other in others(messages):
        messages.post(other, packed, "residual of the sum")
    for other in others(messages):
        data = np.frombuffer(messages.take(other, part="residual of the sum"), np.float32)
        for f, first, stop in kept[other]:
            source[f.lo + first : f.lo + stop], data = data[: stop - first], data[stop - first :]
    for before, after in pairs:
        target[after.lo : after.hi] = source[before.lo : before.hi]


# -- checkpoints -------------------------------------------------------------------------------------------------------


def arrays(exchange: Exchange) -> dict[str, Any]:
    """What to save, by name: nothing depends on the number of ranks. Each rank holds its shards and its part of the sum."""
    found: dict[str, Any] = {"step": np.array(exchange.step, np.int64)}
    found |= {f"factor/{name}": q for name, q in exchange.factors().items()}
    setting = exchange.setting
    for f in setting.fields:
        if exchange.remembers(f):
            for shard in range(setting.shards):
                here = exchange.residuals.committed(shard)[f.lo : f.hi] if shard in setting.owned else _NOTHING
                found[f"shard{shard}/{f.name}"] = OwnPart(here, 0, f.shape)
    sums = {f.name: (f, first, stop) for f, first, stop in exchange.sums_kept(setting.rank)}
    names = {f.name: f for rank in range(len(setting.ranges)) for f, _, _ in exchange.sums_kept(rank)}
    for name, f in names.items():
        _, first, stop = sums.get(name, (f, 0, 0))
        here = exchange.residuals.committed(SUM)[f.lo + first : f.lo + stop]
        found[f"sum/{name}"] = OwnPart(here, first, f.shape)
    return found


@dataclass
class Restoring:
    """From what a checkpoint has to the state of ``exchange``: read into ``arrays``, then call :meth:`finish`."""

    exchange: Exchange
    saved: Mapping[str, tuple[int, ...]]
    """Names in the checkpoint and their shapes."""
    arrays: dict[str, Any] = field(default_factory=dict)
    _all_shards: dict[str, list[np.ndarray]] = field(default_factory=dict)
    """When the number of shards differs: parameter -> the residual of each saved shard."""

    def __post_init__(self) -> None:
        exchange, saved = self.exchange, self.saved
        exchange.rollback()
        for owner in list(exchange.residuals.owners()):
            exchange.residuals.committed(owner).fill(0)
        wanted = arrays(exchange)
        shards = {int(match[1]) for name in saved if (match := re.match(r"shard(\d+)/", name))}
        if shards and shards != set(range(exchange.setting.shards)):
            wanted = {name: array for name, array in wanted.items() if not name.startswith("shard")}
            for f in filter(exchange.remembers, exchange.setting.fields):
                names = [f"shard{shard}/{f.name}" for shard in sorted(shards)]
                if all(saved.get(name) == f.shape for name in names):
                    self._all_shards[f.name] = [np.empty(f.shape, np.float32) for _ in names]
                    wanted |= dict(zip(names, self._all_shards[f.name], strict=True))
        self.arrays = {name: array for name, array in wanted.items() if saved.get(name) == tuple(array.shape)}

    def finish(self) -> None:
        """Everything was read. Residuals of another number of shards are summed and dealt out evenly; rank 0 says so."""
        exchange, setting = self.exchange, self.exchange.setting
        if "step" in self.arrays:
            exchange.step = int(self.arrays["step"])
        head = "factor/"
        exchange.restore_factors({n.removeprefix(head): a for n, a in self.arrays.items() if n.startswith(head)})
        for f in setting.fields:
            rows = self._all_shards.get(f.name)
            if rows is None:
                continue
            leaves: dict[tuple[int, int], np.ndarray | None] = {(s, s + 1): row for s, row in enumerate(rows)}
            total = fold((0, len(rows)), leaves, lambda left, right: left + right)
            assert total is not None
            for shard in setting.owned:
                exchange.residuals.committed(shard)[f.lo : f.hi] = total.reshape(-1) / np.float32(setting.shards)
        if self._all_shards and not setting.rank:
            count = len(next(iter(self._all_shards.values())))
            print(
                f"phalanx: the residuals of compression were saved by {count} shards: their sum is dealt out evenly to "
                f"{setting.shards}; bits differ from here on from those of an uninterrupted run",
                file=sys.stderr,
                flush=True,
            )
