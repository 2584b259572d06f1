"""Makes one batch from sample indices: all at once where the data set can, else sample by sample, seeded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..errors import DataError
from ..tensor import Tensor
from .collate import default_collate, empty_like_batch
from .sampling import borrowed_globals, keyed_sample, sample_seeds


class BatchMaker:
    """``make(epoch, indices)`` is the collated batch; the same whoever calls it, on whatever thread."""

    def __init__(self, dataset: Any, collate_fn: Callable[[list[Any]], Any] | None, seed: int) -> None:
        self.dataset, self.collate_fn, self.seed = dataset, collate_fn, seed
        self._length = len(dataset)
        self._seeds: tuple[int, np.ndarray] | None = None

    @property
    def row_nbytes(self) -> int | None:
        """Bytes of one sample where batches are cut from arrays at once; None where samples are fetched singly."""
        row = self._take(np.zeros(1, np.int64))
        return None if row is None else sum(array.nbytes for array in row)

    @property
    def keyed(self) -> bool:
        """Whether making a batch leaves the process-wide random generators alone."""
        return getattr(self.dataset, "keyed", False) and (
            self.collate_fn is None or getattr(self.collate_fn, "keyed", False)
        )

    def make(self, epoch: int, indices: np.ndarray) -> Any:
        """The batch of ``indices``; of no sample, when it is empty, in the shapes of any other batch."""
        arrays = self._take(indices)
        if arrays is not None:
            return [Tensor(array) for array in arrays]
        if not len(indices):
            return empty_like_batch(self.make(epoch, np.zeros(1, np.int64)))
        seeds = self._seeds_of(epoch)[indices].tolist()
        collate_seed = seeds[0] ^ 0x5BD1E995  # apart from what the samples draw
        if self.keyed:
            samples = [self._sample(index, seed) for index, seed in zip(indices.tolist(), seeds, strict=True)]
            return self._collate(samples, indices, collate_seed)
        samples = []
        with borrowed_globals() as seed_globals:
            for index, seed in zip(indices.tolist(), seeds, strict=True):
                seed_globals(seed)
                samples.append(self._sample(index, seed))
            seed_globals(collate_seed)
            return self._collate(samples, indices, collate_seed)

    def _take(self, indices: np.ndarray) -> tuple[Any, ...] | None:
        take = getattr(self.dataset, "take", None)
        return None if take is None or self.collate_fn is not None else take(indices)

    def _sample(self, index: int, seed: int) -> Any:
        try:
            with keyed_sample(seed):
                return self.dataset[index]
        except Exception as error:
            raise DataError(
                f"sample {index} of {type(self.dataset).__name__} ({self._length} samples) cannot be read: "
                f"{type(error).__name__}: {error}"
            ) from error

    def _collate(self, samples: list[Any], indices: np.ndarray, seed: int) -> Any:
        collate = default_collate if self.collate_fn is None else self.collate_fn
        try:
            with keyed_sample(seed):
                return collate(samples)
        except Exception as error:
            shown = ", ".join(str(index) for index in indices[:4].tolist()) + (", ..." if len(indices) > 4 else "")
            name = getattr(collate, "__name__", type(collate).__name__)
            raise DataError(f"{name} failed on samples {shown}: {type(error).__name__}: {error}") from error

    def _seeds_of(self, epoch: int) -> np.ndarray:
        """Seeds of all samples in ``epoch``, kept for the last one asked."""
        kept = self._seeds
        if kept is None or kept[0] != epoch:
            kept = self._seeds = (epoch, sample_seeds(self._length, self.seed, epoch))
        return kept[1]
