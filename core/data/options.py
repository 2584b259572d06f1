"""What a DataLoader is given: PyTorch's options that mean something here, and what to do about the others."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from ..backend import Device
from ..errors import DataError, RangeError
from ..generator import Generator
from .dataset import is_stream

_HINTS = {"pin_memory", "pin_memory_device", "in_order"}
"""PyTorch's options that never change which samples come: taken as hints."""
_ORDER = {"shuffle": "its order is the sampler's", "drop_last": "its batches are the batch sampler's"}
_DISTRIBUTED = (
    "every rank gets its own part of each global batch by itself: drop the sampler (and set_epoch), use shuffle=True; "
    "batch_size counts the samples of all ranks"
)
_TORCH_SAMPLER = (
    "it draws from PyTorch's generator, which is not seeded here and differs between ranks: use the sampler of the same "
    "name from phalanx.data"
)
_GENERATOR = "randomness is keyed: give seed=..., or a phalanx.Generator, which is no more than a seed"
_FORK = (
    "a forked process inherits locks that a thread held, and MPI's connections: use multiprocessing_context='spawn' "
    "(processes), or leave it out (threads)"
)
_INIT = (
    "workers are threads and share the data set: set it up before, or have processes by "
    "multiprocessing_context='spawn'; `random` and `numpy.random` are seeded for each sample either way"
)


@dataclass(frozen=True)
class Options:
    """PyTorch's less common options."""

    sampler: Any = None
    batch_sampler: Any = None
    generator: Generator | None = None
    multiprocessing_context: Any = None
    """None: workers are threads; "spawn" or "forkserver": fresh processes."""
    worker_init_fn: Callable[[int], None] | None = None
    persistent_workers: bool = False
    prefetch_factor: int | None = None
    device: Any = None
    """A GPU that batches are sent to while they are awaited; None: they stay where they were made."""
    timeout: float = 0
    """Seconds that a worker process may take for a batch; 0: any time."""

    def __post_init__(self) -> None:
        for name in ("sampler", "batch_sampler"):
            _check_sampler(name, getattr(self, name))
        if self.generator is not None and not isinstance(self.generator, Generator):
            raise RangeError(f"DataLoader does not support generator={self.generator!r}: {_GENERATOR}")
        if self.timeout < 0:
            raise RangeError(f"DataLoader: timeout is in seconds, 0 for none; got {self.timeout}")
        method = getattr(self.multiprocessing_context, "_name", self.multiprocessing_context)
        if method not in (None, "spawn", "forkserver"):
            known = isinstance(method, str)
            raise RangeError(
                f"DataLoader does not support multiprocessing_context={method if known else self.multiprocessing_context!r}: {_FORK}"
            )

    @property
    def gpu(self) -> Device | None:
        """The GPU to send batches to; None without."""
        device = None if self.device is None else Device(self.device)
        return None if device is None or device.type == "cpu" else device

    @property
    def processes(self) -> bool:
        return self.multiprocessing_context is not None


def read_options(given: Mapping[str, Any], dataset: Any, num_workers: int, **loader: Any) -> Options:
    """Refuse what cannot be honoured rather than ignore it. ``loader``: the loader's own shuffle, drop_last, batch_size."""
    known = {field.name for field in fields(Options)}
    unknown = sorted(set(given) - _HINTS - known)
    if unknown:
        listed = ("batch_size", "shuffle", "drop_last", "seed", "collate_fn", "prefetch", "num_workers", *sorted(known))
        raise TypeError(f"DataLoader does not know the option(s) {', '.join(unknown)}; it knows {', '.join(listed)}")
    if given.get("in_order", True) is not True:
        raise RangeError("DataLoader does not support in_order=False: batches always come in keyed order")
    options = Options(**{name: value for name, value in given.items() if name in known})
    if options.worker_init_fn is not None and num_workers > 0 and not options.processes:
        raise RangeError(f"DataLoader does not support worker_init_fn={options.worker_init_fn!r}: {_INIT}")
    if options.batch_sampler is not None and (options.sampler is not None or loader["batch_size"] != 1):
        raise RangeError("DataLoader: batch_sampler says which batches there are: leave sampler and batch_size out")
    for name, reason in _ORDER.items():
        sampled = options.batch_sampler is not None or (name == "shuffle" and options.sampler is not None)
        if loader[name] and sampled:
            raise RangeError(f"DataLoader: leave {name} out beside a sampler: {reason}")
    if is_stream(dataset):
        _check_stream(dataset, options, bool(loader["shuffle"]), num_workers)
    return options


def _check_sampler(name: str, sampler: Any) -> None:
    if sampler is None:
        return
    kind = type(sampler)
    if hasattr(sampler, "num_replicas") or "Distributed" in kind.__name__:
        raise RangeError(f"DataLoader does not support {name}={kind.__name__}: {_DISTRIBUTED}")
    if kind.__module__.partition(".")[0] == "torch" and kind.__name__ != "SequentialSampler":
        raise RangeError(f"DataLoader does not support {name}={kind.__name__} of PyTorch: {_TORCH_SAMPLER}")
    if not (hasattr(sampler, "__len__") and (hasattr(sampler, "__iter__") or hasattr(sampler, "order"))):
        raise RangeError(f"DataLoader: {name} needs __len__ and order(seed, epoch) or __iter__, got {sampler!r}")


def _check_stream(dataset: Any, options: Options, shuffle: bool, num_workers: int) -> None:
    name = type(dataset).__name__
    if shuffle or options.sampler is not None or options.batch_sampler is not None:
        raise RangeError(
            f"{name} is a stream: its order is its own, so leave shuffle and samplers out "
            "(StreamingDataset has shuffle_files and window)"
        )
    if options.processes and num_workers > 0:
        raise RangeError(f"{name} is a stream: it is read by threads; leave multiprocessing_context out")


def check_dataset(dataset: Any) -> None:
    """A length, items, and at least one sample; or a stream that can be read more than once."""
    name = type(dataset).__name__
    if isinstance(dataset, set | frozenset | Mapping):
        raise DataError(f"a data set needs __len__ and __getitem__(0 ... length - 1), a {name} has none: give a list")
    if is_stream(dataset):
        if hasattr(dataset, "__next__"):
            raise DataError(
                f"{name} is a stream that is used up after one epoch: give an IterableDataset, whose __iter__ begins "
                "anew, or a list"
            )
        return
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
