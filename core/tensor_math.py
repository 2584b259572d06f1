"""Tensor's methods that compute: elementwise functions, reductions, products. One line each onto an op, or composed."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np

from .errors import RangeError
from .graph import Variable, apply, wrap
from .ops import arithmetic as elementary
from .ops import reduce
from .ops.activation import GELU, RELU, SIGMOID, TANH
from .ops.indexing import GATHER
from .ops.matmul import MATMUL
from .ops.softmax import LOG_SOFTMAX, SOFTMAX
from .promotion import binary, cast, operands

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
    """The computing methods."""

    __slots__ = ()

    # ---- elementwise -------------------------------------------------------------------------------------------------

    def abs(self) -> Tensor:
        return apply(elementary.ABS, self)

    absolute = abs

    def exp(self) -> Tensor:
        return apply(elementary.EXP, self)

    def expm1(self) -> Tensor:
        return apply(elementary.EXPM1, self)

    def log(self) -> Tensor:
        return apply(elementary.LOG, self)

    def log2(self) -> Tensor:
        return apply(elementary.LOG2, self)

    def log10(self) -> Tensor:
        return apply(elementary.LOG10, self)

    def log1p(self) -> Tensor:
        return apply(elementary.LOG1P, self)

    def sqrt(self) -> Tensor:
        return apply(elementary.SQRT, self)

    def rsqrt(self) -> Tensor:
        return apply(elementary.RSQRT, self)

    def reciprocal(self) -> Tensor:
        return apply(elementary.RECIPROCAL, self)

    def square(self) -> Tensor:
        return apply(elementary.POW, self, 2)

    def sin(self) -> Tensor:
        return apply(elementary.SIN, self)

    def cos(self) -> Tensor:
        return apply(elementary.COS, self)

    def tan(self) -> Tensor:
        return apply(elementary.TAN, self)

    def atan(self) -> Tensor:
        return apply(elementary.ARCTAN, self)

    def erf(self) -> Tensor:
        return apply(elementary.ERF, self)

    def tanh(self) -> Tensor:
        return apply(TANH, self)

    def sigmoid(self) -> Tensor:
        return apply(SIGMOID, self)

    def relu(self) -> Tensor:
        return apply(RELU, self)

    def gelu(self, approximate: str = "none") -> Tensor:
        """``x * Phi(x)``; see ``nn.functional.gelu``."""
        return apply(GELU, self, approximate=approximate)

    def sign(self) -> Tensor:
        return apply(elementary.SIGN, self)

    def floor(self) -> Tensor:
        return apply(elementary.FLOOR, self)

    def ceil(self) -> Tensor:
        return apply(elementary.CEIL, self)

    def trunc(self) -> Tensor:
        return apply(elementary.TRUNC, self)

    def isnan(self) -> Tensor:
        return apply(elementary.ISNAN, self)

    def isinf(self) -> Tensor:
        return apply(elementary.ISINF, self)

    def isfinite(self) -> Tensor:
        return apply(elementary.ISFINITE, self)

    def logical_not(self) -> Tensor:
        return apply(elementary.LOGICAL_NOT, self)

    def logical_and(self, other: Any) -> Tensor:
        return apply(elementary.LOGICAL_AND, self, other)

    def logical_or(self, other: Any) -> Tensor:
        return apply(elementary.LOGICAL_OR, self, other)

    def logical_xor(self, other: Any) -> Tensor:
        return apply(elementary.LOGICAL_XOR, self, other)

    def maximum(self, other: Tensor) -> Tensor:
        """The larger of two, elementwise; equal ones share the gradient in halves."""
        return binary(elementary.MAXIMUM, self, other)

    def minimum(self, other: Tensor) -> Tensor:
        """The smaller of two, elementwise; equal ones share the gradient in halves."""
        return binary(elementary.MINIMUM, self, other)

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
        if self.array.dtype.kind != "f" and float in (type(min), type(max)):
            return cast(self, np.dtype(np.float32)).clamp(min, max)
        return apply(elementary.CLAMP, self, low=min, high=max)

    clip = clamp

    def clamp_min(self, min: Any) -> Tensor:
        return self.clamp(min=min)

    def clamp_max(self, max: Any) -> Tensor:
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

    # ---- reductions --------------------------------------------------------------------------------------------------

    @with_numpy_names
    def sum(self, dim: Dim = None, keepdim: bool = False, dtype: Any = None) -> Tensor:
        """Sum over ``dim`` (None: all). Integers sum in int64."""
        x = self if dtype is None else self.to(dtype)  # type: ignore[attr-defined]
        return apply(reduce.SUM, x, axis=axes_of("sum", dim, x.array.ndim), keepdims=keepdim)

    @with_numpy_names
    def mean(self, dim: Dim = None, keepdim: bool = False, dtype: Any = None) -> Tensor:
        """Mean over ``dim`` (None: all)."""
        x = self if dtype is None else self.to(dtype)  # type: ignore[attr-defined]
        return apply(reduce.MEAN, x, axis=axes_of("mean", dim, x.array.ndim), keepdims=keepdim)

    @with_numpy_names
    def prod(self, dim: int | None = None, keepdim: bool = False) -> Tensor:
        """Product over ``dim`` (None: all)."""
        return apply(reduce.PROD, self, axis=axes_of("prod", dim, self.array.ndim), keepdims=keepdim)

    @with_numpy_names
    def amax(self, dim: Dim = (), keepdim: bool = False) -> Tensor:
        """Largest over ``dim`` (all without one); equal ones share the gradient evenly."""
        return apply(reduce.AMAX, self, axis=axes_of("amax", dim, self.array.ndim), keepdims=keepdim)

    @with_numpy_names
    def amin(self, dim: Dim = (), keepdim: bool = False) -> Tensor:
        """Smallest over ``dim`` (all without one); equal ones share the gradient evenly."""
        return apply(reduce.AMIN, self, axis=axes_of("amin", dim, self.array.ndim), keepdims=keepdim)

    @with_numpy_names
    def max(self, dim: Any = None, keepdim: bool = False) -> Any:
        """Without ``dim`` the largest element; with it ``(values, indices)``; with a Tensor the elementwise maximum."""
        if dim is None:
            return self.amax()
        if isinstance(dim, Variable):
            return self.maximum(dim)  # type: ignore[arg-type]
        return ValuesIndices(*apply(reduce.MAX, self, axis=checked_dim("max", dim, self.array.ndim), keepdims=keepdim))

    @with_numpy_names
    def min(self, dim: Any = None, keepdim: bool = False) -> Any:
        """Without ``dim`` the smallest element; with it ``(values, indices)``; with a Tensor the elementwise minimum."""
        if dim is None:
            return self.amin()
        if isinstance(dim, Variable):
            return self.minimum(dim)  # type: ignore[arg-type]
        return ValuesIndices(*apply(reduce.MIN, self, axis=checked_dim("min", dim, self.array.ndim), keepdims=keepdim))

    @with_numpy_names
    def argmax(self, dim: int | None = None, keepdim: bool = False) -> Tensor:
        """Position of the (first) largest element along ``dim``; without it in the flattened tensor."""
        return apply(reduce.ARGMAX, self, axis=axes_of("argmax", dim, self.array.ndim), keepdims=keepdim)

    @with_numpy_names
    def argmin(self, dim: int | None = None, keepdim: bool = False) -> Tensor:
        """Position of the (first) smallest element along ``dim``; without it in the flattened tensor."""
        return apply(reduce.ARGMIN, self, axis=axes_of("argmin", dim, self.array.ndim), keepdims=keepdim)

    @with_numpy_names
    def any(self, dim: Dim = None, keepdim: bool = False) -> Tensor:
        return apply(reduce.ANY, self, axis=axes_of("any", dim, self.array.ndim), keepdims=keepdim)

    @with_numpy_names
    def all(self, dim: Dim = None, keepdim: bool = False) -> Tensor:
        return apply(reduce.ALL, self, axis=axes_of("all", dim, self.array.ndim), keepdims=keepdim)

    @with_numpy_names
    def cumsum(self, dim: int) -> Tensor:
        """Running sums along ``dim``."""
        return apply(reduce.CUMSUM, self, axis=checked_dim("cumsum", dim, self.array.ndim))

    @with_numpy_names
    def var(
        self, dim: Dim = None, unbiased: bool = True, keepdim: bool = False, *, correction: int | None = None
    ) -> Tensor:
        """Variance: squared distances from the mean, divided by the count less ``correction`` (1, biased: 0)."""
        axis = axes_of("var", dim, self.array.ndim)
        sizes = self.array.shape if axis is None else [self.array.shape[a] for a in np.atleast_1d(axis)]
        less = int(unbiased) if correction is None else correction
        count = max(math.prod(sizes) - less, 0)
        distance: Any = self - self.mean(dim, keepdim=True)  # type: ignore[operator]
        return distance.square().sum(dim, keepdim) / (count or math.nan if count else 0.0)

    @with_numpy_names
    def std(
        self, dim: Dim = None, unbiased: bool = True, keepdim: bool = False, *, correction: int | None = None
    ) -> Tensor:
        """Square root of :meth:`var`; the gradient is 0 where that is 0."""
        var: Any = self.var(dim, unbiased, keepdim, correction=correction)
        if not var.requires_grad or var.array.all():
            return var.sqrt()
        zero, one = var.array == 0, var.array.dtype.type(1)
        return apply(elementary.WHERE, zero, one * 0, apply(elementary.WHERE, zero, one, var).sqrt())

    @with_numpy_names
    def logsumexp(self, dim: Dim, keepdim: bool = False) -> Tensor:
        """``log(sum(exp(x)))`` over ``dim``, shifted by the maximum."""
        x: Any = self
        top = x.detach().amax(dim, keepdim=True)
        top = apply(elementary.WHERE, top.isfinite(), top, top.array.dtype.type(0))
        total = (x - top).exp().sum(dim, keepdim=True).log() + top
        if keepdim:
            return total
        axes = axes_of("logsumexp", dim, self.array.ndim)
        return total.squeeze(axes if axes is not None else tuple(range(self.array.ndim)))

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

    # ---- order -------------------------------------------------------------------------------------------------------

    @with_numpy_names
    def argsort(self, dim: int = -1, descending: bool = False, stable: bool = True) -> Tensor:
        """Positions that sort along ``dim``; equal elements keep their order."""
        return apply(reduce.ARGSORT, self, axis=checked_dim("argsort", dim, self.array.ndim), descending=descending)

    @with_numpy_names
    def sort(self, dim: int = -1, descending: bool = False, stable: bool = True) -> ValuesIndices:
        """``(values, indices)`` in order along ``dim``."""
        indices = self.argsort(dim, descending)
        axis = checked_dim("sort", dim, self.array.ndim)
        return ValuesIndices(apply(GATHER, self, axis=axis, index=indices.array), indices)

    @with_numpy_names
    def topk(self, k: int, dim: int = -1, largest: bool = True, sorted: bool = True) -> ValuesIndices:
        """The ``k`` largest (or smallest) along ``dim`` in order, ``(values, indices)``."""
        axis = checked_dim("topk", dim, self.array.ndim)
        if not 0 <= k <= (self.array.shape[axis] if self.array.ndim else 1):
            raise RangeError(f"topk: k={k} of {self.array.shape[axis]} elements along dimension {dim}")
        order = self.argsort(dim, descending=largest).array
        indices = order[(slice(None),) * axis + (slice(0, k),)]
        from_op = apply(GATHER, self, axis=axis, index=indices)
        return ValuesIndices(from_op, wrap(indices))

    # ---- products ----------------------------------------------------------------------------------------------------

    def matmul(self, other: Tensor) -> Tensor:
        """Matrix product with all of ``torch.matmul``'s cases: vectors, matrices, batches of matrices."""
        return binary(MATMUL, self, other)

    mm = bmm = mv = dot = matmul
