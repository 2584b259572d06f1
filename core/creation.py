"""New tensors: from data, constants, ranges, random numbers. Names and defaults are those of ``torch``.

Random numbers are keyed by (seed, step, shard, call); see ``rng``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from . import rng
from .backend import as_dtype, is_array, to_device
from .errors import RangeError, ShapeError
from .graph import Variable
from .tensor import Tensor, array_from

_FLOAT32 = np.dtype(np.float32)


def _finish(array: Any, dtype: Any, device: Any, requires_grad: bool) -> Tensor:
    array = array if dtype is None else array.astype(as_dtype(dtype), copy=False)
    return Tensor(to_device(array, device), requires_grad=requires_grad)


def _shape(size: tuple[Any, ...]) -> tuple[int, ...]:
    """Sizes given one by one or as one sequence."""
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


def zeros(*size: Any, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """All 0, float32 without a dtype.

    >>> phalanx.zeros(2, 3).tolist()
    [[0.0, 0.0, 0.0], [0.0, 0.0, 0.0]]
    """
    return _finish(np.zeros(_shape(size), _default(dtype)), None, device, requires_grad)


def ones(*size: Any, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """All 1, float32 without a dtype.

    >>> phalanx.ones(3)
    tensor([1., 1., 1.])
    """
    return _finish(np.ones(_shape(size), _default(dtype)), None, device, requires_grad)


def empty(*size: Any, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """Values not set, float32 without a dtype.

    >>> phalanx.empty(2, 3).shape
    (2, 3)
    """
    return _finish(np.empty(_shape(size), _default(dtype)), None, device, requires_grad)


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
    array = np.zeros_like(_array_of(input), dtype=None if dtype is None else as_dtype(dtype), order="C")
    return _finish(array, None, device, requires_grad)


def ones_like(input: Any, *, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """All 1, of the shape and dtype of ``input``.

    >>> phalanx.ones_like(phalanx.tensor([1.0, 2.0]))
    tensor([1., 1.])
    """
    array = np.ones_like(_array_of(input), dtype=None if dtype is None else as_dtype(dtype), order="C")
    return _finish(array, None, device, requires_grad)


def full_like(
    input: Any, fill_value: Any, *, dtype: Any = None, device: Any = None, requires_grad: bool = False
) -> Tensor:
    """All ``fill_value``, of the shape and dtype of ``input``.

    >>> phalanx.full_like(phalanx.tensor([1, 2]), 7)
    tensor([7, 7])
    """
    dtype = None if dtype is None else as_dtype(dtype)
    return _finish(np.full_like(_array_of(input), fill_value, dtype=dtype, order="C"), None, device, requires_grad)


def empty_like(input: Any, *, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """Values not set, of the shape and dtype of ``input``.

    >>> phalanx.empty_like(phalanx.zeros(2, 3)).shape
    (2, 3)
    """
    array = np.empty_like(_array_of(input), dtype=None if dtype is None else as_dtype(dtype), order="C")
    return _finish(array, None, device, requires_grad)


# ---- random numbers --------------------------------------------------------------------------------------------------


def rand(*size: Any, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """Uniform in [0, 1).

    >>> x = phalanx.rand(1000)
    >>> bool(((x >= 0) & (x < 1)).all())
    True
    """
    return _finish(rng.uniform(_shape(size), rng.next_key("user"), _default(dtype)), dtype, device, requires_grad)


def randn(*size: Any, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """Standard normal.

    >>> phalanx.randn(2, 3).shape
    (2, 3)
    """
    return _finish(rng.normal(_shape(size), rng.next_key("user"), _default(dtype)), dtype, device, requires_grad)


def randint(
    low: int,
    high: Any = None,
    size: Any = None,
    *,
    dtype: Any = None,
    device: Any = None,
    requires_grad: bool = False,
) -> Tensor:
    """Integers in [low, high): ``randint(high, size)`` or ``randint(low, high, size)``; int64 without a dtype.

    >>> x = phalanx.randint(3, 6, (1000,))
    >>> x.unique()
    tensor([3, 4, 5])
    """
    if size is None:
        low, high, size = 0, low, high
    if high <= low:
        raise RangeError(f"randint expects low < high, got low={low} and high={high}")
    values = rng.integers(_shape((size,)), low, high, rng.next_key("user"))
    return _finish(values, dtype, device, requires_grad)


def randperm(n: int, *, dtype: Any = None, device: Any = None) -> Tensor:
    """The integers 0 to n-1 in random order.

    >>> phalanx.randperm(4).sort().values
    tensor([0, 1, 2, 3])
    """
    draw = rng.random_bits(2 * n, rng.next_key("user")).reshape(n, 2).astype(np.uint64)
    order = np.argsort((draw[:, 0] << np.uint64(32)) | draw[:, 1], kind="stable")
    return _finish(order, dtype, device, False)


def rand_like(input: Any, *, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """Uniform in [0, 1), of the shape and dtype of ``input``.

    >>> phalanx.rand_like(phalanx.zeros(2, 3)).shape
    (2, 3)
    """
    array = _array_of(input)
    return rand(array.shape, dtype=dtype or array.dtype, device=device, requires_grad=requires_grad)


def randn_like(input: Any, *, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """Standard normal, of the shape and dtype of ``input``.

    >>> phalanx.randn_like(phalanx.zeros(2, 3)).shape
    (2, 3)
    """
    array = _array_of(input)
    return randn(array.shape, dtype=dtype or array.dtype, device=device, requires_grad=requires_grad)


def randint_like(input: Any, low: int, high: int | None = None, *, dtype: Any = None, device: Any = None) -> Tensor:
    """Integers in [low, high), of the shape and dtype of ``input``.

    >>> phalanx.randint_like(phalanx.zeros(2, 3), 5).shape
    (2, 3)
    """
    array = _array_of(input)
    low, high = (0, low) if high is None else (low, high)
    return randint(low, high, array.shape, dtype=dtype or array.dtype, device=device)


def normal(mean: Any = 0.0, std: Any = 1.0, size: Any = None) -> Tensor:
    """Normal of ``mean`` and ``std``, which may be Tensors that give the shape.

    >>> phalanx.normal(phalanx.tensor([1.0, 2.0]), 0.0)
    tensor([1., 2.])
    """
    if size is None:
        size = np.broadcast_shapes(_array_of(mean).shape, _array_of(std).shape)
    return randn(tuple(size)) * std + mean


def bernoulli(input: Tensor) -> Tensor:
    """1 with probability ``input``, else 0, element by element.

    >>> phalanx.bernoulli(phalanx.tensor([0.0, 1.0]))
    tensor([0., 1.])
    """
    draw = rng.uniform(input.shape, rng.next_key("user"), np.float64)
    return Tensor((draw < np.asarray(input.array)).astype(input.dtype))


def multinomial(input: Tensor, num_samples: int, replacement: bool = False) -> Tensor:
    """Positions drawn with probabilities proportional to each row: (C,) -> (num_samples,), (N, C) -> (N, num_samples).

    Without replacement these are the largest of log p + Gumbel noise (Kool et al., 2019).

    >>> phalanx.multinomial(phalanx.tensor([0.0, 1.0, 0.0]), 2, replacement=True)
    tensor([1, 1])
    """
    weights = np.atleast_2d(np.asarray(input.array, np.float64))
    if (weights < 0).any() or not np.isfinite(weights).all() or (weights.sum(1) <= 0).any():
        raise RangeError("multinomial expects rows of finite numbers, none negative and not all 0")
    if not replacement and (np.count_nonzero(weights, axis=1) < num_samples).any():
        raise RangeError(f"multinomial: {num_samples} samples without replacement from fewer positive weights")
    rows, classes = weights.shape
    if replacement:
        draw = rng.uniform((rows, num_samples), rng.next_key("user"), np.float64)
        edges = np.cumsum(weights, axis=1)
        pairs = zip(edges, draw, strict=True)
        picked = np.stack([np.searchsorted(edge, u * edge[-1], side="right") for edge, u in pairs])
        picked = np.minimum(picked, classes - 1)
    else:
        draw = rng.uniform((rows, classes), rng.next_key("user"), np.float64)
        with np.errstate(divide="ignore"):
            keys = np.log(weights) - np.log(-np.log(np.maximum(draw, 2.0**-60)))
        picked = np.argsort(-keys, axis=1, kind="stable")[:, :num_samples]
    return Tensor((picked if input.ndim > 1 else picked[0]).astype(np.int64))
