"""Running statistics of batch norm as compiled loops: a step has them once for each layer, between large products.

Every operation is rounded as NumPy rounds it, in the reference's order. What is not float32, or not contiguous, goes to the reference.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import reference_norm as reference
from .compiled import inline, loop

Array = Any
f4 = np.float32
FLOAT64 = np.dtype(np.float64)


@inline
def _move(mean, variance, batches, seen, m2, share, degrees):  # type: ignore[no-untyped-def]
    keep, part = f4(1.0 - share), f4(share)
    for i in range(mean.size):
        mean[i] = mean[i] * keep + f4(seen[i]) * part
        variance[i] = variance[i] * keep + f4(m2[i] / degrees) * part
    batches[0] += 1


@loop("f4[:] out, f4[:] out, i8[:] out, f4[:], f4[:], f8, f8", exact=True)
def own_loop(mean, variance, batches, seen, m2, share, degrees):  # type: ignore[no-untyped-def]
    _move(mean, variance, batches, seen, m2, share, f4(degrees))


@loop("f4[:] out, f4[:] out, i8[:] out, f8[:], f8[:], f8, f8", exact=True)
def merged_loop(mean, variance, batches, seen, m2, share, degrees):  # type: ignore[no-untyped-def]
    _move(mean, variance, batches, seen, m2, share, degrees)


def move_running(
    mean: Array, variance: Array, batches: Array, seen: Array, m2: Array, share: float, degrees: float
) -> None:
    """As the reference; ``seen`` and ``m2`` of one batch are float32, those of several shards float64."""
    run = merged_loop if seen.dtype == FLOAT64 else own_loop
    try:
        run(0, mean, variance, batches.reshape(1), seen, m2, share, degrees)
    except TypeError:
        reference.move_running(mean, variance, batches, seen, m2, share, degrees)


KERNELS = {"move_running": move_running}
