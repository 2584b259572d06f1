"""Batch norm by statistics that are merged with those of other shards, forward and backward.

``meet(name, leaf, merge)`` gives what the leaves of all shards merge to, in float64 on the host; None: this shard is alone. It is
handed in by the layer, since ops know of no other shards.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..backend import array_module, device_kind, to_host
from ..errors import ShapeError
from ..kernels.table import kernel
from ..op import Array, define
from . import expect

Moments = tuple[Any, Any, Any]
"""n, mean (C,), M2 (C,): the sum of squared deviations."""
Meet = Callable[[str, Any, Callable[[Any, Any], Any]], Any]


def merge_moments(left: Moments, right: Moments) -> Moments:
    """Moments of two parts together, by Chan, Golub and LeVeque's rule (COMPSTAT 1982)."""
    (n_a, mean_a, m2_a), (n_b, mean_b, m2_b) = left, right
    n = n_a + n_b
    delta = mean_b - mean_a
    return n, mean_a + delta * (n_b / n), m2_a + m2_b + delta * delta * (n_a * n_b / n)


def _add(left: tuple[Array, ...], right: tuple[Array, ...]) -> tuple[Array, ...]:
    return tuple(a + b for a, b in zip(left, right, strict=True))


def _forward(
    x: Array,
    weight: Array | None = None,
    bias: Array | None = None,
    *,
    eps: float = 1e-5,
    meet: Meet | None = None,
    weight_of_pass: Callable[[], float] = lambda: 1.0,
) -> tuple[tuple[Array, ...], Any]:
    expect.one_float_dtype("sync_batch_norm", input=x)
    if x.ndim < 2:
        raise ShapeError(f"sync_batch_norm: input must have at least 2 dimensions, got shape {x.shape}")
    device, xp = device_kind(x), array_module(x)
    own_mean, own_m2 = kernel("batch_norm_statistics", device)(x)
    own_n = x.size // max(1, x.shape[1])
    wide: tuple[Any, ...] = tuple(to_host(a).astype(np.float64) for a in (own_mean, own_m2))
    leaf = (np.float64(own_n), *wide) if own_n else None
    merged: Moments | None = leaf if meet is None else meet("forward", leaf, merge_moments)
    n, mean, m2 = merged if merged is not None else (np.float64(0), *wide)
    work = own_mean.dtype
    inverse_std = xp.asarray((1.0 / np.sqrt(m2 / max(float(n), 1.0) + eps)).astype(work))
    centre = xp.asarray(mean.astype(work))
    y = kernel("batch_norm_apply", device)(x, centre, inverse_std, weight, bias)
    outputs = (y, own_mean, own_m2, xp.asarray(n), xp.asarray(mean), xp.asarray(m2))
    return outputs, (x, centre, inverse_std, weight, float(n), meet, weight_of_pass)


def _vjp(saved: Any, gradient: Any, needs: Any, slots: Any) -> tuple[Array | None, ...]:
    """``dx = weight * inverse_std * (g - mean(g) - xhat * mean(g * xhat))``, both means over all shards.

    The gradients of the shards will add up in the shares of their losses' weights, so that is how these means are taken.
    """
    x, mean, inverse_std, weight, n, meet, weight_of_pass = saved
    g, device, xp = gradient[0], device_kind(x), array_module(x)
    dx, weight_total, bias_total = kernel("batch_norm_backward", device)(g, x, mean, inverse_std, weight, False)
    if needs[0]:
        share = weight_of_pass() if meet is not None else 1.0
        sums = tuple(to_host(a).astype(np.float64) for a in (bias_total, weight_total))
        if meet is not None:
            leaf = tuple(a * share for a in sums) if x.size and share else None
            merged = meet("backward", leaf, _add)
            sums = (
                tuple(np.zeros_like(a) for a in sums) if merged is None else tuple(a / (share or 1.0) for a in merged)
            )
        scale = to_host(inverse_std).astype(np.float64)
        if weight is not None:
            scale = scale * to_host(weight)
        over_bias, over_weight = (xp.asarray((scale * a / max(n, 1.0)).astype(mean.dtype)) for a in sums)
        dx = dx - kernel("batch_norm_apply", device)(x, mean, inverse_std, over_weight, over_bias)
    return (dx, weight_total, bias_total)[: len(needs)]


SYNC_BATCH_NORM = define("sync_batch_norm", _forward, _vjp, differentiable=(0,))
"""Inputs x (N, C, ...), perhaps weight (C,), perhaps bias (C,). Outputs y; mean and M2 of this shard; n, mean and M2 of all."""
