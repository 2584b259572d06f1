"""Tensor's methods that compute element by element, and matrix products. One line each onto an op, or composed."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np

from . import promotion
from .bfloat16 import is_floating
from .errors import RangeError
from .graph import Variable, apply
from .ops import arithmetic as elementary
from .ops.activation import GELU, RELU, SIGMOID, TANH
from .ops.matmul import MATMUL
from .ops.softmax import LOG_SOFTMAX, SOFTMAX
from .promotion import cast, operands

if TYPE_CHECKING:
    from .tensor import Tensor

Dim = int | Sequence[int] | None


class ValuesIndices(NamedTuple):
    """What ``max(dim)``, ``min(dim)``, ``sort`` and ``topk`` return."""

    values: Tensor
    indices: Tensor


def checked_dim(name: str, dim: int, ndim: int) -> int:
    """``dim``, which may count from the end, as 0 <= dim < ndim (a 0-d tensor counts as having one)."""
    if not -max(ndim, 1) <= dim < max(ndim, 1):
        raise RangeError(f"{name}: dimension {dim} of a tensor with {ndim} dimensions")
    return dim % max(ndim, 1)


def axes_of(name: str, dim: Dim, ndim: int) -> int | tuple[int, ...] | None:
    """NumPy's axis for PyTorch's dim: None or () is all; for a 0-d tensor any valid dim is all."""
    if dim is None:
        return None
    if isinstance(dim, int):
        axis = checked_dim(name, dim, ndim)
        return axis if ndim else None
    axes = tuple(checked_dim(name, d, ndim) for d in dim)
    if len(set(axes)) != len(axes):
        raise RangeError(f"{name}: dimensions {tuple(dim)} name one twice")
    return axes if axes and ndim else None


F = TypeVar("F", bound=Callable[..., Any])
_NUMPY_NAMES = {"axis": "dim", "keepdims": "keepdim"}


def with_numpy_names(method: F) -> F:
    """Let ``method`` take NumPy's ``axis`` and ``keepdims``, as PyTorch does (and NumPy's functions, which pass ``out=None``)."""

    @functools.wraps(method)
    def call(*args: Any, **kwargs: Any) -> Any:
        if kwargs:
            kwargs = {_NUMPY_NAMES.get(name, name): value for name, value in kwargs.items() if name != "out" or value}
        return method(*args, **kwargs)

    return call  # type: ignore[return-value]


class TensorMath(Variable):
    """The computing methods, element by element, and products."""

    __slots__ = ()

    # ---- elementwise -------------------------------------------------------------------------------------------------

    def abs(self) -> Tensor:
        """Absolute value."""
        return apply(elementary.ABS, self)

    absolute = abs

    def exp(self) -> Tensor:
        """e to the power of x."""
        return apply(elementary.EXP, self)

    def expm1(self) -> Tensor:
        """``exp(x) - 1``, with all its digits close to 0."""
        return apply(elementary.EXPM1, self)

    def log(self) -> Tensor:
        """Natural logarithm."""
        return apply(elementary.LOG, self)

    def log2(self) -> Tensor:
        """Logarithm to base 2."""
        return apply(elementary.LOG2, self)

    def log10(self) -> Tensor:
        """Logarithm to base 10."""
        return apply(elementary.LOG10, self)

    def log1p(self) -> Tensor:
        """``log(1 + x)``, with all its digits close to 0."""
        return apply(elementary.LOG1P, self)

    def sqrt(self) -> Tensor:
        """Square root; NaN below 0."""
        return apply(elementary.SQRT, self)

    def rsqrt(self) -> Tensor:
        """``1 / sqrt(x)``."""
        return apply(elementary.RSQRT, self)

    def reciprocal(self) -> Tensor:
        """``1 / x``."""
        return apply(elementary.RECIPROCAL, self)

    def square(self) -> Tensor:
        """``x * x``."""
        return apply(elementary.POW, self, 2)

    def sin(self) -> Tensor:
        """Sine of x in radians."""
        return apply(elementary.SIN, self)

    def cos(self) -> Tensor:
        """Cosine of x in radians."""
        return apply(elementary.COS, self)

    def tan(self) -> Tensor:
        """Tangent of x in radians."""
        return apply(elementary.TAN, self)

    def atan(self) -> Tensor:
        """Arctangent in radians."""
        return apply(elementary.ARCTAN, self)

    arctan = atan

    def erf(self) -> Tensor:
        """The error function: ``2/sqrt(pi)`` times the integral of ``exp(-t^2)`` from 0 to x."""
        return apply(elementary.ERF, self)

    def tanh(self) -> Tensor:
        """Hyperbolic tangent."""
        return apply(TANH, self)

    def sigmoid(self) -> Tensor:
        """``1 / (1 + exp(-x))``."""
        return apply(SIGMOID, self)

    def relu(self) -> Tensor:
        """``max(x, 0)``."""
        return apply(RELU, self)

    def gelu(self, approximate: str = "none") -> Tensor:
        """``x * Phi(x)``; with ``approximate="tanh"`` by a tanh. See ``nn.functional.gelu``."""
        return apply(GELU, self, approximate=approximate)

    def sign(self) -> Tensor:
        """-1, 0 or 1."""
        return apply(elementary.SIGN, self)

    sgn = sign

    def floor(self) -> Tensor:
        """The largest whole number that is not above x."""
        return apply(elementary.FLOOR, self)

    def ceil(self) -> Tensor:
        """The smallest whole number that is not below x."""
        return apply(elementary.CEIL, self)

    def trunc(self) -> Tensor:
        """x without what stands behind the point."""
        return apply(elementary.TRUNC, self)

    fix = trunc

    def isnan(self) -> Tensor:
        """Whether each element is NaN."""
        return apply(elementary.ISNAN, self)

    def isinf(self) -> Tensor:
        """Whether each element is infinite, of either sign."""
        return apply(elementary.ISINF, self)

    def isfinite(self) -> Tensor:
        """Whether each element is neither NaN nor infinite."""
        return apply(elementary.ISFINITE, self)

    def logical_not(self) -> Tensor:
        """Whether each element is 0."""
        return apply(elementary.LOGICAL_NOT, self)

    def logical_and(self, other: Any) -> Tensor:
        """Whether both are not 0."""
        return apply(elementary.LOGICAL_AND, self, other)

    def logical_or(self, other: Any) -> Tensor:
        """Whether one of both is not 0."""
        return apply(elementary.LOGICAL_OR, self, other)

    def logical_xor(self, other: Any) -> Tensor:
        """Whether exactly one of both is not 0."""
        return apply(elementary.LOGICAL_XOR, self, other)

    def maximum(self, other: Tensor) -> Tensor:
        """The larger of two, elementwise; equal ones share the gradient in halves."""
        return promotion.binary(elementary.MAXIMUM, self, other)

    def minimum(self, other: Tensor) -> Tensor:
        """The smaller of two, elementwise; equal ones share the gradient in halves."""
        return promotion.binary(elementary.MINIMUM, self, other)

    def clamp(self, min: Any = None, max: Any = None) -> Tensor:
        """Limit to [min, max]; either may be None, a number or a Tensor. The gradient is 0 outside."""
        if min is None and max is None:
            raise RangeError("clamp expects min, max or both, got neither")
        if isinstance(min, Variable) or isinstance(max, Variable):
            limited: Any = self
            for bound, beyond in ((min, elementary.LT), (max, elementary.GT)):
                if bound is not None:
                    pair = operands(limited, bound)
                    assert pair is not None
                    limited = apply(elementary.WHERE, apply(beyond, *pair), *pair[::-1])
            return limited
        if not is_floating(self.array.dtype) and float in (type(min), type(max)):
            return cast(self, np.dtype(np.float32)).clamp(min, max)
        return apply(elementary.CLAMP, self, low=min, high=max)

    clip = clamp

    def clamp_min(self, min: Any) -> Tensor:
        """``max(x, min)``."""
        return self.clamp(min=min)

    def clamp_max(self, max: Any) -> Tensor:
        """``min(x, max)``."""
        return self.clamp(max=max)

    def where(self, condition: Any, other: Any) -> Tensor:
        """``self`` where ``condition``, else ``other``."""
        pair = operands(self, other)
        assert pair is not None
        return apply(elementary.WHERE, condition, *pair)

    def masked_fill(self, mask: Any, value: Any) -> Tensor:
        """``value`` where ``mask`` is True, else ``self``."""
        number = cast(value, self.array.dtype) if isinstance(value, Variable) else self.array.dtype.type(value)
        return apply(elementary.WHERE, mask, number, self)

    def lerp(self, end: Tensor, weight: Any) -> Tensor:
        """``self + weight * (end - self)``."""
        return self + (end - self) * weight  # type: ignore[operator]

    # ---- along a dimension -------------------------------------------------------------------------------------------

    @with_numpy_names
    def softmax(self, dim: int, dtype: Any = None) -> Tensor:
        """``exp(x) / sum(exp(x))`` along ``dim``."""
        x = self if dtype is None else self.to(dtype)  # type: ignore[attr-defined]
        return apply(SOFTMAX, x, axis=checked_dim("softmax", dim, self.array.ndim))

    @with_numpy_names
    def log_softmax(self, dim: int, dtype: Any = None) -> Tensor:
        """``x - log(sum(exp(x)))`` along ``dim``."""
        x = self if dtype is None else self.to(dtype)  # type: ignore[attr-defined]
        return apply(LOG_SOFTMAX, x, axis=checked_dim("log_softmax", dim, self.array.ndim))

    # ---- products ----------------------------------------------------------------------------------------------------

    def matmul(self, other: Tensor) -> Tensor:
        """Matrix product with all of ``torch.matmul``'s cases: vectors, matrices, batches of matrices."""
        return promotion.binary(MATMUL, self, other)
