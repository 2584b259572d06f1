"""The sides that bench.py measures: which library, with which kernels and threads; and the worker process of one side."""

from __future__ import annotations

import argparse
import ctypes
import gc
import os
import shutil
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from crew import environment, serve
from models import Library
from workloads import CASES, LAYERS, Task, forms_of

THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
UNSET = ("PHALANX_KERNELS", "PHALANX_WITHOUT", "PHALANX_CAPTURE")
WARM_UP = 3
"""Steps before the first measured one."""
MEMORY_STEPS = 8
"""As many as there are batches: PyTorch's memory still grows after the third."""
STATUS = Path("/proc/self/status")


@dataclass(frozen=True, slots=True)
class Side:
    """One column of the table."""

    name: str
    library: str
    threads: int = 1
    kernels: str = "fast"
    without: str = ""
    form: str = ""
    """One form of workloads.FORMS; empty: the faster of what a user would choose from."""

    def environment(self) -> dict[str, str]:
        """Of its process: so many threads for each library, kernels chosen by arguments alone."""
        env = {name: value for name, value in environment().items() if name not in UNSET}
        env |= dict.fromkeys(THREAD_VARIABLES, str(self.threads))
        return env | ({"PHALANX_WITHOUT": self.without} if self.without else {})

    def forms(self, case: str) -> tuple[str, ...]:
        return (self.form,) if self.form else forms_of(case, self.library)


def all_sides(threads: Iterable[int], extras: Iterable[str]) -> list[Side]:
    """Fast kernels and PyTorch for each number of threads, then the extras, with one thread."""
    sides = []
    for count in threads:
        mark = "" if count == 1 else f", {count} threads"
        sides += [Side(f"phalanx{mark}", "phalanx", count), Side(f"PyTorch{mark}", "torch", count)]
    known = {
        "replay": Side("phalanx.capture", "phalanx", form="replay"),
        "without": Side("no oneDNN", "phalanx", without="onednn"),
        "reference": Side("reference", "phalanx", kernels="reference"),
        "compile": Side("torch.compile", "torch", form="compile"),
    }
    return sides + [known[extra] for extra in extras]


EXTRAS = ("replay", "without", "reference", "compile")


def why_not(side: Side) -> str | None:
    """Why a side cannot run here; None if it may."""
    if side.form == "compile" and not any(shutil.which(name) for name in ("g++", "clang++")):
        return "torch.compile needs a C++ compiler, found neither g++ nor clang++"
    return None


# ---- the worker ------------------------------------------------------------------------------------------------------


class Worker:
    """One side: holds the tasks of the current workload, one a form."""

    def __init__(self, side: Side) -> None:
        self.side = side
        self.library = Library(side.library)
        self.tasks: dict[str, Task] = {}
        if side.library == "torch":
            self.library.root.set_num_threads(side.threads)
        else:
            from phalanx.core.kernels.cpu import threads  # PyTorch's process has no need of it

            threads.set_threads(side.threads)
            self.library.root.kernels.choose(side.kernels)

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """``make`` a workload's tasks and warm them up, or ``run`` so many steps of one; errors come back as words."""
        try:
            if request["do"] == "make":
                return self._make(request["case"])
            if request["do"] == "memory":
                return self._memory(request["case"])
            task, steps = self.tasks[request["form"]], request["steps"]
            began, worked = time.perf_counter(), time.thread_time()
            task.run(steps)
            seconds, worked = time.perf_counter() - began, time.thread_time() - worked
            return {"seconds": seconds / steps, "busy": worked / seconds}
        except Exception as error:  # one workload that fails leaves the others their turn
            return {"error": f"{type(error).__name__}: {error}".splitlines()[0][:300]}

    def _make(self, name: str) -> dict[str, Any]:
        self.tasks.clear()
        gc.collect()
        if self.side.form == "replay" and not hasattr(self.library.root, "capture"):
            return {"error": "phalanx.capture is not there"}
        case = CASES[name]
        batches = case.batches(self.library)
        found: dict[str, Any] = {"check": [], "seconds": {}}
        for form in self.side.forms(name):
            self.tasks[form] = task = case.make(self.library, form, batches)
            found["check"] = task.check()
            task.run(WARM_UP)
            began = time.perf_counter()
            task.run(1)
            found["seconds"][form] = time.perf_counter() - began
            why = getattr(task.step, "why", None)
            if why:
                found["note"] = str(why)
        return found

    def _memory(self, name: str) -> dict[str, Any]:
        """The most that a model's first steps took above what libraries and data take, MiB.

        The same for both libraries: what a library loads, sets up or compiles for itself once is no memory of the workload, so steps of a
        tiny model and of two layers come before, and pages of files (the libraries' code, which more workloads fault in later) do not
        count. Memory that was freed before goes back to the system, or it would serve the workload uncounted.
        """
        case, tiny = CASES[name], CASES["tiny"]
        for small in (tiny, LAYERS):
            small.make(self.library, "plain", small.batches(self.library)).run(WARM_UP)
        batches = case.batches(self.library)
        gc.collect()
        _give_back_freed()
        _forget_peak()
        before = _status_mib("VmRSS")
        files = _status_mib("RssFile")
        case.make(self.library, "plain", batches).run(MEMORY_STEPS)
        return {"mib": _status_mib("VmHWM") - before - (_status_mib("RssFile") - files)}


def _give_back_freed() -> None:
    """Let the C library return what is free to the system, whatever it was told to keep (glibc: malloc_trim(3))."""
    ctypes.CDLL(None).malloc_trim(0)


def _forget_peak() -> None:
    """Let the process's highest memory begin anew (Linux: proc(5), clear_refs)."""
    Path("/proc/self/clear_refs").write_text("5")


def _status_mib(name: str) -> float:
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) / 1024


def work(options: argparse.Namespace) -> None:
    """The main function of a worker process."""
    os.environ.setdefault("TORCHINDUCTOR_FX_GRAPH_CACHE", "1")
    side = next(s for s in all_sides((1, 2, options.side_threads), EXTRAS) if s.name == options.side)
    worker = Worker(side)
    serve(options.worker, options.team, 0, worker.answer)
    sys.stdout.flush()
