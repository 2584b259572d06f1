"""The last layer of a classifier over many classes together with its loss, as a function."""

from __future__ import annotations

import numpy as np

from ..errors import RangeError
from ..graph import apply, is_grad_enabled
from ..mode import mode
from ..ops.linear_loss import LINEAR_CROSS_ENTROPY
from ..tensor import Tensor
from .functional_layers import linear
from .functional_loss import cross_entropy, divided_by
from .reduction import check

_FLOAT32 = np.dtype(np.float32)


def linear_cross_entropy(
    input: Tensor,
    weight: Tensor,
    target: Tensor,
    class_weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Tensor:
    """``cross_entropy(linear(input, weight), target)``, without all logits in memory at once: a part of the rows at a time.

    Shapes: input (..., I), weight (V, I), integer labels (...), ``class_weight`` (V,). For large vocabularies: 32 x 1024 tokens and 50304
    words are 3 GB of logits in half precision, and as much again for their gradient. The gradients of input and weight are made while the
    logits are there, so ``backward()`` only scales them. The loss is float32 for inputs in half precision. ``reduction="none"`` goes through the
    logits, and so does float16, whose gradients would vanish before they are scaled. Raises RangeError for a label outside of [0, V).

    >>> hidden, table, words = phalanx.ones(2, 3), phalanx.zeros(5, 3), phalanx.tensor([1, 4])
    >>> loss = F.linear_cross_entropy(hidden, table, words)
    >>> round(loss.item(), 4), loss.weight
    (1.6094, 2.0)
    """
    op = "linear_cross_entropy"
    check(op, reduction, input=input, target=target)
    if not 0.0 <= label_smoothing <= 1.0:
        raise RangeError(f"{op}: label_smoothing must be in [0, 1], got {label_smoothing}")
    if reduction == "none" or _needs_scale(input):
        logits = linear(input, weight)
        rows = logits.reshape(-1, logits.shape[-1])
        loss = cross_entropy(
            rows, target.reshape(-1), class_weight, None, ignore_index, None, reduction, label_smoothing
        )
        return loss.reshape(target.shape) if reduction == "none" else loss
    wanted = tuple(is_grad_enabled() and tensor.requires_grad for tensor in (input, weight))
    loss, total = apply(
        LINEAR_CROSS_ENTROPY, input, weight, target, class_weight, ignore_index=ignore_index, reduction=reduction,
        label_smoothing=float(label_smoothing), wanted=wanted, dtype=None if input.dtype == np.float64 else _FLOAT32,
    )  # fmt: skip
    if reduction == "mean":
        loss._weight = divided_by(total)
    return loss


def _needs_scale(input: Tensor) -> bool:
    """Whether the products would be made in float16."""
    casting = mode.autocast
    dtype = input.dtype if casting is None or not casting.takes(input.array) else casting.dtype
    return dtype == np.float16
