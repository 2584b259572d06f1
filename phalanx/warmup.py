"""``phalanx warmup``: compile the fast kernels before a job waits for them."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

from .core.errors import RangeError
from .core.kernels.cpu import compile_once, provide_numba, threads

_WORTH_A_PROCESS = 8
"""Forms to compile, for each of the processes that share them."""


def warm_up(count: int | None = None, names: Sequence[str] = ()) -> int:
    """Compile what is missing, for ``count`` > 1 threads the parallel forms, too, and print what was done.

    Without ``count`` it is the number that kernels of this process would use; ``names``: only loops whose name contains one of them.
    Returns the exit code: 1 without numba. Raises RangeError for a name that no loop has.
    """
    began = time.monotonic()
    if count is None:
        threads.settle()
        count = threads.threads()
    try:
        loops = provide_numba.loops()
    except ImportError as error:
        print(f"phalanx warmup: {error}", file=sys.stderr)
        return 1
    for name in names:
        if not any(name in loop.name for loop in loops):
            raise RangeError(f"no loop's name contains {name!r}")
    chosen = [loop for loop in loops if not names or any(name in loop.name for name in names)]
    forms = [(loop, False) for loop in chosen] + [(loop, True) for loop in chosen if loop.divides and count > 1]
    states = [(loop, parallel, *loop.kept(parallel)) for loop, parallel in forms]
    missing = [(loop.name, parallel) for loop, parallel, kept, _ in states if not kept]
    if missing:
        print(
            f"phalanx warmup: compiling {len(missing)} forms of {len({name for name, _ in missing})} loops", flush=True
        )
        with compile_once.alone_on_this_machine():  # whoever starts now waits and finds them
            _compile_all(missing)
    what = f"{len(chosen)} loops" + (", each for one thread and for several" if count > 1 else " for one thread")
    done = f"{len(missing)} forms compiled" if missing else "nothing was to be done"
    places = sorted({place for *_, place in states if place})
    where = (
        f"kept in {', '.join(places)}"
        if places
        else "kept nowhere: set NUMBA_CACHE_DIR to a folder that can be written"
    )
    print(f"phalanx warmup: {what}: {done}, {time.monotonic() - began:.1f} s; {where}")
    return 0


def _compile_all(missing: list[tuple[str, bool]]) -> None:
    """In as many processes as there are cores; they are fresh ones, because compilers do not survive a fork."""
    workers = min(threads.cores(), len(missing) // _WORTH_A_PROCESS)
    if workers < 2:
        for each in missing:
            _compile(each)
        return
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        for _ in pool.map(_compile, missing):
            pass


def _compile(form: tuple[str, bool]) -> None:
    compile_once.stand_apart()
    name, parallel = form
    _by_name()[name].compile(parallel)


_known: dict[str, Any] = {}


def _by_name() -> dict[str, Any]:
    if not _known:
        _known.update((loop.name, loop) for loop in provide_numba.loops())
    return _known
