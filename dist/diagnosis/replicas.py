"""Are the replicas still equal? Every N steps the ranks compare hashes of all that must be the same on each of them.

A flipped bit, a rank that draws its own random numbers, an update that one rank skipped: whatever makes replicas drift is
named by tensor and rank. Costs one small message a check, and a pass over parameters and state at the speed of memory.
"""

from __future__ import annotations

import json
import sys
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ...core.backend import to_host
from ...core.errors import RangeError
from ...core.hashing import hash_array, hash_named_hashes
from ...core.owned import OwnPart
from ..errors import ReplicaError
from .whereabouts import ranks_in_words

if TYPE_CHECKING:
    from ...core.nn.module import Module
    from ...core.optim.optimizer import Optimizer
    from ..group import Group

_SHOWN = 6


@dataclass(frozen=True, slots=True)
class Difference:
    """One tensor that is not equal on all ranks."""

    name: str
    hashes: tuple[int | None, ...]
    """By rank; None where there is no such tensor."""

    @property
    def majority(self) -> int | None:
        """The hash that more than half of the ranks have; None without such."""
        value, count = Counter(self.hashes).most_common(1)[0]
        return value if 2 * count > len(self.hashes) else None

    @property
    def odd(self) -> list[int]:
        """The ranks that differ from the majority; all of them where there is none."""
        return [rank for rank, value in enumerate(self.hashes) if self.majority is None or value != self.majority]

    def __str__(self) -> str:
        if self.majority is None:
            each = ", ".join(f"{_hex(value)} on rank {rank}" for rank, value in enumerate(self.hashes))
            return f"{self.name} ({each}: no majority)"
        values = ", ".join(_hex(self.hashes[rank]) for rank in self.odd)
        return f"{self.name} on {ranks_in_words(self.odd)} ({values} against {_hex(self.majority)} elsewhere)"


class ReplicaCheck:
    """Compares the replicas of one model after every ``every`` steps.

    Args:
        module: its parameters and buffers are compared, by their dotted names.
        every: steps between two checks.
        heal: take the majority's values where ranks differ and go on, instead of ending with an error.

    All ranks must call :meth:`after_step` with equal arguments.

    >>> import phalanx
    >>> from phalanx.dist.group import current
    >>> check = ReplicaCheck(current(), phalanx.nn.Linear(2, 1), every=100)
    >>> check.after_step(100)
    []
    """

    def __init__(self, group: Group, module: Module, every: int, heal: bool = False) -> None:
        if not isinstance(every, int) or isinstance(every, bool) or every < 1:
            raise RangeError(f"check_replicas expects a number of steps, at least 1, or None, got {every!r}")
        self.group, self.module, self.every, self.heal = group, module, every, heal

    def after_step(self, step: int, optimizers: Sequence[Optimizer] = ()) -> list[Difference]:
        """Compare if ``step`` (completed steps, from 1) is a multiple of ``every``; what differed and was healed.

        Raises ReplicaError, on all ranks, naming the first differing tensor and the odd rank.
        """
        if step % self.every or self.group.size == 1:
            return []
        arrays, others = self._everything(optimizers)
        hashes = {name: hash_array(array) for name, array in arrays.items()} | others
        total = hash_named_hashes(hashes)
        rows = self.group.control.all_gather_object(total, name=f"replicas after step {step}").wait()
        if all(row == total for row in rows):
            return []
        found = self._differences(hashes, step)
        if not found:  # cannot be: equal hashes by name give equal totals
            raise ReplicaError(f"replicas differ after step {step}, but none of their {len(hashes)} tensors does")
        cure = "" if not self.heal else self._cannot_heal(found, arrays)
        if not self.heal or cure:
            raise ReplicaError(self._words(found, step, len(hashes)) + (cure or _WHAT_NOW))
        self._take_majority(found, arrays, step)
        return found

    def _everything(self, optimizers: Sequence[Optimizer]) -> tuple[dict[str, Any], dict[str, int]]:
        """Tensors by name, in the order in which they are told; and the hashes of what is no tensor."""
        names = {parameter: name for name, parameter in self.module.named_parameters()}
        arrays = {name: parameter.array for parameter, name in names.items()}
        arrays |= {name: buffer.array for name, buffer in self.module.named_buffers()}
        others = {}
        for number, optimizer in enumerate(optimizers):
            prefix = "optimizer" if len(optimizers) == 1 else f"optimizer {number + 1}"
            for name, array in optimizer.state_arrays(_named(names, optimizer)).items():
                if not isinstance(array, OwnPart):  # of those each rank has another part: there is nothing to compare
                    arrays[f"{prefix}/{name}"] = array
            scalars = json.dumps(optimizer.state_scalars(_named(names, optimizer)), sort_keys=True, default=repr)
            others[f"{prefix}/options and step counts"] = zlib.crc32(scalars.encode())
        return arrays, others

    def _differences(self, hashes: Mapping[str, int], step: int) -> list[Difference]:
        rows = self.group.control.all_gather_object(dict(hashes), name=f"replicas in detail after step {step}").wait()
        names = dict.fromkeys(name for row in rows for name in row)
        found = [Difference(name, tuple(row.get(name) for row in rows)) for name in names]
        return [one for one in found if len(set(one.hashes)) > 1]

    def _words(self, found: Sequence[Difference], step: int, count: int) -> str:
        more = "; ".join(map(str, found[1:_SHOWN])) + ("; ..." if len(found) > _SHOWN else "")
        return (
            f"replicas differ after step {step}: the first tensor is {found[0]}; {len(found)} of {count} differ"
            + (f": also {more}" if more else "")
            + ". "
        )

    def _cannot_heal(self, found: Sequence[Difference], arrays: Mapping[str, Any]) -> str:
        for one in found:
            if one.majority is None:
                return f"{one.name} has no majority to heal from: load a checkpoint (docs: resume)."
            if None in one.hashes or one.name not in arrays:
                return f"{one.name} cannot be healed: the ranks were set up otherwise, which their scripts must not do."
        return ""

    def _take_majority(self, found: Sequence[Difference], arrays: Mapping[str, Any], step: int) -> None:
        """The values of the lowest rank of the majority, on all ranks."""
        for one in found:
            root = next(rank for rank, value in enumerate(one.hashes) if value == one.majority)
            target = arrays[one.name]
            values = np.ascontiguousarray(to_host(target))
            self.group.control.broadcast(values, root=root, name=f"healing of {one.name}").wait()
            if self.group.rank in one.odd:
                target[...] = values
        if self.group.rank == 0:
            words = self._words(found, step, len(arrays))
            print(f"phalanx: {words}Healed from the majority; look at that rank's memory.", file=sys.stderr, flush=True)


_WHAT_NOW = (
    "Equal steps from equal states give equal bits, so that a rank did something of its own (random numbers outside of phalanx, "
    "a branch on its rank) or its memory is faulty. Resume from a checkpoint before that step, or heal from the majority "
    "(check_replicas with heal)."
)


def _named(names: Mapping[Any, str], optimizer: Optimizer) -> dict[Any, str]:
    """Names also for parameters of the optimizer that are not the module's."""
    own = {p: f"parameter {i}" for i, p in enumerate(p for group in optimizer.param_groups for p in group["params"])}
    return {**own, **names}


def _hex(value: int | None) -> str:
    return "missing" if value is None else f"{value:016x}"
