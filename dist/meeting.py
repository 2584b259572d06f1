"""Where the shards of a step meet inside of their forward and backward: every shard brings a leaf, all get the merged one.

A meeting is one small exchange of all ranks on the control channel, never on that of the gradients. Each rank says at which
place its shards stand, so that shards that went different ways are an error on all ranks and not a hang. A rank whose shards
hold no samples takes part until the others are through.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np

from ..core import rng
from ..core.collective import Leaf, Merge
from ..core.data.scope import innermost_step
from ..core.errors import GraphError
from .errors import CommunicatorError
from .messages import Messages
from .packed import pack, unpack
from .reduction.tree import Accumulator, Node, fold, whole_subtrees

if TYPE_CHECKING:
    from .group import Group

Places = Mapping[int, tuple[str, Leaf | None]]
"""Shard -> where it stands and what it brings; a shard that is through is not in it."""
_OPERATION = "meeting of shards"
LIGHTEST = 2.0**-40
"""A power of two, so that dividing by it and multiplying again is exact; adds nothing to a sum of weights."""


class Meeting:
    """How the shards of one rank meet those of the others. One per rank; ``group.meeting``."""

    def __init__(self, group: Group) -> None:
        self.group = group
        self.hand_over: Callable[[str, Leaf | None, Merge], Leaf | None] | None = None
        """Set while :func:`run_shards` has several shards under way: how one of them waits for the others."""
        self.running = False
        """Whether :func:`run_shards` is under way."""
        self.expected = False
        """Whether a model on this rank has layers that meet: then the end of a step is a meeting, too."""
        self._met_in: int | None = -1

    # -- what layers ask -------------------------------------------------------------------------------------------

    def shard(self) -> int:
        """The shard that is open; in the fast mode this rank."""
        number = rng.scope()[1] if self.group.shards is not None else None
        return self.group.rank if number is None else number

    def wanted(self, place: str) -> bool:
        """Whether shards meet at ``place``. Raises GraphError for one of several owned shards that is computed alone."""
        group = self.group
        if not self.running and not self.expected:
            self._expect_samples_everywhere(place)
        if group.shards is None:
            return group.size > 1
        if rng.scope()[1] is None:
            return False
        lo, hi = group.ranges[group.rank]
        if hi - lo > 1 and not self.running:
            raise GraphError(
                f"{place} needs all shards of the step at once, but rank {group.rank} computes its {hi - lo} shards one after another. "
                "Write\n    for step in loader.steps():\n        optimizer.zero_grad()\n        phalanx.run_shards(train, step)\n"
                "        optimizer.step()\nwhere train(x, y) is what stood inside of `for x, y in step:`, or use as many shards as ranks"
            )
        return True

    def meet(self, place: str, leaf: Leaf | None, merge: Merge) -> Leaf | None:
        """The merged leaves of all shards; None when none of them has samples."""
        self._met_in = rng.scope()[0]
        if self.hand_over is not None:
            return self.hand_over(place, leaf, merge)
        return self.exchange({self.shard(): (place, leaf)}, merge, name=place)[0]

    def lightest(self) -> float:
        """The weight of a loss that averages over nothing: not 0 where shards have met in this step.

        Such a shard has no loss of its own, but the others' losses go through its samples.
        """
        return LIGHTEST if self._met_in == rng.scope()[0] else 0.0

    # -- the exchange ------------------------------------------------------------------------------------------------

    def exchange(
        self, places: Places, merge: Merge, *, name: str, through: Sequence[int] = (), error: str | None = None
    ) -> tuple[Leaf | None, bool]:
        """One meeting of all ranks: the merged leaves, and whether any shard anywhere is still on its way.

        Args:
            places: the owned shards that are not through. All must stand at one place.
            name: what a line about a wait shows.
            through: the owned shards with samples that have ended.
            error: what went wrong on this rank; then the meeting raises on the others.
        """
        group = self.group
        own = group.ranges[group.rank]
        partials: dict[Node, Leaf | None] = {}
        words: dict[str, Any] = {
            "at": [[s, at[0]] for s, at in places.items()],
            "through": list(through),
            "error": error,
        }
        if len({at for at, _ in places.values()}) <= 1:
            held: Accumulator[Leaf] = Accumulator(group.shard_count, merge)
            for shard in range(*own):
                held.push(shard, places[shard][1] if shard in places else None)
            partials = held.partials
        nodes = whole_subtrees(*own, group.shard_count)
        leaves = [partials.get(node) for node in nodes]
        words["arrays"] = [None if leaf is None else len(leaf) for leaf in leaves]
        data = pack(words, [np.asarray(array) for leaf in leaves if leaf is not None for array in leaf])
        rows = [data]
        if group.size > 1:
            rows = group.control.call(lambda m: _all_gather(m, data), name=name)
        told = [unpack(row) for row in rows]
        self._check([words for words, _ in told], error)
        found: dict[Node, Leaf | None] = {}
        for rank, (words, arrays) in enumerate(told):
            rest = iter(arrays)
            for node, count in zip(
                whole_subtrees(*group.ranges[rank], group.shard_count), words["arrays"], strict=True
            ):
                found[node] = None if count is None else tuple(next(rest) for _ in range(count))
        return fold((0, group.shard_count), found, merge), any(words["at"] for words, _ in told)

    def finish(self) -> None:
        """This rank is through with the step: take part until all are."""
        if self.group.size == 1:
            return
        through = self._with_samples()
        while self.exchange({}, _no_merge, name="the end of the step's forward and backward", through=through)[1]:
            pass

    def fail(self, error: BaseException) -> None:
        """Tell the others, who wait at a meeting or will come to one, that this rank cannot go on."""
        if self.group.size > 1 and isinstance(error, Exception) and not isinstance(error, CommunicatorError):
            words = f"{type(error).__name__}: {error}"
            with suppress(CommunicatorError):  # they may have errors of their own
                self.exchange({}, _no_merge, name="an error", error=words)

    def _expect_samples_everywhere(self, place: str) -> None:
        """Ranks without samples do not come here, and nobody has told them that they are waited for."""
        step = innermost_step()
        if step is None or step.is_plain or all(any(step.sizes[lo:hi]) for lo, hi in self.group.ranges):
            return
        raise GraphError(
            f"{place} needs all ranks, but step {step.index} has no samples for some of them ({step.weight} in all): use "
            "phalanx.run_shards(function, step), or drop_last=True in the DataLoader"
        )

    def _with_samples(self) -> list[int]:
        """The owned shards that have samples in the innermost open step."""
        step = innermost_step()
        return [shard for shard in range(*self.group.ranges[self.group.rank]) if step is None or step.sizes[shard]]

    def _check(self, rows: Sequence[dict[str, Any]], error: str | None) -> None:
        """Raise what is wrong, on all ranks."""
        for rank, words in enumerate(rows):
            if words["error"] is not None and error is None:
                failure = CommunicatorError(f"rank {rank} of {len(rows)} failed in this step: {words['error']}")
                failure.from_peer = True
                raise failure
        at: dict[str, list[int]] = {}
        for words in rows:
            for shard, place in words["at"]:
                at.setdefault(place, []).append(shard)
        through = [shard for words in rows for shard in words["through"]]
        if error is None and (len(at) > 1 or (at and through)):
            stand = [f"{_listed('shard', shards)} at {place}" for place, shards in at.items()]
            stand += [f"{_listed('shard', through)} through"] if through else []
            raise GraphError(
                f"the shards of a step do not meet: {'; '.join(stand)}. Every shard must go through the same layers that need all "
                "shards, equally often, forward and backward"
            )


def _all_gather(messages: Messages, data: bytes) -> list[bytes]:
    """All ranks' words; where each stands is in them, so that the operation is the same for all."""
    messages.operation = _OPERATION
    return messages.programs.all_gather_bytes(messages, data)


def _no_merge(left: Leaf, right: Leaf) -> Leaf:
    return left


def _listed(what: str, numbers: Sequence[int]) -> str:
    return f"{what}{'s' * (len(numbers) > 1)} {', '.join(map(str, numbers))}"
