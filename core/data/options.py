"""What a DataLoader is given: PyTorch's options that mean something here, and what to do about the others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..errors import DataError, RangeError
from ..generator import Generator
from .dataset import IterableDataset

_HINTS = {"pin_memory", "pin_memory_device", "persistent_workers", "prefetch_factor", "timeout", "in_order"}
"""PyTorch's options that never change which samples come: taken as hints."""

_REFUSED = {
    "sampler": "the order is keyed by `seed` and each rank gets its own part of the global batch: drop the sampler "
    "(a DistributedSampler too), use shuffle=True, or choose samples with Subset(dataset, indices)",
    "batch_sampler": "batches are cut from the keyed order by `batch_size`: drop it, use shuffle=True and drop_last",
    "generator": "randomness is keyed: give seed=..., or a phalanx.Generator, which is no more than a seed",
    "worker_init_fn": "workers are threads and share the data set: set it up before, and draw from `random` or "
    "`numpy.random` inside of __getitem__, where both are seeded for each sample",
    "multiprocessing_context": "workers are threads, not processes: drop it",
}


def check_options(options: Mapping[str, Any]) -> None:
    """Refuse what cannot be honoured rather than ignore it."""
    unknown = sorted(set(options) - _HINTS - set(_REFUSED))
    if unknown:
        known = ("batch_size", "shuffle", "drop_last", "seed", "collate_fn", "prefetch", "num_workers")
        raise TypeError(f"DataLoader does not know the option(s) {', '.join(unknown)}; it knows {', '.join(known)}")
    for name, reason in _REFUSED.items():
        is_seed = name == "generator" and isinstance(options.get(name), Generator)
        if options.get(name) is not None and not is_seed:
            raise RangeError(f"DataLoader does not support {name}={options[name]!r}: {reason}")
    if options.get("in_order", True) is not True:
        raise RangeError("DataLoader does not support in_order=False: batches always come in keyed order")


def check_dataset(dataset: Any) -> None:
    """A length, items, and at least one sample."""
    name = type(dataset).__name__
    stream = isinstance(dataset, IterableDataset) or (hasattr(dataset, "__iter__") and not hasattr(dataset, "__len__"))
    if stream:
        raise DataError(
            f"{name} is a stream of samples; streams are not supported yet, because the order, shards and exact "
            "resumption need a length: define __len__ and __getitem__, or read the stream into a TensorDataset"
        )
    if not hasattr(dataset, "__getitem__") or not hasattr(dataset, "__len__"):
        raise DataError(f"a data set needs __len__ and __getitem__, but {name} lacks one of them")
    if len(dataset) == 0:
        raise DataError(f"the data set ({name}) is empty: there is nothing to load")


def check_integer(name: str, value: Any, least: int) -> int:
    """``value`` as an int of at least ``least``."""
    integral = hasattr(value, "__index__") and not isinstance(value, bool)
    if not integral or int(value) < least:
        raise RangeError(f"DataLoader: {name} must be an integer of at least {least}, got {value!r}")
    return int(value)
