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
- Ranks that start together compile once: the others wait at a file lock and read the cache. Whoever compiles says so once.
- numba's cache tells functions apart by name and place but not by options: each form has a name of its own.
- "Fast mathematics" is limited to what keeps NaN and infinity: sums may be reordered (by the compiler, so always alike), products and
  sums contracted. A loop with ``exact=True`` has none of it: every operation is rounded as NumPy rounds it, so that elementwise work
  gives the reference's bits, wherever an array is cut.
"""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import time
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import RLock
from typing import Any

import numpy as np

try:
    import fcntl
except ImportError:  # not a Unix
    fcntl = None  # type: ignore[assignment]
try:
    import numba
    from llvmlite import binding
    from numba.core import codegen
    from numba.core.registry import cpu_target
except ImportError as error:
    raise ImportError(
        f'numba cannot be loaded ({error}): elementwise work, norms, losses and optimizers run in plain NumPy; pip install "phalanx[cpu]"'
    ) from None

from . import threads

SMALLEST_SHARE = 16_384
"""Elements below which a thread is not worth waking."""
MATHEMATICS = {"reassoc", "contract", "nsz", "arcp"}
prange = numba.prange
inline = numba.njit(inline="always", fastmath=MATHEMATICS, error_model="numpy")
"""Decorator of a function that loops call: it becomes part of them."""

_SAY_S = 0.5
_lock = RLock()
_loops: list[Loop] = []
_said = False

# LLVM takes only half of AVX-512's width by default on Intel's processors; with all of it exp is 1.5 times as fast
if numba.config.CPU_FEATURES is None and binding.get_host_cpu_features().get("avx512f"):
    numba.config.CPU_FEATURES = codegen.get_host_cpu_features() + ",-prefer-256-bit"

# loops over many arrays need more checks for overlap than LLVM makes by default; without them they are not vectorised
binding.set_option("phalanx", "--runtime-memory-check-threshold=128")
binding.set_option("phalanx", "--memory-check-merge-threshold=512")


class Loop:
    """One loop in its serial and its parallel form. Made by :func:`loop`."""

    def __init__(self, function: Callable[..., None], signature: tuple[Any, ...], exact: bool = False) -> None:
        self.name, self.signature = f"{function.__module__}.{function.__name__}", signature
        self._mathematics: Any = False if exact else MATHEMATICS
        self._function = function
        self._serial: Any = None
        self._parallel: Any = None
        _loops.append(self)

    def __call__(self, elements: int, *arguments: Any) -> Any:
        """Run it; ``elements``: how many there are to work on, which decides between the forms."""
        if threads._count == 1 or elements < threads._count * SMALLEST_SHARE:
            run = self._serial or self.compile(parallel=False)
        else:
            run = self._parallel or self.compile(parallel=True)
        return run(*arguments)

    def compile(self, parallel: bool) -> Any:
        """The compiled form, from numba's cache if it is there."""
        with _lock:
            found = self._parallel if parallel else self._serial
            if found is None:
                found = self._compile(parallel)
                if parallel:
                    numba.set_num_threads(min(threads.threads(), numba.config.NUMBA_NUM_THREADS))
                    self._parallel = found
                else:
                    self._serial = found
        return found

    def _compile(self, parallel: bool) -> Any:
        options: dict[str, Any] = {"fastmath": self._mathematics, "error_model": "numpy", "nogil": True, "cache": True}
        made = numba.njit(parallel=parallel, **options)(
            _renamed(self._function, "_parallel" if parallel else "_serial")
        )
        with _alone_on_this_machine():
            began = time.monotonic()
            made.compile(self.signature)
            _say(time.monotonic() - began, self.name)
        made.disable_compile()
        return made


def loop(signature: str, exact: bool = False) -> Callable[[Callable[..., None]], Loop]:
    """Decorator: ``signature`` lists the arguments' types as "f4[:]" (1-D, read), "f4[:,:] out" (2-D, written), "f4" (a number).

    Kinds: f4, f8, i4, i8, u1, u4, u8, b1 (bool). Arrays are C-contiguous. ``exact``: no fast mathematics.
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


def _say(seconds: float, name: str) -> None:
    """Once, when a loop was compiled and not read from the cache."""
    global _said
    if seconds > _SAY_S and not _said and os.environ.get("PHALANX_LOCAL_RANK", "0") == "0":
        _said = True
        print(
            f"phalanx: compiling fast kernels, once for this machine ({name} took {seconds:.1f} s); `phalanx warmup` does all of it ahead",
            file=sys.stderr, flush=True,
        )  # fmt: skip


@contextlib.contextmanager
def _alone_on_this_machine() -> Iterator[None]:
    """One process of this user at a time compiles; those who waited find the result in the cache."""
    if fcntl is None:
        yield
        return
    path = Path(tempfile.gettempdir(), f"phalanx-compiling-{os.getuid()}")
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _follow(count: int) -> None:
    if any(each._parallel is not None for each in _loops):
        numba.set_num_threads(min(count, numba.config.NUMBA_NUM_THREADS))


threads.when_changed(_follow)
