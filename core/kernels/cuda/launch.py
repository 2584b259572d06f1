"""Our own kernels: the texts ``*.cu`` beside this file, compiled when first asked for, launched on the current stream.

A text is compiled as a whole, once in a process and device, by NVRTC through CuPy, which keeps the result in its own cache on disk.
What it includes from beside it is pasted in, so that this cache notices a change.

A captured launch repeats the numbers that it was given. What changes from step to step goes through ``scalars.py``.
"""

from __future__ import annotations

import hashlib
import importlib.util
import re
from collections.abc import Callable
from functools import cache, lru_cache
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

from ...backend import Array, cupy
from .scalars import now

FOLDER = Path(__file__).parent
OPTIONS = ("-std=c++17",)
_SUFFIXES = {"float32": "f32", "bfloat16": "bf16", "float16": "f16"}
_INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]*"([\w.]+)"[^\n]*$', re.MULTILINE)
_SHARED_BYTES = 48 * 1024
"""What a block may have of shared memory before a kernel must ask for more."""

_lock = Lock()
_kernels: dict[tuple[str, str], Any] = {}
_most: dict[tuple[str, str], int] = {}


class Strided:
    """An array whose strides the kernel is told: see :func:`strided`."""

    __slots__ = ("array",)

    def __init__(self, array: Array) -> None:
        self.array = array


def strided(array: Array) -> Strided:
    """``array`` as an argument of a kernel that knows its layout: it need not be C-contiguous."""
    return Strided(array)


def suffix(dtype: Any) -> str:
    """The end of a kernel's name for ``dtype``: "f32", "bf16", "f16". Raises KeyError for what our kernels do not serve.

    >>> suffix(np.float32)
    'f32'
    """
    return _SUFFIXES[np.dtype(dtype).name]


def source_text(source: str) -> str:
    """The text of ``<source>.cu`` with what it includes from beside it, each file once."""
    seen: set[str] = set()

    def paste(match: re.Match[str]) -> str:
        name = match[1]
        if name in seen:
            return ""
        seen.add(name)
        return f"// {name}\n{_INCLUDE.sub(paste, (FOLDER / name).read_text())}"

    return _INCLUDE.sub(paste, (FOLDER / f"{source}.cu").read_text())


def sources() -> list[str]:
    """The names of all texts."""
    return sorted(path.stem for path in FOLDER.glob("*.cu"))


@lru_cache(maxsize=1)
def describe() -> str:
    """What decides the bits of our kernels: a digest of their texts, and the compiler."""
    whole = "\0".join(source_text(source) for source in sources())
    major, minor = cupy().cuda.nvrtc.getVersion()
    return f"own kernels {hashlib.sha256(whole.encode()).hexdigest()[:12]} by NVRTC {major}.{minor}"


@lru_cache(maxsize=1)
def include_paths() -> tuple[str, ...]:
    """Where ``cuda_bf16.h`` and ``cuda_fp16.h`` may lie: the CUDA that CuPy found, then the wheels of pip."""
    found = [Path(root) / "include" for root in (cupy().cuda.get_cuda_path(),) if root]
    nvidia = importlib.util.find_spec("nvidia")
    for place in (nvidia.submodule_search_locations or ()) if nvidia else ():
        found += sorted(Path(place).glob("cu[0-9]*/include")) + [Path(place) / "cuda_runtime" / "include"]
    return tuple(str(path) for path in found if path.is_dir())


@cache
def _module(source: str) -> Any:
    options = OPTIONS + tuple(f"-I{path}" for path in include_paths())
    return cupy().RawModule(code=source_text(source), options=options)


def function(source: str, name: str) -> Any:
    """The compiled function ``name`` of ``<source>.cu`` (CuPy's RawKernel)."""
    found = _kernels.get((source, name))
    if found is None:
        with _lock:
            found = _kernels[source, name] = _module(source).get_function(name)
    return found


def _array(array: Array) -> Array:
    if not array.flags.c_contiguous:
        raise ValueError(f"a kernel's array of shape {array.shape} and strides {array.strides} is not C-contiguous")
    return array


@cache
def _device() -> Callable[[], int]:
    """What tells the number of the current device."""
    found: Callable[[], int] = cupy().cuda.runtime.getDevice
    return found


def require_here(array: Array) -> None:
    """Raise ValueError for an array that lies on another device than the current one, where its address means nothing."""
    if array.data.device_id != _device()():
        raise ValueError(f"a kernel's array lies on device {array.data.device_id}, the current one is {_device()()}")


_NULL = np.uint64(0)
_ARGUMENTS: dict[type, Callable[[Any], Any]] = {
    int: np.int64,
    float: np.float32,
    bool: np.int32,
    type(None): lambda _: _NULL,
    Strided: lambda wrapped: wrapped.array,
}


def _argument(value: Any) -> Any:
    """``value`` as CuPy takes it, with the width that a kernel's parameter has."""
    convert = _ARGUMENTS.get(value.__class__)
    if convert is not None:
        return convert(value)
    return value if isinstance(value, np.generic) else _array(value)


def launch(
    source: str,
    name: str,
    grid: int | tuple[int, ...],
    block: int | tuple[int, ...],
    *arguments: Any,
    shared: int = 0,
) -> None:
    """Run the kernel ``name`` of ``<source>.cu`` on the current stream with ``grid`` blocks of ``block`` threads.

    ``arguments``: a device array goes in as its pointer and must be C-contiguous (unless ``strided``), None as a null pointer, an int
    as ``long long``, a float as ``float``, a bool as ``int``, NumPy's scalars as what they are. ``shared``: bytes of dynamic shared
    memory for each block. A grid without blocks does nothing.
    """
    blocks = (grid,) if isinstance(grid, int) else grid
    if 0 in blocks or now.feeding:
        return
    kernel = _kernels.get((source, name)) or function(source, name)
    if shared > _SHARED_BYTES and shared > _most.get((source, name), 0):
        kernel.max_dynamic_shared_size_bytes = _most[source, name] = shared
    threads = (block,) if isinstance(block, int) else block
    for value in arguments:
        if value.__class__ is Strided:
            require_here(value.array)
        elif hasattr(value, "shape") and not isinstance(value, np.generic):
            require_here(value)
    kernel(blocks, threads, tuple([_argument(value) for value in arguments]), shared_mem=shared)
