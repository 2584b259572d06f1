"""Making tuned tables: each candidate of cuBLASLt is timed for the very products that a layer's forward and backward make."""

from __future__ import annotations

import ctypes
import itertools
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...backend import cupy
from ...op import Op
from . import products
from .cublaslt import PLAIN, TYPES, Algorithm, Heuristic
from .products import Plan, Problem

ROUNDS = 3
WARM_UP = 3
ENOUGH = 0.99
"""Another candidate than the heuristic's first must take less than this share of its time."""
TILE = 1 << 20
"""So many random numbers, again and again, fill an operand: zeros would let the card clock higher."""
_SIZES = {number: np.dtype(np.uint16 if name == "bfloat16" else name) for name, number in TYPES.items()}


@dataclass
class Timed:
    """What was found for one problem."""

    problem: Problem
    candidates: int
    chosen: int
    first_us: float
    best_us: float
    plain_us: float
    """Of the product without its epilogue: what the epilogue costs."""
    algorithm: bytes

    def line(self) -> str:
        """For a person: sizes, time of the heuristic's choice and of the best."""
        problem = self.problem
        rate = 2e-6 * problem.rows * problem.columns * problem.inner * problem.batch / self.best_us
        return (
            f"{problem.rows} x {problem.columns} x {problem.inner}{f' x {problem.batch}' if problem.batch > 1 else ''} "
            f"epilogue {problem.epilogue}: {self.first_us:.1f} us by the heuristic, {self.best_us:.1f} us by candidate "
            f"{self.chosen + 1} of {self.candidates}, {rate:.1f} TFLOP/s"
            f"{'' if problem.epilogue == PLAIN else f'; {self.plain_us:.1f} us without the epilogue'}"
        )


def tune(run: Callable[[], object], report: Callable[[Timed], None], repeat: int = 20) -> dict[str, bytes]:
    """Call ``run`` once and time the candidates of every product in it: key -> the fastest's words, as ``algorithms.write`` wants them."""
    found: dict[str, bytes] = {}

    def choose(plan: Plan, candidates: list[Heuristic]) -> None:
        timed = _timed(plan, candidates, repeat)
        found[plan.problem.key()] = timed.algorithm
        report(timed)

    with products.tuning(choose):
        run()
    return found


def _timed(plan: Plan, candidates: list[Heuristic], repeat: int) -> Timed:
    problem = plan.problem
    operands = _operands(problem)
    a, b, d, side, aux = (x.data.ptr for x in operands)
    times = []
    for candidate in candidates:
        plan.use(candidate.algorithm, candidate.workspace)
        times.append(min(_elapsed_us(lambda: plan.run(a, b, d, side=side, aux=aux), repeat) for _ in range(ROUNDS)))
    chosen = int(np.argmin(times))
    if times[chosen] > ENOUGH * times[0]:
        chosen = 0
    best = candidates[chosen]
    plan.use(best.algorithm, best.workspace)
    plain_us = times[chosen] if problem.epilogue == PLAIN else _plain_us(problem, a, b, d, repeat)
    words = ctypes.string_at(ctypes.addressof(best.algorithm), ctypes.sizeof(Algorithm))
    return Timed(problem, len(candidates), chosen, times[0], times[chosen], plain_us, words)


def _plain_us(problem: Problem, a: int, b: int, d: int, repeat: int) -> float:
    plan = Plan(problem._replace(epilogue=PLAIN, ld_aux=0), products.context())
    (best,) = plan.candidates(1)
    plan.use(best.algorithm, best.workspace)
    return min(_elapsed_us(lambda: plan.run(a, b, d), repeat) for _ in range(ROUNDS))


def _elapsed_us(run: Callable[[], None], repeat: int) -> float:
    api = cupy()
    for _ in range(WARM_UP):
        run()
    begin, end = api.cuda.Event(), api.cuda.Event()
    begin.record()
    for _ in range(repeat):
        run()
    end.record()
    end.synchronize()
    return max(1e3 * float(api.cuda.get_elapsed_time(begin, end)) / repeat, 1e-3)


def _operands(problem: Problem) -> list[Any]:
    """Memory for A, B, D, the side vector and the auxiliary matrix, with normal numbers."""
    rows, columns, inner = problem.rows, problem.columns, problem.inner
    last = problem.batch - 1
    counts = [
        problem.ld_a * (rows if problem.turn_a else inner) + last * problem.step_a,
        problem.ld_b * (inner if problem.turn_b else columns) + last * problem.step_b,
        problem.ld_d * columns + last * problem.step_d,
    ]
    types = [_SIZES[number] for number in (problem.type_in, problem.type_in, problem.type_out)]
    found = [_filled(count, dtype) for count, dtype in zip(counts, types, strict=True)]
    side = cupy().zeros(max(rows, columns) * 8, np.uint8)
    aux = cupy().zeros(max(problem.ld_aux * columns * types[2].itemsize, 16), np.uint8)
    return [*found, side, aux]


def _filled(count: int, dtype: np.dtype) -> Any:
    numbers = np.random.default_rng(0).normal(size=min(count, TILE)).astype(np.float32)
    if dtype == np.uint16:  # the upper half of a float32 is a bfloat16
        tile = (numbers.view(np.uint32) >> 16).astype(np.uint16)
    else:
        tile = numbers.astype(dtype)
    whole = cupy().empty(-(-count // tile.size) * tile.size, dtype)
    whole.reshape(-1, tile.size)[...] = cupy().asarray(tile)
    return whole


# ---- what is tuned ---------------------------------------------------------------------------------------------------


def layer(op: Op, rows: int, sizes: tuple[int, ...], dtype: Any, **attributes: Any) -> Callable[[], None]:
    """Forward and backward of an op of linear layers of ``sizes`` (in, ..., out) over ``rows``; gradients of parameters are float32."""

    def run() -> None:
        api = cupy()
        needs, slots = [True], [None]
        inputs = [api.zeros((rows, sizes[0]), dtype)]
        for before, after in itertools.pairwise(sizes):
            for shape in ((after, before), (after,)):
                inputs.append(api.zeros(shape, dtype))
                slots.append(api.empty(shape, np.float32 if np.dtype(dtype).itemsize == 2 else dtype))
                needs.append(True)
        output, saved = op.forward(*inputs, **attributes)
        op.vjp(saved, api.zeros(output.shape, dtype), tuple(needs), slots)

    return run


def say(timed: Timed) -> None:
    """Print what was found for one problem."""
    print(timed.line(), file=sys.stdout, flush=True)
