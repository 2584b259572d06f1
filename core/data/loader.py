"""The loader: global batches in keyed order, each rank's shards of them, an exact position.

The order of an epoch follows from (seed, epoch), a batch from the position in it, a shard from the batch: nothing
depends on the rank count, on threads, or on when the job was stopped and resumed.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np

from .. import rng
from ..errors import DataError, RangeError, StateError
from .batches import BatchMaker
from .fingerprint import fingerprint
from .options import check_dataset, check_integer, check_options
from .placement import Placement, placement
from .prefetch import Inline, Prefetcher
from .shards import count_batches, global_batches
from .step import Step, parts_of

BACKGROUND_NBYTES = 1 << 20
"""Batches cut from arrays are made by a background thread from this size on; below, handing over costs more."""
IDENTITY = ("seed", "batch_size", "shards", "length", "shuffle", "drop_last", "fingerprint")
"""What must be equal for a saved position to mean the same samples."""


class DataLoader:
    """Global batches of ``dataset`` in an order that depends on ``seed`` and the epoch only.

    ``batch_size`` is global: the number of samples in a step over all ranks. Each rank computes its shards::

        for step in loader.steps():          # the rest of the current epoch
            for images, labels in step:      # the shards that this rank owns
                ...

    Without shards ``for images, labels in loader`` gives this rank's part of each global batch, as in PyTorch;
    breaking out of that loop abandons the epoch, whereas ``steps()`` goes on where it stopped.

    ``seed`` None is the seed of ``manual_seed`` at the first use. ``prefetch`` batches are made ahead of time by
    ``num_workers`` threads (one, when 0). A data set that does not say ``keyed = True`` may draw from ``random`` and
    ``numpy.random``, which belong to the whole process: with ``num_workers=0`` its samples are fetched on the training
    thread, as in PyTorch; with more, on background threads, one at a time under one lock, and the training loop must
    then not draw from those generators itself. Either way they are seeded by (seed, epoch, sample) for each sample.

    Raises RangeError for options that cannot be, DataError for a data set that cannot be used.

    >>> from phalanx.core.data import TensorDataset
    >>> loader = DataLoader(TensorDataset(np.arange(5)), batch_size=2)
    >>> [batch[0].numpy().tolist() for step in loader.steps() for batch in step], loader.step, loader.epoch
    ([[0, 1], [2, 3], [4]], 3, 1)
    """

    def __init__(
        self,
        dataset: Any,
        batch_size: int = 1,
        shuffle: bool | None = False,
        *,
        num_workers: int = 0,
        collate_fn: Callable[[list[Any]], Any] | None = None,
        drop_last: bool = False,
        seed: int | None = None,
        prefetch: int = 2,
        **options: Any,
    ) -> None:
        check_options(options)
        check_dataset(dataset)
        self.dataset, self.length = dataset, len(dataset)
        self.batch_size = check_integer("batch_size", batch_size, 1)
        self.num_workers = check_integer("num_workers", num_workers, 0)
        self.prefetch = check_integer("prefetch", options.get("prefetch_factor") or prefetch, 0)
        self.shuffle, self.drop_last, self.collate_fn = bool(shuffle), bool(drop_last), collate_fn
        if len(self) == 0:
            raise RangeError(
                f"drop_last=True leaves no batch: the data set has {self.length} samples, batch_size is {batch_size} "
                "(it counts the samples of all ranks)"
            )
        self.step = 0
        """Global batches handed out since training began."""
        self.epoch = 0
        """The current epoch; goes up when its last batch is done."""
        self._position = 0
        """Samples of the current epoch handed out."""
        if seed is None and options.get("generator") is not None:
            seed = options["generator"].initial_seed()
        self._seed = None if seed is None else check_integer("seed", seed, 0)
        self._maker: BatchMaker | None = None
        self._fingerprint: str | None = None
        self._iteration = 0
        self._abandoned = False

    def __len__(self) -> int:
        """Global batches in a whole epoch."""
        return count_batches(self.length, self.batch_size, self.drop_last)

    @property
    def seed(self) -> int:
        """The seed of the order and of the samples' randomness; fixed at its first use."""
        if self._seed is None:
            self._seed = rng.initial_seed()
        return self._seed

    # -- iterating --------------------------------------------------------------------------------------------------

    def steps(self) -> Iterator[Step]:
        """The steps of the rest of the current epoch, from the exact position. Call it on every rank."""
        return self._steps(plain=False)

    def __iter__(self) -> Iterator[Any]:
        """This rank's part of each global batch; with no samples where the batch is smaller than the ranks are many."""
        place = placement()
        if place.shards is not None:
            raise DataError(
                f"with shards={place.shards} a step has several batches on one rank; write\n"
                "    for step in loader.steps():\n        for x, y in step:\n            ...\n"
                "instead of `for x, y in loader` (or leave shards out of phalanx.init for the fast mode)"
            )
        return self._plain()

    def _plain(self) -> Iterator[Any]:
        if self._abandoned:
            self.epoch, self._position = self.epoch + 1, 0
        self._abandoned = True
        for step in self._steps(plain=True):
            yield from step
        self._abandoned = False

    def _steps(self, plain: bool) -> Iterator[Step]:
        self._iteration += 1
        iteration, epoch, first = self._iteration, self.epoch, self._position
        self._abandoned = plain
        order = rng.permutation(self.length, self.seed, epoch) if self.shuffle else np.arange(self.length)
        place, source = placement(), None
        try:
            for lo, hi in global_batches(self.length, self.batch_size, self.drop_last, first):
                if source is None or placement() != place:  # ranks may have been lost or gained
                    if source is not None:
                        source.close()
                    place = placement()
                    source = self._source(epoch, order, lo, place, plain)
                step = Step(self, epoch, hi, order[lo:hi], place)
                step._supply(parts_of(hi - lo, place, plain), source.take, self._batch_maker().make, plain)
                yield from step._offer()
                if iteration != self._iteration:
                    raise DataError("a newer loop over this DataLoader has begun; loops side by side need two loaders")
        finally:
            if source is not None:
                source.close()
        self.epoch, self._position = epoch + 1, 0

    def _advance(self, position: int) -> None:
        self.step, self._position = self.step + 1, position

    def _source(
        self, epoch: int, order: np.ndarray, first: int, place: Placement, plain: bool
    ) -> Prefetcher[Any] | Inline[Any]:
        """What makes this rank's batches of the epoch from position ``first`` on, in order."""
        tasks = (
            order[lo + a : lo + b]
            for lo, hi in global_batches(self.length, self.batch_size, self.drop_last, first)
            for _, a, b in parts_of(hi - lo, place, plain)
        )
        make = partial(self._batch_maker().make, epoch)
        if not self._in_background(place):
            return Inline(make, tasks)
        return Prefetcher(make, tasks, ahead=self.prefetch, threads=max(1, self.num_workers))

    def _in_background(self, place: Placement) -> bool:
        maker = self._batch_maker()
        row_nbytes = maker.row_nbytes
        if row_nbytes is not None:
            samples = -(-min(self.batch_size, self.length) // place.shard_count)
            return self.prefetch > 0 and row_nbytes * samples >= BACKGROUND_NBYTES
        if maker.keyed:
            return self.prefetch > 0 or self.num_workers > 0
        if self.num_workers > 0:
            warnings.warn(_UNKEYED.format(workers=self.num_workers, name=type(self.dataset).__name__), stacklevel=5)
        return self.num_workers > 0

    def _batch_maker(self) -> BatchMaker:
        if self._maker is None:
            self._maker = BatchMaker(self.dataset, self.collate_fn, self.seed)
        return self._maker

    # -- the position -----------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """The exact position and what it belongs to, in JSON's types. The same on every rank."""
        return {
            "step": self.step,
            "epoch": self.epoch,
            "batch": -(-self._position // self.batch_size),
            "position": self._position,
            **self._identity(),
        }

    def load_state_dict(self, state: Mapping[str, Any], *, allow: Collection[str] = ()) -> None:
        """Go to a saved position, also in the middle of an epoch, at any number of ranks.

        ``allow`` names differences to accept (of ``seed``, ``batch_size``, ``shards``, ``length``, ``shuffle``,
        ``drop_last``, ``fingerprint``): this loader's own value then holds from here on. After another batch size the
        epoch goes on behind the last sample handed out.

        Raises StateError naming every missing key and every difference at once.
        """
        unknown = sorted(set(allow) - set(IDENTITY))
        if unknown:
            raise RangeError(f"allow={unknown} is none of {', '.join(IDENTITY)}")
        missing = [key for key in ("step", "epoch", "position", *IDENTITY) if key not in state]
        if missing:
            raise StateError(f"not the state of a DataLoader: {', '.join(missing)} missing, got {sorted(state)}")
        own = self._identity()
        differences = [
            f"{key}: saved {state[key]!r}, now {own[key]!r}"
            for key in IDENTITY
            if state[key] != own[key] and key not in allow
        ]
        if differences:
            names = ", ".join(f'"{line.split(":")[0]}"' for line in differences)
            raise StateError(
                "the saved position belongs to another run: " + "; ".join(differences) + ". Make them equal, or resume "
                f"with allow=({names},), from where on the samples differ from those of the saved run"
            )
        self.step, self.epoch = int(state["step"]), int(state["epoch"])
        self._position = min(int(state["position"]), self.length)
        self._iteration += 1
        self._abandoned = False

    def _identity(self) -> dict[str, Any]:
        if self._fingerprint is None:
            self._fingerprint = fingerprint(self.dataset)
        return {
            "seed": self.seed,
            "batch_size": self.batch_size,
            "shards": placement().shards,
            "length": self.length,
            "shuffle": self.shuffle,
            "drop_last": self.drop_last,
            "fingerprint": self._fingerprint,
        }


_UNKEYED = (
    "num_workers={workers}: samples of {name} are fetched in the background one at a time, because it may draw from "
    "`random` or `numpy.random`, which are seeded for each sample and belong to the whole process. If it does not, set "
    "`keyed = True` on the class: they are then fetched in parallel. If it does, use num_workers=0, or draw from neither "
    "in the training loop."
)
