"""What the C library does with memory that arrays free: keep it for the next step, or give it back when it is told to."""

from __future__ import annotations

import ctypes
import os
from functools import lru_cache
from typing import Any

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4
"""Numbers of mallopt(3)."""
KEPT = (1 << 31) - 1
"""Bytes at the end of the heap that are kept when they are free."""
STEP = 16 << 20
"""Bytes by which the heap grows."""
WORTH = 1 << 20
"""Bytes below which nothing is given back: it costs some 20 us, and a page fault for each page when it is taken again."""


_SCRAPS, _SMALL_SCRAPS = range(24, 1048, 16), range(24, 168, 16)
"""Sizes that glibc holds for a thread, and those of them that a block which begins on a multiple of 128 bytes leaves before it."""
_HELD = 7
"""Free pieces of a size that glibc holds for a thread."""


@lru_cache(1)
def _libc() -> Any:
    """The C library if it is glibc and the user left its settings alone."""
    if any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ):
        return None
    try:
        libc = ctypes.CDLL(None)
    except OSError:  # a statically linked Python
        return None
    if not hasattr(libc, "gnu_get_libc_version"):
        return None
    libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = (
        ctypes.c_void_p,
        [ctypes.c_size_t],
        [ctypes.c_void_p],
    )
    return libc


def keep_freed() -> None:
    """Let glibc keep what arrays free: otherwise each temporary above 128 KiB is mapped, faulted in page by page and unmapped anew.

    Twenty arrays of 4 MB a step took 20.6 ms instead of 2.8, a CNN's step gains about a quarter. The price: the process does not
    shrink, unless :func:`give_back` says so. Settings of the user are left alone.
    """
    if (libc := _libc()) is not None:
        libc.mallopt(_MMAP_MAX, 0)
        libc.mallopt(_TRIM_THRESHOLD, KEPT)
        libc.mallopt(_TOP_PAD, STEP)


def give_back(nbytes: int) -> None:
    """Return free memory to the system, where ``nbytes`` that will not be taken again have been freed: once in a while, not in a step."""
    if nbytes >= WORTH and (libc := _libc()) is not None:
        libc.malloc_trim(0)


def settle(small: bool = False) -> None:
    """Call it in a thread when long-lived things have been made between the arrays of a step: a kernel, a primitive.

    oneDNN takes aligned blocks; glibc cuts the scrap before each off and holds up to seven of a size for the thread. Such a scrap does
    not join its neighbour when that is freed, so the next block of the size does not fit where the last one was, and the steps walk
    through new memory until all seven are held: a linear layer of 1024 to 1024 took 22.5 MiB instead of 17.1.
    Here they are held at once: all sizes in 0.15 ms, the ``small`` ones in 0.02 ms.
    """
    if (libc := _libc()) is not None:
        pieces = [libc.malloc(size) for size in (_SMALL_SCRAPS if small else _SCRAPS) for _ in range(_HELD)]
        for piece in pieces:
            libc.free(piece)
