"""NumPy or CuPy: the only file that knows.

Everything else asks an array which module it belongs to, or calls NumPy's functions, which hand CuPy arrays on to CuPy by
NumPy's own protocols. CuPy is imported only when somebody asks for the device "cuda".
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from types import ModuleType
from typing import Any

import numpy as np

from . import heap, own_gpu, signal_stack
from .bfloat16 import load as bfloat16
from .errors import DTypeError, RangeError

Array = Any

ALIGNMENT_BYTES = 256
"""Start of every buffer: a cache line of any processor, and what a GPU's vector loads want."""


heap.keep_freed()
signal_stack.use_own()


def cupy() -> ModuleType:
    """CuPy, loaded by the first one who wants a GPU."""
    try:
        import cupy as module  # noqa: PLC0415 - optional library, owned by this file
    except ImportError as error:
        raise RangeError(
            'device "cuda" needs CuPy, which cannot be imported here '
            f'({error}); install phalanx[cuda12] or phalanx[cuda13], or use device "cpu"'
        ) from error
    return module


def nccl() -> ModuleType | None:
    """CuPy's NCCL, or None where the library is not installed."""
    try:
        import cupy.cuda.nccl as module  # noqa: PLC0415 - as above
    except ImportError:
        return None
    return module if module.available else None


def gpu_count() -> int:
    """How many GPUs CuPy sees; 0 without CuPy or without a driver."""
    try:
        return int(cupy().cuda.runtime.getDeviceCount())
    except (RangeError, RuntimeError):  # CuPy's own errors are RuntimeErrors
        return 0


def array_module(*arrays: Any) -> ModuleType:
    """The module (numpy or cupy) whose functions work on ``arrays``; NumPy unless one of them is CuPy's.

    >>> array_module(np.zeros(2)) is np
    True
    """
    for array in arrays:
        if type(array) is not np.ndarray and type(array).__module__.partition(".")[0] == "cupy":
            return sys.modules["cupy"]
    return np


def is_array(value: Any) -> bool:
    """Whether ``value`` is an array of either library (NumPy's scalars are not)."""
    return isinstance(value, np.ndarray) or array_module(value) is not np


def as_array(value: Any) -> Array:
    """``value`` as an array: NumPy's scalars (what its functions return for 0 dimensions) become 0-d arrays."""
    if isinstance(value, np.ndarray):
        return value
    if isinstance(value, np.generic) or array_module(value) is np:
        return np.asarray(value)
    return value


def to_host(array: Any) -> np.ndarray:
    """``array`` in host memory; no copy if it is there already."""
    if isinstance(array, np.ndarray):
        return array
    if array_module(array) is np:
        return np.asarray(array)
    found: np.ndarray = array.get()
    waited()
    return found


_on_waited: list[Callable[[], None]] = []


def on_waited(look: Callable[[], None]) -> None:
    """Call ``look`` whenever the host has waited for a device: what kernels found wrong is raised then."""
    _on_waited.append(look)


def waited() -> None:
    """Said by whoever has waited for a device."""
    for look in _on_waited:
        look()


def device_kind(array: Any) -> str:
    """Where the array lies, "cpu" or "cuda": the key of the kernel table."""
    return "cpu" if type(array) is np.ndarray or array_module(array) is np else "cuda"


def address(array: Any) -> int:
    """Where the array's first element lies in the memory of its device."""
    return int(array.__array_interface__["data"][0] if isinstance(array, np.ndarray) else array.data.ptr)


class Device:
    """A place for arrays: ``Device("cpu")``, ``Device("cuda")``, ``Device("cuda:1")`` or ``Device("cuda", 1)``.

    Raises RangeError for an unknown kind. Equal to strings and devices of the same meaning.

    >>> phalanx.device("cuda:1").index, str(phalanx.device("cpu")), phalanx.device("cpu") == "cpu"
    (1, 'cpu', True)
    """

    __slots__ = ("index", "type")

    type: str
    index: int | None

    def __init__(self, kind: str | int | Device, index: int | None = None) -> None:
        if isinstance(kind, Device):
            self.type, self.index = kind.type, kind.index if index is None else index
            return
        name, _, number = ("cuda", "", str(kind)) if isinstance(kind, int) else str(kind).partition(":")
        if name not in ("cpu", "cuda") or (number and (not number.isdigit() or index is not None)):
            raise RangeError(f'a device is "cpu", "cuda" or "cuda:N", got {kind!r}')
        self.type = name
        self.index = int(number) if number else index

    def __str__(self) -> str:
        return self.type if self.index is None else f"{self.type}:{self.index}"

    def __repr__(self) -> str:
        return (
            f"device(type={self.type!r})" if self.index is None else f"device(type={self.type!r}, index={self.index})"
        )

    def __eq__(self, other: object) -> bool:
        if isinstance(other, str):
            other = Device(other)
        if not isinstance(other, Device):
            return NotImplemented
        return (self.type, self.index or 0) == (other.type, other.index or 0)

    def __hash__(self) -> int:
        return hash((self.type, self.index or 0))


_CPU = Device("cpu")


def device_of(array: Any) -> Device:
    """The device that the array lies on."""
    return _CPU if device_kind(array) == "cpu" else Device("cuda", int(array.device.id))


def to_device(array: Any, device: Device | str | int | None) -> Array:
    """``array`` on ``device`` (None: where it is); no copy if it is there already. Raises RangeError without CuPy."""
    if device is None:
        return array
    device = Device(device)
    if device.type == "cpu":
        return to_host(array)
    module = cupy()
    with module.cuda.Device(own_gpu.enter(module, device.index)):
        return module.asarray(array)


def current_index() -> int:
    """The number of the GPU that this thread works on. Raises RangeError without CuPy."""
    return int(cupy().cuda.runtime.getDevice())


def on(device: Device) -> AbstractContextManager[Any]:
    """Within, what is made on a GPU is made on this one.

    >>> with on(Device("cpu")):
    ...     pass
    """
    return nullcontext() if device.type == "cpu" or device.index is None else cupy().cuda.Device(device.index)


PAGE_BYTES = 4096


def empty_aligned(count: int, dtype: Any, device: str = "cpu", place: int | None = None, zeroed: bool = False) -> Array:
    """A 1-D array of ``count`` elements, whose memory starts on a 256-byte address; not initialised unless ``zeroed``.

    ``place``: buffers of different places, 0 to 15, that one loop goes through side by side begin at different places within a
    page: a load that waits for a store to an equal one costs Intel's processors up to 10 % of an optimizer's step.

    >>> empty_aligned(10, np.float32).ctypes.data % 256, empty_aligned(10, np.float32, place=3).ctypes.data % 4096
    (0, 3840)
    """
    dtype = np.dtype(dtype)
    if device != "cpu":
        module = cupy()
        with module.cuda.Device(own_gpu.enter(module, Device(device).index)):
            return (module.zeros if zeroed else module.empty)(count, dtype)  # CuPy's allocator aligns to 512 bytes
    step, at = (ALIGNMENT_BYTES, 0) if place is None else (PAGE_BYTES, place * 5 * ALIGNMENT_BYTES % PAGE_BYTES)
    make = np.zeros if zeroed else np.empty  # the system's new pages are zero: what is never written takes no memory
    raw = make(count * dtype.itemsize + step, np.uint8)
    start = (at - raw.ctypes.data) % step
    return raw[start : start + count * dtype.itemsize].view(dtype)


_NAMES = {
    "float": "float32", "double": "float64", "half": "float16", "long": "int64", "int": "int32",
    "short": "int16", "byte": "uint8", "char": "int8",
}  # fmt: skip
_SUPPORTED = frozenset(
    ["float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "bool"]
)
_PYTHON: dict[Any, str] = {float: "float32", int: "int64", bool: "bool"}


def as_dtype(dtype: Any) -> np.dtype:
    """A NumPy dtype from a dtype, a NumPy type, a name ("float32", "half") or float, int, bool (PyTorch's widths).

    Raises DTypeError for what is no dtype or not supported (complex, objects, strings).

    >>> as_dtype(float), as_dtype("long")
    (dtype('float32'), dtype('int64'))
    """
    if isinstance(dtype, np.dtype) and dtype.name in _SUPPORTED:
        return dtype
    if isinstance(dtype, str):
        dtype = _NAMES.get(dtype, dtype)
        if dtype == "bfloat16":
            return bfloat16()
    else:
        dtype = _PYTHON.get(dtype, dtype)
    try:
        found = np.dtype(dtype)
    except TypeError:
        found = None
    if found is not None and found.name == "bfloat16":
        return bfloat16()
    if dtype is None or found is None or found.name not in _SUPPORTED:
        raise DTypeError(f"expected a dtype out of {', '.join(sorted([*_SUPPORTED, 'bfloat16']))}, got {dtype!r}")
    return found


def common_shape(shapes: Sequence[tuple[int, ...]]) -> tuple[int, ...] | None:
    """The shape that ``shapes`` broadcast to, None if they do not."""
    try:
        return np.broadcast_shapes(*shapes)
    except ValueError:
        return None
