"""A stand-in for CuPy 14.2 on NumPy, for tests on machines without a GPU: the same names, as strict, and kernels compiled for the host.

What it does not show: races between streams and between threads of a block, the memory of a real device, speed, the last bits of
a GPU's mathematics.
"""

from typing import Any as _Any

import numpy as _np

from . import _functions, _names, _state
from ._array import ndarray
from ._functions import *
from ._functions import ufunc
from ._raw import RawKernel, RawModule

__version__ = "14.2.0"
_standin = True

newaxis, pi, e, inf, nan = None, _np.pi, _np.e, _np.inf, _np.nan


def is_available() -> bool:
    return _state.device_count() > 0


def get_default_memory_pool() -> _state.MemoryPool:
    return _state.default_pool


def get_default_pinned_memory_pool() -> _Any:
    from .cuda import pinned_memory

    return pinned_memory._default_pool


def __getattr__(name: str) -> _Any:
    if name.startswith("__") or name in ("cuda", "lib", "linalg", "random"):  # submodules, which are imported below
        raise AttributeError(name)
    found = _functions.look_up(name)
    globals()[name] = found
    return found


from . import (  # noqa: E402
    _cublaslt,
    cuda,
    lib,
    linalg,
    random,
)
