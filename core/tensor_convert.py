"""Tensor's conversions between dtypes and devices, and arrays from whatever users have."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from .backend import Array, Device, as_dtype, device_of, is_array, to_device
from .errors import ShapeError
from .graph import Variable, apply, wrap
from .ops import arithmetic as elementary
from .promotion import cast

if TYPE_CHECKING:
    from .tensor import Tensor


class TensorConvert(Variable):
    """The converting methods."""

    __slots__ = ()

    def to(self, *args: Any, **kwargs: Any) -> Tensor:
        """``to(dtype)``, ``to(device)``, ``to(device, dtype)``, ``to(other)``; itself if nothing changes. Differentiable."""
        device, dtype = kwargs.pop("device", None), kwargs.pop("dtype", None)
        copy = kwargs.pop("copy", False)
        kwargs.pop("non_blocking", None)
        if kwargs:
            raise TypeError(f"to() does not know {', '.join(kwargs)}; it takes device, dtype and copy")
        for arg in args:
            if isinstance(arg, Variable):
                device, dtype = device_of(arg.array), arg.array.dtype
            elif (isinstance(arg, Device | int) and not isinstance(arg, bool)) or (
                isinstance(arg, str) and arg.partition(":")[0] in ("cpu", "cuda")
            ):
                device = arg
            elif arg is not None and not isinstance(arg, bool):
                dtype = arg
        result: Any = self
        if device is not None and Device(device) != device_of(self.array):
            result = apply(elementary.TO_DEVICE, result, device=Device(device))
        if dtype is not None:
            result = cast(result, as_dtype(dtype))
        return apply(elementary.CLONE, result) if copy and result is self else result

    def type(self, dtype: Any = None) -> Any:
        """The dtype's name, or the tensor in another dtype."""
        return str(self.array.dtype) if dtype is None else self.to(dtype)

    def type_as(self, other: Tensor) -> Tensor:
        """In the dtype of ``other``."""
        return cast(self, other.array.dtype)

    def cpu(self) -> Tensor:
        """In host memory."""
        return self.to("cpu")

    def cuda(self, device: int | None = None) -> Tensor:
        """On the GPU."""
        return self.to(Device("cuda", device))

    def float(self) -> Tensor:
        """In float32."""
        return self.to("float32")

    def double(self) -> Tensor:
        """In float64."""
        return self.to("float64")

    def half(self) -> Tensor:
        """In float16."""
        return self.to("float16")

    def bfloat16(self) -> Tensor:
        """In bfloat16. Raises DTypeError where the package ml_dtypes is missing."""
        return self.to("bfloat16")

    def long(self) -> Tensor:
        """In int64."""
        return self.to("int64")

    def int(self) -> Tensor:
        """In int32."""
        return self.to("int32")

    def bool(self) -> Tensor:
        """In bool: whether each element is not 0."""
        return self.to("bool")

    def short(self) -> Tensor:
        """In int16."""
        return self.to("int16")

    def byte(self) -> Tensor:
        """In uint8."""
        return self.to("uint8")

    def char(self) -> Tensor:
        """In int8."""
        return self.to("int8")

    def new_tensor(self, data: Any, *, dtype: Any = None, device: Any = None, requires_grad: Any = False) -> Tensor:
        """``data`` as a tensor of this one's dtype and device, unless said otherwise."""
        kind = self.array.dtype if dtype is None else as_dtype(dtype)
        return self._made(np.array(array_from(data, kind)), None, device, requires_grad)

    def _made(self, array: Any, dtype: Any, device: Any, requires_grad: Any) -> Tensor:
        """A new tensor in another dtype and elsewhere if asked for."""
        array = array if dtype is None else array.astype(as_dtype(dtype), copy=False)
        tensor = wrap(to_device(array, device_of(self.array) if device is None else device))
        return tensor.requires_grad_() if requires_grad else tensor

    def new_zeros(self, *size: Any, dtype: Any = None, device: Any = None, requires_grad: Any = False) -> Tensor:
        """All 0, of this dtype and device unless said otherwise."""
        return self._made(np.zeros_like(self.array, shape=_size(size), order="C"), dtype, device, requires_grad)

    def new_ones(self, *size: Any, dtype: Any = None, device: Any = None, requires_grad: Any = False) -> Tensor:
        """All 1, of this dtype and device unless said otherwise."""
        return self._made(np.ones_like(self.array, shape=_size(size), order="C"), dtype, device, requires_grad)

    def new_full(
        self, size: Any, fill_value: Any, *, dtype: Any = None, device: Any = None, requires_grad: Any = False
    ) -> Tensor:
        """All ``fill_value``, of this dtype and device unless said otherwise."""
        kind = self.array.dtype if dtype is None else as_dtype(dtype)
        array = np.full_like(self.array, fill_value, dtype=kind, shape=_size((size,)), order="C")
        return self._made(array, None, device, requires_grad)

    def new_empty(self, *size: Any, dtype: Any = None, device: Any = None, requires_grad: Any = False) -> Tensor:
        """Values not set, of this dtype and device unless said otherwise."""
        return self._made(np.empty_like(self.array, shape=_size(size), order="C"), dtype, device, requires_grad)


def _size(given: tuple[Any, ...]) -> tuple[int, ...]:
    return tuple(given[0]) if len(given) == 1 and not hasattr(given[0], "__index__") else given


def _plain(data: Any) -> Any:
    """Nested lists with the Tensors in them replaced by their arrays."""
    if isinstance(data, list | tuple):
        return [_plain(item) for item in data]
    return data.array if isinstance(data, Variable) else data


def _first_leaf(data: Any) -> Any:
    while isinstance(data, list | tuple) and data:
        data = data[0]
    return data


def array_from(data: Any, dtype: Any = None) -> Array:
    """An array of numbers, (nested) lists, arrays or Tensors: Python floats as float32, what has a dtype keeps it."""
    data = _plain(data)
    if is_array(data):
        array = data
    else:
        try:
            array = np.asarray(data)
        except ValueError as error:
            raise ShapeError(f"tensor: the lists are not all of one length: {error}") from None
        if dtype is None and array.dtype == np.float64 and not hasattr(_first_leaf(data), "dtype"):
            array = array.astype(np.float32)
    if dtype is not None:
        return array.astype(as_dtype(dtype), copy=False)
    as_dtype(array.dtype)
    return array


def floats_from(data: Any, sizes: tuple[int, ...]) -> Array:
    """What ``Tensor(...)`` takes without a dtype: integers are sizes, lists become float32, others as :func:`array_from`."""
    if sizes or data.__class__ is int:
        if not all(type(size) is int and size >= 0 for size in (data, *sizes)):
            raise ShapeError(f"Tensor(sizes) expects integers of at least 0, got {(data, *sizes)}")
        return np.zeros((data, *sizes), np.float32)
    array = array_from(data)
    return array.astype(np.float32) if isinstance(data, list | tuple) and array.dtype.kind in "iub" else array
