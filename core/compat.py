"""Names that PyTorch scripts call and that have little to do here: old constructors, defaults, settings."""

from __future__ import annotations

from typing import Any

import numpy as np

from .backend import as_dtype
from .creation import empty, tensor
from .errors import RangeError
from .tensor import Tensor


def _of(dtype: str, given: tuple[Any, ...]) -> Tensor:
    """Data, or sizes of what is not set, as the old constructors take them."""
    if len(given) == 1 and not isinstance(given[0], int):
        return tensor(given[0], dtype=dtype)
    return empty(*given, dtype=dtype)


def FloatTensor(*data: Any) -> Tensor:
    """A float32 tensor of ``data``, or of sizes and not set: the old way to write ``tensor(data, dtype=float32)``.

    >>> phalanx.FloatTensor([1, 2])
    tensor([1., 2.])
    """
    return _of("float32", data)


def DoubleTensor(*data: Any) -> Tensor:
    """A float64 tensor of ``data``, or of sizes and not set.

    >>> phalanx.DoubleTensor([1, 2]).dtype
    dtype('float64')
    """
    return _of("float64", data)


def LongTensor(*data: Any) -> Tensor:
    """An int64 tensor of ``data``, or of sizes and not set.

    >>> phalanx.LongTensor([1, 2])
    tensor([1, 2])
    """
    return _of("int64", data)


def IntTensor(*data: Any) -> Tensor:
    """An int32 tensor of ``data``, or of sizes and not set.

    >>> phalanx.IntTensor([1, 2]).dtype
    dtype('int32')
    """
    return _of("int32", data)


def ByteTensor(*data: Any) -> Tensor:
    """An uint8 tensor of ``data``, or of sizes and not set.

    >>> phalanx.ByteTensor([1, 2]).dtype
    dtype('uint8')
    """
    return _of("uint8", data)


def BoolTensor(*data: Any) -> Tensor:
    """A boolean tensor of ``data``, or of sizes and not set.

    >>> phalanx.BoolTensor([1, 0])
    tensor([ True, False])
    """
    return _of("bool", data)


def Variable(data: Tensor, requires_grad: bool = False) -> Tensor:
    """The tensor itself: PyTorch's old wrapper around tensors that want gradients.

    >>> phalanx.autograd.Variable(phalanx.ones(2), requires_grad=True).requires_grad
    True
    """
    return data.requires_grad_() if requires_grad else data


def get_default_dtype() -> np.dtype:
    """The dtype of tensors made of Python floats: float32.

    >>> phalanx.get_default_dtype()
    dtype('float32')
    """
    return np.dtype(np.float32)


def set_default_dtype(d: Any) -> None:
    """Accepts float32, which it is anyway. Raises RangeError for others: use ``dtype=`` and ``model.double()``.

    >>> phalanx.set_default_dtype(phalanx.float32)
    """
    if as_dtype(d) != np.float32:
        raise RangeError(
            f"set_default_dtype: float32 is fixed, got {as_dtype(d)}; pass dtype=..., or use model.double()"
        )


def compile(model: Any = None, **options: Any) -> Any:
    """``model`` (or a function) as it is: there is no compiler, and ported scripts run without one.

    >>> phalanx.compile(nn.Identity())
    Identity()
    """
    return (lambda function: function) if model is None else model
