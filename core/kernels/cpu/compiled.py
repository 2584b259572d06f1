"""Loops that numba compiles: the only file that owns numba, its cache and its traps.

A loop is written once, in Python over C-contiguous arrays, and decorated with :func:`loop`, which says its types::

    @loop("f4[:], f4[:] out")
    def relu(x, y):
        for i in prange(x.size):
            y[i] = max(x[i], ZERO)

    relu(elements, x, y)

The call says how many elements there are to work on; with more than one thread and enough of them the parallel form runs. Both
forms give equal bits: what a loop sums it sums within one round of ``prange``, whose cut does not depend on the number of
threads.

What is taken care of here:

- Nothing is compiled or read from the cache before it is needed; then it is one loop, for the types that were said: other types are
  an error, never one more compilation.
- Ranks that start together compile once: the others wait at a file lock and read the cache. The first rank says what it waits for.
- numba's cache tells functions apart by name and place but not by options or by what other files contribute: each form has a name of
  its own, with a digest of all that it consists of. Damaged files are thrown away; without a place to write nothing is kept.
- Whoever is forked from a process that used the parallel forms goes on with the serial ones: OpenMP would end him.
- "Fast mathematics" is limited to what keeps NaN and infinity: sums may be reordered (by the compiler, so always alike), products and
  sums contracted. A loop with ``exact=True`` has none of it: every operation is rounded as NumPy rounds it, so that elementwise work
  gives the reference's bits, wherever an array is cut.
"""

from __future__ import annotations

import os
import threading
import types
from collections.abc import Callable
from typing import Any

import numpy as np

try:
    import numba
    from llvmlite import binding
    from numba.core import codegen
    from numba.core.registry import cpu_target
except ImportError as error:
    raise ImportError(
        f'numba cannot be loaded ({error}): elementwise work, norms, losses and optimizers run in plain NumPy; pip install "phalanx[cpu]"'
    ) from None

from ...heap import settle
from . import threads
from .compile_once import alone_on_this_machine, digest, say, say_compiling

SMALLEST_SHARE = 16_384
"""Elements below which a thread is not worth waking."""
MATHEMATICS = {"reassoc", "contract", "nsz", "arcp"}
prange = numba.prange
inline = numba.njit(inline="always", fastmath=MATHEMATICS, error_model="numpy")
"""Decorator of a function that loops call: it becomes part of them."""

_lock = threading.RLock()
_one_at_a_time = threading.Lock()
_mine = threading.local()
_loops: list[Loop] = []
_forked = False

# LLVM takes only half of AVX-512's width by default on Intel's processors; with all of it exp is 1.5 times as fast
if numba.config.CPU_FEATURES is None and binding.get_host_cpu_features().get("avx512f"):
    numba.config.CPU_FEATURES = codegen.get_host_cpu_features() + ",-prefer-256-bit"
WIDE = "+avx512f" in (numba.config.CPU_FEATURES or "")
"""Whether loops may count on the registers of AVX-512."""

# loops over many arrays need more checks for overlap than LLVM makes by default; without them they are not vectorised
binding.set_option("phalanx", "--runtime-memory-check-threshold=128")
binding.set_option("phalanx", "--memory-check-merge-threshold=512")


class Loop:
    """One loop in its serial and its parallel form. Made by :func:`loop`."""

    def __init__(self, function: Callable[..., None], signature: tuple[Any, ...], exact: bool = False) -> None:
        self.name, self.signature = f"{function.__module__}.{function.__name__}", signature
        self._mathematics: Any = False if exact else MATHEMATICS
        self._function = function
        self.divides = "prange" in function.__code__.co_names
        """Whether there is a parallel form; else the serial one serves always."""
        self._serial: Any = None
        self._parallel: Any = None
        _loops.append(self)

    def __call__(self, elements: int, *arguments: Any) -> Any:
        """Run it; ``elements``: how many there are to work on, which decides between the forms."""
        if threads._count == 1 or elements < threads._count * SMALLEST_SHARE:
            return (self._serial or self.compile(parallel=False))(*arguments)
        run = self._parallel or self.compile(parallel=True)
        if getattr(_mine, "count", 0) != threads._count and not _forked:  # numba counts for each thread anew
            _follow(threads._count)
        return run(*arguments)

    def serial(self) -> Any:
        """The form for one thread itself, for whoever calls it where each function on the way counts."""
        return self._serial or self.compile(parallel=False)

    def compile(self, parallel: bool) -> Any:
        """The compiled form, from numba's cache if it is there."""
        with _lock:
            if parallel and (_forked or not self.divides):
                self._parallel = self.compile(parallel=False)
            found = self._parallel if parallel else self._serial
            if found is None:
                found = self._compile(parallel)
                if parallel:
                    self._parallel = found
                    _follow(threads.threads())
                    if numba.threading_layer() == "workqueue":
                        self._parallel = found = _alone(found)
                else:
                    self._serial = found
                settle()
        return found

    def kept(self, parallel: bool) -> tuple[bool, str | None]:
        """Whether this form need not be compiled, because numba's cache has it; and the folder of that cache."""
        made = self._made(parallel)
        return _is_kept(made, self.signature), made._cache.cache_path

    def _made(self, parallel: bool) -> Any:
        """What numba will compile or has kept: a function whose name says its form and all that it consists of."""
        name = f"{'parallel' if parallel else 'serial'}_{digest(self._function, self._mathematics)}"
        options = {"parallel": parallel, "fastmath": self._mathematics, "error_model": "numpy", "nogil": True}
        made = numba.njit(**options)(_renamed(self._function, f"_{name}"))
        try:
            made.enable_caching()
        except (RuntimeError, OSError) as error:
            say(f"compiled kernels cannot be kept, each run compiles them; NUMBA_CACHE_DIR names a place ({error})")
        return made

    def _compile(self, parallel: bool) -> Any:
        made = self._made(parallel)
        try:
            if _is_kept(made, self.signature):
                made.compile(self.signature)
        except Exception:  # what a damaged file raises is anything that pickle or LLVM may raise
            made = self._made(parallel)
            _forget(made)
        if not made.signatures:
            with alone_on_this_machine():
                _compile_and_keep(made, self.signature)
        made.disable_compile()
        return made


def _is_kept(made: Any, signature: tuple[Any, ...]) -> bool:
    """Whether numba's cache has this function. A damaged index is thrown away."""
    cache = made._cache
    if cache.cache_path is None:
        return False
    try:
        kept = cache._cache_file._load_index().get(cache._index_key(signature, made.targetctx.codegen()))
        return kept is not None and os.path.exists(os.path.join(cache.cache_path, kept))
    except Exception:  # as above
        _forget(made)
        return False


def _forget(made: Any) -> None:
    """Empty the cache of this function; where that cannot be, do without."""
    try:
        made._cache.flush()
    except OSError:
        made._cache.disable()


def _compile_and_keep(made: Any, signature: tuple[Any, ...]) -> None:
    if not _is_kept(made, signature):  # nobody else was faster
        say_compiling()
    try:
        made.compile(signature)
    except OSError as error:
        if not made.signatures:
            raise
        say(f"a compiled kernel cannot be kept ({error}); NUMBA_CACHE_DIR names another place")


def _alone(run: Callable[..., Any]) -> Callable[..., Any]:
    """For numba's own pool of threads, which ends the process when two threads use it at once."""

    def one_at_a_time(*arguments: Any) -> Any:
        with _one_at_a_time:
            return run(*arguments)

    return one_at_a_time


def loop(signature: str, exact: bool = False) -> Callable[[Callable[..., None]], Loop]:
    """Decorator: ``signature`` lists the arguments' types as "f4[:]" (1-D, read), "f4[:,:] out" (2-D, written), "f4" (a number).

    Kinds: f4, f8, i4, i8, u1, u4, u8, b1 (bool). Arrays are C-contiguous. ``exact``: no fast mathematics; elementwise loops need it,
    because what is contracted differs between the vectorised body and the rest, so that an element's bits would depend on its place.
    """
    kinds = tuple(_type(part.strip()) for part in _split(signature))
    return lambda function: Loop(function, kinds, exact)


def _split(signature: str) -> list[str]:
    return (
        signature.replace("[:,:,:,:]", "[4]")
        .replace("[:,:,:]", "[3]")
        .replace("[:,:]", "[2]")
        .replace("[:]", "[1]")
        .split(",")
    )


def _type(part: str) -> Any:
    words = part.split()
    name, _, rest = words[0].partition("[")
    kind = {"b1": numba.types.boolean}.get(name) or numba.from_dtype(np.dtype(name))
    if not rest:
        return kind
    return numba.types.Array(kind, int(rest[:-1]), "C", readonly=words[1:] != ["out"])


def _renamed(function: Any, suffix: str) -> Any:
    """The same function under a name of its own."""
    twin = types.FunctionType(
        function.__code__, function.__globals__, function.__name__ + suffix, function.__defaults__, function.__closure__
    )
    twin.__qualname__, twin.__module__ = function.__qualname__ + suffix, function.__module__
    return twin


def loops() -> list[Loop]:
    """All loops that were declared so far."""
    return list(_loops)


def describe() -> str:
    """What decides the bits: numba's and LLVM's versions, the processor that they compile for, and whether its vectors are held short."""
    features = cpu_target.target_context.codegen().magic_tuple()[2]
    width = " wide" if features.endswith("-prefer-256-bit") else ""
    return f"numba {numba.__version__} LLVM {'.'.join(map(str, binding.llvm_version_info))} {binding.get_host_cpu_name()}{width}"


def _follow(count: int) -> None:
    if not _forked and any(each._parallel is not None for each in _loops):
        numba.set_num_threads(min(count, numba.config.NUMBA_NUM_THREADS))
        _mine.count = count


def _after_fork() -> None:
    """OpenMP ends a forked process that uses its threads; the serial forms give the same bits."""
    global _forked, _lock
    _forked, _lock = True, threading.RLock()
    for each in _loops:
        each._parallel = None


threads.when_changed(_follow)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
