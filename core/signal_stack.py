"""Where handlers of signals run: on a stack of their own, not on top of what a kernel has below the stack's end.

oneDNN's sgemm for AVX-512 keeps numbers further below the stack pointer than the 128 bytes that a signal leaves alone. A signal that
came within such a product, of Ctrl-C or of a scheduler that asks for a checkpoint, spoiled the heap, and could as well have
spoiled the result. Python's handlers run on the stack that sigaltstack(2) names, if it names one.
"""

from __future__ import annotations

import ctypes
import sys
import threading

NBYTES = 1 << 16
"""A frame holds all registers, 3.4 KB with AVX-512, 11 KB with AMX; the handler beside it takes less than one."""
_DISABLED = 2


class _Stack(ctypes.Structure):
    """``stack_t`` of Linux."""

    _fields_ = (("place", ctypes.c_void_p), ("flags", ctypes.c_int), ("nbytes", ctypes.c_size_t))


_memory: ctypes.Array[ctypes.c_char] | None = None


def use_own() -> None:
    """Name one for the main thread, which signals come to, unless somebody (faulthandler) has. Call it before kernels run."""
    global _memory
    if sys.platform != "linux" or threading.current_thread() is not threading.main_thread():
        return
    call, found = getattr(ctypes.CDLL(None), "sigaltstack", None), _Stack()
    if call is None or call(None, ctypes.byref(found)) or not found.flags & _DISABLED:
        return
    memory = ctypes.create_string_buffer(NBYTES)
    if call(ctypes.byref(_Stack(ctypes.addressof(memory), 0, NBYTES)), None) == 0:
        _memory = memory  # for as long as the process lives
