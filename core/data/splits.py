"""Cutting a data set into parts: at random, or with every class in its share."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import numpy as np

from .. import rng
from ..errors import RangeError, ShapeError
from ..generator import Generator
from .dataset import SPLIT_EPOCH, Subset, random_split, split_sizes
from .samplers import labels_of


def split(
    dataset: Any,
    lengths: Sequence[float],
    *,
    stratify: Any = None,
    seed: int | None = None,
    generator: Generator | None = None,
    shuffle: bool = True,
) -> list[Subset]:
    """Cut ``dataset`` into parts of the given lengths or fractions, keyed by the seed: the same on every rank.

    ``stratify``: True (the data set's own ``targets``) or one label a sample; then each part has every class in proportion,
    to within one sample. ``shuffle=False`` cuts in order, for series in time. Raises RangeError for lengths that do not
    sum up to the data set, or a class with fewer samples than parts.

    >>> data = phalanx.data.TensorDataset(np.arange(20), np.array([0] * 10 + [1] * 10))
    >>> train, valid, test = phalanx.data.split(data, [0.6, 0.2, 0.2], stratify=True, seed=0)
    >>> len(train), len(valid), sum(int(label) for _, label in test)
    (12, 4, 2)
    """
    if seed is None:
        seed = rng.initial_seed() if generator is None else generator.initial_seed()
    total = len(dataset)
    if not shuffle:
        if stratify is not None:
            raise RangeError("split: shuffle=False cuts in order, so it cannot stratify: leave one of them out")
        ends = list(accumulate(split_sizes(lengths, total)))
        return [Subset(dataset, np.arange(lo, hi)) for lo, hi in zip([0, *ends[:-1]], ends, strict=True)]
    if stratify is None:
        return random_split(dataset, lengths, seed=seed)
    labels = labels_of(dataset if stratify is True else stratify)
    if len(labels) != total:
        raise ShapeError(f"split: stratify has {len(labels)} labels, the data set {total} samples")
    sizes = split_sizes(lengths, total)
    parts = _dealt(labels, sizes, rng.permutation(total, seed, SPLIT_EPOCH))
    return [Subset(dataset, part) for part in parts]


def _dealt(labels: np.ndarray, sizes: list[int], order: np.ndarray) -> list[np.ndarray]:
    """The samples of each part, in the order of ``order``: every class in proportion, rounded up or down."""
    classes, counts = np.unique(labels, return_counts=True)
    parts = sum(size > 0 for size in sizes)
    if counts.min() < parts:
        raise RangeError(
            f"split: class {classes[counts.argmin()]!r} has {counts.min()} samples, fewer than the {parts} parts: "
            "merge classes or leave stratify out"
        )
    shares = np.outer(counts, np.asarray(sizes) / len(labels))
    table = np.floor(np.round(shares, 9)).astype(np.int64)
    open_places = np.asarray(sizes) - table.sum(0)
    for row, count in zip(table, counts, strict=True):  # Gale and Ryser: what is over goes where most is missing
        chosen = np.argsort(-open_places, kind="stable")[: count - row.sum()]
        row[chosen] += 1
        open_places[chosen] -= 1
    where = np.empty(len(labels), np.int64)
    for name, row in zip(classes, table, strict=True):
        where[order[labels[order] == name]] = np.repeat(np.arange(len(sizes)), row)
    return [order[where[order] == part] for part in range(len(sizes))]
