"""Loss and metrics over the training data of an epoch, exact over shards, steps and ranks.

Each shard has a state of its own, to which its steps are added pairwise by their numbers; at the end of the epoch the states of
all shards are merged in the order of the tree over shards. So nothing shows who computed which shard, nor when a run was
interrupted. In an elastic job, where what only one rank has may be lost with it, ranks tell each other with each step what they add.
"""

from __future__ import annotations

import base64
import copy
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from ..core.metrics import Mean
from ..dist.group import Group
from ..dist.packed import pack, unpack
from ..dist.reduction.tree import fold

State = dict[str, np.ndarray]
Parts = list[tuple[int, State]]
"""(level, state), as in a binary counter: two neighbours of one level are one part of the next."""


class Totals:
    """``metrics`` of what the shards of ``group`` say."""

    def __init__(self, metrics: Sequence[Any], group: Group) -> None:
        self._metrics = [Mean("loss"), *(copy.deepcopy(metric) for metric in metrics)]
        self._group = group
        self._by_all = group.elastic is not None
        """Whether every rank has the sums of all shards."""
        self._step: list[tuple[int, list[State]]] = []
        """Of the step under way, where it may become void: the shard and the states of each forward pass."""
        self.reset()

    def reset(self) -> None:
        """An epoch begins."""
        self._shards: dict[int, list[Parts]] = {}

    def step_begins(self) -> None:
        """What was added since the last :meth:`step_ends` does not count."""
        self._step = []

    def tell(self) -> None:
        """To be called before the step is completed: what this rank adds goes along with it."""
        if self._by_all:
            words = [[shard, [list(state) for state in states]] for shard, states in self._step]
            arrays = [array for _, states in self._step for state in states for array in state.values()]
            self._group.notes[:] = [base64.b64encode(pack(words, arrays)).decode()]

    def step_ends(self) -> None:
        """The step is complete: what all ranks told counts."""
        if not self._by_all:
            return
        for note in self._group.noted:
            words, arrays = unpack(base64.b64decode(note))
            rest = iter(arrays)
            for shard, keys in words:
                self._count(shard, [{key: next(rest) for key in names} for names in keys])

    def add(self, shard: int, loss: float, loss_weight: float, prediction: Any, target: Any, weight: Any) -> None:
        """One forward pass of a shard: a loss that is the mean of ``loss_weight`` items, and what the metrics look at."""
        states = []
        for metric in self._metrics:
            metric.reset()
            if metric is self._metrics[0]:
                metric.update(loss, weight=loss_weight)
            else:
                metric.update(prediction, target, weight)
            states.append(_arrays(metric.state()))
        if self._by_all:
            self._step.append((shard, states))
        else:
            self._count(shard, states)

    def _count(self, shard: int, states: Sequence[State]) -> None:
        shards = self._shards.setdefault(shard, [[] for _ in self._metrics])
        for metric, parts, state in zip(self._metrics, shards, states, strict=True):
            if state:
                _push(metric, parts, state)

    def compute(self) -> dict[str, Any]:
        """The value of each metric over all shards, equal on all ranks, which all must call."""
        shards = self._gathered()
        values: dict[str, Any] = {}
        for number, metric in enumerate(self._metrics):
            leaves: dict[Any, State | None] = {(s, s + 1): None for s in range(self._group.shard_count)} | {
                (s, s + 1): _sum(metric, parts[number]) for s, parts in shards.items()
            }
            state = fold((0, self._group.shard_count), leaves, partial(_join, metric))
            metric.reset()
            metric.merge(state or {})
            values[metric.name] = metric.compute()
        return values

    # -- checkpoints ------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Of all shards; all ranks must call."""
        names = [metric.name for metric in self._metrics]
        return {"metrics": names, "shards": {str(s): parts for s, parts in sorted(self._gathered().items())}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Each rank takes its own shards. Metrics that were not measured then begin at nothing."""
        first, last = (0, self._group.shard_count) if self._by_all else self._group.ranges[self._group.rank]
        where = {name: number for number, name in enumerate(state["metrics"])}
        self.reset()
        for key in sorted(state["shards"], key=int):
            # without shards=V another number of ranks is another number of shards
            shard = min(int(key), self._group.shard_count - 1)
            if not first <= shard < last:
                continue
            own = self._shards.setdefault(shard, [[] for _ in self._metrics])
            for metric, parts in zip(self._metrics, own, strict=True):
                saved = state["shards"][key][where[metric.name]] if metric.name in where else []
                if parts and saved:
                    parts[:] = [(0, _join(metric, _sum(metric, parts), _sum(metric, saved)))]
                elif saved:
                    parts[:] = [(int(level), _arrays(part)) for level, part in saved]

    def _gathered(self) -> dict[int, list[Parts]]:
        if self._group.size == 1 or self._by_all:
            return self._shards
        words = [
            [s, [[[level, list(state)] for level, state in parts] for parts in row]] for s, row in self._shards.items()
        ]
        own = [
            array for row in self._shards.values() for parts in row for _, state in parts for array in state.values()
        ]
        data = pack(words, own)
        rows = self._group.control.call(
            lambda m: m.programs.all_gather_bytes(m, data), name="loss and metrics of the epoch"
        )
        found: dict[int, list[Parts]] = {}
        for words, arrays in map(unpack, rows):
            rest = iter(arrays)
            for shard, row in words:
                found[shard] = [[(level, {key: next(rest) for key in keys}) for level, keys in parts] for parts in row]
        return found


def _push(metric: Any, parts: Parts, state: State) -> None:
    level = 0
    while parts and parts[-1][0] == level:
        state = _join(metric, parts.pop()[1], state)
        level += 1
    parts.append((level, state))


def _join(metric: Any, left: State, right: State) -> State:
    metric.reset()
    metric.merge(left)
    metric.merge(right)
    return _arrays(metric.state())


def _arrays(state: Mapping[str, Any]) -> State:
    """A sum of arrays without dimensions is a scalar in NumPy, and a number of JSON after a resume."""
    return {key: np.asarray(value) for key, value in state.items()}


def _sum(metric: Any, parts: Sequence[tuple[int, State]]) -> State:
    """All parts as one, the youngest first; empty where there is none."""
    found: State = {}
    for _, state in reversed(parts):
        found = _join(metric, state, found)
    return found
