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
from ..mode import is_grad_enabled
from .batches import BatchMaker, SendingMaker
from .dataset import is_stream
from .epochs import Epoch, IndexedEpoch, StreamEpoch, batch_bounds, nothing_came
from .feed import Feed
from .fingerprint import fingerprint
from .options import check_dataset, check_integer, read_options
from .placement import Placement, placement
from .prefetch import Inline, Prefetcher
from .samplers import batches_of, identity_of, order_of
from .scope import between_steps
from .shards import count_batches
from .step import Step
from .workers import Workers

BACKGROUND_NBYTES = 1 << 20
"""Batches cut from arrays are made by a background thread from this size on; below, handing over costs more."""
IDENTITY = ("seed", "batch_size", "shards", "length", "shuffle", "drop_last", "fingerprint")
SAMPLER = "sampler"
"""What must be equal for a saved position to mean the same samples; the sampler where there is one."""


class DataLoader:
    """Global batches of ``dataset`` in an order that depends on ``seed`` and the epoch only.

    ``batch_size`` is global: the number of samples in a step over all ranks. Each rank computes its shards::

        for step in loader.steps():          # the rest of the current epoch
            for images, labels in step:      # the shards that this rank owns
                ...

    Without shards ``for images, labels in loader`` gives this rank's part of each global batch, as in PyTorch;
    breaking out of that loop abandons the epoch, whereas ``steps()`` goes on where it stopped.

    ``seed`` None is the seed of ``manual_seed`` at the first use. ``sampler`` says which samples an epoch has and in which
    order, ``batch_sampler`` which global batches (:class:`Sampler`): both over all ranks, as functions of (seed, epoch).

    ``prefetch`` batches are made ahead of time by ``num_workers`` threads (one, when 0), or by as many processes with
    ``multiprocessing_context="spawn"`` (then ``worker_init_fn``, ``persistent_workers``, ``prefetch_factor`` and ``timeout``
    mean what they do in PyTorch). ``random`` and ``numpy.random`` are seeded by (seed, epoch, sample) for each sample. They
    belong to the whole process: unless a data set says ``keyed = True``, which promises not to draw from them, its samples
    are fetched on the training thread with ``num_workers=0`` and one at a time, under a lock, with threads.

    With ``device`` (a GPU) batches come as tensors that are there: they are copied from pinned memory on a stream of their own
    while the steps before are computed, and the training stream waits for them, not the host. ``pin_memory`` alone changes nothing.

    A stream (:class:`IterableDataset`) is read by all ranks alike, in its own order, until it ends.

    Raises RangeError for options that cannot be, DataError for a data set that cannot be used.

    >>> from phalanx.core.data import TensorDataset
    >>> loader = phalanx.data.DataLoader(TensorDataset(np.arange(5)), batch_size=2)
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
        check_dataset(dataset)
        self.num_workers = check_integer("num_workers", num_workers, 0)
        batch_size = check_integer("batch_size", batch_size, 1)
        self.options = read_options(
            options, dataset, num_workers, shuffle=shuffle, drop_last=drop_last, batch_size=batch_size
        )
        self.dataset, self.length = dataset, None if is_stream(dataset) else len(dataset)
        self.batch_size, self.drop_last, self.collate_fn = batch_size, bool(drop_last), collate_fn
        self.sampler, self.batch_sampler = self.options.sampler, self.options.batch_sampler
        self.prefetch = check_integer("prefetch", self.options.prefetch_factor or prefetch, 0)
        self.shuffle = bool(shuffle)
        if self.length is not None and len(self) == 0:
            raise RangeError(
                f"drop_last=True leaves no batch: the data set has {self._epoch_length()} samples, batch_size is {batch_size} "
                "(it counts the samples of all ranks)"
            )
        self.step = 0
        """Global batches handed out since training began."""
        self.epoch = 0
        """The current epoch; goes up when its last batch is done."""
        self._position = 0
        """Samples of the current epoch handed out."""
        self._cursor: Any = None
        """Where a stream stands."""
        if seed is None and self.options.generator is not None:
            seed = self.options.generator.initial_seed()
        self._seed = None if seed is None else check_integer("seed", seed, 0)
        self._maker: BatchMaker | SendingMaker | None = None
        self._workers: Workers | None = None
        self._fingerprint: str | None = None
        self._iteration = 0
        self._abandoned = self._went_back = False

    def __len__(self) -> int:
        """Global batches in a whole epoch. TypeError for a stream that has no length."""
        if self.batch_sampler is not None:
            return len(self.batch_sampler)
        return count_batches(self._epoch_length(), self.batch_size, self.drop_last)

    def _epoch_length(self) -> int:
        return len(self.dataset if self.sampler is None else self.sampler)

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
            self._advance_epoch(self.epoch + 1)
        self._abandoned = True
        for step in self._steps(plain=True):
            yield from step
        self._abandoned = False

    def _steps(self, plain: bool) -> Iterator[Step]:
        self._iteration += 1
        iteration, epoch = self._iteration, self.epoch
        self._abandoned = plain
        place, source, first = placement(), self._open(epoch, placement(), plain), self._position == 0
        try:
            while True:
                if not plain and is_grad_enabled():
                    between_steps()
                if placement() != place or self._went_back:  # ranks may have been lost or gained
                    self._went_back = False
                    source.close()
                    place = placement()
                    source = self._open(epoch, place, plain)
                portion = source.next()
                if portion is None:
                    break
                step = Step(self, epoch, (portion.end, portion.cursor), portion.samples, place)
                step._supply(portion.parts, portion.take, portion.make, plain)
                yield from step._offer()
                if iteration != self._iteration:
                    raise DataError("a newer loop over this DataLoader has begun; loops side by side need two loaders")
        finally:
            source.close()
        if first and self._position == 0:
            raise nothing_came(self.dataset)
        self._advance_epoch(epoch + 1)

    @property
    def position(self) -> tuple[int, int, Any]:
        """Steps done, samples of the epoch handed out, and where a stream stands."""
        return self.step, self._position, self._cursor

    def go_back(self, position: tuple[int, int, Any]) -> None:
        """To a :attr:`position` of this epoch; the loop over :meth:`steps` goes on from there."""
        self.step, self._position, self._cursor = position
        self._went_back = True

    def _advance(self, end: tuple[int, Any]) -> None:
        self.step, (self._position, self._cursor) = self.step + 1, end

    def _advance_epoch(self, epoch: int) -> None:
        self.epoch, self._position, self._cursor = epoch, 0, None

    def _open(self, epoch: int, place: Placement, plain: bool) -> Epoch:
        """The rest of ``epoch`` from the position on."""
        maker = self._batch_maker()

        def supply(
            work: Callable[[Any], Any], tasks: Iterator[Any], indexed: int | None
        ) -> Prefetcher[Any] | Inline[Any]:
            return self._supply(work, tasks, indexed, place)

        if self.length is None:
            cut = (self.batch_size, self.drop_last)
            return StreamEpoch(maker, epoch, self._position, self._cursor, cut, place, plain, supply)
        batches = None if self.batch_sampler is None else batches_of(self.batch_sampler, self.seed, epoch)
        order = self._order(epoch) if batches is None else np.concatenate([np.zeros(0, np.int64), *batches])
        if len(order) and not (order.min() >= 0 and order.max() < self.length):
            raise RangeError(
                f"the sampler's indices must lie in [0, {self.length}), got {order.min()} to {order.max()}"
            )
        bounds = batch_bounds(len(order), self.batch_size, self.drop_last, self._position, batches)
        return IndexedEpoch(maker, epoch, order, bounds, place, plain, supply)

    def _order(self, epoch: int) -> np.ndarray:
        assert self.length is not None
        if self.sampler is not None:
            return order_of(self.sampler, self.seed, epoch)
        return rng.permutation(self.length, self.seed, epoch) if self.shuffle else np.arange(self.length)

    def _supply(
        self, work: Callable[[Any], Any], tasks: Iterator[Any], indexed: int | None, place: Placement
    ) -> Prefetcher[Any] | Inline[Any]:
        """What does ``work`` for ``tasks``: this thread, others, or processes, which know samples by (epoch, indices)."""
        if indexed is not None and self.options.processes and self.num_workers:
            if self._workers is None or self._workers.closed or self._workers.busy:
                self._workers = Workers(self.dataset, self.collate_fn, self.seed, self.num_workers, self.options)
            maker = self._batch_maker()
            send = maker.feed.send if isinstance(maker, SendingMaker) else None
            return self._workers.prefetch(indexed, tasks, self.prefetch, send)
        if not self._in_background(place):
            return Inline(work, tasks)
        return Prefetcher(work, tasks, ahead=self.prefetch, threads=max(1, self.num_workers))

    def made_of(self, epoch: int, tasks: Iterator[np.ndarray]) -> Prefetcher[Any] | Inline[Any]:
        """The batches of ``tasks`` (indices) one after another, made where this loader's own are; its position stays."""
        return self._supply(partial(self._batch_maker().make, epoch), tasks, epoch, placement())

    def _in_background(self, place: Placement) -> bool:
        maker = self._batch_maker()
        row_nbytes = maker.row_nbytes
        if row_nbytes is not None and isinstance(maker, SendingMaker):
            return self.prefetch > 0
        if row_nbytes is not None:
            samples = -(-min(self.batch_size, self._epoch_length()) // place.shard_count)
            return self.prefetch > 0 and row_nbytes * samples >= BACKGROUND_NBYTES
        if maker.keyed:
            return self.prefetch > 0 or self.num_workers > 0
        if self.num_workers > 0:
            warnings.warn(_UNKEYED.format(workers=self.num_workers, name=type(self.dataset).__name__), stacklevel=6)
        return self.num_workers > 0

    def _batch_maker(self) -> BatchMaker | SendingMaker:
        if self._maker is None:
            maker = BatchMaker(self.dataset, self.collate_fn, self.seed)
            gpu = self.options.gpu
            self._maker = maker if gpu is None else SendingMaker(maker, Feed(gpu))
        return self._maker

    # -- the position -----------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """The exact position and what it belongs to, in JSON's types. The same on every rank."""
        return {
            "step": self.step,
            "epoch": self.epoch,
            "batch": -(-self._position // self.batch_size),
            "position": self._position,
            **({} if self._cursor is None else {"cursor": dict(self._cursor)}),
            **self._identity(),
        }

    def load_state_dict(self, state: Mapping[str, Any], *, allow: Collection[str] = ()) -> None:
        """Go to a saved position, also in the middle of an epoch, at any number of ranks.

        ``allow`` names differences to accept (of ``seed``, ``batch_size``, ``shards``, ``length``, ``shuffle``,
        ``drop_last``, ``fingerprint``, ``sampler``): this loader's own value then holds from here on. After another batch size the
        epoch goes on behind the last sample handed out.

        Raises StateError naming every missing key and every difference at once.
        """
        unknown = sorted(set(allow) - {*IDENTITY, SAMPLER})
        if unknown:
            raise RangeError(f"allow={unknown} is none of {', '.join((*IDENTITY, SAMPLER))}")
        missing = [key for key in ("step", "epoch", "position", *IDENTITY) if key not in state]
        if missing:
            raise StateError(f"not the state of a DataLoader: {', '.join(missing)} missing, got {sorted(state)}")
        own = self._identity()
        differences = [
            f"{key}: saved {state.get(key)!r}, now {own.get(key)!r}"
            for key in (*IDENTITY, SAMPLER)
            if state.get(key) != own.get(key) and key not in allow
        ]
        if differences:
            names = ", ".join(f'"{line.split(":")[0]}"' for line in differences)
            raise StateError(
                "the saved position belongs to another run: " + "; ".join(differences) + ". Make them equal, or resume "
                f"with allow=({names},), from where on the samples differ from those of the saved run"
            )
        self.step, self.epoch = int(state["step"]), int(state["epoch"])
        self._position, self._cursor = int(state["position"]), state.get("cursor")
        if self.length is not None and self.batch_sampler is None:
            self._position = min(self._position, self._epoch_length())
        self._iteration += 1
        self._abandoned = False

    def _identity(self) -> dict[str, Any]:
        if self._fingerprint is None:
            self._fingerprint = fingerprint(self.dataset)
        sampler = self.sampler if self.batch_sampler is None else self.batch_sampler
        return {
            **({} if sampler is None else {SAMPLER: identity_of(sampler)}),
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
    "`keyed = True` on the class: they are then fetched in parallel. If it does, use multiprocessing_context='spawn' or "
    "num_workers=0, or draw from neither in the training loop."
)
