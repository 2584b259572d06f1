"""Functions of one tensor, element by element: those that are no method of ``tensor_math``. Each is also a Tensor method."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from .bfloat16 import is_floating, limits
from .errors import RangeError
from .graph import apply
from .ops import elementary
from .ops.arithmetic import ROUND, WHERE

if TYPE_CHECKING:
    from .tensor import Tensor


def sinh(input: Tensor) -> Tensor:
    """Hyperbolic sine.

    >>> phalanx.sinh(phalanx.tensor([0.0, 1.0]))
    tensor([0.    , 1.1752])
    """
    return apply(elementary.SINH, input)


def cosh(input: Tensor) -> Tensor:
    """Hyperbolic cosine.

    >>> phalanx.cosh(phalanx.tensor([0.0, 1.0]))
    tensor([1.    , 1.5431])
    """
    return apply(elementary.COSH, input)


def asin(input: Tensor) -> Tensor:
    """Arcsine in radians; NaN outside of [-1, 1].

    >>> phalanx.asin(phalanx.tensor([0.0, 1.0]))
    tensor([0.    , 1.5708])
    """
    return apply(elementary.ARCSIN, input)


def acos(input: Tensor) -> Tensor:
    """Arccosine in radians; NaN outside of [-1, 1].

    >>> phalanx.acos(phalanx.tensor([1.0, 0.0]))
    tensor([0.    , 1.5708])
    """
    return apply(elementary.ARCCOS, input)


def asinh(input: Tensor) -> Tensor:
    """Inverse hyperbolic sine.

    >>> phalanx.asinh(phalanx.tensor([0.0, 1.0]))
    tensor([0.    , 0.8814])
    """
    return apply(elementary.ARCSINH, input)


def acosh(input: Tensor) -> Tensor:
    """Inverse hyperbolic cosine; NaN below 1.

    >>> phalanx.acosh(phalanx.tensor([1.0, 2.0]))
    tensor([0.   , 1.317])
    """
    return apply(elementary.ARCCOSH, input)


def atanh(input: Tensor) -> Tensor:
    """Inverse hyperbolic tangent; NaN outside of [-1, 1].

    >>> phalanx.atanh(phalanx.tensor([0.0, 0.5]))
    tensor([0.    , 0.5493])
    """
    return apply(elementary.ARCTANH, input)


def exp2(input: Tensor) -> Tensor:
    """``2 ** input``.

    >>> phalanx.exp2(phalanx.tensor([0.0, 3.0]))
    tensor([1., 8.])
    """
    return apply(elementary.EXP2, input)


def sinc(input: Tensor) -> Tensor:
    """``sin(pi x) / (pi x)``, 1 at 0.

    >>> phalanx.sinc(phalanx.tensor([0.0, 0.5]))
    tensor([1.    , 0.6366])
    """
    return apply(elementary.SINC, input)


def erfc(input: Tensor) -> Tensor:
    """``1 - erf(x)``, with all its digits where that is close to 0.

    >>> phalanx.erfc(phalanx.tensor([0.0, 3.0]))
    tensor([1.000e+00, 2.209e-05])
    """
    return apply(elementary.ERFC, input)


def erfinv(input: Tensor) -> Tensor:
    """The inverse of ``erf``: infinite at -1 and 1, NaN outside.

    >>> phalanx.erfinv(phalanx.tensor([0.0, 0.5]))
    tensor([0.    , 0.4769])
    """
    return apply(elementary.ERFINV, input)


def lgamma(input: Tensor) -> Tensor:
    """Logarithm of the absolute value of the gamma function.

    >>> phalanx.lgamma(phalanx.tensor([1.0, 5.0]))
    tensor([0.    , 3.1781])
    """
    return apply(elementary.LGAMMA, input)


def digamma(input: Tensor) -> Tensor:
    """Derivative of ``lgamma``.

    >>> phalanx.digamma(phalanx.tensor([1.0, 5.0]))
    tensor([-0.5772,  1.5061])
    """
    return apply(elementary.DIGAMMA, input)


def isposinf(input: Tensor) -> Tensor:
    """Whether each element is +infinity.

    >>> phalanx.isposinf(phalanx.tensor([1.0, float("inf"), -float("inf")]))
    tensor([False,  True, False])
    """
    return apply(elementary.ISPOSINF, input)


def isneginf(input: Tensor) -> Tensor:
    """Whether each element is -infinity.

    >>> phalanx.isneginf(phalanx.tensor([1.0, float("inf"), -float("inf")]))
    tensor([False, False,  True])
    """
    return apply(elementary.ISNEGINF, input)


def signbit(input: Tensor) -> Tensor:
    """Whether each element is negative, -0.0 included.

    >>> phalanx.signbit(phalanx.tensor([1.0, -0.0]))
    tensor([False,  True])
    """
    return apply(elementary.SIGNBIT, input)


# ---- composed --------------------------------------------------------------------------------------------------------


def positive(input: Tensor) -> Tensor:
    """The tensor itself, as ``+input``.

    >>> phalanx.positive(phalanx.tensor([1.0, -2.0]))
    tensor([ 1., -2.])
    """
    return input


def frac(input: Tensor) -> Tensor:
    """What stands behind the point: ``x - trunc(x)``.

    >>> phalanx.frac(phalanx.tensor([1.25, -1.25]))
    tensor([ 0.25, -0.25])
    """
    return input - input.trunc()


def rad2deg(input: Tensor) -> Tensor:
    """Radians to degrees.

    >>> phalanx.rad2deg(phalanx.tensor([3.1415927]))
    tensor([180.])
    """
    return input * (180.0 / math.pi)


def deg2rad(input: Tensor) -> Tensor:
    """Degrees to radians.

    >>> phalanx.deg2rad(phalanx.tensor([180.0]))
    tensor([3.1416])
    """
    return input * (math.pi / 180.0)


def logit(input: Tensor, eps: float | None = None) -> Tensor:
    """``log(x / (1 - x))``, the inverse of ``sigmoid``; with ``eps`` of x limited to [eps, 1 - eps].

    >>> phalanx.logit(phalanx.tensor([0.5, 0.9]))
    tensor([0.    , 2.1972])
    """
    x = input if eps is None else input.clamp(eps, 1.0 - eps)
    return (x / (1.0 - x)).log()


def nan_to_num(input: Tensor, nan: float = 0.0, posinf: float | None = None, neginf: float | None = None) -> Tensor:
    """NaN and infinities replaced by numbers; infinities without one by the largest finite numbers of the dtype.

    The gradient is 0 where something was replaced.

    >>> phalanx.nan_to_num(phalanx.tensor([1.0, float("nan"), float("inf")]), posinf=9.0)
    tensor([1., 0., 9.])
    """
    dtype = input.dtype
    if not is_floating(dtype):
        return input
    most = float(limits(dtype).max)
    result = apply(WHERE, input.isnan(), dtype.type(nan), input)
    result = apply(WHERE, isposinf(input), dtype.type(most if posinf is None else posinf), result)
    return apply(WHERE, isneginf(input), dtype.type(-most if neginf is None else neginf), result)


def round(input: Tensor, *, decimals: int = 0) -> Tensor:
    """To the nearest whole number, halves to the even one; with ``decimals`` to that many digits behind the point.

    >>> phalanx.round(phalanx.tensor([0.5, 1.5, 2.345])), phalanx.round(phalanx.tensor([2.345]), decimals=1)
    (tensor([0., 2., 2.]), tensor([2.3]))
    """
    if decimals == 0 or not is_floating(input.dtype):
        if decimals < 0:
            raise RangeError("round: negative decimals of integers; convert with .float()")
        return _rounded(input)
    scale = 10.0 ** abs(decimals)
    return _rounded(input * scale) / scale if decimals > 0 else _rounded(input / scale) * scale


def _rounded(x: Any) -> Any:
    return apply(ROUND, x)


arcsin, arccos, arcsinh, arccosh, arctanh = asin, acos, asinh, acosh, atanh
