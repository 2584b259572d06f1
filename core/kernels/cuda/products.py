"""Products by cuBLASLt: one plan for each problem, which is a set of sizes, layouts and types.

- Each thread has a handle and plans of its own for each device, since a plan's pointers are set before each run (ranks may be threads).
- The algorithm is chosen once for a problem, by the tuned table (``algorithms.py``) or as the heuristic's first. While a graph is
  captured the heuristic must not run: a new problem there is an error.
- Each stream has one workspace, which is ours (each product of a graph has one out of the graph's memory): with it, and with one
  algorithm, equal inputs give equal bits.
"""

from __future__ import annotations

import ctypes
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np

from ... import gpu_memory
from ...backend import Array, cupy
from ...errors import GraphError
from . import algorithms, cublaslt, scalars
from .cublaslt import PACK, PLAIN, TYPES, WORKSPACE_BYTES, Algorithm, Heuristic, check, create, load, version

MOST_PLANS = 8192
CANDIDATES = 8
"""So many algorithms are timed when a table is made."""


class Problem(NamedTuple):
    """D = op(A) op(B) + beta D, as cuBLAS counts: D is ``rows`` x ``columns``, columns lie ``ld_d`` elements apart.

    ``step_*``: from one matrix of a batch to the next. ``alignment_*``: a power of two that divides each matrix's address; that of the
    side vector and the auxiliary matrix is a multiple of 16.
    """

    rows: int
    columns: int
    inner: int
    turn_a: bool
    turn_b: bool
    ld_a: int
    ld_b: int
    ld_d: int
    type_in: int
    type_out: int
    compute: int
    epilogue: int = PLAIN
    batch: int = 1
    step_a: int = 0
    step_b: int = 0
    step_d: int = 0
    ld_aux: int = 0
    alignment_a: int = PACK
    alignment_b: int = PACK
    alignment_d: int = PACK

    def key(self) -> str:
        """Its name in a tuned table."""
        return ",".join(str(int(value)) for value in self)


_ONES = {cublaslt.COMPUTE_64F: ctypes.c_double}


class Plan:
    """Descriptors and algorithm of one problem, for one thread and device."""

    def __init__(self, problem: Problem, context: _Context) -> None:
        self.problem, self.context = problem, context
        number = _ONES.get(problem.compute, ctypes.c_float)
        self._zero, self._one = ctypes.byref(number(0)), ctypes.byref(number(1))
        self._give_back: list[Callable[[], None]] = []
        weakref.finalize(self, _run_all, self._give_back).atexit = False
        scale = TYPES["float64"] if problem.compute == cublaslt.COMPUTE_64F else TYPES["float32"]
        self._desc = self._made("MatmulDescCreate", "MatmulDescDestroy", problem.compute, scale)
        for attribute, value in (
            (cublaslt.TURN_A, ctypes.c_int32(problem.turn_a)),
            (cublaslt.TURN_B, ctypes.c_int32(problem.turn_b)),
            (cublaslt.EPILOGUE, ctypes.c_uint32(problem.epilogue)),
        ):
            self._set(attribute, value)
        self._side, self._aux = ctypes.c_void_p(0), ctypes.c_void_p(0)
        if problem.epilogue & (cublaslt.BIAS | cublaslt.BGRAD | cublaslt.BGRAD_A | cublaslt.BGRAD_B):
            self._set(cublaslt.SIDE_TYPE, ctypes.c_int32(problem.type_out))
            self._point(cublaslt.SIDE_POINTER, self._side, PACK)
        if problem.epilogue & cublaslt.AUX:
            self._set(cublaslt.AUX_LD, ctypes.c_int64(problem.ld_aux))
            self._point(cublaslt.AUX_POINTER, self._aux, PACK)
        rows, columns, inner = problem.rows, problem.columns, problem.inner
        self._a = self._layout(
            problem.type_in, (inner, rows) if problem.turn_a else (rows, inner), problem.ld_a, problem.step_a
        )
        self._b = self._layout(
            problem.type_in, (columns, inner) if problem.turn_b else (inner, columns), problem.ld_b, problem.step_b
        )
        self._d = self._layout(problem.type_out, (rows, columns), problem.ld_d, problem.step_d)
        self._matmul, self._stream = load().cublasLtMatmul, cupy().cuda.get_current_stream
        self.use(Algorithm(), 0)

    def _made(self, call: str, destroy: str, *arguments: Any) -> ctypes.c_void_p:
        made, give_back = create(call, destroy, *arguments)
        self._give_back.append(give_back)
        return made

    def _set(self, attribute: int, value: Any) -> None:
        status = load().cublasLtMatmulDescSetAttribute(self._desc, attribute, ctypes.byref(value), ctypes.sizeof(value))
        check(status, f"MatmulDescSetAttribute {attribute}", self.problem)

    def _point(self, attribute: int, place: ctypes.c_void_p, address: int) -> None:
        place.value = address
        self._set(attribute, place)

    def _layout(self, dtype: int, shape: tuple[int, int], ld: int, step: int) -> ctypes.c_void_p:
        made = self._made("MatrixLayoutCreate", "MatrixLayoutDestroy", dtype, *shape, ld)
        if self.problem.batch > 1:
            set_attribute = load().cublasLtMatrixLayoutSetAttribute
            for attribute, value in (
                (cublaslt.BATCH, ctypes.c_int32(self.problem.batch)),
                (cublaslt.STEP, ctypes.c_int64(step)),
            ):
                status = set_attribute(made, attribute, ctypes.byref(value), ctypes.sizeof(value))
                check(status, f"MatrixLayoutSetAttribute {attribute}", self.problem)
        return made

    def candidates(self, count: int) -> list[Heuristic]:
        """Algorithms that can do it, the one that should be fastest first; none if it is not supported."""
        preference, give_back = create("MatmulPreferenceCreate", "MatmulPreferenceDestroy")
        try:
            set_attribute = load().cublasLtMatmulPreferenceSetAttribute
            a, b, d = (ctypes.c_uint32(number) for number in self.problem[-3:])
            for attribute, value in (
                (cublaslt.MAX_WORKSPACE, ctypes.c_uint64(WORKSPACE_BYTES)),
                (cublaslt.ALIGN_A, a),
                (cublaslt.ALIGN_B, b),
                (cublaslt.ALIGN_C, d),
                (cublaslt.ALIGN_D, d),
            ):
                status = set_attribute(preference, attribute, ctypes.byref(value), ctypes.sizeof(value))
                check(status, f"MatmulPreferenceSetAttribute {attribute}", self.problem)
            found, number = (Heuristic * count)(), ctypes.c_int()
            status = load().cublasLtMatmulAlgoGetHeuristic(
                self.context.handle, self._desc, self._a, self._b, self._d, self._d, preference, count, found,
                ctypes.byref(number),
            )  # fmt: skip
        finally:
            give_back()
        if status == cublaslt.NOT_SUPPORTED or (status == cublaslt.INVALID_VALUE and self.problem.epilogue != PLAIN):
            return []
        check(status, "MatmulAlgoGetHeuristic", self.problem)
        return [each for each in found[: number.value] if each.state == 0]

    def use(self, algorithm: Algorithm, workspace_bytes: int) -> None:
        """Do it this way from now on."""
        self._algorithm, self._workspace_bytes = ctypes.byref(algorithm), workspace_bytes

    def use_tuned(self, data: bytes) -> bool:
        """Do it as a table says, if this library and device can."""
        algorithm, result = Algorithm.from_buffer_copy(data), Heuristic()
        status = load().cublasLtMatmulAlgoCheck(
            self.context.handle, self._desc, self._a, self._b, self._d, self._d, ctypes.byref(algorithm),
            ctypes.byref(result),
        )  # fmt: skip
        if status or result.workspace > WORKSPACE_BYTES:
            return False
        self.use(algorithm, result.workspace)
        return True

    def run(self, a: int, b: int, d: int, *, add: bool = False, side: int = 0, aux: int = 0) -> None:
        """D = op(A) op(B), on top of what D holds if ``add``; all operands are addresses. On the current stream."""
        if scalars.now.feeding:
            return
        if side and self._side.value != side:
            self._point(cublaslt.SIDE_POINTER, self._side, side)
        if aux and self._aux.value != aux:
            self._point(cublaslt.AUX_POINTER, self._aux, aux)
        operands = a, b, d, self._one if add else self._zero
        status = self._launch(*operands)
        if status in (cublaslt.NOT_SUPPORTED, cublaslt.INVALID_VALUE):
            # that an algorithm was found for a problem does not promise that it runs
            for other in self.candidates(CANDIDATES):
                self.use(other.algorithm, other.workspace)
                status = self._launch(*operands)
                if not status:
                    return
        check(status, "Matmul", self.problem)

    def _launch(self, a: int, b: int, d: int, beta: Any) -> int:
        stream = self._stream().ptr
        place, space = 0, None
        if self._workspace_bytes:
            # a graph goes on to use what it was captured with: memory from its own pool
            captured = scalars.now.slots is not None
            space = (
                cupy().empty(self._workspace_bytes, np.uint8)
                if captured
                else workspaces.of(self.context.device, stream)
            )
            place = space.data.ptr
        status: int = self._matmul(
            self.context.handle, self._desc, self._one, a, self._a, b, self._b, beta, d, self._d, d, self._d,
            self._algorithm, place, self._workspace_bytes, stream,
        )  # fmt: skip
        return status


def _run_all(functions: list[Callable[[], None]]) -> None:
    for function in functions:
        function()


class _Context:
    """A thread's handle and plans on one device."""

    def __init__(self, device: int) -> None:
        self.device = device
        self.handle, give_back = create("Create", "Destroy")
        weakref.finalize(self, give_back).atexit = False
        self.plans: dict[Problem, Plan | None] = {}
        self.tuned = algorithms.table(device_name(device), version())


class _Here(threading.local):
    contexts: dict[int, _Context] | None = None
    tuning: Callable[[Plan, list[Heuristic]], None] | None = None
    """While a table is made: what to do with the candidates of a new plan."""


_here = _Here()


def device_name(device: int) -> str:
    """The model of a device: "NVIDIA H100 80GB HBM3"."""
    name = cupy().cuda.runtime.getDeviceProperties(device)["name"]
    return str(name.decode() if isinstance(name, bytes) else name)


class _Workspaces:
    """One for each stream of a device: products on it follow each other."""

    def __init__(self) -> None:
        self._arrays: dict[tuple[int, int], Array] = {}
        gpu_memory.holds(self)

    def of(self, device: int, stream: int) -> Array:
        """The stream's."""
        found = self._arrays.get((device, stream))
        if found is None:
            found = self._arrays.setdefault((device, stream), cupy().empty(WORKSPACE_BYTES, np.uint8))
        return found

    def held(self) -> Iterator[tuple[str, int, int]]:
        """What :mod:`gpu_memory` asks for."""
        for (device, _), array in list(self._arrays.items()):
            yield "workspaces", device, array.nbytes


workspaces = _Workspaces()


def context() -> _Context:
    """This thread's, on the current device."""
    device = cupy().cuda.runtime.getDevice()
    contexts = _here.contexts
    if contexts is None:
        contexts = _here.contexts = {}
    found = contexts.get(device)
    if found is None:
        found = contexts[device] = _Context(device)
    return found


def plan(problem: Problem) -> Plan | None:
    """How this thread solves ``problem`` on the current device; None if cuBLASLt does not support it.

    Raises GraphError for a new problem while a graph is captured.
    """
    here = context()
    try:
        return here.plans[problem]
    except KeyError:
        pass
    if cupy().cuda.get_current_stream().is_capturing():
        raise GraphError(
            f"a matrix product met for the first time while a step is captured ({problem}): its algorithm cannot be chosen "
            "then; run the step with these shapes once before"
        )
    if len(here.plans) >= MOST_PLANS:
        here.plans.clear()
    made: Plan | None = Plan(problem, here)
    assert made is not None
    data = here.tuned.get(problem.key())
    if _here.tuning is not None or data is None or not made.use_tuned(data):
        found = made.candidates(1 if _here.tuning is None else CANDIDATES)
        if not found:
            made = None
        else:
            made.use(found[0].algorithm, found[0].workspace)
            if _here.tuning is not None:
                _here.tuning(made, found)
    here.plans[problem] = made
    return made


@contextmanager
def tuning(choose: Callable[[Plan, list[Heuristic]], None]) -> Iterator[None]:
    """Within, every problem of this thread counts as new, and ``choose`` sees its plan and candidates."""
    here, before = context(), _here.tuning
    here.plans.clear()
    _here.tuning = choose
    try:
        yield
    finally:
        _here.tuning = before
        here.plans.clear()
