"""``cupy.cuda.pinned_memory``: host memory, counted in a pool."""

from __future__ import annotations

import ctypes
import functools
import threading
from typing import Any

import numpy as np

_one_at_a_time = threading.Lock()


class PinnedMemory:
    """Host memory that the device can copy from."""

    def __init__(self, size: int, flags: int = 0) -> None:
        self.size = size
        self.raw = np.empty(size, np.uint8)
        self.ptr = self.raw.ctypes.data


class PinnedMemoryPointer:
    """A place in it; it has Python's buffer protocol, as a ctypes array, which NumPy keeps alive for its views."""

    mem: PinnedMemory
    ptr: int
    _pool: PinnedMemoryPool | None = None

    @staticmethod
    def _at(mem: PinnedMemory, offset: int, pool: PinnedMemoryPool | None = None) -> PinnedMemoryPointer:
        made: PinnedMemoryPointer = _of_size(mem.size - offset).from_buffer(mem.raw, offset)
        made.mem, made.ptr, made._pool = mem, mem.ptr + offset, pool
        return made

    def size(self) -> int:
        return self.mem.size

    def __int__(self) -> int:
        return self.ptr

    def __del__(self) -> None:
        if self._pool is not None:
            self._pool._free.append(self.mem)


@functools.cache
def _of_size(nbytes: int) -> Any:
    return type("PinnedMemoryPointer", (PinnedMemoryPointer, ctypes.c_uint8 * nbytes), {})


class PinnedMemoryPool:
    """Sizes are rounded up to powers of two, as in CuPy."""

    def __init__(self, allocator: Any = None) -> None:
        self._free: list[PinnedMemory] = []

    def malloc(self, size: int) -> PinnedMemoryPointer:
        rounded = 1 << max(size - 1, 0).bit_length()
        with _one_at_a_time:
            for memory in self._free:
                if memory.size == rounded:
                    self._free.remove(memory)
                    return PinnedMemoryPointer._at(memory, 0, self)
        return PinnedMemoryPointer._at(PinnedMemory(rounded), 0, self)

    def free_all_blocks(self) -> None:
        self._free.clear()

    def n_free_blocks(self) -> int:
        return len(self._free)


_default_pool = PinnedMemoryPool()
_allocator: list[Any] = [_default_pool.malloc]


def alloc_pinned_memory(size: int) -> PinnedMemoryPointer:
    return _allocator[0](size)


def set_pinned_memory_allocator(allocator: Any = None) -> None:
    _allocator[0] = _default_pool.malloc if allocator is None else allocator
