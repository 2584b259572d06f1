"""oneDNN through its C interface: the only file that owns the library and cffi.

``pip install phalanx[cpu]`` brings both; nothing is compiled. The declarations (``onednn_c.py``) are the part that is used here; the
version is checked when the library is loaded.

What this file takes care of, so that no kernel has to:

- A primitive here is used by one thread at a time (ranks may be threads): :class:`Pool` lends a free one, or makes one more. Its
  scratch memory is ours and lent in the same way, never the library's, which would belong to the thread that made the primitive.
- Arrays live at least as long as the primitive runs: they are held by the frame that waits for it.
- Sums change with the number of threads, and OpenMP counts threads for each thread of ours anew: every run sets it.
- Mathematics is strict float32 whatever ``ONEDNN_DEFAULT_FPMATH_MODE`` says.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple

import numpy as np

from ...backend import Array, empty_aligned
from ...heap import settle
from . import onednn_c, threads

VERSION = (3, 2)
"""The version whose numbers and traps are known here."""
PACKAGE, FILE = "onednn-cpu-gomp", "libdnnl.so.3"
MISSING = (
    "matrix products and convolutions run on NumPy alone, at about a third to a half of the speed on AVX-512 processors; "
    'pip install "phalanx[cpu]"'
)
"""What it costs to have no oneDNN, and what to do about it."""
WITHOUT = "PHALANX_WITHOUT"
"""Environment variable: with "onednn" in it this process does as if the library were not installed, to see what it is worth."""


class Unavailable(ImportError):
    """oneDNN is not here or cannot be used; the text says why."""


class Unsupported(Exception):
    """oneDNN has nothing better than plain loops for this shape: the caller takes the reference."""


# ---- the library -----------------------------------------------------------------------------------------------------


class _Library(NamedTuple):
    ffi: Any
    c: Any
    omp: Any
    engine: Any
    stream: Any
    version: tuple[int, int, int]


def _candidates() -> Iterable[str]:
    """Where the library may lie: where pip puts the data files of a wheel, then where the loader looks."""
    yield str(Path(sys.prefix) / "lib" / FILE)
    try:
        files = metadata.files(PACKAGE) or []
    except metadata.PackageNotFoundError:
        files = []
    yield from (str(file.locate()) for file in files if file.name == FILE)
    yield FILE


def _open(ffi: Any) -> Any:
    problems = []
    for name in _candidates():
        try:
            return ffi.dlopen(name)
        except OSError as error:
            problems.append(str(error))
    raise Unavailable(f"oneDNN ({FILE} of {PACKAGE}) could not be loaded: {problems[-1]}")


def _created(ffi: Any, create: Any, *args: Any) -> Any:
    place = ffi.new("void **")
    _check(create(place, *args), create)
    return place[0]


def _check(status: int, call: Any) -> None:
    if status == 3:  # unimplemented
        raise Unsupported(f"oneDNN has no implementation: {call}")
    if status:
        raise RuntimeError(f"oneDNN: {call} returned status {status}")


@lru_cache(1)
def load() -> _Library:
    """The library, loaded at the first call. Raises Unavailable, saying why."""
    if "onednn" in os.environ.get(WITHOUT, "").split(","):
        raise Unavailable(f"oneDNN is left out ({WITHOUT}={os.environ[WITHOUT]})")
    try:
        import cffi  # noqa: PLC0415 - optional library, owned by this file
    except ImportError as error:
        raise Unavailable(f"oneDNN needs cffi ({error})") from None
    ffi = cffi.FFI()
    ffi.cdef(onednn_c.DECLARATIONS)
    c = _open(ffi)
    found = c.dnnl_version()
    version = (found.major, found.minor, found.patch)
    if version[:2] != VERSION:
        raise Unavailable(f"oneDNN must be of version {VERSION[0]}.{VERSION[1]}, found {'.'.join(map(str, version))}")
    if found.cpu_runtime != onednn_c.OPENMP:
        raise Unavailable(f"oneDNN must be built for OpenMP ({PACKAGE} is), found runtime {found.cpu_runtime}")
    engine = _created(ffi, c.dnnl_engine_create, onednn_c.CPU, 0)
    stream = _created(ffi, c.dnnl_stream_create, engine, onednn_c.IN_ORDER)
    return _Library(ffi, c, ffi.dlopen("libgomp.so.1"), engine, stream, version)


def describe() -> str:
    """Version and instruction set, which decide the bits: "oneDNN 3.2.0 isa 0x..."."""
    library = load()
    return f"oneDNN {'.'.join(map(str, library.version))} isa {library.c.dnnl_get_effective_cpu_isa():#x}"


_pools: list[Pool] = []


def _forget(count: int) -> None:
    """Primitives are made for a number of threads."""
    for pool in _pools:
        pool.clear()


threads.when_changed(_forget)


# ---- descriptions ----------------------------------------------------------------------------------------------------


@lru_cache(4096)
def layout(
    shape: tuple[int, ...], strides: tuple[int, ...] | None, kind: int = onednn_c.FLOAT, tag: int = onednn_c.FORMAT_ANY
) -> Any:
    """How an array of ``shape`` lies in memory: ``strides`` in elements, None for oneDNN's ``tag``: unless said the primitive chooses."""
    library = load()
    ffi, c = library.ffi, library.c
    size = ffi.new("int64_t[12]", shape)
    if strides is None:
        made = _created(ffi, c.dnnl_memory_desc_create_with_tag, len(shape), size, kind, tag)
    else:
        steps = ffi.new("int64_t[12]", strides)
        made = _created(ffi, c.dnnl_memory_desc_create_with_strides, len(shape), size, kind, steps)
    return ffi.gc(made, c.dnnl_memory_desc_destroy)


def dense(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Strides of a C-contiguous array, in elements."""
    strides, step = [], 1
    for size in reversed(shape):
        strides.append(step)
        step *= max(1, size)
    return tuple(reversed(strides))


def same(one: Any, other: Any) -> bool:
    """Whether two layouts are equal."""
    return bool(load().c.dnnl_memory_desc_equal(one, other))


def numbers(values: Iterable[int]) -> Any:
    """Sizes, strides or paddings as C wants them."""
    return load().ffi.new("int64_t[12]", tuple(values))


@lru_cache(64)
def attributes(activation: int | None = None, alpha: float = 0.0, beta: float = 0.0) -> Any:
    """Scratch memory from us, strict mathematics, perhaps an activation after the primitive."""
    library = load()
    ffi, c = library.ffi, library.c
    made = ffi.gc(_created(ffi, c.dnnl_primitive_attr_create), c.dnnl_primitive_attr_destroy)
    _check(c.dnnl_primitive_attr_set_scratchpad_mode(made, onednn_c.SCRATCHPAD_USER), "scratchpad mode")
    _check(c.dnnl_primitive_attr_set_fpmath_mode(made, onednn_c.STRICT), "fpmath mode")
    if activation is not None:
        after = ffi.gc(_created(ffi, c.dnnl_post_ops_create), c.dnnl_post_ops_destroy)
        _check(c.dnnl_post_ops_append_eltwise(after, activation, alpha, beta), "post-op")
        _check(c.dnnl_primitive_attr_set_post_ops(made, after), "post-ops")
    return made


def plan(
    kind: str,
    *args: Any,
    activation: int | None = None,
    alpha: float = 0.0,
    beta: float = 0.0,
    count: int | None = None,
) -> Any:
    """What a primitive of ``kind`` ("matmul", "convolution_forward", ...) will do with these layouts and options, on ``count`` threads
    if not on all.

    Raises Unsupported where oneDNN has only its plain loops, which are slower than the reference.
    """
    library = load()
    ffi, c = library.ffi, library.c
    _set_omp(library, count)
    create = getattr(c, f"dnnl_{kind}_primitive_desc_create")
    given = [ffi.NULL if each is None else each for each in args]
    made = ffi.gc(
        _created(ffi, create, library.engine, *given, attributes(activation, alpha, beta)),
        c.dnnl_primitive_desc_destroy,
    )
    text = ffi.new("char **")
    _check(c.dnnl_primitive_desc_query(made, onednn_c.QUERY_IMPLEMENTATION, 0, text), "implementation")
    name = ffi.string(text[0]).decode()
    if "ref" in name.replace(":", "_").split("_"):
        raise Unsupported(f"{kind}: oneDNN would use {name}")
    return made


def wanted(made: Any, argument: int) -> Any:
    """The layout that a planned primitive wants one of its arguments in."""
    return load().c.dnnl_primitive_desc_query_md(made, onednn_c.QUERY[argument], 0)


def nbytes(form: Any) -> int:
    """Bytes of memory that an array laid out in ``form`` takes."""
    return int(load().c.dnnl_memory_desc_get_size(form))


def _set_omp(library: _Library, count: int | None = None) -> None:
    omp, count = library.omp, count or threads.threads()
    if omp.omp_get_max_threads() != count:
        omp.omp_set_num_threads(count)


# ---- primitives ------------------------------------------------------------------------------------------------------


class _Scratch:
    """Memory to work in: a few growing buffers, each lent to one thread at a time."""

    def __init__(self) -> None:
        self.free: list[Array] = []

    def take(self, size: int) -> Array:
        """At least ``size`` bytes of memory with any content, as uint8. Hand it back by :meth:`give`."""
        try:
            buffer = self.free.pop()
        except IndexError:
            return empty_aligned(size, np.uint8)
        return buffer if buffer.size >= size else empty_aligned(size, np.uint8)

    def give(self, buffer: Array) -> None:
        self.free.append(buffer)


scratch = _Scratch()


class Primitive:
    """A primitive with a place for each argument: ``primitive(*arrays)`` hands their addresses over and runs it."""

    __slots__ = ("_arguments", "_keep", "_library", "_memories", "_primitive", "_scratch")

    def __init__(self, made: Any, arguments: dict[int, Any], count: int | None = None) -> None:
        """``made`` is from :func:`plan`, and so is ``count``; ``arguments``: argument -> layout, in the order of the calls' arrays."""
        library = load()
        _set_omp(library, count)
        ffi, c = library.ffi, library.c
        form = c.dnnl_primitive_desc_query_md(made, onednn_c.QUERY_SCRATCHPAD, 0)
        self._scratch = 0 if form == ffi.NULL else nbytes(form)
        if self._scratch:
            arguments = {**arguments, onednn_c.SCRATCHPAD: form}
        self._primitive = ffi.gc(_created(ffi, c.dnnl_primitive_create, made), c.dnnl_primitive_destroy)
        self._arguments = ffi.new("exec_arg[]", len(arguments))
        self._memories = []
        for place, (argument, form) in zip(self._arguments, arguments.items(), strict=True):
            memory = ffi.gc(_created(ffi, c.dnnl_memory_create, form, library.engine, ffi.NULL), c.dnnl_memory_destroy)
            self._memories.append(memory)
            place.arg, place.memory = argument, memory
        self._keep = (made, arguments)
        self._library = library

    def __call__(self, *arrays: Array) -> None:
        """Run on ``arrays``, as many as there are arguments, each laid out as was said."""
        library, memories = self._library, self._memories
        put, pointer = library.c.dnnl_memory_set_data_handle, library.ffi.from_buffer
        for memory, array in zip(memories, arrays, strict=False):
            put(memory, pointer(array) if array.flags.c_contiguous else _address(array))
        buffer = None
        if self._scratch:
            buffer = scratch.take(self._scratch)
            put(memories[-1], pointer(buffer))
        _set_omp(library)
        status = library.c.dnnl_primitive_execute(self._primitive, library.stream, len(memories), self._arguments)
        if buffer is not None:
            scratch.give(buffer)
        _check(status, "execute")

    @contextmanager
    def lend(self, *arrays: Array) -> Iterator[tuple[int, ...]]:
        """Addresses for a compiled function that runs this on ``arrays``, and changes where the first lies: of the primitive,
        the stream, how many arguments there are, them, and the memory of the first.
        """
        library, memories, buffers = self._library, self._memories, []
        if self._scratch:
            buffers.append(scratch.take(self._scratch))
        for memory, array in zip(memories, (*arrays, *buffers), strict=True):
            library.c.dnnl_memory_set_data_handle(memory, library.ffi.from_buffer(array))
        _set_omp(library)
        lent = self._primitive, library.stream, self._arguments, memories[0]
        primitive, stream, arguments, first = (int(library.ffi.cast("intptr_t", each)) for each in lent)
        yield primitive, stream, len(memories), arguments, first
        for buffer in buffers:
            scratch.give(buffer)


def _address(array: Array) -> Any:
    """Where the first element of an array lies that is not C-contiguous."""
    ffi = load().ffi
    return ffi.from_buffer(array.T) if array.flags.f_contiguous else ffi.cast("void *", array.ctypes.data)


def reorder(source: Any, target: Any) -> Primitive | None:
    """What copies an array from one layout to another; None if they are the same."""
    library = load()
    ffi, c = library.ffi, library.c
    if same(source, target):
        return None
    _set_omp(library)
    create, engine = c.dnnl_reorder_primitive_desc_create, library.engine
    made = ffi.gc(_created(ffi, create, source, engine, target, engine, attributes()), c.dnnl_primitive_desc_destroy)
    return Primitive(made, {onednn_c.SRC: source, onednn_c.DST: target})


class Pool:
    """Ready-made units (primitives, or what consists of some) by key; each is lent to one thread at a time.

    A key that oneDNN has no good implementation for stays in the table as such: :meth:`take` gives None, quickly.
    """

    CAPACITY = 1024
    """Keys that are kept; the oldest goes first. Making a unit again costs 0.05 to 0.3 ms: oneDNN has a cache of its own."""

    def __init__(self, build: Callable[..., Any]) -> None:
        self._build = build
        self._units: dict[Any, list[Any] | None] = {}
        self._lock = Lock()
        _pools.append(self)

    def take(self, key: Any) -> Any:
        """A unit that nobody else uses, or None where the reference should be used. Hand it back by :meth:`give`."""
        units = self._units.get(key, ())
        if units is None:
            return None
        try:
            return units.pop()  # type: ignore[union-attr]
        except (AttributeError, IndexError):
            pass
        try:
            unit = self._build(*key)
        except Unsupported:
            unit = None
        settle(small=True)
        with self._lock:
            if len(self._units) >= self.CAPACITY:
                del self._units[next(iter(self._units))]
            self._units[key] = None if unit is None else self._units.get(key) or []
        return unit

    def give(self, key: Any, unit: Any) -> None:
        """Hand a unit back."""
        units = self._units.get(key)
        if units is not None:
            units.append(unit)

    def clear(self) -> None:
        """Forget all units."""
        with self._lock:
            self._units = {}
