"""ZeRO: each rank keeps the optimizer state (and gradients) of its own range of every flat store, and updates that alone.

``DataParallel(model, shard="optimizer")`` is ZeRO-1: the reduction is the usual one, each rank updates its range of the
parameters, and the ranges are gathered. With ``shard="gradients"``, ZeRO-2, the sum of a bucket goes to those who own
it and nowhere else. An update is elementwise or whole at the optimizer's grain, ranges are cut only there, and so all bits
are those of the unsharded step. Rajbhandari, Rasley, Ruwase and He, "ZeRO: Memory Optimizations Toward Training Trillion
Parameter Models", SC 2020.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import numpy as np

from ...core.errors import GraphError, RangeError
from ...core.faults import fault_point
from ...core.flat import CHUNK, FlatStore
from ...core.hashing import hash_array, hash_of_sums, sum_of_part
from ...core.owned import OwnPart, is_absent
from ..communicators.base import Communicator
from ..errors import CommunicatorError
from ..group import Group

MODES = ("optimizer", "gradients")
Range = tuple[int, int]


class Layout(Protocol):
    """What :func:`ownership` looks at: a FlatStore."""

    offsets: list[int]
    sizes: list[int]
    length: int


def check_mode(shard: str | None) -> None:
    """Raises RangeError for a ``shard`` that is none."""
    if shard is not None and shard not in MODES:
        allowed = ", ".join(map(repr, MODES))
        raise RangeError(
            f"DataParallel expects shard to be None or one of {allowed} (ZeRO-1 and ZeRO-2), got {shard!r}"
        )


def ownership(store: Layout, size: int, grain: str) -> list[Range]:
    """The range [lo, hi) of the store that each rank owns: they cover it in order, as even as the ``grain`` allows.

    "element": cut at the chunk grid, which restarts at each parameter; "parameter" and "matrix": between parameters.

    >>> class Three: offsets, sizes, length = [0, 20_032, 20_096], [20_000, 10, 300], 20_416
    >>> ownership(Three(), 2, "element"), ownership(Three(), 2, "parameter")
    ([(0, 16384), (16384, 20416)], [(0, 20032), (20032, 20416)])
    """
    step = CHUNK if grain == "element" else store.length + 1
    places = [lo + at for lo, length in zip(store.offsets, store.sizes, strict=True) for at in range(0, length, step)]
    places = sorted({0, *places, store.length})
    cuts = [0]
    for rank in range(1, size):
        ideal = store.length * rank / size
        at = bisect_left(places, ideal)
        near = places[max(at - 1, 0) : at + 1]
        cuts.append(max(cuts[-1], min(near, key=lambda place: abs(place - ideal))))
    return list(zip(cuts, [*cuts[1:], store.length], strict=True))


def part_of(cut: Sequence[Range], lo: int, hi: int) -> list[Range]:
    """What each rank owns of [lo, hi), counted from lo; (0, 0) for those who own nothing of it.

    >>> part_of([(0, 10), (10, 20), (20, 30)], 12, 25)
    [(0, 0), (0, 8), (8, 13)]
    """
    parts = [(max(a, lo) - lo, min(b, hi) - lo) for a, b in cut]
    return [(a, b) if a < b else (0, 0) for a, b in parts]


class Zero:
    """Ownership of the stores of one DataParallel: cuts them, and asks the other ranks for what this one lacks.

    Every method is collective. It is the :class:`~phalanx.core.owned.Keeper` of its stores.
    """

    def __init__(self, group: Group, mode: str) -> None:
        self.group, self.mode = group, mode
        self.cuts: WeakKeyDictionary[FlatStore, list[Range]] = WeakKeyDictionary()
        """For each store the range that each rank owns."""
        self.version = 0
        """Changes with every cut."""

    @property
    def gradients(self) -> bool:
        """Whether gradients are spread too (ZeRO-2)."""
        return self.mode == "gradients"

    def attach(self, stores: Iterable[FlatStore]) -> None:
        """Cut the stores that are not cut yet."""
        for store in stores:
            if store.keeper is None:
                self._cut(store)

    def _cut(self, store: FlatStore) -> None:
        self.version += 1
        communicator, name = self.group.communicator, f"parameters of {store.length}"
        if store.device != "cpu":
            communicator.on_gpu().expect_sums(store.data, name=name)
        elif communicator.local is not None and not communicator.is_shared(store.data):
            # others read new values where they are
            shared = communicator.shared_empty(store.length, store.dtype, name=name)
            store.move(data=shared)
        self.cuts[store] = ownership(store, self.group.size, store.grain)
        store.keeper = self
        store.own(*self.cuts[store][self.group.rank], gradients=self.gradients)

    def owner_of(self, store: FlatStore, index: int) -> list[int]:
        """The ranks that own a part of parameter ``index``."""
        return [rank for rank, (a, b) in enumerate(part_of(self.cuts[store], *store.extent(index))) if a < b]

    def check_readable(self, parameter: Any, names: Mapping[Any, str]) -> None:
        """Raises GraphError for a gradient of which this rank does not hold all."""
        store, gradient = parameter._store, parameter._grad
        if gradient is None or not is_absent(gradient.array) or store not in self.cuts:
            return
        owners = self.owner_of(store, parameter._index)
        who = (
            f"rank {owners[0]} owns it" if len(owners) == 1 else f"ranks {', '.join(map(str, owners))} own parts of it"
        )
        raise GraphError(
            f'the gradient of {names.get(parameter, "a parameter")!r} is not on rank {self.group.rank}: with shard="gradients" {who}. '
            'Norms and clipping work on all ranks alike; to read whole gradients use shard="optimizer"'
        )

    # -- what a store asks for ----------------------------------------------------------------------------------------

    def gather_parameters(self, spans: list[tuple[FlatStore, int, int]]) -> None:
        """After an update: each rank's own part of the parameters, to all."""
        fault_point("before-gather")
        communicator, works = self.group.communicator, []
        try:
            for store, lo, hi in spans:
                cut, name = part_of(self.cuts[store], lo, hi), f"parameters {lo} to {hi} of {store.length}"
                works.append(communicator.all_gather_slices(store.data[lo:hi], cut, name=name))
            for work in works:
                work.wait()
        except CommunicatorError as error:
            if self.group.elastic is None:
                raise
            self.group.elastic.recover(error)  # goes back to a checkpoint

    def whole(self, store: FlatStore, part: Any, name: str) -> Any:
        """A new buffer of the whole layout from every rank's ``part``."""
        cut = self.cuts[store]
        out = store.new_buffer(part.dtype)
        out[slice(*cut[self.group.rank])] = part
        self.group.control.all_gather_slices(out, cut, name=f"whole {name}").wait()
        return out

    def gather_values(self, values: np.ndarray, own: np.ndarray) -> None:
        """Complete ``values`` in place from the ranks that own each."""
        mine = np.stack([values, own.astype(np.float64)])
        rows = np.empty((self.group.size, *mine.shape))
        self.group.control.all_gather(mine, rows, name="values of owned chunks").wait()
        values[...] = np.take_along_axis(rows[:, 0], rows[:, 1].argmax(0)[None], 0)[0]

    def release(self, store: FlatStore) -> None:
        """Make everything whole on every rank, before a structural change."""
        store.disown()
        del self.cuts[store]
        self.version += 1

    def recut(self, store: FlatStore) -> None:
        """The grain of the store has become coarser."""
        self.release(store)
        self._cut(store)


def take_over(stores: Iterable[FlatStore], zero: Zero | None, parameters: Collection[Any]) -> None:
    """Make stores whole that another DataParallel had cut, where this one wraps the same ``parameters`` anew. Collective."""
    for store in stores:
        if store.keeper is None or store.keeper is zero:
            continue
        if not all(parameter in parameters for parameter in store.parameters):
            raise GraphError(
                "DataParallel: its parameters lie in one store with those of a sharded DataParallel, because one optimizer was given "
                "both; give each DataParallel an optimizer of its own"
            )
        store.keeper.release(store)


def whole_hashes(arrays: Mapping[str, Any], communicator: Communicator) -> dict[str, int]:
    """``hash_array`` of each named tensor, also of those that are spread over ranks (then all ranks must call)."""
    spread = {name: part for name, part in arrays.items() if isinstance(part, OwnPart)}
    found = {name: hash_array(array) for name, array in arrays.items() if name not in spread}
    if spread:
        sums = {name: sum_of_part(part.array, part.lo * part.dtype.itemsize) for name, part in spread.items()}
        rows = communicator.all_gather_object(sums, name="hashes of owned parts").wait()
        for name, part in spread.items():
            found[name] = hash_of_sums((row[name] for row in rows), part.count * part.dtype.itemsize)
    return {name: found[name] for name in arrays}
