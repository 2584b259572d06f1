"""Which GPU is this rank's, and the stream that all of its work runs on.

Nothing here touches CUDA before the first array goes to a device: :func:`enter` then makes the rank's GPU and one non-blocking
stream current, in this thread and in each helper thread of the rank (CuPy keeps both per thread). A default stream would not do:
it cannot be captured into a graph, and it waits for all others.
"""

from __future__ import annotations

import sys
import threading
from types import ModuleType
from typing import Any

from . import gpu_memory, rank_local
from .errors import RangeError


class _OfRank(threading.local):
    """A helper thread of the rank sees the same dicts."""

    def __init__(self) -> None:
        self.place: dict[str, int] = {}
        """``local_rank``, and ``index`` once it is known which GPU that is."""
        self.streams: dict[int, Any] = {}
        """Index of a GPU -> this rank's stream there."""


class _OfThread(threading.local):
    def __init__(self) -> None:
        self.entered: set[tuple[int, int]] = set()
        """(rank's streams, index): what is current here already."""


_rank = rank_local.of_rank(_OfRank())
_thread = _OfThread()


def assign(local_rank: int) -> None:
    """This process (or thread) is the host's rank ``local_rank``: its GPU is that one, modulo their number."""
    if not _rank.streams:
        _rank.place["local_rank"] = local_rank


def choose(index: int) -> None:
    """From now on the rank's GPU is ``index``: "cuda" without a number means it."""
    _rank.place["index"] = index


def index_of(module: ModuleType) -> int:
    """The rank's GPU. Raises RangeError where there is none."""
    place = _rank.place
    if "index" not in place:
        count = count_of(module)
        if not count:
            raise RangeError(
                'device "cuda": no GPU can be used here (CuPy is installed, but it sees no device); use device "cpu", and see '
                "`phalanx doctor` for what is missing"
            )
        place["index"] = place.get("local_rank", 0) % count
    return place["index"]


def count_of(module: ModuleType) -> int:
    """How many GPUs there are; 0 without a driver."""
    try:
        return int(module.cuda.runtime.getDeviceCount())
    except RuntimeError:  # CuPy's own errors
        return 0


def enter(module: ModuleType, index: int | None = None) -> int:
    """Make GPU ``index`` (the rank's own, if None) known to this thread, with the rank's stream; returns the index.

    The rank's own GPU becomes the thread's current one. ``module``: CuPy.
    """
    own = index_of(module)
    index = own if index is None else index
    key = (id(_rank.streams), index)
    if key in _thread.entered:
        return index
    if index >= (count := count_of(module)):
        raise RangeError(
            f'device "cuda:{index}": there {"is 1 GPU" if count == 1 else f"are {count} GPUs"} here, from 0'
        )
    with module.cuda.Device(index):
        gpu_memory.watch(module)
        stream = _rank.streams.get(index)
        if stream is None:
            module.cuda.get_current_stream().synchronize()  # of what the user's own code has begun there
            stream = _rank.streams[index] = module.cuda.Stream(non_blocking=True)
        stream.use()
    if index == own:
        module.cuda.Device(index).use()
    _thread.entered.add(key)
    return index


def stream(module: ModuleType, index: int | None = None) -> Any:
    """The rank's stream on a GPU."""
    return _rank.streams[enter(module, index)]


def in_use() -> bool:
    """Whether this rank has used a GPU."""
    return bool(_rank.streams) and "cupy" in sys.modules


def _follow() -> None:
    """A helper thread has taken over a rank that uses a GPU."""
    if in_use():
        for index in list(_rank.streams):
            enter(sys.modules["cupy"], index)


rank_local.when_taken_over(_follow)
