"""Randomness of one sample: a function of (seed, epoch, sample index), whoever fetches it and whenever.

Transforms of this package draw from :func:`sample_random`, which belongs to the thread. A data set that says
``keyed = True`` promises to draw from nothing else: its samples may be fetched by background threads, in parallel.
Any other data set may use ``random`` and ``numpy.random``, as PyTorch programs do. Those generators belong to the whole
process, so they are seeded before each sample and put back after the batch, under one lock for all threads.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import numpy as np

from .. import rng
from ..rank_local import of_rank

T = TypeVar("T")

_APART = 1 << 40
"""Keeps the streams of samples apart from those of seeds that people choose."""
_globals_lock = threading.RLock()
_local = of_rank(threading.local())


def sample_seeds(length: int, seed: int, epoch: int) -> np.ndarray:
    """One uint32 for each sample of an epoch."""
    return rng.Key(seed, rng.PURPOSES["transform"], epoch, 0, 0).bits(length)


def seeds_between(lo: int, hi: int, seed: int, epoch: int) -> np.ndarray:
    """What :func:`sample_seeds` has at [lo, hi), whatever the length.

    >>> seeds_between(6, 9, 1, 0).tolist() == sample_seeds(20, 1, 0)[6:9].tolist()
    True
    """
    first = lo // 4 * 4
    key = rng.Key(seed, rng.PURPOSES["transform"], epoch, 0, 0)
    return key.bits(hi - first, first=first)[lo - first :]


def sample_random() -> random.Random:
    """The generator of the sample being fetched on this thread; outside of a loader, one that follows the seed.

    >>> class Noise(phalanx.data.Dataset):
    ...     keyed = True
    ...     def __len__(self): return 4
    ...     def __getitem__(self, index): return phalanx.data.sample_random().random()
    >>> once, again = ([x.tolist() for x in phalanx.data.DataLoader(Noise(), seed=0)] for _ in range(2))
    >>> once == again and len({x for (x,) in once}) == 4
    True
    """
    seed = getattr(_local, "seed", None)
    if seed is None:
        return random.Random(int(rng.next_key("transform").bits(1)[0]))
    if _local.generator is None:
        _local.generator = random.Random(seed)
    return _local.generator


@contextmanager
def keyed_sample(seed: int) -> Iterator[None]:
    """Inside, :func:`sample_random` and ``phalanx.rand`` follow from ``seed``, on whatever thread."""
    outer = (getattr(_local, "seed", None), getattr(_local, "generator", None))
    _local.seed, _local.generator = seed, None
    try:
        with rng.own_stream(seed + _APART):
            yield
    finally:
        _local.seed, _local.generator = outer


@contextmanager
def borrowed_globals() -> Iterator[Callable[[int], None]]:
    """Hold ``random`` and ``numpy.random`` of the process; yields what seeds both; puts them back at the end."""
    with _globals_lock:
        python_state, numpy_state = random.getstate(), np.random.get_state()
        try:
            yield _seed_globals
        finally:
            random.setstate(python_state)
            np.random.set_state(numpy_state)


def _seed_globals(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed)
