"""Products of the steps of a sequence: many small matrices, one after another, times one that stays.

oneDNN multiplies by a matrix that lies as it wants a quarter faster than by one that lies by rows or by columns: it is laid out anew
once for all steps. Without oneDNN, and for small products, NumPy's BLAS does it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import lru_cache
from typing import Any

import numpy as np

from ...backend import empty_aligned
from ...op import Array
from . import compiled, onednn, onednn_c, onednn_matmul, threads
from .products import primitive_places

SMALLEST = 100**3
"""Multiplications of a step below which NumPy is faster."""
FEW = 3
"""Steps below which it does not pay to lay the matrix out anew."""

Multiply = Callable[[Array, Array], Any]


@contextmanager
def products(matrix: Array, rows: int, steps: int) -> Iterator[Multiply]:
    """Lends ``multiply(a, out)``, which writes ``a @ matrix`` into ``out``, for a walk of ``steps`` steps of at most ``rows`` rows.

    matrix (K, N), float32, by rows or by columns; a (n, K) and out (n, N) are C-contiguous.
    """
    inner, width = matrix.shape
    large = rows * inner * width >= SMALLEST and _onednn()
    if large and steps >= FEW:
        key = (rows, inner, width, matrix.flags.c_contiguous)
        packed = _packed.take(key)
        if packed is not None:
            packed.pack(matrix)
            yield packed.multiply
            _packed.give(key, packed)
            return
    if large:
        yield lambda a, out: onednn_matmul.product(a, matrix, out) is None and np.dot(a, matrix, out=out)
    else:
        dense = np.ascontiguousarray(matrix) if steps >= FEW else matrix
        yield lambda a, out: np.dot(a, dense, out=out)


@contextmanager
def lent(matrix: Array, steps: int, a: Array, out: Array) -> Iterator[Array | None]:
    """As :func:`products`, for a compiled walk all of whose steps have as many rows as the result ``out``: (parts, 7) addresses for
    ``multiply_at``, one row for each part of a step's rows. None where NumPy or single products serve.

    The rows of a batch know nothing of each other: with several threads each walks through all steps with its part of them, and
    nobody waits. Such a part has a product on one thread; its bits are those of the product of all rows.
    """
    inner, width = matrix.shape
    rows, packed = len(out), None
    if rows * inner * width >= SMALLEST and steps >= FEW and _onednn():
        key = (rows, inner, width, matrix.flags.c_contiguous)
        packed = _packed.take(key)
    if packed is None:
        yield None
        return
    packed.pack(matrix)
    parts = threads.threads() if _worth_parts(rows, max(inner, width)) else 1
    functions = primitive_places()
    with ExitStack() as stack:
        addresses = []
        for part in range(parts):
            lo, hi = part * rows // parts, (part + 1) * rows // parts
            step = packed.part(part, hi - lo) if parts > 1 else packed.step(rows)
            addresses.append(functions + stack.enter_context(step.lend(a[: hi - lo], packed.memory, out[lo:hi])))
        yield np.array(addresses)
    _packed.give(key, packed)


def _worth_parts(rows: int, width: int) -> bool:
    """The rule of compiled loops for their parallel form, for a walk that is called with rows * width elements."""
    count = threads.threads()
    return 1 < count <= rows and rows * width >= count * compiled.SMALLEST_SHARE


@lru_cache(1)
def _onednn() -> bool:
    try:
        onednn.load()
    except onednn.Unavailable:
        return False
    return True


class _Packed:
    """Memory for a matrix as oneDNN wants it for the largest step, and the products of all sizes of steps with it."""

    def __init__(self, rows: int, inner: int, width: int, by_rows: bool) -> None:
        self._inner, self._width, self._by_rows = inner, width, by_rows
        self._plan, self._form = self._chosen(rows)  # the plan may own the form
        given = onednn.layout((inner, width), (width, 1) if by_rows else (1, inner))
        self._reorder = onednn.reorder(given, self._form)
        self.memory = empty_aligned(onednn.nbytes(self._form), np.uint8)
        self._steps: dict[int, onednn.Primitive] = {}
        self._parts: dict[tuple[int, int], onednn.Primitive] = {}

    def _chosen(self, rows: int) -> tuple[Any, Any]:
        """A plan for ``rows`` rows and the form it wants the matrix in: panels of 32 columns where that is possible.

        oneDNN's own choice is panels of 64: of 256 rows they are larger than the fastest cache, and each is read once for 6 rows of
        the result, not for 14 (architecture page, "Recurrent layers"). The bits are the same.
        """
        shape = self._inner, self._width
        if self._inner % 16 == 0 == self._width % 32:
            panels = onednn.layout(shape, None, tag=onednn_c.PANELS)
            try:
                return self._planned(rows, panels), panels
            except onednn.Unsupported:  # an older processor's kernels
                pass
        plan = self._planned(rows, onednn.layout(shape, None))
        return plan, onednn.wanted(plan, onednn_c.WEIGHTS)

    def _planned(self, rows: int, weights: Any, count: int | None = None) -> Any:
        inner, width = self._inner, self._width
        source, target = onednn.layout((rows, inner), (inner, 1)), onednn.layout((rows, width), (width, 1))
        return onednn.plan("matmul", source, weights, None, target, count=count)

    def _made(self, rows: int, count: int | None = None) -> onednn.Primitive:
        inner, width = self._inner, self._width
        arguments = {
            onednn_c.SRC: onednn.layout((rows, inner), (inner, 1)),
            onednn_c.WEIGHTS: self._form,
            onednn_c.DST: onednn.layout((rows, width), (width, 1)),
        }
        return onednn.Primitive(self._planned(rows, self._form, count), arguments, count)

    def pack(self, matrix: Array) -> None:
        given = matrix if self._by_rows else np.ascontiguousarray(matrix.T)
        if self._reorder is None:
            self.memory.view(np.float32)[:] = given.ravel()
        else:
            self._reorder(given, self.memory)

    def step(self, rows: int) -> onednn.Primitive:
        """The product of steps of so many rows."""
        step = self._steps.get(rows)
        if step is None:
            step = self._steps[rows] = self._made(rows)
        return step

    def part(self, number: int, rows: int) -> onednn.Primitive:
        """The product of ``rows`` rows of a step on one thread, for part ``number``: each has its own."""
        step = self._parts.get((number, rows))
        if step is None:
            step = self._parts[number, rows] = self._made(rows, 1)
        return step

    def multiply(self, a: Array, out: Array) -> None:
        self.step(len(a))(a, self.memory, out)


_packed = onednn.Pool(_Packed)
