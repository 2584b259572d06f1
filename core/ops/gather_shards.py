"""The rows of all shards on each of them, with the gradient that comes back from all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..backend import array_module, to_host
from ..errors import ShapeError
from ..op import Array, define


def _concatenate(left: tuple[Array, ...], right: tuple[Array, ...]) -> tuple[Array, ...]:
    return tuple(np.concatenate([a, b]) for a, b in zip(left, right, strict=True))


def _add(left: tuple[Array, ...], right: tuple[Array, ...]) -> tuple[Array, ...]:
    return (left[0] + right[0],)


def _forward(
    x: Array,
    *,
    meet: Callable[[str, Any, Any], Any] | None = None,
    shard: int = 0,
    weight_of_pass: Callable[[], float] = lambda: 1.0,
) -> tuple[Array, Any]:
    if x.ndim == 0:
        raise ShapeError("gather_over_shards: expected a dimension 0 of samples, got shape ()")
    own = len(x)
    if meet is None:
        return x.copy(), (meet, (0, own), x, weight_of_pass)
    leaf = (to_host(x), np.array([[shard, own]], np.int64)) if own else None
    merged = meet("forward", leaf, _concatenate)
    rows, table = merged if merged is not None else (to_host(x), np.zeros((0, 2), np.int64))
    first = int(table[table[:, 0] < shard, 1].sum())
    return array_module(x).array(rows), (meet, (first, first + own), x, weight_of_pass)


def _vjp(saved: Any, gradient: Array, needs: Any, slots: Any) -> tuple[Array | None, ...]:
    """The sum over shards of what each wants of these rows, in the shares of their losses' weights."""
    meet, (lo, hi), x, weight_of_pass = saved
    if meet is None:
        return (gradient.copy(),)
    share = weight_of_pass()
    host = to_host(gradient)
    leaf = (host if share == 1.0 else host * host.dtype.type(share),) if share else None
    merged = meet("backward", leaf, _add)
    if merged is None:
        return (array_module(x).zeros_like(x),)
    rows = merged[0][lo:hi]
    return (array_module(x).array(rows if share in (0.0, 1.0) else rows / rows.dtype.type(share)),)


GATHER_OVER_SHARDS = define("gather_over_shards", _forward, _vjp)
"""Input x (n, ...) of this shard; output (N, ...), the rows of all shards in their order."""
