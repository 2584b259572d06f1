"""Samplers: which samples an epoch has and in which order, as a pure function of (seed, epoch), equal on all ranks.

A sampler has a length and ``order(seed, epoch)``: int64 indices into the data set, for all ranks together; the loader
cuts global batches from them and gives each rank its shards.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from .. import rng
from ..errors import DataError, RangeError
from ..generator import Generator
from .sampling import borrowed_globals, keyed_sample

DRAWS = 1
"""The number of the keyed draw: 0 is the loader's own shuffle."""


class Sampler:
    """Base of samplers: define ``__len__`` and ``order(seed, epoch)``, or PyTorch's ``__iter__``.

    ``__iter__`` alone is asked once an epoch with ``random``, ``numpy.random`` and phalanx's numbers seeded by (seed,
    epoch): it must draw from nothing else and keep nothing from one epoch to the next.

    >>> from phalanx.data import DataLoader, Sampler, TensorDataset
    >>> class Backwards(Sampler):
    ...     def __len__(self): return 4
    ...     def order(self, seed, epoch): return np.arange(4)[::-1]
    >>> [x.tolist() for (x,) in DataLoader(TensorDataset(np.arange(4)), batch_size=2, sampler=Backwards())]
    [[3, 2], [1, 0]]
    """

    def __init__(self, data_source: Any = None) -> None:
        self.data_source = data_source

    def __len__(self) -> int:
        raise TypeError(f"{type(self).__name__} must define __len__: how many samples an epoch has")

    def order(self, seed: int, epoch: int) -> np.ndarray:
        """The indices of ``epoch``, int64, in order, over all ranks."""
        raise TypeError(f"{type(self).__name__} must define order(seed, epoch) or __iter__")

    def __iter__(self) -> Iterator[int]:
        return iter(np.asarray(self.order(rng.initial_seed(), 0)).tolist())

    def identity(self) -> str:
        """What must be equal for a saved position to mean the same samples."""
        return f"{type(self).__name__} of {len(self)}"

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self)} samples)"


class SequentialSampler(Sampler):
    """All samples of ``data_source`` in order.

    >>> from phalanx.data import SequentialSampler
    >>> list(SequentialSampler(range(3)))
    [0, 1, 2]
    """

    def __len__(self) -> int:
        return len(self.data_source)

    def order(self, seed: int, epoch: int) -> np.ndarray:
        return np.arange(len(self), dtype=np.int64)


class RandomSampler(Sampler):
    """All samples in a keyed order; with ``replacement`` or ``num_samples``, that many draws.

    >>> from phalanx.data import RandomSampler
    >>> sorted(RandomSampler(range(4))), len(RandomSampler(range(4), replacement=True, num_samples=9))
    ([0, 1, 2, 3], 9)
    """

    def __init__(
        self,
        data_source: Any,
        replacement: bool = False,
        num_samples: int | None = None,
        generator: Generator | None = None,
    ) -> None:
        super().__init__(data_source)
        self.replacement = bool(replacement)
        self.num_samples = len(data_source) if num_samples is None else _positive("RandomSampler", num_samples)
        self._seed = _seed_of(generator)

    def __len__(self) -> int:
        return self.num_samples

    def order(self, seed: int, epoch: int) -> np.ndarray:
        seed, length = self._seed if self._seed is not None else seed, len(self.data_source)
        if self.replacement:
            return rng.integers((self.num_samples,), 0, length, _key(seed, epoch))
        rounds = range(-(-self.num_samples // length))
        orders = [keyed_order(length, _key(seed, epoch, call)) for call in rounds]
        return np.concatenate(orders)[: self.num_samples]

    def identity(self) -> str:
        return f"{super().identity()} from {len(self.data_source)}, replacement={self.replacement}"


class SubsetRandomSampler(Sampler):
    """The samples at ``indices`` in a keyed order.

    >>> from phalanx.data import SubsetRandomSampler
    >>> sorted(SubsetRandomSampler([5, 3, 8]))
    [3, 5, 8]
    """

    def __init__(self, indices: Sequence[int] | np.ndarray, generator: Generator | None = None) -> None:
        super().__init__()
        self.indices = np.asarray(indices, np.int64).reshape(-1)
        self._seed = _seed_of(generator)

    def __len__(self) -> int:
        return len(self.indices)

    def order(self, seed: int, epoch: int) -> np.ndarray:
        return self.indices[keyed_order(len(self), _key(seed if self._seed is None else self._seed, epoch))]

    def identity(self) -> str:
        return f"{super().identity()} {_digest(self.indices)}"


class WeightedRandomSampler(Sampler):
    """``num_samples`` keyed draws, sample i with probability ``weights[i] / sum(weights)``.

    Without ``replacement`` each comes at most once (Efraimidis and Spirakis 2006).

    >>> from phalanx.data import WeightedRandomSampler
    >>> set(WeightedRandomSampler([0.0, 1.0, 1.0], num_samples=50))
    {1, 2}
    """

    def __init__(
        self,
        weights: Sequence[float] | np.ndarray,
        num_samples: int,
        replacement: bool = True,
        generator: Generator | None = None,
    ) -> None:
        super().__init__()
        self.weights = np.asarray(weights, np.float64)
        self.num_samples, self.replacement = _positive("WeightedRandomSampler", num_samples), bool(replacement)
        self._seed = _seed_of(generator)
        wrong = ~np.isfinite(self.weights) | (self.weights < 0)
        if self.weights.ndim != 1 or not len(self.weights) or wrong.any() or not self.weights.sum() > 0:
            where = f"; weight {int(np.argmax(wrong))} is {self.weights[wrong][0]}" if wrong.any() else ""
            raise RangeError(
                "WeightedRandomSampler: weights are one finite number of at least 0 for each sample, not all 0, "
                f"got shape {self.weights.shape}{where}"
            )
        able = int(np.count_nonzero(self.weights))
        if not self.replacement and self.num_samples > able:
            raise RangeError(
                f"WeightedRandomSampler: {self.num_samples} draws without replacement from {able} samples of weight above 0"
            )

    def __len__(self) -> int:
        return self.num_samples

    def order(self, seed: int, epoch: int) -> np.ndarray:
        key = _key(seed if self._seed is None else self._seed, epoch)
        if self.replacement:
            bounds = np.cumsum(self.weights)
            drawn = rng.uniform((self.num_samples,), key, np.float64) * bounds[-1]
            last = np.flatnonzero(self.weights)[-1]
            return np.minimum(np.searchsorted(bounds, drawn, "right"), last).astype(np.int64)
        waits = -np.log1p(-rng.uniform(self.weights.shape, key, np.float64))
        with np.errstate(divide="ignore", invalid="ignore"):
            arrivals = np.where(self.weights > 0, waits / self.weights, np.inf)
        return np.argsort(arrivals, kind="stable")[: self.num_samples].astype(np.int64)

    def identity(self) -> str:
        return f"{super().identity()} {_digest(self.weights)}, replacement={self.replacement}"


class BalancedSampler(WeightedRandomSampler):
    """Keyed draws in which every class is equally likely, however many samples it has.

    ``labels``: one class a sample (numbers or names), or a data set that has ``targets``. ``num_samples``: how many draws
    make an epoch (the number of samples by default).

    >>> from phalanx.data import BalancedSampler
    >>> labels = np.array([0] * 90 + [1] * 10)
    >>> drawn = labels[BalancedSampler(labels, num_samples=1000).order(seed=0, epoch=0)]
    >>> bool(450 < drawn.sum() < 550)
    True
    """

    def __init__(self, labels: Any, num_samples: int | None = None, generator: Generator | None = None) -> None:
        classes = labels_of(labels)
        _, inverse, counts = np.unique(classes, return_inverse=True, return_counts=True)
        super().__init__(1.0 / counts[inverse], len(classes) if num_samples is None else num_samples, True, generator)


class BatchSampler(Sampler):
    """Lists of ``batch_size`` indices from ``sampler``, for ``DataLoader(batch_sampler=)``: each is a global batch.

    >>> from phalanx.data import BatchSampler, SequentialSampler
    >>> list(BatchSampler(SequentialSampler(range(5)), batch_size=2, drop_last=False))
    [[0, 1], [2, 3], [4]]
    """

    def __init__(self, sampler: Any, batch_size: int, drop_last: bool) -> None:
        super().__init__()
        self.sampler, self.batch_size, self.drop_last = sampler, _positive("BatchSampler", batch_size), bool(drop_last)

    def __len__(self) -> int:
        whole, rest = divmod(len(self.sampler), self.batch_size)
        return whole + (bool(rest) and not self.drop_last)

    def batches(self, seed: int, epoch: int) -> list[np.ndarray]:
        """The global batches of ``epoch``."""
        order = order_of(self.sampler, seed, epoch)
        return [order[lo : lo + self.batch_size] for lo in range(0, len(self) * self.batch_size, self.batch_size)]

    def __iter__(self) -> Iterator[Any]:
        return iter([batch.tolist() for batch in self.batches(rng.initial_seed(), 0)])

    def identity(self) -> str:
        return f"batches of {self.batch_size}, drop_last={self.drop_last}, from {identity_of(self.sampler)}"


def order_of(sampler: Any, seed: int, epoch: int) -> np.ndarray:
    """The indices of an epoch from a sampler of either kind, or from a list of them."""
    if hasattr(sampler, "order") and type(sampler).order is not Sampler.order:
        order = sampler.order(seed, epoch)
    else:
        order = _iterated(sampler, seed, epoch)
    order = np.asarray(order)
    if order.ndim != 1 or (order.dtype.kind not in "iu" and len(order)):
        raise DataError(
            f"{type(sampler).__name__} gave {order.dtype} of shape {order.shape}, expected integers in a row"
        )
    return order.astype(np.int64, copy=False)


def batches_of(sampler: Any, seed: int, epoch: int) -> list[np.ndarray]:
    """The global batches of an epoch from a batch sampler of either kind."""
    if hasattr(sampler, "batches"):
        return list(sampler.batches(seed, epoch))
    return [np.asarray(batch, np.int64).reshape(-1) for batch in _iterated(sampler, seed, epoch)]


def _iterated(sampler: Any, seed: int, epoch: int) -> list[Any]:
    """What ``__iter__`` gives, with all generators seeded by (seed, epoch)."""
    if hasattr(sampler, "set_epoch"):
        sampler.set_epoch(epoch)
    drawn = int(_key(seed, epoch).bits(1)[0])
    with borrowed_globals() as seed_globals, keyed_sample(drawn):
        seed_globals(drawn)
        return list(sampler)


def identity_of(sampler: Any) -> str:
    """Words that tell samplers apart."""
    if hasattr(sampler, "identity"):
        return str(sampler.identity())
    if isinstance(sampler, list | tuple | range | np.ndarray):
        return f"indices {_digest(np.asarray(sampler, np.int64))}" if _flat(sampler) else f"{len(sampler)} batches"
    return f"{type(sampler).__name__} of {len(sampler)}"


def _flat(indices: Any) -> bool:
    return isinstance(indices, range | np.ndarray) or all(hasattr(index, "__index__") for index in indices)


def labels_of(source: Any) -> np.ndarray:
    """One label a sample: of an array, of a data set with ``targets`` or ``labels``, or a TensorDataset's last part."""
    if hasattr(source, "dataset") and hasattr(source, "indices"):
        return labels_of(source.dataset)[source.indices]
    if hasattr(source, "datasets") and hasattr(source, "cumulative_sizes"):
        return np.concatenate([labels_of(part) for part in source.datasets])
    if hasattr(source, "dataset") and getattr(source, "target_transform", source) is None:
        return labels_of(source.dataset)  # transforms of inputs leave the labels
    for name in ("targets", "labels"):
        if hasattr(source, name):
            return labels_of(getattr(source, name))
    if hasattr(source, "arrays"):
        return labels_of(source.arrays[-1])
    if hasattr(source, "__getitem__") and hasattr(source, "take") and not hasattr(source, "__array__"):
        raise DataError(f"{type(source).__name__} has no `targets`: give the labels themselves, one a sample")
    labels = np.asarray(source.numpy() if hasattr(source, "numpy") else source)
    if labels.ndim != 1:
        raise DataError(f"labels are one a sample in a row, got shape {labels.shape}")
    return labels


def keyed_order(length: int, key: rng.Key) -> np.ndarray:
    """A permutation that follows from ``key``, int64."""
    bits = key.bits(2 * length).reshape(-1, 2).astype(np.uint64)
    return np.argsort((bits[:, 0] << np.uint64(32)) | bits[:, 1], kind="stable")


def _key(seed: int, epoch: int, call: int = 0) -> rng.Key:
    return rng.Key(seed, rng.PURPOSES["order"], epoch, 0, DRAWS + call)


def _seed_of(generator: Generator | None) -> int | None:
    return None if generator is None else generator.initial_seed()


def _positive(owner: str, value: Any) -> int:
    if not hasattr(value, "__index__") or isinstance(value, bool) or int(value) < 1:
        raise RangeError(f"{owner}: an integer of at least 1, got {value!r}")
    return int(value)


def _digest(array: np.ndarray) -> str:
    return hashlib.blake2b(np.ascontiguousarray(array).tobytes(), digest_size=8).hexdigest()
