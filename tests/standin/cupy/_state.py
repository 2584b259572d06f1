"""What a CUDA context would hold: devices, memory and its pools, streams, events, captures. All of it in host memory."""

from __future__ import annotations

import ctypes
import os
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np

from . import _order

UNIT = 512
"""CuPy's pool hands out memory in these units, at addresses that are multiples of them."""
GUARD = 64
_GUARD_BYTE = 0xA5
TOTAL_BYTES = 80 << 30


class CUDARuntimeError(RuntimeError):
    """An error of the CUDA runtime."""

    def __init__(self, status: int | str, text: str = "") -> None:
        self.status = status
        super().__init__(f"{status}: {text}" if text else str(status))


class OutOfMemoryError(MemoryError):
    """As CuPy's: how much was asked for, how much is allocated, and the limit."""

    def __init__(self, size: int, total: int, limit: int = 0) -> None:
        limited = f" (limit set to: {limit:,} bytes)" if limit else ""
        super().__init__(f"Out of memory allocating {size:,} bytes (allocated so far: {total:,} bytes{limited}).")


def device_count() -> int:
    """Two devices, or what ``CUDA_VISIBLE_DEVICES`` leaves of them."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return int(os.environ.get("STANDIN_DEVICES", "2"))
    return len([name for name in visible.split(",") if name.strip() not in ("", "-1")])


class _Thread(threading.local):
    device = 0
    allocators: tuple[Any, ...] = ()
    streams: dict[int, Any] | None = None


thread = _Thread()


def check_device(index: int) -> None:
    if not 0 <= index < device_count():
        raise CUDARuntimeError("cudaErrorInvalidDevice", "invalid device ordinal")


class Device:
    """A device by its number; as a context manager it is the current one."""

    def __init__(self, device: int | Device | None = None) -> None:
        self.id = thread.device if device is None else int(device)
        self._before: list[int] = []

    def __int__(self) -> int:
        return self.id

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Device) and other.id == self.id

    def __hash__(self) -> int:
        return hash(self.id)

    def __repr__(self) -> str:
        return f"<CUDA Device {self.id}>"

    def __enter__(self) -> Device:
        check_device(self.id)
        self._before.append(thread.device)
        thread.device = self.id
        return self

    def __exit__(self, *_: object) -> None:
        thread.device = self._before.pop()

    def use(self) -> None:
        check_device(self.id)
        thread.device = self.id

    def synchronize(self) -> None:
        refuse_while_capturing("cudaDeviceSynchronize")
        _order.host_waits_for_all()

    @property
    def compute_capability(self) -> str:
        return "90"

    @property
    def mem_info(self) -> tuple[int, int]:
        return TOTAL_BYTES - default_pool._held(self.id), TOTAL_BYTES

    @property
    def pci_bus_id(self) -> str:
        return f"0000:{self.id:02x}:00.0"

    @property
    def attributes(self) -> dict[str, int]:
        return {"MultiProcessorCount": 132, "MaxThreadsPerBlock": 1024, "WarpSize": 32}


# ---- memory ----------------------------------------------------------------------------------------------------------


class Memory:
    """Bytes on a device, from ``pool``; they are given back when nobody holds them."""

    def __init__(self, size: int, device_id: int, pool: MemoryPool | None, raw: np.ndarray | None = None) -> None:
        self.size, self.device_id, self.pool = size, device_id, pool
        self.raw = raw
        self.guard: np.ndarray | None = None
        _order.track(self)

    def allocate(self) -> None:
        raw = np.empty(self.size + UNIT + GUARD, np.uint8)
        start = -raw.ctypes.data % UNIT
        self.raw = raw[start : start + self.size]
        self.raw.fill(0xFF)  # NaN in every floating type: nobody may count on what is not written yet
        self.guard = raw[start + self.size : start + self.size + GUARD]
        self.guard.fill(_GUARD_BYTE)
        _keep(self.raw)

    @property
    def ptr(self) -> int:
        return self.raw.ctypes.data if self.raw is not None else 0

    @property
    def device(self) -> Device:
        return Device(self.device_id)

    def whole(self) -> bool:
        """Whether nobody wrote behind the end."""
        return self.guard is None or bool((self.guard == _GUARD_BYTE).all())

    def __del__(self) -> None:
        _order.freed(self)
        pool = self.pool
        if pool is not None:
            pool._give_back(self)


class UnownedMemory(Memory):
    """Memory that somebody else owns."""

    def __init__(self, ptr: int, size: int, owner: Any, device_id: int = -1) -> None:
        super().__init__(size, thread.device if device_id < 0 else device_id, None)
        self.owner = owner
        self.raw = _bytes_at(ptr, size)


def _bytes_at(ptr: int, size: int) -> np.ndarray:
    return np.frombuffer((ctypes.c_uint8 * size).from_address(ptr), np.uint8) if size else np.empty(0, np.uint8)


class MemoryPointer:
    """A place within memory."""

    def __init__(self, mem: Memory, offset: int) -> None:
        self.mem = mem
        self.ptr = mem.ptr + offset
        self._offset = offset

    def __int__(self) -> int:
        return self.ptr

    def __add__(self, offset: int) -> MemoryPointer:
        return MemoryPointer(self.mem, self._offset + offset)

    __radd__ = __add__

    def __sub__(self, offset: int) -> MemoryPointer:
        return MemoryPointer(self.mem, self._offset - offset)

    @property
    def device_id(self) -> int:
        return self.mem.device_id

    @property
    def device(self) -> Device:
        return self.mem.device

    def _copy(self, to: int, source: int, size: int, stream: Any, host: bool) -> None:
        run(lambda: copy_bytes(to, source, size), stream, host=host)

    def copy_from_host(self, mem: Any, size: int) -> None:
        refuse_while_capturing("a copy between host and device")
        _order.at_address(self.ptr, size, True)
        copy_bytes(self.ptr, _address(mem), size)

    def copy_from_host_async(self, mem: Any, size: int, stream: Any = None) -> None:
        _order.at_address(self.ptr, size, True, stream)
        self._copy(self.ptr, _address(mem), size, stream, host=True)

    def copy_to_host(self, mem: Any, size: int) -> None:
        refuse_while_capturing("a copy between host and device")
        _order.at_address(self.ptr, size, False)
        _order.host_waits_for()
        copy_bytes(_address(mem), self.ptr, size)

    def copy_to_host_async(self, mem: Any, size: int, stream: Any = None) -> None:
        _order.at_address(self.ptr, size, False, stream)
        self._copy(_address(mem), self.ptr, size, stream, host=True)

    def copy_from_device(self, src: MemoryPointer, size: int) -> None:
        self._copy(self.ptr, src.ptr, size, None, host=False)

    def copy_from_device_async(self, src: MemoryPointer, size: int, stream: Any = None) -> None:
        self._copy(self.ptr, src.ptr, size, stream, host=False)

    def copy_from(self, mem: Any, size: int) -> None:
        (self.copy_from_device if isinstance(mem, MemoryPointer) else self.copy_from_host)(mem, size)

    def copy_from_async(self, mem: Any, size: int, stream: Any = None) -> None:
        (self.copy_from_device_async if isinstance(mem, MemoryPointer) else self.copy_from_host_async)(
            mem, size, stream
        )

    def memset(self, value: int, size: int) -> None:
        self.memset_async(value, size)

    def memset_async(self, value: int, size: int, stream: Any = None) -> None:
        run(lambda: _bytes_at(self.ptr, size).fill(value), stream)


def _address(mem: Any) -> int:
    return int(getattr(mem, "value", mem))


def copy_bytes(to: int, source: int, size: int) -> None:
    ctypes.memmove(to, source, size)


class MemoryPool:
    """Counts as CuPy's pool does: what is freed stays with the pool until ``free_all_blocks``."""

    def __init__(self, allocator: Any = None) -> None:
        self._lock = threading.RLock()
        self._used: dict[int, int] = {}
        self._free: dict[int, list[int]] = {}
        self._limit: dict[int, int] = {}

    def _take(self, size: int, device: int) -> Memory:
        """Memory that is not allocated yet, only counted."""
        rounded = -(-size // UNIT) * UNIT
        with self._lock:
            free = self._free.setdefault(device, [])
            fitting = [block for block in free if block >= rounded]
            if fitting:
                best = min(fitting)
                free.remove(best)
                if best > rounded:
                    free.append(best - rounded)
            else:
                total, limit = self._held(device), self._limit.get(device, 0)
                if total + rounded > (limit or TOTAL_BYTES):
                    free.clear()  # as CuPy: give all back to the driver and try once more
                    total = self._held(device)
                    if total + rounded > (limit or TOTAL_BYTES):
                        raise OutOfMemoryError(rounded, total, limit)
            self._used[device] = self._used.get(device, 0) + rounded
        return Memory(size, device, self)

    def _give_back(self, memory: Memory) -> None:
        rounded = -(-memory.size // UNIT) * UNIT
        with self._lock:
            self._used[memory.device_id] -= rounded
            if rounded:
                self._free.setdefault(memory.device_id, []).append(rounded)
                if len(self._free[memory.device_id]) > 256:  # neighbours merge in the real one
                    self._free[memory.device_id] = [sum(self._free[memory.device_id])]

    def _held(self, device: int) -> int:
        return self._used.get(device, 0) + sum(self._free.get(device, ()))

    def malloc(self, size: int) -> MemoryPointer:
        memory = self._take(size, thread.device)
        memory.allocate()
        return MemoryPointer(memory, 0)

    def used_bytes(self) -> int:
        return self._used.get(thread.device, 0)

    def free_bytes(self) -> int:
        return sum(self._free.get(thread.device, ()))

    def total_bytes(self) -> int:
        return self._held(thread.device)

    def n_free_blocks(self) -> int:
        return len(self._free.get(thread.device, ()))

    def free_all_blocks(self, stream: Any = None) -> None:
        with self._lock:
            self._free.pop(thread.device, None)

    def free_all_free(self) -> None:
        self.free_all_blocks()

    def set_limit(self, size: int | None = None, fraction: float | None = None) -> None:
        if (size is None) == (fraction is None) and size != 0:
            raise ValueError("size and fraction cannot be specified at one time" if size else "either is needed")
        self._limit[thread.device] = int(fraction * TOTAL_BYTES) if fraction is not None else int(size or 0)

    def get_limit(self) -> int:
        return self._limit.get(thread.device, 0)


default_pool = MemoryPool()
_allocator: list[Any] = [default_pool.malloc]


def get_allocator() -> Any:
    return thread.allocators[-1] if thread.allocators else _allocator[0]


def set_allocator(allocator: Any = None) -> None:
    if thread.allocators:
        raise ValueError("Can't change the global allocator inside `using_allocator` context manager.")
    _allocator[0] = plain_malloc if allocator is None else allocator


def plain_malloc(size: int) -> MemoryPointer:
    """Without a pool."""
    memory = Memory(size, thread.device, None)
    memory.allocate()
    return MemoryPointer(memory, 0)


class using_allocator:
    """Another allocator for this thread."""

    def __init__(self, allocator: Any = None) -> None:
        self._allocator = plain_malloc if allocator is None else allocator

    def __enter__(self) -> None:
        thread.allocators = (*thread.allocators, self._allocator)

    def __exit__(self, *_: object) -> None:
        thread.allocators = thread.allocators[:-1]


# ---- streams, events, captures ---------------------------------------------------------------------------------------


class Recording:
    """What a capture has recorded: calls in order, and the arrays that they were to make."""

    def __init__(self, origin: Stream) -> None:
        self.origin = origin
        self.calls: list[Callable[[], Any]] = []
        self.made: list[np.ndarray] = []
        self.kept: list[np.ndarray] = []
        """What was allocated meanwhile: libraries are given addresses alone."""
        self.forks: dict[int, list[int]] = {}
        """Stream -> [calls that it has recorded, how many of them the origin waits for]."""
        self.touched: dict[int, tuple[Any, Any]] = {}

    def touch(self, memory: Memory) -> None:
        """The calls read or write ``memory``: a graph does not keep it alive, a private pool does."""
        pool = memory.pool
        if id(memory) not in self.touched and memory.raw is not None:
            self.touched[id(memory)] = (
                weakref.ref(memory),
                None if pool in (None, default_pool) else weakref.ref(pool),
            )

    def add(self, call: Callable[[], Any], stream: Stream) -> None:
        self.calls.append(call)
        if stream is not self.origin:
            self.forks[id(stream)][0] += 1


_recordings: list[Recording] = []
_numbers = iter(range(1, 1 << 60))


class Stream:
    """Work on it is done at once, in order; while it captures, it is recorded."""

    null: Stream
    ptds: Stream

    def __init__(
        self, null: bool = False, non_blocking: bool = False, ptds: bool = False, priority: int | None = None
    ) -> None:
        self.ptr = 0 if null else 2 if ptds else next(_numbers) * 64
        if self.ptr > 2:
            _order.begin()
        self.device_id = -1 if null or ptds else thread.device
        self.is_non_blocking, self.priority = non_blocking, priority or 0
        self.recording: Recording | None = None
        self._before: list[Any] = []
        if self.ptr > 2:
            by_pointer[self.ptr] = self

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Stream) and other.ptr == self.ptr

    def __hash__(self) -> int:
        return hash(self.ptr)

    def __enter__(self) -> Stream:
        self._before.append(current_stream())
        self.use()
        return self

    def __exit__(self, *_: object) -> None:
        streams()[thread.device] = self._before.pop()

    def use(self) -> Stream:
        if self.device_id not in (-1, thread.device):
            raise RuntimeError(
                f"Stream was created on device {self.device_id}, and cannot be used on device {thread.device}"
            )
        streams()[thread.device] = self
        return self

    @property
    def done(self) -> bool:
        self._refuse("cudaStreamQuery")
        return True

    def _refuse(self, what: str) -> None:
        if self.recording is not None:
            raise CUDARuntimeError(
                "cudaErrorStreamCaptureUnsupported", f"operation not permitted when stream is capturing ({what})"
            )

    def synchronize(self) -> None:
        self._refuse("cudaStreamSynchronize")
        _order.host_waits_for(self)

    def record(self, event: Event | None = None) -> Event:
        event = Event() if event is None else event
        event.record(self)
        return event

    def wait_event(self, event: Event) -> None:
        recording = event.recording
        if recording is None:
            _order.wait(self, event.order)
            return
        if recording not in _recordings:
            raise CUDARuntimeError("cudaErrorCapturedEvent", "the event was recorded in a capture that is over")
        if self is recording.origin:
            for stream, count in event.seen.items():
                recording.forks[stream][1] = max(recording.forks[stream][1], count)
        elif self.recording is None:
            self.recording = recording
            recording.forks.setdefault(id(self), [1, 0])
            recording.forks[id(self)][0] += 1

    def launch_host_func(self, callback: Callable[[Any], None], arg: Any) -> None:
        run(lambda: callback(arg), self)

    def add_callback(self, callback: Callable[..., None], arg: Any) -> None:
        self._refuse("cudaStreamAddCallback")
        callback(self, 0, arg)

    def begin_capture(self, mode: Any = None) -> None:
        if self.ptr in (0, 1):
            raise RuntimeError("cannot capture on the default (legacy) stream")
        if self.recording is not None:
            raise CUDARuntimeError("cudaErrorIllegalState", "the stream is capturing already")
        self.recording = Recording(self)
        _recordings.append(self.recording)

    def end_capture(self) -> Graph:
        recording = self.recording
        if recording is None or recording.origin is not self:
            raise RuntimeError("cannot end a capture that this stream did not begin")
        _recordings.remove(recording)
        for stream in list(by_pointer.values()):
            if stream.recording is recording:
                stream.recording = None
        self.recording = None
        for array in recording.made:
            _poison(array)
        if any(recorded > joined for recorded, joined in recording.forks.values()):
            raise CUDARuntimeError(
                "cudaErrorStreamCaptureUnjoined", "a stream that joined the capture was not joined back"
            )
        return Graph(recording)

    def is_capturing(self) -> bool:
        return self.recording is not None


class ExternalStream(Stream):
    """A stream that somebody else has made."""

    def __init__(self, ptr: int, device_id: int = -1) -> None:
        super().__init__(null=True)
        self.ptr, self.device_id = ptr, device_id


by_pointer: weakref.WeakValueDictionary[int, Stream] = weakref.WeakValueDictionary()
Stream.null = Stream(null=True)
Stream.ptds = Stream(ptds=True)


def streams() -> dict[int, Stream]:
    if thread.streams is None:
        thread.streams = {}
    return thread.streams


def current_stream(device_id: int = -1) -> Stream:
    held = thread.streams
    if held is None:
        return Stream.null
    return held.get(thread.device if device_id < 0 else device_id, Stream.null)


class Event:
    """A point in a stream's work."""

    def __init__(self, block: bool = False, disable_timing: bool = False, interprocess: bool = False) -> None:
        self.disable_timing = disable_timing
        self.ptr = next(_numbers) * 64
        self.time: float | None = None
        self.recording: Recording | None = None
        self.seen: dict[int, int] = {}
        self.order: dict[Any, int] = {}

    def record(self, stream: Stream | None = None) -> None:
        stream = current_stream() if stream is None else stream
        self.recording = stream.recording
        if self.recording is None:
            self.time = time.perf_counter()
            self.order = _order.snapshot(stream)
        elif stream is not self.recording.origin:
            self.seen = {id(stream): self.recording.forks[id(stream)][0]}
        else:
            self.seen = {}

    @property
    def done(self) -> bool:
        self._refuse()
        _order.host_waits(self.order)
        return True

    def synchronize(self) -> None:
        self._refuse()
        _order.host_waits(self.order)

    def _refuse(self) -> None:
        if self.recording is not None:
            raise CUDARuntimeError(
                "cudaErrorCapturedEvent", "operation not permitted on an event last recorded in a capturing stream"
            )


def get_elapsed_time(start_event: Event, end_event: Event) -> float:
    """Milliseconds between two events."""
    if start_event.disable_timing or end_event.disable_timing or start_event.time is None or end_event.time is None:
        raise CUDARuntimeError("cudaErrorInvalidResourceHandle", "invalid resource handle")
    return (end_event.time - start_event.time) * 1000


class Graph:
    """A finished capture."""

    def __init__(self, recording: Recording) -> None:
        self._calls, self._touched, self._kept = recording.calls, recording.touched, recording.kept
        self.graph = self.graphExec = next(_numbers) * 64

    def launch(self, stream: Stream | None = None) -> None:
        stream = current_stream() if stream is None else stream
        for memory, pool in self._touched.values():
            if memory() is None and (pool is None or pool() is None):
                raise CUDARuntimeError(
                    "cudaErrorIllegalAddress", "the graph uses memory that was freed after its capture"
                )
            if (held := memory()) is not None:
                _order.access(held, 0, held.size, True, stream)
        for call in self._calls:
            run(call, stream)

    def upload(self, stream: Stream | None = None) -> None:
        pass


def _poison(array: np.ndarray) -> None:
    if array.size:
        array.reshape(-1).view(np.uint8)[...] = 0xFF if array.dtype.kind not in "b" else 0


def recording_of(stream: Any = None) -> Recording | None:
    """The capture that work on ``stream`` (a Stream, a pointer, None: the current one) goes into."""
    if not _recordings:
        return None
    if stream is None:
        stream = current_stream()
    elif isinstance(stream, int):
        stream = by_pointer.get(stream, Stream.null)
    return stream.recording


def _keep(raw: np.ndarray) -> None:
    recording = recording_of()
    if recording is not None:
        recording.kept.append(raw)


def run(call: Callable[[], Any], stream: Any = None, host: bool = False) -> bool:
    """Do ``call`` now, or record it if ``stream`` captures. Returns whether it was done. ``host``: a copy that no capture takes."""
    recording = recording_of(stream)
    if recording is None:
        call()
        return True
    if host:
        raise RuntimeError(
            "the current stream is capturing, so synchronous API calls and host transfers are disallowed"
        )
    at = (
        current_stream()
        if stream is None
        else by_pointer.get(stream, Stream.null)
        if isinstance(stream, int)
        else stream
    )
    recording.add(call, at)
    return False


def refuse_while_capturing(what: str) -> None:
    """What waits for the device is refused while the current stream captures."""
    if _recordings and current_stream().recording is not None:
        raise RuntimeError(f"the current stream is capturing, so synchronous API calls are disallowed ({what})")


# ---- for stand-ins of libraries, written in C++ ------------------------------------------------------------------------

_WORK = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


@ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, _WORK, ctypes.c_void_p, ctypes.c_size_t)
def _recorded(stream: int | None, work: Any, data: int, size: int) -> int:
    """Record ``work`` on a copy of its data if ``stream`` captures; else say that it is to be done now (see ``capture.h``)."""
    recording = recording_of(stream or 0)
    if recording is None:
        return 0
    held = ctypes.create_string_buffer(ctypes.string_at(data, size), size)
    run(lambda: work(ctypes.addressof(held)), stream)
    return 1


os.environ["STANDIN_CAPTURE"] = str(ctypes.cast(_recorded, ctypes.c_void_p).value)
