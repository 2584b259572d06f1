"""Tensor's methods that write into the tensor: for values outside of the graph.

A tensor that wants a gradient may be written under ``no_grad`` only, where optimizers and initialisers work.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from . import rng
from .backend import array_module, device_of, is_array
from .errors import DeviceError, DTypeError, GraphError, ShapeError
from .graph import Variable
from .mode import mode
from .ops.indexing import at, grid
from .tensor_shape import array_key

if TYPE_CHECKING:
    from .tensor import Tensor

Self = TypeVar("Self", bound="TensorInPlace")


def _raw(value: Any) -> Any:
    return value.array if isinstance(value, Variable) else value


class TensorInPlace(Variable):
    """The writing methods; each returns self."""

    __slots__ = ()

    def _writable(self, name: str, *others: Any) -> Any:
        """The array to write into. Raises GraphError if the graph would have to know."""
        if mode.enabled:
            if self.requires_grad:
                kind = "a leaf that wants a gradient" if self._node is None else "a tensor that an op made"
                raise GraphError(
                    f"{name} would change {kind} in place: do it under no_grad(), or on .data, or out of place"
                )
            if any(isinstance(other, Variable) and other.requires_grad for other in others):
                raise GraphError(f"{name} would write values that want a gradient into a tensor: do it out of place")
        return self.array

    def _change(self: Self, name: str, function: Any, other: Any) -> Self:
        array, value = self._writable(name, other), _raw(other)
        try:
            function(array, value, out=array)
        except np.exceptions.DTypePromotionError as error:
            raise DTypeError(f"{name}: {error}") from None
        except TypeError:
            raise DTypeError(
                f"{name}: a result of {getattr(value, 'dtype', type(value).__name__)} into {array.dtype}"
            ) from None
        except ValueError:
            raise ShapeError(
                f"{name}: shape {np.shape(value)} does not fit into {array.shape}, or it is read-only"
            ) from None
        return self

    def add_(self: Self, other: Any, *, alpha: Any = 1) -> Self:
        """``self += alpha * other``."""
        return self._change("add_", np.add, other if alpha == 1 else _scaled(other, alpha))

    def sub_(self: Self, other: Any, *, alpha: Any = 1) -> Self:
        """``self -= alpha * other``."""
        return self._change("sub_", np.subtract, other if alpha == 1 else _scaled(other, alpha))

    def mul_(self: Self, other: Any) -> Self:
        """``self *= other``."""
        return self._change("mul_", np.multiply, other)

    def div_(self: Self, other: Any) -> Self:
        """``self /= other``."""
        return self._change("div_", np.divide, other)

    def pow_(self: Self, other: Any) -> Self:
        """``self **= other``."""
        return self._change("pow_", np.power, other)

    def addcmul_(self: Self, tensor1: Tensor, tensor2: Tensor, *, value: float = 1) -> Self:
        """``self += value * tensor1 * tensor2``."""
        return self.add_(tensor1.detach() * tensor2.detach(), alpha=value)

    def addcdiv_(self: Self, tensor1: Tensor, tensor2: Tensor, *, value: float = 1) -> Self:
        """``self += value * tensor1 / tensor2``."""
        return self.add_(tensor1.detach() / tensor2.detach(), alpha=value)

    def lerp_(self: Self, end: Tensor, weight: float) -> Self:
        """``self += weight * (end - self)``."""
        return self.add_(end.detach() - self.detach(), alpha=weight)  # type: ignore[attr-defined]

    def neg_(self: Self) -> Self:
        """Turn every sign."""
        np.negative(self._writable("neg_"), out=self.array)
        return self

    def exp_(self: Self) -> Self:
        """Replace each element by its exponential."""
        np.exp(self._writable("exp_"), out=self.array)
        return self

    def sqrt_(self: Self) -> Self:
        """Replace each element by its square root."""
        np.sqrt(self._writable("sqrt_"), out=self.array)
        return self

    def relu_(self: Self) -> Self:
        """Set what is below 0 to 0."""
        np.maximum(self._writable("relu_"), 0, out=self.array)
        return self

    def clamp_(self: Self, min: Any = None, max: Any = None) -> Self:
        """Limit to [min, max]."""
        np.clip(self._writable("clamp_"), _raw(min), _raw(max), out=self.array)
        return self

    clip_ = clamp_

    def zero_(self: Self) -> Self:
        """Set every element to 0."""
        self._writable("zero_")[...] = 0
        return self

    def fill_(self: Self, value: Any) -> Self:
        """Set every element to ``value``."""
        self._writable("fill_", value)[...] = _raw(value)
        return self

    def copy_(self: Self, src: Any, non_blocking: bool = False) -> Self:
        """Take the values of ``src``, which may broadcast and be of another dtype."""
        array, value = self._writable("copy_", src), _raw(src)
        try:
            array[...] = array_module(array).asarray(value)
        except ValueError:
            raise ShapeError(f"copy_: shape {np.shape(value)} does not fit into {array.shape}") from None
        return self

    def masked_fill_(self: Self, mask: Any, value: Any) -> Self:
        """``value`` where ``mask`` is True."""
        array = self._writable("masked_fill_", value)
        np.copyto(array, _raw(value), where=_raw(mask))
        return self

    def scatter_(self: Self, dim: int, index: Tensor, src: Any) -> Self:
        """``self[index[i][j]][j] = src[i][j]`` for dim 0, and so on; ``src`` may be a number."""
        array, value = self._writable("scatter_", src), _raw(src)
        if hasattr(value, "shape") and value.shape:
            value = value[tuple(slice(0, size) for size in index.array.shape)]
        array[grid(index.array, dim)] = value
        return self

    def scatter_add_(self: Self, dim: int, index: Tensor, src: Tensor) -> Self:
        """``self[index[i][j]][j] += src[i][j]`` for dim 0, and so on, in order."""
        value = src.array[tuple(slice(0, size) for size in index.array.shape)]
        at(np.add, self._writable("scatter_add_", src), grid(index.array, dim), value)
        return self

    def index_add_(self: Self, dim: int, index: Tensor, source: Tensor) -> Self:
        """``self[index[i]] += source[i]`` along ``dim``, in order."""
        key = (slice(None),) * (dim % self.array.ndim) + (index.array,)
        at(np.add, self._writable("index_add_", source), key, source.array)
        return self

    def uniform_(self: Self, from_: float = 0.0, to: float = 1.0) -> Self:
        """Random numbers, uniform in [from_, to)."""
        draw = rng.uniform(self.array.shape, rng.next_key("user"), _draw_dtype(self.array))
        return self._fill_random("uniform_", draw * (to - from_) + from_)

    def normal_(self: Self, mean: float = 0.0, std: float = 1.0) -> Self:
        """Random numbers, normal of ``mean`` and standard deviation ``std``."""
        draw = rng.normal(self.array.shape, rng.next_key("user"), _draw_dtype(self.array))
        return self._fill_random("normal_", draw * std + mean)

    def bernoulli_(self: Self, p: float = 0.5) -> Self:
        """1 with probability ``p``, else 0."""
        return self._fill_random("bernoulli_", rng.uniform(self.array.shape, rng.next_key("user")) < p)

    def _fill_random(self: Self, name: str, values: Any) -> Self:
        array = self._writable(name)
        array[...] = array_module(array).asarray(values)
        return self

    def __setitem__(self, key: Any, value: Any) -> None:
        array, values = self._writable("assigning to an index", value), _raw(value)
        try:
            array[array_key(key)] = values
        except ValueError as error:
            if is_array(values) and device_of(values) != device_of(array):
                raise DeviceError(
                    f"assigning to an index: values on {device_of(values)} into a tensor on {device_of(array)}; move them by "
                    f'.to("{device_of(array)}")'
                ) from None
            raise ShapeError(f"assigning to an index of a tensor of shape {array.shape}: {error}") from None


def _scaled(other: Any, alpha: Any) -> Any:
    return _raw(other) * alpha


def _draw_dtype(array: Any) -> np.dtype:
    """Half precision draws in float32 and is rounded once."""
    return np.dtype(np.float64) if array.dtype == np.float64 else np.dtype(np.float32)
