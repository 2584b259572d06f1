"""Which dtype two operands meet in: PyTorch's rules.

Kinds rank boolean < integer < floating. A Python number decides only if its kind ranks above the tensor's, then as
int64 or float32; a 0-d tensor beside one with dimensions likewise, then with its own dtype. Where integers meet floats
the floats' dtype wins.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .backend import as_array, is_array
from .bfloat16 import is_floating, is_half
from .errors import DTypeError
from .graph import Variable, apply, wrap
from .op import Op
from .ops.arithmetic import CAST

_RANK = {"b": 0, "u": 1, "i": 1, "f": 2, "V": 2}
_NUMBER_RANK = {bool: 0, int: 1, float: 2}
_NUMBER_DTYPE = (np.dtype(np.bool_), np.dtype(np.int64), np.dtype(np.float32))
_FLOAT32 = np.dtype(np.float32)


def _widest(a: np.dtype, b: np.dtype) -> np.dtype:
    """Two dtypes of one kind; the two halves meet in float32."""
    return _FLOAT32 if is_half(a) and is_half(b) else np.result_type(a, b)


def result_type(a: Any, b: Any) -> np.dtype:
    """The dtype that arrays ``a`` and ``b`` meet in.

    >>> result_type(np.zeros(2, np.int64), np.zeros(2, np.float32))
    dtype('float32')
    """
    if a.dtype == b.dtype:
        return a.dtype
    rank_a, rank_b = _RANK.get(a.dtype.kind), _RANK.get(b.dtype.kind)
    if rank_a is None or rank_b is None:
        raise DTypeError(f"expected boolean, integer or floating dtypes, got {a.dtype} and {b.dtype}")
    if rank_a != rank_b:
        higher, lower = (a, b) if rank_a > rank_b else (b, a)
        return higher.dtype if max(rank_a, rank_b) == 2 or not lower.ndim else _widest(a.dtype, b.dtype)
    if bool(a.ndim) != bool(b.ndim):
        return a.dtype if a.ndim else b.dtype
    return _widest(a.dtype, b.dtype)


def cast(tensor: Any, dtype: np.dtype) -> Any:
    """``tensor`` in ``dtype``; itself if it is that already. Gradients pass from one floating dtype to another."""
    if tensor.array.dtype == dtype:
        return tensor
    return apply(CAST, tensor if is_floating(dtype) else tensor.array, dtype=dtype)


def _operand(value: Any) -> Any:
    """A Tensor or Python number for ``value``; None for what is neither."""
    if isinstance(value, Variable) or type(value) in _NUMBER_RANK:
        return value
    if isinstance(value, np.generic):
        return value.item()
    if is_array(value):
        return wrap(as_array(value))
    return None


def operands(a: Any, b: Any, division: bool = False) -> tuple[Any, Any] | None:
    """``a`` and ``b`` as they go into an op: Tensors of one dtype, or a Tensor and a Python number. None: unknown types."""
    a, b = _operand(a), _operand(b)
    if a is None or b is None:
        return None
    if isinstance(a, Variable) and isinstance(b, Variable):
        dtype = result_type(a.array, b.array)
        if division and not is_floating(dtype):
            dtype = _FLOAT32
        return cast(a, dtype), cast(b, dtype)
    tensor, number = (a, b) if isinstance(a, Variable) else (b, a)
    rank = _NUMBER_RANK[type(number)]
    dtype = tensor.array.dtype
    if rank > _RANK[dtype.kind]:
        dtype = _NUMBER_DTYPE[rank]
    if division and not is_floating(dtype):
        dtype = _FLOAT32
    if tensor is a:
        return cast(a, dtype), number
    return number, cast(b, dtype)


def binary(op: Op, a: Any, b: Any) -> Any:
    """``op`` of two operands of which at least one is a Tensor; NotImplemented for types that are no operands."""
    if b.__class__ is float:
        if a.array.dtype is _FLOAT32:
            return apply(op, a, b)
    elif isinstance(b, Variable) and isinstance(a, Variable) and a.array.dtype is b.array.dtype:
        return apply(op, a, b)
    pair = operands(a, b)
    return NotImplemented if pair is None else apply(op, *pair)
