"""``cupy.cuda``."""

from __future__ import annotations

import importlib
from typing import Any

from .. import _state
from .._state import (
    Device,
    Event,
    ExternalStream,
    Graph,
    Memory,
    MemoryPointer,
    MemoryPool,
    Stream,
    UnownedMemory,
    get_allocator,
    get_elapsed_time,
    set_allocator,
    using_allocator,
)
from . import device, graph, memory, nvrtc, pinned_memory, runtime, stream
from .pinned_memory import (
    PinnedMemory,
    PinnedMemoryPointer,
    PinnedMemoryPool,
    alloc_pinned_memory,
    set_pinned_memory_allocator,
)


def get_current_stream(device_id: int = -1) -> Stream:
    return _state.current_stream(device_id)


def get_device_id() -> int:
    return _state.thread.device


def alloc(size: int) -> MemoryPointer:
    return get_allocator()(size)


def is_available() -> bool:
    return _state.device_count() > 0


def get_cuda_path() -> str | None:
    return None


def get_local_runtime_version() -> int:
    return 13000


def __getattr__(name: str) -> Any:
    if name in ("nvtx", "nccl"):
        return importlib.import_module(f".{name}", __name__)
    raise AttributeError(f"the stand-in has no cupy.cuda.{name}")
