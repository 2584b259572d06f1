"""Reference kernel: the mean cross-entropy over rows, whose labels are checked on the way.

It is made of the device's kernels for the parts, which the table gives.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..backend import as_array, device_kind
from ..op import Array
from .reference_linear_loss import divisor
from .table import kernel


def mean_cross_entropy(
    op: str, logits: Array, labels: Array, ignore_index: int, hint: str
) -> tuple[Array, Array, Array, Array, Array]:
    """The mean of :func:`reference.cross_entropy_forward`'s losses: logits (N, C), labels (N,).

    Returns the loss, the sum of the rows' weights, what the mean divides by (1 where that sum is 0), all three without dimensions,
    and the rows' maxima and logarithms (N, 1). Raises RangeError for labels out of range as :func:`check_within` does.
    """
    device = device_kind(logits)
    kernel("check_within", device)(op, "label", labels, logits.shape[1], hint, ignore_index)
    losses, weights, top, log_sum = kernel("cross_entropy_forward", device)(logits, labels, None, ignore_index, 0.0)
    loss, total = kernel("row_sums", device)(losses, weights)
    total = as_array(total)
    count = divisor(total, True)
    return as_array(loss / count).astype(logits.dtype, copy=False), total, count, top, log_sum


KERNELS: dict[str, Callable[..., Any]] = {"mean_cross_entropy": mean_cross_entropy}
