"""The host's cuBLASLt beside this stand-in: compiled from ``cublaslt.cpp``, and told to leave its products to captures."""

from __future__ import annotations

import ctypes
import os
from functools import lru_cache
from pathlib import Path
from typing import Any

from . import _raw, _state

SOURCE = Path(__file__).parents[1] / "cublaslt.cpp"
_HOOK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)


@lru_cache(maxsize=1)
def library() -> Path:
    """The one that phalanx is told to take, or the same compiled now."""
    named = os.environ.get("PHALANX_CUBLASLT")
    return Path(named) if named else Path(_raw._compiled().library(SOURCE.read_text()))


@lru_cache(maxsize=1)
def loaded() -> Any:
    """The library, with the hook that records."""
    c = ctypes.CDLL(str(library()))
    for name in ("standin_run", "standin_forget"):
        getattr(c, name).argtypes = [ctypes.c_void_p]
        getattr(c, name).restype = None
    c.standin_record(_hook)
    return c


class _Call:
    """A product that was kept."""

    def __init__(self, place: int) -> None:
        self.place = place

    def __call__(self) -> None:
        loaded().standin_run(self.place)

    def __del__(self) -> None:
        loaded().standin_forget(self.place)


@_HOOK
def _hook(stream: int | None, call: int) -> int:
    recording = _state.recording_of(stream or 0)
    if recording is None:
        return 0
    _state.run(_Call(call), stream or 0)
    return 1


loaded()
