"""New tensors: from data, constants and ranges. Names and defaults are those of ``torch``.

Random ones are in ``creation_random``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from .backend import as_dtype, is_array, to_device
from .errors import RangeError, ShapeError
from .graph import Variable
from .tensor import Tensor, array_from

_FLOAT32 = np.dtype(np.float32)


def _finish(array: Any, dtype: Any, device: Any, requires_grad: bool) -> Tensor:
    array = array if dtype is None else array.astype(as_dtype(dtype), copy=False)
    return Tensor(to_device(array, device), requires_grad=requires_grad)


def _shape(size: tuple[Any, ...], named: Any = None) -> tuple[int, ...]:
    """Sizes given one by one, as one sequence, or by the name ``size``."""
    if named is not None:
        if size:
            raise ShapeError(f"sizes {size} and size={named!r}: give one of them")
        size = (named,)
    if len(size) == 1 and not hasattr(size[0], "__index__"):
        size = tuple(size[0])
    shape = tuple(int(n) for n in size)
    if min(shape, default=0) < 0:
        raise ShapeError(f"a shape has no negative sizes, got {shape}")
    return shape


def _default(dtype: Any) -> np.dtype:
    return _FLOAT32 if dtype is None else as_dtype(dtype)


# ---- from data -------------------------------------------------------------------------------------------------------


def tensor(data: Any, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """A new leaf with a copy of ``data``: numbers, (nested) lists, arrays, Tensors.

    Python floats become float32, Python integers int64; what has a dtype keeps it.

    >>> phalanx.tensor([[1, 2], [3, 4]]).shape
    (2, 2)
    """
    array = array_from(data, dtype)
    shared = data.array if isinstance(data, Variable) else data
    return _finish(array.copy() if is_array(shared) else array, None, device, requires_grad)


def as_tensor(data: Any, dtype: Any = None, device: Any = None) -> Tensor:
    """``data`` as a Tensor, sharing memory where possible.

    >>> phalanx.as_tensor([1.0, 2.0])
    tensor([1., 2.])
    """
    if isinstance(data, Tensor):
        return data.to(device=device, dtype=dtype)
    return _finish(array_from(data), dtype, device, False)


asarray = as_tensor


def from_numpy(array: np.ndarray) -> Tensor:
    """A Tensor on the memory of a NumPy array.

    >>> phalanx.from_numpy(np.array([1.0, 2.0]))
    tensor([1., 2.], dtype=float64)
    """
    if not isinstance(array, np.ndarray):
        raise TypeError(f"from_numpy expects a NumPy array, got {type(array).__name__}")
    as_dtype(array.dtype)
    return Tensor(array)


# ---- constants and ranges --------------------------------------------------------------------------------------------


def zeros(*sizes: Any, size: Any = None, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """All 0, float32 without a dtype.

    >>> phalanx.zeros(2, 3).tolist()
    [[0.0, 0.0, 0.0], [0.0, 0.0, 0.0]]
    """
    return _finish(np.zeros(_shape(sizes, size), _default(dtype)), None, device, requires_grad)


def ones(*sizes: Any, size: Any = None, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """All 1, float32 without a dtype.

    >>> phalanx.ones(3)
    tensor([1., 1., 1.])
    """
    return _finish(np.ones(_shape(sizes, size), _default(dtype)), None, device, requires_grad)


def empty(*sizes: Any, size: Any = None, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """Values not set, float32 without a dtype.

    >>> phalanx.empty(2, 3).shape
    (2, 3)
    """
    return _finish(np.empty(_shape(sizes, size), _default(dtype)), None, device, requires_grad)


def full(
    size: Sequence[int], fill_value: Any, *, dtype: Any = None, device: Any = None, requires_grad: bool = False
) -> Tensor:
    """All ``fill_value``, of its kind without a dtype.

    >>> phalanx.full((2,), 7.0)
    tensor([7., 7.])
    """
    value = array_from(fill_value.item() if isinstance(fill_value, Variable) else fill_value)  # type: ignore[attr-defined]
    return _finish(np.full(_shape((size,)), value), dtype, device, requires_grad)


def eye(n: int, m: int | None = None, *, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """The identity matrix (n, m).

    >>> phalanx.eye(2).tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """
    return _finish(np.eye(n, m, dtype=_default(dtype)), None, device, requires_grad)


def arange(
    start: Any, end: Any = None, step: Any = 1, *, dtype: Any = None, device: Any = None, requires_grad: bool = False
) -> Tensor:
    """``start, start + step, ...`` below ``end``: int64 if all three are integers, else float32.

    >>> phalanx.arange(3).tolist(), phalanx.arange(0, 1, 0.5).tolist()
    ([0, 1, 2], [0.0, 0.5])
    """
    start, end = (0, start) if end is None else (start, end)
    start, end, step = (v.item() if isinstance(v, Tensor) else v for v in (start, end, step))
    if step == 0:
        raise RangeError("arange: a step other than 0 expected")
    if dtype is None:
        dtype = _FLOAT32 if any(isinstance(v, float | np.floating) for v in (start, end, step)) else np.dtype(np.int64)
    count = max(math.ceil((end - start) / step), 0)
    values = np.arange(count) * step + start
    return _finish(values, dtype, device, requires_grad)


def linspace(
    start: float, end: float, steps: int, *, dtype: Any = None, device: Any = None, requires_grad: bool = False
) -> Tensor:
    """``steps`` values from ``start`` to ``end``, both included, evenly spaced.

    >>> phalanx.linspace(0, 1, 5)
    tensor([0.  , 0.25, 0.5 , 0.75, 1.  ])
    """
    return _finish(np.linspace(start, end, steps), _default(dtype), device, requires_grad)


def _array_of(input: Any) -> Any:
    return input.array if isinstance(input, Variable) else np.asarray(input)


def logspace(
    start: float,
    end: float,
    steps: int,
    base: float = 10.0,
    *,
    dtype: Any = None,
    device: Any = None,
    requires_grad: bool = False,
) -> Tensor:
    """``steps`` values from ``base ** start`` to ``base ** end``, both included, at equal ratios.

    >>> phalanx.logspace(0, 2, 3)
    tensor([  1.,  10., 100.])
    """
    values = np.power(np.float64(base), np.linspace(start, end, steps))
    return _finish(values, _default(dtype), device, requires_grad)


def scalar_tensor(s: Any, *, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """A 0-d tensor, float32 without a dtype.

    >>> phalanx.scalar_tensor(2)
    tensor(2.)
    """
    return _finish(np.asarray(s), _default(dtype), device, requires_grad)


def zeros_like(input: Any, *, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """All 0, of the shape and dtype of ``input``.

    >>> phalanx.zeros_like(phalanx.tensor([1, 2]))
    tensor([0, 0])
    """
    array = np.zeros_like(_array_of(input), dtype=None if dtype is None else as_dtype(dtype), order="K")
    return _finish(array, None, device, requires_grad)


def ones_like(input: Any, *, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """All 1, of the shape and dtype of ``input``.

    >>> phalanx.ones_like(phalanx.tensor([1.0, 2.0]))
    tensor([1., 1.])
    """
    array = np.ones_like(_array_of(input), dtype=None if dtype is None else as_dtype(dtype), order="K")
    return _finish(array, None, device, requires_grad)


def full_like(
    input: Any, fill_value: Any, *, dtype: Any = None, device: Any = None, requires_grad: bool = False
) -> Tensor:
    """All ``fill_value``, of the shape and dtype of ``input``.

    >>> phalanx.full_like(phalanx.tensor([1, 2]), 7)
    tensor([7, 7])
    """
    dtype = None if dtype is None else as_dtype(dtype)
    return _finish(np.full_like(_array_of(input), fill_value, dtype=dtype, order="K"), None, device, requires_grad)


def empty_like(input: Any, *, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """Values not set, of the shape and dtype of ``input``.

    >>> phalanx.empty_like(phalanx.zeros(2, 3)).shape
    (2, 3)
    """
    array = np.empty_like(_array_of(input), dtype=None if dtype is None else as_dtype(dtype), order="K")
    return _finish(array, None, device, requires_grad)
