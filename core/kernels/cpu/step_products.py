"""Products of the steps of a sequence: many small matrices, one after another, times one that stays.

oneDNN multiplies by a matrix that lies as it wants a quarter faster than by one that lies by rows or by columns: it is laid out anew
once for all steps. Without oneDNN, and for small products, NumPy's BLAS does it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import numpy as np

from ...backend import empty_aligned
from ...op import Array
from . import onednn, onednn_c, onednn_matmul

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
def lent(matrix: Array, rows: int, steps: int, a: Array, out: Array) -> Iterator[tuple[int, ...] | None]:
    """As :func:`products`, for a compiled walk all of whose steps have as many rows as ``a`` and the result ``out``: what
    ``Primitive.lend`` lends. None where NumPy or single products serve.
    """
    inner, width = matrix.shape
    packed = None
    if rows * inner * width >= SMALLEST and steps >= FEW and _onednn():
        key = (rows, inner, width, matrix.flags.c_contiguous)
        packed = _packed.take(key)
    if packed is None:
        yield None
        return
    packed.pack(matrix)
    with packed.step(rows).lend(a, packed.memory, out) as addresses:
        yield addresses
    _packed.give(key, packed)


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
        self._plan = self._planned(rows, onednn.layout((inner, width), None))  # owns the form
        self._form = onednn.wanted(self._plan, onednn_c.WEIGHTS)
        given = onednn.layout((inner, width), (width, 1) if by_rows else (1, inner))
        self._reorder = onednn.reorder(given, self._form)
        self.memory = empty_aligned(onednn.nbytes(self._form), np.uint8)
        self._steps: dict[int, onednn.Primitive] = {}

    def _planned(self, rows: int, weights: Any) -> Any:
        inner, width = self._inner, self._width
        return onednn.plan(
            "matmul", onednn.layout((rows, inner), (inner, 1)), weights, None, onednn.layout((rows, width), (width, 1))
        )

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
            inner, width = self._inner, self._width
            made = self._planned(rows, self._form)
            step = self._steps[rows] = onednn.Primitive(
                made,
                {
                    onednn_c.SRC: onednn.layout((rows, inner), (inner, 1)),
                    onednn_c.WEIGHTS: self._form,
                    onednn_c.DST: onednn.layout((rows, width), (width, 1)),
                },
            )
        return step

    def multiply(self, a: Array, out: Array) -> None:
        self.step(len(a))(a, self.memory, out)


_packed = onednn.Pool(_Packed)
