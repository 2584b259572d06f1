"""cuBLASLt through its C interface: the only file that owns the library.

CUDA brings it (``pip install nvidia-cublas`` or the toolkit); ``PHALANX_CUBLASLT`` names another file. The numbers below are the part of
``cublasLt.h`` that is used here, and a test compiles a program against the header to compare them.

``products.py`` makes plans of it. cuBLAS counts matrices by columns.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import sys
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from ...backend import cupy
from . import algorithms

VARIABLE = "PHALANX_CUBLASLT"
"""Environment variable: the library's file, where it is not to be searched for."""
FILES = ("libcublasLt.so.13", "libcublasLt.so.12")
OLDEST = 120000
"""What the library must say at least: bias gradients and bfloat16 are in all of CUDA 12 and 13."""
WORKSPACE_BYTES = 32 << 20
"""What NVIDIA recommends for Hopper; more is not used."""
MISSING = (
    "matrix products run on CuPy alone: no bias or activation on the way out, no batches of half precision; "
    "pip install nvidia-cublas (CUDA 13) or nvidia-cublas-cu12, or name the file in PHALANX_CUBLASLT"
)
"""What it costs to have no cuBLASLt, and what to do about it."""

COMPUTE_32F, COMPUTE_64F, COMPUTE_TF32 = 68, 70, 77
PACK = 16
"""Bytes of the widest loads and stores: no algorithm asks for more alignment, and vectors beside a product must have it."""
TYPES = {"float32": 0, "float64": 1, "float16": 2, "bfloat16": 14}
"""Name of a dtype -> CUDA's number."""
PLAIN, RELU, BIAS, DRELU, BGRAD, GELU, DGELU, AUX, BGRAD_A, BGRAD_B = 1, 2, 4, 136, 16, 32, 192, 128, 256, 512
"""Parts of an epilogue's number. DRELU and DGELU contain AUX."""
TURN_A, TURN_B, EPILOGUE, SIDE_POINTER, AUX_POINTER, AUX_LD, SIDE_TYPE = 3, 4, 7, 8, 11, 12, 26
"""Attributes of a product's descriptor; the side is the bias or its gradient."""
BATCH, STEP = 5, 6
"""Attributes of a matrix's layout."""
MAX_WORKSPACE, ALIGN_A, ALIGN_B, ALIGN_C, ALIGN_D = 1, 5, 6, 7, 8
"""Attributes of a preference."""
STATUS = {
    1: "NOT_INITIALIZED", 3: "ALLOC_FAILED", 7: "INVALID_VALUE", 8: "ARCH_MISMATCH", 11: "MAPPING_ERROR",
    13: "EXECUTION_FAILED", 14: "INTERNAL_ERROR", 15: "NOT_SUPPORTED", 16: "LICENSE_ERROR",
}  # fmt: skip
INVALID_VALUE, NOT_SUPPORTED = 7, 15


class Unavailable(ImportError):
    """cuBLASLt is not here or cannot be used; the text says why."""


class Algorithm(ctypes.Structure):
    """How to do it: words that only one version of the library understands."""

    _fields_ = [("data", ctypes.c_uint64 * 8)]


class Heuristic(ctypes.Structure):
    """One answer of the heuristic."""

    _fields_ = [
        ("algorithm", Algorithm),
        ("workspace", ctypes.c_size_t),
        ("state", ctypes.c_int),
        ("waves", ctypes.c_float),
        ("reserved", ctypes.c_int * 4),
    ]


# ---- the library -----------------------------------------------------------------------------------------------------


def _candidates() -> Iterator[str]:
    """Where the library may lie: what the user says, what is loaded, pip's wheels, the toolkit, where the loader looks."""
    named = os.environ.get(VARIABLE)
    if named:
        yield named
        return
    nvidia = importlib.util.find_spec("nvidia")
    folders = [Path(place) for place in (nvidia.submodule_search_locations or ())] if nvidia else []
    wheels = [folder / lib for folder in folders for lib in ("cu13/lib", "cublas/lib")]
    toolkit = [Path(root) / "lib64" for root in (cupy().cuda.get_cuda_path(),) if root]
    for folder in (*wheels, *toolkit, Path(sys.prefix) / "lib"):
        yield from (str(folder / name) for name in FILES if (folder / name).is_file())
    yield from FILES


@lru_cache(maxsize=1)
def load() -> Any:
    """The library, loaded at the first call. Raises Unavailable, saying why."""
    problems, c = [], None
    for name in _candidates():
        try:
            c = ctypes.CDLL(name)
            break
        except OSError as error:
            problems.append(str(error))
    if c is None:
        raise Unavailable(f"cuBLASLt could not be loaded: {problems[-1]}")
    _declare(c)
    if c.cublasLtGetVersion() < OLDEST:
        raise Unavailable(f"cuBLASLt must be of CUDA 12 or 13, found version {version(c)}")
    return c


def _declare(c: Any) -> None:
    """Widths of all arguments: a pointer that is passed as a C int is cut in half."""
    integer, size, pointer = ctypes.c_int, ctypes.c_size_t, ctypes.c_void_p
    c.cublasLtGetVersion.restype = size
    c.cublasLtGetVersion.argtypes = []
    for name, arguments in {
        "Create": [pointer],
        "Destroy": [pointer],
        "MatmulDescCreate": [pointer, integer, integer],
        "MatmulDescDestroy": [pointer],
        "MatmulDescSetAttribute": [pointer, integer, pointer, size],
        "MatrixLayoutCreate": [pointer, integer, ctypes.c_uint64, ctypes.c_uint64, ctypes.c_int64],
        "MatrixLayoutDestroy": [pointer],
        "MatrixLayoutSetAttribute": [pointer, integer, pointer, size],
        "MatmulPreferenceCreate": [pointer],
        "MatmulPreferenceDestroy": [pointer],
        "MatmulPreferenceSetAttribute": [pointer, integer, pointer, size],
        "MatmulAlgoGetHeuristic": [*[pointer] * 7, integer, pointer, pointer],
        "MatmulAlgoCheck": [pointer] * 8,
        "Matmul": [*[pointer] * 14, size, pointer],
    }.items():
        function = getattr(c, f"cublasLt{name}")
        function.restype, function.argtypes = integer, arguments


def version(c: Any = None) -> str:
    """The library's version: "13.1.0"."""
    number = int((c or load()).cublasLtGetVersion())
    return f"{number // 10000}.{number // 100 % 100}.{number % 100}"


def describe() -> str:
    """Version and tuned tables, which decide the bits: "cuBLASLt 13.1.0 heuristic"."""
    return f"cuBLASLt {version()} {algorithms.digest()}"


def check(status: int, call: str, about: Any = "") -> None:
    if status:
        name = STATUS.get(status, f"status {status}")
        raise RuntimeError(f"cuBLASLt: {call} returned {name}{f' for {about}' if about else ''}")


def create(call: str, destroy: str, *arguments: Any) -> tuple[ctypes.c_void_p, Callable[[], None]]:
    """What the library makes, and how to give it back."""
    c, made = load(), ctypes.c_void_p()
    check(getattr(c, f"cublasLt{call}")(ctypes.byref(made), *arguments), call)
    give_back = getattr(c, f"cublasLt{destroy}")
    return made, lambda: give_back(made)
