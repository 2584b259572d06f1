"""Tensor's methods that reduce and order: one line each onto an op, or composed."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from .errors import RangeError
from .graph import Variable, apply
from .ops import arithmetic as elementary
from .ops import reduce
from .ops.indexing import GATHER
from .tensor_math import Dim, ValuesIndices, axes_of, checked_dim, with_numpy_names

if TYPE_CHECKING:
    from .tensor import Tensor


class TensorReduce(Variable):
    """The methods that reduce and order."""

    __slots__ = ()

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
    def prod(self, dim: int | None = None, keepdim: bool = False, dtype: Any = None) -> Tensor:
        """Product over ``dim`` (None: all)."""
        x = self if dtype is None else self.to(dtype)  # type: ignore[attr-defined]
        return apply(reduce.PROD, x, axis=axes_of("prod", dim, x.array.ndim), keepdims=keepdim)

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
            return self.maximum(dim)  # type: ignore[attr-defined]
        return ValuesIndices(*apply(reduce.MAX, self, axis=checked_dim("max", dim, self.array.ndim), keepdims=keepdim))

    @with_numpy_names
    def min(self, dim: Any = None, keepdim: bool = False) -> Any:
        """Without ``dim`` the smallest element; with it ``(values, indices)``; with a Tensor the elementwise minimum."""
        if dim is None:
            return self.amin()
        if isinstance(dim, Variable):
            return self.minimum(dim)  # type: ignore[attr-defined]
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
        """Whether an element over ``dim`` (None: all) is not 0."""
        return apply(reduce.ANY, self, axis=axes_of("any", dim, self.array.ndim), keepdims=keepdim)

    @with_numpy_names
    def all(self, dim: Dim = None, keepdim: bool = False) -> Tensor:
        """Whether no element over ``dim`` (None: all) is 0."""
        return apply(reduce.ALL, self, axis=axes_of("all", dim, self.array.ndim), keepdims=keepdim)

    @with_numpy_names
    def cumsum(self, dim: int, dtype: Any = None) -> Tensor:
        """Running sums along ``dim``."""
        x = self if dtype is None else self.to(dtype)  # type: ignore[attr-defined]
        return apply(reduce.CUMSUM, x, axis=checked_dim("cumsum", dim, x.array.ndim))

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
        order: Any = self.argsort(dim, descending=largest)
        places = order[(slice(None),) * axis + (slice(0, k),)]
        return ValuesIndices(apply(GATHER, self, axis=axis, index=places.array), places)
