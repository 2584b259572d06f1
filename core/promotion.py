"""Which dtype two operands meet in: PyTorch's rules.

Kinds rank boolean < integer < floating. A Python number decides only if its kind ranks above the tensor's, then as
int64 or float32; a 0-d tensor beside one with dimensions likewise, then with its own dtype. Where integers meet floats
the floats' dtype wins.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from .backend import as_array, is_array
from .bfloat16 import is_floating, is_half
from .errors import DTypeError
from .graph import apply, inside, next_sequence, outside
from .mode import mode
from .node import Node, Variable, bindings, wrap
from .op import Op
from .ops.arithmetic import CAST
from .ops.lower import LOWER

_RANK = {"b": 0, "u": 1, "i": 1, "f": 2, "V": 2}
_NUMBER_RANK = {bool: 0, int: 1, float: 2}
_NUMBER_DTYPE = (np.dtype(np.bool_), np.dtype(np.int64), np.dtype(np.float32))
_FLOAT32 = np.dtype(np.float32)
_EXPLAINED = (ValueError, TypeError, IndexError, AttributeError)
"""What :func:`apply` puts in words."""
_ndarray = np.ndarray


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
    """``op`` of two operands of which at least one is a Tensor; NotImplemented for types that are no operands.

    Tensor's operators call it, and them the user: whose line it was is what lies two frames above.
    """
    # The shortest way of what most calls are: as graph.apply and its _record, without loops and calls.
    if not isinstance(a, Variable):
        return _promoted(op, a, b)
    x = a.array
    wanted = a.requires_grad
    other = False
    if isinstance(b, Variable):
        y = b.array
        other = b.requires_grad
        if x.dtype is not y.dtype:
            return _promoted(op, a, b)
    elif (b.__class__ is float or b.__class__ is int) and x.dtype is _FLOAT32:
        y = b
    else:
        return _promoted(op, a, b)
    if mode.autocast is not None:
        return _promoted(op, a, b)
    try:
        output, saved = op.forward(x, y)
    except _EXPLAINED:
        return _promoted(op, a, b)  # which fails alike, in words, or moves a number to the other's device
    if output.__class__ is not _ndarray:
        output = as_array(output)
    result = bindings.make(output)
    if not (wanted or other) or not mode.enabled or op.differentiable == ():
        return result
    result.requires_grad = True
    result._node = node = Node()
    node.op, node.saved, node.shape = op, saved, output.shape
    node.gradient = node.hooks = node.walk = None
    node.sequence = next_sequence()
    node.special = False
    first: Any = None
    second: Any = None
    if wanted:
        first = a._node
        if first is None:
            first = a
        elif first.op is LOWER:
            node.special = True
    if other:
        second = b._node
        if second is None:
            second = b
        elif second.op is LOWER:
            node.special = True
    node.edges = (first, second)
    node.needs = (wanted, other)
    frame = sys._getframe(2)
    code = frame.f_code
    if inside.get(code.co_filename, True):
        frame = outside(frame)
        code = frame.f_code
    node.code = code
    node.instruction = frame.f_lasti
    return result


def _promoted(op: Op, a: Any, b: Any) -> Any:
    """The same for all operands."""
    pair = operands(a, b)
    return NotImplemented if pair is None else apply(op, *pair)
