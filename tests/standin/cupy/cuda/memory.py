"""``cupy.cuda.memory``."""

from .._state import (
    Memory,
    MemoryPointer,
    MemoryPool,
    OutOfMemoryError,
    UnownedMemory,
    get_allocator,
    set_allocator,
)


def alloc(size: int) -> MemoryPointer:
    return get_allocator()(size)
