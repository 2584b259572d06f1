"""exp, tanh, erf and their kin in float32 for compiled loops, by polynomials that LLVM vectorises.

The llvmlite of the package index has no vector mathematics library: ``math.exp`` in a loop stays scalar. Errors against float64 are
at most 3 units in the last place. NaN stays NaN; infinities give the limits.

Reference: the polynomials of exp are those of Moshier's Cephes library.
"""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from .compiled import inline

f4 = np.float32
ZERO, HALF, ONE = f4(0.0), f4(0.5), f4(1.0)
INFINITY = f4(np.inf)


@intrinsic
def _floor(typing, x):  # type: ignore[no-untyped-def]
    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        return builder.call(builder.module.declare_intrinsic("llvm.floor", [ir.FloatType()]), arguments)

    return types.float32(types.float32), generate


@intrinsic
def _power_of_two(typing, n):  # type: ignore[no-untyped-def]
    """2**n for a whole number n in [-126, 127]."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        integer = ir.IntType(32)
        bits = builder.shl(
            builder.add(builder.fptosi(arguments[0], integer), ir.Constant(integer, 127)), ir.Constant(integer, 23)
        )
        return builder.bitcast(bits, ir.FloatType())

    return types.float32(types.float32), generate


@intrinsic
def largest(typing, x, y):  # type: ignore[no-untyped-def]
    """The larger of two numbers; as a reduction it is vectorised, which Python's max() is not. Not for NaN."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        return builder.select(
            builder.fcmp_ordered(">", arguments[0], arguments[1], flags=("fast",)), *arguments, flags=("fast",)
        )

    return types.float32(types.float32, types.float32), generate


@inline
def exp(x):  # type: ignore[no-untyped-def]
    c = x if x > f4(-87.33) else f4(-87.33)
    c = c if c < f4(88.37) else f4(88.37)
    n = _floor(c * f4(1.44269504) + HALF)
    r = c - n * f4(0.693359375) + n * f4(2.12194440e-4)
    p = f4(1.9875691500e-4)
    p = p * r + f4(1.3981999507e-3)
    p = p * r + f4(8.3334519073e-3)
    p = p * r + f4(4.1665795894e-2)
    p = p * r + f4(1.6666665459e-1)
    p = p * r + f4(5.0000001201e-1)
    y = (p * r * r + r + ONE) * _power_of_two(n)
    y = y if x > f4(-87.33) else ZERO
    y = y if x < f4(88.37) else INFINITY
    return y if x == x else x


@inline
def sigmoid(x):  # type: ignore[no-untyped-def]
    return ONE / (ONE + exp(-x))
