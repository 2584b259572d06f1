"""New tensors of random numbers, with the names and defaults of ``torch``.

They are keyed by (seed, step, shard, call), see ``rng``; with a ``generator`` by its seed and its own calls.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from . import rng
from .backend import device_of, to_device, to_host
from .creation import _array_of, _default, _finish, _shape
from .errors import RangeError
from .generator import Generator
from .live import live
from .tensor import Tensor


def _key(generator: Generator | None) -> rng.Key:
    """The key of the next draw."""
    return rng.next_key("user") if generator is None else generator.next_key()


@live
def rand(
    *sizes: Any,
    size: Any = None,
    generator: Generator | None = None,
    dtype: Any = None,
    device: Any = None,
    requires_grad: bool = False,
) -> Tensor:
    """Uniform in [0, 1).

    >>> x = phalanx.rand(1000)
    >>> bool(((x >= 0) & (x < 1)).all())
    True
    """
    return _finish(rng.uniform(_shape(sizes, size), _key(generator), _default(dtype)), dtype, device, requires_grad)


@live
def randn(
    *sizes: Any,
    size: Any = None,
    generator: Generator | None = None,
    dtype: Any = None,
    device: Any = None,
    requires_grad: bool = False,
) -> Tensor:
    """Standard normal.

    >>> phalanx.randn(2, 3).shape
    (2, 3)
    """
    return _finish(rng.normal(_shape(sizes, size), _key(generator), _default(dtype)), dtype, device, requires_grad)


@live
def randint(
    low: int,
    high: Any = None,
    size: Any = None,
    *,
    generator: Generator | None = None,
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
    values = rng.integers(_shape((size,)), low, high, _key(generator))
    return _finish(values, dtype, device, requires_grad)


@live
def randperm(n: int, *, generator: Generator | None = None, dtype: Any = None, device: Any = None) -> Tensor:
    """The integers 0 to n-1 in random order.

    >>> phalanx.randperm(4).sort().values
    tensor([0, 1, 2, 3])
    """
    draw = rng.random_bits(2 * n, _key(generator)).reshape(n, 2).astype(np.uint64)
    order = np.argsort((draw[:, 0] << np.uint64(32)) | draw[:, 1], kind="stable")
    return _finish(order, dtype, device, False)


@live
def rand_like(
    input: Any,
    *,
    generator: Generator | None = None,
    dtype: Any = None,
    device: Any = None,
    requires_grad: bool = False,
) -> Tensor:
    """Uniform in [0, 1), of the shape and dtype of ``input``.

    >>> phalanx.rand_like(phalanx.zeros(2, 3)).shape
    (2, 3)
    """
    array = _array_of(input)
    return rand(
        array.shape,
        generator=generator,
        dtype=dtype or array.dtype,
        device=device or device_of(array),
        requires_grad=requires_grad,
    )


@live
def randn_like(
    input: Any,
    *,
    generator: Generator | None = None,
    dtype: Any = None,
    device: Any = None,
    requires_grad: bool = False,
) -> Tensor:
    """Standard normal, of the shape and dtype of ``input``.

    >>> phalanx.randn_like(phalanx.zeros(2, 3)).shape
    (2, 3)
    """
    array = _array_of(input)
    return randn(
        array.shape,
        generator=generator,
        dtype=dtype or array.dtype,
        device=device or device_of(array),
        requires_grad=requires_grad,
    )


@live
def randint_like(
    input: Any,
    low: int,
    high: int | None = None,
    *,
    generator: Generator | None = None,
    dtype: Any = None,
    device: Any = None,
) -> Tensor:
    """Integers in [low, high), of the shape and dtype of ``input``.

    >>> phalanx.randint_like(phalanx.zeros(2, 3), 5).shape
    (2, 3)
    """
    array = _array_of(input)
    low, high = (0, low) if high is None else (low, high)
    device = device or device_of(array)
    return randint(low, high, array.shape, generator=generator, dtype=dtype or array.dtype, device=device)


@live
def normal(mean: Any = 0.0, std: Any = 1.0, size: Any = None, *, generator: Generator | None = None) -> Tensor:
    """Normal of ``mean`` and ``std``, which may be Tensors that give the shape.

    >>> phalanx.normal(phalanx.tensor([1.0, 2.0]), 0.0)
    tensor([1., 2.])
    """
    if size is None:
        size = np.broadcast_shapes(_array_of(mean).shape, _array_of(std).shape)
    given = mean if isinstance(mean, Tensor) else std
    return randn(tuple(size), generator=generator, device=device_of(_array_of(given))) * std + mean


@live
def bernoulli(input: Tensor, *, generator: Generator | None = None) -> Tensor:
    """1 with probability ``input``, else 0, element by element.

    >>> phalanx.bernoulli(phalanx.tensor([0.0, 1.0]))
    tensor([0., 1.])
    """
    draw = rng.uniform(input.shape, _key(generator), np.float64)
    drawn = (draw < to_host(input.array)).astype(input.dtype)
    return Tensor(to_device(drawn, device_of(input.array)))


@live
def multinomial(
    input: Tensor, num_samples: int, replacement: bool = False, *, generator: Generator | None = None
) -> Tensor:
    """Positions drawn with probabilities proportional to each row: (C,) -> (num_samples,), (N, C) -> (N, num_samples).

    Without replacement these are the largest of log p + Gumbel noise (Kool et al., 2019).

    >>> phalanx.multinomial(phalanx.tensor([0.0, 1.0, 0.0]), 2, replacement=True)
    tensor([1, 1])
    """
    weights = np.atleast_2d(to_host(input.array).astype(np.float64))
    if (weights < 0).any() or not np.isfinite(weights).all() or (weights.sum(1) <= 0).any():
        raise RangeError("multinomial expects rows of finite numbers, none negative and not all 0")
    if not replacement and (np.count_nonzero(weights, axis=1) < num_samples).any():
        raise RangeError(f"multinomial: {num_samples} samples without replacement from fewer positive weights")
    rows, classes = weights.shape
    if replacement:
        draw = rng.uniform((rows, num_samples), _key(generator), np.float64)
        edges = np.cumsum(weights, axis=1)
        pairs = zip(edges, draw, strict=True)
        picked = np.stack([np.searchsorted(edge, u * edge[-1], side="right") for edge, u in pairs])
        picked = np.minimum(picked, classes - 1)
    else:
        draw = rng.uniform((rows, classes), _key(generator), np.float64)
        with np.errstate(divide="ignore"):
            keys = np.log(weights) - np.log(-np.log(np.maximum(draw, 2.0**-60)))
        picked = np.argsort(-keys, axis=1, kind="stable")[:, :num_samples]
    drawn = (picked if input.ndim > 1 else picked[0]).astype(np.int64)
    return Tensor(to_device(drawn, device_of(input.array)))
