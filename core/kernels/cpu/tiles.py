"""Small products made in the processor's registers, for compiled loops: tiles of a result, 8 rows by 16, 32 or 48 columns.

oneDNN's sgemm first copies what it multiplies into panels, which products of a few rows do not repay: where a batch is small, the copy of the weight
takes longer than it saves. These take the matrices as they lie. Each element is one chain of fused additions, so a tile's bits depend on nothing else.
They need the 32 registers of AVX-512 (``compiled.WIDE``); elsewhere they would be right, but slow.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

HEIGHT, WIDTH = 8, 16
"""Rows of a tile, and the floats in a register."""
_FLOAT, _INDEX, _LONG = ir.FloatType(), ir.IntType(32), ir.IntType(64)
_VECTOR = ir.VectorType(_FLOAT, WIDTH)
_PLACES = ir.VectorType(_INDEX, WIDTH)
_FMA = ir.FunctionType(_VECTOR, [_VECTOR] * 3)


def _number(value: int) -> Any:
    return ir.Constant(_LONG, value)


def _load(builder: Any, place: Any, kind: Any) -> Any:
    found = builder.load(builder.inttoptr(place, kind.as_pointer()))
    found.align = 4
    return found


def _store(builder: Any, value: Any, place: Any) -> None:
    builder.store(value, builder.inttoptr(place, value.type.as_pointer())).align = 4


def _spread(builder: Any, value: Any) -> Any:
    """A register full of one number."""
    empty = ir.Constant(_VECTOR, ir.Undefined)
    first = builder.insert_element(empty, value, ir.Constant(_INDEX, 0))
    return builder.shuffle_vector(first, empty, ir.Constant(_PLACES, [0] * WIDTH))


def _tile(registers: int) -> Any:
    """``multiply_tile`` for results of so many registers a row."""

    @intrinsic
    def multiply_tile(typing, a, a_row, a_step, b, b_step, depth, c, c_row, add):  # type: ignore[no-untyped-def]
        """c = a b, or c += a b if ``add`` is not 0, for c of 8 rows: addresses, and in bytes how far it is from row to row (of b:
        ``b_step``) and in a from one factor of a row to the next (``a_step``); ``depth``, at least 1, factors in a row."""

        def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
            a, a_row, a_step, b, b_step, depth, c, c_row, add = arguments
            fma = cgutils.get_or_insert_function(builder.module, _FMA, f"llvm.fma.v{WIDTH}f32")
            rows, columns = range(HEIGHT), range(registers)
            down = [builder.mul(a_row, _number(row)) for row in rows]
            before, body, after = builder.block, builder.append_basic_block(), builder.append_basic_block()
            builder.branch(body)
            builder.position_at_end(body)
            left, at_a, at_b = (builder.phi(_LONG) for _ in range(3))
            sums = [[builder.phi(_VECTOR) for _ in columns] for _ in rows]
            factors = [_load(builder, builder.add(at_b, _number(4 * WIDTH * n)), _VECTOR) for n in columns]
            made = []
            for row in rows:
                one = _spread(builder, _load(builder, builder.add(at_a, down[row]), _FLOAT))
                made.append([builder.call(fma, [one, factors[n], sums[row][n]]) for n in columns])
            rest = builder.sub(left, _number(1))
            moves = [(left, depth, rest), (at_a, a, builder.add(at_a, a_step)), (at_b, b, builder.add(at_b, b_step))]
            zero = ir.Constant(_VECTOR, [0.0] * WIDTH)
            moves += [(sums[row][n], zero, made[row][n]) for row in rows for n in columns]
            for phi, first, following in moves:
                phi.add_incoming(first, before)
                phi.add_incoming(following, body)
            builder.cbranch(builder.icmp_signed(">", rest, _number(0)), body, after)
            builder.position_at_end(after)
            places = [
                [builder.add(c, builder.add(builder.mul(c_row, _number(row)), _number(4 * WIDTH * n))) for n in columns]
                for row in rows
            ]
            with builder.if_else(builder.icmp_signed("!=", add, _number(0))) as (adds, writes):
                with adds:
                    for row in rows:
                        for n in columns:
                            total = builder.fadd(_load(builder, places[row][n], _VECTOR), made[row][n])
                            _store(builder, total, places[row][n])
                with writes:
                    for row in rows:
                        for n in columns:
                            _store(builder, made[row][n], places[row][n])
            return context.get_dummy_value()

        return types.void(*[types.int64] * 9), generate

    return multiply_tile


multiply_16, multiply_32, multiply_48 = _tile(1), _tile(2), _tile(3)
"""Tiles of 16, 32 and 48 columns."""

_LANES = [range(first, first + 4) for first in range(0, WIDTH, 4)]
_LOWER = [place for a, b, _, _ in _LANES for place in (a, WIDTH + a, b, WIDTH + b)]
_UPPER = [place + 2 for place in _LOWER]
_LOWER_PAIRS = [place for a, b, _, _ in _LANES for place in (a, b, WIDTH + a, WIDTH + b)]
_UPPER_PAIRS = [place + 2 for place in _LOWER_PAIRS]
_EVEN = [side + place for side in (0, WIDTH) for lane in _LANES[::2] for place in lane]
_ODD = [place + 4 for place in _EVEN]
"""How two registers are mixed: each a single instruction of AVX-512."""


@intrinsic
def turn_tile(typing, a, a_row, out, out_row):  # type: ignore[no-untyped-def]
    """out = a transposed, 16 by 16: addresses, and in bytes how far it is from row to row."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        a, a_row, out, out_row = arguments

        def mix(first: Any, second: Any, *orders: Any) -> list[Any]:
            return [builder.shuffle_vector(first, second, ir.Constant(_PLACES, order)) for order in orders]

        rows = [_load(builder, builder.add(a, builder.mul(a_row, _number(row))), _VECTOR) for row in range(WIDTH)]
        fours = []  # four rows of a in each: of four columns, one in each of the four
        for row in range(0, WIDTH, 4):
            low, high = mix(*rows[row : row + 2], _LOWER, _UPPER), mix(*rows[row + 2 : row + 4], _LOWER, _UPPER)
            fours.append(
                [each for pair in zip(low, high, strict=True) for each in mix(*pair, _LOWER_PAIRS, _UPPER_PAIRS)]
            )
        for place in range(4):
            first, second, third, fourth = (four[place] for four in fours)
            for start, order in ((0, _EVEN), (4, _ODD)):
                halves = *mix(first, second, order), *mix(third, fourth, order)
                for column, turned in zip((start, start + 8), mix(*halves, _EVEN, _ODD), strict=True):
                    _store(builder, turned, builder.add(out, builder.mul(out_row, _number(column + place))))
        return context.get_dummy_value()

    return types.void(*[types.int64] * 4), generate
