"""Tensor's operators: ``+ - * / // % ** @``, comparisons, and their names as methods.

A mean loss keeps its weight (see ``Tensor.weight``) under multiplication and division by a number, negation, and addition of a
number or of a loss with the same weight. What averages no items (weight 0: a penalty, a mean over nothing) leaves the weight of a
sum as it is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from . import promotion
from .bfloat16 import is_floating
from .errors import RangeError
from .graph import Variable, apply
from .live import live
from .mode import mode
from .ops import arithmetic as elementary
from .ops.matmul import MATMUL
from .promotion import operands
from .tensor_inplace import TensorInPlace

if TYPE_CHECKING:
    from .tensor import Tensor

_NUMBERS = frozenset({int, float, bool})


def _weight_of_sum(weight: float, other: Any) -> float | None:
    """The weight of a loss of ``weight`` plus or minus ``other``."""
    if other.__class__ in _NUMBERS:
        return weight
    theirs = other._weight if isinstance(other, Variable) else None
    return None if theirs is None else _joint(weight, theirs)


@live
def _joint(weight: float, theirs: float) -> float | None:
    weight, theirs = float(weight), float(theirs)
    return None if weight and theirs and weight != theirs else weight or theirs


def _quotient(a: Any, b: Any) -> Any:
    """True division: integers give float32."""
    pair = operands(a, b, division=True)
    return NotImplemented if pair is None else apply(elementary.DIV, *pair)


class TensorOperators(TensorInPlace):
    """The operators."""

    __slots__ = ()
    __array_priority__ = 1000
    """Makes ``ndarray + Tensor`` ask the Tensor."""

    def __add__(self, other: Any) -> Tensor:
        result = promotion.binary(elementary.ADD, self, other)
        if self._weight is not None:
            result._weight = _weight_of_sum(self._weight, other)
        return result

    __radd__ = __add__

    def __sub__(self, other: Any) -> Tensor:
        result = promotion.binary(elementary.SUB, self, other)
        if self._weight is not None:
            result._weight = _weight_of_sum(self._weight, other)
        return result

    def __rsub__(self, other: Any) -> Tensor:
        result = promotion.binary(elementary.SUB, other, self)
        if self._weight is not None and other.__class__ in _NUMBERS:
            result._weight = self._weight
        return result

    def __mul__(self, other: Any) -> Tensor:
        """``self * other``."""
        result = promotion.binary(elementary.MUL, self, other)
        if self._weight is not None and other.__class__ in _NUMBERS:
            result._weight = self._weight
        return result

    __rmul__ = __mul__

    def __truediv__(self, other: Any) -> Tensor:
        result = _quotient(self, other)
        if self._weight is not None and other.__class__ in _NUMBERS:
            result._weight = self._weight
        return result

    def __rtruediv__(self, other: Any) -> Tensor:
        return _quotient(other, self)

    def __floordiv__(self, other: Any) -> Tensor:
        """``self / other``, rounded down."""
        return promotion.binary(elementary.FLOOR_DIVIDE, self, other)

    def __rfloordiv__(self, other: Any) -> Tensor:
        return promotion.binary(elementary.FLOOR_DIVIDE, other, self)

    def __mod__(self, other: Any) -> Tensor:
        """``self`` modulo ``other``, of the sign of ``other``."""
        return promotion.binary(elementary.REMAINDER, self, other)

    def __rmod__(self, other: Any) -> Tensor:
        return promotion.binary(elementary.REMAINDER, other, self)

    def __pow__(self, other: Any) -> Tensor:
        """``self ** other``."""
        return promotion.binary(elementary.POW, self, other)

    def __rpow__(self, other: Any) -> Tensor:
        return promotion.binary(elementary.POW, other, self)

    def __matmul__(self, other: Any) -> Tensor:
        return promotion.binary(MATMUL, self, other)

    def __rmatmul__(self, other: Any) -> Tensor:
        return promotion.binary(MATMUL, other, self)

    def __neg__(self) -> Tensor:
        """``-x``."""
        result = apply(elementary.NEG, self)
        result._weight = self._weight
        return result

    def __pos__(self) -> Any:
        return self

    def __abs__(self) -> Tensor:
        return apply(elementary.ABS, self)

    def __invert__(self) -> Tensor:
        return apply(elementary.BITWISE_NOT, self)

    def __and__(self, other: Any) -> Tensor:
        return promotion.binary(elementary.BITWISE_AND, self, other)

    def __or__(self, other: Any) -> Tensor:
        return promotion.binary(elementary.BITWISE_OR, self, other)

    def __xor__(self, other: Any) -> Tensor:
        return promotion.binary(elementary.BITWISE_XOR, self, other)

    __rand__, __ror__, __rxor__ = __and__, __or__, __xor__

    def __eq__(self, other: Any) -> Any:
        """Elementwise ``self == other``."""
        return promotion.binary(elementary.EQ, self, other)

    def __ne__(self, other: Any) -> Any:
        """Elementwise ``self != other``."""
        return promotion.binary(elementary.NE, self, other)

    def __lt__(self, other: Any) -> Any:
        """Elementwise ``self < other``."""
        return promotion.binary(elementary.LT, self, other)

    def __le__(self, other: Any) -> Any:
        """Elementwise ``self <= other``."""
        return promotion.binary(elementary.LE, self, other)

    def __gt__(self, other: Any) -> Any:
        """Elementwise ``self > other``."""
        return promotion.binary(elementary.GT, self, other)

    def __ge__(self, other: Any) -> Any:
        """Elementwise ``self >= other``."""
        return promotion.binary(elementary.GE, self, other)

    __hash__ = object.__hash__

    mul = multiply = __mul__
    pow, neg, negative, remainder, floor_divide = __pow__, __neg__, __neg__, __mod__, __floordiv__
    eq, ne, lt, le, gt, ge = __eq__, __ne__, __lt__, __le__, __gt__, __ge__
    not_equal, less, less_equal, greater, greater_equal = __ne__, __lt__, __le__, __gt__, __ge__

    def add(self, other: Any, *, alpha: Any = 1) -> Tensor:
        """``self + alpha * other``."""
        return self + (other if alpha == 1 else other * alpha)

    def sub(self, other: Any, *, alpha: Any = 1) -> Tensor:
        """``self - alpha * other``."""
        return self - (other if alpha == 1 else other * alpha)

    subtract = sub

    def div(self, other: Any, *, rounding_mode: str | None = None) -> Tensor:
        """``self / other``; with rounding_mode "floor" or "trunc" rounded to whole numbers."""
        if rounding_mode is None:
            return self / other
        if rounding_mode not in ("floor", "trunc"):
            raise RangeError(f"div: rounding_mode is None, 'floor' or 'trunc', got {rounding_mode!r}")
        if rounding_mode == "floor" and not is_floating(self.array.dtype):
            return self // other
        return (self / other).floor() if rounding_mode == "floor" else (self / other).trunc()

    divide = true_divide = div

    # ---- in place ----------------------------------------------------------------------------------------------------
    # Where nothing is recorded, ``w -= step * w.grad`` changes w itself, as in PyTorch. Where the graph records, the name is
    # bound to a new tensor: an array that the graph may have saved is never written.

    def __iadd__(self, other: Any) -> Any:
        return self + other if mode.enabled else self.add_(other)

    def __isub__(self, other: Any) -> Any:
        return self - other if mode.enabled else self.sub_(other)

    def __imul__(self, other: Any) -> Any:
        return self * other if mode.enabled else self.mul_(other)

    def __itruediv__(self, other: Any) -> Any:
        return self / other if mode.enabled else self.div_(other)
