"""How many threads one kernel may use: one number for every library that computes here."""

from __future__ import annotations

import importlib
import os
import threading
from collections.abc import Callable
from typing import Any

_count = 1
_said = False
_blas_before: Any = None
_lock = threading.RLock()
_listeners: list[Callable[[int], None]] = []


def threads() -> int:
    """How many threads one kernel may use; one at first."""
    return _count


def set_threads(count: int) -> None:
    """Let kernels use ``count`` threads from now on. Sums of oneDNN change with it."""
    global _count, _said
    _said = True
    if count != _count:
        _count = count
        for listener in _listeners:
            listener(count)


def settle() -> None:
    """Unless somebody said it: as many threads as ``OMP_NUM_THREADS`` names, or as there are cores for this process."""
    if not _said:
        set_threads(named() or cores())


def named() -> int:
    """How many threads ``OMP_NUM_THREADS`` names; 0: it does not."""
    named = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0]
    return max(1, int(named)) if named.isdigit() else 0


def limit_libraries(limits: dict[str, int]) -> Any:
    """Hold the libraries' pools ("blas", "openmp") to so many threads, from any thread; what :func:`release_libraries` takes back."""
    with _lock:
        _take_over()
        return importlib.import_module("threadpoolctl").threadpool_limits(limits=limits)


def release_libraries(limited: Any) -> None:
    """As before that :func:`limit_libraries`."""
    with _lock:
        _take_over()
        limited.restore_original_limits()


def _take_over() -> None:
    """threadpoolctl lets one thread alone set OpenBLAS's threads, the first that did, and ignores all others without a word.

    Ranks may be threads, and whichever of them comes last must be able to say it.
    """
    clear = getattr(importlib.import_module("threadpoolctl").OpenBLASController, "clear_controlling_thread", None)
    if clear is not None:
        clear(force=True)


def hold_blas(hold: bool) -> None:
    """Let NumPy's BLAS use one thread as long as other kernels make the large products of several threads.

    Its threads and theirs would take the cores from each other while they wait: a step of a small CNN took 54 ms instead of 11.
    """
    global _blas_before
    with _lock:
        if hold and _blas_before is None:
            _blas_before = limit_libraries({"blas": 1})
        elif not hold and _blas_before is not None:
            before, _blas_before = _blas_before, None
            release_libraries(before)


def blas_threads(count: int) -> int:
    """How many threads NumPy's BLAS may use where kernels use ``count``."""
    return count if _blas_before is None else 1


def cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def when_changed(listener: Callable[[int], None]) -> None:
    """Tell ``listener`` the number whenever it is set."""
    _listeners.append(listener)
