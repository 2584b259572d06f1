"""Functions of two tensors (or a tensor and a number) that broadcast, element by element. Each is also a Tensor method."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from .bfloat16 import is_floating
from .errors import DTypeError
from .graph import Variable, apply
from .op import Op
from .ops import arithmetic, elementary
from .promotion import cast, operands

if TYPE_CHECKING:
    from .tensor import Tensor


def two(op: Op, a: Any, b: Any, division: bool = False) -> Any:
    """``op`` of two operands in the dtype they meet in; ``division``: integers become float32."""
    pair = operands(a, b, division) if isinstance(a, Variable) or isinstance(b, Variable) else None
    if pair is None:
        raise DTypeError(f"{op.name}: Tensors or numbers expected, got {type(a).__name__} and {type(b).__name__}")
    return apply(op, *pair)


def _of_whole_numbers(op: Op, a: Any, b: Any) -> Any:
    for x in (a, b):
        if isinstance(x, float) or (isinstance(x, Variable) and is_floating(x.array.dtype)):
            raise DTypeError(
                f"{op.name}: integers expected, got {getattr(x, 'dtype', 'a float')}; convert with .long()"
            )
    return two(op, a, b)


def atan2(input: Tensor, other: Tensor) -> Tensor:
    """The angle of the point (other, input) in radians, in (-pi, pi].

    >>> phalanx.atan2(phalanx.tensor([0.0, 1.0]), phalanx.tensor([-1.0, 1.0]))
    tensor([3.1416, 0.7854])
    """
    return two(elementary.ATAN2, input, other, division=True)


def hypot(input: Tensor, other: Tensor) -> Tensor:
    """``sqrt(input^2 + other^2)`` without overflow.

    >>> phalanx.hypot(phalanx.tensor([3.0]), phalanx.tensor([4.0]))
    tensor([5.])
    """
    return two(elementary.HYPOT, input, other, division=True)


def logaddexp(input: Tensor, other: Tensor) -> Tensor:
    """``log(exp(input) + exp(other))`` without overflow.

    >>> phalanx.logaddexp(phalanx.tensor([0.0, 1000.0]), phalanx.tensor([0.0, 1000.0]))
    tensor([6.9315e-01, 1.0007e+03])
    """
    return two(elementary.LOGADDEXP, input, other, division=True)


def logaddexp2(input: Tensor, other: Tensor) -> Tensor:
    """``log2(2^input + 2^other)`` without overflow.

    >>> phalanx.logaddexp2(phalanx.tensor([0.0]), phalanx.tensor([0.0]))
    tensor([1.])
    """
    return logaddexp(input * math.log(2.0), other * math.log(2.0)) / math.log(2.0)


def xlogy(input: Any, other: Any) -> Tensor:
    """``input * log(other)``, 0 where ``input`` is 0.

    >>> phalanx.xlogy(phalanx.tensor([0.0, 2.0]), phalanx.tensor([0.0, 1.0]))
    tensor([0., 0.])
    """
    return two(elementary.XLOGY, input, other, division=True)


def fmod(input: Tensor, other: Any) -> Tensor:
    """The rest of a division, of the sign of ``input`` (``remainder`` has that of ``other``).

    >>> phalanx.fmod(phalanx.tensor([-3.0, 3.0]), 2)
    tensor([-1.,  1.])
    """
    return two(elementary.FMOD, input, other)


def copysign(input: Tensor, other: Any) -> Tensor:
    """The size of ``input`` with the sign of ``other``.

    >>> phalanx.copysign(phalanx.tensor([1.0, -2.0]), phalanx.tensor([-0.0, 3.0]))
    tensor([-1.,  2.])
    """
    return two(elementary.COPYSIGN, input, other, division=True)


def fmax(input: Tensor, other: Tensor) -> Tensor:
    """The larger of two; where one is NaN, the other.

    >>> phalanx.fmax(phalanx.tensor([1.0, float("nan")]), phalanx.tensor([2.0, 3.0]))
    tensor([2., 3.])
    """
    return two(elementary.FMAX, input, other)


def fmin(input: Tensor, other: Tensor) -> Tensor:
    """The smaller of two; where one is NaN, the other.

    >>> phalanx.fmin(phalanx.tensor([1.0, float("nan")]), phalanx.tensor([2.0, 3.0]))
    tensor([1., 3.])
    """
    return two(elementary.FMIN, input, other)


def heaviside(input: Tensor, values: Tensor) -> Tensor:
    """0 below 0, 1 above, ``values`` at 0. It has no gradient.

    >>> phalanx.heaviside(phalanx.tensor([-1.0, 0.0, 2.0]), phalanx.tensor([0.5]))
    tensor([0. , 0.5, 1. ])
    """
    return two(elementary.HEAVISIDE, input, values)


def nextafter(input: Tensor, other: Tensor) -> Tensor:
    """The next number of the dtype from ``input`` towards ``other``. It has no gradient.

    >>> phalanx.nextafter(phalanx.tensor([1.0]), phalanx.tensor([2.0])) > 1
    tensor([ True])
    """
    return two(elementary.NEXTAFTER, input, other)


def gcd(input: Tensor, other: Any) -> Tensor:
    """Greatest common divisor of integers.

    >>> phalanx.gcd(phalanx.tensor([12, 7]), phalanx.tensor([18, 21]))
    tensor([6, 7])
    """
    return _of_whole_numbers(elementary.GCD, input, other)


def lcm(input: Tensor, other: Any) -> Tensor:
    """Least common multiple of integers.

    >>> phalanx.lcm(phalanx.tensor([4, 7]), phalanx.tensor([6, 21]))
    tensor([12, 21])
    """
    return _of_whole_numbers(elementary.LCM, input, other)


def bitwise_and(input: Tensor, other: Any) -> Tensor:
    """Bit by bit ``input & other``.

    >>> phalanx.bitwise_and(phalanx.tensor([6]), 3)
    tensor([2])
    """
    return _of_whole_numbers(arithmetic.BITWISE_AND, input, other)


def bitwise_or(input: Tensor, other: Any) -> Tensor:
    """Bit by bit ``input | other``.

    >>> phalanx.bitwise_or(phalanx.tensor([6]), 3)
    tensor([7])
    """
    return _of_whole_numbers(arithmetic.BITWISE_OR, input, other)


def bitwise_xor(input: Tensor, other: Any) -> Tensor:
    """Bit by bit ``input ^ other``.

    >>> phalanx.bitwise_xor(phalanx.tensor([6]), 3)
    tensor([5])
    """
    return _of_whole_numbers(arithmetic.BITWISE_XOR, input, other)


def bitwise_not(input: Tensor) -> Tensor:
    """Every bit turned: ``-1 - input`` for signed integers.

    >>> phalanx.bitwise_not(phalanx.tensor([6]))
    tensor([-7])
    """
    return apply(arithmetic.BITWISE_NOT, input)


def bitwise_left_shift(input: Tensor, other: Any) -> Tensor:
    """``input << other``.

    >>> phalanx.bitwise_left_shift(phalanx.tensor([1, 3]), 2)
    tensor([ 4, 12])
    """
    return _of_whole_numbers(elementary.LEFT_SHIFT, input, other)


def bitwise_right_shift(input: Tensor, other: Any) -> Tensor:
    """``input >> other``.

    >>> phalanx.bitwise_right_shift(phalanx.tensor([4, -8]), 1)
    tensor([ 2, -4])
    """
    return _of_whole_numbers(elementary.RIGHT_SHIFT, input, other)


# ---- composed --------------------------------------------------------------------------------------------------------


def ldexp(input: Tensor, other: Tensor) -> Tensor:
    """``input * 2^other``.

    >>> phalanx.ldexp(phalanx.tensor([1.5]), phalanx.tensor([3]))
    tensor([12.])
    """
    return input * (2.0**other)


def float_power(input: Any, exponent: Any) -> Tensor:
    """``input ** exponent`` in float64.

    >>> phalanx.float_power(phalanx.tensor([2]), -1)
    tensor([0.5], dtype=float64)
    """
    base, power = (cast(x, np.dtype(np.float64)) if isinstance(x, Variable) else float(x) for x in (input, exponent))
    return two(arithmetic.POW, base, power)


def addcmul(input: Tensor, tensor1: Tensor, tensor2: Tensor, *, value: Any = 1) -> Tensor:
    """``input + value * tensor1 * tensor2``.

    >>> phalanx.addcmul(phalanx.tensor([1.0]), phalanx.tensor([2.0]), phalanx.tensor([3.0]), value=0.5)
    tensor([4.])
    """
    product = tensor1 * tensor2
    return input + (product if value == 1 else product * value)


def addcdiv(input: Tensor, tensor1: Tensor, tensor2: Tensor, *, value: Any = 1) -> Tensor:
    """``input + value * tensor1 / tensor2``.

    >>> phalanx.addcdiv(phalanx.tensor([1.0]), phalanx.tensor([3.0]), phalanx.tensor([2.0]))
    tensor([2.5])
    """
    quotient = tensor1 / tensor2
    return input + (quotient if value == 1 else quotient * value)


def rsub(input: Tensor, other: Any, *, alpha: Any = 1) -> Tensor:
    """``other - alpha * input``.

    >>> phalanx.rsub(phalanx.tensor([1.0]), 3)
    tensor([2.])
    """
    return other - (input if alpha == 1 else input * alpha)


def dist(input: Tensor, other: Tensor, p: float = 2) -> Tensor:
    """The p-norm of ``input - other``.

    >>> phalanx.tensor([0.0, 0.0]).dist(phalanx.tensor([3.0, 4.0]))
    tensor(5.)
    """
    return (input - other).norm(p)


arctan2 = atan2
