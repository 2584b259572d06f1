"""Data sets: anything with a length and items, as in PyTorch, and a few that combine others.

A data set may offer two things beyond PyTorch's protocol:

``take(indices) -> tuple of arrays or None``
    a whole batch at once (fancy indexing), equal to collating the samples one by one; None: not possible here.
``keyed``
    True promises that ``__getitem__`` draws no random numbers, or draws them from ``sample_random()`` only, so that
    its samples may be fetched by background threads, in parallel (see ``sampling.py``).
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from typing import Any

import numpy as np

from .. import rng
from ..backend import is_array
from ..errors import DataError, RangeError, ShapeError
from ..generator import Generator
from ..tensor import Tensor

SPLIT_EPOCH = 0xFFFFFFFF
"""The epoch number under which :func:`random_split` draws, so that no loader's order equals a split."""


class Dataset:
    """Base of data sets: ``len(dataset)`` samples, ``dataset[i]`` the i-th.

    >>> class Squares(phalanx.data.Dataset):
    ...     def __len__(self): return 5
    ...     def __getitem__(self, index): return index * index
    >>> Squares()[3]
    9
    """

    keyed: bool = False

    def __len__(self) -> int:
        raise TypeError(f"{type(self).__name__} must define __len__: how many samples there are")

    def __getitem__(self, index: int) -> Any:
        raise TypeError(f"{type(self).__name__} must define __getitem__(index): one sample")

    def take(self, indices: np.ndarray) -> tuple[Any, ...] | None:
        """The batch of ``indices`` as arrays, or None when samples must be fetched one by one."""
        return None

    def __add__(self, other: Dataset) -> ConcatDataset:
        return ConcatDataset([self, other])


class IterableDataset(Dataset):
    """A stream: define ``__iter__``, which gives the same samples in the same order on every rank.

    A rank reads all of them and keeps those of its shards: don't cut the stream by rank or worker. ``set_epoch(epoch)``,
    where defined, is called first. A run that goes on in the middle of an epoch reads the stream again up to there; a
    :class:`StreamingDataset` goes there at once. ``random`` and ``numpy.random`` are seeded for each sample.

    >>> class Squares(phalanx.data.IterableDataset):
    ...     def __iter__(self): return (i * i for i in range(5))
    >>> [x.tolist() for x in phalanx.data.DataLoader(Squares(), batch_size=2)]
    [[0, 1], [4, 9], [16]]
    """

    def __iter__(self) -> Iterator[Any]:
        raise TypeError(f"{type(self).__name__} must define __iter__")

    def __add__(self, other: Any) -> ChainDataset:  # type: ignore[override]
        return ChainDataset([self, other])


def is_stream(dataset: Any) -> bool:
    """Whether samples can only be read one after another."""
    return isinstance(dataset, IterableDataset) or (
        hasattr(dataset, "__iter__") and not (hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__"))
    )


class TensorDataset(Dataset):
    """Samples are the rows of Tensors or arrays of equal length.

    >>> data = phalanx.data.TensorDataset(np.zeros((4, 2), np.float32), np.arange(4))
    >>> len(data), data[2][1].item()
    (4, 2)
    """

    keyed = True

    def __init__(self, *tensors: Any) -> None:
        if not tensors:
            raise RangeError("TensorDataset needs at least one Tensor or array, got none")
        self.arrays = tuple(_as_array(tensor, number) for number, tensor in enumerate(tensors))
        lengths = [len(array) for array in self.arrays]
        if len(set(lengths)) > 1:
            raise ShapeError(f"TensorDataset needs Tensors of equal length in dimension 0, got lengths {lengths}")

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """The Tensors, each over the stored array."""
        return tuple(Tensor(array) for array in self.arrays)

    def __len__(self) -> int:
        return len(self.arrays[0])

    def __getitem__(self, index: Any) -> tuple[Tensor, ...]:
        return tuple(Tensor(np.array(array[index])) for array in self.arrays)

    def take(self, indices: np.ndarray) -> tuple[Any, ...]:
        return tuple(array[indices] for array in self.arrays)


class Subset(Dataset):
    """The samples of ``dataset`` at ``indices``, in that order.

    >>> phalanx.data.Subset(phalanx.data.TensorDataset(np.arange(10)), [7, 3])[0][0].item()
    7
    """

    def __init__(self, dataset: Any, indices: Sequence[int] | np.ndarray) -> None:
        self.dataset = dataset
        self.indices = np.asarray(indices, dtype=np.int64).reshape(-1)
        length = len(dataset)
        if len(self.indices) and not (self.indices.min() >= -length and self.indices.max() < length):
            raise RangeError(
                f"Subset: indices must lie in [0, {length}), got {self.indices.min()} to {self.indices.max()}"
            )

    @property
    def keyed(self) -> bool:  # type: ignore[override]
        """Whether fetching samples leaves `random` and `numpy.random` alone."""
        return getattr(self.dataset, "keyed", False)

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Any:
        return self.dataset[int(self.indices[index])]

    def take(self, indices: np.ndarray) -> tuple[Any, ...] | None:
        take = getattr(self.dataset, "take", None)
        return None if take is None else take(self.indices[indices])


class ConcatDataset(Dataset):
    """The samples of several data sets, one after another.

    >>> both = phalanx.data.ConcatDataset([phalanx.data.TensorDataset(np.arange(2)), phalanx.data.TensorDataset(np.arange(3))])
    >>> len(both), both[4][0].item(), both[-5][0].item()
    (5, 2, 0)
    """

    def __init__(self, datasets: Sequence[Any]) -> None:
        self.datasets = list(datasets)
        if not self.datasets:
            raise RangeError("ConcatDataset needs at least one data set, got none")
        self.cumulative_sizes = list(accumulate(len(dataset) for dataset in self.datasets))

    @property
    def keyed(self) -> bool:  # type: ignore[override]
        """Whether fetching samples leaves `random` and `numpy.random` alone."""
        return all(getattr(dataset, "keyed", False) for dataset in self.datasets)

    def __len__(self) -> int:
        return self.cumulative_sizes[-1]

    def __getitem__(self, index: int) -> Any:
        if not -len(self) <= index < len(self):
            raise IndexError(f"sample {index} of a data set of {len(self)}")
        index = index % len(self)
        part = bisect_right(self.cumulative_sizes, index)
        return self.datasets[part][index - (self.cumulative_sizes[part - 1] if part else 0)]


class StackDataset(Dataset):
    """Sample i is the tuple of the i-th samples of ``datasets``; a dict of them for keyword arguments.

    >>> pairs = phalanx.data.StackDataset([1, 2], ["a", "b"])
    >>> pairs[1], phalanx.data.StackDataset(x=[1, 2])[0]
    ((2, 'b'), {'x': 1})
    """

    def __init__(self, *datasets: Any, **named: Any) -> None:
        if bool(datasets) == bool(named):
            raise RangeError("StackDataset takes data sets either by position or by name, at least one")
        self.datasets: Any = datasets or named
        self._parts = list(datasets or named.values())
        lengths = [len(part) for part in self._parts]
        if len(set(lengths)) > 1:
            raise ShapeError(f"StackDataset needs data sets of equal length, got {lengths}")

    @property
    def keyed(self) -> bool:  # type: ignore[override]
        """Whether fetching samples leaves `random` and `numpy.random` alone."""
        return all(isinstance(part, list | tuple) or getattr(part, "keyed", False) for part in self._parts)

    def __len__(self) -> int:
        return len(self._parts[0])

    def __getitem__(self, index: int) -> Any:
        samples = [part[index] for part in self._parts]
        return dict(zip(self.datasets, samples, strict=True)) if isinstance(self.datasets, dict) else tuple(samples)


class ChainDataset(IterableDataset):
    """Streams one after another.

    >>> list(phalanx.data.ChainDataset([range(2), range(3)]))
    [0, 1, 0, 1, 2]
    """

    def __init__(self, datasets: Sequence[Any]) -> None:
        self.datasets = list(datasets)

    @property
    def keyed(self) -> bool:  # type: ignore[override]
        """Whether fetching samples leaves `random` and `numpy.random` alone."""
        return all(getattr(dataset, "keyed", False) for dataset in self.datasets)

    def set_epoch(self, epoch: int) -> None:
        """Told to those that want to know."""
        for dataset in self.datasets:
            if hasattr(dataset, "set_epoch"):
                dataset.set_epoch(epoch)

    def __iter__(self) -> Iterator[Any]:
        for dataset in self.datasets:
            yield from dataset


class MapDataset(Dataset):
    """``function(sample)`` of each sample of ``dataset``: a pair's parts are given one by one.

    ``keyed=True`` promises that ``function`` draws no random numbers, or from ``sample_random()`` only.

    >>> pairs = phalanx.data.TensorDataset(np.arange(3), np.arange(3) * 10)
    >>> doubled = phalanx.data.MapDataset(pairs, lambda x, y: (x * 2, y))
    >>> [part.item() for part in doubled[2]]
    [4, 20]
    """

    def __init__(self, dataset: Any, function: Callable[..., Any], *, keyed: bool = False) -> None:
        self.dataset, self.function = dataset, function
        self._function_keyed = keyed or getattr(function, "keyed", False)

    @property
    def keyed(self) -> bool:  # type: ignore[override]
        """Whether fetching samples leaves `random` and `numpy.random` alone."""
        return self._function_keyed and getattr(self.dataset, "keyed", False)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Any:
        sample = self.dataset[index]
        return self.function(*sample) if isinstance(sample, tuple) else self.function(sample)


class TransformDataset(Dataset):
    """``dataset`` of (input, target) pairs with ``transform`` on the input and ``target_transform`` on the target.

    For what :func:`split` made: the training part gets random transforms, the others none.

    >>> from phalanx.data import transforms
    >>> images = phalanx.data.TensorDataset(np.zeros((3, 1, 8, 8), np.float32), np.arange(3))
    >>> phalanx.data.TransformDataset(images, transforms.CenterCrop(4))[0][0].shape
    (1, 4, 4)
    """

    def __init__(
        self,
        dataset: Any,
        transform: Callable[[Any], Any] | None = None,
        target_transform: Callable[[Any], Any] | None = None,
    ) -> None:
        self.dataset, self.transform, self.target_transform = dataset, transform, target_transform

    @property
    def keyed(self) -> bool:  # type: ignore[override]
        """Whether fetching samples leaves `random` and `numpy.random` alone."""
        parts = [part for part in (self.transform, self.target_transform) if part is not None]
        return all(getattr(part, "keyed", False) for part in (self.dataset, *parts))

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        image, target = self.dataset[index]
        if self.transform is not None:
            image = self.transform(image)
        return image, target if self.target_transform is None else self.target_transform(target)


def random_split(
    dataset: Any, lengths: Sequence[float], generator: Generator | None = None, *, seed: int | None = None
) -> list[Subset]:
    """Cut ``dataset`` at random into parts of the given lengths (integers) or fractions (their sum is 1).

    Keyed: the same on every rank. The seed is ``seed``, or the generator's, or that of ``manual_seed``. Remainders of fractions go to the
    first parts, one each, as in PyTorch.

    >>> [len(part) for part in phalanx.data.random_split(phalanx.data.TensorDataset(np.arange(10)), [0.75, 0.25], seed=0)]
    [8, 2]
    """
    total = len(dataset)
    sizes = split_sizes(lengths, total)
    if seed is None:
        seed = rng.initial_seed() if generator is None else generator.initial_seed()
    order = rng.permutation(total, seed, SPLIT_EPOCH)
    ends = list(accumulate(sizes))
    return [Subset(dataset, order[end - size : end]) for size, end in zip(sizes, ends, strict=True)]


def split_sizes(lengths: Sequence[float], total: int) -> list[int]:
    """``lengths`` as integers that sum to ``total``; remainders of fractions go to the first parts, one each."""
    if any(length < 0 for length in lengths):
        raise RangeError(f"random_split: lengths must not be negative, got {list(lengths)}")
    if math.isclose(sum(lengths), 1) and sum(lengths) <= 1 and total != 1:
        sizes = [math.floor(total * fraction) for fraction in lengths]
        for number in range(total - sum(sizes)):
            sizes[number % len(sizes)] += 1
        return sizes
    if sum(lengths) != total:
        raise RangeError(
            f"random_split: lengths must sum to the data set's {total} samples, or to 1 as fractions; "
            f"got {list(lengths)}, sum {sum(lengths)}"
        )
    return [int(length) for length in lengths]


def _as_array(tensor: Any, number: int) -> Any:
    array = tensor.array if isinstance(tensor, Tensor) else tensor if is_array(tensor) else np.asarray(tensor)
    if array.ndim == 0:
        raise ShapeError(f"TensorDataset: argument {number} has no dimension 0 to take samples from (shape ())")
    if array.dtype == object:
        raise DataError(f"TensorDataset: argument {number} is not an array of numbers; give arrays of equal rows")
    return array
