"""exp, log, tanh, erf and their kin in float32 for compiled loops, by polynomials that LLVM vectorises.

The llvmlite of the package index has no vector mathematics library: ``math.exp`` in a loop stays scalar. Errors against float64 are
at most 5 units in the last place (``tests/core/test_fast_elementwise.py``). NaN stays NaN, infinities give the limits; what would be
denormal is 0. Products and sums of polynomials are fused explicitly (``fma``), so that the compiler has no choice that could change
bits between the body of a loop and its end.

References: exp and log are those of Moshier's Cephes library, tanh is that of Eigen; erf and log(1 + u) are our own fits (weighted
least squares, iterated to the least largest relative error).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from .compiled import inline

f4 = np.float32
ZERO, HALF, ONE, TWO = f4(0.0), f4(0.5), f4(1.0), f4(2.0)
INFINITY = f4(np.inf)
_FLOAT, _INTEGER = ir.FloatType(), ir.IntType(32)

# ---- building blocks -------------------------------------------------------------------------------------------------


@intrinsic
def fma(typing, a, b, c):  # type: ignore[no-untyped-def]
    """a * b + c, rounded once."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        return builder.fma(*arguments)

    return types.float32(types.float32, types.float32, types.float32), generate


@intrinsic
def largest(typing, x, y):  # type: ignore[no-untyped-def]
    """The larger of two numbers; as a reduction it is vectorised, which Python's max() is not. Not for NaN."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        return builder.select(
            builder.fcmp_ordered(">", arguments[0], arguments[1], flags=("fast",)), *arguments, flags=("fast",)
        )

    return types.float32(types.float32, types.float32), generate


@intrinsic
def _times_power_of_two(typing, y, shifted):  # type: ignore[no-untyped-def]
    """y * 2**n, where ``shifted`` is _SHIFT + n, by adding n to the exponent: y and the result must be normal numbers."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        y, shifted = (builder.bitcast(argument, _INTEGER) for argument in arguments)
        exponent = builder.shl(shifted, ir.Constant(_INTEGER, 23))
        return builder.bitcast(builder.add(y, exponent), _FLOAT)

    return types.float32(types.float32, types.float32), generate


def _exponent_bits(builder: Any, x: Any) -> Any:
    """e << 23 of a positive normal x = m * 2**e with m in [sqrt(1/2), sqrt(2))."""
    above = builder.sub(builder.bitcast(x, _INTEGER), ir.Constant(_INTEGER, 0x3F3504F3))
    return builder.and_(above, ir.Constant(_INTEGER, -(1 << 23)))


@intrinsic
def _exponent(typing, x):  # type: ignore[no-untyped-def]
    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        bits = _exponent_bits(builder, arguments[0])
        return builder.sitofp(builder.ashr(bits, ir.Constant(_INTEGER, 23)), _FLOAT)

    return types.float32(types.float32), generate


@intrinsic
def _mantissa(typing, x):  # type: ignore[no-untyped-def]
    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        bits = _exponent_bits(builder, arguments[0])
        return builder.bitcast(builder.sub(builder.bitcast(arguments[0], _INTEGER), bits), _FLOAT)

    return types.float32(types.float32), generate


# ---- sums of rows ----------------------------------------------------------------------------------------------------

LANES, FEW_LANES = 64, 16


def _add_up(context: Any, builder: Any, arrays: Any, kinds: Any) -> Any:
    """Code for the sum over one row, or of the products of two, in an order that no compiler and no width of vectors changes."""
    made = [context.make_array(kind)(context, builder, each) for kind, each in zip(kinds, arrays, strict=True)]
    size = cgutils.unpack_tuple(builder, made[0].shape, 1)[0]
    count = size.type

    def take(start: Any, form: Any) -> Any:
        values = []
        for array in made:
            place = builder.bitcast(builder.gep(array.data, [start]), form.as_pointer())
            values.append(builder.load(place, align=4))
        return values[0] if len(values) == 1 else builder.fmul(*values)

    def over(start: Any, stop: Any, form: Any, total: Any) -> Any:
        """Adds up pieces of one length; returns where they end."""
        step = ir.Constant(count, getattr(form, "count", 1))
        end = builder.add(start, builder.mul(builder.udiv(builder.sub(stop, start), step), step))
        with cgutils.for_range_slice(builder, start, end, step, count) as (index, _):
            builder.store(builder.fadd(builder.load(total), take(index, form)), total)
        return end

    def fold(value: Any, lanes: int, until: int) -> Any:
        """The upper half onto the lower one, down to so many lanes."""
        while lanes > until:
            lanes //= 2
            halves = [
                builder.shuffle_vector(
                    value, value, ir.Constant(ir.VectorType(_INTEGER, lanes), [*range(first, first + lanes)])
                )
                for first in (0, lanes)
            ]
            value = builder.fadd(*halves)
        return value

    wide, narrow = ir.VectorType(_FLOAT, LANES), ir.VectorType(_FLOAT, FEW_LANES)
    total = cgutils.alloca_once_value(builder, ir.Constant(wide, [0.0] * LANES))
    end = over(ir.Constant(count, 0), size, wide, total)
    total = cgutils.alloca_once_value(builder, fold(builder.load(total), LANES, FEW_LANES))
    end = over(end, size, narrow, total)
    last = builder.extract_element(fold(builder.load(total), FEW_LANES, 1), ir.Constant(_INTEGER, 0))
    total = cgutils.alloca_once_value(builder, last)
    over(end, size, _FLOAT, total)
    return builder.load(total)


@intrinsic
def total(typing, x):  # type: ignore[no-untyped-def]
    """Sum over a row (C-contiguous, float32): strictly ordered and yet in vectors, so that bits are the same in every form of a loop."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        return _add_up(context, builder, arguments, signature.args)

    return types.float32(x), generate


@intrinsic
def dot(typing, x, y):  # type: ignore[no-untyped-def]
    """Sum of the products of two rows of one length, as :func:`total`."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        return _add_up(context, builder, arguments, signature.args)

    return types.float32(x, y), generate


# ---- exponentials ----------------------------------------------------------------------------------------------------

_LOG2_E = f4(1.44269504)
_LN2_HIGH, _LN2_LOW = f4(0.693359375), f4(-2.12194440e-4)
_SHIFT = f4(1.5 * 2.0**23)
"""A number added to it is rounded to a whole one, which then stands in the last bits."""
_EXP_LEAST, _EXP_MOST = f4(-87.33654), f4(88.72283)
"""Below the first the result would be denormal, above the second it is infinite."""


@inline
def _exp_polynomial(r):  # type: ignore[no-untyped-def]
    """(exp(r) - 1 - r) / r**2 for |r| up to log(2) / 2."""
    p = fma(f4(1.9875691500e-4), r, f4(1.3981999507e-3))
    p = fma(p, r, f4(8.3334519073e-3))
    p = fma(p, r, f4(4.1665795894e-2))
    p = fma(p, r, f4(1.6666665459e-1))
    return fma(p, r, f4(5.0000001201e-1))


@inline
def _exp_within(c):  # type: ignore[no-untyped-def]
    """exp for [_EXP_LEAST, _EXP_MOST]."""
    shifted = fma(c, _LOG2_E, _SHIFT)
    n = shifted - _SHIFT
    r = fma(-n, _LN2_LOW, fma(-n, _LN2_HIGH, c))
    return _times_power_of_two(fma(fma(_exp_polynomial(r), r, ONE), r, ONE), shifted)


@inline
def exp(x):  # type: ignore[no-untyped-def]
    c = x if x > _EXP_LEAST else _EXP_LEAST
    c = c if c < _EXP_MOST else _EXP_MOST
    y = _exp_within(c)
    y = y if x > _EXP_LEAST else ZERO
    y = y if x < _EXP_MOST else INFINITY
    return y if x == x else x


@inline
def exp_below(x):  # type: ignore[no-untyped-def]
    """exp for what is at most 0 (above 88 it is wrong): the same bits with less work. NaN gives 0."""
    y = _exp_within(x if x > _EXP_LEAST else _EXP_LEAST)
    return y if x > _EXP_LEAST else ZERO


@inline
def expm1_below(x):  # type: ignore[no-untyped-def]
    """exp(x) - 1 for what is at most 0, also close to it. NaN gives -1."""
    c = x if x > f4(-30.0) else f4(-30.0)
    shifted = fma(c, _LOG2_E, _SHIFT)
    n = shifted - _SHIFT
    r = fma(-n, _LN2_LOW, fma(-n, _LN2_HIGH, c))
    two_n = _times_power_of_two(ONE, shifted)
    return fma(two_n, fma(_exp_polynomial(r) * r, r, r), two_n - ONE)


@inline
def sigmoid(x):  # type: ignore[no-untyped-def]
    c = -x if x > _EXP_LEAST else -_EXP_LEAST
    c = c if c > _EXP_LEAST else _EXP_LEAST
    y = ONE / (ONE + _exp_within(c))
    y = y if x > _EXP_LEAST else ZERO
    return y if x == x else x


# ---- logarithms ------------------------------------------------------------------------------------------------------


@inline
def log(x):  # type: ignore[no-untyped-def]
    """Minus infinity for 0 and what is denormal, NaN below."""
    e, m = _exponent(x), _mantissa(x) - ONE
    p = fma(f4(7.0376836292e-2), m, f4(-1.1514610310e-1))
    p = fma(p, m, f4(1.1676998740e-1))
    p = fma(p, m, f4(-1.2420140846e-1))
    p = fma(p, m, f4(1.4249322787e-1))
    p = fma(p, m, f4(-1.6668057665e-1))
    p = fma(p, m, f4(2.0000714765e-1))
    p = fma(p, m, f4(-2.4999993993e-1))
    p = fma(p, m, f4(3.3333331174e-1))
    square = m * m
    y = fma(square, fma(p, m, -HALF), fma(e, _LN2_LOW, m))
    y = fma(e, _LN2_HIGH, y)
    y = y if x < INFINITY else x
    y = y if x >= f4(1.17549435e-38) else -INFINITY
    return y if x >= ZERO else f4(np.nan)


@inline
def log1p_unit(u):  # type: ignore[no-untyped-def]
    """log(1 + u) for u in [0, 1]."""
    p = fma(f4(-0.0032440233044326305), u, f4(0.019851453602313995))
    p = fma(p, u, f4(-0.05695951730012894))
    p = fma(p, u, f4(0.10603653639554977))
    p = fma(p, u, f4(-0.15305592119693756))
    p = fma(p, u, f4(0.1967593878507614))
    p = fma(p, u, f4(-0.24954134225845337))
    p = fma(p, u, f4(0.3332996368408203))
    p = fma(p, u, f4(-0.4999990165233612))
    return u * fma(p, u, ONE)


@inline
def softplus(x):  # type: ignore[no-untyped-def]
    """log(1 + exp(x))."""
    y = log1p_unit(exp_below(-abs(x))) + (x if x > ZERO else ZERO)
    return y if x == x else x


# ---- others ----------------------------------------------------------------------------------------------------------


_TANH_END = f4(9.4)
"""Here the quotient has passed 1, by less than a unit in the last place."""


@inline
def tanh(x):  # type: ignore[no-untyped-def]
    c = _TANH_END if x > _TANH_END else x
    c = -_TANH_END if c < -_TANH_END else c
    z = c * c
    p = fma(f4(-2.76076847742355e-16), z, f4(2.00018790482477e-13))
    p = fma(p, z, f4(-8.60467152213735e-11))
    p = fma(p, z, f4(5.12229709037114e-08))
    p = fma(p, z, f4(1.48572235717979e-05))
    p = fma(p, z, f4(6.37261928875436e-04))
    p = fma(p, z, f4(4.89352455891786e-03))
    q = fma(f4(1.19825839466702e-06), z, f4(1.18534705686654e-04))
    q = fma(q, z, f4(2.26843463243900e-03))
    q = fma(q, z, f4(4.89352518554385e-03))
    y = (c * p) / q
    y = ONE if y > ONE else y
    return -ONE if y < -ONE else y


_ERF_END = f4(3.84)
"""1 - erf(3.84) is 6e-8, one unit in the last place below 1."""


@inline
def erf(x):  # type: ignore[no-untyped-def]
    z = x * x
    z = z if z < _ERF_END * _ERF_END else _ERF_END * _ERF_END
    t = fma(z, TWO / (_ERF_END * _ERF_END), -ONE)
    p = fma(f4(0.001337346388027072), t, f4(-0.003264463972300291))
    p = fma(p, t, f4(0.0022619348019361496))
    p = fma(p, t, f4(-0.0031587150879204273))
    p = fma(p, t, f4(0.011229649186134338))
    p = fma(p, t, f4(-0.020071953535079956))
    p = fma(p, t, f4(0.027783170342445374))
    p = fma(p, t, f4(-0.03998427465558052))
    p = fma(p, t, f4(0.056207407265901566))
    p = fma(p, t, f4(-0.0731988474726677))
    p = fma(p, t, f4(0.09082169085741043))
    p = fma(p, t, f4(-0.11053714156150818))
    p = fma(p, t, f4(0.13651719689369202))
    p = fma(p, t, f4(-0.18376579880714417))
    y = x * fma(p, t, f4(0.36823946237564087))
    y = ONE if y > ONE else y
    return -ONE if y < -ONE else y


_NORMAL_END = f4(5.2)


@inline
def normal_below(x):  # type: ignore[no-untyped-def]
    """The share of the standard normal distribution below x, within 1.5e-7: less work than by erf."""
    z = x * x
    z = z if z < _NORMAL_END * _NORMAL_END else _NORMAL_END * _NORMAL_END
    t = fma(z, TWO / (_NORMAL_END * _NORMAL_END), -ONE)
    p = fma(f4(-0.000481278111692518), t, f4(0.0012685115216299891))
    p = fma(p, t, f4(-0.001221490791067481))
    p = fma(p, t, f4(0.001800121390260756))
    p = fma(p, t, f4(-0.0047890422865748405))
    p = fma(p, t, f4(0.008559969253838062))
    p = fma(p, t, f4(-0.012505118735134602))
    p = fma(p, t, f4(0.017954787239432335))
    p = fma(p, t, f4(-0.024723630398511887))
    p = fma(p, t, f4(0.03198995813727379))
    p = fma(p, t, f4(-0.039929818361997604))
    p = fma(p, t, f4(0.050024520605802536))
    p = fma(p, t, f4(-0.06774366647005081))
    y = fma(x, fma(p, t, f4(0.1359499990940094)), HALF)
    y = ONE if y > ONE else y
    return ZERO if y < ZERO else y
