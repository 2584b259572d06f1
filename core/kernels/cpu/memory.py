"""Keep freed memory for the next step instead of giving it back to the system page by page.

A training step frees and takes the same large arrays again and again; the C library maps each anew, and the system clears every
page at its first touch: twenty arrays of 4 MB a step took 20.6 ms instead of 2.8 ms (architecture page, "The engine").
"""

from __future__ import annotations

import ctypes
import sys

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3
"""Numbers of mallopt(3)."""
LARGEST_KEPT = 32 << 20
"""Bytes of the largest array that is taken from the heap: the most that the C library allows."""

_asked = False


def keep_freed() -> bool:
    """Let the C library keep what is freed, for the whole process, once; False where it is not glibc. The price: memory
    that was used once stays with the process."""
    global _asked
    if _asked or not sys.platform.startswith("linux"):
        return _asked
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "mallopt") or not hasattr(libc, "gnu_get_libc_version"):
        return False
    _asked = bool(
        libc.mallopt(_MMAP_THRESHOLD, LARGEST_KEPT)
        and libc.mallopt(_TRIM_THRESHOLD, (1 << 31) - 1)
        and libc.mallopt(_TOP_PAD, 16 << 20)
    )
    return _asked
