"""Linear layers of small batches by tiles that stay in registers (``tiles.py``), with the bits of oneDNN's sgemm.

A layer's forward and the gradient of its weight are cut by outputs: with several threads each makes its own, and what belongs to
them (bias, relu, the bias's gradient), and nobody waits for another. What does not divide by a tile is done by one that begins earlier.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ...op import Array
from . import threads
from .compiled import WIDE, loop, prange
from .loops_embedding import add_up_columns
from .mathematics import ONE, ZERO
from .tiles import HEIGHT, WIDTH, multiply_16, multiply_32, multiply_48, turn_tile

MOST, NARROWEST = 32, 128
"""Rows of a batch up to which one thread makes a weight's gradient faster than sgemm (two threads: twice as many), and the columns that
the weight must have."""
APART, APART_MOST = 512, 8
"""Where rows of x are a multiple of so many numbers apart, more than so many of them do not stay in the first cache together."""
EACH = 16
"""So many products are as much work as an element of other loops, for the choice between one thread and several."""
BLOCK = 384
"""Factors that sgemm adds up at once; what comes then is added as a whole: two halves where less than twice as many are left."""


@loop("f4[:,:], f4[:,:], f4[:], b1, i8, f4[:,:] out", exact=True)
def _forward(x, weight, bias, relu, parts, y):  # type: ignore[no-untyped-def]
    rows, columns = y.shape
    depth = x.shape[1]
    across, turned = np.empty((depth, rows), np.float32), np.empty((columns, rows), np.float32)
    for block in range((depth + WIDTH - 1) // WIDTH):
        k = min(WIDTH * block, depth - WIDTH)
        for m in range(0, rows, WIDTH):
            turn_tile(x.ctypes.data + 4 * (m * depth + k), 4 * depth, across.ctypes.data + 4 * (k * rows + m), 4 * rows)
    for part in prange(parts):
        first, last = part * (columns // WIDTH) // parts * WIDTH, (part + 1) * (columns // WIDTH) // parts * WIDTH
        if part == parts - 1:
            last = columns
        for tile in range((last - first + HEIGHT - 1) // HEIGHT):
            n = min(first + HEIGHT * tile, last - HEIGHT)
            k = 0
            while k < depth:
                size = depth - k
                size = BLOCK if size >= 2 * BLOCK else (size + 1) // 2 if size > BLOCK else size
                a, b = weight.ctypes.data + 4 * (n * depth + k), across.ctypes.data + 4 * k * rows
                c = turned.ctypes.data + 4 * n * rows
                if rows == WIDTH:
                    multiply_16(a, 4 * depth, 4, b, 4 * rows, size, c, 4 * rows, k)
                else:
                    multiply_32(a, 4 * depth, 4, b, 4 * rows, size, c, 4 * rows, k)
                k += size
        for block in range((last - first + WIDTH - 1) // WIDTH):
            n = min(first + WIDTH * block, last - WIDTH)
            for m in range(0, rows, WIDTH):
                turn_tile(
                    turned.ctypes.data + 4 * (n * rows + m),
                    4 * rows,
                    y.ctypes.data + 4 * (m * columns + n),
                    4 * columns,
                )
        biases = bias[first:last]
        for m in range(rows):
            row = y[m, first:last]
            for n in range(row.size):
                v = row[n] + biases[n]
                row[n] = ZERO if relu and v <= ZERO else v


@loop("f4[:,:], f4[:,:], b1, i8, f4[:,:], f4[:,:] out, f4[:] out", exact=True)
def _gradients(gradient, y, relu, parts, x, dw, db):  # type: ignore[no-untyped-def]
    rows, height = gradient.shape
    width = x.shape[1]
    behind = np.empty((rows, height), np.float32)
    for part in prange(parts):
        first, last = part * (height // HEIGHT) // parts * HEIGHT, (part + 1) * (height // HEIGHT) // parts * HEIGHT
        if part == parts - 1:
            last = height
        for m in range(rows):
            to, given, made = behind[m, first:last], gradient[m, first:last], y[m, first:last]
            if relu:
                for n in range(to.size):
                    to[n] = given[n] * (ONE if made[n] > ZERO else ZERO)
            else:
                for n in range(to.size):
                    to[n] = given[n]
        add_up_columns(behind, db[first:last], first, last)
        for tile in range((last - first + HEIGHT - 1) // HEIGHT):
            n = min(first + HEIGHT * tile, last - HEIGHT)
            a = behind.ctypes.data + 4 * n
            for stripe in range((width + 3 * WIDTH - 1) // (3 * WIDTH)):
                left = 3 * WIDTH * stripe
                registers = min(3, (width - left + WIDTH - 1) // WIDTH)
                left = min(left, width - registers * WIDTH)
                b, c = x.ctypes.data + 4 * left, dw.ctypes.data + 4 * (n * width + left)
                if registers == 3:
                    multiply_48(a, 4, 4 * height, b, 4 * width, rows, c, 4 * width, 0)
                elif registers == 2:
                    multiply_32(a, 4, 4 * height, b, 4 * width, rows, c, 4 * width, 0)
                else:
                    multiply_16(a, 4, 4 * height, b, 4 * width, rows, c, 4 * width, 0)


def has_forward(rows: int, depth: int, columns: int) -> bool:
    """Whether :func:`forward` serves these sizes."""
    return WIDE and depth >= WIDTH and columns >= WIDTH and rows in (WIDTH, 2 * WIDTH)


def forward(x: Array, weight: Array, bias: Array, relu: bool, y: Array) -> bool:
    """y (B, O) = x (B, I) weight (O, I) + bias, and perhaps relu of it, for 16 or 32 rows, all plain float32; whether it was done."""
    rows, depth = x.shape
    if not has_forward(rows, depth, len(weight)):
        return False
    _forward(rows * weight.size // EACH, x, weight, bias, relu, threads.threads(), y)
    return True


def has_gradients(rows: int, height: int, width: int, count: int) -> bool:
    """Whether :func:`gradients` serves these sizes with so many threads."""
    if not WIDE or not 0 < rows <= MOST * min(2, count) or height < HEIGHT or width < NARROWEST:
        return False
    return width % APART != 0 or rows <= APART_MOST


def gradients(gradient: Array, y: Array | None, x: Array, dw: Array, db: Array) -> bool:
    """Gradients of a linear layer's weight and bias, of what relu made ``y`` of if that is given; all plain float32; whether it was done."""
    rows, height = gradient.shape
    if not has_gradients(rows, height, x.shape[1], threads.threads()):
        return False
    _gradients(
        rows * dw.size // EACH, gradient, gradient if y is None else y, y is not None, threads.threads(), x, dw, db
    )
    return True


def bind_forward(rows: int, depth: int, columns: int, relu: bool) -> Callable[..., Array]:
    """:func:`forward` of (x, weight, bias) for sizes that it has."""
    work, shape = rows * columns * depth // EACH, (rows, columns)

    def run(x: Array, weight: Array, bias: Array) -> Array:
        y = np.empty(shape, np.float32)
        _forward(work, x, weight, bias, relu, threads._count, y)
        return y

    return run


def bind_gradients(rows: int, height: int, width: int, relu: bool) -> Callable[..., tuple[Array, Array]]:
    """:func:`gradients` of (gradient, x, y, and where dw and db are wanted) for sizes that it has."""
    work = rows * height * width // EACH

    def run(gradient: Array, x: Array, y: Array, dw: Array | None, db: Array | None) -> tuple[Array, Array]:
        dw = np.empty((height, width), np.float32) if dw is None else dw
        db = np.empty(height, np.float32) if db is None else db
        _gradients(work, gradient, y, relu, threads._count, x, dw, db)
        return dw, db

    return run
