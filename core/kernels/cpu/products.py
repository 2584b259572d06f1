"""Matrix products inside of compiled loops: oneDNN's sgemm, called at its address, so that numba's cache stays valid.

A product of 64 x 128 by 128 x 32 takes 4 us, of which 0.3 are the call's.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from . import onednn

_CHAR, _INT, _LONG, _FLOAT = ir.IntType(8), ir.IntType(32), ir.IntType(64), ir.FloatType()
_POINTER = _FLOAT.as_pointer()
_SGEMM = ir.FunctionType(
    _INT,
    [_CHAR, _CHAR, _LONG, _LONG, _LONG, _FLOAT, _POINTER, _LONG, _POINTER, _LONG, _FLOAT, _POINTER, _LONG],
)
AS_IT_IS, TURNED = np.int64(ord("N")), np.int64(ord("T"))
"""How an operand lies."""


@lru_cache(1)
def places() -> tuple[int, int]:
    """Where sgemm and the function that limits its threads lie in this process: what loops take as ``sgemm`` and ``limit``."""
    library = onednn.load()
    number = library.ffi.cast
    return (
        int(number("intptr_t", library.ffi.addressof(library.c, "dnnl_sgemm"))),
        int(number("intptr_t", library.ffi.addressof(library.omp, "omp_set_num_threads"))),
    )


@intrinsic
def multiply(typing, sgemm, turn_a, turn_b, rows, columns, inner, alpha, a, a_step, b, b_step, beta, c, c_step):  # type: ignore[no-untyped-def]
    """c = alpha * a b + beta * c. Addresses are in bytes, steps from row to row in elements; ``beta`` 0 does not read c."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        place, turn_a, turn_b, *rest = arguments
        for position in (4, 6, 9):
            rest[position] = builder.inttoptr(rest[position], _POINTER)
        turns = [builder.trunc(turn, _CHAR) for turn in (turn_a, turn_b)]
        builder.call(builder.inttoptr(place, _SGEMM.as_pointer()), [*turns, *rest])
        return context.get_dummy_value()

    n, f = types.int64, types.float32
    return types.void(n, n, n, n, n, n, f, n, n, n, n, f, n, n), generate


@intrinsic
def use_threads(typing, limit, count):  # type: ignore[no-untyped-def]
    """From here on products of this thread use ``count`` threads; with one their bits are those of one, wherever they run."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        kind = ir.FunctionType(ir.VoidType(), [_INT])
        builder.call(builder.inttoptr(arguments[0], kind.as_pointer()), [builder.trunc(arguments[1], _INT)])
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), generate


@lru_cache(1)
def primitive_places() -> tuple[int, int]:
    """Where the functions lie that run a primitive and that say where an operand lies: of ``multiply_at``."""
    library = onednn.load()
    names = ("dnnl_primitive_execute", "dnnl_memory_set_data_handle")
    one, other = (int(library.ffi.cast("intptr_t", library.ffi.addressof(library.c, name))) for name in names)
    return one, other


_STATUS = ir.FunctionType(_INT, [_LONG, _LONG])
_EXECUTE = ir.FunctionType(_INT, [_LONG, _LONG, _INT, _LONG])


@intrinsic
def multiply_at(typing, execute, put, primitive, stream, count, arguments, memory, source):  # type: ignore[no-untyped-def]
    """Run a primitive of oneDNN (``Primitive.lend``) on what lies at the address ``source``; 0 if all went well."""

    def generate(context, builder, signature, given):  # type: ignore[no-untyped-def]
        execute, put, primitive, stream, count, arguments, memory, source = given
        builder.call(builder.inttoptr(put, _STATUS.as_pointer()), [memory, source])
        run = builder.inttoptr(execute, _EXECUTE.as_pointer())
        return builder.sext(builder.call(run, [primitive, stream, builder.trunc(count, _INT), arguments]), _LONG)

    n = types.int64
    return n(n, n, n, n, n, n, n, n), generate
