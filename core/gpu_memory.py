"""What holds a GPU's memory, and one clear error when there is no more of it.

All arrays come from CuPy's pool. :func:`watch` puts one function before it, which turns the pool's "out of memory" into words:
what was asked for, who holds what, what to do.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from types import ModuleType
from typing import Any

from .errors import PhalanxError

Holder = Callable[[], Iterable[tuple[str, int, int]]]
"""Gives (kind, index of the GPU, bytes) of what it holds."""
KINDS = ("parameters", "gradients", "optimizer state", "sums over shards", "workspaces", "captured graphs")


class GpuMemoryError(PhalanxError, MemoryError):
    """A GPU has no memory for an array: says what was asked, what holds the rest, and what to do.

    >>> issubclass(phalanx.cuda.OutOfMemoryError, MemoryError)
    True
    """


class _Watched:
    """Of this process."""

    def __init__(self) -> None:
        self.pool: Any = None
        self.total: dict[int, int] = {}
        self.peak: dict[int, int] = {}
        """GPU -> most bytes in use, as seen whenever the pool grew or somebody looked."""
        self.holders: list[weakref.ref[Any]] = []


_watched = _Watched()


def holds(owner: Any) -> None:
    """``owner.held()`` tells what it holds of GPUs (:data:`Holder`), as long as it lives."""
    _watched.holders = [known for known in _watched.holders if known() is not None]
    _watched.holders.append(weakref.ref(owner))


def watch(module: ModuleType) -> None:
    """From now on what the pool cannot give is told in words. ``module``: CuPy."""
    pool = module.get_default_memory_pool()
    if _watched.pool is pool:
        return
    _watched.pool = pool
    full, device_id, totals = module.cuda.memory.OutOfMemoryError, module.cuda.runtime.getDevice, _watched.total

    def allocate(nbytes: int) -> Any:
        try:
            memory = pool.malloc(nbytes)
        except full:
            raise GpuMemoryError(_words(module, nbytes)) from None
        total = pool.total_bytes()
        index = device_id()
        if total != totals.get(index):
            totals[index] = total
            _see(index, pool.used_bytes())
        return memory

    module.cuda.set_allocator(allocate)


def _see(index: int, used: int) -> int:
    _watched.peak[index] = max(_watched.peak.get(index, 0), used)
    return used


def used_bytes(module: ModuleType, index: int) -> int:
    """Bytes of all arrays on a GPU."""
    with module.cuda.Device(index):
        return _see(index, int(module.get_default_memory_pool().used_bytes()))


def peak_bytes(module: ModuleType, index: int) -> int:
    """The most that were in use, as seen whenever the pool grew and whenever somebody looked."""
    used_bytes(module, index)
    return _watched.peak[index]


def forget_peak(module: ModuleType, index: int) -> None:
    """Begin anew with what is in use now, and let the pool give back what it keeps, so that growth is seen again."""
    with module.cuda.Device(index):
        module.get_default_memory_pool().free_all_blocks()
        _watched.peak.pop(index, None)
        _watched.total.pop(index, None)
    used_bytes(module, index)


def parts(module: ModuleType, index: int) -> dict[str, int]:
    """Bytes by what they are for; they add up to what this process has taken of the GPU."""
    found = dict.fromkeys(KINDS, 0)
    for known in _watched.holders:
        owner = known()
        for kind, place, nbytes in owner.held() if owner is not None else ():
            if place == index:
                found[kind] += nbytes
    used = used_bytes(module, index)
    found["activations and other tensors"] = max(0, used - sum(found.values()))
    with module.cuda.Device(index):
        found["kept by the pool"] = int(module.get_default_memory_pool().free_bytes())
    return found


def summary(module: ModuleType, index: int) -> str:
    """:func:`parts` and the card as lines of text."""
    with module.cuda.Device(index):
        free, total = module.cuda.runtime.memGetInfo()
    rows = parts(module, index)
    own = sum(rows.values())
    lines = [f"memory of cuda:{index}: {size(total)}, free {size(free)}, this process's arrays {size(own)}"]
    lines += [f"  {kind:<32}{size(nbytes):>12}" for kind, nbytes in rows.items() if nbytes]
    lines.append(f"  {'other processes, CUDA itself':<32}{size(max(0, total - free - own)):>12}")
    return "\n".join(lines)


def _words(module: ModuleType, nbytes: int) -> str:
    index = int(module.cuda.runtime.getDevice())
    limit = int(module.get_default_memory_pool().get_limit())
    bound = f" (the pool may take {size(limit)}: set_per_process_memory_fraction)" if limit else ""
    return (
        f"cuda:{index} has no memory for {size(nbytes)} more{bound}.\n{summary(module, index)}\n"
        "Use a smaller batch_size (with shards: more of them), utils.checkpoint around parts of the model, bfloat16, or "
        'more ranks with shard="optimizer" or "gradients"; end other processes on this GPU (nvidia-smi lists them).'
    )


def size(nbytes: int) -> str:
    """Bytes in words, K = 1024.

    >>> size(3 << 20), size(10)
    ('3.00 MiB', '10 B')
    """
    value, units = float(nbytes), ("B", "KiB", "MiB", "GiB", "TiB")
    for unit in units:
        if value < 1024 or unit == units[-1]:
            return f"{nbytes} B" if unit == "B" else f"{value:.2f} {unit}"
        value /= 1024
    raise AssertionError("unreachable")
