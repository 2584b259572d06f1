"""``phalanx.cuda``: devices, streams, events and memory, by PyTorch's names.

All of a rank's work on a GPU runs on one non-blocking stream (:mod:`.own_gpu`), which is current from the first use on.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from . import gpu_memory, own_gpu
from .backend import Device, cupy, gpu_count, waited
from .errors import RangeError
from .gpu_memory import GpuMemoryError as OutOfMemoryError
from .gpu_peaks import stated_peak
from .kernels.table import PROVIDERS
from .rng import initial_seed, manual_seed

__all__ = [
    "DeviceProperties", "Event", "OutOfMemoryError", "Stream", "current_device", "current_stream", "device_count",
    "empty_cache", "get_device_capability", "get_device_name", "get_device_properties", "initial_seed", "is_available",
    "is_bf16_supported", "manual_seed", "manual_seed_all", "max_memory_allocated", "max_memory_reserved", "mem_get_info",
    "memory_allocated", "memory_reserved", "memory_summary", "peak_flops", "reset_peak_memory_stats", "set_device",
    "set_per_process_memory_fraction", "stream", "synchronize",
]  # fmt: skip

Which = Device | str | int | None
"""A GPU: "cuda:1", 1, a device; None: the rank's own."""

manual_seed_all = manual_seed
"""One seed serves all devices: randomness is keyed."""


# ---- devices ---------------------------------------------------------------------------------------------------------


def device_count() -> int:
    """How many GPUs can be trained on: those that CuPy sees; 0 without CuPy or without a driver.

    >>> phalanx.cuda.device_count() >= 0
    True
    """
    return gpu_count() if "cuda" in PROVIDERS else 0


def is_available() -> bool:
    """Whether ``device("cuda")`` can be trained on.

    >>> device = phalanx.device("cuda" if phalanx.cuda.is_available() else "cpu")
    """
    return device_count() > 0


def is_bf16_supported() -> bool:
    """Whether the rank's GPU computes in bfloat16 by itself: Ampere and later (compute capability 8.0). False without a GPU.

    >>> phalanx.cuda.is_bf16_supported() in (True, False)
    True
    """
    return is_available() and get_device_capability() >= (8, 0)


def _index(device: Which) -> int:
    """The number of a GPU; makes it known to this thread."""
    index = None
    if device is not None:
        device = Device(device)
        if device.type != "cuda":
            raise RangeError(f'phalanx.cuda: expected a GPU ("cuda", "cuda:1", 1), got {str(device)!r}')
        index = device.index
    return own_gpu.enter(cupy(), index)


def local_device() -> Device:
    """Where this rank computes: its own GPU where there is one, else the CPU.

    Ranks of a host get its GPUs in turn, by their number on the host; ``phalanx.init()`` must have been called. What a
    script that runs everywhere needs: ``model.to(phalanx.local_device())``.

    >>> phalanx.local_device().type in ("cpu", "cuda")
    True
    """
    return Device("cuda", current_device()) if is_available() else Device("cpu")


def set_device(device: Which) -> None:
    """Make ``device`` this rank's GPU: what "cuda" without a number means. Call it before the first tensor goes there.

    ``phalanx.init()`` gives each rank of a host a GPU of its own, as far as they go, so that scripts need no call. Raises RangeError for
    a number that there is not.

    >>> if phalanx.cuda.is_available(): phalanx.cuda.set_device(0)
    """
    index = _index(device)
    own_gpu.choose(index)
    cupy().cuda.Device(index).use()


def current_device() -> int:
    """The number of this rank's GPU. Raises RangeError without one.

    >>> phalanx.cuda.current_device() if phalanx.cuda.is_available() else 0
    0
    """
    return _index(None)


@dataclass(frozen=True)
class DeviceProperties:
    """What :func:`get_device_properties` returns; ``total_memory`` is in bytes, ``major.minor`` the compute capability.

    >>> phalanx.cuda.DeviceProperties("a card", 9, 0, 80 << 30, 132).multi_processor_count
    132
    """

    name: str
    major: int
    minor: int
    total_memory: int
    multi_processor_count: int


def get_device_properties(device: Which = None) -> DeviceProperties:
    """Name, compute capability, memory in bytes and number of multiprocessors of a GPU (default: the rank's own).

    >>> phalanx.cuda.get_device_properties().major >= 3 if phalanx.cuda.is_available() else True
    True
    """
    found = cupy().cuda.runtime.getDeviceProperties(_index(device))
    name = found["name"]
    return DeviceProperties(
        name.decode() if isinstance(name, bytes) else str(name),
        int(found["major"]),
        int(found["minor"]),
        int(found["totalGlobalMem"]),
        int(found["multiProcessorCount"]),
    )


def get_device_name(device: Which = None) -> str:
    """The name of a GPU (default: the rank's own).

    >>> name = phalanx.cuda.get_device_name() if phalanx.cuda.is_available() else "no GPU"
    """
    return get_device_properties(device).name


def get_device_capability(device: Which = None) -> tuple[int, int]:
    """The compute capability of a GPU (default: the rank's own), for example (9, 0) for Hopper.

    >>> phalanx.cuda.get_device_capability() > (3, 0) if phalanx.cuda.is_available() else True
    True
    """
    found = get_device_properties(device)
    return found.major, found.minor


def peak_flops(dtype: str = "bfloat16", device: Which = None) -> float | None:
    """Operations a second that the maker states for dense products in ``dtype`` ("bfloat16", "float16", "tf32"); None if not known.

    >>> peak = phalanx.cuda.peak_flops() if phalanx.cuda.is_available() else None
    """
    return stated_peak(get_device_name(device), dtype)


def synchronize(device: Which = None) -> None:
    """Wait until a GPU (default: the rank's own) has done all that it was given; for clocks. Does nothing without a GPU.

    >>> phalanx.cuda.synchronize()
    """
    if is_available():
        with cupy().cuda.Device(_index(device)):
            cupy().cuda.runtime.deviceSynchronize()
        waited()


# ---- streams and events ----------------------------------------------------------------------------------------------


class Event:
    """A point in a stream's work: to wait for, or to measure time between two of them.

    ``enable_timing``: whether :meth:`elapsed_time` will be asked. ``blocking``: whether who waits sleeps instead of spinning.

    >>> if phalanx.cuda.is_available():
    ...     began, ended = (phalanx.cuda.Event(enable_timing=True) for _ in range(2))
    ...     began.record(); ended.record(); ended.synchronize()
    ...     assert began.elapsed_time(ended) >= 0
    """

    def __init__(self, enable_timing: bool = False, blocking: bool = False) -> None:
        _index(None)
        self.event: Any = cupy().cuda.Event(block=blocking, disable_timing=not enable_timing)

    def record(self, stream: Stream | None = None) -> None:
        """What ``stream`` (default: the current one) has been given so far."""
        self.event.record(_stream(stream))

    def wait(self, stream: Stream | None = None) -> None:
        """What ``stream`` (default: the current one) is given from now on waits for this event."""
        _stream(stream).wait_event(self.event)

    def query(self) -> bool:
        """Whether all of it is done."""
        return bool(self.event.done)

    def synchronize(self) -> None:
        """Wait on the host until it is done."""
        self.event.synchronize()

    def elapsed_time(self, end_event: Event) -> float:
        """Milliseconds from this event to ``end_event``; both must have been made with ``enable_timing`` and be done."""
        return float(cupy().cuda.get_elapsed_time(self.event, end_event.event))


class Stream:
    """A queue of work on a GPU beside the rank's own: ``with phalanx.cuda.stream(Stream()): ...``

    It does not wait for other streams unless told so (:meth:`wait_stream`), and memory of tensors that were freed on one stream is given to
    others without waiting: keep tensors that two streams use until both are done. ``priority``: lower numbers go first.

    >>> if phalanx.cuda.is_available():
    ...     side = phalanx.cuda.Stream()
    ...     side.wait_stream(phalanx.cuda.current_stream()); side.synchronize()
    """

    def __init__(self, device: Which = None, priority: int = 0) -> None:
        index = _index(device)
        with cupy().cuda.Device(index):
            self.stream: Any = cupy().cuda.Stream(non_blocking=True, priority=priority)
        self.device = Device("cuda", index)

    @classmethod
    def _of(cls, stream: Any, index: int) -> Stream:
        made = cls.__new__(cls)
        made.stream, made.device = stream, Device("cuda", index)
        return made

    def wait_event(self, event: Event) -> None:
        """What comes from now on waits for ``event``."""
        self.stream.wait_event(event.event)

    def wait_stream(self, stream: Stream) -> None:
        """What comes from now on waits for all that ``stream`` has been given so far."""
        event = cupy().cuda.Event(disable_timing=True)
        event.record(stream.stream)
        self.stream.wait_event(event)

    def record_event(self, event: Event | None = None) -> Event:
        """``event`` (a new one, if None) stands for all that this stream has been given so far."""
        event = Event() if event is None else event
        event.record(self)
        return event

    def query(self) -> bool:
        """Whether all is done."""
        return bool(self.stream.done)

    def synchronize(self) -> None:
        """Wait on the host until all is done."""
        self.stream.synchronize()

    def __repr__(self) -> str:
        return f"<Stream on {self.device}>"


def _stream(stream: Stream | None) -> Any:
    if stream is not None:
        return stream.stream
    _index(None)
    return cupy().cuda.get_current_stream()


def current_stream(device: Which = None) -> Stream:
    """The stream that work of this thread goes to now.

    >>> now = phalanx.cuda.current_stream() if phalanx.cuda.is_available() else None
    """
    index = _index(device)
    with cupy().cuda.Device(index):
        return Stream._of(cupy().cuda.get_current_stream(), index)


@contextmanager
def stream(stream: Stream | None) -> Iterator[None]:
    """Within, work goes to ``stream``; None changes nothing.

    >>> with phalanx.cuda.stream(phalanx.cuda.Stream() if phalanx.cuda.is_available() else None):
    ...     pass
    """
    if stream is None:
        yield
        return
    with cupy().cuda.Device(stream.device.index), stream.stream:
        yield


# ---- memory ----------------------------------------------------------------------------------------------------------


def memory_allocated(device: Which = None) -> int:
    """Bytes of all tensors on a GPU (default: the rank's own); 0 without one.

    >>> phalanx.cuda.memory_allocated() >= 0
    True
    """
    return gpu_memory.used_bytes(cupy(), _index(device)) if is_available() else 0


def max_memory_allocated(device: Which = None) -> int:
    """The most bytes of tensors so far, or since :func:`reset_peak_memory_stats`.

    Counted whenever more was taken of the GPU than ever before, and where it is asked for; between two such moments a peak that
    fits into what the pool had taken already is not seen.

    >>> phalanx.cuda.max_memory_allocated() >= 0
    True
    """
    return gpu_memory.peak_bytes(cupy(), _index(device)) if is_available() else 0


def reset_peak_memory_stats(device: Which = None) -> None:
    """Begin :func:`max_memory_allocated` anew. Gives back what the pool keeps, so that growth is seen again.

    >>> phalanx.cuda.reset_peak_memory_stats()
    """
    if is_available():
        gpu_memory.forget_peak(cupy(), _index(device))


def memory_reserved(device: Which = None) -> int:
    """Bytes that this process's pool has taken of a GPU, in use or kept for later; 0 without one.

    >>> phalanx.cuda.memory_reserved() >= phalanx.cuda.memory_allocated()
    True
    """
    if not is_available():
        return 0
    with cupy().cuda.Device(_index(device)):
        return int(cupy().get_default_memory_pool().total_bytes())


def max_memory_reserved(device: Which = None) -> int:
    """As :func:`memory_reserved`: the pool gives nothing back by itself.

    >>> phalanx.cuda.max_memory_reserved() >= 0
    True
    """
    return memory_reserved(device)


def mem_get_info(device: Which = None) -> tuple[int, int]:
    """(free, total) bytes of a GPU, all processes counted. Raises RangeError without a GPU.

    >>> free, total = phalanx.cuda.mem_get_info() if phalanx.cuda.is_available() else (0, 0)
    """
    with cupy().cuda.Device(_index(device)):
        free, total = cupy().cuda.runtime.memGetInfo()
    return int(free), int(total)


def memory_summary(device: Which = None) -> str:
    """What holds the memory of a GPU: parameters, gradients, optimizer state, sums, activations, what the pool keeps.

    >>> len(phalanx.cuda.memory_summary().splitlines()) >= 1
    True
    """
    if not is_available():
        return "no GPU can be used here"
    return gpu_memory.summary(cupy(), _index(device))


def empty_cache() -> None:
    """Give what the pools keep for later (GPU memory, pinned memory) back to the system, for other processes.

    >>> phalanx.cuda.empty_cache()
    """
    if is_available():
        _index(None)
        cupy().get_default_memory_pool().free_all_blocks()
        cupy().get_default_pinned_memory_pool().free_all_blocks()


def set_per_process_memory_fraction(fraction: float, device: Which = None) -> None:
    """Let this process take at most ``fraction`` of a GPU's memory: for ranks that share one. 0 to 1; 1 is no limit.

    >>> if phalanx.cuda.is_available(): phalanx.cuda.set_per_process_memory_fraction(1.0)
    """
    if not 0 < fraction <= 1:
        raise RangeError(f"set_per_process_memory_fraction expects a fraction above 0, up to 1, got {fraction!r}")
    with cupy().cuda.Device(_index(device)):
        pool = cupy().get_default_memory_pool()
        if fraction == 1:
            pool.set_limit(size=0)
        else:
            pool.set_limit(fraction=fraction)
